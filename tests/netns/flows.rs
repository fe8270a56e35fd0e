//! Entries of the connection table, TCP and UDP: listed by ctnetlink as the kernel's file has them, and ended one by one.

use std::fs;
use std::net::UdpSocket;

use paraglider::host::conntrack::{begun_before, connections, forget, forget_begun_before, Connection};
use paraglider::net::{Endpoint, Protocol};
use paraglider::service::Bind;

use crate::backend::Backend;
use crate::conntrack::without_file;
use crate::datagram::{answer_at, answer_by_name, Flow};
use crate::lab::{ask_often, inside, needs_ipv6, serve, sh, Held, Lab, Variant};
use crate::{on_all, BIND};

const SIX: &str = "[fd09::1]:4444";

fn udp(bind: &str) -> Endpoint {
    Endpoint::parse(bind).unwrap().of_protocol(Protocol::Udp)
}

/// As a router's administrator does it: datagrams to the bind go to this backend, and come back through the balancer.
fn hand_datagrams_to(n: u8) {
    sh(&format!(
        "iptables -t nat -F && iptables -t nat -A PREROUTING -d 10.9.0.1 -p udp --dport 4444 -j DNAT --to 10.2.0.1{n}:53 \
         && iptables -t nat -A POSTROUTING -d 10.2.0.0/24 -p udp -j MASQUERADE"
    ));
    sh(&format!(
        "ip6tables -t nat -F && ip6tables -t nat -A PREROUTING -d fd09::1 -p udp --dport 4444 -j DNAT --to '[fd02::1{n}]:53' \
         && ip6tables -t nat -A POSTROUTING -d fd02::/64 -p udp -j MASQUERADE"
    ));
}

fn table() -> String {
    fs::read_to_string("/proc/net/nf_conntrack").unwrap()
}

/// What the kernel's file has of living entries to this bind that are balanced: the backends, sorted.
fn in_file(bind: Endpoint) -> Vec<String> {
    let mut found = Vec::new();
    for line in table().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let values = |key: &str| -> Vec<&str> {
            words
                .iter()
                .filter_map(|word| word.split_once('='))
                .filter(|(name, _)| *name == key)
                .map(|(_, v)| v)
                .collect()
        };
        let alive = bind.protocol() == Protocol::Udp
            || ["ESTABLISHED", "SYN_RECV", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK"].contains(&words[5]);
        if words[2] != bind.protocol().word() || !alive {
            continue;
        }
        let to = Endpoint::of(values("dst")[0], values("dport")[0]).unwrap();
        let from = Endpoint::of(values("src")[1], values("sport")[1]).unwrap();
        if to.ip() == bind.ip() && to.port() == bind.port() && to != from {
            found.push(from.to_string());
        }
    }
    found.sort();
    found
}

fn told(bind: Endpoint) -> Vec<String> {
    let mut found: Vec<String> =
        connections(&[Bind::one(bind)]).unwrap().iter().map(|Connection { backend, .. }| backend.to_string()).collect();
    found.sort();
    found
}

/// What `status` counts as active, all backends together.
fn active(json: &str) -> usize {
    json.split("\"active\":").skip(1).map(|rest| rest.split([',', '}']).next().unwrap().parse::<usize>().unwrap()).sum()
}

/// So many flows of one datagram each, which nobody answers.
fn flows(from: &'static str, to: &'static str, n: usize) {
    let work = move || {
        for port in 10_000..10_000 + n {
            let any = if to.starts_with('[') { "[::]" } else { "0.0.0.0" };
            UdpSocket::bind(format!("{any}:{port}")).unwrap().send_to(b"?", to).unwrap();
        }
    };
    inside(from, work).join().unwrap();
}

on_all!(thousands_of_entries_are_counted_as_the_kernels_file_has_them, |lab| {
    let _three = Backend::three();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    sh("iptables -t nat -A PREROUTING -d 10.9.0.1 -p udp --dport 4444 -j DNAT --to 10.2.0.11-10.2.0.13:53");
    sh("ip6tables -t nat -A PREROUTING -d fd09::1 -p udp --dport 4444 -j DNAT --to '[fd02::11-fd02::13]:53'");
    sh("sysctl -qw net.ipv6.conf.all.forwarding=1 net.netfilter.nf_conntrack_udp_timeout=300");
    // Some that have ended, some that live, and such as are none of ours.
    ask_often("client", BIND, 600);
    let hold = || [(); 120].map(|()| Held::open(BIND.parse().unwrap()).unwrap());
    let held = inside("client", hold).join().unwrap();
    held.iter().for_each(|held| drop(held.ask().unwrap()));
    flows("client", BIND, 1500);
    flows("client", SIX, 700);
    flows("client", "10.2.0.12:4444", 800);
    flows("client", "10.9.0.1:4445", 300);
    let tcp = Endpoint::parse(BIND).unwrap();
    for (bind, n) in [(tcp, 120), (udp(BIND), 1500), (udp(SIX), 700)] {
        let told = told(bind);
        assert_eq!(told, in_file(bind), "{bind}");
        assert_eq!(told.len(), n, "{bind}");
    }
    assert_eq!(connections(&[Bind::one(udp("10.2.0.12:4444"))]), Some(Vec::new()), "not balanced");
    assert_eq!(active(&lab.ok("status --json")), 120);
    // Where a kernel lacks the file, and where it lacks ctnetlink.
    let output = without_file(lab, "status --json").output().unwrap();
    assert_eq!(active(&String::from_utf8(output.stdout).unwrap()), 120);
    fs::write(lab.path("deaf"), "").unwrap();
    if let Some(mut deaf) = lab.deaf("status --json") {
        let output = deaf.output().unwrap();
        assert_eq!(active(&String::from_utf8(output.stdout).unwrap()), 120);
    }
    drop(held);
});

on_all!(a_flow_of_datagrams_is_ended_and_no_other, |lab| {
    needs_ipv6();
    sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    for name in ["b1", "b2"] {
        answer_by_name(name, 53);
        // On the port of the flow, so that both entries differ by the protocol alone.
        serve(name, 53);
    }
    sh("iptables -t nat -A PREROUTING -d 10.9.0.1 -p tcp --dport 4444 -j DNAT --to 10.2.0.11:53");
    sh("iptables -t nat -A POSTROUTING -d 10.2.0.0/24 -p tcp -j MASQUERADE");
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    assert_eq!(held.ask().unwrap().0, "b1");
    for bind in [BIND, SIX] {
        let backend = |n: u8| {
            Endpoint::parse(&if bind == SIX { format!("[fd02::1{n}]:53") } else { format!("10.2.0.1{n}:53") }).unwrap()
        };
        hand_datagrams_to(2);
        let other = Flow::from_port(40_002, bind);
        assert_eq!(other.ask().as_deref(), Some("b2"));
        hand_datagrams_to(1);
        let flow = Flow::from_port(40_001, bind);
        assert_eq!(flow.ask().as_deref(), Some("b1"));
        hand_datagrams_to(2);
        assert_eq!(flow.ask().as_deref(), Some("b1"), "rules see only the first packet");
        // The same address by TCP, and another backend, are not meant.
        let done = forget(&[Bind::one(Endpoint::parse(bind).unwrap())], &|one| one.bind.protocol() == Protocol::Udp);
        assert_eq!((done.ended, done.left), (0, 0), "{bind}");
        let done = forget(&[Bind::one(udp(bind))], &|one| one.backend == backend(1));
        assert!(done.ended == 1 && done.left == 0 && done.error.is_none(), "{bind}: {done:?}");
        assert_eq!(told(udp(bind)), [backend(2).to_string()]);
        assert_eq!(flow.ask().as_deref(), Some("b2"), "{bind}");
        assert_eq!(other.ask().as_deref(), Some("b2"), "{bind}");
    }
    assert_eq!(held.ask().unwrap().0, "b1");
    let _ = lab;
});

on_all!(a_flow_that_began_before_the_rules_is_found_and_ended, |lab| {
    needs_ipv6();
    sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    // The balancer itself serves there, and tracks connections.
    answer_at("balancer", BIND);
    answer_at("balancer", SIX);
    serve("b1", 80);
    answer_by_name("b1", 53);
    sh("iptables -A INPUT -m conntrack --ctstate INVALID -j DROP && ip6tables -A INPUT -m conntrack --ctstate INVALID -j DROP");
    let listener = std::net::TcpListener::bind(BIND).unwrap();
    let tcp = inside("client", || std::net::TcpStream::connect(BIND).unwrap()).join().unwrap();
    let own = listener.accept().unwrap();
    for bind in [BIND, SIX] {
        sh("iptables -t nat -F && ip6tables -t nat -F");
        let [flow, another] = [40_001, 40_002].map(|port| Flow::from_port(port, bind));
        let beside = Flow::from_port(40_004, &bind.replace("4444", "4445"));
        for flow in [&flow, &another] {
            assert_eq!(flow.ask().as_deref(), Some("balancer"), "{bind}");
        }
        beside.say();
        hand_datagrams_to(1);
        assert_eq!(flow.ask().as_deref(), Some("balancer"), "{bind}: rules see only the first packet");
        let new = Flow::from_port(40_003, bind);
        assert_eq!(new.ask().as_deref(), Some("b1"));
        assert_eq!(connections(&[Bind::one(udp(bind))]).unwrap().len(), 1, "{bind}: what is balanced");
        let before = begun_before(&[Bind::one(udp(bind)), Bind::one(Endpoint::parse(bind).unwrap())]).unwrap();
        assert!(before.len() == 2 && before.iter().all(|one| one.bind == udp(bind)), "{before:?}");
        // Of TCP none is ended: a service of this host may go on with those that it has.
        let done = forget_begun_before(&[Bind::one(Endpoint::parse(bind).unwrap())]);
        assert!(done.ended == 0 && done.error.is_none(), "{done:?}");
        let done = forget_begun_before(&[Bind::one(udp(bind)), Bind::one(Endpoint::parse(bind).unwrap())]);
        assert!(done.ended == 2 && done.left == 0 && done.error.is_none(), "{done:?}");
        for flow in [&flow, &another, &new] {
            assert_eq!(flow.ask().as_deref(), Some("b1"), "{bind}");
        }
        assert_eq!(begun_before(&[Bind::one(udp(bind))]).unwrap(), []);
    }
    let mine = |line: &&str| line.contains(" tcp ") && line.contains("dst=10.9.0.1 ") && line.contains("ESTABLISHED");
    assert_eq!(table().lines().filter(mine).count(), 1, "{}", table());
    drop((tcp, own));
    let _ = lab;
});
