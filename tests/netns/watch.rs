//! `watch` as a process: how it comes, goes and is told something, and what the other verbs do meanwhile.

use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::backend::{impostor, Backend};
use crate::failure::pause_between_tables;
use crate::health::{checked, hold_three, of_backends, QUICK, WINDOW};
use crate::lab::{ask_often, inside, sh, Held, Lab, Variant};
use crate::watching::{by, failed, kept, shares, told, until, Clients, Watch, BOUND, SLACK};
use crate::{answers, on_all, BIND};

const B2_DOWN: &str = "10.2.0.12:80 of 10.9.0.1:4444 is down";
const B2_UP: &str = "10.2.0.12:80 of 10.9.0.1:4444 is up";

/// No new connection goes to b2, and each gets an answer.
fn without_b2() {
    assert_eq!(shares(BIND, 10), [("b1".to_owned(), 5), ("b3".to_owned(), 5)].into());
}

on_all!(killed_it_leaves_all_running_and_the_next_one_remembers, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let begin = Instant::now();
    let watch = Watch::begin(lab);
    b2.stop();
    watch.turns(lab, begin, B2_DOWN);
    let rules = lab.ours();
    let clients = Clients::begin("client", BIND, 2, Duration::from_millis(10));
    assert_eq!(watch.end(Signal::SIGKILL), None);
    assert_eq!(lab.ours(), rules);
    assert_eq!(shares(BIND, 10).into_keys().collect::<Vec<_>>(), ["b1", "b3"]);
    let begin = Instant::now();
    let watch = Watch::begin(lab);
    until("some more checks", || begin.elapsed() > WINDOW * 2);
    let attempts = clients.end();
    let failures = failed(&attempts);
    assert!(attempts.len() > 50 && failures.is_empty(), "{} of {}: {failures:?}", failures.len(), attempts.len());
    assert!(told(&lab.ok("status --json"), "10.2.0.12:80").contains("\"state\":\"down\""));
    b2.start();
    watch.turns(lab, begin, B2_UP);
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
});

on_all!(status_is_right_at_any_time, |lab| {
    let [_b1, mut b2, mut b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let begin = Instant::now();
    // Two that go at about the same time are two changes of the rules, and the one may come while the other is looked at.
    for _ in 0..2 {
        [&mut b2, &mut b3].into_iter().for_each(Backend::stop);
        let since = Instant::now();
        while watch.lines(since, "is down").len() < 2 {
            lab.ok("status");
            assert!(lab.ok("status --prometheus").contains("\nparaglider_in_force 1\n"));
        }
        [&mut b2, &mut b3].into_iter().for_each(Backend::start);
        let since = Instant::now();
        while watch.lines(since, "is up").len() < 2 {
            lab.ok("status");
            assert!(begin.elapsed() < BOUND);
        }
    }
});

on_all!(told_to_end_it_leaves_the_rules_unless_told_otherwise, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let watch = Watch::begin(lab);
        let rules = lab.ours();
        assert_eq!(watch.end(signal), Some(0), "{signal}");
        assert_eq!(lab.ours(), rules, "{signal}");
        lab.ok("status");
        assert_eq!(shares(BIND, 3).len(), 3, "{signal}");
    }
    // No watch runs now, and `start` says so.
    let (code, _, err) = lab.paraglider("start");
    assert!(
        code == 0 && err.contains("already in force") && err.contains("not checked until `paraglider watch` runs"),
        "{err}"
    );
    assert!(told(&lab.ok("status --json"), "10.2.0.12:80").contains("\"state\":\"unchecked\""));
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let watch = Watch::with(lab, "watch --stop-on-exit");
        assert_eq!(watch.end(signal), Some(0), "{signal}");
        assert_eq!(lab.ours(), [""; 0], "{signal}");
    }
    assert_eq!(ask_often("client", BIND, 1), answers(&[("ConnectionRefused", 1)]));
});

on_all!(a_new_config_is_taken_and_a_broken_one_is_not, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    b2.stop();
    watch.turns(lab, since, B2_DOWN);
    let rules = lab.ours();
    let held = hold_three_of_two();
    lab.config(&checked("interval: 2 hours", &[1]));
    watch.signal(Signal::SIGHUP);
    watch.hears(since, "glider.yaml:4:");
    assert_eq!(lab.ours(), rules);
    without_b2();

    // A backend that is to be drained keeps its connections; the dead one is still known to be dead.
    let clients = Clients::begin("client", BIND, 1, Duration::from_millis(5));
    lab.config(&of_backends(QUICK, "{address: '10.2.0.11:80', weight: 0}, '10.2.0.12:80', '10.2.0.13:80'"));
    watch.signal(Signal::SIGHUP);
    until("the new rules are there", || lab.ours() != rules);
    let reloaded = Instant::now();
    assert_eq!(shares(BIND, 6), [("b3".to_owned(), 6)].into());
    until("some more checks", || reloaded.elapsed() > WINDOW * 2);
    let attempts = clients.end();
    assert!(failed(&attempts).is_empty(), "{:?}", failed(&attempts));
    for held in held {
        held.ask().unwrap();
    }
    assert_eq!(shares(BIND, 6), [("b3".to_owned(), 6)].into());
    b2.start();
    watch.turns(lab, since, B2_UP);
    assert_eq!(shares(BIND, 6), [("b2".to_owned(), 3), ("b3".to_owned(), 3)].into());
    assert_eq!(watch.end(Signal::SIGTERM), Some(0));
});

/// Connections that the client holds, to b1 and b3.
fn hold_three_of_two() -> Vec<Held> {
    let held = inside("client", || [(); 2].map(|()| Held::open(BIND.parse().unwrap()).unwrap())).join().unwrap();
    let mut names: Vec<_> = held.iter().map(|held| held.ask().unwrap().0).collect();
    names.sort();
    assert_eq!(names, ["b1", "b3"]);
    held.into()
}

on_all!(start_leaves_the_dead_out_and_stop_stays_in_force, |lab| {
    let [b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let begin = Instant::now();
    let watch = Watch::begin(lab);
    b2.stop();
    watch.turns(lab, begin, B2_DOWN);
    lab.ok("status");
    for verb in ["start", "reload"] {
        let (code, _, err) = lab.paraglider(verb);
        assert!(code == 0 && !err.contains("`paraglider watch`"), "{verb}: {err}");
        without_b2();
        lab.ok("status");
    }

    let mut second = Watch::spawn(lab, "watch");
    assert_eq!(second.ended(), Some(1), "{}", second.text());
    let said = format!("another `paraglider watch` is running (process {})", watch.process());
    assert!(second.text().contains(&said), "{}", second.text());
    without_b2();

    lab.ok("stop");
    let stopped = Instant::now();
    let gone = || assert_eq!(lab.ours(), [""; 0], "{}", watch.text());
    gone();
    // One check may be under way.
    until("the watch stands by", || stopped.elapsed() > Duration::from_secs(1));
    let checks = b1.connections();
    until("time passes", || stopped.elapsed() > Duration::from_millis(5200));
    gone();
    assert_eq!(b1.connections(), checks, "it checks while nothing is in force");
    assert_eq!(lab.paraglider("status").0, 3);

    let since = Instant::now();
    lab.ok("start");
    without_b2();
    b2.start();
    watch.turns(lab, since, B2_UP);
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
    b2.stop();
    let since = Instant::now();
    watch.turns(lab, since, B2_DOWN);
    without_b2();
});

on_all!(reload_ends_connections_of_the_removed_only_when_told_so, |lab| {
    let _three = Backend::three();
    let api = |rest: &str| {
        let web = "  - {bind: '10.9.0.1:4444', privateip: 10.2.0.1, backends: [";
        lab.config(&format!(
            "frontends:\n{web}{rest}]}}\n  - {{bind: '10.9.0.1:5555', backends: ['10.2.0.11:80', '10.2.0.13:80']}}\n"
        ));
    };
    // Something else tracks connections as well, as on any host with a firewall.
    sh("iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    api("'10.2.0.11:80', '10.2.0.12:80', '10.2.0.13:80'");
    lab.ok("start");
    let held = hold_three();
    let others = || [(); 6].map(|()| Held::open("10.9.0.1:5555".parse().unwrap()).unwrap());
    let others = inside("client", others).join().unwrap();
    let live = |of: &[Held]| of.iter().all(|held| held.ask().is_ok());
    let ends = |held: &Held| assert_eq!(held.ask().unwrap_err().kind(), ErrorKind::ConnectionReset);
    api("'10.2.0.12:80', '10.2.0.13:80'");
    lab.ok("reload");
    assert!(live(&held) && live(&others));
    // Also if the rules need no change.
    lab.ok("reload --drop-removed");
    ends(&held[0]);
    assert!(live(&held[1..]) && live(&others), "the other frontend keeps the same backend");
    // Weight 0 is not removed.
    api("{address: '10.2.0.12:80', weight: 0}, '10.2.0.11:80'");
    lab.ok("reload --drop-removed");
    ends(&held[2]);
    assert!(live(&held[1..2]) && live(&others));
    // A frontend that goes, and with it its connections.
    lab.balance(&[1, 2, 3]);
    lab.ok("reload --drop-removed");
    others.iter().for_each(ends);
    assert!(live(&held[1..2]));
});

on_all!(a_drain_refuses_even_where_a_local_service_listens, |lab| {
    let _three = Backend::three();
    impostor(4444);
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    let at_first = held.ask().unwrap();
    pause_between_tables(lab);
    let clients = ["client", "balancer"].map(|host| Clients::begin(host, BIND, 1, Duration::from_millis(10)));
    let mut stop = Watch::spawn(lab, "stop --drain 20");
    until("the rules balance no more", || !lab.balances());
    let since = Instant::now();
    for host in ["client", "balancer"] {
        assert_eq!(ask_often(host, BIND, 3), answers(&[("ConnectionRefused", 3)]), "{host}");
    }
    // Longer than the watch would need to put the rules back.
    until("time passes", || {
        assert_eq!(held.ask().unwrap(), at_first);
        since.elapsed() > Duration::from_millis(2500)
    });
    let attempts = clients.map(Clients::end).concat();
    let late = attempts.iter().filter(|attempt| attempt.begun > since);
    assert!(late.clone().count() > 20);
    for attempt in late {
        assert_eq!(attempt.answer, Err(ErrorKind::ConnectionRefused));
    }
    assert!(!attempts.iter().any(|attempt| attempt.answer == Ok("impostor".into())), "a service of the balancer");
    // Others' ports are not refused.
    assert_eq!(ask_often("client", "10.1.0.1:4444", 1), answers(&[("impostor 0.0.0.0", 1)]));
    drop(held);
    assert_eq!(stop.ended(), Some(0));
    assert_eq!(lab.ours(), [""; 0]);
    assert_eq!(watch.end(Signal::SIGTERM), Some(0));
});

/// Where `promtool` is: installed, or where tests/promtool has put it.
fn promtool() -> Option<String> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/promtool");
    [own, "/usr/bin/promtool", "/usr/local/bin/promtool"]
        .into_iter()
        .find(|path| fs::exists(path).unwrap_or(false))
        .map(str::to_owned)
}

on_all!(prometheus_can_read_the_metrics, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    let list = "backends: ['10.2.0.11:80', '10.2.0.12:80', '10.2.0.13:80']";
    let odd = "9.-_Odd.-_Name";
    lab.config(&format!(
        "frontends:\n  - {{bind: '{BIND}', health: {{{QUICK}}}, {list}}}\n  \
         - {{name: '{odd}', bind: '10.9.0.1:5555', health: {{{QUICK}}}, {list}}}\n  \
         - {{bind: '10.9.0.1:6666', {list}}}\n  - {{bind: '[fd09::1]:4444', backends: ['[fd02::11]:80']}}\n"
    ));
    let metrics = |in_force: bool| {
        let (code, out, err) = lab.paraglider("status --prometheus");
        assert_eq!((code == 0, err.as_str()), (in_force, ""), "{out}");
        assert!(out.contains(&format!("\nparaglider_in_force {}\n", i32::from(in_force))), "{out}");
        if let Some(promtool) = promtool() {
            fs::write(lab.path("metrics"), &out).unwrap();
            let line = format!("{promtool} check metrics <{} 2>&1 || echo failed", lab.path("metrics").display());
            assert_eq!(sh(&line), "", "{out}");
        }
        out
    };
    metrics(false);
    let begin = Instant::now();
    let watch = Watch::begin(lab);
    b2.stop();
    watch.turns(lab, begin, B2_DOWN);
    watch.turns(lab, begin, "10.2.0.12:80 of 10.9.0.1:5555 is down");
    shares(BIND, 4);
    let out = metrics(true);
    let value = |name: &str, bind: &str, backend: &str| {
        let is = |line: &&str| {
            line.contains(&format!("bind=\"{bind}\"")) && line.contains(&format!("backend=\"{backend}\""))
        };
        let line = out.lines().filter(|line| line.starts_with(&format!("paraglider_{name}{{"))).find(is);
        line.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
    };
    for (bind, backend, up) in [
        (BIND, "10.2.0.11:80", Some(1.0)),
        (BIND, "10.2.0.12:80", Some(0.0)),
        ("10.9.0.1:5555", "10.2.0.12:80", Some(0.0)),
        ("10.9.0.1:6666", "10.2.0.12:80", None),
        ("[fd09::1]:4444", "[fd02::11]:80", None),
    ] {
        assert_eq!(value("backend_up", bind, backend), up, "{bind} {backend}\n{out}");
    }
    assert_eq!(value("backend_connections_taken_total", BIND, "10.2.0.11:80"), Some(2.0), "{out}");
    assert!(value("backend_state_seconds", BIND, "10.2.0.12:80").is_some_and(|seconds| seconds < 60.0), "{out}");
    assert!(value("backend_connections", "10.9.0.1:6666", "10.2.0.12:80") == Some(0.0), "{out}");
    assert!(out.contains(&format!("frontend=\"{odd}\"")), "{out}");
    if promtool().is_none() {
        println!("skipped: the metrics as Prometheus reads them: promtool is missing (tests/promtool fetches it)");
    }
});

/// No file makes a process that is no watch get a signal, and no reader makes another reader see a watch.
#[test]
fn a_file_that_was_left_behind_is_no_watch() {
    crate::in_lab("watch::a_file_that_was_left_behind_is_no_watch", Variant::Nft, |lab| {
        let _three = Backend::three();
        lab.config(&checked(QUICK, &[1, 2, 3]));
        lab.ok("start");
        // The number in a file of version 0.1 may be that of any process by now.
        let mut stranger = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write("/run/paraglider.watch", format!("{} {}\nend\n", stranger.id(), lab.path("glider.yaml").display()))
            .unwrap();
        fs::write(kept("watch"), format!("{}\n", stranger.id())).unwrap();
        let since = Instant::now();
        std::thread::scope(|scope| {
            for words in ["start", "status", "status", "status"] {
                scope.spawn(move || {
                    while since.elapsed() < Duration::from_secs(3) {
                        lab.ok(words);
                    }
                });
            }
        });
        assert!(stranger.try_wait().unwrap().is_none(), "it got a signal");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    });
}

on_all!(what_start_refuses_is_not_taken_by_the_watch, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let rules = lab.ours();
    let since = Instant::now();
    // The administrator's own SSH session comes in by the new bind.
    lab.config(&checked(QUICK, &[1, 2, 3]).replace("10.9.0.1:4444", "10.9.0.1:2222"));
    let output = lab.command("reload").env("SSH_CONNECTION", "10.1.0.2 50000 10.9.0.1 2222").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    until("the watch has looked at the rules", || since.elapsed() > Duration::from_millis(2500));
    assert_eq!(lab.ours(), rules);
    for taken in ["read the config anew", "took the config"] {
        assert!(watch.lines(since, taken).is_empty(), "{}", watch.text());
    }
});

on_all!(a_start_of_another_config_is_taken_by_the_watch, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let other = lab.path("other.yaml");
    fs::write(&other, checked(QUICK, &[1, 2])).unwrap();
    let since = Instant::now();
    let output = by(lab, &other, "start");
    assert!(output.status.success(), "{output:?}");
    let took = watch.hears(since, "took the config of the last start");
    assert!(took < SLACK, "{took:?}");
    // It checks by that config, and puts that one back.
    b2.stop();
    watch.turns_by(lab, &other, since, B2_DOWN);
    assert_eq!(shares(BIND, 3), [("b1".to_owned(), 3)].into());
    sh("iptables -t nat -F");
    until("the rules are back", || by(lab, &other, "status").status.success());
    assert_eq!(shares(BIND, 3), [("b1".to_owned(), 3)].into());
    // SIGHUP means its own config.
    watch.signal(Signal::SIGHUP);
    watch.hears(since, "read the config anew");
    until("its own config is in force", || lab.paraglider("status").0 == 0);
    assert_eq!(shares(BIND, 6), [("b1".to_owned(), 3), ("b3".to_owned(), 3)].into());
    // Also after a stop.
    lab.ok("stop");
    watch.hears(since, "the rules were stopped");
    assert_eq!(lab.ours(), [""; 0]);
    watch.signal(Signal::SIGHUP);
    until("its own config is in force again", || lab.paraglider("status").0 == 0);
});
