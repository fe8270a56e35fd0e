//! Router advertisements (RFC 4861), from which the kernel takes default routes and addresses. A host that forwards ignores
//! them unless the interface's accept_ra is 2 (ip-sysctl.rst), and loses the default routes that it has from them at the
//! moment when forwarding is switched on (rt6_purge_dflt_routers in net/ipv6/route.c).

use crate::host::interface::{self, Sysctl};
use crate::net::Family;
use crate::sys::file;

/// RTF_REJECT, RTF_DEFAULT and RTF_ADDRCONF, flags of /proc/net/ipv6_route (linux/ipv6_route.h).
const REJECT: u64 = 0x200;
const ADDRCONF: u64 = 0x4_0000;

/// IFA_F_PERMANENT, a flag of /proc/net/if_inet6: the address has no lifetime.
const PERMANENT: u64 = 0x80;

/// What the host has from router advertisements.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Advertised {
    /// The host has an IPv6 default route, from wherever.
    pub has_default: bool,
    /// The interfaces with routes or addresses that the kernel took from them.
    pub interfaces: Vec<String>,
}

impl Advertised {
    /// Reads it. (Addresses by DHCPv6 look the same; an interface that has one gets router advertisements, too.)
    pub fn read() -> Self {
        let mut found = Advertised::default();
        for path in ["/proc/net/ipv6_route", "/proc/net/if_inet6"] {
            let _ = file::open(path, libc::O_RDONLY).and_then(|file| {
                file::each_line(file, &mut |line| {
                    found.add(line);
                })
            });
        }
        found
    }

    /// Adds a line of either file. Routes: destination, prefix length, source, its prefix length, next hop, metric, two
    /// counters, flags, interface. Addresses: address, number of the interface, prefix length, scope, flags, interface. Scope
    /// 0 is the whole world.
    fn add(&mut self, line: &str) -> Option<()> {
        let mut words = [""; 10];
        for (place, word) in words.iter_mut().zip(line.split_ascii_whitespace()) {
            *place = word;
        }
        let flags = |word| u64::from_str_radix(word, 16).ok();
        let (advertised, interface) = match words {
            [_, _, _, scope, address, name, "", ..] => (scope == "00" && flags(address)? & PERMANENT == 0, name),
            [_, length, _, _, _, _, _, _, route, name] => {
                let flags = flags(route)?;
                self.has_default |= length == "00" && flags & REJECT == 0;
                (flags & ADDRCONF != 0, name)
            }
        };
        if advertised && !interface.is_empty() {
            self.has(interface);
        }
        Some(())
    }

    fn has(&mut self, interface: &str) {
        if self.interfaces.iter().all(|known| known != interface) {
            self.interfaces.push(interface.to_owned());
        }
    }
}

/// The sysctl of an interface that decides whether it takes router advertisements.
pub fn accept_ra(interface: &str) -> Sysctl {
    Sysctl::of(Family::V6, interface, "accept_ra")
}

/// The interfaces that take router advertisements now and would not while the host forwards: accept_ra is 1, and they have
/// something from them. If the host has no default route (yet), it may still come, by any interface that takes them. With
/// one of them, interfaces that come later (`default`: a new PPP session) go on as well. Where a program takes them
/// (systemd-networkd, NetworkManager, odhcp6c), accept_ra is 0.
pub fn endangered() -> Vec<String> {
    let mut found = Advertised::read();
    if !found.has_default {
        for name in &interface::names() {
            // What a port of a bridge receives is for the bridge.
            if name != "lo" && !file::exists(&format!("/sys/class/net/{name}/brport")) {
                found.has(name);
            }
        }
    }
    let mut interfaces = found.interfaces;
    interfaces.retain(|name| takes(name));
    if !interfaces.is_empty() && takes("default") {
        interfaces.push("default".to_owned());
    }
    interfaces
}

fn takes(interface: &str) -> bool {
    accept_ra(interface).value() == "1"
}

/// Calls `take` with the interfaces of a host that forwards on which router advertisements are ignored though the host lives
/// on them: it has (still) something from them there, or they arrive and it has no default route. `true`: only the latter.
pub fn ignored(take: &mut dyn FnMut(&str, bool)) {
    let found = Advertised::read();
    for name in &interface::names() {
        let has = found.interfaces.contains(name);
        if (has || !found.has_default && arrive(name)) && takes(name) {
            take(name, !has);
        }
    }
}

/// Whether router advertisements have arrived by this interface, taken or not.
fn arrive(interface: &str) -> bool {
    let counters = file::read(&format!("/proc/net/dev_snmp6/{interface}"));
    counters.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next() == Some("Icmp6InRouterAdvertisements") && words.next().is_some_and(|count| count != "0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &str = "00000000000000000000000000000000";

    fn routes(lines: &[String]) -> (bool, Vec<String>) {
        let mut found = Advertised::default();
        for line in lines {
            found.add(line);
        }
        (found.has_default, found.interfaces)
    }

    #[test]
    fn routes_of_advertisements_are_told_from_others() {
        let route = |length: &str, flags: &str, name: &str| {
            format!("{NONE} {length} {NONE} 00 {NONE} 00000400 00000001 00000000 {flags}      {name}\n")
        };
        let by_hand = [route("00", "00000003", "wan"), route("40", "00000001", "lan")];
        assert_eq!(routes(&by_hand), (true, vec![]));
        assert_eq!(routes(&[route("00", "00450003", "wan")]), (true, vec!["wan".to_owned()]));
        // The prefix alone.
        assert_eq!(routes(&[route("40", "00440001", "wan")]), (false, vec!["wan".to_owned()]));
        // What the kernel has where there is no default route.
        assert_eq!(routes(&[route("00", "00200200", "lo")]), (false, vec![]));
        for garbage in ["", "x", "a 00 b 00 c d e f zz wan", "a 00 b 00 c d e f 00450003"] {
            assert_eq!(routes(&[garbage.to_owned()]).1, [""; 0], "{garbage}");
        }
    }

    #[test]
    fn addresses_with_a_lifetime_are_advertised() {
        let mut found = Advertised::default();
        for line in [
            "00000000000000000000000000000001 01 80 10 80       lo",
            "20010db8000000000000000000000001 02 40 00 80      lan",
            "fe800000000000000000000000000001 02 40 20 00      lan",
            "20010db8000000000000000000000002 03 40 00 00      wan",
            "20010db8000000000000000000000003 03 40 00 01      wan",
            "nothing of this kind",
        ] {
            found.add(line);
        }
        assert_eq!(found.interfaces, ["wan"]);
    }
}
