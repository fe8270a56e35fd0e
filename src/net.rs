//! Address families, and the endpoints of TCP connections.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::error::{refuse, Error};
use crate::text::{has, is_word, number, part, Shown};

/// The address family. `iptables` has the rules of IPv4, `ip6tables` those of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The number that socket(2) has for it.
    pub fn domain(self) -> libc::c_int {
        match self {
            Family::V4 => libc::AF_INET,
            Family::V6 => libc::AF_INET6,
        }
    }

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }
}

/// The transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its number (IPPROTO_TCP, IPPROTO_UDP).
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }

    /// Its name in rules and in /proc/net/nf_conntrack.
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// Whether both are the same. (What derives it is 100 bytes of MIPS code in each place.)
#[inline(never)]
pub fn same(a: &IpAddr, b: &IpAddr) -> bool {
    a == b
}

/// The bytes of an address; of IPv4 the first four of them.
#[derive(Debug, Clone, Copy)]
pub struct Octets {
    bytes: [u8; 16],
    length: usize,
}

impl Octets {
    /// Of this address.
    #[inline(never)]
    pub fn of(ip: &IpAddr) -> Self {
        let mut bytes = [0; 16];
        let length = match ip {
            IpAddr::V4(ip) => {
                let [a, b, c, d, ..] = &mut bytes;
                [*a, *b, *c, *d] = ip.octets();
                4
            }
            IpAddr::V6(ip) => {
                bytes = ip.octets();
                16
            }
        };
        Octets { bytes, length }
    }

    /// All of them.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// The address with so much more in its last byte, which begins at 0 again after 255.
    pub fn step(mut self, more: u8) -> IpAddr {
        let length = self.length;
        if let Some(last) = self.bytes.get_mut(length.wrapping_sub(1)) {
            *last = last.wrapping_add(more);
        }
        match self.bytes {
            [a, b, c, d, ..] if length == 4 => Ipv4Addr::new(a, b, c, d).into(),
            bytes => bytes.into(),
        }
    }
}

/// Which bits of an address are those of its network, given their number.
#[inline(never)]
pub fn prefix(mut length: u32) -> [u8; 16] {
    let mut mask = [0; 16];
    for byte in &mut mask {
        let bits = length.min(8);
        length -= bits;
        *byte = !(0xff >> bits) as u8;
    }
    mask
}

/// The same, as iptables writes it if it is no prefix.
pub fn mask(ip: &IpAddr) -> [u8; 16] {
    Octets::of(ip).bytes
}

/// Whether two addresses of one family agree in the bits of this mask.
#[inline(never)]
pub fn agree(a: &IpAddr, b: &IpAddr, mask: &[u8; 16]) -> bool {
    let (a, b) = (Octets::of(a), Octets::of(b));
    let mut agree = a.length == b.length;
    for ((a, b), mask) in a.bytes.iter().zip(&b.bytes).zip(mask) {
        agree &= (a ^ b) & mask == 0;
    }
    agree
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// Reads the address of one host. Rust, iptables and the config write it the same way. The error says what it is instead.
pub(crate) fn unicast(text: &str) -> Result<IpAddr, Error> {
    let ip: IpAddr = text.parse().or_else(|_| no_address(text))?;
    let shown = Shown(text);
    let reserved = match ip {
        // No packet goes to 0.0.0.0 or ::, and TCP has no connections to more than one host.
        _ if ip.is_unspecified() => Some("is the unspecified address; give the address of one host"),
        _ if ip.is_multicast() => Some("is a multicast address; give the address of one host"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("is the broadcast address; give the address of one host"),
        IpAddr::V6(v6) if v6.to_ipv4().is_some() && !ip.is_loopback() => {
            Some("is an IPv4-mapped IPv6 address; write it as IPv4")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("is link-local, and a rule cannot name the link; give another address of that host")
        }
        _ => None,
    };
    match reserved {
        Some(why) => refuse!("`{shown}` {why}"),
        None => Ok(ip),
    }
}

/// The error about a text that is not an IP address: what it looks like instead.
fn no_address(text: &str) -> Result<IpAddr, Error> {
    let shown = Shown(text);
    let why = if text.is_empty() {
        return refuse!("the address is missing");
    } else if has(text, '%') {
        "has a zone (`%`), which an address in a rule cannot have"
    } else if has(text, '/') {
        "is a network; give one address"
    } else if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        if text.split('.').any(|part| part.len() > 1 && part.starts_with('0')) {
            "has a leading zero; write the four numbers without, as in 192.0.2.1"
        } else {
            "is not an IPv4 address: four numbers from 0 to 255, as in 192.0.2.1"
        }
    } else if has(text, ':') {
        "is not an IPv6 address, as in 2001:db8::1"
    } else if is_word(text, "-._") {
        "is a name; rules contain only addresses, so write its IP address"
    } else {
        "is not an IP address"
    };
    refuse!("`{shown}` {why}")
}

/// An address and a port of one host, to which a TCP connection can go.
// Aligned, so that processors that cannot load a word from anywhere copy it by words: less code for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(align(4))]
pub struct Endpoint {
    ip: IpAddr,
    port: u16,
    protocol: Protocol,
}

impl Endpoint {
    /// Reads `192.0.2.1:80` or `[2001:db8::1]:80`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        const FORMAT: &str = "write address:port, as in 192.0.2.1:80 or \"[2001:db8::1]:80\"";
        let shown = Shown(text);
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => match part(rest, "]") {
                Some((host, "")) => (host, None),
                Some((host, port)) => match port.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None => return refuse!("`{shown}` is not an address and a port; {FORMAT}"),
                },
                None => return refuse!("`{shown}` lacks its `]`; {FORMAT}"),
            },
            None => match part(text, ":") {
                Some((_, port)) if has(port, ':') => {
                    return refuse!("`{shown}`: an IPv6 address needs brackets; {FORMAT}");
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            None | Some("") => return refuse!("`{shown}` has no port; {FORMAT}"),
            Some(port) => port_number(port)?,
        };
        let ip = unicast(host)?;
        if text.starts_with('[') != ip.is_ipv6() {
            return refuse!("`{shown}`: brackets are for IPv6 addresses; {FORMAT}");
        }
        Ok(Endpoint { ip, port, protocol: Protocol::Tcp })
    }

    /// From an address and a port that another program printed separately.
    pub fn of(ip: &str, port: &str) -> Option<Self> {
        let text = if has(ip, ':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
        Self::parse(&text).ok()
    }

    /// From the bytes of an address, and a port; not the unspecified ones.
    pub fn of_octets(address: &[u8], port: u16) -> Option<Self> {
        let ip: IpAddr = match *address {
            [a, b, c, d] => Ipv4Addr::new(a, b, c, d).into(),
            _ => <[u8; 16]>::try_from(address).ok()?.into(),
        };
        (port != 0 && !ip.is_unspecified()).then_some(Endpoint { ip, port, protocol: Protocol::Tcp })
    }

    /// Of every address of a family: no host is meant yet.
    pub fn anywhere(family: Family, port: u16) -> Self {
        let ip = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        Endpoint { ip, port, protocol: Protocol::Tcp }
    }

    /// The same port of this address.
    #[must_use]
    pub fn with_ip(self, ip: IpAddr) -> Self {
        Endpoint { ip, ..self }
    }

    /// The address.
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// The address, where it is.
    pub fn address(&self) -> &IpAddr {
        &self.ip
    }

    /// The port; 0 for that of the client, of a backend that keeps it.
    pub fn port(self) -> u16 {
        self.port
    }

    /// Whether connections to it can be to `other`, which has a port.
    pub fn takes(&self, other: &Endpoint) -> bool {
        same(&self.ip, &other.ip) && (self.port == other.port || self.port == 0)
    }

    /// The same address with `port`, if there is one; 0 for that of the client.
    #[must_use]
    pub fn with_port(self, port: Option<u16>) -> Self {
        Endpoint { port: port.unwrap_or(self.port), ..self }
    }

    /// Where a client that asks for `port` is sent: a backend without a port keeps the client's.
    #[must_use]
    pub fn for_client_of(self, port: u16) -> Self {
        self.with_port(Some(port).filter(|_| self.port == 0))
    }

    /// The protocol; of a backend always TCP, whatever its frontend's is.
    pub fn protocol(self) -> Protocol {
        self.protocol
    }

    /// The same with this protocol.
    #[must_use]
    pub fn of_protocol(self, protocol: Protocol) -> Self {
        Endpoint { protocol, ..self }
    }

    /// As the standard library's sockets take it.
    pub fn socket(self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    /// The address family.
    pub fn family(self) -> Family {
        Family::of(self.ip)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { ip, port, protocol } = self;
        match self.family() {
            _ if *port == 0 => write!(f, "{ip}")?,
            Family::V4 => write!(f, "{ip}:{port}")?,
            Family::V6 => write!(f, "[{ip}]:{port}")?,
        }
        match protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

/// Reads a port, 1 to 65535, without leading zeros.
pub fn port_number(text: &str) -> Result<u16, Error> {
    let shown = Shown(text);
    match number(text, u16::MAX.into()) {
        _ if text.bytes().any(|b| !b.is_ascii_digit()) => refuse!("port `{shown}` is not a number in 1-65535"),
        Some(0) | None => refuse!("port {shown} is not in 1-65535"),
        Some(_) if text.starts_with('0') => refuse!("port {shown} has a leading zero; write it without"),
        Some(port) => Ok(port as u16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_prints_as_it_was_written() {
        for text in ["166.1.101.2:4444", "127.0.0.1:1", "255.255.255.254:65535", "[2001:db8::1]:80", "[::1]:8080"] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn networks_contain_their_addresses() {
        let within =
            |network: &str, length, ip: &str| agree(&network.parse().unwrap(), &ip.parse().unwrap(), &prefix(length));
        assert!(within("10.8.0.0", 24, "10.8.0.255") && !within("10.8.0.0", 24, "10.8.1.0"));
        assert!(within("0.0.0.0", 0, "255.1.1.1") && within("10.0.0.1", 32, "10.0.0.1"));
        assert!(within("fd00::", 8, "fdff::1") && !within("fd00::", 16, "fd01::") && within("::", 0, "fd00::"));
        assert!(!within("::", 0, "10.0.0.1"));
    }

    #[test]
    fn the_error_says_why_a_text_is_no_endpoint() {
        for (text, why) in [
            ("", "has no port"),
            ("172.19.0.2", "has no port"),
            ("172.19.0.2:", "has no port"),
            ("172.19.0.2:0", "port 0 is not in 1-65535"),
            ("172.19.0.2:70000", "port 70000 is not in 1-65535"),
            ("172.19.0.2:99999999999999999999", "is not in 1-65535"),
            ("172.19.0.2:+80", "is not a number"),
            ("172.19.0.2:080", "leading zero"),
            ("172.19.0.2:http", "port `http` is not a number"),
            ("256.1.1.1:80", "`256.1.1.1` is not an IPv4 address"),
            ("172.019.0.2:80", "leading zero"),
            ("1.2.3:80", "is not an IPv4 address"),
            ("web.example:80", "`web.example` is a name"),
            (":80", "the address is missing"),
            ("0.0.0.0:80", "is the unspecified address"),
            ("[::]:80", "is the unspecified address"),
            ("224.0.0.1:80", "multicast"),
            ("255.255.255.255:80", "broadcast"),
            ("[::ffff:1.2.3.4]:80", "is an IPv4-mapped IPv6 address; write it as IPv4"),
            ("[fe80::1]:80", "link-local"),
            ("[fe80::1%eth0]:80", "zone"),
            ("fd00::1:80", "needs brackets"),
            ("[fd00::1:80", "lacks its `]`"),
            ("[fd00::1]80", "is not an address and a port"),
            ("[fd00::1]", "has no port"),
            ("[1.2.3.4]:80", "brackets are for IPv6"),
            ("10.0.0.0/8:80", "is a network"),
            ("$(reboot):80", "is not an IP address"),
        ] {
            let said = Endpoint::parse(text).unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
