//! Addresses and routes of this host.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::{self, Family, Octets};
use crate::sys::netlink::{attribute, find, text_of, word, Netlink, ADDRESSES, POLICY, WAY};
use crate::sys::socket;
use crate::text::Escaped;

/// Whether this host has the address.
pub fn has_address(ip: IpAddr) -> bool {
    // The kernel sends packets to a second IPv4 address of a network from the first one; so we ask for the address itself
    // as the source, which fails if the host does not have it.
    let from = if ip.is_ipv4() { ip } else { Ipv6Addr::UNSPECIFIED.into() };
    socket::source(from, ip).is_ok_and(|source| source == ip)
}

/// Whether this host has the address, but does not use it since another one has it too.
pub fn is_doubled(ip: &IpAddr) -> bool {
    let addresses = Routes::open().and_then(|mut routes| routes.addresses(Family::of(*ip))).unwrap_or_default();
    find_address(&addresses, ip).is_some_and(|own| own.doubled)
}

/// The source address of this host's packets to `to`; no packet is sent.
pub fn route(to: &IpAddr) -> Result<IpAddr, Refused> {
    let any = match to {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    socket::source(any, *to).map_err(Refused::by)
}

/// An address of the Internet to which hosts have no route of their own: that of a root name server (k.root-servers.net).
/// It stands for a client that is far away; no packet is sent to it.
pub fn far(family: Family) -> &'static IpAddr {
    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(193, 0, 14, 129));
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0x7fd, 0, 0, 0, 0, 0, 1));
    match family {
        Family::V4 => &V4,
        Family::V6 => &V6,
    }
}

/// Whether the address is of use in the whole Internet, as far as it is not for documentation.
pub fn is_public(ip: &IpAddr) -> bool {
    /// The first 32 bits of networks that are not, and how many of them count: private ones (RFC 1918), of carriers (RFC
    /// 6598), of a link, of a host.
    const V4: [(u32, u32); 6] = [
        (0x0a00_0000, 8),
        (0xac10_0000, 12),
        (0xc0a8_0000, 16),
        (0x6440_0000, 10),
        (0xa9fe_0000, 16),
        (0x7f00_0000, 8),
    ];
    /// Unique local ones (RFC 4193), of a link.
    const V6: [(u32, u32); 2] = [(0xfc00_0000, 7), (0xfe80_0000, 10)];
    let (networks, first): (&[(u32, u32)], u32) = match ip {
        IpAddr::V4(ip) => (&V4, u32::from_be_bytes(ip.octets())),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.octets();
            (&V6, u32::from_be_bytes([a, b, c, d]))
        }
    };
    !ip.is_loopback() && networks.iter().all(|(network, length)| (first ^ network) >> (32 - length) != 0)
}

/// What the kernel says when it shows or routes: attributes of linux/rtnetlink.h, linux/if_addr.h, linux/fib_rules.h.
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MARK: u16 = 16;
const RTA_VIA: u16 = 18;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
/// FIB_RULE_INVERT
const INVERTED: u32 = 2;

/// A number that stands for a network interface; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interface(pub u32);

impl Interface {
    /// Its name; empty if it has gone.
    pub fn name(self) -> String {
        socket::interface_name(self.0).unwrap_or_default()
    }
}

/// Its name, escaped.
impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(&self.name()).fmt(f)
    }
}

/// An address of this host.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Where it is.
    pub interface: Interface,
    /// The length of its network's prefix.
    pub length: u8,
    /// It is on a link of two.
    pub peer: bool,
    /// Another host has it too, so it is not used (RFC 4862, 5.4).
    pub doubled: bool,
    /// Other addresses of its interface are to be preferred: it is about to go, or was made for a short time (RFC 4862,
    /// RFC 8981), or is another one of an IPv4 network.
    pub second: bool,
    /// It is of use beyond its link.
    pub global: bool,
}

/// IFA_F_DADFAILED (linux/if_addr.h).
const DOUBLED: u8 = 8;

/// IFA_F_SECONDARY, which is IFA_F_TEMPORARY for IPv6; and IFA_F_DEPRECATED.
const SECOND: u8 = 0x21;

/// RT_SCOPE_LINK (linux/rtnetlink.h): this scope and higher ones end at the link or at the host.
const LINK: u8 = 253;

/// The one of these that is this address.
#[inline(never)]
pub fn find_address<'a>(addresses: &'a [Address], ip: &IpAddr) -> Option<&'a Address> {
    addresses.iter().find(|own| net::same(&own.ip, ip))
}

/// A packet whose way is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Its destination.
    pub to: &'a IpAddr,
    /// Its source. Of a packet that this host sends itself it has to be an address of this host.
    pub from: Option<&'a IpAddr>,
    /// Where it comes in; none if this host sends it.
    pub arrives: Interface,
    /// The only interface by which it may leave; none for any.
    pub leaves: Interface,
    /// Its mark.
    pub mark: u32,
}

impl<'a> Packet<'a> {
    /// One that this host sends.
    pub fn to(to: &'a IpAddr) -> Self {
        Packet { to, from: None, arrives: Interface(0), leaves: Interface(0), mark: 0 }
    }
}

/// Where a packet leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// By this interface.
    pub leaves: Interface,
    /// To a router.
    pub by_router: bool,
}

/// The kernel's refusal to route: an error number of connect(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub i32);

impl Refused {
    fn by(error: io::Error) -> Self {
        Refused(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// What it means (fib_props in net/ipv4/fib_semantics.c, and the same in net/ipv6/route.c).
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            libc::ENETUNREACH => "there is no route",
            libc::EINVAL => "a blackhole route",
            libc::EACCES => "a prohibit route",
            libc::EHOSTUNREACH => "an unreachable route",
            number => return f.write_str(&crate::error::plain(&io::Error::from_raw_os_error(number))),
        })
    }
}

#[inline(never)]
fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => Some(v4.into()),
        Err(_) => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

fn number(attributes: &[u8], kind: u16) -> u32 {
    find(attributes, kind).and_then(|content| word(content, 0)).unwrap_or(0)
}

/// A socket to the routes.
#[derive(Debug)]
pub struct Routes(Netlink);

impl Routes {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        Netlink::open_route().map(Routes)
    }

    /// The way that the kernel would choose for a packet, by all rules of policy routing; no packet is sent.
    pub fn way(&mut self, packet: &Packet<'_>) -> Result<Way, Refused> {
        let to = Octets::of(packet.to);
        let to = to.as_slice();
        // rtmsg: family, lengths of destination and source in bits; table, protocol, scope, type, flags.
        let family = Family::of(*packet.to).domain() as u8;
        let bits = (to.len() * 8) as u8;
        let mut request = vec![family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        attribute(&mut request, RTA_DST, to);
        if let Some(from) = packet.from {
            if let Some(length) = request.get_mut(2) {
                *length = bits;
            }
            attribute(&mut request, RTA_SRC, Octets::of(from).as_slice());
        }
        for (kind, value) in [(RTA_IIF, packet.arrives.0), (RTA_OIF, packet.leaves.0), (RTA_MARK, packet.mark)] {
            if value != 0 {
                attribute(&mut request, kind, &value.to_ne_bytes());
            }
        }
        let answer = self.0.ask_route(WAY, &request).map_err(Refused::by)?;
        let (header, attributes) = answer.split_at_checked(12).unwrap_or_default();
        // Before Linux 4.13 an IPv6 route of these types is no error.
        Err(Refused(match header.get(7) {
            Some(6) => libc::EINVAL,
            Some(7) => libc::EHOSTUNREACH,
            Some(8) => libc::EACCES,
            _ => {
                let by_router = find(attributes, RTA_GATEWAY).is_some() || find(attributes, RTA_VIA).is_some();
                return Ok(Way { leaves: Interface(number(attributes, RTA_OIF)), by_router });
            }
        }))
    }

    /// The addresses of this host.
    pub fn addresses(&mut self, family: Family) -> io::Result<Vec<Address>> {
        let mut found = Vec::new();
        self.0.list_route(ADDRESSES, family.domain(), &mut |message| {
            // ifaddrmsg: family, prefix length, flags, scope, index.
            let (header, attributes) = message.split_at_checked(8).unwrap_or_default();
            // On a link of two, IFA_ADDRESS is the other end's.
            let (local, address) = (find(attributes, IFA_LOCAL), find(attributes, IFA_ADDRESS));
            let peer = local.is_some() && local != address;
            if let (Some(ip), Some(length), Some(index)) =
                (local.or(address).and_then(ip), header.get(1), word(header, 4))
            {
                let flag = |bit: u8| header.get(2).is_some_and(|flags| flags & bit != 0);
                let (doubled, second) = (flag(DOUBLED), flag(SECOND));
                let global = header.get(3).is_some_and(|scope| *scope < LINK);
                found.push(Address { ip, interface: Interface(index), length: *length, peer, doubled, second, global });
            }
        })?;
        Ok(found)
    }

    /// The rules of policy routing, in their order.
    pub fn rules(&mut self, family: Family) -> io::Result<Vec<Rule>> {
        let mut found = Vec::new();
        self.0.list_route(POLICY, family.domain(), &mut |message| {
            // fib_rule_hdr: family, lengths of destination and source in bits, and more.
            let (header, attributes) = message.split_at_checked(12).unwrap_or_default();
            let length = header.get(2).copied().unwrap_or(0);
            let inverted = word(header, 8).is_some_and(|flags| flags & INVERTED != 0);
            let from = find(attributes, FRA_SRC).and_then(ip).map(|ip| (ip, length));
            let arrives =
                find(attributes, FRA_IIFNAME).map(|_| text_of(attributes, FRA_IIFNAME).unwrap_or("?").to_owned());
            let mark = number(attributes, FRA_FWMARK);
            found.push(Rule { priority: number(attributes, FRA_PRIORITY), from, arrives, mark, inverted });
        })?;
        Ok(found)
    }
}

/// A rule of policy routing, as far as it chooses packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its place in the order.
    pub priority: u32,
    /// Packets from this network.
    pub from: Option<(IpAddr, u8)>,
    /// Packets that come in by this interface.
    pub arrives: Option<String>,
    /// Packets with this mark; 0 is any.
    pub mark: u32,
    /// All other packets than these.
    pub inverted: bool,
}

impl Rule {
    /// Whether it is for packets without a mark, from this address, that come in by this interface, but not for all of them.
    pub fn is_for(&self, ip: &IpAddr, interface: &str) -> bool {
        let matches = self.mark == 0
            && self
                .from
                .as_ref()
                .is_none_or(|(network, length)| net::agree(network, ip, &net::prefix(u32::from(*length))))
            && self.arrives.as_ref().is_none_or(|name| name == interface);
        let for_all = self.mark == 0 && self.from.is_none() && self.arrives.is_none();
        !for_all && matches != self.inverted
    }
}

/// As `ip rule` shows it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ip rule {}{}", self.priority, if self.inverted { " not" } else { "" })?;
        if let Some((ip, length)) = self.from {
            write!(f, " from {ip}/{length}")?;
        }
        if let Some(name) = &self.arrives {
            write!(f, " iif {}", Escaped(name))?;
        }
        match self.mark {
            0 => Ok(()),
            mark => write!(f, " fwmark {mark:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_not_public() {
        for ip in
            ["10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "100.127.0.1", "169.254.0.1", "fd00::1", "::1"]
        {
            assert!(!is_public(&ip.parse().unwrap()), "{ip}");
        }
        for ip in ["100.128.0.1", "172.32.0.1", "203.0.113.1", "2001:db8::1"] {
            assert!(is_public(&ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn a_rule_is_shown_as_ip_shows_it() {
        let rule = Rule {
            priority: 100,
            from: Some(("10.8.0.0".parse().unwrap(), 24)),
            arrives: Some("lan".into()),
            mark: 2,
            inverted: false,
        };
        assert_eq!(rule.to_string(), "ip rule 100 from 10.8.0.0/24 iif lan fwmark 0x2");
        let is_for = |rule: &Rule, name| rule.is_for(&"10.8.0.11".parse().unwrap(), name);
        assert!(!is_for(&rule, "lan"));
        let rule = Rule { mark: 0, ..rule };
        assert!(is_for(&rule, "lan") && !is_for(&rule, "wan"));
        let rule = Rule { mark: 2, inverted: true, ..rule };
        assert!(is_for(&rule, "lan") && is_for(&rule, "wan"));
        let all = Rule { priority: 0, from: None, arrives: None, mark: 0, inverted: false };
        assert!(!all.is_for(&"10.8.0.11".parse().unwrap(), "lan"));
    }

    #[test]
    fn the_kernel_tells_the_way_to_oneself() {
        let mut routes = Routes::open().unwrap();
        let way = routes.way(&Packet::to(&"127.0.0.1".parse().unwrap())).unwrap();
        assert_eq!((way.leaves.name().as_str(), way.by_router), ("lo", false));
        let addresses = routes.addresses(Family::V4).unwrap();
        let own = addresses.iter().find(|own| own.ip.is_loopback()).unwrap();
        assert_eq!((own.interface, own.length, own.peer), (way.leaves, 8, false));
        assert!(routes.rules(Family::V4).unwrap().iter().any(|rule| rule.priority == 32766));
    }
}
