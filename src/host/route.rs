//! Addresses and routes of this host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::sys::socket;

/// Whether this host has the address.
pub fn has_address(ip: IpAddr) -> bool {
    // To a second IPv4 address of a network packets would come from the first one, unless they are told to come from the
    // second, which those of a host that does not have it cannot.
    let from = if ip.is_ipv4() { ip } else { Ipv6Addr::UNSPECIFIED.into() };
    socket::source(from, ip).is_ok_and(|source| source == ip)
}

/// The address that this host would use towards `to`; no packet is sent.
pub fn route(to: IpAddr) -> io::Result<IpAddr> {
    let any = match to {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    socket::source(any, to)
}
