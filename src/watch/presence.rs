//! Addresses of the config that leave this host or come to it: a provider gives another one, an interface goes down,
//! keepalived moves one. And interfaces that stop to forward IPv4: systemd-networkd switches that for each. Only a change is
//! told: a bind that is routed here was never an address of this host.

use std::net::IpAddr;

use crate::host::interface::{self, Sysctl};
use crate::host::{forwarding, route};
use crate::net::Family;
use crate::service::Service;
use crate::sys::{log, socket};
use crate::text::Escaped;

/// What was found at the last look.
#[derive(Debug, Default)]
pub struct Presence {
    /// Whether an address of the config is one of this host's.
    addresses: Vec<(IpAddr, bool)>,
    /// Whether IPv4 packets that come in at an interface are forwarded.
    interfaces: Vec<(String, bool)>,
}

impl Presence {
    /// Looks again, and tells what has changed since the last look.
    pub fn look(&mut self, services: &[Service]) {
        let mut all = Vec::new();
        for service in services {
            all.push(service.bind.ip());
            service.source.each(&mut |ip| all.push(ip));
        }
        all.sort_unstable();
        all.dedup();
        // Without a descriptor left no address would seem to be here.
        let can_look = |ip: &IpAddr| socket::open(Family::of(*ip).domain(), libc::SOCK_DGRAM, 0).is_ok();
        let is_here = |ip: &IpAddr| Some(route::has_address(*ip)).filter(|here| *here || can_look(ip));
        for (ip, here) in changes(&mut self.addresses, all, &is_here) {
            match here {
                true => log::info!("{ip} is an address of this host now"),
                false => log::warning!("{ip} is no longer an address of this host: {}", loses(services, ip)),
            }
        }
        if services.iter().any(|service| service.bind.family() == Family::V4) && forwarding::forwards(Family::V4) {
            self.look_at_interfaces();
        }
    }

    /// Tells which interfaces have begun or ceased to forward IPv4 while the host as a whole does. (Of IPv6 only the setting
    /// for all interfaces counts: ip6_forward in net/ipv6/ip6_output.c.)
    fn look_at_interfaces(&mut self) {
        let mut all = interface::names();
        all.sort_unstable();
        let switch = |name: &str| Sysctl::of(Family::V4, name, "forwarding");
        let forwards = |name: &String| Some(switch(name).value()).filter(|it| !it.is_empty()).map(|it| it != "0");
        for (name, forwards) in changes(&mut self.interfaces, all, &forwards) {
            let shown = Escaped(&name);
            match forwards {
                true => log::info!("IPv4 packets that come in at {shown} are forwarded again"),
                false => log::warning!(
                    "IPv4 packets that come in at {shown} are no longer forwarded; {}=1 switches it on",
                    switch(&name).name
                ),
            }
        }
    }
}

/// Brings `known` up to date with what is there now, sorted; returns what has changed. Nothing is told of one that was not
/// known. `None`: it cannot be told.
fn changes<K: Ord + Clone>(
    known: &mut Vec<(K, bool)>,
    all: Vec<K>,
    is_so: &dyn Fn(&K) -> Option<bool>,
) -> Vec<(K, bool)> {
    let mut changed = Vec::new();
    let mut now = Vec::new();
    for one in all {
        let before = known.binary_search_by(|(known, _)| known.cmp(&one)).ok().and_then(|at| known.get(at));
        let before = before.map(|(_, before)| *before);
        let Some(so) = is_so(&one).or(before) else { continue };
        if before.is_some_and(|before| before != so) {
            changed.push((one.clone(), so));
        }
        now.push((one, so));
    }
    *known = now;
    changed
}

/// What does not work without the address.
fn loses(services: &[Service], ip: IpAddr) -> String {
    if let Some(service) = services.iter().find(|service| service.bind.ip() == ip) {
        return format!("connections to {} arrive only if they are routed here", service.bind);
    }
    let mut bind = String::new();
    for service in services {
        service.source.each(&mut |source| {
            if source == ip && bind.is_empty() {
                bind = service.bind.to_string();
            }
        });
    }
    format!("backends of {bind} cannot answer it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_told() {
        let [a, b, c] = ["10.0.0.1", "10.0.0.2", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let mut known = Vec::new();
        let mut look =
            |wanted: &[IpAddr], here: &[IpAddr]| changes(&mut known, wanted.to_vec(), &|ip| Some(here.contains(ip)));
        assert_eq!(look(&[a, b, c], &[a, c]), []);
        assert_eq!(look(&[a, b, c], &[a, c]), []);
        assert_eq!(look(&[a, b, c], &[b]), [(a, false), (b, true), (c, false)]);
        // One that left the config and came back is a new one.
        assert_eq!(look(&[b], &[b]), []);
        assert_eq!(look(&[a, b], &[a, b]), []);
        assert_eq!(look(&[a, b], &[b]), [(a, false)]);
        // What cannot be looked at is as before.
        let changed = changes(&mut known, vec![a, b, c], &|_| None);
        assert_eq!((changed, known), (vec![], vec![(a, false), (b, true)]));
    }

    #[test]
    fn it_is_said_what_does_not_work() {
        let yaml = b"frontend: {bind: '10.0.0.1:80', privateip: 10.0.1.8-10.0.1.9, backends: ['10.0.1.1:80']}";
        let services = crate::config::parse(yaml).unwrap().services;
        let loses = |ip: &str| loses(&services, ip.parse().unwrap());
        assert_eq!(loses("10.0.0.1"), "connections to 10.0.0.1:80 arrive only if they are routed here");
        assert_eq!(loses("10.0.1.9"), "backends of 10.0.0.1:80 cannot answer it");
    }
}
