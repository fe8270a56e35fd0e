//! What is served already goes on: a start takes nothing over, and packets of unknown connections are answered.

use std::net::SocketAddr;

use crate::lab::{ask_often, inside, serve, sh, Held, Lab, Variant};
use crate::watching::shares;
use crate::{answers, on_all, BIND};

/// Connections that are held by a client.
fn hold(to: &str, n: usize) -> Vec<Held> {
    let to: SocketAddr = to.parse().unwrap();
    inside("client", move || (0..n).map(|_| Held::open(to).unwrap()).collect()).join().unwrap()
}

/// How many of them still answer, each by the host that it began with.
fn alive(held: &[Held], host: &str) -> usize {
    held.iter().filter(|one| one.ask().is_ok_and(|(name, _)| name == host)).count()
}

/// Something on the balancer itself serves the bind.
fn serve_here() {
    serve_here_in(BIND, "proxy");
}

fn serve_here_in(bind: &str, name: &'static str) {
    let listener = std::net::TcpListener::bind(bind).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                use std::io::{BufRead, Write};
                let mut lines = std::io::BufReader::new(stream.try_clone().unwrap()).lines();
                while let Some(Ok(_)) = lines.next() {
                    writeln!(stream, "{name} 0.0.0.0").unwrap();
                }
            });
        }
    });
}

fn serve_three() {
    for host in ["b1", "b2", "b3"] {
        serve(host, 80);
    }
}

on_all!(connections_of_a_local_proxy_live_on, |lab| {
    serve_three();
    serve_here();
    let held = hold(BIND, 6);
    assert_eq!(alive(&held, "proxy"), 6);
    for schedule in ["roundrobin", "random"] {
        lab.config(&format!(
            "frontend: {{bind: '{BIND}', privateip: 10.2.0.1, schedule: {schedule}, backends: ['10.2.0.11:80', '10.2.0.12:80']}}"
        ));
        lab.ok("start");
        assert_eq!(alive(&held, "proxy"), 6, "{schedule}");
        assert_eq!(shares(BIND, 40).len(), 2);
        lab.ok("stop");
        assert_eq!(alive(&held, "proxy"), 6, "{schedule}");
    }
});

on_all!(connections_of_a_local_proxy_live_on_behind_a_firewall, |lab| {
    serve_three();
    serve_here();
    for firewall in [
        "-P INPUT DROP; -A INPUT -p tcp --dport 4444 -j ACCEPT; -P FORWARD DROP",
        "-A INPUT -i tun0 -p tcp -j REJECT",
        "-A INPUT -i tun0 -j DROP; -A INPUT -p tcp --dport 4444 -j ACCEPT; -P INPUT DROP",
        "-A INPUT -i lan -j REJECT; -A INPUT -i wan -j ACCEPT; -A INPUT -j DROP",
        "-N in; -A in -p tcp --dport 4444 -j ACCEPT; -A in -j DROP; -A INPUT -j in",
        "-N in; -A in -p tcp --dport 4444 -m limit --limit 100/s -j ACCEPT; -A in -j DROP; -A INPUT -j in",
    ] {
        for rule in firewall.split(';') {
            sh(&format!("iptables {rule}"));
        }
        if firewall.contains("FORWARD DROP") {
            lab.let_through();
        }
        let held = hold(BIND, 6);
        lab.balance(&[1, 2, 3]);
        lab.ok("start");
        assert_eq!(alive(&held, "proxy"), 6, "{firewall}");
        assert_eq!(shares(BIND, 3).len(), 3);
        lab.ok("stop");
        sh("iptables -P INPUT ACCEPT; iptables -P FORWARD ACCEPT; iptables -F; iptables -X");
    }
});

on_all!(connections_that_are_routed_through_this_host_live_on, |lab| {
    serve_three();
    // The bind is the address of a host behind this one, which is to be relieved.
    sh("ip addr del 10.9.0.1/32 dev lo; ip -n b3 addr add 10.9.0.1/32 dev lo; ip route add 10.9.0.1 via 10.2.0.13");
    sh("ip -n b3 route add default via 10.2.0.1; sysctl -qw net.ipv4.ip_forward=1");
    serve("b3", 4444);
    let held = hold(BIND, 6);
    lab.balance(&[1, 2]);
    lab.ok("start");
    assert_eq!(alive(&held, "b3"), 6);
    assert_eq!(ask_often("client", BIND, 2), answers(&[("b1 10.2.0.1", 1), ("b2 10.2.0.1", 1)]));
});

on_all!(connections_of_an_ipv6_proxy_live_on, |lab| {
    crate::lab::needs_ipv6();
    serve("b1", 80);
    serve_here_in("[fd09::1]:4444", "balancer6");
    let held = hold("[fd09::1]:4444", 3);
    lab.config("frontend: {bind: '[fd09::1]:4444', privateip: 'fd02::1', backends: ['[fd02::11]:80']}");
    lab.ok("start");
    assert_eq!(alive(&held, "balancer6"), 3);
    assert_eq!(ask_often("client", "[fd09::1]:4444", 2), answers(&[("b1 fd02::1", 2)]));
});

/// The kernel loses the entries of all balanced connections.
fn forget_all() {
    let bind = paraglider::net::Endpoint::parse(BIND).unwrap();
    assert!(
        paraglider::host::conntrack::forget(&[paraglider::service::Bind::one(bind)], &|_| true).complete().unwrap() > 0
    );
}

on_all!(by_source_a_connection_outlives_its_entry, |lab| {
    serve_three();
    lab.config(&format!(
        "frontend: {{bind: '{BIND}', privateip: 10.2.0.1, schedule: source, backends: ['10.2.0.11:80', '10.2.0.12:80']}}"
    ));
    lab.ok("start");
    let held = hold(BIND, 4);
    let (host, _) = held[0].ask().unwrap();
    forget_all();
    assert_eq!(alive(&held, &host), 4);
});

on_all!(a_connection_that_was_lost_is_reset_and_does_not_hang, |lab| {
    serve_three();
    // With and without a firewall that drops what it does not know.
    for firewall in [
        "true",
        "iptables -P INPUT DROP; iptables -P FORWARD DROP",
        "iptables -P INPUT ACCEPT; iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; \
         iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -j DROP",
    ] {
        sh(firewall);
        lab.let_through();
        lab.balance(&[1, 2, 3]);
        lab.ok("start");
        let held = hold(BIND, 3);
        forget_all();
        for one in &held {
            let error = one.ask().unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{firewall}");
        }
        // Nothing of it counts as a connection that was taken.
        let taken: u64 = lab
            .ok("status --json")
            .split("\"taken\":")
            .skip(1)
            .map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(taken, 3, "{firewall}");
        lab.is_in_force();
        lab.ok("stop");
        assert_eq!(lab.ours(), [""; 0]);
    }
});
