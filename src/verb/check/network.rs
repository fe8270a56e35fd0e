//! Do packets find their way: addresses, routes, forwarding, and room for the connections?

use std::net::IpAddr;

use super::findings::Findings;
use crate::error::plain;
use crate::host;
use crate::host::conntrack;
use crate::host::forwarding;
use crate::host::remedy::{self, System};
use crate::host::route;
use crate::host::ssh;
use crate::net::{Endpoint, Family};
use crate::service::{Service, Source};
use crate::sys::file;
use crate::text::number;

/// Share of the connection table, in percent, from which on it is too full for comfort.
const FULL: u64 = 80;

pub fn check(services: &[Service], findings: &mut Findings) {
    for family in Family::ALL {
        if services.iter().any(|service| service.bind.family() == family) {
            forwarding(family, findings);
        }
    }
    // On OpenWrt it is generated from /etc/config/keepalived at each start, or a link to the file named there.
    let openwrt = matches!(findings.system, System::Opkg | System::OpenWrtApk);
    let keepalived = file::read(if openwrt { "/tmp/keepalived.conf" } else { "/etc/keepalived/keepalived.conf" });
    for service in services {
        bind(service.bind, &keepalived, findings);
        source(service, &keepalived, findings);
        for backend in &service.backends {
            reach(backend.address, findings);
        }
    }
    if let Some(bind) = ssh::session().filter(|bind| services.iter().any(|service| service.bind == *bind)) {
        findings.error(format_args!(
            "bind {bind}: your SSH session comes in there, and you would not get in again; choose another port"
        ));
    }
    if services.iter().any(|service| service.health.is_some()) {
        match conntrack::can_forget() {
            Ok(()) => findings.ok(format_args!("health: connections to backends that are down can be ended")),
            Err(error) => findings.warning(format_args!("health: {error}")),
        }
    }
    reverse_path(services, findings);
    bridges(findings);
    room(findings);
}

fn forwarding(family: Family, findings: &mut Findings) {
    let name = forwarding::name(family);
    if forwarding::forwards(family) {
        findings.ok(format_args!("{name}: forwarding is on"));
        return;
    }
    let writable = file::open(forwarding::path(family), libc::O_WRONLY);
    let remedy = remedy::sysctl(findings.system, &format!("{name}=1"));
    match writable {
        Ok(_) => findings.warning(format_args!("{name}: forwarding is off; `start` switches it on")),
        Err(error) => {
            findings.error(format_args!("{name}: forwarding is off and cannot be switched on ({error}); {remedy}"))
        }
    }
    if family == Family::V6 {
        findings.warning(format_args!(
            "IPv6: a forwarding host no longer listens to router advertisements; if its own address or route comes from \
             them, set accept_ra=2 on that interface first",
        ));
    }
}

/// Where the address of a bind or privateip is.
fn place(ip: IpAddr, keepalived: &str) -> Option<&'static str> {
    if route::has_address(ip) {
        Some("on this host")
    } else {
        moves(keepalived, ip).then_some("held by keepalived")
    }
}

fn bind(bind: Endpoint, keepalived: &str, findings: &mut Findings) {
    if let Some(place) = place(bind.ip(), keepalived) {
        findings.ok(format_args!("bind {bind}: the address is {place}"));
    } else {
        findings.warning(format_args!(
            "bind {bind}: the address is on no interface of this host (yet); it works only if packets to it are routed here"
        ));
    }
    loopback(&format!("bind {bind}"), bind, findings);
    if listens(bind) {
        let ssh = if bind.port() == 22 {
            "; if that is your SSH server, you will not get in by this address again"
        } else {
            ""
        };
        findings.warning(format_args!(
            "bind {bind}: a program on this host listens there; from `start` on the backends answer in its place{ssh}"
        ));
    }
}

fn source(service: &Service, keepalived: &str, findings: &mut Findings) {
    let bind_moves = moves(keepalived, service.bind.ip());
    let mut stays = false;
    match service.source {
        Source::Addresses(first, last) => {
            let mut missing = String::new();
            for ip in addresses(first, last) {
                if place(ip, keepalived).is_none() {
                    missing.push_str(if missing.is_empty() { "" } else { ", " });
                    missing.push_str(&ip.to_string());
                }
                stays |= bind_moves && !moves(keepalived, ip);
            }
            if !missing.is_empty() {
                findings.warning(format_args!(
                    "privateip {missing}: on no interface of this host (yet); answers of the backends would not come back"
                ));
            } else if let Some(place) = place(first, keepalived) {
                findings.ok(format_args!("privateip {first}: {place}"));
            }
        }
        Source::Client => {
            findings.warning(format_args!("privateip none: the backends see the clients' addresses and must route all answers back through this host"));
        }
        Source::Masquerade => stays = bind_moves,
    }
    if stays {
        findings.warning(format_args!(
            "privateip: keepalived moves bind but not this, so established connections break; let it move both"
        ));
    }
}

/// Whether an address is one that keepalived moves: it stands in a block virtual_ipaddress or virtual_ipaddress_excluded
/// (keepalived.conf(5)).
fn moves(keepalived: &str, ip: IpAddr) -> bool {
    let mut inside = false;
    for line in keepalived.lines() {
        for word in line.split_ascii_whitespace() {
            match word.as_bytes() {
                [b'#' | b'!', ..] => break,
                b"}" => inside = false,
                _ if word.starts_with("virtual_ipaddress") => inside = true,
                _ if inside && word.split_once('/').map_or(word, |(ip, _)| ip).parse() == Ok(ip) => return true,
                _ => {}
            }
        }
    }
    false
}

/// The addresses of a range.
fn addresses(first: IpAddr, last: IpAddr) -> Vec<IpAddr> {
    let mut all = vec![first];
    let mut ip = first;
    while ip != last {
        ip = match ip {
            IpAddr::V4(ip) => IpAddr::V4(u32::from(ip).wrapping_add(1).into()),
            IpAddr::V6(ip) => IpAddr::V6(u128::from(ip).wrapping_add(1).into()),
        };
        all.push(ip);
    }
    all
}

fn reach(backend: Endpoint, findings: &mut Findings) {
    match route::route(backend.ip()) {
        Err(error) => {
            findings.error(format_args!(
                "backend {backend}: no route to it ({}); add one (ip route add), or bring up its interface",
                plain(&error)
            ));
        }
        Ok(_) if backend.ip().is_loopback() => loopback(&format!("backend {backend}"), backend, findings),
        Ok(_) if route::has_address(backend.ip()) => {
            findings.warning(format_args!(
                "backend {backend}: it is this host itself; it will see the clients' own addresses"
            ));
        }
        Ok(_) => findings.ok(format_args!("backend {backend}: there is a route")),
    }
}

/// The kernel drops packets between 127.0.0.0/8 and other hosts unless route_localnet is set.
fn loopback(what: &str, endpoint: Endpoint, findings: &mut Findings) {
    if !endpoint.ip().is_loopback() {
        return;
    }
    let routed = file::read("/proc/sys/net/ipv4/conf/all/route_localnet") == "1";
    if endpoint.family() == Family::V4 && !routed {
        let remedy = remedy::sysctl(findings.system, "net.ipv4.conf.all.route_localnet=1");
        findings.error(format_args!("{what}: a loopback address works only with route_localnet; {remedy}"));
    } else {
        findings.warning(format_args!("{what}: a loopback address serves and reaches this host alone"));
    }
}

/// Whether a program listens on the address and port, or on the port of all addresses.
fn listens(bind: Endpoint) -> bool {
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in file::read(file).lines() {
            let Some((ip, port)) = listener(line) else { continue };
            if port == bind.port() && (ip == bind.ip() || ip.is_unspecified()) {
                return true;
            }
        }
    }
    false
}

/// The address and port of a listener in a line of /proc/net/tcp or tcp6 (proc_pid_net(5)): words of 32 bits in hex, in
/// the byte order of the machine.
fn listener(line: &str) -> Option<(IpAddr, u16)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    if words.nth(1)? != "0A" {
        return None;
    }
    let mut bytes = Vec::new();
    for n in 0..address.len() / 8 {
        let word = u64::from_str_radix(address.get(n * 8..n * 8 + 8)?, 16).ok()?;
        bytes.extend((word as u32).to_ne_bytes());
    }
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?),
    };
    Some((ip, u64::from_str_radix(port, 16).ok()? as u16))
}

/// With the strict filter the kernel drops a packet that arrives by another interface than the one towards its source.
fn reverse_path(services: &[Service], findings: &mut Findings) {
    if !services.iter().any(|service| service.bind.family() == Family::V4) {
        return;
    }
    let value = |name: &str| number(&file::read(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")), 9);
    // The larger of the two is in force (ip-sysctl.rst).
    let all = value("all").unwrap_or(0);
    let mut strict = host::interfaces();
    strict.retain(|name| name != "lo" && value(name).unwrap_or(0).max(all) == 1);
    if strict.is_empty() {
        findings.ok(format_args!("rp_filter: nowhere strict"));
    } else {
        findings.warning(format_args!(
            "rp_filter: strict on {}; clients and backends must come in by the interface that routes back to them, or set it to 2 (loose)",
            strict.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
        ));
    }
}

/// Where bridges hand packets to iptables (br_netfilter, as Docker and Kubernetes want it), a packet that goes back to
/// the port that it came from is dropped by the bridge before it is routed.
fn bridges(findings: &mut Findings) {
    let is_bridge = |name: &String| file::exists(&format!("/sys/class/net/{name}/bridge"));
    if host::interfaces().iter().any(is_bridge) && file::read("/proc/sys/net/bridge/bridge-nf-call-iptables") == "1" {
        findings.warning(format_args!(
            "bridge-nf-call-iptables: it is 1, so a backend on a bridge of this host cannot reach itself through bind; \
             if it has to, set hairpin on for its port (bridge link set dev PORT hairpin on)",
        ));
    }
}

/// Free space in the connection table: when it is full, the kernel drops all new connections.
fn room(findings: &mut Findings) {
    let number = |name: &str| number(&file::read(&format!("/proc/sys/net/netfilter/{name}")), 1 << 40);
    let (Some(count), Some(max)) = (number("nf_conntrack_count"), number("nf_conntrack_max")) else {
        return;
    };
    let text = format!("connection table: {count} of {max} entries are taken");
    if max > 0 && count * 100 / max >= FULL {
        let remedy = remedy::sysctl(findings.system, &format!("net.netfilter.nf_conntrack_max={}", max * 2));
        findings.warning(format_args!(
            "{text}; when it is full, all new connections through this host fail; {remedy} (300 bytes each)"
        ));
    } else {
        findings.ok(format_args!("{text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_listener_is_told_from_a_connection() {
        let line = "   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1";
        assert_eq!(listener(line), Some(("127.0.0.1".parse().unwrap(), 22)));
        assert_eq!(listener(&line.replace(" 0A ", " 01 ")), None);
        let six = line.replace("0100007F", "000000FD000000000000000001000000");
        assert_eq!(listener(&six), Some(("fd00::1".parse().unwrap(), 22)));
        for garbage in ["", "sl local_address rem_address st", "0: x:y z 0A", "0: é00000000:1 z 0A"] {
            assert_eq!(listener(garbage), None);
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
            assert_eq!(moves(config, ip.parse().unwrap()), expected, "{ip}");
        }
        assert!(!moves("", "10.0.0.3".parse().unwrap()));
    }

    #[test]
    fn a_range_has_all_its_addresses() {
        let all: Vec<String> = addresses("10.0.0.254".parse().unwrap(), "10.0.1.1".parse().unwrap())
            .iter()
            .map(|ip| ip.to_string())
            .collect();
        assert_eq!(all, ["10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1"]);
    }
}
