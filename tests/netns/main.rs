//! Every promise on the real kernel, with real iptables (both variants), with nftables, and real traffic. Each test has a laboratory of
//! its own and needs no root where the kernel allows user namespaces.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

#[path = "../cli/corpus.rs"]
mod corpus;
mod lab;

mod backend;
mod responder;
mod watching;

mod address;
mod answers;
mod balancing;
mod change;
mod conntrack;
mod dark;
mod datagram;
mod dns;
mod engine;
mod failure;
mod firewall4;
mod flows;
mod follow;
mod forwarding;
mod guard;
mod health;
mod host;
mod icmp;
mod input;
mod listing;
mod nftables;
mod others;
mod probes;
mod process;
mod quiet;
mod resume;
mod schedule;
mod sequence;
mod served;
mod situations;
mod state;
mod storm;
mod table;
mod tables;
mod udp;
mod upgrade;
mod watch;

use std::io::Write;

use lab::{Lab, Variant};

/// Where clients connect to.
const BIND: &str = "10.9.0.1:4444";

fn in_lab(test: &str, variant: Variant, story: fn(&Lab)) {
    let Some(mut command) = lab::entrance(&["--exact", test, "--nocapture", "--test-threads=1"]) else {
        return story(&Lab::new(variant));
    };
    let output = command.output().unwrap_or_else(|error| panic!("cannot run unshare (util-linux): {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if text.contains(lab::NO_IPV6) {
        let _ = writeln!(std::io::stderr(), "skipped: {test}: no IPv6");
        return;
    }
    assert!(output.status.success(), "{}\n{text}", lab::forbidden().unwrap_or_default());
    // A test whose name is not found inside would pass without having run.
    assert!(text.contains("1 passed"), "{text}");
    // Past the test harness, which would swallow it.
    for line in text.lines().filter_map(|line| line.find("skipped: ").map(|at| &line[at..])) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// The laboratory itself, on hosts that lack something.
mod poor_host {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;
    use lab::sh;

    #[test]
    fn without_ipv6_the_stories_about_ipv4_are_told() {
        let name = "poor_host::without_ipv6_the_stories_about_ipv4_are_told";
        let Some(mut command) = lab::entrance(&["--exact", name, "--nocapture"]) else {
            sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
            let lab = Lab::new(Variant::Nft);
            lab::serve("b1", 80);
            lab.balance(&[1]);
            lab.ok("start");
            println!("answers: {:?}", lab::ask_often("client", BIND, 2));
            return lab.config("frontend: {bind: '[fd09::1]:4444', backends: ['[fd02::11]:80']}");
        };
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("answers: {\"b1 10.2.0.1\": 2}") && text.contains(lab::NO_IPV6), "{text}");
    }

    #[test]
    fn stand_ins_run_where_tmpdir_is_noexec() {
        let name = "poor_host::stand_ins_run_where_tmpdir_is_noexec";
        if std::env::var_os("TMPDIR").is_some_and(|dir| dir == "/mnt") {
            return in_lab(name, Variant::Nft, |lab| {
                let stand_in = lab.path("stand-in");
                std::fs::write(&stand_in, "#!/bin/sh\n").unwrap();
                std::fs::set_permissions(&stand_in, std::fs::Permissions::from_mode(0o755)).unwrap();
                assert!(Command::new(stand_in).status().unwrap().success());
            });
        }
        let user = if nix::unistd::geteuid().is_root() { "-m" } else { "-mUr" };
        let line = "mount -t tmpfs -o noexec tmp /mnt && TMPDIR=/mnt exec \"$0\" --exact \"$1\"";
        let mut command = Command::new("unshare");
        command.args([user, "sh", "-c", line]).arg(std::env::current_exe().unwrap()).arg(name);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}

/// A story that is told with each engine: both variants of iptables, and nftables on a host that has neither iptables nor
/// nft.
macro_rules! on_all {
    ($(#[$doc:meta])* $name:ident, $story:expr) => {
        crate::on! { $(#[$doc])* $name, $story, nft: Nft, legacy: Legacy, netlink: Netlink }
    };
}
pub(crate) use on_all;

/// A story that only iptables has, by its nature, which is written there.
macro_rules! on_both {
    ($(#[$doc:meta])* $name:ident, $story:expr) => {
        crate::on! { $(#[$doc])* $name, $story, nft: Nft, legacy: Legacy }
    };
}
pub(crate) use on_both;

macro_rules! on {
    ($(#[$doc:meta])* $name:ident, $story:expr, $($test:ident: $variant:ident),+) => {
        $(#[$doc])*
        mod $name {
            use super::*;

            $(
                #[test]
                fn $test() {
                    let story: fn(&Lab) = $story;
                    let name = crate::test_name(concat!(module_path!(), "::", stringify!($test)));
                    crate::in_lab(name, Variant::$variant, story);
                }
            )+
        }
    };
}
pub(crate) use on;

/// The name by which the test harness knows a test: without the crate.
fn test_name(path: &'static str) -> &'static str {
    path.split_once("::").map_or(path, |(_, name)| name)
}

/// `b1 10.2.0.1 → 100` and so on: what [`lab::ask_often`] returns.
fn answers(of: &[(&str, usize)]) -> std::collections::BTreeMap<String, usize> {
    of.iter().map(|(answer, n)| ((*answer).to_owned(), *n)).collect()
}
