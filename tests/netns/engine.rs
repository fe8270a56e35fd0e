//! Which engine writes the rules, and how that is told.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::lab::{serve, sh, Lab, Variant};
use crate::watching::{failed, until, Clients, Watch};
use crate::{on_both, BIND};

/// Runs a verb where no iptables is found, and returns exit status, stdout and stderr.
pub fn without_iptables(lab: &Lab, words: &str) -> (i32, String, String) {
    // Out of sight everywhere where it is looked for.
    sh("mkdir -p /run/empty && mount --bind /run/empty /usr/sbin");
    let output = lab.command(words).env("PATH", "/run/empty").output().unwrap();
    sh("umount /usr/sbin");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

on_both!(iptables_that_is_asked_for_and_missing_gets_a_sentence, |lab| {
    lab.balance(&[1]);
    lab.engine("iptables");
    for (verb, code) in [("start", 1), ("watch", 1), ("status", 4)] {
        let (found, _, err) = without_iptables(lab, verb);
        assert_eq!(found, code, "{verb}: {err}");
        assert!(
            err.contains("there is no iptables on PATH or in /usr/sbin and /sbin")
                && err.contains("`engine: nftables` needs none"),
            "{verb}: {err}"
        );
    }
    let (code, out, _) = without_iptables(lab, "check");
    assert!(
        code == 1
            && out.contains("error    engine: the config asks for iptables, and there is none")
            && out.contains("install")
            && out.contains("or write `engine: nftables`"),
        "{out}"
    );
    // What needs no config needs no iptables.
    let (code, _, err) = without_iptables(lab, "stop");
    assert_eq!((code, err.contains("nothing of Paraglider is in force")), (0, true), "{err}");
});

on_both!(the_engine_is_told_and_why, |lab| {
    let variant = format!("iptables-{}", lab.variant.infix());
    for (engine, found, told) in [
        ("", true, format!("{variant}, since iptables is installed")),
        ("", false, "nftables, since no iptables is installed".to_owned()),
        ("auto", true, format!("{variant}, since iptables is installed")),
        ("iptables", true, format!("{variant}, as the config says")),
        ("nftables", true, "nftables, as the config says".to_owned()),
        ("nftables", false, "nftables, as the config says".to_owned()),
    ] {
        lab.balance(&[1]);
        if !engine.is_empty() {
            lab.engine(engine);
        }
        let run = |words| if found { lab.paraglider(words) } else { without_iptables(lab, words) };
        let (code, out, err) = run("status");
        assert_eq!((code, out.as_str()), (3, format!("not in force ({told})\n").as_str()), "{engine}: {err}");
        let (_, out, err) = run("check");
        assert!(out.contains(&format!("ok       engine: {told}\n")), "{engine}: {out}{err}");
        let (_, _, err) = run("start -v");
        assert!(err.contains(&format!("the engine is {told}")), "{engine}: {err}");
        // The rules are of the same engine.
        let (code, out, err) = run("print");
        assert!(code == 0 && out.contains("*nat") == told.starts_with("iptables"), "{engine}: {out}{err}");
        lab.ok("stop");
    }
});

on_both!(
/// nftables cannot let through what iptables drops: the sentences are about that, and not about rules of ours in iptables.
check_tells_that_nftables_does_not_get_through_iptables, |lab| {
    lab.balance(&[1]);
    lab.engine("nftables");
    let variant = format!("iptables-{}", lab.variant.infix());
    sh("iptables -P FORWARD DROP");
    let (code, out, _) = lab.paraglider("check");
    assert!(
        code == 1
            && out.contains(&format!(
                "error    IPv4 filter table of {variant}: the policy of FORWARD is DROP, and no rule of nftables can overrule it; \
                 write `engine: iptables`"
            ))
            && !out.contains("our own rules let through"),
        "{out}"
    );
    sh("iptables -P FORWARD ACCEPT; iptables -A FORWARD -j REJECT");
    let (code, out, _) = lab.paraglider("check");
    assert!(code == 1 && out.contains(&format!("IPv4 filter table of {variant}: `-A FORWARD -j REJECT")), "{out}");
    lab.engine("iptables");
    let out = lab.ok("check");
    assert!(!out.contains("overrule"), "{out}");
});

/// Another variant becomes the plain one, as by Debian's alternatives.
fn turn(lab: &Lab, to: Variant) {
    for family in ["iptables", "ip6tables"] {
        for verb in ["", "-save", "-restore"] {
            let link = lab.path("bin").join(format!("{family}{verb}"));
            fs::remove_file(&link).unwrap();
            symlink(format!("/usr/sbin/{family}-{}{verb}", to.infix()), link).unwrap();
        }
    }
}

on_both!(a_watch_writes_by_the_engine_of_the_last_start, |lab| {
    lab.balance(&[1, 2]);
    let watch = Watch::begin(lab);
    let variants = [lab.variant.other(), lab.variant];
    for variant in variants {
        turn(lab, variant);
        let since = Instant::now();
        lab.ok("start");
        let own = format!("-{} ", variant.infix());
        until("the watch has looked twice", || since.elapsed() > Duration::from_millis(4500));
        let ours = lab.ours();
        assert!(!ours.is_empty() && ours.iter().all(|rule| rule.contains(&own)), "{own}: {ours:#?}");
        assert_eq!(watch.lines(since, "another program").len(), 0);
        // It still puts back what others take away, and there.
        let since = Instant::now();
        sh("iptables -t nat -F PREROUTING");
        watch.hears(since, "another program changed the rules; put them right");
        let ours = lab.ours();
        assert!(ours.iter().all(|rule| rule.contains(&own)), "{own}: {ours:#?}");
    }
});

#[test]
fn rules_in_iptables_are_not_forgotten_when_iptables_is_removed() {
    let name =
        crate::test_name(concat!(module_path!(), "::rules_in_iptables_are_not_forgotten_when_iptables_is_removed"));
    crate::in_lab(name, Variant::Nft, |lab| {
        // Tables and chains of others are no reason to miss it.
        sh("iptables -t nat -N other && ip6tables -N other && iptables -A FORWARD -j ACCEPT");
        lab.balance(&[1]);
        let (code, out, err) = without_iptables(lab, "status");
        assert_eq!((code, out.as_str()), (3, "not in force (nftables, since no iptables is installed)\n"), "{err}");
        lab.ok("start");
        let rules = lab.ours();
        let left = "rules of ours are left in iptables-nft, whose programs are gone; install iptables, and they will be removed";
        for (verb, wanted) in [("status", 4), ("check", 1), ("start", 1), ("stop", 1)] {
            let (code, out, err) = without_iptables(lab, verb);
            assert!(code == wanted && format!("{out}{err}").contains(left), "{verb}, {code}: {out}{err}");
            assert_eq!(lab.ours(), rules, "{verb}");
        }
        lab.ok("stop");
        assert_eq!(lab.ours(), [""; 0]);
    });
}

on_both!(another_engine_in_the_config_is_a_reload_for_start_and_watch, |lab| {
    serve("b1", 80);
    serve("b2", 80);
    lab.balance(&[1, 2]);
    lab.engine("iptables");
    let watch = Watch::begin(lab);
    let clients = Clients::begin("client", BIND, 2, Duration::from_millis(10));
    let variant = format!("iptables-{}", lab.variant.infix());
    for (engine, name, by_signal) in [
        ("nftables", "nftables", false),
        ("iptables", variant.as_str(), false),
        ("nftables", "nftables", true),
        ("iptables", &variant, true),
        ("nftables", "nftables", true),
        // It is what was there before.
        ("auto", &variant, false),
    ] {
        let since = Instant::now();
        lab.engine(engine);
        let (code, out, _) = lab.paraglider("status");
        assert!(code == 1 && out.contains(&format!("`paraglider start` moves them to {name}")), "{engine}: {out}");
        match by_signal {
            true => watch.signal(Signal::SIGHUP),
            false => drop(lab.ok("start")),
        }
        until("the other engine is in force", || lab.paraglider("status").0 == 0);
        assert!(lab.ok("status").starts_with(&format!("in force ({name}, ")));
        // It has looked by then, and would have put back what it took for right.
        until("the watch has looked again", || since.elapsed() > Duration::from_millis(2500));
        assert!(lab.ok("status").starts_with(&format!("in force ({name}, ")));
        let by_nftables = lab.ours().iter().map(|rule| rule.starts_with("nft ")).collect::<BTreeSet<_>>();
        assert_eq!(by_nftables, [name == "nftables"].into(), "{engine}");
        assert_eq!(watch.lines(since, "another program").len(), 0, "{}", watch.text());
    }
    // One that cannot be had changes nothing.
    let rules = lab.ours();
    lab.engine("nft");
    let since = Instant::now();
    watch.signal(Signal::SIGHUP);
    watch.hears(since, "the config from before stays in force");
    assert_eq!(lab.ours(), rules);
    let attempts = clients.end();
    assert!(attempts.len() > 500 && failed(&attempts).is_empty(), "{:?} of {}", failed(&attempts), attempts.len());
    drop(watch);
    // What is put back is of the engine of the last start, whatever the file says by now.
    lab.engine("nftables");
    lab.ok("start");
    lab.engine("iptables");
    let by_nftables = || lab.ours().iter().all(|rule| rule.starts_with("nft "));
    lab.ok("start --again");
    assert!(by_nftables(), "{:?}", lab.ours());
    let since = Instant::now();
    let watch = Watch::spawn(lab, "watch --again");
    watch.hears(since, "watching the rules");
    assert!(by_nftables(), "{:?}", lab.ours());
    // Rules of ours are removed wherever they are.
    lab.ok("stop");
    assert_eq!((lab.paraglider("status").0, lab.ours()), (3, vec![]));
});

on_both!(iptables_that_fails_and_has_nothing_of_ours_does_not_hinder_nftables, |lab| {
    lab.balance(&[1]);
    sh("iptables -t mangle -N other");
    let save = lab.path("bin/iptables-save");
    fs::remove_file(&save).unwrap();
    fs::write(&save, "#!/bin/sh\necho no >&2; exit 1\n").unwrap();
    fs::set_permissions(&save, fs::Permissions::from_mode(0o755)).unwrap();
    for (engine, status) in [("nftables", 3), ("iptables", 4)] {
        lab.engine(engine);
        let (code, out, err) = lab.paraglider("status");
        assert_eq!(code, status, "{engine}: {out}{err}");
    }
});
