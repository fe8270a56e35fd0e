//! The watch that procd keeps running while, and only while, the config asks for health checks.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::lab::{self, Lab, Variant};
use crate::router::{By, Router};
use crate::story::{answers, fair, tell, ERROR, INFO};

/// procd starts one that was killed anew after 5 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// A backend without a listener: if it is checked it is down; if not, it gets its share of connections.
const DEAD: &str = "10.2.0.13:81";

/// Waits until something is so.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is() {
        assert!(since.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
}

/// Writes the config of a frontend over these backends and [`DEAD`].
fn balance(router: &Router, backends: &[u8], checked: bool) {
    let list: String = backends.iter().map(|n| format!("10.2.0.1{n}:80, ")).collect();
    let health = if checked { "  health: {interval: 200ms, timeout: 100ms, fall: 2, rise: 2}\n" } else { "" };
    let yaml = format!(
        "frontend:\n  bind: 10.9.0.1:4444\n  privateip: 10.2.0.1\n{health}  backends: ['{}', '{DEAD}']\n",
        list.trim_end_matches(", ").replace(", ", "', '")
    );
    router.write("etc/paraglider/glider.yaml", &yaml);
}

/// A word to the init script that must succeed.
fn ok(router: &Router, word: &str) {
    let done = router.service(word);
    assert_eq!(done.code, 0, "{word}: {}", done.err);
}

/// CAP_NET_ADMIN and CAP_NET_RAW are all that it has, or can get.
fn has_few_rights(process: u32) {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    for line in
        ["CapPrm:\t0000000000003000", "CapEff:\t0000000000003000", "CapBnd:\t0000000000003000", "NoNewPrivs:\t1"]
    {
        assert!(status.contains(line), "{line}: {status}");
    }
}

/// The one process that there is.
fn watch(router: &Router) -> u32 {
    let all = router.processes();
    let [one] = all[..] else { panic!("{all:?}") };
    one
}

/// Waits until a watch runs and has taken [`DEAD`] out of the rules; returns its number.
fn is_at_work(lab: &Lab, router: &Router) -> u32 {
    until("the watch takes the dead backend out", || router.processes().len() == 1 && !has_dead(lab));
    watch(router)
}

fn has_dead(lab: &Lab) -> bool {
    assert!(!lab.ours().is_empty(), "the rules are gone");
    lab.leads_to(DEAD)
}

fn signal(process: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(process).unwrap()), signal).unwrap();
}

/// Waits until procd has put another one in the place of the one that was shot.
fn comes_back(router: &Router, shot: u32) {
    until("procd starts another one", || matches!(router.processes()[..], [one] if one != shot));
}

#[test]
fn it_comes_and_goes_with_the_health_block() {
    tell("watch::it_comes_and_goes_with_the_health_block", |lab, router| {
        router.ok("/etc/init.d/firewall start");
        router.install();
        let flash = router.flash();

        // Without health checks no process stays.
        balance(router, &[1, 2], false);
        ok(router, "boot");
        assert!(router.processes().is_empty() && has_dead(lab));
        assert!(!router.exists("tmp/run/paraglider.pid"));

        router.log();
        balance(router, &[1, 2], true);
        ok(router, "reload");
        let first = is_at_work(lab, router);
        assert_eq!(answers("client", 8), fair(&[1, 2], 4));
        has_few_rights(first);
        // What it says is in the log, as procd writes it there.
        let mut log = String::new();
        until("the log tells", || {
            log += &router.log();
            log.lines()
                .any(|line| line.starts_with(ERROR) && line.contains(&format!("{DEAD} of 10.9.0.1:4444 is down")))
        });
        // What is no trouble has its own level, and no line has the name or the level twice.
        let told = log.lines().filter(|line| line.contains("paraglider: ") || line.contains("paraglider["));
        for line in told {
            let trouble = line.contains("warning: ") || line.contains("error: ");
            assert!(trouble || line.starts_with(INFO), "{line}");
            assert!(!line.contains("[paraglider]"), "{line}");
        }
        assert!(log.lines().any(|line| line.starts_with(INFO) && line.contains("watching the rules")), "{log}");
        assert_eq!(router.service("status").code, 0);
        assert_eq!(router.service("running").code, 0);

        // Another config, again and again: the watch stays the same one, and works by the new config.
        balance(router, &[2], true);
        ok(router, "reload");
        until("the dead one is out again", || !has_dead(lab));
        assert_eq!(answers("client", 4), fair(&[2], 4));
        for word in ["start", "restart", "reload"] {
            ok(router, word);
        }
        assert_eq!(watch(router), first);
        assert_eq!(answers("client", 4), fair(&[2], 4));

        // Without health checks it ends, and the rules stay, with all backends.
        balance(router, &[1, 2], false);
        ok(router, "reload");
        until("the watch ends", || router.processes().is_empty());
        until("all backends are back", || has_dead(lab));
        assert_eq!(router.service("status").code, 0);

        // Stop: neither a process nor a rule is left when it returns, and none comes later; not even if it has to be killed.
        for deaf in [true, false] {
            balance(router, &[1, 2], true);
            ok(router, "start");
            let watch = is_at_work(lab, router);
            if deaf {
                signal(watch, Signal::SIGSTOP);
            }
            ok(router, "stop");
            assert!(router.processes().is_empty() && lab.ours().is_empty(), "{:?}", lab.ours());
            assert!(!router.exists("tmp/run/paraglider.pid") && !router.exists("tmp/run/paraglider.yaml"));
        }
        assert_eq!(router.service("status").code, 3);
        ok(router, "stop");
        until("procd has nothing to keep", || !router.exists("tmp/run/procd-paraglider/keeper"));
        assert!(router.processes().is_empty() && lab.ours().is_empty(), "{:?}", lab.ours());
        assert_eq!(router.flash(), flash, "nothing is written there");
    });
}

#[test]
fn a_broken_config_and_a_shot_watch_change_nothing() {
    tell("watch::a_broken_config_and_a_shot_watch_change_nothing", |lab, router| {
        router.ok("/etc/init.d/firewall start");
        router.install();
        balance(router, &[1, 2], true);
        ok(router, "start");
        let first = is_at_work(lab, router);
        let rules = lab.saved(false);

        // With and without checks: in neither case does it end the watch, or the old config's checks.
        for broken in ["frontend:\n  bnid: 10.9.0.1:4444\n", "frontend:\n  health: {intervall: 2s}\n"] {
            router.write("etc/paraglider/glider.yaml", broken);
            for word in ["reload", "start", "restart"] {
                let done = router.service(word);
                assert!(done.code == 2 && done.err.contains("/etc/paraglider/glider.yaml:2:"), "{word}: {}", done.err);
                assert_eq!(watch(router), first);
                assert_eq!(lab.saved(false), rules);
            }
        }

        // The rules are in force while it is away, and the next one works by the config that was last put in force. Nor does
        // the firewall give the dead backend a connection, whatever it does to our rules while nothing checks it, and after.
        let firewall4 = lab.variant != Variant::Legacy;
        let words = if firewall4 { &["", "reload", "restart"][..] } else { &["", "restart"] };
        for word in words {
            let shot = watch(router);
            signal(shot, Signal::SIGKILL);
            until("it is away", || router.processes().is_empty());
            if word.is_empty() {
                assert_eq!(lab.saved(false), rules);
            } else {
                router.ok(&format!("/etc/init.d/firewall {word}"));
            }
            assert_eq!(answers("client", 4), fair(&[1, 2], 2), "firewall {word}");
            assert!(router.processes().is_empty(), "that came too late");
            comes_back(router, shot);
            assert_eq!(answers("client", 4), fair(&[1, 2], 2));
            if !word.is_empty() {
                router.ok(&format!("/etc/init.d/firewall {word}"));
                assert_eq!(answers("client", 4), fair(&[1, 2], 2), "firewall {word}");
            }
            is_at_work(lab, router);
        }

        // Stopped between death and return, it stays away.
        signal(watch(router), Signal::SIGKILL);
        ok(router, "stop");
        until("procd has nothing to keep", || !router.exists("tmp/run/procd-paraglider/keeper"));
        assert!(router.processes().is_empty() && lab.ours().is_empty(), "{:?}", lab.ours());
    });
}

/// Clients that ask as long as something lasts: what they were answered.
fn while_clients_ask(story: impl FnOnce()) -> Vec<(String, usize)> {
    let done = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&done);
    let clients = spawn(move || {
        let mut all = BTreeMap::<String, usize>::new();
        while !seen.load(Ordering::Relaxed) {
            for (who, times) in answers("client", 10) {
                *all.entry(who).or_default() += times;
            }
        }
        all
    });
    story();
    done.store(true, Ordering::Relaxed);
    clients.join().unwrap().into_iter().collect()
}

#[test]
fn an_upgrade_puts_the_new_one_in_its_place() {
    tell("watch::an_upgrade_puts_the_new_one_in_its_place", |lab, router| {
        router.ok("/etc/init.d/firewall start");
        for by in [By::Opkg, By::Apk] {
            assert_eq!(router.install_by(by).code, 0);
            balance(router, &[1, 2], true);
            ok(router, "start");
            let first = is_at_work(lab, router);
            // At no moment does the dead backend get a connection, also while the files are replaced.
            let all = while_clients_ask(|| match by {
                By::Opkg => {
                    router.begin_upgrade();
                    until("the old watch ends", || router.processes().is_empty());
                    sleep(Duration::from_millis(500));
                    assert_eq!(router.end_upgrade().code, 0);
                    comes_back(router, first);
                    sleep(Duration::from_millis(500));
                }
                By::Apk => {
                    assert_eq!(router.upgrade(by).code, 0);
                    comes_back(router, first);
                    sleep(Duration::from_millis(500));
                }
            });
            assert!(
                all.len() == 2 && all.iter().all(|(who, times)| who.starts_with('b') && *times > 5),
                "{by:?}: {all:?}"
            );
            is_at_work(lab, router);
            router.remove_by(by);
            assert!(router.processes().is_empty() && lab.ours().is_empty(), "{:?}", lab.ours());
        }
    });
}

/// What the file on the flash says then does not matter: not to the rules, nor to the checks.
#[test]
fn an_upgrade_with_a_broken_config_goes_on_with_what_is_in_force() {
    tell("watch::an_upgrade_with_a_broken_config_goes_on_with_what_is_in_force", |lab, router| {
        router.ok("/etc/init.d/firewall start");
        for by in [By::Opkg, By::Apk] {
            assert_eq!(router.install_by(by).code, 0);
            balance(router, &[1, 2], true);
            ok(router, "start");
            let first = is_at_work(lab, router);
            let good = fs::read_to_string(lab.path("router/etc/paraglider/glider.yaml")).unwrap();
            if by == By::Opkg {
                // Version 0.1 had a copy of its own of the config that was last put in force.
                router.write("tmp/run/paraglider.yaml", &good);
            }
            router.write("etc/paraglider/glider.yaml", "frontend: 1\n");
            router.upgrade(by);
            assert!(!router.exists("tmp/run/paraglider.yaml"));
            comes_back(router, first);
            is_at_work(lab, router);
            router.ok("/etc/init.d/firewall restart");
            assert_eq!(answers("client", 4), fair(&[1, 2], 2), "the firewall puts back what was meant");
            // The start says that it failed, and the checks go on.
            let second = watch(router);
            assert_eq!(router.service("start").code, 2);
            assert_eq!(watch(router), second);
            let from_then_on = format!("10.2.0.1{}:82", if by == By::Opkg { 1 } else { 2 });
            let risen = "frontend: {bind: '10.9.0.1:4444', privateip: 10.2.0.1, backends: ['10.2.0.11:80', 'NEW'], health: {interval: 200ms}}\n";
            router.write("etc/paraglider/glider.yaml", &risen.replace("NEW", &from_then_on));
            ok(router, "start");
            until("what is down is out", || !lab.leads_to(&from_then_on));
            router.write("etc/paraglider/glider.yaml", "frontend: 1\n");
            router.upgrade(by);
            comes_back(router, second);
            lab::serve(if by == By::Opkg { "b1" } else { "b2" }, 82);
            until("what is up again is back", || lab.leads_to(&from_then_on));
            router.remove_by(by);
        }
        // Nothing is meant, and the start fails: there is nothing to keep running.
        router.install();
        assert_eq!(router.service("start").code, 2);
        if lab.variant == Variant::Netlink {
            let lacking =
                "engine: iptables\nfrontend: {bind: '10.9.0.1:4444', backends: ['10.2.0.11:80'], health: {}}\n";
            router.write("etc/paraglider/glider.yaml", lacking);
            assert_eq!(router.service("start").code, 1);
        }
        assert!(!router.exists("tmp/run/procd-paraglider/instance") && lab.ours().is_empty());
    });
}
