//! Binds that follow the address of an interface.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::backend::Backend;
use crate::health::QUICK;
use crate::lab::{ask_often, inside, needs_ipv6, serve, sh, Held, Lab, Variant};
use crate::watching::{failed, shares, until, Clients, Watch};
use crate::{answers, on_all, BIND};

/// An interface without an address, to which the client has a way.
fn dsl() {
    sh("ip link add dsl type bridge && ip link set dsl up");
}

/// The config of a frontend whose bind follows it, over three backends.
fn follows(bind: &str, health: &str) -> String {
    let list = "['10.2.0.11:80', '10.2.0.12:80', '10.2.0.13:80']";
    let list =
        if bind.starts_with('[') { list.replace("10.2.0.", "[fd02::").replace(":80", "]:80") } else { list.into() };
    format!("frontend:\n  bind: '{bind}'\n{health}  backends: {list}\n")
}

/// What `start --again` says, which must succeed.
fn again(lab: &Lab) -> String {
    let (code, _, said) = lab.paraglider("start --again");
    assert_eq!(code, 0, "{said}");
    said
}

on_all!(it_waits_for_its_interface_and_follows_it_at_each_start, |lab| {
    ["b1", "b2", "b3"].into_iter().for_each(|host| serve(host, 80));
    lab.config(&follows("dsl:4444", ""));
    for why in ["there is no interface dsl (yet)", "the interface dsl has no IPv4 address (yet)"] {
        let waits = format!("dsl:4444 waits: {why}");
        assert_eq!(lab.paraglider("status").0, if lab.ours().is_empty() && why.starts_with("there") { 3 } else { 0 });
        let (code, _, said) = lab.paraglider("start");
        assert!(code == 0 && said.contains(&waits) && !said.contains("already"), "{said}");
        assert!(said.contains("binds follow their interfaces while `paraglider watch` runs"), "{said}");
        // Said once: what calls for it at each change around it hears nothing more.
        assert_eq!(again(lab), "");
        let (code, status, _) = lab.paraglider("status");
        assert!(code == 0 && status.ends_with(&format!("{waits}\n")), "{status}");
        assert!(lab.ok("status --json").contains("\"waiting\":[{\"name\":\"dsl-4444\",\"bind\":\"dsl:4444\""));
        let (code, check, _) = lab.paraglider("check");
        assert!(code == 0 && check.contains(&format!("warning  bind {waits}\n")), "{check}");
        let (code, out, said) = lab.paraglider("print");
        assert!(code == 1 && out.is_empty() && said.contains(&waits), "{said}");
        assert_eq!(lab.ours(), [""; 0]);
        if why.starts_with("there") {
            dsl();
        }
    }
    // One of its link alone is none.
    sh("ip addr add 169.254.0.7/32 dev dsl scope link && ip addr add 10.9.0.7/32 dev dsl");
    assert!(again(lab).contains("10.9.0.7:4444 (dsl:4444) is balanced over 3 backends"));
    assert_eq!(again(lab), "");
    assert_eq!(shares("10.9.0.7:4444", 6).into_values().collect::<Vec<_>>(), [2, 2, 2]);
    assert!(lab.ok("status").contains("\n10.9.0.7:4444 (dsl-4444, follows dsl)\n"), "{}", lab.ok("status"));
    assert!(lab.ok("status --json").contains("\"bind\":\"10.9.0.7:4444\",\"follows\":\"dsl\""));
    assert!(lab.ok("check").contains("ok       bind dsl:4444: it is 10.9.0.7:4444 now\n"));
    assert!(lab.ok("print").contains("10.9.0.7"));

    let held = inside("client", || Held::open("10.9.0.7:4444".parse().unwrap()).unwrap()).join().unwrap();
    held.ask().unwrap();
    sh("ip addr add 10.9.0.8/32 dev dsl && ip addr del 10.9.0.7/32 dev dsl");
    let (code, status, _) = lab.paraglider("status");
    let moved = "dsl:4444 is 10.9.0.8:4444 now, and the rules have 10.9.0.7:4444; `paraglider start` puts it right";
    assert!(code == 1 && status.contains(moved), "{status}");
    let said = again(lab);
    assert!(said.contains("10.9.0.8:4444 (dsl:4444) is balanced") && !said.contains("is no longer"), "{said}");
    assert_eq!(shares("10.9.0.8:4444", 6).into_values().collect::<Vec<_>>(), [2, 2, 2]);
    held.ask().expect("an established connection lives on");
    assert!(!ask_often("client", "10.9.0.7:4444", 1).into_keys().any(|answer| answer.starts_with('b')));

    // An address that goes for good.
    sh("ip addr del 10.9.0.8/32 dev dsl");
    let said = again(lab);
    assert!(said.contains("WARN  [paraglider] dsl:4444 waits: the interface dsl has no IPv4 address"), "{said}");
    assert_eq!((again(lab), lab.ours()), (String::new(), vec![]));
    lab.ok("stop");
    assert_eq!(lab.paraglider("status").0, 3);
});

on_all!(a_watch_follows_it_at_once_and_forgets_no_dead_backend, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    dsl();
    sh("ip addr add 10.9.0.7/32 dev dsl");
    lab.config(&follows("dsl:4444", &format!("  health: {{{QUICK}}}\n")));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    b2.stop();
    watch.hears(since, "10.2.0.12:80 of 10.9.0.7:4444 is down");
    until("the dead one is out", || !lab.leads_to("10.2.0.12:80"));
    // A client of the other address the whole time: nobody is sent to the dead one, and nobody who comes to the new address
    // after it was told is refused.
    let mut old = "10.9.0.7";
    for new in ["10.9.0.8", "10.9.0.7"] {
        let since = Instant::now();
        sh(&format!("ip addr add {new}/32 dev dsl && ip addr del {old}/32 dev dsl"));
        watch.hears(since, &format!("dsl has the address {new} now"));
        until("the rules follow", || lab.paraglider("status").0 == 0);
        assert!(since.elapsed() < Duration::from_millis(1900), "only after {:?}", since.elapsed());
        assert_eq!(
            shares(&format!("{new}:4444"), 30).into_iter().collect::<Vec<_>>(),
            [("b1".to_owned(), 15), ("b3".to_owned(), 15)]
        );
        assert_eq!(watch.lines(since, "address").len(), 1, "{}", watch.text());
        old = new;
    }
    // It goes, and comes back.
    let since = Instant::now();
    sh("ip addr del 10.9.0.7/32 dev dsl");
    watch.hears(since, "WARN  [paraglider] dsl:4444 waits: the interface dsl has no IPv4 address (yet)");
    until("the rules are gone", || lab.ours().is_empty());
    assert!(lab.ok("status").contains("dsl:4444 waits"));
    sh("ip addr add 10.9.0.8/32 dev dsl");
    watch.hears(since, "dsl has the address 10.9.0.8 now");
    until("the rules are back", || !lab.ours().is_empty());
    assert_eq!(shares("10.9.0.8:4444", 10).into_values().collect::<Vec<_>>(), [5, 5]);
    assert_eq!(watch.lines(since, "address").len(), 2, "{}", watch.text());
    assert_eq!(watch.lines(since, "is down").len(), 0, "{}", watch.text());

    // While no watch runs, a start takes up what it knew.
    assert_eq!(watch.end(Signal::SIGKILL), None);
    sh("ip addr add 10.9.0.9/32 dev dsl && ip addr del 10.9.0.8/32 dev dsl");
    again(lab);
    assert_eq!(shares("10.9.0.9:4444", 10).into_values().collect::<Vec<_>>(), [5, 5]);
    b2.start();
    let watch = Watch::with(lab, "watch --again");
    watch.hears(Instant::now() - Duration::from_secs(60), "10.2.0.12:80 of 10.9.0.9:4444 is up");
});

on_all!(without_health_checks_a_watch_is_needed_for_it, |lab| {
    ["b1", "b2", "b3"].into_iter().for_each(|host| serve(host, 80));
    dsl();
    lab.balance(&[1, 2, 3]);
    assert_eq!(lab.paraglider("watch --needed").0, 1);
    lab.config(&follows("dsl:4444", ""));
    lab.ok("watch --needed");
    // Beside a frontend that has nothing to do with it, and loses no connection.
    let both = format!("frontends:\n- {{bind: '{BIND}', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}}\n");
    lab.config(&format!("{both}- {{name: web, bind: 'dsl:4444', backends: ['10.2.0.12:80']}}\n"));
    let since = Instant::now();
    let watch = Watch::begin(lab);
    watch.hears(since, "INFO  [paraglider] dsl:4444 waits: the interface dsl has no IPv4 address (yet)");
    let clients = Clients::begin("client", BIND, 1, Duration::from_millis(10));
    for n in 1..=5 {
        let since = Instant::now();
        sh(&format!("ip addr flush dev dsl && ip addr add 10.9.0.{n}7/32 dev dsl"));
        watch.hears(since, &format!("dsl has the address 10.9.0.{n}7 now"));
        until("the rules follow", || lab.paraglider("status").0 == 0);
        assert_eq!(ask_often("client", &format!("10.9.0.{n}7:4444"), 1).into_keys().next().unwrap(), "b2 10.2.0.1");
    }
    let attempts = clients.end();
    assert!(attempts.len() > 20 && failed(&attempts).is_empty(), "{:?}", failed(&attempts));
    assert!(lab.ok("status").contains("\n10.9.0.57:4444 (web, follows dsl)\n"));
    // A new config that follows nothing.
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    until("it is taken", || lab.paraglider("status").0 == 0);
    assert_eq!(ask_often("client", "10.9.0.57:4444", 1), answers(&[("ConnectionRefused", 1)]));
});

on_all!(of_ipv6_the_address_that_lasts_is_taken, |lab| {
    needs_ipv6();
    ["b1", "b2", "b3"].into_iter().for_each(|host| serve(host, 80));
    dsl();
    lab.config(&follows("[dsl]:4444", ""));
    let watch = Watch::begin(lab);
    assert!(lab.ok("status").contains("[dsl]:4444 waits: the interface dsl has no IPv6 address (yet)"));
    let since = Instant::now();
    sh("ip -6 addr add fd09::7/128 dev dsl nodad");
    watch.hears(since, "dsl has the address fd09::7 now");
    until("the rules follow", || lab.ok("status").contains("[fd09::7]:4444 (dsl-4444-v6, follows dsl)"));
    assert_eq!(shares("[fd09::7]:4444", 6).into_values().collect::<Vec<_>>(), [2, 2, 2]);
    // A second one changes nothing; the first one that is about to go hands over to it.
    let since = Instant::now();
    sh("ip -6 addr add fd09::8/128 dev dsl nodad");
    std::thread::sleep(Duration::from_millis(500));
    sh("ip -6 addr change fd09::7/128 dev dsl preferred_lft 0");
    watch.hears(since, "dsl has the address fd09::8 now");
    until("the rules follow", || lab.ok("status").contains("[fd09::8]:4444 (dsl-4444-v6"));
    assert_eq!(shares("[fd09::8]:4444", 6).into_values().collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(watch.lines(since, "has the address").len(), 1, "{}", watch.text());
});

on_all!(what_its_address_contradicts_waits, |lab| {
    ["b1", "b2", "b3"].into_iter().for_each(|host| serve(host, 80));
    dsl();
    sh("ip addr add 10.9.0.7/32 dev dsl");
    lab.config(
        "frontends:\n- {name: a, bind: 'dsl:4444', backends: ['10.2.0.11:80']}\n\
         - {name: b, bind: '10.9.0.7:4444', backends: ['10.2.0.12:80']}\n\
         - {name: c, bind: 'dsl:80', backends: ['10.9.0.7:80', '10.2.0.11:80']}\n\
         - {name: d, bind: 'dsl:443', backends: ['10.2.0.13:80']}\n",
    );
    let (code, _, said) = lab.paraglider("start");
    for why in [
        "dsl:4444 waits: 10.9.0.7:4444 is the bind of another frontend",
        "dsl:80 waits: 10.9.0.7:80 is also a backend of this frontend",
    ] {
        assert!(code == 0 && said.contains(why) && lab.ok("status").contains(why), "{said}");
    }
    assert_eq!(shares("10.9.0.7:4444", 2), [("b2".to_owned(), 2)].into());
    assert_eq!(shares("10.9.0.7:443", 2), [("b3".to_owned(), 2)].into());
    // All rules go where all that is left waits.
    lab.config(&follows("nowhere:80", ""));
    lab.ok("start");
    assert_eq!(lab.ours(), [""; 0]);
    assert_eq!(lab.paraglider("status").0, 0);
});

on_all!(an_address_that_moves_to_another_interface_changes_the_frontend, |lab| {
    ["b1", "b2"].into_iter().for_each(|host| serve(host, 80));
    sh("ip link add d0 type bridge && ip link set d0 up && ip link add d1 type bridge && ip link set d1 up");
    sh("ip addr add 10.9.0.5/32 dev d0");
    lab.config(
        "frontends:\n- {name: one, bind: 'd0:4444', backends: ['10.2.0.11:80']}\n\
         - {name: two, bind: 'd1:4444', backends: ['10.2.0.12:80']}\n",
    );
    let watch = Watch::begin(lab);
    assert_eq!(shares("10.9.0.5:4444", 1), [("b1".to_owned(), 1)].into());
    // Within one look.
    sh("printf 'addr del 10.9.0.5/32 dev d0\\naddr add 10.9.0.5/32 dev d1\\n' | ip -batch -");
    until("the rules follow", || lab.paraglider("status").0 == 0);
    assert_eq!(shares("10.9.0.5:4444", 2), [("b2".to_owned(), 2)].into());
    assert!(lab.ok("status").contains("\n10.9.0.5:4444 (two, follows d1)\n"), "{}", lab.ok("status"));
    lab.ok("start");
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(shares("10.9.0.5:4444", 2), [("b2".to_owned(), 2)].into(), "{}", watch.text());
});

on_all!(an_address_that_changes_while_a_watch_rests_is_right_from_the_start_on, |lab| {
    ["b1", "b2", "b3"].into_iter().for_each(|host| serve(host, 80));
    dsl();
    sh("ip addr add 10.9.0.7/32 dev dsl");
    lab.config(&follows("dsl:4444", ""));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    lab.ok("stop");
    watch.hears(since, "the rules were stopped");
    sh("ip addr add 10.9.0.8/32 dev dsl && ip addr del 10.9.0.7/32 dev dsl");
    lab.ok("start");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        shares("10.9.0.8:4444", 10);
    }
});

on_all!(what_is_dropped_with_the_removed_is_not_what_only_moved, |lab| {
    ["b1", "b2", "b3"].into_iter().for_each(|host| serve(host, 80));
    dsl();
    sh("ip addr add 10.9.0.7/32 dev dsl");
    lab.config(&follows("dsl:4444", ""));
    lab.ok("start");
    let held = inside("client", || Held::open("10.9.0.7:4444".parse().unwrap()).unwrap()).join().unwrap();
    held.ask().unwrap();
    sh("ip addr add 10.9.0.8/32 dev dsl && ip addr del 10.9.0.7/32 dev dsl");
    let (code, _, said) = lab.paraglider("reload --drop-removed");
    assert!(code == 0 && said.contains("ended 0 connections"), "{said}");
    held.ask().unwrap();
});

on_all!(many_frontends_of_one_interface_are_one_line, |lab| {
    dsl();
    sh("ip addr add 10.9.0.7/32 dev dsl");
    let one = |n: usize| format!("- {{bind: 'dsl:{}', backends: ['10.2.0.11:80']}}\n", 5000 + n);
    lab.config(&format!("frontends:\n{}", (0..50).map(one).collect::<String>()));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    sh("ip addr add 10.9.0.8/32 dev dsl && ip addr del 10.9.0.7/32 dev dsl");
    until("the rules follow", || lab.paraglider("status").0 == 0);
    let said = watch.lines(since, "10.9.0.");
    assert_eq!(said.len(), 1, "{said:?}");
});
