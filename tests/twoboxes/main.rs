//! Two boxes with keepalived and conntrackd, as docs/two-boxes.md has them: the loss of either is not noticed.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

#[path = "../netns/lab.rs"]
mod lab;

mod pair;
mod traffic;

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lab::{Lab, Variant};
use pair::{until, Balancer, BIND, PRIVATEIP};
use traffic::Traffic;

/// Connections that are held.
const HELD: usize = 50;

/// How many milliseconds the machine stood still at most: on a busy one keepalived does not get to say its word in time,
/// and the boxes rightly change their roles.
static STILL: AtomicU64 = AtomicU64::new(0);

/// From this many on a story that went wrong is told once more.
const TOO_STILL: u64 = 300;

/// How often a story is told at most.
const TRIES: usize = 3;

fn watch() {
    const NAP: Duration = Duration::from_millis(20);
    std::thread::spawn(|| loop {
        let since = Instant::now();
        std::thread::sleep(NAP);
        STILL.fetch_max((since.elapsed() - NAP).as_millis() as u64, Ordering::Relaxed);
    });
}

fn in_lab(test: &str, variant: Variant, story: fn(&Lab)) {
    let entrance = || lab::entrance(&["--exact", test, "--nocapture", "--test-threads=1"]);
    if entrance().is_none() {
        watch();
        let told = std::panic::catch_unwind(|| story(&Lab::bare(variant)));
        println!("the machine stood still for {} ms", STILL.load(Ordering::Relaxed));
        return told.unwrap();
    }
    if let Some(why) = pair::missing() {
        return println!("skipped: {test}: {why}");
    }
    for again in 1.. {
        let output = entrance().unwrap().output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        // The first stands behind the name of the test.
        text.lines()
            .filter_map(|line| line.find("two boxes,").map(|at| &line[at..]))
            .for_each(|line| println!("{line}"));
        if output.status.success() && text.contains("1 passed") {
            return;
        }
        let still =
            text.lines().find_map(|line| line.strip_prefix("the machine stood still for ")?.strip_suffix(" ms"));
        let still: u64 = still.and_then(|still| still.parse().ok()).unwrap_or(0);
        assert!(still >= TOO_STILL && again < TRIES, "{text}");
        println!("two boxes: {test} went wrong, but the machine stood still for {still} ms meanwhile; once more");
    }
}

/// Waits until the boxes are in their roles, and the backup knows of the held connections.
fn roles(master: &Balancer, backup: &Balancer, held: usize) {
    until("one has both addresses", || master.is_master());
    assert_eq!(backup.addresses(), [""; 0], "{}", backup.name);
    let told = || backup.connections("-e").iter().filter(|line| line.contains("ESTABLISHED")).count();
    until("the other one knows the connections", || told() >= held);
}

/// The boxes change their roles: what the clients notice of it.
fn takeover(how: &str, lab: &Lab, traffic: &Traffic, limit: Duration, change: impl FnOnce()) {
    traffic.forget_gaps();
    let since = Instant::now();
    change();
    // A connection begun from here on has met nobody, or the new master.
    let gone = Instant::now();
    let works = |attempt: &traffic::Attempt| attempt.result.is_ok();
    until("new connections work again", || traffic.attempts(gone).iter().any(works));
    let again = traffic.attempts(gone).iter().find(|attempt| works(attempt)).unwrap().ended - since;
    // A held one speaks again when TCP repeats what was lost; it waits the longer the longer nothing has come.
    let through = |held: &traffic::Held| held.error.is_some() || held.last > gone + again;
    until("each held connection lives or has ended", || traffic.held().iter().all(through));
    let lost = traffic.attempts(since).iter().filter(|attempt| attempt.result.is_err()).count();
    let held = traffic.held();
    let alive = held.iter().filter(|held| held.error.is_none()).count();
    let gap = held.iter().map(|held| held.gap).max().unwrap();
    println!(
        "two boxes, {}, {how}: new connections after {} ms ({lost} tries given up), {alive} of {HELD} held ones \
         alive, longest gap {} ms",
        lab.variant.engine(),
        again.as_millis(),
        gap.as_millis(),
    );
    let dead: Vec<_> = held.iter().filter(|held| held.error.is_some() || held.answers.len() != 1).collect();
    assert!(alive == HELD && dead.is_empty(), "{dead:?}");
    assert!(again < limit, "new connections only after {again:?}");
}

/// For some seconds the roles stay as they are, and nobody loses anything.
fn nothing_happens(traffic: &Traffic, since: Instant, master: &Balancer, backup: &Balancer, seconds: u64) {
    let now = Instant::now();
    until("time passes", || {
        assert!(master.is_master() && backup.addresses().is_empty());
        now.elapsed() >= Duration::from_secs(seconds)
    });
    let attempts = traffic.attempts(since);
    let lost: Vec<_> = attempts.iter().filter(|attempt| attempt.result.is_err()).collect();
    assert!(attempts.len() > 20 && lost.is_empty(), "{} of {}: {lost:?}", lost.len(), attempts.len());
}

/// The whole story; `late` is how many seconds after the addresses the connections come, at the second change of roles.
fn story(lab: &Lab, seconds: &str, limit: Duration, late: Option<u32>) {
    pair::surroundings();
    let mut one = Balancer::new(lab, 1, seconds);
    let mut two = Balancer::new(lab, 2, seconds);
    let mut traffic = Traffic::new(&["b1", "b2", "b3"], 5555);
    // Neither has the addresses when the rules are put in force.
    one.switch_on();
    two.switch_on();
    roles(&one, &two, 0);
    for (balancer, place) in [(&one, "on this host"), (&two, "held by keepalived")] {
        let (code, said) = balancer.paraglider("check");
        assert!(code == 0 && !said.contains("on no interface"), "{}: {said}", balancer.name);
        for finding in [format!("bind {BIND}:4444: the address is {place}"), format!("privateip {PRIVATEIP}: {place}")]
        {
            assert!(said.contains(&finding), "{}: {finding}:\n{said}", balancer.name);
        }
    }
    let begun = Instant::now();
    traffic.begin(format!("{BIND}:4444").parse().unwrap(), HELD);
    until("all are there", || {
        traffic.held().iter().filter(|held| held.answers.values().sum::<usize>() > 2).count() == HELD
    });
    // Another connection of the master's own, which is nobody else's business.
    lab::inside(&one.name, || std::mem::forget(TcpListener::bind("0.0.0.0:22").unwrap())).join().unwrap();
    let own = lab::inside("client", || TcpStream::connect("166.1.101.11:22").unwrap()).join().unwrap();
    roles(&one, &two, HELD);
    let told = one.connections("-i");
    assert!(told.len() >= HELD && told.iter().all(|line| line.contains(&format!("dst={BIND} "))), "{told:?}");
    drop(own);

    let how = |what: &str| format!("advert_int {seconds}, {what}");
    takeover(&how("the master has no power"), lab, &traffic, limit, || one.pull_the_plug());
    assert!(two.is_master());

    // It comes back, knowing nothing.
    one.bury();
    if let Some(late) = late {
        one.commit_late(late);
    }
    let since = Instant::now();
    one.switch_on();
    roles(&two, &one, HELD);
    nothing_happens(&traffic, since, &two, &one, 2);

    let late = late.map(|late| format!(", and the connections come {late} s late")).unwrap_or_default();
    takeover(&how(&format!("the master has no cables{late}")), lab, &traffic, limit, || two.cables(false));
    assert!(one.is_master());
    let since = Instant::now();
    two.cables(true);
    roles(&one, &two, HELD);
    nothing_happens(&traffic, since, &one, &two, 2);

    takeover(&how("keepalived is stopped"), lab, &traffic, Duration::from_secs(1), || {
        one.stop_keepalived();
        until("the other one has the addresses", || two.is_master() && one.addresses().is_empty());
    });

    traffic.end();
    ledger(&traffic, begun);
}

/// Each connection has come to one backend, once, and from privateip.
fn ledger(traffic: &Traffic, begun: Instant) {
    let arrivals = traffic.arrivals();
    let strangers: Vec<_> = arrivals.iter().filter(|arrival| arrival.from != PRIVATEIP).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    let numbers: BTreeSet<usize> = arrivals.iter().map(|arrival| arrival.number).collect();
    assert_eq!(numbers.len(), arrivals.len(), "some came twice");
    let arrived = |number: usize, backend: &str| {
        arrivals.iter().any(|arrival| arrival.number == number && arrival.backend == backend)
    };
    for held in traffic.held() {
        assert!(held.answers.keys().all(|backend| arrived(held.number, backend)), "{held:?}");
    }
    for attempt in traffic.attempts(begun) {
        assert!(attempt.result.as_ref().map_or(true, |backend| arrived(attempt.number, backend)), "{attempt:?}");
    }
    let backends: BTreeSet<_> = arrivals.iter().map(|arrival| arrival.backend).collect();
    assert_eq!(backends.len(), 3);
}

fn slow(lab: &Lab) {
    story(lab, "1", Duration::from_secs(4), None);
}

fn fast(lab: &Lab) {
    story(lab, "0.2", Duration::from_secs(1), Some(2));
}

#[test]
fn slow_nft() {
    in_lab("slow_nft", Variant::Nft, slow);
}

#[test]
fn slow_legacy() {
    in_lab("slow_legacy", Variant::Legacy, slow);
}

#[test]
fn slow_netlink() {
    in_lab("slow_netlink", Variant::Netlink, slow);
}

#[test]
fn fast_nft() {
    in_lab("fast_nft", Variant::Nft, fast);
}

#[test]
fn fast_legacy() {
    in_lab("fast_legacy", Variant::Legacy, fast);
}

#[test]
fn fast_netlink() {
    in_lab("fast_netlink", Variant::Netlink, fast);
}
