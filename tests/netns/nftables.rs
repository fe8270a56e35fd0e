//! What only the nftables engine has: a host without any program of netfilter, its one table, and the way from iptables
//! to it and back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::health::{checked, QUICK};
use crate::lab::{
    ask_from, ask_often, connect_within, inside, needs_ipv6, run, serve, sh, shell, Held, Lab, Variant, PATIENCE,
};
use crate::watching::{failed, shares, told, until, Clients, Watch, SLACK};
use crate::{answers, on_both, BIND};

/// Only the story finds iptables and nft, so that all that is told in this laboratory is told of the kernel alone.
#[test]
fn the_host_has_no_program_of_netfilter() {
    crate::in_lab("nftables::the_host_has_no_program_of_netfilter", Variant::Netlink, |lab| {
        for family in ["iptables", "ip6tables"] {
            for program in ["", "-save", "-restore", "-nft", "-nft-restore", "-legacy", "-legacy-save"] {
                let name = format!("{family}{program}");
                // In the same way as the program under test, which also looks where PATH does not lead.
                assert_eq!(paraglider::sys::process::find(&name), None);
                sh(&format!("command -v {name}"));
            }
        }
        assert_eq!(paraglider::sys::process::find("nft"), None);
        assert!(paraglider::sys::process::find("ip").is_some());
        sh("iptables -A INPUT -p udp -j ACCEPT && iptables-legacy -S && nft list ruleset && ip6tables-save");
        assert!(lab.others().iter().any(|line| line.starts_with("iptables-nft ") && line.contains("-A INPUT")));
        // Nor does it run another program.
        lab.balance(&[1, 2, 3]);
        for verb in ["start", "status", "check", "stop"] {
            let output = lab.command(&format!("-v {verb}")).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!said.contains(" run /"), "{verb}: {said}");
        }
        assert!(run("ip", &["link"]).status.success());
    });
}

/// What the other stories are told by: what the laboratory takes for ours, for others', and for a change.
#[test]
fn the_laboratory_sees_tables_of_nftables() {
    crate::in_lab("nftables::the_laboratory_sees_tables_of_nftables", Variant::Netlink, |lab| {
        let others = lab.others();
        assert_eq!(lab.ours(), [""; 0]);
        sh("nft 'add table inet paraglider; add chain inet paraglider x; add counter inet paraglider taken; \
            add rule inet paraglider x meta l4proto tcp counter name taken dnat ip to 10.2.0.11:80'");
        assert_eq!(
            lab.ours(),
            [
                "nft inet paraglider",
                "nft inet paraglider chain x",
                "nft inet paraglider chain x 0001: meta l4proto tcp counter name \"taken\" dnat ip to 10.2.0.11:80",
                "nft inet paraglider counter taken",
            ]
        );
        assert_eq!(lab.others(), others);
        let ours = (lab.ours(), lab.handles());
        // The same rule once more is written all the same.
        sh("nft 'flush chain inet paraglider x; add rule inet paraglider x meta l4proto tcp counter name taken dnat ip to 10.2.0.11:80'");
        assert!(lab.ours() == ours.0 && lab.handles() != ours.1);
        for change in [
            "add table inet own",
            "add chain inet own in { type filter hook input priority 5; }",
            "add rule inet own in tcp dport 9 counter",
            "add set inet own bans { type ipv4_addr; }",
            "add element inet own bans { 10.7.0.1, 10.7.0.2, 10.7.0.3, 10.7.0.4 }",
            "add table ip paragliders",
            "delete table inet own",
        ] {
            let before = lab.others();
            sh(&format!("nft '{change}'"));
            assert_ne!(lab.others(), before, "{change}");
        }
        assert_eq!(lab.ours(), ours.0);
    });
}

/// A config that says by what its rules are to be written.
fn by(engine: &str, config: &str) -> String {
    format!("engine: {engine}\n{config}")
}

fn three_backends(privateip: &str) -> String {
    format!("frontend: {{bind: '{BIND}', privateip: {privateip}, backends: ['10.2.0.11:80', '10.2.0.12:80', '10.2.0.13:80']}}\n")
}

fn serve_three() {
    for host in ["b1", "b2", "b3"] {
        serve(host, 80);
    }
}

/// What writes the rules that are in force: each line of ours is of one engine.
fn in_force_by(lab: &Lab) -> &'static str {
    let ours = lab.ours();
    let of = |begin: &str| ours.iter().filter(|line| line.starts_with(begin)).count();
    match (of("nft "), of("iptables-") + of("ip6tables-")) {
        (0, 0) => "nothing",
        (_, 0) => "nftables",
        (0, _) => "iptables",
        _ => panic!("{ours:?}"),
    }
}

on_both!(a_switch_of_the_engine_is_a_reload, |lab| {
    serve_three();
    lab.config(&three_backends("10.2.0.1"));
    lab.ok("start");
    // Where iptables is installed, it is what writes.
    assert_eq!(in_force_by(lab), "iptables");
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    let at_first = held.ask().unwrap();
    let clients = Clients::begin("client", BIND, 4, Duration::ZERO);
    for n in 0..24 {
        let engine = ["nftables", "iptables"][n % 2];
        lab.config(&by(engine, &three_backends("10.2.0.1")));
        lab.ok(["start", "reload"][n / 2 % 2]);
        assert_eq!(in_force_by(lab), engine);
        assert_eq!(held.ask().unwrap(), at_first, "switch {n}");
        let state = if engine == "nftables" { engine } else { lab.variant.engine() };
        assert!(lab.ok("status").starts_with(&format!("in force ({state}")), "{}", lab.ok("status"));
    }
    let attempts = clients.end();
    assert!(attempts.len() > 1000 && failed(&attempts).is_empty(), "{}: {:?}", attempts.len(), failed(&attempts));
    // And each of the two is found by a stop, whatever the config says.
    for (engine, other) in [("nftables", "iptables"), ("iptables", "nftables")] {
        lab.config(&by(engine, &three_backends("10.2.0.1")));
        lab.ok("start");
        lab.config(&by(other, &three_backends("10.2.0.1")));
        assert_eq!(lab.paraglider("status").0, 1, "it is in force in another one");
        lab.ok("stop");
        assert_eq!(lab.ours(), [""; 0]);
    }
});

// With both at once from the start, as after a `start` that was killed between the two.
on_both!(rules_in_two_engines_are_made_one, |lab| {
    serve_three();
    lab.config(&by("nftables", &three_backends("10.2.0.1")));
    lab.ok("start");
    sh("nft list table inet paraglider >/run/table");
    lab.config(&three_backends("10.2.0.1"));
    lab.ok("start");
    sh("nft -f /run/table");
    assert_eq!(lab.paraglider("status").0, 1);
    lab.ok("start");
    assert_eq!(in_force_by(lab), "iptables");
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
    sh("nft -f /run/table");
    lab.ok("stop");
    assert_eq!(lab.ours(), [""; 0]);
});

/// The backend of each of 256 addresses of the client's.
fn of_each(network: &'static str, to: &'static str) -> BTreeMap<u16, String> {
    let ask_all = move || {
        let from = |n: u16| if to.starts_with('[') { format!("{network}{n:x}") } else { format!("{network}{n}") };
        let ask = |n: u16| ask_from(from(n).parse().unwrap(), to.parse().unwrap()).unwrap().0;
        (0..256).map(|n| (n, ask(n))).collect()
    };
    inside("client", ask_all).join().unwrap()
}

on_both!(each_client_keeps_its_backend_over_a_switch_of_the_engine, |lab| {
    serve_three();
    let mut addresses = String::new();
    for n in 0..256 {
        let _ = writeln!(addresses, "addr add 10.1.1.{n}/32 dev eth0");
    }
    std::fs::write(lab.path("four"), &addresses).unwrap();
    sh(&format!("ip -n client -batch {} && ip route add 10.1.1.0/24 via 10.1.0.2", lab.path("four").display()));
    let config = |bind: &str, network: &str| {
        let backend =
            |n: usize| format!("{{address: '{}:80', weight: {}}}", network.replace('#', &n.to_string()), n % 2 + 1);
        format!(
            "frontend: {{bind: '{bind}', schedule: source, backends: [{}, {}, {}]}}\n",
            backend(1),
            backend(2),
            backend(3)
        )
    };
    let switch = |config: &str, network: &'static str, bind: &'static str| {
        let mut before = None;
        for engine in ["iptables", "nftables", "iptables"] {
            lab.config(&by(engine, config));
            lab.ok("start");
            assert_eq!(in_force_by(lab), engine);
            let now = of_each(network, bind);
            assert!(["b1", "b2", "b3"].iter().all(|name| now.values().any(|of| of == name)), "{now:?}");
            assert_eq!(*before.get_or_insert(now.clone()), now, "{engine}");
        }
    };
    switch(&config(BIND, "10.2.0.1#"), "10.1.1.", BIND);
    needs_ipv6();
    let six: String = (0..256).fold(String::new(), |mut all, n| {
        let _ = writeln!(all, "addr add fd01:1::{n:x}/128 dev eth0 nodad");
        all
    });
    std::fs::write(lab.path("six"), six).unwrap();
    sh(&format!("ip -n client -6 -batch {} && ip -6 route add fd01:1::/64 via fd01::2", lab.path("six").display()));
    switch(&config("[fd09::1]:4444", "[fd02::1#]"), "fd01:1::", "[fd09::1]:4444");
});

/// A story of this engine alone.
macro_rules! story {
    ($(#[$doc:meta])* $name:ident, $story:expr) => {
        crate::on! { $(#[$doc])* $name, $story, netlink: Netlink }
    };
}

fn taken(lab: &Lab, backend: &str) -> u64 {
    let json = lab.ok("status --json");
    let words = told(&json, backend).split("\"taken\":").nth(1).unwrap().split(',').next().unwrap().to_owned();
    words.parse().unwrap()
}

story!(counters_outlive_a_reload, |lab| {
    serve_three();
    lab.balance(&[1, 2]);
    lab.ok("start");
    assert_eq!(shares(BIND, 10).into_values().collect::<Vec<_>>(), [5, 5]);
    assert_eq!((taken(lab, "10.2.0.11:80"), taken(lab, "10.2.0.12:80")), (5, 5));
    // Another one comes, and goes.
    lab.balance(&[1, 2, 3]);
    lab.ok("reload");
    let of = |n: u8| taken(lab, &format!("10.2.0.1{n}:80"));
    assert_eq!((of(1), of(2), of(3)), (5, 5, 0));
    assert_eq!(shares(BIND, 9).into_values().collect::<Vec<_>>(), [3, 3, 3]);
    assert_eq!((of(1), of(2), of(3)), (8, 8, 3));
    lab.balance(&[1, 2]);
    lab.ok("reload");
    assert_eq!((of(1), of(2)), (8, 8));
    assert!(!lab.ours().iter().any(|line| line.contains("10.2.0.13")), "{:?}", lab.ours());
    // One that comes back is a new one.
    lab.balance(&[1, 2, 3]);
    lab.ok("reload");
    assert_eq!((of(1), of(2), of(3)), (8, 8, 0));
});

story!(the_turn_goes_on_when_a_backend_is_replaced, |lab| {
    lab.add_backend(4);
    serve_three();
    serve("b4", 80);
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    let turns = [["b1", "b2", "b3"], ["b1", "b4", "b3"]];
    for n in 0..30 {
        let expected = turns[n % 2][n % 3];
        assert_eq!(ask_often("client", BIND, 1), answers(&[(&format!("{expected} 10.2.0.1"), 1)]), "after {n} reloads");
        lab.balance(if n % 2 == 0 { &[1, 4, 3] } else { &[1, 2, 3] });
        lab.ok("reload");
    }
});

story!(a_flush_of_all_rules_is_mended_within_two_seconds, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    for flush in ["nft flush ruleset", "nft delete table inet paraglider", "nft flush table inet paraglider"] {
        sh(flush);
        let took = until("the rules are back", || lab.paraglider("status").0 == 0);
        assert!(took < Duration::from_secs(2) + SLACK, "{flush}: {took:?}\n{}", watch.text());
        assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10], "{flush}");
    }
});

// As /etc/nftables.conf is made on many hosts, and loaded at the next boot.
story!(a_table_that_was_saved_and_loaded_again_is_ours, |lab| {
    serve_three();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    ask_often("client", BIND, 4);
    sh("nft list ruleset >/run/ruleset && nft flush ruleset && nft -f /run/ruleset");
    assert!(matches!(lab.paraglider("status").0, 0 | 1));
    lab.ok("start");
    lab.is_in_force();
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
    // Of another config, whose rules must not stay.
    lab.balance(&[1, 2]);
    lab.ok("start");
    sh("nft flush ruleset && nft -f /run/ruleset");
    assert_eq!(lab.paraglider("status").0, 1);
    lab.ok("start");
    lab.is_in_force();
    assert_eq!(shares(BIND, 10).into_values().collect::<Vec<_>>(), [5, 5]);
    assert!(!lab.ours().iter().any(|line| line.contains("10.2.0.13")), "{:?}", lab.ours());
    // And a stop removes it, however it came.
    for _ in 0..2 {
        lab.ok("stop");
        assert_eq!(lab.ours(), [""; 0]);
        sh("nft -f /run/ruleset");
    }
    lab.ok("stop");
    assert_eq!(lab.ours(), [""; 0]);
});

/// A service on each address of b1's network behind it, which answers with the address that it was reached by.
fn serve_many() {
    sh("ip route add 10.2.4.0/22 via 10.2.0.11 && ip -n b1 route add local 10.2.4.0/22 dev lo");
    let (ready, wait) = mpsc::channel();
    inside("b1", move || {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)).unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = writeln!(stream, "{}", stream.local_addr().unwrap().ip().to_canonical());
        }
    });
    wait.recv().unwrap();
}

/// A config with the first `n` of them.
fn many(n: usize) -> String {
    let address = |n: usize| format!("    - 10.2.{}.{}:80\n", 4 + n / 256, n % 256);
    let list: String = (0..n).map(address).collect();
    format!("frontend:\n  bind: {BIND}\n  privateip: 10.2.0.1\n  backends:\n{list}")
}

fn reached(n: usize) -> BTreeMap<IpAddr, usize> {
    let to: SocketAddr = BIND.parse().unwrap();
    let work = move || {
        let mut counts = BTreeMap::new();
        for _ in 0..n {
            let stream = connect_within(PATIENCE, "10.1.0.2:0".parse().unwrap(), to).unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            *counts.entry(line.trim().parse().unwrap()).or_default() += 1;
        }
        counts
    };
    inside("client", work).join().unwrap()
}

story!(a_thousand_and_twenty_four_backends_are_exact, |lab| {
    serve_many();
    lab.config(&many(1024));
    lab.ok("start");
    lab.is_in_force();
    // From both processors at once.
    let asking = [(); 4].map(|()| thread::spawn(|| reached(700)));
    let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for part in asking {
        part.join().unwrap().into_iter().for_each(|(address, n)| *counts.entry(address).or_default() += n);
    }
    assert_eq!((counts.len(), counts.values().sum::<usize>()), (1024, 2800));
    assert!(counts.values().all(|n| matches!(n, 2 | 3)), "{counts:?}");
    // And each was counted where it went.
    let json = lab.ok("status --json");
    for (address, n) in counts {
        assert!(told(&json, &format!("{address}:80")).contains(&format!("\"taken\":{n},")), "{address}: {n}");
    }
    lab.ok("stop");
    assert_eq!(lab.ours(), [""; 0]);
});

/// Puts one config after the other in force while clients connect: not one is lost, and one that is held lives on.
fn under_reloads(lab: &Lab, reloads: usize, config: &dyn Fn(usize) -> String) {
    serve_many();
    lab.config(&config(0));
    lab.ok("start");
    let held =
        inside("client", || connect_within(PATIENCE, "10.1.0.2:0".parse().unwrap(), BIND.parse().unwrap()).unwrap());
    let mut held = BufReader::new(held.join().unwrap());
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients = [(); 3].map(|()| {
        let done = done.clone();
        thread::spawn(move || {
            let mut made = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                made += reached(50).into_values().sum::<usize>();
            }
            made
        })
    });
    let since = Instant::now();
    for n in 0..reloads {
        lab.config(&config(n));
        lab.ok("reload");
        thread::sleep((since + Duration::from_millis(90) * n as u32).saturating_duration_since(Instant::now()));
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    // One that failed would have panicked.
    let made: usize = clients.map(|client| client.join().expect("a connection was lost")).iter().sum();
    println!("{made} connections over {reloads} reloads in {:?}", since.elapsed());
    assert!(made > 5000, "{made}");
    let mut line = String::new();
    held.read_line(&mut line).unwrap();
    assert!(line.starts_with("10.2."), "{line}");
}

story!(two_hundred_reloads_lose_nothing, |lab| {
    let numbers = [200, 3, 64, 4, 5, 1, 65, 3];
    under_reloads(lab, 200, &|n| many(numbers[n % numbers.len()]));
});

story!(frontends_that_come_and_go_are_not_felt_by_another, |lab| {
    let backends = (0..5).map(|n| format!("'10.2.4.{}:80'", n + 1)).collect::<Vec<_>>().join(", ");
    under_reloads(lab, 100, &|n| {
        let others: String = (0..n % 4)
            .map(|other| format!(", {{bind: '10.9.0.1:{}', privateip: none, backends: [{backends}]}}", 5000 + other))
            .collect();
        format!("frontends: [{{bind: '{BIND}', privateip: 10.2.0.1, backends: [{backends}]}}{others}]")
    });
});

/// A table that its owner holds: nobody else may change it.
#[test]
fn a_table_that_another_process_owns_is_a_sentence() {
    crate::in_lab("nftables::a_table_that_another_process_owns_is_a_sentence", Variant::Netlink, |lab| {
        lab.balance(&[1, 2, 3]);
        let mut owner = shell("exec nft -i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        writeln!(owner.stdin.as_ref().unwrap(), "add table inet paraglider {{ flags owner; }}").unwrap();
        until("it is there", || sh("nft list tables").contains("inet paraglider"));
        let before = lab.saved(false);
        for (verb, code) in [("start", 1), ("stop", 1)] {
            let (got, _, err) = lab.paraglider(verb);
            assert!(got == code && err.contains("nothing was") && !err.contains("EPERM"), "{verb}: {got} {err}");
            assert_eq!(lab.saved(false), before);
        }
        owner.kill().unwrap();
        owner.wait().unwrap();
        lab.ok("start");
        lab.is_in_force();
    });
}
