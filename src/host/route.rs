//! Addresses and routes of this host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::Family;
use crate::sys::netlink::{self, Netlink};
use crate::sys::socket;

/// Whether this host has the address.
pub fn has_address(ip: IpAddr) -> bool {
    // The kernel sends packets to a second IPv4 address of a network from the first one; so we ask for the address itself
    // as the source, which fails if the host does not have it.
    let from = if ip.is_ipv4() { ip } else { Ipv6Addr::UNSPECIFIED.into() };
    socket::source(from, ip).is_ok_and(|source| source == ip)
}

/// The source address of this host's packets to `to`; no packet is sent. Fails without a route.
pub fn route(to: IpAddr) -> io::Result<IpAddr> {
    let any = match to {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    socket::source(any, to)
}

/// The interface by which packets to `to` leave; `None` without a route.
pub fn interface(to: IpAddr) -> Option<String> {
    // The rest of rtmsg, then RTA_DST.
    let mut request = vec![0; 8];
    match to {
        IpAddr::V4(ip) => netlink::attribute(&mut request, 1, &ip.octets()),
        IpAddr::V6(ip) => netlink::attribute(&mut request, 1, &ip.octets()),
    }
    let found = Netlink::to_routes().ok()?.ask(netlink::ROUTE, Family::of(to).domain(), &request).ok()?;
    // RTA_OIF
    let index = netlink::find(found.get(8..)?, 4)?;
    socket::interface_name(u32::from_ne_bytes(index.try_into().ok()?))
}
