//! Do packets find the way to the backends, and answers the way back to the clients? The kernel is asked about the very
//! packets, so that all rules of policy routing, and routes that refuse, are heard.

use std::fmt::Write;
use std::io;
use std::net::IpAddr;

use super::findings::Findings;
use crate::host::forwarding;
use crate::host::interface::{self, Sysctl};
use crate::host::remedy;
use crate::host::route::{self, Address, Interface, Packet, Routes, Rule, Way};
use crate::net::{Endpoint, Family};
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
    far: IpAddr,
    /// The way of this host's own packets there.
    out: io::Result<Way>,
    /// Packets that come in are forwarded, so the kernel can be asked about them.
    forwards: bool,
    /// Interfaces of which was said that they do not forward.
    shut: Vec<Interface>,
    findings: &'a mut Findings<'b>,
}

/// Adds what is found about the services of a family. Fails if the kernel does not answer.
pub fn check(family: Family, services: &[Service], findings: &mut Findings<'_>) -> io::Result<()> {
    let mut routes = Routes::open()?;
    let far = route::far(family);
    let mut ways = Ways {
        family,
        addresses: routes.addresses(family)?,
        // A kernel without policy routing (CONFIG_IP_MULTIPLE_TABLES) has none, and says EOPNOTSUPP.
        rules: routes.rules(family).unwrap_or_default(),
        out: routes.way(&Packet::to(far)),
        routes,
        far,
        forwards: forwarding::forwards(family),
        shut: Vec::new(),
        findings,
    };
    match &ways.out {
        Err(error) if error.raw_os_error() != Some(libc::ENETUNREACH) => ways.findings.warning(format_args!(
            "routes: {family} packets to other networks do not get there: {}; so answers get only to clients in networks \
             with a route of their own",
            route::why(error)
        )),
        Err(_) => ways.findings.ok(format_args!(
            "routes: there is no {family} default route; answers get only to clients in networks with a route of their own"
        )),
        Ok(_) => {}
    }
    let (mut pairs, mut bridges, mut strict) = (Vec::new(), Vec::new(), false);
    for service in services.iter().filter(|service| service.bind.family() == family) {
        let front = ways.front(service.bind.ip());
        for backend in &service.backends {
            let backend = backend.address;
            // What is missing has been said.
            let Ok(way) = ways.routes.way(&Packet::to(backend.ip())) else { continue };
            let back = way.leaves;
            let pair = (service.bind.ip(), service.source == Source::Client, back);
            if pairs.contains(&pair) || ways.addresses.iter().any(|own| own.ip == backend.ip()) {
                continue;
            }
            pairs.push(pair);
            if !bridges.contains(&back) {
                bridges.push(back);
            }
            strict |= ways.pair(service, front, backend, back);
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
    fn front(&mut self, bind: IpAddr) -> Option<Interface> {
        let own = *self.addresses.iter().find(|own| own.ip == bind)?;
        let alone = own.length == if bind.is_ipv4() { 32 } else { 128 };
        (!alone || own.peer || self.by_router(own.interface)).then_some(own.interface)
    }

    /// Whether there is a default route by this interface, of whatever metric.
    fn by_router(&mut self, interface: Interface) -> bool {
        self.routes.way(&Packet { leaves: interface, ..Packet::to(self.far) }).is_ok_and(|way| way.by_router)
    }

    /// Looks at one way through this host. Tells whether it has said something about the strict reverse path filter.
    fn pair(&mut self, service: &Service, front: Option<Interface>, backend: Endpoint, back: Interface) -> bool {
        let bind = service.bind;
        let back_name = back.name();
        if service.source == Source::Client && front == Some(back) {
            self.findings.warning(format_args!(
                "privateip none: clients of {bind} in the network of {} get the backends' answers past this host, and refuse \
                 them; set a privateip",
                Escaped(&back_name)
            ));
        }
        // By an interface that is down there are no routes.
        if let Some(down) = front.filter(|front| self.is_down(*front)) {
            self.findings.error(format_args!(
                "bind {bind}: its interface {name} is down; ip link set {name} up",
                name = Escaped(&down.name())
            ));
            return false;
        }
        let mut shut = self.is_shut(back, "answers of the backends");
        // By the default route clients come in that the bind does not tell.
        let front_or_default = front.or(self.out.as_ref().ok().map(|way| way.leaves));
        for front in front_or_default.into_iter().filter(|front| *front != back) {
            shut |= self.is_shut(front, "packets of clients");
        }
        if shut {
            return false;
        }
        self.forth(front, backend, back);
        self.answers(bind, front, backend, back)
    }

    fn is_down(&mut self, front: Interface) -> bool {
        let Some(to) = self.neighbour(front) else { return false };
        let way = self.routes.way(&Packet { leaves: front, ..Packet::to(to) });
        way.is_err_and(|error| matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::ENETDOWN | libc::ENODEV)))
    }

    /// An interface whose packets are not forwarded, though others' are. (IPv6 looks only at the sysctl for all.)
    fn is_shut(&mut self, interface: Interface, what: &str) -> bool {
        let name = interface.name();
        let sysctl = Sysctl::of(self.family, &name, "forwarding");
        let shut = self.family == Family::V4 && self.forwards && sysctl.value() == "0";
        if shut && !self.shut.contains(&interface) {
            self.shut.push(interface);
            let remedy = remedy::sysctl(self.findings.system, &format!("{}=1", sysctl.name));
            self.findings.error(format_args!(
                "{}: it is 0, so {what} that come in by {} are dropped; {remedy}",
                sysctl.name,
                Escaped(&name)
            ));
        }
        shut
    }

    /// From a client to a backend.
    fn forth(&mut self, front: Option<Interface>, backend: Endpoint, back: Interface) {
        let (arrives, from) = match (&self.out, front) {
            (Ok(way), None) => (way.leaves, Some(self.far)),
            (Ok(way), Some(front)) if way.leaves == front => (front, Some(self.far)),
            // Only neighbours come in there, as far as routes tell.
            (_, Some(front)) => (front, self.neighbour(front)),
            (Err(_), None) => return,
        };
        let (Some(from), true) = (from, self.forwards && arrives != back) else { return };
        let packet = Packet { from: Some(from), arrives, ..Packet::to(backend.ip()) };
        let name = arrives.name();
        let rule = self.rule_for(from, &name);
        let (what, cause) = match self.routes.way(&packet) {
            Ok(way) if way.leaves == back => return,
            Ok(way) => ("leave", format!("by {}, not by {}", Escaped(&way.leaves.name()), Escaped(&back.name()))),
            Err(error) => ("do not get there:", route::why(&error)),
        };
        self.findings.error(format_args!(
            "backend {backend}: packets of clients that come in by {} {what} {cause}{rule}",
            Escaped(&name)
        ));
    }

    /// From a backend to a client that is far away. Tells whether the strict filter is in the way.
    fn answers(&mut self, bind: Endpoint, front: Option<Interface>, backend: Endpoint, back: Interface) -> bool {
        let mut packet = Packet::to(self.far);
        if self.forwards {
            packet = Packet { from: Some(backend.ip()), arrives: back, ..packet };
        }
        let rule = self.rule_for(backend.ip(), &back.name());
        let answer = self.routes.way(&packet);
        let own = self.out.as_ref().ok().copied();
        let leaves = match (answer, own) {
            (Ok(way), _) => way.leaves,
            (Err(error), Some(_)) => {
                self.findings.error(format_args!(
                    "bind {bind}: answers of {backend} to clients in other networks do not get there: {}{rule}",
                    route::why(&error)
                ));
                return false;
            }
            (Err(_), None) => return false,
        };
        let recipe = front.and_then(|front| self.by_mark(&packet, front));
        self.marks(bind, &packet, leaves, front);
        let Some(front) = front.filter(|front| *front != leaves) else {
            if own.is_some_and(|own| own.leaves != leaves) && front.is_none() {
                self.findings.warning(format_args!(
                    "bind {bind}: answers of {backend} to clients in other networks leave by {}, where this host's own \
                     packets do not{rule}",
                    Escaped(&leaves.name())
                ));
            }
            return false;
        };
        // A bind inside, of which only neighbours know, is as it should be. It is not if it has a way to others: a default
        // route there, of whatever metric, or a rule for packets from it, which answers of backends are not yet.
        let by_source = self.routes.way(&Packet { from: Some(bind.ip()), ..Packet::to(self.far) });
        let has_way = self.by_router(front) || by_source.is_ok_and(|way| way.leaves == front);
        if !has_way && !route::is_public(bind.ip()) && own.is_none_or(|own| own.leaves == leaves) {
            return false;
        }
        let (front, leaves) = (front.name(), leaves.name());
        let (front_shown, leaves_shown) = (Escaped(&front), Escaped(&leaves));
        match recipe {
            Some(mark) => self.findings.ok(format_args!(
                "bind {bind}: answers with the mark {mark:#x} leave by {front_shown}, all others by {leaves_shown}"
            )),
            None => self.findings.warning(format_args!(
                "bind {bind}: it is on {front_shown}, but answers to clients in other networks leave by {leaves_shown}{rule}; \
                 if clients come in by {front_shown}, mark their connections so that answers go back the same way \
                 (paraglider(8), SEVERAL WANS)"
            )),
        }
        let strict = is_strict(self.family, &front);
        if strict {
            let sysctl = Sysctl::of(self.family, &front, "rp_filter");
            let remedy = remedy::sysctl(self.findings.system, &format!("{}=2", sysctl.name));
            self.findings.warning(format_args!(
                "{}: it is strict, so packets of clients are dropped that come in by {front_shown}, since the way to them is \
                 by {leaves_shown}; {remedy}",
                sysctl.name
            ));
        }
        strict
    }

    /// A mark with which the answers would leave by this interface.
    fn by_mark(&mut self, answer: &Packet, front: Interface) -> Option<u32> {
        let marks: Vec<u32> =
            self.rules.iter().filter(|rule| !rule.inverted && rule.mark != 0).map(|rule| rule.mark).collect();
        marks
            .into_iter()
            .find(|mark| self.routes.way(&Packet { mark: *mark, ..*answer }).is_ok_and(|way| way.leaves == front))
    }

    /// Says which marks would send the answers elsewhere.
    fn marks(&mut self, bind: Endpoint, answer: &Packet, leaves: Interface, front: Option<Interface>) {
        for rule in self.rules.iter().filter(|rule| !rule.inverted && rule.mark != 0) {
            let way = match self.routes.way(&Packet { mark: rule.mark, ..*answer }) {
                Ok(way) if way.leaves == leaves || Some(way.leaves) == front => continue,
                Ok(way) => format!("leave by {}", Escaped(&way.leaves.name())),
                Err(error) => format!("do not get there: {}", route::why(&error)),
            };
            self.findings
                .ok(format_args!("bind {bind}: answers that a rule marks with {:#x} {way} ({rule})", rule.mark));
        }
    }

    /// Names the rule of policy routing that is for such packets, if there is one.
    fn rule_for(&self, from: IpAddr, arrives: &str) -> String {
        let mut said = String::new();
        if let Some(rule) = self.rules.iter().find(|rule| rule.is_for(from, arrives)) {
            let _ = write!(said, " ({rule})");
        }
        said
    }

    /// An address that a neighbour by this interface could have.
    fn neighbour(&self, front: Interface) -> Option<IpAddr> {
        let own = self.addresses.iter().find(|own| own.interface == front)?;
        for step in [1, 2, 3, -1, -2, -3] {
            let ip = match own.ip {
                IpAddr::V4(ip) => IpAddr::V4(u32::from(ip).wrapping_add_signed(step).into()),
                IpAddr::V6(ip) => IpAddr::V6(u128::from(ip).wrapping_add_signed(step.into()).into()),
            };
            // The last address of an IPv4 network is for all, which no sender has.
            let past = match ip {
                IpAddr::V4(ip) => IpAddr::V4(u32::from(ip).wrapping_add(1).into()),
                IpAddr::V6(_) => ip,
            };
            let inside = |ip: IpAddr| route::contains(own.ip, own.length, ip);
            if inside(ip) && inside(past) && self.addresses.iter().all(|other| other.ip != ip) {
                return Some(ip);
            }
        }
        None
    }
}

/// Whether the kernel drops packets that come in there if the way back is by another interface. The larger one of both
/// values is in force (ip-sysctl.rst).
fn is_strict(family: Family, interface: &str) -> bool {
    let value = |name: &str| number(&Sysctl::of(Family::V4, name, "rp_filter").value(), 9).unwrap_or(0);
    family == Family::V4 && value("all").max(value(interface)) == 1
}

/// Where the reverse path filter is strict, but not in the way as far as routes tell.
fn reverse_path(findings: &mut Findings<'_>) {
    let mut strict = String::new();
    for name in interface::names() {
        if name != "lo" && is_strict(Family::V4, &name) {
            let _ = write!(strict, "{}{}", if strict.is_empty() { "" } else { ", " }, Escaped(&name));
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
