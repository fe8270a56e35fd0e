//! Checks by UDP: an answer is needed, and no other than to the question that was asked.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::backend::{speak, Backend};
use crate::health::{checked, of_backends, QUICK, WINDOW};
use crate::lab::{inside, needs_ipv6, sh, shell, tool, Lab, Variant};
use crate::responder::{swallow, Mood, Service};
use crate::watching::{shares, told, until, Watch, SLACK};
use crate::{on_all, BIND};

/// DNS on port 53 beside the service that is balanced.
fn dns() -> String {
    format!("type: dns, port: 53, {QUICK}")
}

fn three(mood: &Mood) -> [Service; 3] {
    [1, 2, 3].map(|n| Service::at(n, 53, mood.clone()))
}

/// The line of `status` about this backend.
fn shown(lab: &Lab, backend: &str) -> String {
    let text = lab.ok("status");
    text.lines().find(|line| line.contains(backend)).unwrap_or_else(|| panic!("{text}")).to_owned()
}

on_all!(a_closed_port_is_down_and_comes_back, |lab| {
    let _three = Backend::three();
    // Of which one refuses all: it lives.
    let [_d1, mut d2, d3] = three(&Mood::Dns(0));
    d3.set(Mood::Dns(5));
    lab.config(&checked(&dns(), &[1, 2, 3]));
    let watch = Watch::begin(lab);
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
    let since = Instant::now();
    d2.stop();
    let took = watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is down (connection refused)");
    assert!(took < WINDOW + SLACK, "only after {took:?}");
    assert_eq!(shares(BIND, 20).into_keys().collect::<Vec<_>>(), ["b1", "b3"]);
    assert!(shown(lab, "10.2.0.12:80").ends_with(" s: connection refused"));
    assert!(shown(lab, "10.2.0.13:80").contains("up for "));
    let since = Instant::now();
    d2.start();
    watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is up");
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
    // A good check asks once.
    until("there were some checks", || d3.asked().len() > 12);
    let asked = d3.asked();
    let mut ports: Vec<_> = asked.iter().map(|(_, from)| from.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert!(asked.len() < ports.len() + ports.len() / 4, "{} questions from {} ports", asked.len(), ports.len());
    assert!(asked.iter().all(|(question, _)| question[2..] == *b"\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01"), "{asked:?}");
    let mut numbers: Vec<_> = asked.iter().map(|(question, from)| (question[..2].to_vec(), from.port())).collect();
    numbers.sort();
    numbers.dedup();
    let mut of_checks: Vec<_> = numbers.iter().map(|(number, _)| number.clone()).collect();
    of_checks.dedup();
    assert_eq!(of_checks.len(), numbers.len(), "a number of its own for each check");
    assert_eq!(watch.end(Signal::SIGTERM), Some(0));
});

on_all!(silence_is_down_and_a_late_answer_too, |lab| {
    let _three = Backend::three();
    let [d1, _d2, d3] = three(&Mood::Dns(0));
    lab.config(&checked(&dns(), &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    swallow("b1");
    let took = watch.turns(lab, since, "10.2.0.11:80 of 10.9.0.1:4444 is down (no answer within 150 ms)");
    assert!(took < WINDOW + Duration::from_millis(150) + SLACK, "only after {took:?}");
    let since = Instant::now();
    speak("b1");
    watch.turns(lab, since, "10.2.0.11:80 of 10.9.0.1:4444 is up");
    // So late that it comes while the next check waits for its own.
    let since = Instant::now();
    d3.set(Mood::Late(Duration::from_millis(330), Box::new(Mood::Dns(0))));
    watch.turns(lab, since, "10.2.0.13:80 of 10.9.0.1:4444 is down (no answer within 150 ms)");
    until("some more checks", || since.elapsed() > WINDOW * 4);
    assert!(watch.lines(since, "10.2.0.13:80 of 10.9.0.1:4444 is up").is_empty(), "{}", watch.text());
    // Slow, but in time.
    let since = Instant::now();
    d3.set(Mood::Late(Duration::from_millis(50), Box::new(Mood::Dns(0))));
    watch.turns(lab, since, "10.2.0.13:80 of 10.9.0.1:4444 is up");
    // An answer to another question, and what is no answer.
    let since = Instant::now();
    d1.set(Mood::Confused);
    d3.set(Mood::Echoes);
    watch.turns(lab, since, "10.2.0.11:80 of 10.9.0.1:4444 is down (no answer within 150 ms)");
    watch.turns(lab, since, "10.2.0.13:80 of 10.9.0.1:4444 is down (the answer is no DNS)");
    assert_eq!(shares(BIND, 5).into_keys().collect::<Vec<_>>(), ["b2"]);
});

on_all!(a_lost_datagram_takes_nobody_out, |lab| {
    let _three = Backend::three();
    let three = three(&Mood::Loses(Box::new(Mood::Dns(0))));
    lab.config(&checked("type: dns, port: 53, interval: 300ms, timeout: 300ms, fall: 2", &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    until("each was checked some times", || three.iter().all(|one| one.asked().len() > 12));
    assert!(!watch.text().contains("down"), "{}", watch.text());
    // At half of the time, which is 150 ms later.
    assert!(since.elapsed() > Duration::from_millis(5 * 150), "{:?}", since.elapsed());
    for backend in ["10.2.0.11:80", "10.2.0.12:80", "10.2.0.13:80"] {
        assert!(shown(lab, backend).contains("up for "));
    }
});

on_all!(udp_sends_what_the_config_says_and_wants_what_it_expects, |lab| {
    let _three = Backend::three();
    let [d1, d2, d3] = three(&Mood::Says(b"\0pong, and more\xff".to_vec()));
    let health = |keys: &str| format!("type: udp, port: 53, {QUICK}, {keys}");
    for (keys, sent, wrong, why) in [
        ("send: \"ping\\n\", expect: pong", &b"ping\n"[..], &b"\0pon"[..], "the answer lacks `pong`"),
        ("send: 'hex:00 01 ff', expect: 'hex:6d 6f7265FF'", b"\0\x01\xff", b"more", "the answer lacks `more\u{fffd}`"),
        ("send: '200', expect: 200", b"200", b"404", "the answer lacks `200`"),
    ] {
        let right = if keys.contains("200") { b"\x01 200 OK".to_vec() } else { b"\0pong, and more\xff".to_vec() };
        [&d1, &d2, &d3].iter().for_each(|one| one.set(Mood::Says(right.clone())));
        lab.config(&checked(&health(keys), &[1, 2, 3]));
        let watch = Watch::begin(lab);
        let since = Instant::now();
        d2.set(Mood::Says(wrong.to_vec()));
        watch.turns(lab, since, &format!("10.2.0.12:80 of 10.9.0.1:4444 is down ({why})"));
        assert_eq!(d2.asked().last().unwrap().0, sent);
        let since = Instant::now();
        d2.set(Mood::Says(right));
        watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is up");
        assert_eq!(watch.end(Signal::SIGTERM), Some(0));
        lab.ok("stop");
    }
    // Without `expect:`, anything; also nothing.
    lab.config(&checked(&health("send: x"), &[1, 2, 3]));
    [&d1, &d2, &d3].iter().for_each(|one| one.set(Mood::Echoes));
    d1.set(Mood::Says(Vec::new()));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    d3.set(Mood::Mute);
    watch.turns(lab, since, "10.2.0.13:80 of 10.9.0.1:4444 is down (no answer within 150 ms)");
    assert_eq!(shares(BIND, 20).into_keys().collect::<Vec<_>>(), ["b1", "b2"]);
});

on_all!(ipv6_is_checked_by_udp_as_well, |lab| {
    needs_ipv6();
    const SIX: &str = "[fd09::1]:4444";
    let _three = Backend::three();
    let [_d1, mut d2, _d3] = three(&Mood::Dns(0));
    let health = dns();
    lab.config(&format!(
        "frontend: {{bind: '{SIX}', health: {{{health}}}, backends: ['[fd02::11]:80', '[fd02::12]:80', '[fd02::13]:80']}}"
    ));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    swallow("b1");
    d2.stop();
    watch.turns(lab, since, "[fd02::11]:80 of [fd09::1]:4444 is down (no answer within 150 ms)");
    watch.turns(lab, since, "[fd02::12]:80 of [fd09::1]:4444 is down (connection refused)");
    assert_eq!(shares(SIX, 5), [("b3".to_owned(), 5)].into());
    speak("b1");
    d2.start();
    watch.turns(lab, since, "[fd02::11]:80 of [fd09::1]:4444 is up");
    watch.turns(lab, since, "[fd02::12]:80 of [fd09::1]:4444 is up");
});

on_all!(a_rule_of_this_host_that_stops_checks_says_nothing_of_the_backends, |lab| {
    let _three = Backend::three();
    let _dns = three(&Mood::Dns(0));
    lab.config(&checked(&dns(), &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let (since, rules) = (Instant::now(), lab.ours());
    sh("nft 'add table inet own; add chain inet own out { type filter hook output priority 0; }; \
        add rule inet own out udp dport 53 drop'");
    watch.hears(since, "cannot begin");
    until("more checks were due", || since.elapsed() > WINDOW * 4);
    assert!(watch.lines(since, " is down").is_empty() && lab.ours() == rules, "{}", watch.text());
    sh("nft delete table inet own");
    watch.hears(since, "checks begin again");
});

on_all!(sixty_four_backends_are_checked_and_leave_no_entries, |lab| {
    // All of one host, by its addresses.
    for n in 100..164 {
        sh(&format!("ip -n b1 addr add 10.2.0.{n}/24 dev eth0"));
    }
    let _b1 = Backend::at(1, 80);
    let service = |n: u8| Service::on(1, &format!("10.2.0.{n}:53"), Mood::Dns(0));
    let mut services: Vec<Service> = (100..164).map(service).collect();
    let list: Vec<String> = (100..164).map(|n| format!("'10.2.0.{n}:80'")).collect();
    lab.config(&of_backends(&dns(), &list.join(", ")));
    let watch = Watch::begin(lab);
    // As with any firewall that knows states.
    sh("iptables -A OUTPUT -m conntrack --ctstate INVALID -j DROP");
    until("each was checked some times", || services.iter().all(|one| one.asked().len() > 8));
    let entries = || {
        let table = fs::read_to_string("/proc/net/nf_conntrack").unwrap();
        table.lines().filter(|line| line.contains(" udp ") && line.contains("dport=53 ")).count()
    };
    // Of each backend the one of the check that runs.
    assert!(entries() <= 64, "{}", entries());
    let since = Instant::now();
    // One by one: not all of them are down at once.
    inside("b1", || {
        sh("nft 'add table inet some; add chain inet some in { type filter hook input priority 0; }; \
            add rule inet some in udp dport 53 ip daddr 10.2.0.100-10.2.0.131 drop'")
    })
    .join()
    .unwrap();
    until("half of them is out", || watch.lines(since, " is down (no answer within 150 ms)").len() == 32);
    assert!(!watch.text().contains("all backends are down"), "{}", watch.text());
    let status = lab.ok("status");
    assert_eq!((status.matches("up for ").count(), status.matches("down for ").count()), (32, 32), "{status}");
    inside("b1", || sh("nft delete table inet some")).join().unwrap();
    services.iter_mut().for_each(Service::stop);
    watch.hears(since, "all backends are down");
    assert_eq!(watch.end(Signal::SIGTERM), Some(0));
    assert_eq!(entries(), 0);
});

/// A real DNS server.
struct Dnsmasq(Child);

impl Dnsmasq {
    fn at(n: u8) -> Self {
        let words = "--no-daemon --no-resolv --no-hosts --user=root --conf-file=/dev/null --pid-file= --port=53";
        let line = format!("exec {} {words}", tool("dnsmasq").display());
        let start = move || shell(&line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Dnsmasq(inside(&format!("b{n}"), start).join().unwrap())
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

on_all!(a_real_dns_server_is_up_and_down, |lab| {
    if !tool("dnsmasq").exists() {
        println!("skipped: a real DNS server: dnsmasq is missing; run tests/setup");
        return;
    }
    let _three = Backend::three();
    let [_d1, d2, _d3] = [1, 2, 3].map(Dnsmasq::at);
    lab.config(&checked(&dns(), &[1, 2, 3]));
    let watch = Watch::begin(lab);
    until("all are up", || lab.ok("status").matches("up for ").count() == 3);
    let since = Instant::now();
    drop(d2);
    watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is down (connection refused)");
    let _again = Dnsmasq::at(2);
    watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is up");
    let json = lab.ok("status --json");
    assert!(told(&json, "10.2.0.12:80").contains("\"state\":\"up\""), "{json}");
});
