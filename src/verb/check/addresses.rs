//! Are the addresses of binds, privateip and backends where they have to be, and does a program listen there?

use std::fmt::Write;
use std::net::IpAddr;

use super::findings::Findings;
use crate::host::remedy::{self, System};
use crate::host::route;
use crate::net::{same, Endpoint, Family, Octets, Protocol};
use crate::service::{Bind, Service, Source};
use crate::sys::file;

/// Adds what is found about the addresses.
pub fn check(services: &[Service], findings: &mut Findings<'_>) {
    // On OpenWrt it is generated from /etc/config/keepalived at each start, or a link to the file named there.
    let openwrt = matches!(findings.system, System::Opkg | System::OpenWrtApk);
    let keepalived = file::read(if openwrt { "/tmp/keepalived.conf" } else { "/etc/keepalived/keepalived.conf" });
    let listeners = listeners();
    for service in services {
        if service.follows.is_some() {
            findings.ok(format_args!("bind {}: it is {} now", service.written(), service.bind));
        }
        bind(&service.whole(), &keepalived, &listeners, findings);
        source(service, &keepalived, findings);
        checks(service, findings);
        for backend in &service.backends {
            reach(&backend.address, findings);
        }
    }
}

/// Where the address of a bind or privateip is.
fn place(ip: &IpAddr, keepalived: &str) -> Option<&'static str> {
    if route::has_address(*ip) {
        Some("on this host")
    } else {
        moves(keepalived, ip).then_some("held by keepalived")
    }
}

fn bind(bind: &Bind, keepalived: &str, listeners: &[Listener], findings: &mut Findings<'_>) {
    let ip = bind.at.address();
    if let Some(place) = place(ip, keepalived) {
        findings.ok(format_args!("bind {bind}: the address is {place}"));
    } else if route::is_doubled(ip) {
        findings.error(format_args!(
            "bind {bind}: another host in the network has the address too, so this one does not use it (dadfailed); give it \
             another one, or set it anew when the other host has let go of it"
        ));
    } else {
        let mut cloud = String::new();
        if let Some(own) = behind_nat(ip) {
            let _ = write!(
                cloud,
                "; if a cloud or a router in front translates it to this host, write the private one: {own}"
            );
        }
        findings.warning(format_args!(
            "bind {bind}: the address is on no interface of this host (yet); it works only if packets to it are routed \
             here{cloud}"
        ));
    }
    loopback("bind", &bind.at, findings);
    let mut ports = Vec::new();
    for listener in listeners {
        if let Some(port) = listens(listener, bind) {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
    }
    for port in ports {
        let to = bind.at.with_port(Some(port));
        let ssh = match (port, to.protocol()) {
            (22, Protocol::Tcp) => "; if that is your SSH server, you will not get in by this address again",
            _ => "",
        };
        findings.warning(format_args!(
            "bind {to}: a program on this host listens there; from `start` on the backends answer in its place{ssh}"
        ));
    }
}

/// The private address by which this host reaches the Internet, if `ip` is public: a router in front translates then.
fn behind_nat(ip: &IpAddr) -> Option<IpAddr> {
    let own = route::route(route::far(Family::of(*ip))).ok()?;
    (route::is_public(ip) && !route::is_public(&own)).then_some(own)
}

fn source(service: &Service, keepalived: &str, findings: &mut Findings<'_>) {
    let bind_moves = moves(keepalived, service.bind.address());
    let mut stays = false;
    match &service.source {
        Source::Addresses(first, _) => {
            let mut missing = String::new();
            service.source.each(&mut |ip| {
                if place(&ip, keepalived).is_none() {
                    let _ = write!(missing, "{}{ip}", if missing.is_empty() { "" } else { ", " });
                }
                stays |= bind_moves && !moves(keepalived, &ip);
            });
            if !missing.is_empty() {
                findings.warning(format_args!(
                    "privateip {missing}: on no interface of this host (yet); answers of the backends would not come back"
                ));
            } else if let Some(place) = place(first, keepalived) {
                findings.ok(format_args!("privateip {first}: {place}"));
            }
        }
        Source::Client => {
            findings.ok(format_args!(
                "privateip none: the backends see the clients' addresses and must route all answers back through this host, \
                 which cannot be seen from here"
            ));
        }
        Source::Masquerade => {
            stays = bind_moves;
            let mut fixed = String::new();
            if let Some(ip) = way_out(service) {
                let _ = write!(fixed, " (a fixed one keeps them: {ip})");
            }
            findings.ok(format_args!(
                "privateip auto: established connections break when the interface towards a backend goes down, or its \
                 address is set anew{fixed}"
            ));
        }
    }
    if stays {
        findings.warning(format_args!(
            "privateip: keepalived moves bind but not this, so established connections break; let it move both"
        ));
    }
}

/// This host's address towards the backends, if it is the same for all.
fn way_out(service: &Service) -> Option<IpAddr> {
    let mut all = None;
    for backend in &service.backends {
        let own = route::route(backend.address.address()).ok()?;
        if own.is_loopback() || all.as_ref().is_some_and(|known| !same(known, &own)) {
            return None;
        }
        all = Some(own);
    }
    all
}

/// Checks do not come from privateip, and a backend's own firewall may tell them apart.
fn checks(service: &Service, findings: &mut Findings<'_>) {
    if service.health.is_none() || !matches!(service.source, Source::Addresses(..)) {
        return;
    }
    let Some(own) = way_out(service) else { return };
    let mut both = true;
    service.source.each(&mut |ip| both &= !same(&ip, &own));
    if both {
        findings.ok(format_args!(
            "health: the checks of {} come from {own}, not from privateip; the backends must let in both",
            service.bind
        ));
    }
}

/// Whether an address is one that keepalived moves: it stands in a block virtual_ipaddress or virtual_ipaddress_excluded
/// (keepalived.conf(5)).
fn moves(keepalived: &str, ip: &IpAddr) -> bool {
    let mut inside = false;
    for line in keepalived.lines() {
        for word in line.split_ascii_whitespace() {
            match word.as_bytes() {
                [b'#' | b'!', ..] => break,
                b"}" => inside = false,
                _ if word.starts_with("virtual_ipaddress") => inside = true,
                _ if inside => {
                    let written = word.split_once('/').map_or(word, |(ip, _)| ip);
                    if written.parse().is_ok_and(|written| same(&written, ip)) {
                        return true;
                    }
                }
                _ => {}
            }
        }
    }
    false
}

fn reach(backend: &Endpoint, findings: &mut Findings<'_>) {
    match route::route(backend.address()) {
        Err(error) => {
            let remedy = match error.0 {
                libc::ENETUNREACH => "add one (ip route add), or bring up its interface",
                _ => "remove what is in the way (ip route get shows it)",
            };
            findings.error(format_args!("backend {backend}: no route to it ({error}); {remedy}"));
        }
        Ok(_) if backend.address().is_loopback() => loopback("backend", backend, findings),
        Ok(_) if route::has_address(backend.ip()) => {
            findings.warning(format_args!(
                "backend {backend}: it is this host itself; it will see the clients' own addresses"
            ));
        }
        Ok(_) => findings.ok(format_args!("backend {backend}: there is a route")),
    }
}

/// The kernel drops packets between 127.0.0.0/8 and other hosts unless route_localnet is set.
fn loopback(what: &str, endpoint: &Endpoint, findings: &mut Findings<'_>) {
    if !endpoint.address().is_loopback() {
        return;
    }
    let name = "net.ipv4.conf.all.route_localnet";
    let routed = file::read("/proc/sys/net/ipv4/conf/all/route_localnet") == "1";
    if endpoint.family() == Family::V4 && !routed {
        let remedy = remedy::sysctl(findings.system, name, 1);
        findings.error(format_args!("{what} {endpoint}: a loopback address works only with route_localnet; {remedy}"));
    } else {
        findings.warning(format_args!("{what} {endpoint}: a loopback address serves and reaches this host alone"));
    }
}

/// A protocol, and where a program listens, as [`listener`] finds it.
type Listener = (Protocol, String);

/// Where programs listen.
fn listeners() -> Vec<Listener> {
    let mut found = Vec::new();
    for (path, protocol) in [
        ("/proc/net/tcp", Protocol::Tcp),
        ("/proc/net/tcp6", Protocol::Tcp),
        ("/proc/net/udp", Protocol::Udp),
        ("/proc/net/udp6", Protocol::Udp),
    ] {
        // They have the connections too, and can be long.
        let _ = file::open(path, libc::O_RDONLY).and_then(|file| {
            file::each_line(file, &mut |line| {
                if let Some(listener) = listener(line, protocol) {
                    found.push((protocol, listener.to_owned()));
                }
            })
        });
    }
    found
}

/// The address and port of a listener in a line of /proc/net/tcp or udp (proc_pid_net(5)), if it is one: words of 32 bits in
/// hex, in the byte order of the machine. (TCP_LISTEN; a socket of UDP that is connected to nobody has TCP_CLOSE.)
fn listener(line: &str, protocol: Protocol) -> Option<&str> {
    let mut words = line.split_ascii_whitespace();
    let listener = words.nth(1)?;
    let state = if protocol == Protocol::Tcp { "0A" } else { "07" };
    (words.nth(1) == Some(state)).then_some(listener)
}

/// The port of a bind at which a listener is, if it has its address, or the unspecified one for all.
fn listens((protocol, listener): &Listener, bind: &Bind) -> Option<u16> {
    let (address, port) = listener.split_once(':')?;
    let mut own = String::new();
    for word in Octets::of(bind.at.address()).as_slice().chunks(4) {
        let _ = write!(own, "{:08x}", word.try_into().map_or(0, u32::from_ne_bytes));
    }
    let all = address.bytes().all(|b| b == b'0');
    let port = u64::from_str_radix(port, 16).ok()? as u16;
    let is_it = *protocol == bind.at.protocol() && (all || address.eq_ignore_ascii_case(&own));
    // Among many ports of UDP, one may be a client's own.
    let alone = bind.ports.ranges().contains(&(port, port));
    (is_it && (alone || *protocol == Protocol::Tcp && bind.ports.has(port))).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_listener_is_told_from_a_connection() {
        let is_at = |line: &str, bind: &str| {
            let bind = Bind::one(Endpoint::parse(bind).unwrap());
            listener(line, Protocol::Tcp).is_some_and(|one| listens(&(Protocol::Tcp, one.to_owned()), &bind).is_some())
        };
        let line = "   0: 0A00007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1";
        assert!(is_at(line, "127.0.0.10:22") && !is_at(line, "127.0.0.10:23") && !is_at(line, "127.0.0.1:22"));
        assert!(!is_at(&line.replace(" 0A ", " 01 "), "127.0.0.10:22"));
        assert!(is_at(&line.replace("0A00007F", "00000000"), "10.0.0.1:22"));
        let six = line.replace("0A00007F", "000000FD000000000000000001000000");
        assert!(is_at(&six, "[fd00::1]:22") && !is_at(&six, "[fd00::2]:22"));
        // For both families.
        assert!(is_at(&line.replace("0A00007F", "00000000000000000000000000000000"), "10.0.0.1:22"));
        for garbage in ["", "sl local_address rem_address st", "0: x:y z 0A", "0: é00000000:1 z 0A"] {
            assert!(!is_at(garbage, "127.0.0.10:22"));
        }
    }

    #[test]
    fn keepalived_moves_what_is_in_its_blocks() {
        let config = "vrrp_instance A {\n  unicast_src_ip 10.0.0.1\n  unicast_peer {\n    10.0.0.2\n  }\n\
                      \tvirtual_ipaddress {\n\t\t10.0.0.3/24 dev eth0 label eth0:vip\n#\t10.0.0.4\n 10.0.0.10 ! 10.0.0.5\n }\n\
                      virtual_ipaddress_excluded {\nfd00:0::3/64\n}\nvirtual_routes {\n 10.0.0.6/32 via 10.0.0.7\n}\n}";
        for (ip, expected) in [
            ("10.0.0.1", false),
            ("10.0.0.2", false),
            ("10.0.0.3", true),
            ("10.0.0.4", false),
            ("10.0.0.5", false),
            ("10.0.0.6", false),
            ("10.0.0.7", false),
            ("10.0.0.10", true),
            ("fd00::3", true),
            ("fd00::4", false),
        ] {
            assert_eq!(moves(config, &ip.parse().unwrap()), expected, "{ip}");
        }
        assert!(!moves("", &"10.0.0.3".parse().unwrap()));
    }
}
