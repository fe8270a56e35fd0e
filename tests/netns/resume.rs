//! What is meant to be in force is neither forgotten nor brought back: after a killed `stop`, with files that cannot be
//! read or written, without /proc, after a change right behind one of our own.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::backend::Backend;
use crate::failure::wrap_restore;
use crate::health::{checked, QUICK};
use crate::lab::{sh, Lab, Variant};
use crate::sequence::hold_lock;
use crate::watching::{kept, until, Watch};
use crate::{on_all, on_both, BIND};

const B2_DOWN: &str = "10.2.0.12:80 of 10.9.0.1:4444 is down";

/// Longer than a watch takes to look at the rules and to put them back.
const TWO_LOOKS: Duration = Duration::from_millis(4500);

on_all!(a_flush_right_after_our_own_write_is_mended, |lab| {
    let _three = Backend::three();
    // On the old iptables the stamp is that of the tables without our rules, both before the start and after the flush.
    sh("iptables -nL && iptables -t nat -nL && ip6tables -nL && ip6tables -t nat -nL");
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    for _ in 0..2 {
        sh(lab.loses_all());
        until("the rules are back", || lab.paraglider("status").0 == 0);
    }
    assert_eq!(watch.end(Signal::SIGTERM), Some(0));
});

/// A command with Paraglider that finds an empty /proc, as after `nsenter` into a network namespace alone.
fn without_proc(lab: &Lab, words: &str) -> std::process::Output {
    let paraglider = lab.command(words);
    let mut hidden = Command::new("unshare");
    hidden.args(["-m", "sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"]).arg(paraglider.get_program());
    hidden.args(paraglider.get_args()).output().unwrap()
}

on_all!(without_proc_a_stop_removes_all_and_the_watch_rests, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let output = without_proc(lab, "stop");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    sleep(TWO_LOOKS);
    assert_eq!(lab.ours(), [""; 0], "{output:?}\n{}", watch.text());
});

on_all!(a_watch_that_begins_with_a_full_run_checks_what_was_started, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    sh("mkdir -p /run/paraglider && mount -t tmpfs -o size=8k,mode=700 small /run/paraglider");
    lab.paraglider("status");
    let _ = fs::write("/run/paraglider/fill", vec![b'x'; 1 << 16]);
    lab.config(&checked(QUICK, &[1, 2, 3]));
    lab.ok("start");
    let watch = Watch::spawn(lab, "watch --again");
    let since = Instant::now();
    b2.stop();
    watch.hears(since, B2_DOWN);
    // What has put the rules back after a firewall's reload does it without the watch too.
    assert_eq!(watch.end(Signal::SIGKILL), None);
    sh(lab.loses_all());
    lab.ok("start --again");
    assert!(!lab.ours().is_empty());
});

on_all!(what_cannot_be_read_is_still_meant, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let rules = lab.ours();
    fs::rename(kept("meant.yaml"), kept("elsewhere")).unwrap();
    fs::create_dir(kept("meant.yaml")).unwrap();
    let since = Instant::now();
    watch.hears(since, "cannot read /run/paraglider/");
    assert_eq!(lab.ours(), rules);
    // A start that cannot note what it does changes nothing.
    lab.config(&checked(QUICK, &[1, 3]));
    let (code, _, err) = lab.paraglider("start");
    assert_eq!((code, lab.ours()), (1, rules), "{err}");
    fs::remove_dir(kept("meant.yaml")).unwrap();
    fs::rename(kept("elsewhere"), kept("meant.yaml")).unwrap();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let since = Instant::now();
    b2.stop();
    watch.turns(lab, since, B2_DOWN);
    assert!(!watch.text().contains("were stopped"), "{}", watch.text());
});

on_all!(a_directory_that_others_may_write_to_does_not_undo_a_stop, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    sleep(Duration::from_millis(2500));
    sh("chmod 775 /run/paraglider");
    let (code, _, err) = lab.paraglider("stop");
    assert!(code == 0 && err.contains("going on without the lock"), "{err}");
    sleep(TWO_LOOKS);
    assert_eq!(lab.ours(), [""; 0], "{}", watch.text());
});

// By a program that is slow; the nftables engine removes its table by one system call.
on_both!(a_stop_that_was_killed_before_it_removed_anything_is_forgotten, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let rules = lab.ours();
    wrap_restore(lab, "sleep 30 & echo $! >$DIR/sleeper; wait; exit 1");
    let mut stop = lab.command("stop").spawn().unwrap();
    until("it is at work", || lab.path("sleeper").exists());
    stop.kill().unwrap();
    stop.wait().unwrap();
    // The lock goes with the last program that has it.
    let sleeper: i32 = fs::read_to_string(lab.path("sleeper")).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(sleeper), Signal::SIGKILL).unwrap();
    wrap_restore(lab, "exec $REAL \"$@\"");
    assert_eq!(lab.ours(), rules);
    lab.ok("start --again");
    let since = Instant::now();
    b2.stop();
    watch.turns(lab, since, B2_DOWN);
});

on_all!(a_stop_that_was_killed_after_it_removed_all_stays, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    lab.ok("start");
    fs::copy(kept("meant.yaml"), kept("meant.last")).unwrap();
    lab.ok("stop");
    fs::write(kept("meant.last"), checked(QUICK, &[1, 2, 3])).unwrap();
    lab.ok("start --again");
    assert!(lab.ours().is_empty() && !kept("meant.last").exists(), "{:?}", lab.ours());
});

on_all!(a_stop_counts_more_than_a_signal_before_it, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    lab.ok("stop");
    watch.hears(Instant::now() - Duration::from_secs(10), "were stopped");
    let mut holder = hold_lock();
    watch.signal(Signal::SIGHUP);
    let mut stop = lab.command("stop").spawn().unwrap();
    sleep(Duration::from_millis(500));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(stop.wait().unwrap().success());
    let removed = Instant::now();
    until("time passes", || removed.elapsed() > TWO_LOOKS);
    // Whichever of the two had the lock first: the stop came last.
    assert_eq!(lab.ours(), [""; 0], "{}", watch.text());
});

on_all!(a_directory_that_was_removed_is_made_again, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    fs::remove_dir_all("/run/paraglider").unwrap();
    lab.ok("start");
    let since = Instant::now();
    b2.stop();
    watch.hears(since, B2_DOWN);
    until("b2 is out of the rules", || !lab.hands_to("10.2.0.12:80"));
    assert_eq!(crate::watching::shares(BIND, 10).len(), 2);
});
