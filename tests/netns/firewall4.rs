//! firewall4 of OpenWrt, which rejects what its own rules do not accept: a rule of our package lets through what is in two
//! sets, and the program fills these. The files of the package are the real ones; `fw4 reload` and `restart` are told by
//! what they do to the table.

use std::time::Duration;

use crate::lab::{ask_often, inside, needs_ipv6, serve, sh, Held, Lab, Variant};
use crate::watching::{until, Watch};
use crate::{answers, on_all, on_both, BIND};

/// Loads firewall4's table as it does at a reload: what is in chains goes, what is in sets stays. With or without our
/// package's files, which are read if `auto_includes` is on.
fn reload(lab: &Lab, with_files: bool) {
    let file = |name: &str| match with_files {
        true => format!("include \"{}/openwrt/files/{name}.nft\"", env!("CARGO_MANIFEST_DIR")),
        false => String::new(),
    };
    let (jump, rest) = (file("jump"), file("table"));
    let text = format!(
        "table inet fw4\nflush table inet fw4\ntable inet fw4 {{\n\
         chain forward {{\ntype filter hook forward priority filter; policy drop;\n{jump}\n\
         ct state vmap {{ established : accept, related : accept }}\niifname lan jump forward_lan\n\
         iifname wan jump forward_wan\njump handle_reject\n}}\n\
         chain dstnat {{ type nat hook prerouting priority dstnat; }}\n\
         chain srcnat {{ type nat hook postrouting priority srcnat; }}\n\
         chain forward_lan {{ accept; }}\nchain forward_wan {{ jump handle_reject; }}\nchain handle_reject {{ reject; }}\n\
         {rest}\n}}\n"
    );
    std::fs::write(lab.path("fw4.nft"), text).unwrap();
    sh(&format!("nft -f {}", lab.path("fw4.nft").display()));
}

fn restart(lab: &Lab) {
    sh("nft delete table inet fw4");
    reload(lab, true);
}

/// What is in both sets.
fn elements() -> String {
    let mut all = Vec::new();
    for set in ["paraglider", "paraglider6"] {
        let list = sh(&format!("nft list set inet fw4 {set}"));
        if let Some((_, rest)) = list.split_once("elements = { ") {
            all.push(rest.split_once(" }").unwrap().0.to_owned());
        }
    }
    all.join(", ")
}

/// What the client gets at [`BIND`].
fn client() -> std::collections::BTreeMap<String, usize> {
    ask_often("client", BIND, 1)
}

fn refused() -> std::collections::BTreeMap<String, usize> {
    answers(&[("ConnectionRefused", 1)])
}

fn well() -> std::collections::BTreeMap<String, usize> {
    answers(&[("b1 10.2.0.1", 1)])
}

on_all!(what_is_balanced_gets_through_and_nothing_else, |lab| {
    serve("b1", 80);
    reload(lab, true);
    sh("nft add element inet fw4 paraglider '{ 192.0.2.7 . 7, 192.0.2.8 . 8 }'");
    lab.balance(&[1]);
    lab.ok("check");
    lab.ok("start");
    assert_eq!(elements(), "10.9.0.1 . 4444", "what was left there is gone");
    assert_eq!(client(), well());
    let straight = ask_often("client", "10.2.0.11:80", 1);
    assert_eq!(straight, refused(), "a backend is not open to all");
    lab.is_in_force();
    assert!(!lab.ok("check").contains("firewall4"));

    // A reload of firewall4 keeps all, and one of ours has exactly what is wanted.
    reload(lab, true);
    assert_eq!((elements().as_str(), client()), ("10.9.0.1 . 4444", well()));
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    lab.config("frontend: {bind: '10.9.0.1:4445', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}");
    lab.ok("reload");
    assert_eq!(elements(), "10.9.0.1 . 4445");
    assert_eq!(ask_often("client", "10.9.0.1:4445", 1), well());

    // What is established needs nothing of ours.
    lab.ok("stop");
    assert_eq!(elements(), "");
    held.ask().unwrap();
    lab.ok("stop");
});

on_all!(ipv6_has_a_set_of_its_own, |lab| {
    needs_ipv6();
    serve("b1", 80);
    serve("b2", 80);
    reload(lab, true);
    lab.config(
        "frontends:\n  - {bind: '10.9.0.1:4444', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}\n\
         \x20 - {bind: '[fd09::1]:4445', privateip: 'fd02::1', backends: ['[fd02::12]:80']}\n",
    );
    lab.ok("check");
    lab.ok("start");
    assert_eq!(elements(), "10.9.0.1 . 4444, fd09::1 . 4445");
    assert_eq!(client(), well());
    assert_eq!(ask_often("client", "[fd09::1]:4445", 1), answers(&[("b2 fd02::1", 1)]));
    sh("nft flush set inet fw4 paraglider6");
    let (code, out, err) = lab.paraglider("status");
    assert!(code == 1 && out.contains("firewall4 does not let through what is balanced"), "{out}{err}");
    lab.balance(&[1]);
    lab.ok("start");
    assert_eq!(elements(), "10.9.0.1 . 4444");
    lab.ok("stop");
    assert_eq!(elements(), "");
});

on_all!(what_firewall4_has_lost_comes_back, |lab| {
    serve("b1", 80);
    reload(lab, true);
    lab.balance(&[1]);
    lab.ok("start");
    restart(lab);
    assert_eq!((elements().as_str(), client()), ("", refused()));
    let (code, out, _) = lab.paraglider("status");
    assert!(code == 1 && out.contains("firewall4 does not let through what is balanced; `paraglider start`"), "{out}");
    let check = lab.ok("check");
    assert!(
        check.contains("warning  firewall4: it does not let through what is balanced; `paraglider start`"),
        "{check}"
    );
    // As the firewall's include does it.
    let (code, _, err) = lab.paraglider("start --again");
    assert!(code == 0 && err.contains("firewall4 did not let through what is balanced; now it does"), "{err}");
    assert_eq!(client(), well());
    lab.is_in_force();

    // Where nobody asks for it, the watch does it, also with an engine whose stamp does not tell.
    let watch = Watch::begin(lab);
    for _ in 0..2 {
        restart(lab);
        let took = until("open again", || client() == well());
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    assert!(!watch.text().contains("ERROR"), "{}", watch.text());
});

on_all!(a_firewall4_without_our_rule_is_named_where_it_matters, |lab| {
    serve("b1", 80);
    lab.config("frontend: {bind: '10.1.0.1:4444', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}");
    sh("sysctl -qw net.ipv4.ip_forward=1");
    // A set that an earlier reload has left is not the rule.
    reload(lab, true);
    reload(lab, false);
    let why = "the rule that lets them through is in Paraglider's package, which is not installed; install it";
    let (code, out, _) = lab.paraglider("check");
    assert!(code == 1 && out.contains("error    nftables: inet fw4 forward (priority 0): a rule (handle "), "{out}");
    let drops = format!("drops the connections of 10.1.0.1:4444 to 10.2.0.11:80; {why}");
    assert!(out.contains(&drops), "{out}");
    for n in 0..2 {
        let (code, _, err) = lab.paraglider("start");
        assert!(code == 0 && err.contains(&drops), "{n}: {err}");
    }
    assert!(lab.ok("status").contains(&drops));
    assert_eq!(ask_often("client", "10.1.0.1:4444", 1), refused());

    // Clients in the LAN get through by firewall4's own rules, and so do all where the administrator lets them.
    let quiet = || {
        let (code, _, err) = lab.paraglider("start");
        assert!(code == 0 && !err.contains("drops"), "{err}");
        assert!(!lab.ok("status").contains("drops"));
        let check = lab.ok("check");
        assert!(!check.contains("error  ") && !check.contains("warning"), "{check}");
    };
    lab.config("frontend: {bind: '10.2.0.1:4444', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}");
    quiet();
    lab.config("frontend: {bind: '10.1.0.1:4444', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}");
    sh("nft insert rule inet fw4 forward ct status dnat accept");
    quiet();
    // With the rule all is well.
    reload(lab, true);
    quiet();
    assert_eq!(ask_often("client", "10.1.0.1:4444", 1), well());
});

// No connection meets the new rules and a closed firewall. (What happens between two steps is seen by the second one.)
on_both!(what_is_going_to_be_balanced_is_let_through_before, |lab| {
    serve("b1", 80);
    reload(lab, true);
    lab.balance(&[1]);
    lab.ok("start");
    lab.config("frontend: {bind: '10.9.0.1:4445', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}");
    crate::failure::wrap(lab, "restore", "nft list set inet fw4 paraglider >>$DIR/seen\nexec $REAL \"$@\"");
    lab.ok("start");
    let seen = std::fs::read_to_string(lab.path("seen")).unwrap();
    assert!(seen.contains("10.9.0.1 . 4444") && seen.contains("10.9.0.1 . 4445"), "{seen}");
    assert_eq!(elements(), "10.9.0.1 . 4445");
});

// (A change of nftables is one transaction; here the second of two fails.)
on_both!(a_change_that_fails_leaves_firewall4_as_it_was, |lab| {
    serve("b1", 80);
    reload(lab, true);
    lab.balance(&[1]);
    lab.ok("start");
    lab.config("frontend: {bind: '10.9.0.1:4445', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}");
    crate::failure::wrap(lab, "restore", "exit 1");
    assert_eq!(lab.paraglider("start").0, 1);
    assert_eq!(elements(), "10.9.0.1 . 4444");
    assert_eq!(client(), well());
});

on_all!(what_cannot_be_let_through_changes_nothing, |lab| {
    // A set of the administrator's, by chance of this name.
    sh("nft 'add table inet fw4; add set inet fw4 paraglider { type ipv4_addr; }'");
    lab.balance(&[1]);
    let (code, _, err) = lab.paraglider("start");
    let why = "cannot let balanced connections through firewall4: Invalid argument; nothing was changed";
    assert!(code == 1 && err.contains(why), "{err}");
    assert!(lab.ours().is_empty());
});

on_all!(a_drain_keeps_what_firewall4_lets_through, |lab| {
    serve("b1", 80);
    reload(lab, true);
    lab.balance(&[1]);
    lab.ok("start");
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    let mut stop = lab.command("stop --drain 20").spawn().unwrap();
    until("it drains", || !client().contains_key("b1 10.2.0.1"));
    assert_eq!(elements(), "10.9.0.1 . 4444");
    held.ask().unwrap();
    drop(held);
    assert!(stop.wait().unwrap().success());
    assert_eq!(elements(), "");
});
