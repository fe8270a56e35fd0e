//! `check` walks the tables of nftables outside of iptables, where an ACCEPT of iptables is not the last word.

use std::time::Duration;

use crate::lab::{ask_often, connect_within, inside, serve, sh, Lab, Variant};
use crate::situations::{complaints, router, row, tell, Situation, C, C6};
use crate::{answers, on_all};

const TABLE: &str = "nft delete table inet other";

/// Tables of nftables outside of iptables, where an ACCEPT of iptables is not the last word.
const NFTABLES: &[Situation] = &[
    row(
        "a policy",
        "nft 'add table inet other; add chain inet other forward { type filter hook forward priority 1; policy drop; }'",
        TABLE,
        &["error    nftables: inet other forward (priority 1): its policy drops the connections of 10.1.0.1:8080 to 10.2.0.11:80", "overrule; nft add rule inet other forward ct status dnat accept"],
    ),
    row(
        "a policy, and rules that let others through (firewall4)",
        "nft 'add table inet other; add chain inet other forward { type filter hook forward priority 0; policy drop; }; \
         add chain inet other wan; add chain inet other out; \
         add rule inet other forward ct state vmap { established : accept, related : accept }; \
         add rule inet other forward iifname wan jump wan; add rule inet other wan ip saddr 198.51.100.0/24 tcp dport 22 accept; \
         add rule inet other wan oifname wan accept; add rule inet other wan jump out; add rule inet other out counter reject'",
        TABLE,
        &["error    nftables: inet other forward (priority 0): a rule (handle "],
    ),
    row(
        "a rule about the backend",
        "nft 'add table ip other; add chain ip other forward { type filter hook forward priority 0; }; \
         add rule ip other forward ip daddr 10.2.0.0/24 tcp dport 80-90 log drop'",
        "nft delete table ip other",
        &["error    nftables: ip other forward (priority 0): a rule (handle 2) drops the connections of 10.1.0.1:8080 to 10.2.0.11:80"],
    ),
    row(
        "a rule about one backend's interface and state, as it leaves",
        "nft 'add table inet other; add chain inet other post { type filter hook postrouting priority 0; }; \
         add rule inet other post oifname \"la*\" ip daddr 10.2.0.12 ct state new counter drop'",
        TABLE,
        &["error    nftables: inet other post (priority 0): a rule (handle 2) drops the connections of 10.1.0.1:8080 to 10.2.0.12:80"],
    ),
    row(
        "a rule about the bind, before we change it",
        "nft 'add table inet other; add chain inet other raw { type filter hook prerouting priority raw; }; \
         add rule inet other raw iifname != lan ip daddr 10.1.0.1 tcp dport 8080 drop'",
        TABLE,
        &["error    nftables: inet other raw (priority -300): a rule (handle 2) drops the connections of 10.1.0.1:8080", "remove it, or except them"],
    ),
    row(
        "a set of ports, with intervals",
        "nft 'add table inet other; add chain inet other forward { type filter hook forward priority 0; }; \
         add rule inet other forward tcp dport { 22, 79-81, 443 } drop'",
        TABLE,
        &["error    nftables: inet other forward (priority 0): a rule (handle "],
    ),
    row(
        "a map that leads on by the interface (Docker's own tables)",
        "nft 'add table ip other; add chain ip other in_lan; add rule ip other in_lan ct state established,related accept; \
         add rule ip other in_lan iifname lan accept; add rule ip other in_lan counter drop; \
         add map ip other ways { type ifname : verdict; elements = { lan : jump in_lan } }; \
         add chain ip other forward { type filter hook forward priority 0; }; add rule ip other forward oifname vmap @ways'",
        "nft delete table ip other",
        &["error    nftables: ip other forward (priority 0): a rule (handle "],
    ),
    row(
        "a set of addresses and ports",
        "nft 'add table inet other; add chain inet other forward { type filter hook forward priority 0; }; \
         add rule inet other forward ip daddr . tcp dport { 10.2.0.11 . 81, 10.2.0.12 . 80 } drop'",
        TABLE,
        &["error    nftables: inet other forward (priority 0): a rule (handle ", "drops the connections of 10.1.0.1:8080 to 10.2.0.12:80"],
    ),
    row(
        "a set of addresses and ranges of ports, which is not understood",
        "nft 'add table inet other; add chain inet other forward { type filter hook forward priority 0; policy drop; }; \
         add rule inet other forward ip daddr . tcp dport { 10.2.0.11 . 80-81, 10.2.0.12 . 80-81, 10.2.0.13 . 80-81 } accept'",
        TABLE,
        &["warning  nftables: inet other forward (priority 0): its policy may drop the connections of 10.1.0.1:8080"],
    ),
    row(
        "a set that could let it through",
        "nft 'add table inet other; add chain inet other forward { type filter hook forward priority 0; policy drop; }; \
         add rule inet other forward ip saddr { 198.51.100.1, 198.51.100.7 } accept'",
        TABLE,
        &["warning  nftables: inet other forward (priority 0): its policy may drop the connections of 10.1.0.1:8080"],
    ),
    row(
        "no tracking",
        "nft 'add table inet other; add chain inet other raw { type filter hook prerouting priority raw; }; \
         add rule inet other raw tcp dport 8080 notrack'",
        TABLE,
        &["error    nftables: inet other raw (priority -300): a rule (handle 2) switches tracking off (notrack) for the connections of 10.1.0.1:8080"],
    ),
    row(
        "tracking in a zone of its own",
        "nft 'add table inet other; add chain inet other raw { type filter hook prerouting priority raw; }; \
         add rule inet other raw tcp dport 8080 ct zone set 7'",
        TABLE,
        &["warning  nftables: inet other raw (priority -300): a rule (handle 2) tracks the connections of 10.1.0.1:8080 to 10.2.0.11:80 in a zone of their own"],
    ),
    row(
        "another one's redirection",
        "nft 'add table ip other; add chain ip other pre { type nat hook prerouting priority -150; }; \
         add rule ip other pre tcp dport 8080 dnat to 10.2.0.99'",
        "nft delete table ip other",
        &["error    nftables: ip other pre (priority -150): a rule (handle 2) redirects the connections of 10.1.0.1:8080 to 10.2.0.11:80 before our rules"],
    ),
    row(
        "another one's source address",
        "nft 'add table ip other; add chain ip other post { type nat hook postrouting priority 50; }; \
         add rule ip other post oifname lan masquerade'",
        "nft delete table ip other",
        &["warning  nftables: ip other post (priority 50): a rule (handle 2) changes the source of the connections of 10.1.0.1:8080 to 10.2.0.11:80 before our rules"],
    )
    .with("frontend: {bind: '10.1.0.1:8080', privateip: none, backends: ['10.2.0.11:80']}"),
];

/// Tables that are as they should be.
const HEALTHY_TABLES: &[&str] = &[
    // firewalld
    "add chain inet other forward { type filter hook forward priority 10; policy drop; }; \
     add rule inet other forward ct state { established, related } accept; add rule inet other forward ct status dnat accept; \
     add rule inet other forward reject",
    // firewall4 with our package, when the service has started
    "add set inet other binds { type ipv4_addr . inet_service; elements = { 10.1.0.1 . 8080, 10.1.0.1 . 8081 }; }; \
     add chain inet other forward { type filter hook forward priority 0; policy drop; }; \
     add rule inet other forward ct state new ct status dnat meta l4proto { tcp, udp } \
     ct original ip daddr . ct original proto-dst @binds accept; \
     add rule inet other forward ct state vmap { established : accept, related : accept }",
    // keys of several values
    "add chain inet other forward { type filter hook forward priority 0; policy drop; }; \
     add rule inet other forward ip daddr . tcp dport { 10.2.0.11 . 81, 10.3.0.1 . 80 } drop; \
     add rule inet other forward meta l4proto . ip daddr vmap { udp . 10.2.0.11 : drop, tcp . 10.2.0.11 : accept, \
     tcp . 10.2.0.12 : accept, tcp . 10.2.0.13 : accept }",
    // a router's own
    "add chain inet other forward { type filter hook forward priority 0; policy drop; }; \
     add rule inet other forward ct state established,related accept; add rule inet other forward ct state invalid drop; \
     add rule inet other forward iifname wan oifname lan ip daddr 10.2.0.0/24 tcp dport 80 accept",
    // the same by sets
    "add chain inet other forward { type filter hook forward priority 0; policy drop; }; \
     add rule inet other forward ct state { established, related } accept; add rule inet other forward tcp dport { 22, 81-90 } drop; \
     add rule inet other forward iifname { wan, tun } oifname lan ip daddr { 10.2.0.0/28, 10.3.0.0/16 } tcp dport { 80, 443 } accept",
    // bans, and what is for this host itself
    "add set inet other bans { type ipv4_addr; }; add chain inet other forward { type filter hook forward priority -10; }; \
     add rule inet other forward ip saddr @bans drop; add rule inet other forward ct state invalid drop; \
     add rule inet other forward ip daddr 10.3.0.0/16 drop; add rule inet other forward udp dport 80 drop; \
     add rule inet other forward tcp dport 8080 drop; \
     add chain inet other input { type filter hook input priority 0; policy drop; }; \
     add chain inet other pre { type filter hook prerouting priority raw; }; add rule inet other pre iifname lan udp dport 53 notrack; \
     add rule inet other pre ct zone set 7",
];

on_all!(what_tables_of_nftables_do_is_named, |lab| {
    router();
    tell(lab, NFTABLES);
    for table in HEALTHY_TABLES {
        sh(&format!("nft 'add table inet other; {table}'"));
        assert_eq!(complaints(&lab.ok("check")), [""; 0], "{table}");
        sh(TABLE);
    }
    // The program is not needed.
    sh("nft 'add table inet other; add chain inet other forward { type filter hook forward priority 0; policy drop; }'");
    sh("mount --bind /dev/null /usr/sbin/nft");
    assert!(lab.paraglider("check").1.contains("error    nftables: inet other forward (priority 0): its policy drops"));
    // And it is true.
    serve("b1", 80);
    lab.config("frontend: {bind: '10.1.0.1:8080', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}");
    lab.ok("start");
    assert_eq!(ask_often("client", "10.1.0.1:8080", 1), answers(&[("TimedOut", 1)]));
    // It is told again, though nothing has to be written; and no more than that.
    let (code, _, err) = lab.paraglider("start");
    let drops = "nftables: inet other forward (priority 0): its policy drops the connections of 10.1.0.1:8080";
    assert!(code == 0 && err.contains("already in force") && err.contains(drops), "{err}");
    sh("umount /usr/sbin/nft && nft insert rule inet other forward ct status dnat accept");
    assert_eq!(ask_often("client", "10.1.0.1:8080", 1), answers(&[("b1 10.2.0.1", 1)]));
    assert_eq!(complaints(&lab.ok("check")), [""; 0]);
    let (_, _, err) = lab.paraglider("start");
    assert!(err.contains("already in force") && !err.contains("nftables:"), "{err}");
});

on_all!(what_tables_of_nftables_do_to_ipv6_is_named, |lab| {
    crate::lab::needs_ipv6();
    router();
    sh("sysctl -qw net.ipv6.conf.all.forwarding=1");
    lab.config(C6);
    for (table, says) in [
        ("policy drop; }; add rule inet other forward meta nfproto ipv4 accept", "error    nftables: inet other forward (priority 0): its policy drops the connections of [fd01::1]:8080 to [fd02::11]:80"),
        ("policy accept; }; add rule inet other forward ip6 daddr fd02::12 tcp dport 80 drop", "drops the connections of [fd01::1]:8080 to [fd02::12]:80"),
        ("policy drop; }; add rule inet other forward ip6 daddr fd02::/64 accept", ""),
    ] {
        sh(&format!("nft 'add table inet other; add chain inet other forward {{ type filter hook forward priority 0; {table}'"));
        let (code, out, _) = lab.paraglider("check");
        assert!(out.contains(says) && (code == 0) == says.is_empty(), "{table}: {out}");
        assert_eq!(complaints(&out).len(), usize::from(!says.is_empty()), "{out}");
        sh(TABLE);
    }
});

on_all!(firewall4_with_our_rule_is_no_complaint_before_the_service_starts, |lab| {
    router();
    lab.config(C);
    sh("nft 'add table inet fw4; add chain inet fw4 forward { type filter hook forward priority 0; policy drop; }; \
        add rule inet fw4 forward ct state vmap { established : accept, related : accept }'");
    assert_eq!(lab.paraglider("check").0, 1);
    // The package's chain; its set is empty until then.
    sh("nft 'add set inet fw4 paraglider { type ipv4_addr . inet_service; flags interval; }; add chain inet fw4 forward_paraglider; \
        add rule inet fw4 forward ct status dnat jump forward_paraglider; add rule inet fw4 forward_paraglider \
        meta l4proto tcp ct original ip daddr . ct original proto-dst @paraglider accept'");
    let out = lab.ok("check");
    assert!(out.contains("ok       nftables: inet fw4 forward: `start` lets through there what is balanced"), "{out}");
    assert_eq!(complaints(&out), [""; 0]);
    // It does nothing for what is dropped before.
    sh("nft 'insert rule inet fw4 forward ip daddr 10.2.0.11 drop; add element inet fw4 paraglider { 10.1.0.1 . 8080 }'");
    let (code, out, _) = lab.paraglider("check");
    assert!(code == 1 && out.contains("nftables: inet fw4 forward (priority 0): a rule (handle "), "{out}");
    sh("nft 'flush chain inet fw4 forward'");
    // It does nothing elsewhere.
    sh("nft 'add chain inet fw4 raw { type filter hook prerouting priority raw; }; add rule inet fw4 raw tcp dport 8080 drop'");
    assert_eq!(lab.paraglider("check").0, 1);
});

on_all!(the_remedy_for_a_drop_keeps_the_bans_before_it, |lab| {
    router();
    serve("b1", 80);
    lab.config("frontend: {bind: '10.1.0.1:8080', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}");
    sh("ip -n client addr add 10.1.0.3/24 dev eth0");
    let is_served = |from: &'static str| {
        let from = format!("{from}:0").parse().unwrap();
        let connect = move || connect_within(Duration::from_millis(600), from, "10.1.0.1:8080".parse().unwrap());
        inside("client", connect).join().unwrap().is_ok()
    };
    lab.ok("start");
    for (policy, ending) in
        [("drop", ""), ("accept", "reject"), ("accept", "ip daddr 10.2.0.0/24 drop"), ("drop", "reject")]
    {
        sh(&format!(
            "nft -f - <<'X'\ntable inet other {{\n chain forward {{\n type filter hook forward priority 0; policy {policy};\n\
             ct state established,related accept\n ip saddr 10.1.0.3 drop\n {ending}\n }}\n}}\nX"
        ));
        assert!(!is_served("10.1.0.2") && !is_served("10.1.0.3"));
        let (code, out, _) = lab.paraglider("check");
        let error = out.lines().find(|line| line.starts_with("error ")).unwrap_or_else(|| panic!("{out}"));
        let (_, remedy) = error.rsplit_once("; ").unwrap();
        assert!(code == 1 && remedy.starts_with("nft "), "{error}");
        sh(remedy);
        assert!(is_served("10.1.0.2") && !is_served("10.1.0.3"), "{remedy}");
        assert_eq!(complaints(&lab.ok("check")), [""; 0], "{remedy}");
        sh(TABLE);
    }
});
