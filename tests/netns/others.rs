//! Beside the rules of others: bans stay bans, what drops all is passed, and what cannot be passed is named.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::lab::{ask_often, connect_within, inside, serve, sh, shell, Lab, Variant, PATIENCE};
use crate::watching::{until, Watch};
use crate::{answers, on_all, on_both, BIND};

/// A second client on the same host, who is not banned.
const OTHER: &str = "10.1.0.3";

/// Whether a client gets an answer.
fn is_served(client: &str) -> bool {
    asks(client, PATIENCE)
}

/// Whether it gets none, for as long as a quick one takes.
fn is_kept_out(client: &str) -> bool {
    !asks(client, Duration::from_millis(600))
}

fn asks(client: &str, patience: Duration) -> bool {
    let from: IpAddr = client.parse().unwrap();
    let to = if from.is_ipv4() { BIND } else { BIND6 }.parse().unwrap();
    inside("client", move || connect_within(patience, SocketAddr::new(from, 0), to)).join().unwrap().is_ok()
}

const BIND6: &str = "[fd09::1]:4444";

fn serve_two_clients() {
    for host in ["b1", "b2", "b3"] {
        serve(host, 80);
    }
    sh("ip -n client addr add 10.1.0.3/24 dev eth0");
}

/// The banned client 10.1.0.2 is refused, the other one is served, and nothing is left to do.
fn the_ban_holds(lab: &Lab, what: &str) {
    assert!(is_kept_out("10.1.0.2"), "{what}: the banned client came through");
    assert!(is_served(OTHER), "{what}: nobody comes through\n{}", lab.saved(true));
    lab.is_in_force();
}

/// `check` finds fault with a rule, or anything else wrong.
fn names_a_rule(check: &str) -> bool {
    check.lines().any(|line| !line.starts_with("ok ") && line.contains("-A ") || line.starts_with("error"))
}

/// Whether a firewall drops what it does not know. In nftables no rule of ours can let through there what iptables drops;
/// with iptables it can.
fn shuts_us_out(lab: &Lab, rules: &str) -> bool {
    lab.variant == Variant::Netlink && (rules.contains("-P FORWARD DROP") || rules.contains("FORWARD -j REJECT"))
}

/// Nobody gets through, and `check` says so.
fn is_said_to_be_shut_out(lab: &Lab, what: &str) {
    assert!(is_kept_out("10.1.0.2") && is_kept_out(OTHER), "{what}");
    let (code, out, _) = lab.paraglider("check");
    let begin = "error    nftables: ip filter FORWARD";
    let said = |line: &str| line.starts_with(begin) && line.contains("which no rule in another table can overrule");
    assert!(code == 1 && out.lines().any(said), "{what}:\n{out}");
}

/// Bans as people and programs write them, before and after our start.
const BANS: [(&str, &str, &str); 14] = [
    (
        "behind drops for another interface",
        "iptables -A FORWARD -i tun0 -j DROP; iptables -A FORWARD -o tun0 -j REJECT; iptables -A FORWARD -s 10.1.0.2 -j DROP",
        "iptables -F FORWARD",
    ),
    (
        "an allow-list by a mask of the last number",
        "iptables -N wl; iptables -A wl -s 0.0.0.3/0.0.0.255 -j RETURN; iptables -A wl -j DROP; iptables -A FORWARD -i wan -j wl",
        "iptables -F FORWARD; iptables -F wl; iptables -X wl",
    ),
    (
        "an allow-list in FORWARD itself",
        "iptables -A FORWARD ! -i wan -j RETURN; iptables -A FORWARD -s 10.1.0.3 -j RETURN; iptables -A FORWARD -j DROP",
        "iptables -F FORWARD",
    ),
    (
        "by a mask",
        "iptables -A FORWARD -s 0.0.0.2/0.0.0.255 -j DROP",
        "iptables -F FORWARD",
    ),
    (
        "of the way back",
        "iptables -A FORWARD -i tun0 -o lan -j DROP; iptables -A FORWARD -d 10.1.0.2 -j DROP; iptables -P FORWARD DROP",
        "iptables -F FORWARD; iptables -P FORWARD ACCEPT",
    ),
    ("a rule", "iptables -I FORWARD -s 10.1.0.2 -j DROP", "iptables -D FORWARD -s 10.1.0.2 -j DROP"),
    (
        "a chain of fail2ban",
        "iptables -N ban; iptables -A ban -s 10.1.0.2 -j REJECT; iptables -A ban -j RETURN; iptables -I FORWARD -p tcp -j ban",
        "iptables -D FORWARD -p tcp -j ban; iptables -F ban; iptables -X ban",
    ),
    (
        "at the end of a firewall that drops",
        "iptables -P FORWARD DROP; iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; \
         iptables -A FORWARD -s 10.1.0.2 -j DROP",
        "iptables -P FORWARD ACCEPT; iptables -F FORWARD",
    ),
    (
        "before a general REJECT",
        "iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP; iptables -A FORWARD -s 10.1.0.2 -j REJECT; \
         iptables -A FORWARD -j REJECT",
        "iptables -F FORWARD",
    ),
    (
        "in DOCKER-USER",
        "iptables -N DOCKER-USER; iptables -A DOCKER-USER -s 10.1.0.2 -j DROP; iptables -A DOCKER-USER -j RETURN; \
         iptables -N DOCKER; iptables -A DOCKER ! -i lan -o lan -j DROP; iptables -A FORWARD -j DOCKER-USER; \
         iptables -A FORWARD -j DOCKER; iptables -P FORWARD DROP",
        "iptables -P FORWARD ACCEPT; iptables -F FORWARD; iptables -F DOCKER; iptables -F DOCKER-USER; \
         iptables -X DOCKER; iptables -X DOCKER-USER",
    ),
    (
        "an allow-list of Docker's documents",
        "iptables -N DOCKER-USER; iptables -A DOCKER-USER -i lan -j RETURN; iptables -A DOCKER-USER -s 10.1.0.3 -j RETURN; \
         iptables -A DOCKER-USER -j DROP; iptables -A FORWARD -j DOCKER-USER",
        "iptables -F FORWARD; iptables -F DOCKER-USER; iptables -X DOCKER-USER",
    ),
    (
        "as `ufw route deny` writes it",
        "iptables -P FORWARD DROP; iptables -N ufw-user-forward; iptables -N ufw-before-forward; \
         iptables -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; \
         iptables -A ufw-before-forward -j ufw-user-forward; iptables -A ufw-user-forward -s 10.1.0.2 -j DROP; \
         iptables -N ufw-reject-forward; iptables -A ufw-reject-forward -j REJECT; \
         iptables -A FORWARD -j ufw-before-forward; iptables -A FORWARD -j ufw-reject-forward",
        "iptables -P FORWARD ACCEPT; iptables -F; iptables -X",
    ),
    (
        "in the raw table, by the bind's port",
        "iptables -t raw -A PREROUTING -s 10.1.0.2 -p tcp --dport 4444 -j DROP",
        "iptables -t raw -F",
    ),
    (
        "in mangle FORWARD, by the original port",
        "iptables -t mangle -A FORWARD -m conntrack --ctorigdstport 4444 -s 10.1.0.2 -j DROP",
        "iptables -t mangle -F",
    ),
];

on_all!(bans_stay_bans, |lab| {
    serve_two_clients();
    lab.balance(&[1, 2, 3]);
    for (what, ban, undo) in BANS {
        sh(ban);
        lab.ok("start");
        if shuts_us_out(lab, ban) {
            is_said_to_be_shut_out(lab, what);
            lab.ok("stop");
            sh(undo);
            continue;
        }
        the_ban_holds(lab, what);
        let out = lab.ok("check");
        assert!(!names_a_rule(&out), "{what}:\n{out}");
        let of_filter = ban.contains("FORWARD") && !ban.contains("-t mangle");
        // A table of ours has no place among the rules of iptables.
        if lab.variant != Variant::Netlink {
            assert_eq!(
                out.contains("stands before our rules and can drop balanced connections"),
                of_filter,
                "{what}:\n{out}"
            );
        }
        lab.ok("stop");
        sh(undo);
    }
    // The same, when we are there first: a `start` puts us behind them.
    lab.ok("start");
    for (what, ban, undo) in BANS {
        sh(ban);
        lab.ok("start");
        match shuts_us_out(lab, ban) {
            true => is_said_to_be_shut_out(lab, what),
            false => the_ban_holds(lab, what),
        }
        // The undoing of some empties FORWARD.
        sh(undo);
        lab.ok("start");
        assert!(is_served("10.1.0.2"), "{what}");
    }
});

on_all!(bans_stay_bans_when_the_watch_puts_the_rules_back, |lab| {
    serve_two_clients();
    lab.balance(&[1, 2, 3]);
    let watch = Watch::begin(lab);
    sh("iptables -N ban; iptables -A ban -s 10.1.0.2 -j REJECT; iptables -A FORWARD -p tcp -j ban");
    until("the watch moves the jump", || lab.paraglider("status").0 == 0 && is_kept_out("10.1.0.2"));
    match lab.variant {
        Variant::Netlink => sh(lab.loses_clients()),
        _ => sh("iptables -D FORWARD -m conntrack --ctstate DNAT -j PARAGLIDER-FWD; iptables -P FORWARD DROP"),
    };
    until("the watch puts it back", || is_served(OTHER));
    the_ban_holds(lab, "put back");
    drop(watch);
});

on_all!(a_ban_of_an_ipv6_client_stays_a_ban, |lab| {
    crate::lab::needs_ipv6();
    for host in ["b1", "b2"] {
        serve(host, 80);
    }
    sh("ip -n client -6 addr add fd01::3/64 dev eth0 nodad");
    sh("ip6tables -A FORWARD -s fd01::2 -j DROP");
    if lab.variant == Variant::Netlink {
        sh("ip6tables -A FORWARD -m conntrack --ctstate DNAT -j ACCEPT");
    }
    sh("ip6tables -A FORWARD -i wan -o lan -j REJECT");
    lab.config(&format!(
        "frontend: {{bind: '{BIND6}', privateip: 'fd02::1', backends: ['[fd02::11]:80', '[fd02::12]:80']}}"
    ));
    lab.ok("start");
    assert!(is_kept_out("fd01::2") && is_served("fd01::3"));
    lab.is_in_force();
});

/// What Docker 28 does at each start.
const DOCKER: &str = "iptables -P FORWARD DROP; iptables -N DOCKER; iptables -A DOCKER ! -i lan -o lan -j DROP; \
                      iptables -N DOCKER-FORWARD; iptables -A DOCKER-FORWARD -j DOCKER; iptables -I FORWARD -j DOCKER-FORWARD";

on_all!(a_start_of_docker_is_said_and_mended, |lab| {
    serve_two_clients();
    sh("iptables -N ban; iptables -A ban -s 10.1.0.2 -j REJECT");
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    sh(DOCKER);
    sh("iptables -I FORWARD -p tcp -j ban");
    if lab.variant == Variant::Netlink {
        let (code, out, _) = lab.paraglider("status");
        // The rules are as the config says, but of no use.
        assert!(code == 0 && out.contains("ip filter FORWARD (priority 0): its policy drops"), "{code} {out}");
        is_said_to_be_shut_out(lab, "after docker");
        sh("iptables -I FORWARD 2 -m conntrack --ctstate DNAT -j ACCEPT");
        return the_ban_holds(lab, "let through by the administrator");
    }
    let (code, out, _) = lab.paraglider("status");
    assert!(code == 1 && out.contains("`-A DOCKER ! -i lan -o lan -j DROP` drops balanced connections"), "{out}");
    let (_, out, _) = lab.paraglider("check");
    assert!(out.contains("`paraglider start` puts them before it"), "{out}");
    let before = lab.others();
    lab.ok("start");
    the_ban_holds(lab, "after docker");
    assert_eq!(lab.others().len(), before.len());
});

// No rule of nftables can mend it; that is said, as the story before has it.
on_both!(a_start_of_docker_is_mended_by_the_watch, |lab| {
    serve_two_clients();
    lab.balance(&[1, 2, 3]);
    let watch = Watch::begin(lab);
    let begin = Instant::now();
    sh(DOCKER);
    watch.hears(begin, "put them right");
    until("connections get through", || is_served(OTHER));
    lab.is_in_force();
});

/// Rules that stop balanced connections, how they are undone, and what `check` and `status` say of them.
const OBSTACLES: [(&str, &str, &str); 22] = [
    (
        "iptables -t mangle -P FORWARD DROP",
        "iptables -t mangle -P FORWARD ACCEPT",
        "mangle table: the policy of FORWARD is DROP",
    ),
    (
        "iptables -t raw -P PREROUTING DROP",
        "iptables -t raw -P PREROUTING ACCEPT",
        "`iptables -t raw -P PREROUTING ACCEPT` mends it",
    ),
    (
        "iptables -t nat -I PREROUTING -i wan -j RETURN",
        "iptables -t nat -D PREROUTING 1",
        "`-A PREROUTING -i wan -j RETURN` keeps connections to a bind from our rules",
    ),
    (
        "iptables -t nat -I POSTROUTING -o lan -j ACCEPT",
        "iptables -t nat -D POSTROUTING 1",
        "`-A POSTROUTING -o lan -j ACCEPT` keeps connections from our rules",
    ),
    (
        "iptables -P FORWARD DROP; iptables -I FORWARD -j RETURN",
        "iptables -P FORWARD ACCEPT; iptables -F FORWARD",
        "`-A FORWARD -j RETURN` drops balanced connections",
    ),
    (
        "iptables -I FORWARD -m comment --comment -j -j DROP",
        "iptables -F FORWARD",
        "drops balanced connections, since it stands before our rules",
    ),
    (
        "iptables -t mangle -A FORWARD -m conntrack --ctdir ORIGINAL -j DROP",
        "iptables -t mangle -F",
        "`-A FORWARD -m conntrack --ctdir ORIGINAL -j DROP` drops",
    ),
    (
        "iptables -t raw -A PREROUTING -i wan -j CT --zone 5",
        "iptables -t raw -F",
        "`-A PREROUTING -i wan -j CT --zone 5` tracks them in another zone",
    ),
    (
        "iptables -t raw -A PREROUTING -p tcp --dport 4444 -j DROP",
        "iptables -t raw -F",
        "IPv4 raw table: `-A PREROUTING -p tcp -m tcp --dport 4444 -j DROP`",
    ),
    (
        "iptables -t raw -A PREROUTING -i wan -j DROP",
        "iptables -t raw -F",
        "IPv4 raw table: `-A PREROUTING -i wan -j DROP` drops",
    ),
    (
        "iptables -t raw -A PREROUTING -s 10.2.0.0/24 -p tcp --sport 80 -j DROP",
        "iptables -t raw -F",
        "IPv4 raw table: `-A PREROUTING -s 10.2.0.0/24",
    ),
    (
        "iptables -t raw -A PREROUTING -p tcp --dport 4444 -j CT --notrack",
        "iptables -t raw -F",
        "switches connection tracking off",
    ),
    (
        "iptables -t mangle -A PREROUTING -d 10.9.0.1 -j DROP",
        "iptables -t mangle -F",
        "IPv4 mangle table: `-A PREROUTING -d 10.9.0.1/32 -j DROP`",
    ),
    (
        "iptables -t mangle -A FORWARD -o lan -j DROP",
        "iptables -t mangle -F",
        "IPv4 mangle table: `-A FORWARD -o lan -j DROP`",
    ),
    (
        "iptables -t mangle -A FORWARD -i lan -j DROP",
        "iptables -t mangle -F",
        "IPv4 mangle table: `-A FORWARD -i lan -j DROP`",
    ),
    (
        "iptables -t mangle -A POSTROUTING -p tcp --dport 80 -j DROP",
        "iptables -t mangle -F",
        "IPv4 mangle table: `-A POSTROUTING -p tcp -m tcp --dport 80 -j DROP`",
    ),
    (
        "iptables -t security -A FORWARD -p tcp -j DROP",
        "iptables -t security -F",
        "IPv4 security table: `-A FORWARD -p tcp -j DROP`",
    ),
    (
        "iptables -I FORWARD -p tcp --dport 80 -j DROP",
        "iptables -F FORWARD",
        "IPv4 filter table: `-A FORWARD -p tcp -m tcp --dport 80 -j DROP` drops",
    ),
    (
        "iptables -N own; iptables -A own -d 10.2.0.0/24 -j REJECT; iptables -I FORWARD -i wan -j own",
        "iptables -F FORWARD; iptables -F own; iptables -X own",
        "IPv4 filter table: `-A own -d 10.2.0.0/24 -j REJECT",
    ),
    (
        "iptables -t nat -I PREROUTING -p tcp --dport 4444 -j REDIRECT --to-ports 9",
        "iptables -t nat -D PREROUTING 1",
        "takes connections to a bind before our rules",
    ),
    ("OTHER -P FORWARD DROP", "OTHER -P FORWARD ACCEPT", "the policy of FORWARD is DROP"),
    (
        "OTHER -A FORWARD -i wan -o lan -j DROP",
        "OTHER -F FORWARD",
        "`-A FORWARD -i wan -o lan -j DROP` drops balanced connections: packets must pass both variants",
    ),
];

/// Of the rules of iptables above, `check` names those that the kernel shows in nf_tables as they are.
fn is_seen_in_nftables(lab: &Lab, rule: &str) {
    // A table of ours comes before those of iptables for nat.
    if rule.contains("-t nat") {
        return assert!(is_served(OTHER), "{rule}");
    }
    assert!(is_kept_out(OTHER), "{rule}: does not stop anything");
    let (code, out, _) = lab.paraglider("check");
    let named = code == 1 && out.lines().any(|line| line.starts_with("error    nftables: ip "));
    // Not so: tables of iptables-legacy, which only its own programs can read; what depends on the interface by which
    // clients come in, of which the bind, an address of lo, tells nothing; and what only the way back meets.
    let unseen = ["OTHER", " -i ", "-s 10.2.0.0/24"];
    assert_eq!(named, !unseen.iter().any(|part| rule.contains(part)), "{rule}: {code}\n{out}");
}

on_all!(what_stops_connections_is_named, |lab| {
    serve_two_clients();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    assert!(is_served(OTHER));
    let other = format!("iptables-{}", lab.variant.other().infix());
    for (rule, undo, said) in OBSTACLES {
        let fails = |line: &str| {
            // The old tables of a kernel that has not all of them.
            shell(line).status().map_or(true, |status| !status.success())
        };
        if fails(&rule.replace("OTHER", &other)) {
            assert!(rule.contains("security"), "{rule}");
            println!("skipped: no table for {rule}");
            continue;
        }
        if lab.variant == Variant::Netlink {
            is_seen_in_nftables(lab, rule);
            sh(&undo.replace("OTHER", &other));
            continue;
        }
        assert!(is_kept_out(OTHER), "{rule}: does not stop anything");
        let (code, out, _) = lab.paraglider("check");
        let line = out.lines().find(|line| line.starts_with("error") && line.contains(said));
        assert!(code == 1 && line.is_some(), "{rule}: {code}\n{out}");
        let (_, out, _) = lab.paraglider("status");
        assert!(out.contains(said), "{rule}:\n{out}");
        sh(&undo.replace("OTHER", &other));
        lab.ok("start");
        assert!(is_served(OTHER), "{rule}: undone");
        let out = lab.ok("check");
        assert!(!names_a_rule(&out) && !out.contains(" table of "), "{rule}: undone\n{out}");
    }
});

// Rules of iptables, which is read for them; those of nftables: input.rs.
on_both!(rules_for_the_bind_in_input_are_said_to_be_of_no_use_now, |lab| {
    for host in ["b1", "b2", "b3"] {
        serve(host, 80);
    }
    for (rules, said) in [
        ("iptables -A INPUT -s 10.0.0.0/8 -p tcp --dport 4444 -j ACCEPT; iptables -P INPUT DROP", Some("-s 10.0.0.0/8 -p tcp -m tcp --dport 4444 -j ACCEPT")),
        ("iptables -A INPUT -i lan -p tcp --dport 4444 -j ACCEPT; iptables -A INPUT -j REJECT", Some("-i lan -p tcp -m tcp --dport 4444 -j ACCEPT")),
        ("iptables -N f2b; iptables -A f2b -s 192.0.2.9 -j REJECT; iptables -A INPUT -p tcp -m multiport --dports 80,4444 -j f2b", Some("-A f2b -s 192.0.2.9/32 -j REJECT")),
        ("iptables -A INPUT -p tcp --dport 4444 -m connlimit --connlimit-above 9 -j REJECT", Some("connlimit")),
        // What lets all in, what is about other ports, and what nobody is banned by.
        ("iptables -A INPUT -p tcp --dport 4444 -j ACCEPT; iptables -P INPUT DROP", None),
        ("iptables -A INPUT -s 10.0.0.0/8 -p tcp --dport 22 -j ACCEPT; iptables -P INPUT DROP", None),
        ("iptables -A INPUT -m conntrack --ctstate INVALID -j DROP; iptables -A INPUT -s 127.0.0.0/8 ! -i lo -j DROP", None),
        ("iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -i lan -j ACCEPT; iptables -P INPUT DROP", None),
    ] {
        sh(rules);
        lab.balance(&[1, 2, 3]);
        let (_, _, err) = lab.paraglider("start");
        let check = lab.ok("check");
        for text in [&err, &check] {
            let line = text.lines().find(|line| line.contains("does not apply to balanced connections"));
            assert_eq!(line.map(|line| said.is_some_and(|said| line.contains(said))), said.map(|_| true), "{rules}\n{text}");
        }
        lab.ok("stop");
        sh("iptables -P INPUT ACCEPT; iptables -F INPUT; iptables -F f2b 2>/dev/null; iptables -X f2b 2>/dev/null || :");
    }
});

on_all!(a_masquerade_of_others_does_not_hide_the_clients, |lab| {
    serve_two_clients();
    for n in 1..=3 {
        sh(&format!("ip -n b{n} route add default via 10.2.0.1"));
    }
    sh("iptables -t nat -A POSTROUTING -j MASQUERADE");
    lab.config("frontend: {bind: '10.9.0.1:4444', privateip: none, backends: ['10.2.0.11:80', '10.2.0.12:80']}");
    lab.ok("start");
    assert_eq!(ask_often("client", BIND, 2), answers(&[("b1 10.1.0.2", 1), ("b2 10.1.0.2", 1)]));
    assert!(!lab.ok("check").contains("MASQUERADE"));
    // One that comes before ours cannot be overruled; before a table of ours none of iptables comes.
    sh("iptables -t nat -I POSTROUTING -o lan -j MASQUERADE");
    if lab.variant == Variant::Netlink {
        assert_eq!(ask_often("client", BIND, 2), answers(&[("b1 10.1.0.2", 1), ("b2 10.1.0.2", 1)]));
        return assert!(!lab.ok("check").contains("changes the source"));
    }
    assert_eq!(ask_often("client", BIND, 1), answers(&[("b1 10.2.0.1", 1)]));
    let out = lab.ok("check");
    assert!(out.contains("`-A POSTROUTING -o lan -j MASQUERADE` comes before our rules"), "{out}");
});

on_all!(what_does_no_harm_is_not_named, |lab| {
    serve_two_clients();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    for rule in [
        "-t raw -A PREROUTING -j CT --zone 5",
        "-t raw -A PREROUTING -p tcp --dport 22 -j DROP",
        "-t raw -A PREROUTING -p udp -j NOTRACK",
        "-t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        "-t mangle -A PREROUTING -s 192.0.2.9 -j DROP",
        "-t mangle -A FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-t nat -I PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 2222",
        "-t nat -I POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        "-I FORWARD -d 10.3.0.0/24 -j DROP",
        "-I FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-I FORWARD -p tcp --dport 443 -j REJECT",
        "-A FORWARD -j DROP",
        "-I INPUT -i wan -j DROP",
    ] {
        if lab.variant == Variant::Netlink && rule == "-A FORWARD -j DROP" {
            // There it does harm: an accept of ours is no verdict for another table.
            continue;
        }
        sh(&format!("iptables {rule}"));
        assert!(is_served(OTHER), "{rule}");
        let out = lab.ok("check");
        assert!(!names_a_rule(&out), "{rule}:\n{out}");
    }
});

on_all!(a_ban_holds_while_a_backend_cannot_be_reached, |lab| {
    serve_two_clients();
    sh("iptables -A FORWARD -o tun0 -j DROP; iptables -A FORWARD -s 10.1.0.2 -j DROP");
    lab.config("frontend: {bind: '10.9.0.1:4444', privateip: 10.2.0.1, backends: ['10.2.0.11:80', '10.66.0.1:80']}");
    lab.ok("start");
    assert!(is_kept_out("10.1.0.2"));
    lab.ok("stop");
    // As at boot, before the network is up.
    lab.balance(&[1, 2, 3]);
    sh("ip link set lan down");
    lab.ok("start");
    sh("ip link set lan up");
    the_ban_holds(lab, "after boot");
});

on_all!(a_guest_network_stays_apart, |lab| {
    for host in ["b1", "b2", "b3"] {
        serve(host, 80);
    }
    crate::lab::host("visitor");
    sh("ip link add guest type veth peer name eth0 netns visitor && ip link set guest up && ip addr add 10.7.0.1/24 dev guest");
    sh("ip -n visitor addr add 10.7.0.2/24 dev eth0 && ip -n visitor link set eth0 up");
    sh("ip -n visitor route add default via 10.7.0.1; ip route add default via 10.1.0.2");
    let visits = || {
        let (from, to) = ("10.7.0.2:0".parse().unwrap(), BIND.parse().unwrap());
        inside("visitor", move || connect_within(Duration::from_millis(600), from, to)).join().unwrap().is_ok()
    };
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    assert!(visits());
    for apart in [
        "-A FORWARD -i guest -o lan -j DROP",
        "-A FORWARD -i guest -j REJECT",
        "-A FORWARD ! -i wan -o lan -m conntrack --ctstate NEW -j DROP",
        "-A FORWARD -o guest -j DROP",
    ] {
        sh(&format!("iptables {apart}"));
        lab.ok("start");
        assert!(!visits(), "{apart}");
        assert!(is_served("10.1.0.2"), "{apart}");
        lab.is_in_force();
        sh("iptables -F FORWARD");
        lab.ok("start");
    }
});

on_all!(an_allow_list_by_accept_is_kept_and_named, |lab| {
    serve_two_clients();
    sh("iptables -N wl; iptables -A wl -s 10.1.0.3 -j ACCEPT; iptables -A wl -j DROP; iptables -A FORWARD -i wan -j wl");
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    the_ban_holds(lab, "an allow-list");
    if lab.variant == Variant::Netlink {
        // In nftables it is one rule among those that drop some clients.
        return assert!(lab.ok("check").contains("drops some packets, balanced or not"));
    }
    assert!(lab.ok("check").contains("`-A wl -j DROP` drops balanced connections of all clients but"));
});
