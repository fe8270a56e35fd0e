//! `check` finds each situation in which nothing gets through, or not for all, and names what is in the way; and where all
//! is well it is quiet.

use crate::lab::{ask_often, serve, sh, Lab, Variant};
use crate::watching::until;
use crate::{answers, on_all};

/// The client's side, privateip, and three backends; clients are told from them by their network.
pub const C: &str = "frontend: {bind: '10.1.0.1:8080', privateip: 10.2.0.1, backends: ['10.2.0.11:80', '10.2.0.12:80', '10.2.0.13:80']}";
pub const C6: &str =
    "frontend: {bind: '[fd01::1]:8080', privateip: fd02::1, backends: ['[fd02::11]:80', '[fd02::12]:80']}";

/// What is set up, how it is undone, and what `check` then says of it.
pub struct Situation {
    what: &'static str,
    set: &'static str,
    undo: &'static str,
    config: &'static str,
    says: &'static [&'static str],
}

pub const fn row(
    what: &'static str,
    set: &'static str,
    undo: &'static str,
    says: &'static [&'static str],
) -> Situation {
    Situation { what, set, undo, config: C, says }
}

const HOST: &[Situation] = &[
    row(
        "forwarding is off",
        "sysctl -qw net.ipv4.ip_forward=0",
        "sysctl -qw net.ipv4.ip_forward=1",
        &["warning  net.ipv4.ip_forward: forwarding is off; `start` switches it on"],
    ),
    row(
        "not forwarded on the clients' side",
        "sysctl -qw net.ipv4.conf.wan.forwarding=0",
        "sysctl -qw net.ipv4.conf.wan.forwarding=1",
        &["error    net.ipv4.conf.wan.forwarding: it is 0, so packets of clients that come in by wan are dropped; sysctl -w net.ipv4.conf.wan.forwarding=1"],
    ),
    row(
        "not forwarded on the backends' side",
        "sysctl -qw net.ipv4.conf.lan.forwarding=0",
        "sysctl -qw net.ipv4.conf.lan.forwarding=1",
        &["error    net.ipv4.conf.lan.forwarding: it is 0, so answers of the backends that come in by lan are dropped"],
    ),
    row(
        "not forwarded on the default route's side, which the bind does not tell",
        "sysctl -qw net.ipv4.conf.wan.forwarding=0 && ip route add default via 10.1.0.2",
        "sysctl -qw net.ipv4.conf.wan.forwarding=1 && ip route del default",
        &["error    net.ipv4.conf.wan.forwarding: it is 0"],
    )
    .with("frontend: {bind: '10.9.0.1:8080', backends: ['10.2.0.11:80']}"),
    row(
        "no route to a backend",
        "ip route del 10.2.0.0/24 dev lan",
        "ip route add 10.2.0.0/24 dev lan src 10.2.0.1",
        &["error    backend 10.2.0.11:80: no route to it (there is no route); add one"],
    ),
    row(
        "a blackhole to a backend",
        "ip route add blackhole 10.2.0.11",
        "ip route del blackhole 10.2.0.11",
        &["error    backend 10.2.0.11:80: no route to it (a blackhole route); remove what is in the way"],
    ),
    row(
        "a prohibit route to a backend",
        "ip route add prohibit 10.2.0.12",
        "ip route del prohibit 10.2.0.12",
        &["error    backend 10.2.0.12:80: no route to it (a prohibit route)"],
    ),
    row(
        "an unreachable route to a backend",
        "ip route add unreachable 10.2.0.13",
        "ip route del unreachable 10.2.0.13",
        &["error    backend 10.2.0.13:80: no route to it (an unreachable route)"],
    ),
    row(
        "a blackhole to the clients",
        "ip route add blackhole default",
        "ip route del blackhole default",
        &["warning  routes: IPv4 packets to other networks do not get there: a blackhole route"],
    ),
    row(
        "a rule that takes the way to the backends",
        "ip rule add iif wan to 10.2.0.0/24 lookup 100 priority 100 && ip route add prohibit default table 100",
        "ip rule del priority 100 && ip route flush table 100",
        &["error    backend 10.2.0.11:80: packets of clients that come in by wan do not get there: a prohibit route (ip rule 100 iif wan)"],
    ),
    row(
        "a rule that takes the way back",
        "ip route add default via 10.1.0.2 && ip rule add from 10.2.0.8/29 lookup 100 priority 100 && ip route add blackhole default table 100",
        "ip route del default && ip rule del priority 100 && ip route flush table 100",
        &["error    bind 10.1.0.1:8080: answers of 10.2.0.11:80 to clients in other networks do not get there: a blackhole route (ip rule 100 from 10.2.0.8/29)"],
    ),
    row(
        "a rule that sends the answers elsewhere",
        "ip route add default via 10.1.0.2 && ip rule add iif lan lookup 100 priority 100 && ip route add default dev tun table 100",
        "ip route del default && ip rule del priority 100 && ip route flush table 100",
        &["warning  bind 10.1.0.1:8080: it is on wan, but answers to clients in other networks leave by tun (ip rule 100 iif lan)"],
    ),
    row(
        "the same, and the bind does not tell where clients come in",
        "ip route add default via 10.1.0.2 && ip rule add iif lan lookup 100 priority 100 && ip route add default dev tun table 100",
        "ip route del default && ip rule del priority 100 && ip route flush table 100",
        &["warning  bind 10.9.0.1:8080: answers of 10.2.0.11:80 to clients in other networks leave by tun, where this host's own packets do not (ip rule 100 iif lan)"],
    )
    .with("frontend: {bind: '10.9.0.1:8080', backends: ['10.2.0.11:80']}"),
    row(
        "the second of two ways to the Internet, by a public address",
        "ip addr add 203.0.113.1/24 dev tun && ip route add default via 10.1.0.2",
        "ip addr del 203.0.113.1/24 dev tun && ip route del default",
        &["warning  bind 203.0.113.1:8080: it is on tun, but answers to clients in other networks leave by wan; if clients come in by tun, mark their connections"],
    )
    .with("frontend: {bind: '203.0.113.1:8080', backends: ['10.2.0.11:80']}"),
    row(
        "the second of two ways to the Internet, by its metric",
        "ip addr add 10.5.0.1/24 dev tun && ip route add default via 10.1.0.2 && ip route add default via 10.5.0.2 metric 9",
        "ip addr del 10.5.0.1/24 dev tun && ip route del default",
        &["warning  bind 10.5.0.1:8080: it is on tun, but answers to clients in other networks leave by wan"],
    )
    .with("frontend: {bind: '10.5.0.1:8080', backends: ['10.2.0.11:80']}"),
    row(
        "the second of two ways to the Internet, by a rule for the host's own packets",
        "ip addr add 10.5.0.1/24 dev tun && ip route add default via 10.1.0.2 && \
         ip rule add from 10.5.0.1 lookup 100 priority 100 && ip route add default via 10.5.0.2 table 100",
        "ip addr del 10.5.0.1/24 dev tun && ip route del default && ip rule del priority 100 && ip route flush table 100",
        &["warning  bind 10.5.0.1:8080: it is on tun, but answers to clients in other networks leave by wan"],
    )
    .with("frontend: {bind: '10.5.0.1:8080', backends: ['10.2.0.11:80']}"),
    row(
        "a VPN that takes what is not marked (WireGuard), on a host that serves the Internet",
        "ip route add default via 10.1.0.2 && ip rule add not fwmark 0xca6c lookup 100 priority 100 && \
         ip rule add lookup main suppress_prefixlength 0 priority 99 && ip route add default dev tun table 100",
        "ip route del default && ip rule del priority 99 && ip rule del priority 100 && ip route flush table 100",
        &["warning  bind 10.1.0.1:8080: it is on wan, but answers to clients in other networks leave by tun (ip rule 100 not fwmark 0xca6c)"],
    ),
    row(
        "a strict filter, and the way back is by another interface",
        "sysctl -qw net.ipv4.conf.tun.rp_filter=1 && ip addr add 203.0.113.1/24 dev tun && ip route add default via 10.1.0.2",
        "sysctl -qw net.ipv4.conf.tun.rp_filter=0 && ip addr del 203.0.113.1/24 dev tun && ip route del default",
        &["warning  net.ipv4.conf.tun.rp_filter: it is strict, so packets of clients are dropped that come in by tun, since the way to them is by wan; sysctl -w net.ipv4.conf.tun.rp_filter=2"],
    )
    .with("frontend: {bind: '203.0.113.1:8080', backends: ['10.2.0.11:80']}"),
    row(
        "the bind's interface is down",
        "ip addr add 203.0.113.1/24 dev tun && ip link set tun down",
        "ip addr del 203.0.113.1/24 dev tun && ip link set tun up",
        &["error    bind 203.0.113.1:8080: its interface tun is down; ip link set tun up"],
    )
    .with("frontend: {bind: '203.0.113.1:8080', backends: ['10.2.0.11:80']}"),
    row("a privateip that is nowhere", "true", "true", &["warning  privateip 10.2.0.4: on no interface of this host (yet)"])
        .with("frontend: {bind: '10.1.0.1:8080', privateip: 10.2.0.4, backends: ['10.2.0.11:80']}"),
    row(
        "one arm, and no privateip",
        "true",
        "true",
        &["warning  privateip none: clients of 10.2.0.1:8080 in the network of lan get the backends' answers past this host"],
    )
    .with("frontend: {bind: '10.2.0.1:8080', privateip: none, backends: ['10.2.0.11:80']}"),
    row(
        "the public address of a cloud",
        "ip route add default via 10.1.0.2",
        "ip route del default",
        &["warning  bind 203.0.113.9:8080: the address is on no interface", "write the private one: 10.1.0.1"],
    )
    .with("frontend: {bind: '203.0.113.9:8080', backends: ['10.2.0.11:80']}"),
    row(
        "a full table of connections",
        "echo 0 >/run/max && cat /proc/sys/net/netfilter/nf_conntrack_count >/run/count && echo 500 >/run/count && echo 500 >/run/max && \
         for name in count max; do mount --bind /run/$name /proc/sys/net/netfilter/nf_conntrack_$name; done",
        "umount /proc/sys/net/netfilter/nf_conntrack_count /proc/sys/net/netfilter/nf_conntrack_max",
        &["error    connection table: 500 of 500 entries are taken: it is full", "sysctl -w net.netfilter.nf_conntrack_max=1000"],
    ),
    row(
        "nearly so",
        "echo 400 >/run/count && echo 500 >/run/max && \
         for name in count max; do mount --bind /run/$name /proc/sys/net/netfilter/nf_conntrack_$name; done",
        "umount /proc/sys/net/netfilter/nf_conntrack_count /proc/sys/net/netfilter/nf_conntrack_max",
        &["warning  connection table: 400 of 500 entries are taken; when it is full"],
    ),
];

impl Situation {
    pub const fn with(mut self, config: &'static str) -> Self {
        self.config = config;
        self
    }
}

/// An interface beside those of the laboratory, without an address; and forwarding, as on a router.
pub fn router() {
    sh("ip link add tun type veth peer name far && ip link set tun up && ip link set far up");
    sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0");
    sh("for name in wan lan tun; do echo 0 >/proc/sys/net/ipv4/conf/$name/rp_filter; done");
}

/// What is not `ok`.
pub fn complaints(out: &str) -> Vec<&str> {
    out.lines().filter(|line| !line.starts_with("ok ")).collect()
}

pub fn tell(lab: &Lab, table: &[Situation]) {
    for Situation { what, set, undo, config, says } in table {
        sh(set);
        lab.config(config);
        let (code, out, _) = lab.paraglider("check");
        for words in *says {
            assert!(out.contains(words), "{what}:\n{words}\n{out}");
        }
        assert_eq!(code != 0, says.iter().any(|words| words.starts_with("error")), "{what}: {out}");
        // Nothing else is made of it, but for what one cause brings about at each backend.
        assert!(complaints(&out).len() <= 3, "{what}: {out}");
        sh(undo);
    }
    lab.config(C);
    assert_eq!(complaints(&lab.ok("check")), [""; 0]);
}

on_all!(what_the_host_does_to_connections_is_named, |lab| {
    router();
    tell(lab, HOST);
});

/// IPv6 has no filter of reverse paths, and looks at no interface's own switch.
const SIX: &[Situation] = &[
    row(
        "a blackhole to a backend",
        "ip -6 route add blackhole fd02::11",
        "ip -6 route del blackhole fd02::11",
        &["error    backend [fd02::11]:80: no route to it (a blackhole route)"],
    )
    .with(C6),
    row(
        "an unreachable route to the clients",
        "ip -6 route add unreachable default metric 1",
        "ip -6 route del unreachable default metric 1",
        &["warning  routes: IPv6 packets to other networks do not get there: an unreachable route"],
    )
    .with(C6),
    row(
        "a rule that takes the way back",
        "ip -6 route add default via fd01::2 && ip -6 rule add from fd02::10/124 lookup 100 priority 100 && ip -6 route add prohibit default table 100",
        "ip -6 route del default && ip -6 rule del priority 100 && ip -6 route flush table 100",
        &["error    bind [fd01::1]:8080: answers of [fd02::11]:80 to clients in other networks do not get there: a prohibit route (ip rule 100 from fd02::10/124)"],
    )
    .with(C6),
    row(
        "the second of two ways to the Internet",
        "ip -6 addr add 2001:db8::1/64 dev tun nodad && ip -6 route add default via fd01::2",
        "ip -6 addr del 2001:db8::1/64 dev tun && ip -6 route del default",
        &["warning  bind [2001:db8::1]:8080: it is on tun, but answers to clients in other networks leave by wan"],
    )
    .with("frontend: {bind: '[2001:db8::1]:8080', privateip: fd02::1, backends: ['[fd02::11]:80']}"),
];

on_all!(what_the_host_does_to_ipv6_is_named, |lab| {
    crate::lab::needs_ipv6();
    router();
    sh("sysctl -qw net.ipv6.conf.all.forwarding=1");
    tell(lab, SIX);
    // The kernel asks the switch for all alone.
    sh("sysctl -qw net.ipv6.conf.wan.forwarding=0 net.ipv6.conf.lan.forwarding=0 && ip -6 route add default via fd01::2");
    lab.config(C6);
    assert_eq!(complaints(&lab.ok("check")), [""; 0]);
    serve("b1", 80);
    lab.ok("start");
    assert_eq!(ask_often("client", "[fd01::1]:8080", 1), answers(&[("b1 fd02::1", 1)]));
});

on_all!(an_address_that_another_host_has_too_is_named, |lab| {
    crate::lab::needs_ipv6();
    router();
    sh("sysctl -qw net.ipv6.conf.all.forwarding=1");
    sh("ip -n client -6 addr add fd01::9/64 dev eth0 nodad && ip -6 addr add fd01::9/64 dev wan");
    until("it is found out", || sh("ip -6 addr show dev wan").contains("dadfailed"));
    lab.config(&C6.replace("fd01::1", "fd01::9"));
    let (code, out, _) = lab.paraglider("check");
    assert!(
        code == 1 && out.contains("error    bind [fd01::9]:8080: another host in the network has the address too"),
        "{out}"
    );
});
