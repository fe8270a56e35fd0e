//! Verbs that follow close upon each other while a watch runs, and configs that change under it.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::backend::{silence, speak, Backend};
use crate::health::{checked, hold_three, of_backends, QUICK, WINDOW};
use crate::lab::{inside, Held, Lab, Variant};
use crate::on_all;
use crate::watching::{kept, shares, until, Watch, SLACK};
use crate::BIND;

const B2_DOWN: &str = "10.2.0.12:80 of 10.9.0.1:4444 is down";

on_all!(a_start_right_after_a_stop_is_not_slept_through, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    // It finds the signals of both at once.
    watch.signal(Signal::SIGSTOP);
    lab.ok("stop");
    lab.ok("start");
    watch.signal(Signal::SIGCONT);
    let since = Instant::now();
    b2.stop();
    watch.turns(lab, since, B2_DOWN);
    // And the other way round.
    watch.signal(Signal::SIGSTOP);
    lab.ok("start");
    lab.ok("stop");
    let since = Instant::now();
    watch.signal(Signal::SIGCONT);
    watch.hears(since, "the rules were stopped");
    sleep(Duration::from_millis(2500));
    assert_eq!(lab.ours(), [""; 0]);
});

on_all!(a_watch_that_waits_for_the_lock_is_known_and_can_be_ended, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    lab.ok("stop");
    let mut holder = hold_lock();
    let watch = Watch::spawn(lab, "watch");
    let said = format!("another `paraglider watch` is running (process {})", watch.process());
    until("it has claimed its file", || kept("watch").exists());
    std::thread::sleep(Duration::from_millis(300));
    let mut second = Watch::spawn(lab, "watch");
    assert_eq!(second.ended(), Some(1), "{}", second.text());
    assert!(second.text().contains(&said), "{}", second.text());
    let since = Instant::now();
    assert_eq!(watch.end(Signal::SIGTERM), Some(0));
    assert!(since.elapsed() < SLACK, "{:?}", since.elapsed());
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(lab.ours(), [""; 0]);
});

/// A process that has the lock until it is killed.
pub fn hold_lock() -> std::process::Child {
    let lock = kept("lock");
    let holder = Command::new("flock").arg("--no-fork").arg(&lock).args(["sleep", "60"]).spawn().unwrap();
    until("another process has the lock", || {
        !Command::new("flock").arg("-n").arg(&lock).arg("true").status().unwrap().success()
    });
    holder
}

on_all!(a_backend_that_drains_and_no_longer_listens_keeps_its_connections, |lab| {
    let [mut b1, _b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1]));
    let watch = Watch::begin(lab);
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    held.ask().unwrap();
    lab.config(&of_backends(QUICK, "{address: '10.2.0.11:80', weight: 0}, '10.2.0.12:80'"));
    lab.ok("reload");
    let since = Instant::now();
    b1.close();
    watch.turns(lab, since, "10.2.0.11:80 of 10.9.0.1:4444 is down");
    sleep(WINDOW);
    assert_eq!(held.ask().unwrap().0, "b1");
});

on_all!(starts_that_change_nothing_do_not_put_off_the_checks, |lab| {
    let _three = Backend::three();
    lab.config(&checked("interval: 1s, timeout: 500ms, fall: 3", &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    silence("b2");
    while watch.lines(since, B2_DOWN).is_empty() {
        assert!(since.elapsed() < Duration::from_secs(8), "{}", watch.text());
        lab.ok("start");
        // More often than a check takes to fail.
        sleep(Duration::from_millis(200));
    }
    speak("b2");
});

on_all!(if_only_backends_that_are_down_are_left_they_are_kept, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2]));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    b2.stop();
    watch.turns(lab, since, B2_DOWN);
    lab.config(&checked(QUICK, &[2]));
    lab.ok("reload");
    lab.ok("status");
    let rules = lab.ours();
    assert!(rules.iter().any(|rule| rule.contains("10.2.0.12:80")), "{rules:?}");
    assert!(!rules.iter().any(|rule| rule.contains("REJECT") || rule.contains("reject")), "{rules:?}");
    let since = Instant::now();
    b2.start();
    watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is up");
    assert_eq!(shares(BIND, 2), [("b2".to_owned(), 2)].into());
});

on_all!(connections_that_could_not_be_ended_are_ended_later, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let begin = |words: &str| {
        let since = Instant::now();
        let watch = Watch::of(lab.deaf(words)?);
        watch.hears(since, "watching the rules and 3 backends");
        Some(watch)
    };
    let Some(watch) = begin("watch") else { return };
    let since = Instant::now();
    let held = hold_three();
    std::fs::write(lab.path("deaf"), "").unwrap();
    silence("b2");
    watch.turns(lab, since, B2_DOWN);
    watch.hears(since, "cannot end connections");
    let failed = Instant::now();
    until("two more looks", || failed.elapsed() > Duration::from_millis(4500));
    assert_eq!(watch.lines(since, "cannot end connections").len(), 1, "said once: {}", watch.text());
    // The next one, which remembers the dead backend, lives with it too.
    assert_eq!(watch.end(Signal::SIGKILL), None);
    let since = Instant::now();
    let Some(mut watch) = begin("watch --again") else { return };
    watch.hears(since, "cannot end connections");
    let failed = Instant::now();
    until("two more looks", || failed.elapsed() > Duration::from_millis(4500));
    assert!(watch.lives() && watch.lines(since, "cannot end connections").len() == 1, "{}", watch.text());
    std::fs::remove_file(lab.path("deaf")).unwrap();
    let since = Instant::now();
    until("the next look", || since.elapsed() > Duration::from_millis(2500));
    assert_eq!(held[1].ask().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    held[0].ask().unwrap();
});
