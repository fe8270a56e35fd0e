//! Verbs that follow close upon each other while a watch runs, and configs that change under it.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::backend::{silence, speak, Backend};
use crate::health::{checked, of_backends, QUICK, WINDOW};
use crate::lab::{inside, Held, Lab, Variant};
use crate::on_both;
use crate::watching::{shares, until, Watch};
use crate::BIND;

const B2_DOWN: &str = "10.2.0.12:80 of 10.9.0.1:4444 is down";

on_both!(a_start_right_after_a_stop_is_not_slept_through, |lab| {
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
    watch.signal(Signal::SIGCONT);
    let since = Instant::now();
    watch.hears(since, "the rules were stopped");
    sleep(Duration::from_millis(2500));
    assert_eq!(lab.ours(), [""; 0]);
});

on_both!(a_watch_that_waits_for_the_lock_is_known_by_its_own_number, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    fs::write("/run/paraglider.watch", format!("{} /x\nend\n", stranger.id())).unwrap();
    let mut holder = Command::new("flock").args(["/run/paraglider.lock", "sleep", "2"]).spawn().unwrap();
    until("somebody has the lock", || {
        !Command::new("flock").args(["-n", "/run/paraglider.lock", "true"]).status().unwrap().success()
    });
    let mut stop = lab.command("stop").spawn().unwrap();
    let watch = Watch::spawn(lab, "watch");
    until("it is in the file", || {
        fs::read_to_string("/run/paraglider.watch").unwrap().starts_with(&format!("{} ", watch.process()))
    });
    assert!(holder.wait().unwrap().success() && stop.wait().unwrap().success());
    assert!(stranger.try_wait().unwrap().is_none(), "it got a signal");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
});

on_both!(a_backend_that_drains_and_no_longer_listens_keeps_its_connections, |lab| {
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

on_both!(starts_that_change_nothing_do_not_put_off_the_checks, |lab| {
    let _three = Backend::three();
    lab.config(&checked("interval: 1s, timeout: 500ms, fall: 3", &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    silence("b2");
    while watch.lines(since, B2_DOWN).is_empty() {
        assert!(since.elapsed() < Duration::from_secs(8), "{}", watch.text());
        lab.ok("start");
        sleep(Duration::from_millis(700));
    }
    speak("b2");
});

on_both!(of_those_that_are_down_whoever_is_left_in_the_config_is_kept, |lab| {
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
    assert!(!rules.iter().any(|rule| rule.contains("REJECT")), "{rules:?}");
    let since = Instant::now();
    b2.start();
    watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is up");
    assert_eq!(shares(BIND, 2), [("b2".to_owned(), 2)].into());
});
