//! What is kept in /run between two runs, and what may be wrong with it: no space, read-only, links and FIFOs in the way,
//! old content, other namespaces.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::backend::{silence, Backend};
use crate::failure::wrap_restore;
use crate::health::{checked, QUICK, WINDOW};
use crate::lab::{program, sh, Lab, Variant};
use crate::watching::{failed, kept, shares, told, until, Clients, Watch, SLACK};
use crate::{on_all, on_both, BIND};

const B2_DOWN: &str = "10.2.0.12:80 of 10.9.0.1:4444 is down";

/// No new connection goes to b2, and each gets an answer.
fn without_b2() {
    assert_eq!(shares(BIND, 10), [("b1".to_owned(), 5), ("b3".to_owned(), 5)].into());
}

/// Longer than a watch takes to put rules back.
fn stays_away(lab: &Lab, watch: &Watch) {
    let since = Instant::now();
    until("time passes", || {
        assert_eq!(lab.ours(), [""; 0], "{}", watch.text());
        since.elapsed() > Duration::from_millis(4500)
    });
}

// By a program that is slow; the nftables engine calls none.
on_both!(a_stop_that_takes_longer_than_anything_waits_is_not_undone, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    // Slow only for `stop`: a watch that undid it would be quick.
    wrap_restore(lab, "if mkdir $DIR/slow 2>/dev/null; then sleep 11; fi; exec $REAL \"$@\"");
    lab.ok("stop");
    stays_away(lab, &watch);
    assert_eq!(watch.end(Signal::SIGTERM), Some(0));
});

// By a program that fails; `nftables.rs` has the same of a table that cannot be removed.
on_both!(a_stop_that_removed_nothing_leaves_the_watch_at_work, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let rules = lab.ours();
    wrap_restore(lab, "echo no >&2; exit 1");
    assert_eq!(lab.paraglider("stop").0, 1);
    wrap_restore(lab, "exec $REAL \"$@\"");
    assert_eq!(lab.ours(), rules);
    sh(lab.loses_clients());
    until("the rules are back", || lab.paraglider("status").0 == 0);
    assert!(!watch.text().contains("were stopped"), "{}", watch.text());
});

/// A file system of its own for the state, of that many pages of 4 KiB.
fn small_run(pages: usize) {
    fs::create_dir_all("/run/paraglider").unwrap();
    sh(&format!("mount -t tmpfs -o size={}k,mode=700 small /run/paraglider", pages * 4));
}

/// Fills it.
fn fill() {
    let mut file = fs::File::create("/run/paraglider/fill").unwrap();
    while file.write_all(&[b'x'; 1024]).is_ok() {}
}

on_all!(a_full_run_loses_nothing, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    small_run(8);
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    fill();
    let since = Instant::now();
    b2.stop();
    watch.turns(lab, since, B2_DOWN);
    without_b2();
    // The same config needs no space; another one is refused before anything is changed.
    let rules = lab.ours();
    lab.ok("start");
    without_b2();
    lab.config(&checked(QUICK, &[1, 3]));
    let (code, _, err) = lab.paraglider("start");
    assert!(code == 1 && err.contains("No space left") && err.contains("nothing was changed"), "{err}");
    assert_eq!(lab.ours(), rules);
    lab.ok("stop");
    stays_away(lab, &watch);
    assert_eq!(watch.end(Signal::SIGKILL), None);

    // With no space from the beginning.
    sh("umount /run/paraglider");
    small_run(2);
    fill();
    let (code, _, err) = lab.paraglider("start");
    assert!(code == 0 && err.contains("No space left"), "{err}");
    let since = Instant::now();
    let watch = Watch::spawn(lab, "watch");
    watch.hears(since, "going on from memory");
    watch.hears(since, "watching the rules and 2 backends");
    sh(lab.loses_clients());
    until("the rules are back", || lab.paraglider("status").0 == 0);
    assert_eq!(watch.lines(since, "going on from memory").len(), 1, "{}", watch.text());
    lab.ok("stop");
    stays_away(lab, &watch);
});

on_all!(a_stop_reaches_a_watch_of_another_pid_namespace_and_no_other_process, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "--"]).arg(program()).arg("-config").arg(lab.path("glider.yaml"));
    unshare.arg("watch");
    let since = Instant::now();
    let watch = Watch::of(unshare);
    watch.hears(since, "watching the rules and 3 backends");
    // Inside it is number 1; here it has a number as well, and from a sister of its namespace none.
    let said = lab.paraglider("watch").2;
    assert!(said.contains("is running (process ") && !said.contains("(process 1)"), "{said}");
    let sister = |words: &str| {
        let paraglider = format!("{} -config {}", program().display(), lab.path("glider.yaml").display());
        sh(&format!("unshare --pid --fork -- {paraglider} {words} 2>&1 || true"))
    };
    let said = sister("watch");
    assert!(said.contains("is running (a process in another PID namespace)"), "{said}");
    sister("stop");
    stays_away(lab, &watch);
    lab.ok("start");
    until("it goes on", || lab.ok("status --json").contains("\"up\""));
    lab.ok("status");
    lab.ok("stop");
    stays_away(lab, &watch);
    lab.ok("start");
    until("it goes on", || {
        watch.lines(since, "is balanced").len() > 1 || told(&lab.ok("status --json"), "10.2.0.12:80").contains("\"up\"")
    });
});

on_all!(an_old_file_makes_no_healthy_backend_refused, |lab| {
    let _three = Backend::three();
    lab.config(&checked("interval: 20s, fall: 3, rise: 2, on_all_down: reject", &[1, 2, 3]));
    lab.ok("start");
    // Of version 0.1; and of this one, an earlier boot's.
    let lines: String = (1..=3).map(|n| format!("{BIND} 10.2.0.1{n}:80 down left 1 0 1 x\n")).collect();
    let header = "paraglider 1 0000000002 0000000000000001 5d1a2c3e-0000-0000-0000-000000000000\n";
    for (file, text) in [
        ("/run/paraglider.watch".into(), format!("1 /x\n{lines}end\n")),
        (kept("watch"), format!("{header}{lines}end\n")),
    ] {
        fs::write(&file, text).unwrap();
        let clients = Clients::begin("client", BIND, 1, Duration::from_millis(20));
        let watch = Watch::begin(lab);
        sleep(Duration::from_millis(500));
        let attempts = clients.end();
        assert!(attempts.len() > 10 && failed(&attempts).is_empty(), "{:?}", failed(&attempts));
        assert_eq!(watch.end(Signal::SIGTERM), Some(0));
        lab.ok("reload");
        assert_eq!(shares(BIND, 3).len(), 3, "{}", file.display());
    }
});

on_all!(while_no_watch_runs_the_dead_stay_out_and_the_recovered_come_back_at_once, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    let slow = "interval: 5s, timeout: 150ms, fall: 1, rise: 2";
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    b2.stop();
    watch.turns(lab, since, B2_DOWN);
    assert_eq!(watch.end(Signal::SIGKILL), None);
    let clients = Clients::begin("client", BIND, 2, Duration::from_millis(10));
    lab.ok("reload");
    lab.ok("status");
    sleep(Duration::from_millis(500));
    let attempts = clients.end();
    assert!(attempts.len() > 10 && failed(&attempts).is_empty(), "{:?}", failed(&attempts));
    // As a firewall does it: then the rules no longer tell which backend was left out.
    sh(lab.loses_all());
    lab.ok("start");
    without_b2();
    b2.start();
    lab.config(&checked(slow, &[1, 2, 3]));
    // It was down for an interval, as it has to be.
    sleep(Duration::from_millis(5000));
    let since = Instant::now();
    let watch = Watch::begin(lab);
    let took = watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is up");
    assert!(took < WINDOW + SLACK, "two checks at once, not 5 s apart: {took:?}");
});

on_all!(what_is_in_the_way_is_named_and_never_waited_for, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    lab.ok("start");
    lab.ok("stop");
    let victim = lab.path("victim");
    fs::write(&victim, "precious").unwrap();
    for name in ["lock", "meant.yaml", "watch"] {
        for kind in ["fifo", "link"] {
            lab.ok("start");
            let file = kept(name);
            let _ = fs::remove_file(&file);
            match kind {
                "fifo" => drop(sh(&format!("mkfifo {}", file.display()))),
                _ => symlink(&victim, &file).unwrap(),
            }
            let since = Instant::now();
            let (code, _, err) = lab.paraglider("start");
            if name == "lock" {
                assert!(code == 1 && err.contains(file.to_str().unwrap()), "{name} {kind}: {err}");
            } else {
                assert_eq!(code, 0, "{name} {kind}: {err}");
            }
            lab.ok("status");
            lab.ok("stop");
            assert_eq!(lab.ours(), [""; 0], "{name} {kind}");
            assert!(since.elapsed() < Duration::from_secs(8), "{name} {kind}: {:?}", since.elapsed());
            assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
            let _ = fs::remove_file(&file);
        }
    }
    // The directory itself.
    fs::remove_dir_all("/run/paraglider").unwrap();
    fs::create_dir(lab.path("elsewhere")).unwrap();
    symlink(lab.path("elsewhere"), "/run/paraglider").unwrap();
    let (code, _, err) = lab.paraglider("start");
    assert!(code == 1 && err.contains("/run/paraglider"), "{err}");
    lab.ok("stop");
    fs::remove_file("/run/paraglider").unwrap();
    fs::create_dir("/run/paraglider").unwrap();
    sh("chmod 777 /run/paraglider");
    let (code, _, err) = lab.paraglider("start");
    assert!(code == 1 && err.contains("mode 777"), "{err}");
});

on_all!(a_read_only_run_does_not_hinder_a_stop, |lab| {
    let _three = Backend::three();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    sh("mount -o remount,ro /run");
    let (code, _, err) = lab.paraglider("start");
    assert!(code == 1 && err.contains("Read-only"), "{err}");
    let (code, _, err) = lab.paraglider("stop");
    assert!(code == 0 && err.contains("going on without the lock"), "{err}");
    assert_eq!(lab.ours(), [""; 0]);
});

on_all!(namespaces_that_share_run_do_not_meet, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let program = program();
    let inside = |words: &str| {
        let line =
            format!("ip netns exec client {} -config {} {words}", program.display(), lab.path("glider.yaml").display());
        sh(&format!("{line} 2>&1"))
    };
    assert!(inside("stop").contains("nothing of Paraglider is in force"));
    inside("start");
    assert!(inside("stop").contains("removed all rules"));
    let since = Instant::now();
    b2.stop();
    watch.turns(lab, since, B2_DOWN);
    without_b2();
});

on_all!(a_watch_whose_file_was_removed_by_hand_makes_it_again, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    b2.stop();
    watch.hears(since, B2_DOWN);
    fs::remove_file(kept("watch")).unwrap();
    until("it is there again", || kept("watch").exists());
    until("status knows it", || lab.paraglider("status").1.contains("down for"));
    let (code, _, err) = lab.paraglider("watch");
    assert!(code == 1 && err.contains(&format!("is running (process {}", watch.process())), "{err}");
    lab.ok("stop");
    sleep(Duration::from_millis(4500));
    assert_eq!(lab.ours(), [""; 0], "{}", watch.text());
});

on_all!(whether_a_watch_is_needed_says_what_is_in_force_and_not_what_is_edited, |lab| {
    let checked = checked(QUICK, &[1, 2, 3]);
    let needed = || lab.paraglider("watch --needed").0;
    lab.config(&checked);
    lab.ok("start");
    lab.balance(&[1]);
    assert_eq!(needed(), 0, "a watch that crashes comes back, though the file was edited");
    lab.config("frontend: 1");
    assert_eq!(needed(), 0, "nor has a mistake in the file an effect");
    lab.balance(&[1]);
    lab.ok("start");
    lab.config(&checked);
    assert_eq!(needed(), 1);
    lab.ok("stop");
    assert_eq!(needed(), 0, "after a stop it is the file's");
    lab.config("frontend: 1");
    assert_eq!(needed(), 2);
});

on_all!(what_a_namespace_that_is_gone_meant_is_not_believed, |lab| {
    let _three = Backend::three();
    lab.balance(&[1, 2]);
    let folder = || kept("").parent().unwrap().to_owned();
    lab.ok("start");
    lab.ok("stop");
    let own = fs::read_to_string(kept("home")).unwrap();
    let there = || fs::read_dir(folder()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let meant = "frontend: {bind: '10.9.0.1:4444', backends: ['10.2.0.13:80']}";
    let [boot, cookie] = own.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{own}") };
    let known = cookie != "-";
    for (home, believed) in [
        // Another namespace has had our number; another boot; and both.
        (format!("{boot} 12345678\n"), !known),
        (format!("11111111-2222-3333-4444-555555555555 {cookie}\n"), false),
        // Unknown parts, and what an older version has left.
        (format!("{boot} -\n"), true),
        (format!("- {cookie}\n"), true),
        (String::new(), true),
        (own.clone(), true),
    ] {
        fs::write(kept("home"), &home).unwrap();
        for (name, verb) in [("meant.yaml", "start --again"), ("meant.last", "start --again")] {
            fs::write(kept(name), meant).unwrap();
            fs::set_permissions(kept(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            fs::write(kept("home"), &home).unwrap();
            lab.ok(verb);
            // One that a killed stop has left is meant only if rules are in force.
            let wanted = believed && name == "meant.yaml";
            assert_eq!(!lab.ours().is_empty(), wanted, "{home}{name}: {:?}", there().collect::<Vec<_>>());
            lab.ok("stop");
        }
        assert!(!there().any(|name| name.starts_with("meant")), "{home}");
    }
    assert_eq!(fs::read_to_string(kept("home")).unwrap(), own);
});

on_all!(a_watch_that_stands_still_is_told_of_and_no_word_of_status_ends_it, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    until("some looks", || {
        assert_eq!(lab.ok("status").lines().next().unwrap().find("written"), None);
        since.elapsed() > Duration::from_secs(3)
    });
    watch.signal(Signal::SIGSTOP);
    let said = format!("the watch (process {}) has not written for 1", watch.process());
    until("status tells", || lab.ok("status").contains(&said));
    watch.signal(Signal::SIGCONT);
    until("it is back", || !lab.ok("status").contains("written"));
    assert_eq!(watch.end(Signal::SIGTERM), Some(0));
});

on_all!(few_descriptors_are_enough_for_checks, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::limited(lab, "ulimit -n 20");
    let since = Instant::now();
    watch.hears(since, "watching the rules and 3 backends");
    until("all are checked", || lab.ok("status").matches("up for ").count() == 3);
    b2.stop();
    watch.turns(lab, since, B2_DOWN);
});

on_all!(what_was_never_checked_is_not_up, |lab| {
    let _three = Backend::three();
    silence("b1");
    lab.config(&checked("interval: 20s, timeout: 10s", &[1]));
    let _watch = Watch::begin(lab);
    assert!(told(&lab.ok("status --json"), "10.2.0.11:80").contains("\"state\":\"unchecked\""));
});

on_all!(what_is_meant_is_put_back_and_nothing_after_a_stop, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    let again = |words: &str| {
        let (code, out, err) = lab.paraglider(words);
        assert_eq!((code, out.as_str()), (0, ""), "{err}");
        err
    };
    lab.balance(&[1, 2]);
    assert_eq!(again("start --again"), "");
    assert_eq!(lab.ours(), [""; 0]);
    lab.ok("start");
    let rules = lab.ours();
    // Whatever has become of the config since; a refused start changes nothing of what is meant.
    lab.config("frontend: 1\n");
    assert_eq!(lab.paraglider("start").0, 2);
    sh(lab.loses_all());
    assert!(again("start --again").contains("is balanced over 2 backends"));
    assert_eq!(lab.ours(), rules);
    assert_eq!(again("start --again"), "", "what changes nothing is silent");
    lab.ok("stop");
    assert_eq!(again("start --again"), "");
    assert_eq!(lab.ours(), [""; 0]);

    // So does a watch that a service manager has started once more.
    lab.config(&checked(QUICK, &[1, 2, 3]));
    lab.ok("start");
    lab.config("frontend: 1\n");
    let since = Instant::now();
    let watch = Watch::spawn(lab, "watch --again");
    watch.hears(since, "watching the rules and 3 backends");
    b2.stop();
    watch.hears(since, B2_DOWN);
    assert_eq!(watch.end(Signal::SIGKILL), None);
    lab.ok("stop");
    let since = Instant::now();
    let watch = Watch::spawn(lab, "watch --again");
    watch.hears(since, "the rules were stopped");
    stays_away(lab, &watch);
    lab.config(&checked(QUICK, &[1, 3]));
    lab.ok("start");
    watch.hears(since, "took the config of the last start");
    until("it checks", || lab.ok("status").matches("up for ").count() == 2);
});

/// Version 0.1 had its files beside the directory of today.
#[test]
fn version_0_1_is_taken_over() {
    crate::in_lab("state::version_0_1_is_taken_over", Variant::Nft, |lab| {
        let [_b1, mut b2, _b3] = Backend::three();
        lab.config(&checked(QUICK, &[1, 2, 3]));
        // Its watch is running, and has taken b2 out long ago.
        let watch = Watch::begin(lab);
        b2.stop();
        watch.turns(lab, Instant::now(), B2_DOWN);
        let state = fs::read_to_string(kept("watch")).unwrap();
        let lines: Vec<_> = state.lines().filter(|line| line.starts_with("10.9")).collect();
        assert_eq!(watch.end(Signal::SIGKILL), None);
        fs::remove_dir_all("/run/paraglider").unwrap();
        let (old, lock) = ("/run/paraglider.watch", "/run/paraglider.lock");
        fs::write(old, format!("999999 /x\n{}\nend\n", lines.join("\n"))).unwrap();
        fs::write(lock, "").unwrap();
        sh(&format!("touch -d '2 hours ago' {old}"));
        let mut holder = Command::new("flock").args(["--no-fork", old, "sleep", "60"]).spawn().unwrap();
        until("it runs", || !Command::new("flock").args(["-n", old, "true"]).status().unwrap().success());

        let clients = Clients::begin("client", BIND, 2, Duration::from_millis(10));
        lab.ok("reload");
        // Clients take turns all the time, so the shares are not even.
        assert_eq!(shares(BIND, 10).into_keys().collect::<Vec<_>>(), ["b1", "b3"]);
        let (code, _, err) = lab.paraglider("watch");
        assert!(code == 1 && err.contains("another `paraglider watch` is running"), "{err}");
        // It is at work under its lock.
        let mut at_work = Command::new("flock").args(["--no-fork", lock, "sleep", "2"]).spawn().unwrap();
        sleep(Duration::from_millis(300));
        let since = Instant::now();
        lab.ok("reload");
        assert!(since.elapsed() > Duration::from_millis(1500), "{:?}", since.elapsed());
        at_work.wait().unwrap();

        holder.kill().unwrap();
        holder.wait().unwrap();
        let since = Instant::now();
        let watch = Watch::begin(lab);
        assert_eq!(shares(BIND, 10).into_keys().collect::<Vec<_>>(), ["b1", "b3"]);
        until("some checks", || since.elapsed() > WINDOW * 2);
        let attempts = clients.end();
        assert!(attempts.len() > 100 && failed(&attempts).is_empty(), "{:?}", failed(&attempts));
        assert!(!fs::exists(old).unwrap() && !fs::exists(lock).unwrap());
        b2.start();
        watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is up");
    });
}
