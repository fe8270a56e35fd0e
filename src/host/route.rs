//! Addresses and routes of this host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
