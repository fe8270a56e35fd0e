//! Health checks: dead backends get no connections, and get them again when they have recovered.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::backend::{impostor, silence, speak, Backend};
use crate::failure::pause_between_tables;
use crate::lab::{ask_often, inside, sh, Held, Lab, Variant};
use crate::watching::{failed, shares, told, until, Clients, Watch, SLACK};
use crate::{answers, on_all, BIND};

/// Quick enough for a test, slow enough for a machine that has much else to do.
pub const QUICK: &str = "interval: 300ms, timeout: 150ms, fall: 2, rise: 2";

/// Within this time a dead backend leaves the rules, and a living one is back: [`QUICK`] twice.
pub const WINDOW: Duration = Duration::from_millis(600);

/// A config over the given backends, with the keys of its `health:`.
pub fn checked(health: &str, backends: &[u8]) -> String {
    let backends: Vec<String> = backends.iter().map(|n| format!("'10.2.0.1{n}:80'")).collect();
    of_backends(health, &backends.join(", "))
}

/// The same with the backends as written.
pub fn of_backends(health: &str, backends: &str) -> String {
    format!("frontend:\n  bind: {BIND}\n  privateip: 10.2.0.1\n  health: {{{health}}}\n  backends: [{backends}]\n")
}

/// Connections that the client holds, one to each of the backends, in their order.
pub fn hold_three() -> Vec<Held> {
    let three = || (0..3).map(|_| Held::open(BIND.parse().unwrap()).unwrap()).collect::<Vec<_>>();
    let mut held = inside("client", three).join().unwrap();
    held.sort_by_key(|held| held.ask().unwrap().0);
    held
}

/// Clients in the client's host and on the balancer itself.
fn clients_everywhere() -> [Clients; 2] {
    ["client", "balancer"].map(|host| Clients::begin(host, BIND, 2, Duration::from_millis(40)))
}

on_all!(a_dead_process_is_out_in_time_and_comes_back, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);

    let clients = Clients::begin("client", BIND, 1, Duration::from_millis(5));
    b2.stop();
    let dead = Instant::now();
    let took = watch.turns(lab, dead, "10.2.0.12:80 of 10.9.0.1:4444 is down (connection refused)");
    assert!(took < WINDOW + SLACK, "only after {took:?}");
    // A good while longer than a turn of the clients.
    until("some more connections are made", || dead.elapsed() > took + WINDOW);
    let attempts = clients.end();
    let last = failed(&attempts).iter().map(|attempt| attempt.begun).max().expect("a client has met the dead one");
    assert!(last - dead < WINDOW + SLACK, "still {:?} later", last - dead);
    assert!(attempts.iter().any(|attempt| attempt.begun > last), "no client asked after that");

    assert_eq!(shares(BIND, 20), [("b1".to_owned(), 10), ("b3".to_owned(), 10)].into());
    let text = lab.ok("status");
    let line = text.lines().find(|line| line.contains("10.2.0.12:80")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("down for ") && line.ends_with(" s: connection refused"), "{text}");
    let others = text.lines().filter(|line| line.starts_with("  10.2.0.1") && line.contains("up for ")).count();
    assert_eq!(others, 2, "{text}");
    let json = lab.ok("status --json");
    let of = told(&json, "10.2.0.12:80");
    assert!(of.contains("\"state\":\"down\"") && of.contains("\"error\":\"connection refused\""), "{json}");
    let of = told(&json, "10.2.0.11:80");
    assert!(of.contains("\"state\":\"up\"") && of.contains("\"error\":null"), "{json}");
    assert!(!of.contains("\"since\":null"), "{json}");

    b2.start();
    let back = Instant::now();
    let took = watch.turns(lab, back, "10.2.0.12:80 of 10.9.0.1:4444 is up");
    // Two answers are one interval apart.
    assert!(took > WINDOW / 3 && took < WINDOW + SLACK, "after {took:?}");
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
    assert_eq!(watch.end(Signal::SIGTERM), Some(0));
});

on_all!(clients_of_a_silent_host_are_helped, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let [held, others] = [(); 2].map(|()| hold_three());
    silence("b1");
    let dead = Instant::now();
    // Three connections are begun at once, and one of them has met the silent host. One that is held says something.
    let to: SocketAddr = BIND.parse().unwrap();
    let connect = move || {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(9));
        (stream.map(|stream| stream.set_read_timeout(Some(Duration::from_secs(1)))), dead.elapsed())
    };
    let new = [(); 3].map(|()| inside("client", connect));
    let says_something = inside("client", move || (held[0].ask().map_err(|error| error.kind()), dead.elapsed()));

    let took = watch.turns(lab, dead, "10.2.0.11:80 of 10.9.0.1:4444 is down (no answer within 150 ms)");
    assert!(took < WINDOW + Duration::from_millis(150) + SLACK, "only after {took:?}");
    // One that rests finds out as soon as it speaks again.
    let since = Instant::now();
    assert_eq!(others[0].ask().unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(since.elapsed() < SLACK, "only after {:?}", since.elapsed());
    for other in &others[1..] {
        other.ask().unwrap();
    }
    // TCP repeats the first packet after 1 s and after 3 s, and data sooner.
    let (said, after) = says_something.join().unwrap();
    assert_eq!(said, Err(ErrorKind::ConnectionReset), "after {after:?}");
    let new = new.map(|thread| thread.join().unwrap());
    assert!(new.iter().all(|(stream, after)| stream.is_ok() && *after < Duration::from_secs(4)), "{new:?}");
    assert!(new.iter().any(|(_, after)| *after > Duration::from_millis(900)), "no client met the silent one: {new:?}");
    assert_eq!(shares(BIND, 20).into_keys().collect::<Vec<_>>(), ["b2", "b3"]);

    speak("b1");
    watch.turns(lab, Instant::now(), "10.2.0.11:80 of 10.9.0.1:4444 is up");
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
});

on_all!(a_backend_that_is_late_is_taken_in_when_it_comes, |lab| {
    let _two = [Backend::at(1, 80), Backend::at(2, 80)];
    let mut late = Backend::stopped(3, 80);
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let begin = Instant::now();
    let watch = Watch::begin(lab);
    watch.turns(lab, begin, "10.2.0.13:80 of 10.9.0.1:4444 is down (connection refused)");
    assert_eq!(shares(BIND, 20).into_values().collect::<Vec<_>>(), [10, 10]);
    late.start();
    watch.turns(lab, begin, "10.2.0.13:80 of 10.9.0.1:4444 is up");
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
    // Those that were well all the time are not talked of.
    assert!(!watch.text().contains("10.2.0.11:80 of") && !watch.text().contains("10.2.0.12:80 of"), "{}", watch.text());
});

on_all!(all_down_keeps_the_last_set_unless_told_otherwise, |lab| {
    let mut three = Backend::three();
    impostor(4444);
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let clients = clients_everywhere();
    let since = Instant::now();
    let kept = lab.ours();
    three.iter_mut().for_each(Backend::stop);
    watch.hears(since, "10.9.0.1:4444: all backends are down, the last one 10.2.0.1");
    assert_eq!(lab.ours(), kept);
    assert_eq!(lab.ok("status").matches(" down for ").count(), 3);
    // By the backends' hosts, whose turn it is all the same.
    assert_eq!(ask_often("client", BIND, 3), answers(&[("ConnectionRefused", 3)]));
    until("two more checks", || since.elapsed() > WINDOW * 3);
    assert_eq!(lab.ours(), kept);
    lab.ok("status");
    for n in [1, 3] {
        three[n - 1].start();
    }
    watch.hears(since, "10.9.0.1:4444: no longer all backends are down");
    // The one that does not come back.
    watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is down (connection refused)");
    assert_eq!(watch.lines(since, " of 10.9.0.1:4444 is ").len(), 1, "{}", watch.text());
    let attempts = clients.map(Clients::end).concat();
    assert_eq!(shares(BIND, 20), [("b1".to_owned(), 10), ("b3".to_owned(), 10)].into());
    assert!(!attempts.iter().any(|attempt| attempt.answer == Ok("impostor".into())), "a service of the balancer");
});

on_all!(all_down_rejects_when_told_so, |lab| {
    let _three = Backend::three();
    impostor(4444);
    lab.config(&checked(&format!("{QUICK}, on_all_down: reject"), &[1, 2, 3]));
    let watch = Watch::begin(lab);
    pause_between_tables(lab);
    let clients = clients_everywhere();
    let link = |state| (1..=3).for_each(|n| drop(sh(&format!("ip -n b{n} link set eth0 {state}"))));
    let since = Instant::now();
    // No backend can refuse anything now.
    link("down");
    watch.hears(since, "10.9.0.1:4444: all backends are down");
    until("the rules refuse", || !lab.balances());
    for host in ["client", "balancer"] {
        let since = Instant::now();
        assert_eq!(ask_often(host, BIND, 3), answers(&[("ConnectionRefused", 3)]), "{host}");
        assert!(since.elapsed() < SLACK, "{host}: not at once but after {:?}", since.elapsed());
    }
    assert!(lab.ok("status").contains(BIND), "it is still shown");
    link("up");
    watch.hears(since, "10.9.0.1:4444: no longer all backends are down");
    crate::dark::all_up(lab);
    let attempts = clients.map(Clients::end).concat();
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
    assert!(!attempts.iter().any(|attempt| attempt.answer == Ok("impostor".into())), "a service of the balancer");
});

on_all!(a_backup_is_used_only_while_no_other_lives, |lab| {
    let [mut b1, mut b2, _b3] = Backend::three();
    lab.config(&of_backends(QUICK, "{address: '10.2.0.13:80', backup: true}, '10.2.0.11:80', '10.2.0.12:80'"));
    let watch = Watch::begin(lab);
    let used = || shares(BIND, 10).into_keys().collect::<Vec<_>>();
    assert_eq!(used(), ["b1", "b2"]);
    let since = Instant::now();
    b1.stop();
    watch.turns(lab, since, "10.2.0.11:80 of 10.9.0.1:4444 is down");
    assert_eq!(used(), ["b2"]);
    b2.stop();
    watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is down");
    assert_eq!(used(), ["b3"]);
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    held.ask().unwrap();
    b1.start();
    watch.turns(lab, since, "10.2.0.11:80 of 10.9.0.1:4444 is up");
    assert_eq!(used(), ["b1"]);
    // It is up, so its connections are not ended.
    assert_eq!(held.ask().unwrap().0, "b3");
    assert!(!watch.text().contains("all backends are down"), "{}", watch.text());
});

on_all!(what_one_frontend_sees_is_not_the_others_business, |lab| {
    let _three = Backend::three();
    let mut doctor = Backend::at(1, 8080);
    let _doctor_of_b2 = Backend::at(2, 8080);
    let web = format!("health: {{{QUICK}, port: 8080}}, backends: ['10.2.0.11:80', '10.2.0.12:80']");
    lab.config(&format!(
        "frontends:\n  - {{name: web, bind: '{BIND}', {web}}}\n  - {{name: api, bind: '10.9.0.1:5555', backends: ['10.2.0.11:80', '10.2.0.13:80']}}\n"
    ));
    let watch = Watch::begin(lab);
    let hold = |to: &'static str| {
        inside("client", move || [(); 6].map(|()| Held::open(to.parse().unwrap()).unwrap())).join().unwrap()
    };
    let (of_web, of_api) = (hold(BIND), hold("10.9.0.1:5555"));
    let names = |held: &[Held]| held.iter().map(|held| held.ask().map(|(name, _)| name).ok()).collect::<Vec<_>>();
    let (web, api) = (names(&of_web), names(&of_api));
    let since = Instant::now();
    doctor.stop();
    watch.turns(lab, since, "10.2.0.11:80 of 10.9.0.1:4444 is down (connection refused)");
    assert_eq!(shares(BIND, 4), [("b2".to_owned(), 4)].into());
    assert_eq!(names(&of_web), web.iter().map(|name| name.clone().filter(|name| name != "b1")).collect::<Vec<_>>());
    // Of those to b1 a packet that belongs to no connection would find its way in one case of two.
    assert_eq!(names(&of_api), api);
    assert_eq!(shares("10.9.0.1:5555", 4).into_values().collect::<Vec<_>>(), [2, 2]);
    assert!(!watch.text().contains("of 10.9.0.1:5555"), "{}", watch.text());
    let json = lab.ok("status --json");
    let api = json.split("\"name\":\"api\"").nth(1).unwrap().split("]}").next().unwrap();
    assert!(told(api, "10.2.0.11:80").contains("\"state\":\"unchecked\",\"since\":null,\"error\":null"), "{json}");
});

on_all!(five_hundred_connections_a_second_while_a_backend_dies_and_returns, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let begin = Instant::now();
    let clients = Clients::begin("client", BIND, 8, Duration::from_millis(16));
    let pause = |whole: u64| until("time passes", || begin.elapsed() > Duration::from_millis(whole));
    pause(600);
    let dead = Instant::now();
    b2.stop();
    let window = watch.turns(lab, dead, "10.2.0.12:80 of 10.9.0.1:4444 is down");
    pause(2000);
    b2.start();
    watch.turns(lab, dead, "10.2.0.12:80 of 10.9.0.1:4444 is up");
    let back = Instant::now();
    until("they use it again", || back.elapsed() > WINDOW);
    let attempts = clients.end();
    // On a machine that has much else to do they are fewer.
    assert!(attempts.len() > 600, "only {}", attempts.len());
    let failures = failed(&attempts);
    assert!(!failures.is_empty() && window < WINDOW + SLACK, "{window:?}");
    let outside: Vec<_> = failures
        .iter()
        .filter(|attempt| {
            attempt.ended < dead || attempt.begun > dead + window.max(WINDOW) + Duration::from_millis(300)
        })
        .collect();
    assert!(outside.is_empty(), "{} of {}: {outside:?}", outside.len(), failures.len());
    // A third of them, while it lasted.
    assert!(failures.len() * 2 < attempts.len(), "{} of {}", failures.len(), attempts.len());
    let again = attempts.iter().filter(|attempt| attempt.begun > back && attempt.answer == Ok("b2".into())).count();
    assert!(again > 10, "{again}");
});

on_all!(ipv6_is_checked_as_well, |lab| {
    const SIX: &str = "[fd09::1]:4444";
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&format!(
        "frontend: {{bind: '{SIX}', health: {{{QUICK}}}, backends: ['[fd02::11]:80', '[fd02::12]:80', '[fd02::13]:80']}}"
    ));
    let watch = Watch::begin(lab);
    let three = || (0..3).map(|_| Held::open(SIX.parse().unwrap()).unwrap()).collect::<Vec<_>>();
    let mut held = inside("client", three).join().unwrap();
    held.sort_by_key(|held| held.ask().unwrap().0);
    let since = Instant::now();
    silence("b1");
    b2.stop();
    watch.turns(lab, since, "[fd02::11]:80 of [fd09::1]:4444 is down (no answer within 150 ms)");
    watch.turns(lab, since, "[fd02::12]:80 of [fd09::1]:4444 is down (connection refused)");
    assert_eq!(held[0].ask().unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(held[2].ask().unwrap().0, "b3");
    assert_eq!(shares(SIX, 5), [("b3".to_owned(), 5)].into());
    assert!(told(&lab.ok("status --json"), "[fd02::11]:80").contains("\"state\":\"down\""));
    speak("b1");
    b2.start();
    watch.turns(lab, since, "[fd02::11]:80 of [fd09::1]:4444 is up");
    watch.turns(lab, since, "[fd02::12]:80 of [fd09::1]:4444 is up");
    assert_eq!(shares(SIX, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
});

on_all!(a_timeout_as_long_as_the_interval_is_out_half_an_interval_later_at_most, |lab| {
    let [b1, _b2, _b3] = Backend::three();
    for (fall, most) in [(1, 750), (2, 1250)] {
        lab.config(&checked(&format!("interval: 500ms, timeout: 500ms, fall: {fall}"), &[1, 2, 3]));
        let watch = Watch::begin(lab);
        let (checks, since) = (b1.connections(), Instant::now());
        until("some checks", || since.elapsed() > Duration::from_secs(3));
        // Not more often than each half of an interval.
        let checks = b1.connections() - checks;
        assert!((5..=14).contains(&checks), "{checks}");
        let since = Instant::now();
        silence("b2");
        let took = watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is down (no answer within 500 ms)");
        assert!(took < Duration::from_millis(most) + SLACK, "{took:?}");
        speak("b2");
        assert_eq!(watch.end(Signal::SIGTERM), Some(0));
    }
});
