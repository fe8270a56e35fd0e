//! Do packets find the way to the backends, and answers the way back to the clients? The kernel is asked about the very
//! packets, so that all rules of policy routing, and routes that refuse, are heard.

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use super::findings::Findings;
use crate::engine::Level;
use crate::host::forwarding;
use crate::host::interface::{self, Sysctl};
use crate::host::route::{self, Address, Interface, Packet, Refused, Routes, Rule, Way};
use crate::net::{self, agree, same, Endpoint, Family, Octets};
use crate::service::{Service, Source};
use crate::sys::file;
use crate::text::{number, Escaped};

/// What was asked once for all services of a family.
struct Ways<'a, 'b> {
    family: Family,
    routes: Routes,
    addresses: Vec<Address>,
    rules: Vec<Rule>,
    /// A client that is far away.
    far: &'static IpAddr,
    /// The way of this host's own packets there.
    out: Result<Way, Refused>,
    /// Packets that come in are forwarded, so the kernel can be asked about them.
    forwards: bool,
    /// Interfaces of which was said that they do not forward.
    shut: Vec<Interface>,
    findings: &'a mut Findings<'b>,
}

/// No interface, or none that is known.
const NONE: Interface = Interface(0);

/// Adds what is found about the services of a family. Fails if the kernel does not answer.
pub fn check(family: Family, services: &[Service], findings: &mut Findings<'_>) -> io::Result<()> {
    let mut routes = Routes::open()?;
    let far = route::far(family);
    let addresses = routes.addresses(family)?;
    // A kernel without policy routing (CONFIG_IP_MULTIPLE_TABLES) has none, and says EOPNOTSUPP.
    let rules = routes.rules(family).unwrap_or_default();
    let out = routes.way(&Packet::to(far));
    let forwards = forwarding::forwards(family);
    let mut ways = Ways { family, routes, addresses, rules, far, out, forwards, shut: Vec::new(), findings };
    if let Err(error) = out {
        let level = if error.0 == libc::ENETUNREACH { Level::Ok } else { Level::Warning };
        let what = format_args!(
            "routes: {family} packets to other networks do not get there: {error}; so answers get only to clients in networks \
             with a route of their own"
        );
        ways.findings.add(level, what);
    }
    let (mut pairs, mut bridges, mut strict) = (Vec::new(), Vec::new(), false);
    for service in services.iter().filter(|service| service.bind.family() == family) {
        let front = ways.front(service.bind.address());
        for backend in &service.backends {
            let backend = &backend.address;
            // What is missing has been said.
            let Ok(Way { leaves: back, .. }) = ways.routes.way(&Packet::to(backend.address())) else { continue };
            let as_client = service.source == Source::Client;
            let mut again = route::find_address(&ways.addresses, backend.address()).is_some();
            for (bind, client, other) in &pairs {
                again |= *other == back && *client == as_client && same(bind, service.bind.address());
            }
            if again {
                continue;
            }
            pairs.push((service.bind.ip(), as_client, back));
            if !bridges.contains(&back) {
                bridges.push(back);
            }
            strict |= ways.pair(&service.bind, as_client, front, backend, back);
        }
    }
    if family == Family::V4 && !strict {
        reverse_path(ways.findings);
    }
    for interface in bridges {
        bridge(family, &interface.name(), ways.findings);
    }
    Ok(())
}

impl Ways<'_, '_> {
    /// The interface by which the packets of clients come in, if the bind tells it. An address without a network, as on `lo`,
    /// does so only if a router is there.
    fn front(&mut self, bind: &IpAddr) -> Interface {
        let Some(own) = route::find_address(&self.addresses, bind) else { return NONE };
        let alone = own.length == if bind.is_ipv4() { 32 } else { 128 };
        let (front, peer) = (own.interface, own.peer);
        if !alone || peer || self.by_router(front) {
            front
        } else {
            NONE
        }
    }

    /// Whether there is a default route by this interface, of whatever metric.
    fn by_router(&mut self, interface: Interface) -> bool {
        self.routes.way(&Packet { leaves: interface, ..Packet::to(self.far) }).is_ok_and(|way| way.by_router)
    }

    /// The interface by which such a packet leaves; none if it does not.
    fn leaves(&mut self, packet: &Packet<'_>) -> Interface {
        self.routes.way(packet).map_or(NONE, |way| way.leaves)
    }

    /// Looks at one way through this host. Tells whether it has said something about the strict reverse path filter.
    fn pair(
        &mut self,
        bind: &Endpoint,
        as_client: bool,
        front: Interface,
        backend: &Endpoint,
        back: Interface,
    ) -> bool {
        if as_client && front == back {
            self.findings.warning(format_args!(
                "privateip none: clients of {bind} in the network of {back} get the backends' answers past this host, and \
                 refuse them; set a privateip"
            ));
        }
        // By an interface that is down there are no routes.
        if self.is_down(front) {
            self.findings.error(format_args!("bind {bind}: its interface {front} is down; ip link set {front} up"));
            return false;
        }
        let mut shut = self.is_shut(back, "answers of the backends");
        // By the default route clients come in that the bind does not tell.
        let clients = if front == NONE { self.out.map_or(NONE, |way| way.leaves) } else { front };
        if clients != NONE && clients != back {
            shut |= self.is_shut(clients, "packets of clients");
        }
        if shut {
            return false;
        }
        self.forth(front, backend, back);
        self.answers(bind, front, backend, back)
    }

    fn is_down(&mut self, front: Interface) -> bool {
        let Some(to) = self.neighbour(front) else { return false };
        let way = self.routes.way(&Packet { leaves: front, ..Packet::to(&to) });
        way.is_err_and(|error| matches!(error.0, libc::ENETUNREACH | libc::ENETDOWN | libc::ENODEV))
    }

    /// An interface whose packets are not forwarded, though others' are. (IPv6 looks only at the sysctl for all.)
    fn is_shut(&mut self, interface: Interface, what: &str) -> bool {
        let sysctl = Sysctl::of(self.family, &interface.name(), "forwarding");
        let shut = self.family == Family::V4 && self.forwards && sysctl.value() == "0";
        if shut && !self.shut.contains(&interface) {
            self.shut.push(interface);
            let wrong = format_args!("it is 0, so {what} that come in by {interface} are dropped");
            self.findings.sysctl(Level::Error, &sysctl.name, wrong, 1);
        }
        shut
    }

    /// From a client to a backend.
    fn forth(&mut self, front: Interface, backend: &Endpoint, back: Interface) {
        let out = self.out.map_or(NONE, |way| way.leaves);
        let arrives = if front == NONE { out } else { front };
        // If there is another way out, only neighbours come in there, as far as routes tell.
        let from = if arrives == out { Some(*self.far) } else { self.neighbour(arrives) };
        let Some(from) = from.filter(|_| self.forwards && arrives != back && arrives != NONE) else { return };
        let what = match self.routes.way(&Packet { from: Some(&from), arrives, ..Packet::to(backend.address()) }) {
            Ok(way) if way.leaves == back => return,
            Ok(way) => format!("leave by {}, not by {back}", way.leaves),
            Err(error) => format!("do not get there: {error}"),
        };
        let rule = self.rule_for(&from, arrives);
        self.findings
            .error(format_args!("backend {backend}: packets of clients that come in by {arrives} {what}{rule}"));
    }

    /// From a backend to a client that is far away. Tells whether the strict filter is in the way.
    fn answers(&mut self, bind: &Endpoint, front: Interface, backend: &Endpoint, back: Interface) -> bool {
        let mut packet = Packet::to(self.far);
        if self.forwards {
            packet.from = Some(backend.address());
            packet.arrives = back;
        }
        let rule = self.rule_for(backend.address(), back);
        let own = self.out.map_or(NONE, |way| way.leaves);
        let leaves = match self.routes.way(&packet) {
            Ok(way) => way.leaves,
            Err(error) => {
                if own != NONE {
                    self.findings.error(format_args!(
                        "bind {bind}: answers of {backend} to clients in other networks do not get there: {error}{rule}"
                    ));
                }
                return false;
            }
        };
        let recipe = self.marks(bind, &packet, leaves, front);
        if front == NONE && own != NONE && own != leaves {
            self.findings.warning(format_args!(
                "bind {bind}: answers of {backend} to clients in other networks leave by {leaves}, where this host's own \
                 packets do not{rule}"
            ));
        }
        if front == NONE || front == leaves {
            return false;
        }
        // A bind inside, of which only neighbours know, is as it should be. It is not if it has a way to others: a default
        // route there, of whatever metric, or a rule for packets from it, which answers of backends are not yet.
        let by_source = self.leaves(&Packet { from: Some(bind.address()), ..Packet::to(self.far) });
        let has_way = by_source == front || self.by_router(front);
        if !has_way && !route::is_public(bind.address()) && (own == NONE || own == leaves) {
            return false;
        }
        if recipe != 0 {
            self.findings.ok(format_args!(
                "bind {bind}: answers with the mark {recipe:#x} leave by {front}, all others by {leaves}"
            ));
        } else {
            self.findings.warning(format_args!(
                "bind {bind}: it is on {front}, but answers to clients in other networks leave by {leaves}{rule}; if clients \
                 come in by {front}, mark their connections so that answers go back the same way (paraglider(8), SEVERAL WANS)"
            ));
        }
        let name = front.name();
        let strict = self.family == Family::V4 && is_strict(&name);
        if strict {
            let wrong = format_args!(
                "it is strict, so packets of clients are dropped that come in by {front}, since the way to them is by {leaves}"
            );
            self.findings.sysctl(Level::Warning, &Sysctl::of(self.family, &name, "rp_filter").name, wrong, 2);
        }
        strict
    }

    /// Says which marks would send the answers elsewhere. Returns one with which they would leave by this interface; 0 is none.
    fn marks(&mut self, bind: &Endpoint, answer: &Packet<'_>, leaves: Interface, front: Interface) -> u32 {
        let mut by_front = 0;
        for rule in &self.rules {
            let mark = rule.mark;
            if rule.inverted || mark == 0 {
                continue;
            }
            let way = match self.routes.way(&Packet { mark, ..*answer }) {
                Ok(way) if way.leaves == front => {
                    if by_front == 0 {
                        by_front = mark;
                    }
                    continue;
                }
                Ok(way) if way.leaves == leaves => continue,
                Ok(way) => format!("leave by {}", way.leaves),
                Err(error) => format!("do not get there: {error}"),
            };
            self.findings.ok(format_args!("bind {bind}: answers that a rule marks with {mark:#x} {way} ({rule})"));
        }
        by_front
    }

    /// Names the rule of policy routing that is for such packets, if there is one.
    fn rule_for(&self, from: &IpAddr, arrives: Interface) -> String {
        let (mut said, name) = (String::new(), arrives.name());
        if let Some(rule) = self.rules.iter().find(|rule| rule.is_for(from, &name)) {
            let _ = write!(said, " ({rule})");
        }
        said
    }

    /// An address that a neighbour by this interface could have.
    fn neighbour(&self, front: Interface) -> Option<IpAddr> {
        let own = self.addresses.iter().find(|own| own.interface == front)?;
        let network = net::prefix(own.length.into());
        let host = network.map(|bits| !bits);
        for step in [1, 2, 3, 255, 254, 253] {
            let ip = Octets::of(&own.ip).step(step);
            // The first and the last address of an IPv4 network are for all, which no sender has.
            let for_all = ip.is_ipv4()
                && (agree(&ip, &Ipv4Addr::BROADCAST.into(), &host) || agree(&ip, &Ipv4Addr::UNSPECIFIED.into(), &host));
            if !for_all && agree(&ip, &own.ip, &network) && route::find_address(&self.addresses, &ip).is_none() {
                return Some(ip);
            }
        }
        None
    }
}

/// Whether the kernel drops IPv4 packets that come in there if the way back is by another interface. The larger one of both
/// values is in force (ip-sysctl.rst).
fn is_strict(interface: &str) -> bool {
    let mut most = 0;
    for name in ["all", interface] {
        most = most.max(number(&Sysctl::of(Family::V4, name, "rp_filter").value(), 9).unwrap_or(0));
    }
    most == 1
}

/// Where the reverse path filter is strict, but not in the way as far as routes tell.
fn reverse_path(findings: &mut Findings<'_>) {
    let mut strict = String::new();
    for name in &interface::names() {
        if name != "lo" && is_strict(name) {
            let _ = write!(strict, "{}{}", if strict.is_empty() { "" } else { ", " }, Escaped(name));
        }
    }
    match strict.is_empty() {
        true => findings.ok(format_args!("rp_filter: nowhere strict")),
        false => findings.ok(format_args!(
            "rp_filter: strict on {strict}; packets have to come in by the interface that routes back to them"
        )),
    }
}

/// Where bridges hand packets to iptables (br_netfilter, as Docker and Kubernetes want it), a packet that goes back to
/// the port that it came from is dropped by the bridge before it is routed.
fn bridge(family: Family, name: &str, findings: &mut Findings<'_>) {
    let key = if family == Family::V4 { "bridge-nf-call-iptables" } else { "bridge-nf-call-ip6tables" };
    if interface::is_bridge(name) && file::read(&format!("/proc/sys/net/bridge/{key}")) == "1" {
        findings.warning(format_args!(
            "{key}: it is 1, so a backend on the bridge {} cannot reach itself through bind; if it has to, set hairpin on \
             for its port (bridge link set dev PORT hairpin on)",
            Escaped(name)
        ));
    }
}
