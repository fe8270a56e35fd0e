//! What becomes of the package when it is upgraded, removed or left behind, and what it leaves in the firewall's config.

use crate::lab::{sh, Variant};
use crate::router::{By, Router};
use crate::story::{answers, fair, tell};

/// Loads the firewall; it must have nothing to say.
fn loads_in_silence(router: &Router, word: &str) {
    let done = router.run(&format!("/etc/init.d/firewall {word}"));
    let lines = done.err.lines().filter(|line| !line.contains("Running script"));
    assert!(done.code == 0 && done.out.is_empty() && lines.count() == 0, "firewall {word}: {}{}", done.out, done.err);
}

/// What of ours is in the firewall's config.
fn section(router: &Router) -> String {
    router.run("grep paraglider /etc/config/firewall | sort").out
}

const FW4: &str = "firewall.paraglider.fw4_compatible=1\n\
                   firewall.paraglider.path=/usr/share/paraglider/firewall.include\n\
                   firewall.paraglider.type=script\n\
                   firewall.paraglider=include\n";
const FW3: &str = "firewall.paraglider.path=/usr/share/paraglider/firewall.include\n\
                   firewall.paraglider.reload=1\n\
                   firewall.paraglider.type=script\n\
                   firewall.paraglider=include\n";

#[test]
fn what_was_stopped_and_disabled_stays_so() {
    tell("life::what_was_stopped_and_disabled_stays_so", |lab, router| {
        router.ok("/etc/init.d/firewall start");
        for by in [By::Opkg, By::Apk] {
            assert_eq!(router.install_by(by).code, 0);
            router.balance(&[1, 2]);
            // Stopped alone: it is on, so an upgrade starts it, as it does with every package.
            router.ok("/etc/init.d/paraglider start && /etc/init.d/paraglider stop");
            router.upgrade(by);
            assert_eq!(answers("client", 2), fair(&[1, 2], 1), "{by:?}");
            // Disabled alone: it goes on, and so do the checks.
            let checked = "frontend: {bind: '10.9.0.1:4444', privateip: 10.2.0.1, health: {}, backends: ['10.2.0.11:80', '10.2.0.12:80']}\n";
            router.write("etc/paraglider/glider.yaml", checked);
            router.ok("/etc/init.d/paraglider start && /etc/init.d/paraglider disable");
            router.settles(1);
            router.upgrade(by);
            router.settles(1);
            assert_eq!(answers("client", 2), fair(&[1, 2], 1), "{by:?}");
            assert!(router.exists("tmp/run/procd-paraglider/instance") && !router.exists("etc/rc.d/S21paraglider"));
            // Both: it stays off, until it is started by hand.
            router.ok("/etc/init.d/paraglider stop");
            router.upgrade(by);
            assert!(lab.ours().is_empty(), "{by:?}");
            assert!(!router.exists("etc/rc.d/S21paraglider"));
            router.ok("/etc/init.d/paraglider start");
            assert_eq!(answers("client", 2), fair(&[1, 2], 1));
            router.remove_by(by);
        }
    });
}

/// An emptied config is one that is not written yet: it removes nothing.
#[test]
fn without_a_config_what_is_in_force_stays() {
    tell("life::without_a_config_what_is_in_force_stays", |lab, router| {
        router.ok("/etc/init.d/firewall start");
        router.install();
        router.balance(&[1, 2]);
        router.ok("/etc/init.d/paraglider start");
        let rules = lab.saved(false);
        for blank in ["", "# frontend:\n\t # more\r\n\r\n", "\n\n"] {
            router.write("etc/paraglider/glider.yaml", blank);
            router.log();
            for word in ["start", "reload", "restart"] {
                let done = router.service(word);
                assert!(
                    done.code == 6 && done.err.contains("start; the rules in force stay\n"),
                    "{word}: {}",
                    done.err
                );
            }
            assert_eq!(router.log().lines().count(), 3);
            assert_eq!(lab.saved(false), rules);
        }
        for not_blank in ["a", " -\n", "#\n  x: 1 # y\n"] {
            router.write("etc/paraglider/glider.yaml", not_blank);
            assert_eq!(router.service("start").code, 2, "{not_blank:?}");
        }
    });
}

#[test]
fn the_firewall_is_told_what_it_knows() {
    tell("life::the_firewall_is_told_what_it_knows", |lab, router| {
        let (right, other) = if lab.variant == Variant::Legacy { (FW3, FW4) } else { (FW4, FW3) };
        router.ok("/etc/init.d/firewall start");
        for by in [By::Opkg, By::Apk] {
            assert_eq!(router.install_by(by).code, 0);
            assert_eq!(section(router), right);
            loads_in_silence(router, "restart");
            // That of earlier versions had both options; and the other firewall may have been here.
            for before in [format!("{FW3}firewall.paraglider.fw4_compatible=1\n"), other.to_owned()] {
                router.write("etc/config/firewall", &before);
                router.upgrade(by);
                assert_eq!(section(router), right, "{by:?}");
            }
            // What is right is not written again, by an upgrade or a boot.
            sh(&format!("rm -f {}", lab.path("router/tmp/run/firewall.commits").display()));
            router.upgrade(by);
            router.boot();
            assert!(!router.exists("tmp/run/firewall.commits"));
            router.remove_by(by);
            assert_eq!(section(router), "");
            loads_in_silence(router, "restart");
        }
    });
}

/// The files of the package are gone, and the firewall's config has been kept.
#[test]
fn a_sysupgrade_without_the_package_leaves_nothing_that_warns() {
    tell("life::a_sysupgrade_without_the_package_leaves_nothing_that_warns", |lab, router| {
        router.install();
        assert_ne!(section(router), "");
        router.write("etc/paraglider/glider.yaml", "# mine\n");
        router.sysupgrade_without_it();
        // From OpenWrt 21.02 the way leads to firewall4.
        if lab.variant == Variant::Legacy {
            router.with_firewall4();
        }
        router.boot();
        assert_eq!(section(router), "");
        assert!(!router.exists("etc/uci-defaults/60-paraglider"));
        assert_eq!(router.ok("cat /etc/paraglider/glider.yaml"), "# mine\n");
        loads_in_silence(router, "start");
        loads_in_silence(router, "reload");
        // Installed anew, with the config that was kept.
        router.balance(&[1, 2]);
        router.install();
        assert_eq!(section(router), FW4);
        assert_eq!(answers("client", 2), fair(&[1, 2], 1));
        // With another firewall in the image, the first boot finds it.
        if lab.variant != Variant::Legacy {
            router.write("etc/config/firewall", FW3);
            router.boot();
            assert_eq!(section(router), FW4);
        }
        loads_in_silence(router, "reload");
    });
}
