//! The watch that procd keeps running while, and only while, the config asks for health checks.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::lab::{sh, Lab, Variant};
use crate::router::Router;
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
        router.install(false);
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
        assert!(log.lines().any(|line| line.starts_with(INFO) && line.contains("is balanced over")), "{log}");
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
        router.install(false);
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

        // The rules are in force while it is away, and the next one works by the config that was last put in force.
        signal(first, Signal::SIGKILL);
        assert_eq!(answers("client", 4), fair(&[1, 2], 2));
        comes_back(router, first);
        assert_eq!(answers("client", 4), fair(&[1, 2], 2));
        assert_eq!(lab.saved(false), rules);

        // So does the firewall, whatever it does to our rules.
        let firewall4 = lab.variant != Variant::Legacy;
        for words in if firewall4 { &["reload", "restart"][..] } else { &["restart"] } {
            router.ok(&format!("/etc/init.d/firewall {words}"));
            assert_eq!(answers("client", 4), fair(&[1, 2], 2), "firewall {words}");
            is_at_work(lab, router);
        }

        // Stopped between death and return, it stays away.
        signal(watch(router), Signal::SIGKILL);
        ok(router, "stop");
        until("procd has nothing to keep", || !router.exists("tmp/run/procd-paraglider/keeper"));
        assert!(router.processes().is_empty() && lab.ours().is_empty(), "{:?}", lab.ours());
    });
}

#[test]
fn an_upgrade_puts_the_new_one_in_its_place() {
    tell("watch::an_upgrade_puts_the_new_one_in_its_place", |lab, router| {
        router.ok("/etc/init.d/firewall start");
        router.install(false);
        balance(router, &[1, 2], true);
        ok(router, "start");
        let first = is_at_work(lab, router);

        // As opkg does it. Version 0.1 had a copy of its own of the config that was last put in force; that on the flash may
        // be broken by now.
        let good = fs::read_to_string(lab.path("router/etc/paraglider/glider.yaml")).unwrap();
        router.write("tmp/run/paraglider.yaml", &good);
        router.write("etc/paraglider/glider.yaml", "frontend: 1\n");
        assert_eq!(router.script("prerm", true).code, 0);
        assert!(!has_dead(lab), "an upgrade stops nothing");
        router.install(true);
        assert!(!router.exists("tmp/run/paraglider.yaml"));
        router.ok("/etc/init.d/firewall restart");
        assert_eq!(answers("client", 4), fair(&[1, 2], 2), "the firewall puts back what was meant");
        router.write("etc/paraglider/glider.yaml", &good);
        ok(router, "start");
        comes_back(router, first);
        let second = is_at_work(lab, router);
        assert_eq!(answers("client", 4), fair(&[1, 2], 2));

        // As apk does it, which has nothing to say to the old one.
        let program = lab.path("router").join("usr/sbin/paraglider");
        let mut bytes = fs::read(&program).unwrap();
        bytes.push(0);
        fs::write(program.with_extension("new"), bytes).unwrap();
        sh(&format!("chmod 755 {0}.new && mv {0}.new {0}", program.display()));
        assert_eq!(router.script("postinst", true).code, 0);
        comes_back(router, second);
        is_at_work(lab, router);

        router.remove();
        assert!(router.processes().is_empty() && lab.ours().is_empty(), "{:?}", lab.ours());
    });
}
