//! Rules of nftables at the hook of input: what is balanced is forwarded, and does not meet them any more.

use crate::lab::{ask_often, serve, sh, Lab, Variant};
use crate::situations::{complaints, router, C, C6};
use crate::{answers, on_all};

const SAYS: &str =
    "does not apply to balanced connections, which are forwarded; write it as `meta l4proto tcp ct original \
                    proto-dst 8080 …` into a chain of forward, or as `tcp dport 8080 …` into one of prerouting with a \
                    priority below -101";

/// Puts rules into a chain at the hook of input.
fn input(policy: &str, rules: &[&str]) {
    let mut text = format!(
        "table inet other {{\n set bans {{ type ipv4_addr; }}\n chain f2b {{ }}\n chain input {{\n  type filter hook input \
         priority -1; policy {policy};\n }}\n}}\n"
    );
    for rule in rules {
        let chain = if rule.starts_with("f2b ") { "" } else { "input " };
        text.push_str(&format!("add rule inet other {chain}{rule}\n"));
    }
    sh(&format!("nft -f - <<'X'\n{text}X"));
}

/// The complaint of `check`, if there is one; there must not be two.
fn complaint(lab: &Lab) -> String {
    let out = lab.ok("check");
    let complaints = complaints(&out);
    assert!(complaints.len() <= 1, "{out}");
    complaints.concat()
}

on_all!(bans_and_allow_lists_in_input_are_named, |lab| {
    router();
    lab.config(C);
    let named: &[(&str, &[&str])] = &[
        // fail2ban
        ("accept", &["tcp dport { 22, 8080 } ip saddr @bans reject"]),
        ("accept", &["meta l4proto { tcp } ip saddr @bans reject"]),
        ("accept", &["ct state established,related accept", "ip saddr 198.51.100.0/24 counter drop"]),
        ("accept", &["tcp dport 8080 jump f2b", "f2b ip saddr 198.51.100.7 reject"]),
        ("accept", &["ip saddr @bans goto f2b", "f2b log drop"]),
        ("accept", &["tcp dport 8080 ip saddr != 10.0.0.0/8 drop"]),
        ("accept", &["ct original ip saddr 198.51.100.7 drop"]),
        // The port is shut, or open for some.
        ("accept", &["tcp dport 8080 drop"]),
        ("drop", &["ct state established,related accept", "ip saddr 10.1.0.0/16 tcp dport 8080 accept"]),
        ("accept", &["ip saddr @bans tcp dport 8000-8100 accept", "tcp dport 8080 reject with tcp reset"]),
        ("accept", &["iifname lan tcp dport { 80, 8080 } accept", "reject"]),
        ("drop", &["iifname lan jump f2b", "f2b tcp dport 8080 accept"]),
    ];
    for (policy, rules) in named {
        input(policy, rules);
        let said = complaint(lab);
        let begin = "warning  nftables: inet other input (priority -1): a rule (handle ";
        assert!(said.starts_with(begin) && said.ends_with(SAYS), "{rules:?}: {said}");
        sh("nft delete table inet other");
    }
    let healthy: &[(&str, &[&str])] = &[
        ("drop", &["ct state vmap { established : accept, related : accept, invalid : drop }", "iifname lo accept"]),
        ("drop", &["tcp dport { 22, 8080 } accept", "ip saddr 10.0.0.0/8 tcp dport 22 accept"]),
        (
            "drop",
            &["iifname lan accept", "ip saddr 10.1.0.0/16 accept", "icmp type echo-request limit rate 5/second accept"],
        ),
        ("accept", &["iif != lo ip saddr 127.0.0.0/8 drop", "fib saddr . iif oif missing drop"]),
        (
            "accept",
            &["tcp dport 22 ip saddr @bans reject", "udp dport 8080 drop", "ip daddr 10.3.0.1 tcp dport 8080 drop"],
        ),
        ("accept", &["tcp flags & (fin | syn) == (fin | syn) drop", "ct state new limit rate over 1000/second drop"]),
        ("accept", &["tcp dport 8080 accept", "ip saddr @bans drop"]),
        ("accept", &["tcp dport 8080 jump f2b", "ip saddr @bans drop", "f2b accept"]),
        ("accept", &["tcp dport 8080 return", "ip saddr @bans drop"]),
        ("accept", &["ip saddr @bans tcp dport 8080 accept"]),
        ("accept", &["meta nfproto ipv6 drop", "ip6 saddr fd01::9 drop"]),
    ];
    for (policy, rules) in healthy {
        input(policy, rules);
        assert_eq!(complaint(lab), "", "{rules:?}");
        sh("nft delete table inet other");
    }
});

on_all!(a_ban_in_input_that_is_missed_is_told_and_what_is_named_bans, |lab| {
    router();
    serve("b1", 80);
    lab.config("frontend: {bind: '10.1.0.1:8080', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}");
    input("accept", &["tcp dport { 8080 } ip saddr @bans drop"]);
    sh("nft add element inet other bans { 10.1.0.2 }");
    let (code, _, err) = lab.paraglider("start");
    assert!(code == 0 && err.contains(SAYS), "{err}");
    let is_banned = |what: &str, banned: bool| {
        let answer = if banned { "TimedOut" } else { "b1 10.2.0.1" };
        assert_eq!(ask_often("client", "10.1.0.1:8080", 1), answers(&[(answer, 1)]), "{what}");
    };
    is_banned("input", false);
    for (chain, rule) in [
        ("forward priority 0", "meta l4proto tcp ct original proto-dst 8080 ip saddr @bans drop"),
        ("prerouting priority -102", "tcp dport 8080 ip saddr @bans drop"),
    ] {
        sh(&format!("nft 'add chain inet other own {{ type filter hook {chain}; }}; add rule inet other own {rule}'"));
        is_banned(chain, true);
        sh("nft 'flush chain inet other own; delete chain inet other own'");
    }
    is_banned("input", false);
});

on_all!(bans_of_ipv6_in_input_are_named, |lab| {
    crate::lab::needs_ipv6();
    router();
    sh("sysctl -qw net.ipv6.conf.all.forwarding=1");
    lab.config(C6);
    for (rule, named) in [
        ("ip6 saddr 2001:db8::/32 drop", true),
        ("tcp dport 8080 ip6 saddr 2001:db8::7 reject", true),
        ("ip saddr 198.51.100.7 drop", false),
        ("icmpv6 type nd-router-advert ip6 saddr != fe80::/10 drop", false),
    ] {
        input("accept", &[rule]);
        let said = complaint(lab);
        assert_eq!((said.ends_with(SAYS), said.is_empty()), (named, !named), "{rule}: {said}");
        sh("nft delete table inet other");
    }
});
