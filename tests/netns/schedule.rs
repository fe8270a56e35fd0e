//! Weights, random and source, on the real kernel.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::lab::{ask_often, inside, serve, sh, Held, Lab, Variant};
use crate::{answers, on_all, BIND};

fn serve_three() {
    for host in ["b1", "b2", "b3"] {
        serve(host, 80);
    }
}

/// A config with these weights of the three backends.
fn weigh(lab: &Lab, schedule: &str, weights: [u16; 3]) {
    let backend = |(n, weight): (usize, u16)| format!("    - {{address: '10.2.0.1{}:80', weight: {weight}}}\n", n + 1);
    let list: String = weights.into_iter().enumerate().map(backend).collect();
    lab.config(&format!(
        "frontend:\n  bind: {BIND}\n  privateip: 10.2.0.1\n  schedule: {schedule}\n  backends:\n{list}"
    ));
}

on_all!(weights_are_kept_exactly, |lab| {
    serve_three();
    weigh(lab, "roundrobin", [5, 1, 1]);
    lab.ok("start");
    let each = answers(&[("b1 10.2.0.1", 50), ("b2 10.2.0.1", 10), ("b3 10.2.0.1", 10)]);
    assert_eq!(ask_often("client", BIND, 70), each);
    lab.is_in_force();
});

on_all!(random_serves_everybody_and_is_idempotent, |lab| {
    serve_three();
    weigh(lab, "random", [1, 1, 2]);
    lab.ok("start");
    let got = ask_often("client", BIND, 400);
    let of = |name: &str| got.get(&format!("{name} 10.2.0.1")).copied().unwrap_or(0);
    // Six standard deviations.
    assert!(
        (48..=152).contains(&of("b1")) && (48..=152).contains(&of("b2")) && (140..=260).contains(&of("b3")),
        "{got:?}"
    );
    lab.is_in_force();
});

on_all!(a_backend_of_weight_0_keeps_its_connections_and_gets_no_new_ones, |lab| {
    serve_three();
    weigh(lab, "roundrobin", [1, 1, 1]);
    lab.ok("start");
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    let at_first = held.ask().unwrap();
    assert_eq!(at_first.0, "b1");
    weigh(lab, "roundrobin", [0, 1, 1]);
    lab.ok("reload");
    assert_eq!(ask_often("client", BIND, 10), answers(&[("b2 10.2.0.1", 5), ("b3 10.2.0.1", 5)]));
    assert_eq!(held.ask().unwrap(), at_first);
    // One sees when it is done.
    let leaving = |n: usize| {
        let status = lab.ok("status");
        let line = status.lines().find(|line| line.contains("10.2.0.11:80")).unwrap_or("").to_owned();
        assert!(line.ends_with(&format!("{n} active")) || n == 0 && line.is_empty(), "{status}");
    };
    leaving(1);
    drop(held);
    std::thread::sleep(std::time::Duration::from_millis(300));
    leaving(0);
});

on_all!(without_a_live_backend_new_connections_are_refused_and_old_ones_live, |lab| {
    serve_three();
    sh("iptables -P FORWARD DROP");
    lab.let_through();
    // A service of the balancer itself on that port must not answer by accident.
    let (ready, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let listener = std::net::TcpListener::bind("0.0.0.0:4444").unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            use std::io::Write;
            writeln!(stream.unwrap(), "impostor 0.0.0.0").unwrap();
        }
    });
    wait.recv().unwrap();
    weigh(lab, "roundrobin", [1, 1, 1]);
    lab.ok("start");
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    let at_first = held.ask().unwrap();
    for schedule in ["roundrobin", "random", "source"] {
        weigh(lab, schedule, [0, 0, 0]);
        lab.ok("reload");
        assert_eq!(ask_often("client", BIND, 2), answers(&[("ConnectionRefused", 2)]), "{schedule}");
        assert_eq!(ask_often("balancer", BIND, 2), answers(&[("ConnectionRefused", 2)]), "{schedule}");
        assert_eq!(held.ask().unwrap(), at_first);
        assert!(lab.ok("status").contains(BIND), "it is still shown");
    }
    // Others' ports are not refused.
    assert_eq!(ask_often("client", "10.1.0.1:4444", 1), answers(&[("impostor 0.0.0.0", 1)]));
    lab.ok("stop");
    assert_eq!(lab.ours(), [""; 0]);
});

/// Asks from 64 addresses of the client's network, twice; returns the backend of each.
fn ask_from_many(network: &'static str, to: &'static str) -> BTreeMap<IpAddr, String> {
    let ask_all = move || {
        let from = |n: u32| -> IpAddr {
            format!("{network}{}", if network.contains(':') { format!("{n:x}") } else { n.to_string() })
                .parse()
                .unwrap()
        };
        (100..164)
            .map(|n| (from(n), crate::lab::ask_from(from(n), to.parse::<SocketAddr>().unwrap()).unwrap().0))
            .collect::<BTreeMap<_, _>>()
    };
    let first = inside("client", ask_all).join().unwrap();
    assert_eq!(inside("client", ask_all).join().unwrap(), first, "the same client gets the same backend");
    first
}

on_all!(source_keeps_clients_where_they_are, |lab| {
    serve_three();
    for n in 100..164 {
        sh(&format!(
            "ip -n client addr add 10.1.0.{n}/32 dev eth0 && ip -n client -6 addr add fd01::{n:x}/128 dev eth0 nodad"
        ));
    }
    weigh(lab, "source", [1, 1, 1]);
    lab.ok("start");
    let before = ask_from_many("10.1.0.", BIND);
    for name in ["b1", "b2", "b3"] {
        let n = before.values().filter(|backend| *backend == name).count();
        assert!((8..=40).contains(&n), "{name} has {n} of 64 clients");
    }
    // The same as the pure model says.
    let services = paraglider::serve::load(lab.path("glider.yaml").to_str().unwrap()).unwrap().services;
    let owners = paraglider::schedule::owners(&services[0].backends);
    for (client, backend) in &before {
        let IpAddr::V4(v4) = client else { panic!() };
        assert_eq!(*backend, format!("b{}", owners[usize::from(v4.octets()[3])] + 1));
    }
    // Taken out, its clients go elsewhere and nearly all others stay; put back, all is as before.
    weigh(lab, "source", [1, 0, 1]);
    lab.ok("reload");
    let without = ask_from_many("10.1.0.", BIND);
    let moved = before.iter().filter(|(client, was)| *was != "b2" && without[*client] != **was).count();
    assert!(moved <= 6 && without.values().all(|backend| backend != "b2"), "{moved} of the others moved");
    weigh(lab, "source", [1, 1, 1]);
    lab.ok("reload");
    assert_eq!(ask_from_many("10.1.0.", BIND), before);
    lab.is_in_force();

    lab.config("frontend: {bind: '[fd09::1]:4444', schedule: source, backends: ['[fd02::11]:80', '[fd02::12]:80', '[fd02::13]:80']}");
    lab.ok("reload");
    let six = ask_from_many("fd01::", "[fd09::1]:4444");
    assert!(["b1", "b2", "b3"].iter().all(|name| six.values().any(|backend| backend == name)), "{six:?}");
    lab.is_in_force();
});

// A web server's two ports, or control and data: each client finds what it left there.
on_all!(source_brings_a_client_to_one_host_on_all_ports, |lab| {
    for n in 100..164 {
        sh(&format!(
            "ip -n client addr add 10.1.0.{n}/32 dev eth0 && ip -n client -6 addr add fd01::{n:x}/128 dev eth0 nodad"
        ));
    }
    for host in ["b1", "b2", "b3"] {
        serve(host, 80);
        serve(host, 443);
    }
    // The order of the list does not matter.
    let frontend =
        |bind: &str, backends: &[&str]| format!("- {{bind: '{bind}', schedule: source, backends: {backends:?}}}\n");
    lab.config(&format!(
        "frontends:\n{}{}{}{}",
        frontend("10.9.0.1:80", &["10.2.0.11:80", "10.2.0.12:80", "10.2.0.13:80"]),
        frontend("10.9.0.1:443", &["10.2.0.13:443", "10.2.0.12:443", "10.2.0.11:443"]),
        frontend("[fd09::1]:80", &["[fd02::11]:80", "[fd02::12]:80", "[fd02::13]:80"]),
        frontend("[fd09::1]:443", &["[fd02::12]:443", "[fd02::11]:443", "[fd02::13]:443"]),
    ));
    lab.ok("start");
    for (network, web, tls) in [("10.1.0.", "10.9.0.1:80", "10.9.0.1:443"), ("fd01::", "[fd09::1]:80", "[fd09::1]:443")]
    {
        let hosts = ask_from_many(network, web);
        assert_eq!(ask_from_many(network, tls), hosts);
        assert!(["b1", "b2", "b3"].iter().all(|name| hosts.values().any(|host| host == name)), "{hosts:?}");
    }
    lab.is_in_force();
});

// On the old iptables every change of the table by anybody starts the counters anew; on the new one none does.
on_all!(check_tells_when_another_program_churns_the_table, |lab| {
    serve_three();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    ask_often("client", BIND, 10);
    assert!(!lab.ok("check").contains("another program"));
    for _ in 0..4 {
        sh("iptables -t nat -A PREROUTING -s 198.51.100.1 -j RETURN");
        ask_often("client", BIND, 1);
    }
    assert_eq!(lab.ok("check").contains("another program"), lab.variant == Variant::Legacy);
});

// One reload for every two connections: with the start going round, nobody is left out.
on_all!(shares_are_even_under_constant_reloads, |lab| {
    serve_three();
    let mut all: BTreeMap<String, usize> = BTreeMap::new();
    for n in 0..60 {
        // The name changes, so everything is written anew.
        lab.config(&format!(
            "frontend:\n  bind: {BIND}\n  privateip: 10.2.0.{}\n  backends: ['10.2.0.11:80', '10.2.0.12:80', '10.2.0.13:80']\n",
            if n % 2 == 0 { "1" } else { "1-10.2.0.1" }
        ));
        sh(&format!("{} 2>/dev/null || :", lab.loses_local_clients()));
        lab.ok("reload");
        for (answer, n) in ask_often("client", BIND, 2) {
            *all.entry(answer).or_default() += n;
        }
    }
    assert_eq!(all.values().copied().collect::<Vec<_>>(), [40, 40, 40], "{all:?}");
});
