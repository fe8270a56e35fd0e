//! Where all is well, `check` is quiet; what is good to know it says without a warning.

use std::fs;
use std::time::{Duration, Instant};

use crate::lab::{ask_often, run, serve, sh, Lab, Variant};
use crate::situations::{complaints, router, C, C6};
use crate::{answers, on_all};

/// What is usual on hosts that work.
const HEALTHY: &[(&str, &str)] = &[
    ("a default route", "ip route add default via 10.1.0.2"),
    ("a strict filter, and one way to everybody (RHEL)", "sysctl -qw net.ipv4.conf.all.rp_filter=1"),
    ("a VPN that marks its own packets (tailscale)", "ip rule add fwmark 0x80000/0xff0000 lookup main priority 5210"),
    ("a VPN that takes what is not marked (WireGuard)", "ip rule add not fwmark 0xca6c lookup 51820 priority 32764"),
    ("a blackhole for another network", "ip route add blackhole 10.3.0.0/16"),
    (
        "a second way to the Internet that nobody comes in by",
        "ip addr add 10.5.0.1/24 dev tun && ip route add default via 10.5.0.2 metric 9",
    ),
    (
        "bridges hand packets to iptables (Docker)",
        "for file in /proc/sys/net/bridge/bridge-nf-call-iptables; do if [ -e $file ]; then echo 1 >$file; fi; done",
    ),
    ("the bind's port is one of the host's own", "sysctl -qw net.ipv4.ip_local_port_range='8000 9000'"),
];

on_all!(check_is_quiet_where_all_is_well, |lab| {
    router();
    for config in [
        C,
        &C.replace("10.1.0.1:8080", "10.9.0.1:8080"),
        &C.replace("privateip: 10.2.0.1, ", ""),
        &C.replace("privateip: 10.2.0.1", "privateip: none"),
    ] {
        lab.config(config);
        assert_eq!(complaints(&lab.ok("check")), [""; 0], "{config}");
    }
    // The backends are on a network of their own, without a bridge.
    sh("ip link add dmz type veth peer name eth1 netns b1 && ip link set dmz up && ip addr add 10.6.0.1/24 dev dmz");
    sh("ip -n b1 link set eth1 up && ip -n b1 addr add 10.6.0.11/24 dev eth1");
    let config = C.replace("10.2.0.1", "10.6.0.1");
    for (what, set) in HEALTHY {
        sh(set);
        // Where clients from everywhere come in, and where only neighbours do.
        for bind in ["10.1.0.1:8080", "10.2.0.1:8080", "10.9.0.1:8080"] {
            lab.config(&config.replace("10.1.0.1:8080", bind));
            assert_eq!(complaints(&lab.ok("check")), [""; 0], "{what} {bind}");
        }
    }
    lab.config(&config);
    lab.ok("start");
    assert_eq!(complaints(&lab.ok("check")), [""; 0]);
    if run("ip", &["-6", "addr", "show", "dev", "wan"]).stdout.is_empty() {
        return;
    }
    sh("sysctl -qw net.ipv6.conf.all.forwarding=1");
    for config in [C6, &C6.replace("fd01::1", "fd09::1")] {
        lab.config(config);
        assert_eq!(complaints(&lab.ok("check")), [""; 0], "{config}");
    }
});

on_all!(the_second_way_to_the_internet_works_as_the_recipe_says, |lab| {
    // A client that comes in by the second one, and a balancer whose default route is the first.
    router();
    sh("ip netns add client2 && ip link set far netns client2 && ip -n client2 link set far up && ip -n client2 link set lo up");
    sh("ip addr add 203.0.113.1/24 dev tun && ip -n client2 addr add 203.0.113.2/24 dev far");
    sh("ip -n client2 addr add 198.51.100.2/32 dev lo && ip -n client2 route replace 203.0.113.0/24 dev far src 198.51.100.2");
    sh("ip route add default via 10.1.0.2");
    serve("b1", 80);
    lab.config("frontend: {bind: '203.0.113.1:8080', backends: ['10.2.0.11:80']}");
    lab.ok("start");
    assert_eq!(ask_often("client2", "203.0.113.1:8080", 1), answers(&[("TimedOut", 1)]));
    // Where there is no iptables, the same by nft.
    let marks: &[&str] = match lab.variant {
        Variant::Netlink => &[
            "nft 'add table inet ways; add chain inet ways marks { type filter hook prerouting priority mangle; }'",
            "nft 'add rule inet ways marks iifname tun ct state new ct mark set 2'",
            "nft 'add rule inet ways marks ct direction reply meta mark set ct mark'",
        ],
        _ => &[
            "iptables -t mangle -A PREROUTING -i tun -m conntrack --ctstate NEW -j CONNMARK --set-mark 2",
            "iptables -t mangle -A PREROUTING -m conntrack --ctdir REPLY -j CONNMARK --restore-mark",
        ],
    };
    marks.iter().for_each(|line| drop(sh(line)));
    sh("ip route add default via 203.0.113.2 table 102; ip rule add fwmark 2 lookup 102 priority 102");
    assert_eq!(ask_often("client2", "203.0.113.1:8080", 1), answers(&[("b1 10.2.0.1", 1)]));
    let out = lab.ok("check");
    assert!(
        out.contains("ok       bind 203.0.113.1:8080: answers with the mark 0x2 leave by tun, all others by wan"),
        "{out}"
    );
    assert!(!complaints(&out).iter().any(|line| line.contains("it is on tun")), "{out}");
    // Another mark would do the opposite.
    sh("ip rule add fwmark 3 lookup 103 priority 103 && ip route add blackhole default table 103");
    let out = lab.ok("check");
    assert!(
        out.contains("answers that a rule marks with 0x3 do not get there: a blackhole route (ip rule 103 fwmark 0x3)"),
        "{out}"
    );
});

on_all!(check_of_many_backends_is_quick, |lab| {
    router();
    let backends: String = (0..300).map(|n| format!("'10.2.{}.{}:80', ", n / 250, n % 250 + 1)).collect();
    sh("ip route add 10.2.1.0/24 dev lan");
    lab.config(&format!("frontend: {{bind: '10.9.0.1:8080', backends: [{backends}]}}").replace("'10.2.0.1:80', ", ""));
    lab.ok("start");
    let since = Instant::now();
    let out = lab.ok("check");
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(complaints(&out), [""; 0]);
    fs::write(lab.path("out"), out).unwrap();
});

on_all!(check_says_what_a_privateip_means, |lab| {
    router();
    let says = |config: &str| {
        lab.config(config);
        let out = lab.ok("check");
        assert_eq!(complaints(&out), [""; 0]);
        out
    };
    let out = says("frontend: {bind: '10.1.0.1:8080', backends: ['10.2.0.11:80', '10.2.0.12:80']}");
    assert!(
        out.contains(
            "ok       privateip auto: established connections break when the interface towards a backend goes down"
        ) && out.contains("(a fixed one keeps them: 10.2.0.1)"),
        "{out}"
    );
    let out = says("frontend: {bind: '10.1.0.1:8080', privateip: none, backends: ['10.2.0.11:80']}");
    assert!(out.contains("ok       privateip none: the backends see the clients' addresses and must route"), "{out}");
    // The backends' own firewall may know only the one.
    sh("for n in 2 3 4; do ip addr add 10.2.0.$n/24 dev lan; done");
    let health = "frontend: {bind: '10.1.0.1:8080', health: {}, privateip: 10.2.0.4, backends: ['10.2.0.11:80']}";
    let note = "ok       health: the checks of 10.1.0.1:8080 come from 10.2.0.1, not from privateip";
    assert!(says(health).contains(note));
    for config in [
        &health.replace("10.2.0.4", "10.2.0.1"),
        &health.replace("10.2.0.4", "10.2.0.1-10.2.0.4"),
        &health.replace("health: {}, ", ""),
    ] {
        assert!(!says(config).contains("not from privateip"), "{config}");
    }
});

on_all!(the_name_of_an_interface_cannot_drive_the_terminal, |lab| {
    router();
    let name = "a\u{1b}[1mb";
    assert!(run("ip", &["link", "set", "tun", "down"]).status.success());
    assert!(run("ip", &["link", "set", "tun", "name", name]).status.success());
    assert!(run("ip", &["link", "set", name, "up"]).status.success());
    assert!(run("ip", &["addr", "add", "10.7.0.1/24", "dev", name]).status.success());
    fs::write(format!("/proc/sys/net/ipv4/conf/{name}/forwarding"), "0").unwrap();
    lab.config("frontend: {bind: '10.7.0.1:8080', backends: ['10.2.0.11:80']}");
    let (code, out, _) = lab.paraglider("check");
    assert!(code == 1 && out.contains("net.ipv4.conf.a\\u{1b}[1mb.forwarding: it is 0"), "{out}");
    assert!(!out.contains('\u{1b}'), "{out}");
});
