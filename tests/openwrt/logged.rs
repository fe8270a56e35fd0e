//! What is in the log, at which level, and how often; and what can be asked.

use std::collections::BTreeSet;

use crate::lab::{sh, Variant};
use crate::router::Router;
use crate::story::{answers, fair, tell, ERROR, INFO, WARNING};

/// The lines of the log with their levels, without time and name. None of them is there twice, and none says its level.
pub fn logged(router: &Router) -> Vec<(String, String)> {
    let log = router.log();
    let line = |line: &str| {
        let (head, text) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
        assert!(head.contains(" paraglider"), "it came by procd: {line}");
        assert!(!text.starts_with("error:") && !text.starts_with("warning:"), "{line}");
        (head[..4].to_owned(), text.to_owned())
    };
    let lines: Vec<_> = log.lines().map(line).collect();
    let texts: BTreeSet<_> = lines.iter().map(|(_, text)| text).collect();
    assert_eq!(texts.len(), lines.len(), "{log}");
    lines
}

#[test]
fn each_line_has_its_level_and_is_there_once() {
    tell("logged::each_line_has_its_level_and_is_there_once", |lab, router| {
        router.ok("/etc/init.d/firewall start");
        router.install();
        router.balance(&[1, 2]);
        router.log();
        router.boot();
        let log = logged(router);
        assert!(!log.is_empty() && log.iter().all(|(level, _)| level == INFO), "{log:?}");
        // Over SSH, without a terminal.
        router.balance(&[1, 2, 3]);
        let start = router.service("start");
        let log = logged(router);
        let is_printed = |(_, text): &(String, String)| start.err.contains(text);
        assert!(start.code == 0 && !log.is_empty() && log.iter().all(is_printed), "{}\n{log:?}", start.err);
        // So is a warning, here that a rule of somebody else shuts clients out.
        if lab.variant != Variant::Legacy {
            router.ok("/etc/init.d/firewall stop");
            router.write("etc/config/firewall", "config defaults\n\toption auto_includes '0'\n");
            router.ok("/etc/init.d/firewall start");
            router.write("etc/paraglider/glider.yaml", BIND_OF_WAN);
            router.log();
            router.boot();
            let log = logged(router);
            let levels: BTreeSet<_> = log.iter().map(|(level, _)| level.as_str()).collect();
            assert_eq!(levels, BTreeSet::from([WARNING, INFO]), "{log:?}");
            assert!(log.iter().any(|(level, text)| level == WARNING && text.contains("auto_includes")), "{log:?}");
        }
        // One that fails, at boot and by hand.
        router.write("etc/paraglider/glider.yaml", "frontend: 1\n");
        router.boot();
        let log = logged(router);
        assert!(matches!(&log[..], [(level, text)] if level == ERROR && text.contains("glider.yaml:1:")), "{log:?}");
        let start = router.service("start");
        assert_eq!((start.code, logged(router)), (2, log));
        assert!(start.err.starts_with("error: ") && start.err.contains("glider.yaml:1:"), "{}", start.err);
    });
}

const BIND_OF_WAN: &str = "frontend: {bind: '10.1.0.1:4444', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}\n";

/// The include prints nothing for whoever loads the firewall. The log has its message once, and none if there is nothing
/// to put back.
#[test]
fn the_firewall_is_loaded_in_silence() {
    tell("logged::the_firewall_is_loaded_in_silence", |lab, router| {
        router.ok("/etc/init.d/firewall start");
        router.install();
        router.balance(&[1, 2]);
        router.ok("/etc/init.d/paraglider start");
        router.log();
        if lab.variant != Variant::Legacy {
            for _ in 0..2 {
                let reload = router.run("/etc/init.d/firewall reload");
                assert_eq!((reload.code, reload.out.as_str(), reload.err.as_str()), (0, "", ""));
                assert_eq!(logged(router), []);
            }
        }
        // It takes our rules along.
        let words = match lab.variant {
            Variant::Legacy => "/etc/init.d/firewall restart",
            _ => "/etc/init.d/firewall stop && /etc/init.d/firewall start",
        };
        let loaded = router.run(words);
        assert!(loaded.code == 0 && !loaded.err.contains("balanced"), "{}", loaded.err);
        let log = logged(router);
        assert!(!log.is_empty() && log.iter().all(|(level, _)| level == INFO), "{log:?}");
        assert_eq!(answers("client", 2), fair(&[1, 2], 1));
    });
}

#[test]
fn it_runs_where_that_can_be_told() {
    tell("logged::it_runs_where_that_can_be_told", |lab, router| {
        router.ok("/etc/init.d/firewall start");
        router.install();
        router.write("etc/paraglider/glider.yaml", BIND_OF_WAN);
        let running = || {
            let done = router.service("running");
            assert_eq!(done.out + &done.err, "", "procd asks after each start, and logs what it reads");
            done.code == 0
        };
        assert!(!running(), "nothing is in force");
        router.ok("/etc/init.d/paraglider start");
        assert!(running());
        // A healthy router. (Where the firewall is made of iptables, only iptables can let through.)
        let engines = match lab.variant {
            Variant::Netlink => &["nftables"][..],
            Variant::Nft => &["iptables", "nftables"],
            Variant::Legacy => &["iptables"],
        };
        for engine in engines {
            router.write("etc/paraglider/glider.yaml", &format!("engine: {engine}\n{BIND_OF_WAN}"));
            router.ok("/etc/init.d/paraglider start");
            let check = router.service("check");
            assert!(
                check.code == 0 && !(check.out.clone() + &check.err).contains("warning"),
                "{}{}",
                check.out,
                check.err
            );
            assert!(running());
        }
        // The config is another one by now.
        router.balance(&[2]);
        assert!(running());
        // Nobody can tell.
        if lab.variant != Variant::Netlink {
            router.ok("/etc/init.d/paraglider start");
            let save = lab.path("router/usr/sbin/iptables-save");
            sh(&format!("rm {0} && printf '#!/bin/sh\\nexit 1\\n' >{0} && chmod 755 {0}", save.display()));
            assert_eq!(router.service("status").code, 4, "{}", router.service("status").out);
            assert!(!running());
        }
    });
}
