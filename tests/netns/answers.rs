//! What an HTTP check takes for an answer, and what for none.

use std::time::{Duration, Instant};

use crate::backend::{silence, Backend, Mood};
use crate::failure::wrap;
use crate::health::{of_backends, QUICK};
use crate::lab::{inside, sh, Lab, Variant};
use crate::watching::{shares, told, until, Watch, Writes};
use crate::{on_all, on_both, BIND};

/// A text that comes a letter at a time, quickly enough.
fn in_pieces(text: &str) -> Mood {
    Mood::Dribbles(text.to_owned(), Duration::from_micros(500))
}

/// Frontends and what their backends say: bind's port, keys of `health:`, backends' port, and for each backend its mood
/// and the error that is expected, if one is.
type Frontend = (u16, &'static str, u16, Vec<(Mood, Option<&'static str>)>);

fn frontends() -> Vec<Frontend> {
    let says = |text: &str| Mood::Says(text.to_owned());
    let ok = "HTTP/1.1 200 OK\r\nServer: all is well\r\n\r\n";
    let endless = |text: &str| Mood::Endless(text.to_owned());
    vec![
        (
            4444,
            "path: '/health?q=1'",
            80,
            vec![
                (Mood::status("200 OK", "fine"), None),
                (Mood::Mute, Some("no answer within 150 ms")),
                (Mood::status("500 Internal Server Error", "all is well"), Some("status 500")),
                (says("SSH-2.0-OpenSSH_9.2\r\n"), Some("the answer is no HTTP")),
                (endless(""), Some("the answer is no HTTP")),
                (in_pieces("HTTP/1.0 204 No Content\r\n\r\n"), None),
                (Mood::status("302 Found", ""), None),
                (says(""), Some("")),
                (Mood::Dribbles("HTTP/1.1 200 OK\r\n\r\n".into(), Duration::from_millis(60)), Some("no answer within")),
            ],
        ),
        (
            5555,
            "expect: all is well",
            81,
            vec![
                (Mood::status("200 OK", "<p>all is well</p>"), None),
                (in_pieces("HTTP/1.1 200 OK\r\n\r\nso all is well here"), None),
                (says(&format!("{ok}all is lost")), Some("answered 200, but the body lacks `all is well`")),
                (endless(ok), Some("")),
            ],
        ),
        (
            6666,
            "expect: 204",
            82,
            vec![
                (Mood::status("204 No Content", ""), None),
                (Mood::status("200 OK", "204"), Some("status 200")),
                (endless("HTTP/1.1 204 No Content\r\n\r\n"), None),
            ],
        ),
    ]
}

// Two sites of a web server: without the name there is only a 404, in both families.
on_all!(sites_are_told_apart_by_the_host_of_the_config, |lab| {
    const HOST: &str = "www.example.com";
    let site = || Mood::Virtual(HOST.into(), Box::new(Mood::status("200 OK", "all is well")));
    let backends = [1, 2].map(|n| Backend::at(n, 80).in_mood(site()));
    let config = |health: &str| {
        format!(
            "frontends:\n- {{bind: '{BIND}', health: {{{QUICK}, type: http{health}}}, backends: ['10.2.0.11:80', '10.2.0.12:80']}}\n\
             - {{bind: '[fd09::1]:4444', health: {{{QUICK}, type: http{health}}}, backends: ['[fd02::11]:80', '[fd02::12]:80']}}\n"
        )
    };
    lab.config(&config(""));
    let since = Instant::now();
    let watch = Watch::begin(lab);
    for bind in [BIND, "[fd09::1]:4444"] {
        watch.hears(since, &format!("{bind}: all backends are down, the last one "));
    }
    assert_eq!(lab.ok("status").matches(": status 404\n").count(), 4);
    lab.config(&config(&format!(", host: {HOST}, expect: all is well")));
    watch.signal(nix::sys::signal::Signal::SIGHUP);
    for bind in [BIND, "[fd09::1]:4444"] {
        watch.hears(since, &format!("{bind}: no longer all backends are down"));
    }
    until("all are up", || lab.paraglider("status").1.matches(" up for ").count() == 4);
    assert_eq!(watch.text().matches(": all backends are down").count(), 2, "{}", watch.text());
    assert_eq!(shares(BIND, 10).into_values().collect::<Vec<_>>(), [5, 5]);
    for backend in &backends {
        assert!(backend.requests().iter().any(|request| request.contains("Host: 10.2.0.1")));
        assert!(backend.requests().last().unwrap().contains(&format!("\r\nHost: {HOST}\r\n")));
    }
    // The text that is missed is named.
    backends[0].set(Mood::Virtual(HOST.into(), Box::new(Mood::status("203 So They Say", "all is lost"))));
    watch.turns(lab, since, "10.2.0.11:80 of 10.9.0.1:4444 is down (answered 203, but the body lacks `all is well`)");
    let json = lab.ok("status --json");
    assert!(told(&json, "10.2.0.11:80").contains("answered 203, but the body lacks `all is well`"), "{json}");
});

on_all!(only_the_right_answer_counts, |lab| {
    for n in 4..=9 {
        lab.add_backend(n);
    }
    let (mut config, mut backends, mut told_down, mut told_up) = ("frontends:\n".to_owned(), vec![], vec![], vec![]);
    for (bind, health, port, moods) in frontends() {
        let mut list = Vec::new();
        for (n, (mood, error)) in (1..).zip(moods) {
            let address = format!("10.2.0.1{n}:{port}");
            list.push(format!("'{address}'"));
            backends.push(Backend::at(n, port).in_mood(mood));
            match error {
                Some(error) => told_down.push((format!("{address} of 10.9.0.1:{bind} is down ({error}"), address)),
                None => told_up.push(address),
            }
        }
        let list = list.join(", ");
        config += &format!(
            "  - {{bind: '10.9.0.1:{bind}', health: {{type: http, {QUICK}, {health}}}, backends: [{list}]}}\n"
        );
    }
    lab.config(&config);
    let begin = Instant::now();
    let watch = Watch::begin(lab);
    for (line, _) in &told_down {
        watch.hears(begin, line);
    }
    // All of them have been checked by now, and once more.
    until("each was asked three times", || backends.iter().all(|backend| backend.connections() >= 3));
    let json = lab.ok("status --json");
    for (_, address) in &told_down {
        assert!(told(&json, address).contains("\"state\":\"down\""), "{address}: {json}");
    }
    for address in &told_up {
        assert!(told(&json, address).contains("\"state\":\"up\""), "{address}: {json}\n{}", watch.text());
        assert!(!watch.text().contains(&format!("{address} of ")), "{address}: {}", watch.text());
    }
    let requests = backends[0].requests();
    let [line, host] = [0, 1].map(|n| requests[0].lines().nth(n).unwrap_or_default());
    assert!(
        line.starts_with("GET /health?q=1 HTTP/1.") && line.len() == "GET /health?q=1 HTTP/1.1".len(),
        "{requests:?}"
    );
    assert!(host.eq_ignore_ascii_case("host: 10.2.0.11:80"), "{requests:?}");
    // A backend that comes to its senses.
    backends[2].set(Mood::status("200 OK", ""));
    watch.turns(lab, begin, "10.2.0.13:80 of 10.9.0.1:4444 is up");
});

on_all!(the_port_that_is_checked_may_be_another_than_the_one_that_serves, |lab| {
    let [mut service, _two] = [1, 2].map(|n| Backend::at(n, 80));
    let mut doctor = Backend::stopped(1, 8080);
    let _doctor_of_b2 = Backend::at(2, 8080);
    lab.config(&of_backends(&format!("{QUICK}, type: http, port: 8080"), "'10.2.0.11:80', '10.2.0.12:80'"));
    let begin = Instant::now();
    let watch = Watch::begin(lab);
    watch.turns(lab, begin, "10.2.0.11:80 of 10.9.0.1:4444 is down (connection refused)");
    assert_eq!(service.connections(), 0, "nobody has asked the other port");
    doctor.start();
    watch.turns(lab, begin, "10.2.0.11:80 of 10.9.0.1:4444 is up");
    assert_eq!(shares(BIND, 4).into_values().collect::<Vec<_>>(), [2, 2]);
    let since = Instant::now();
    let checks = doctor.connections();
    service.stop();
    until("three more checks", || doctor.connections() >= checks + 3);
    assert!(watch.lines(since, "is down").is_empty(), "{}", watch.text());
});

on_all!(a_backend_that_cannot_make_up_its_mind_changes_the_rules_seldom, |lab| {
    const INTERVAL: Duration = Duration::from_millis(200);
    let by_turns = Mood::Alternates(vec![Mood::status("200 OK", ""), Mood::status("503 Busy", "")]);
    let flapping = Backend::at(1, 80).in_mood(by_turns);
    let _two = [2, 3].map(|n| Backend::at(n, 80));
    let written = Writes::begin(lab);
    let writes = || written.number();
    let backends = "'10.2.0.11:80', '10.2.0.12:80', '10.2.0.13:80'";

    lab.config(&of_backends("type: http, interval: 400ms, fall: 2, rise: 2", backends));
    let begin = Instant::now();
    let watch = Watch::begin(lab);
    let (rules, before) = (lab.saved(false), writes());
    until("six checks", || flapping.requests().len() >= 6);
    assert!(watch.lines(begin, "is down").is_empty(), "{}", watch.text());
    assert_eq!((lab.saved(false), writes()), (rules, before));

    // One who wants it so gets it so, but whoever is out stays out for an interval.
    lab.config(&of_backends("type: http, interval: 200ms, fall: 1, rise: 1", backends));
    watch.signal(nix::sys::signal::Signal::SIGHUP);
    let since = Instant::now();
    watch.turns(lab, since, "10.2.0.11:80 of 10.9.0.1:4444 is down (status 503)");
    until("ten intervals are over", || since.elapsed() > INTERVAL * 10);
    let lines = |state: &str| watch.lines(since, &format!("10.2.0.11:80 of 10.9.0.1:4444 is {state}"));
    let (out, back) = (lines("down"), lines("up"));
    let most = (since.elapsed().as_millis() / INTERVAL.as_millis()) as usize + 1;
    assert!((2..=most).contains(&out.len()), "out {} times in {most} intervals\n{}", out.len(), watch.text());
    // In the log, which is read a little later.
    let stays = out.iter().zip(&back).map(|((out, _), (back, _))| *back - *out).min().unwrap();
    assert!(stays > INTERVAL * 3 / 4, "back after {stays:?}\n{}", watch.text());
    // All tables are written in one run. On a busy machine one of the others may be late once.
    let (writes, turns) = (writes() - before, watch.lines(since, " of 10.9.0.1:4444 is ").len());
    assert!(writes <= turns + 1, "{writes} transactions\n{}", watch.text());
});

// While the rules are read or written nobody goes on with the checks. One that began right before must not pay for it.
// A program reads them, which may be slow; the nftables engine asks the kernel.
on_both!(a_look_that_takes_long_takes_no_healthy_backend_out, |lab| {
    let slow = || Mood::Dribbles("HTTP/1.1 200 OK\r\n\r\n".into(), Duration::from_millis(3));
    let _three = [1, 2, 3].map(|n| Backend::at(n, 80).in_mood(slow()));
    let backends = "'10.2.0.11:80', '10.2.0.12:80', '10.2.0.13:80'";
    lab.config(&of_backends("type: http, interval: 1s, timeout: 400ms, fall: 1", backends));
    let watch = Watch::begin(lab);
    until("all are checked", || lab.ok("status").matches("up for ").count() == 3);
    wrap(lab, "save", "sleep 0.8; exec $REAL \"$@\"");
    let since = Instant::now();
    for round in 1..=3 {
        // With the first one all checks become due; they begin right before the second one.
        watch.signal(nix::sys::signal::Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(400));
        watch.signal(nix::sys::signal::Signal::SIGHUP);
        until("both are read", || watch.lines(since, "read the config anew").len() == 2 * round);
        std::thread::sleep(Duration::from_millis(1500));
    }
    assert!(watch.lines(since, "is down").is_empty(), "{}", watch.text());
});

/// What this host has too little of is no fault of a backend.
#[test]
fn few_descriptors_are_no_reason_to_take_out_the_living() {
    crate::in_lab("answers::few_descriptors_are_no_reason_to_take_out_the_living", Variant::Nft, |lab| {
        let _living = Backend::at(1, 80);
        silence("b2");
        let silent: Vec<String> = (1..=100).map(|port| format!("'10.2.0.12:{port}'")).collect();
        lab.config(&of_backends(QUICK, &format!("{}, '10.2.0.11:80'", silent.join(", "))));
        lab.ok("start");
        // The soft limit, which a program may raise.
        let begin = Instant::now();
        let watch = Watch::limited(lab, "ulimit -Sn 60");
        watch.hears(begin, "10.2.0.12:100 of 10.9.0.1:4444 is down");
        until("some more checks", || begin.elapsed() > Duration::from_secs(3));
        assert!(!watch.text().contains("10.2.0.11:80 of"), "{}", watch.text());
        assert_eq!(shares(BIND, 4).into_keys().collect::<Vec<_>>(), ["b1"]);
    });
}

// The error comes while the check still connects: a veth has no delay.
on_all!(a_rejection_by_icmp_is_no_answer, |lab| {
    let _backends = Backend::three();
    // Else most errors are not sent.
    inside("b2", || sh("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=100000 || :")).join().unwrap();
    for health in ["", ", type: http"] {
        lab.config(&format!(
            "frontend: {{bind: '{BIND}', privateip: 10.2.0.1, health: {{{QUICK}{health}}}, \
             backends: ['10.2.0.11:80', '10.2.0.12:80', '10.2.0.13:80']}}"
        ));
        let watch = Watch::begin(lab);
        for with in ["icmp-port-unreachable", "icmp-host-prohibited", "icmp-net-unreachable", "icmp-admin-prohibited"] {
            let reject = format!("INPUT -p tcp --syn -j REJECT --reject-with {with}");
            let since = Instant::now();
            inside("b2", {
                let reject = reject.clone();
                move || sh(&format!("iptables -I {reject}"))
            })
            .join()
            .unwrap();
            watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is down");
            let since = Instant::now();
            inside("b2", move || sh(&format!("iptables -D {reject}"))).join().unwrap();
            watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is up");
        }
        drop(watch);
        lab.ok("stop");
    }
});
