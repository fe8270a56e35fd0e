//! While `watch` runs, the rules stay those of the config, whatever others do to them; and what is others' stays theirs.

use std::fs;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::failure::wrap;
use crate::health::{checked, QUICK};
use crate::lab::{ask_often, sh, Lab, Variant};
use crate::watching::{shares, until, Watch};
use crate::{answers, on_both, BIND};

/// Within this time it has to be right again.
const PROMISE: Duration = Duration::from_secs(5);

/// How often `iptables-restore` or `iptables-save` was called since [`count_calls`].
fn calls(lab: &Lab, verb: &str) -> usize {
    fs::read_to_string(lab.path(verb)).unwrap_or_default().lines().count()
}

fn count_calls(lab: &Lab, verb: &str) {
    wrap(lab, verb, &format!("echo >>$DIR/{verb}\nexec $REAL \"$@\""));
}

/// Does a damage and waits until `status` has nothing to complain about any more.
fn damage(lab: &Lab, change: &str) {
    let before = calls(lab, "restore");
    sh(change);
    let took = until(&format!("right again after {change}"), || lab.paraglider("status").0 == 0);
    assert!(took < PROMISE, "{change}: {took:?}");
    assert!(calls(lab, "restore") > before, "{change} did no damage");
}

/// The lines of others.
fn foreign(lab: &Lab) -> Vec<String> {
    let ours = lab.ours();
    let lines = lab.saved(false).lines().map(str::to_owned).collect::<Vec<_>>();
    lines.into_iter().filter(|line| !ours.contains(line)).collect()
}

on_both!(rules_that_others_removed_come_back, |lab| {
    let _three = Backend::three();
    lab.balance(&[1, 2, 3]);
    // Without `health:` there is nothing to check, but it is guarded all the same.
    let watch = Watch::begin(lab);
    count_calls(lab, "restore");
    sh("iptables -t mangle -A FORWARD -p tcp -j ACCEPT && iptables -A INPUT -p udp -m udp --dport 9 -j DROP");
    let others = foreign(lab);
    for change in [
        "iptables -t nat -F && iptables -t nat -X",
        "iptables -F FORWARD && iptables -t nat -D OUTPUT -p tcp -j PARAGLIDER",
    ] {
        damage(lab, change);
        assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10], "{change}");
        assert_eq!(foreign(lab), others, "{change}");
    }
    assert!(!watch.text().contains("ERROR"), "{}", watch.text());
});

on_both!(a_rule_that_others_changed_is_put_right, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let _watch = Watch::begin(lab);
    count_calls(lab, "restore");
    // Of the very same length: the size of the table says nothing.
    let (chain, wrong) = ("'PG-10.9.0.1:4444/0'", "10.2.0.99:80");
    let rules = sh(&format!("iptables -t nat -S {chain}"));
    let at = rules.lines().skip(1).position(|line| line.contains("10.2.0.12:80")).unwrap() + 1;
    let rule = rules.lines().nth(at).unwrap().splitn(3, ' ').nth(2).unwrap().replace("10.2.0.12:80", wrong);
    damage(lab, &format!("iptables -t nat -R {chain} {at} {rule}"));
    assert!(!lab.ours().iter().any(|line| line.contains(wrong)), "{:?}", lab.ours());

    let rule = sh("iptables -S PARAGLIDER-FWD 1").trim().replace("-j ACCEPT", "-j DROP");
    damage(lab, &format!("iptables {}", rule.replacen("-A PARAGLIDER-FWD", "-R PARAGLIDER-FWD 1", 1)));
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
});

on_both!(forwarding_comes_back_and_a_foreign_rule_stays_where_it_is, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    count_calls(lab, "restore");
    let watch = Watch::begin(lab);
    let before = calls(lab, "restore");
    assert!(before > 0);
    sh("iptables -I FORWARD -p udp -j ACCEPT && iptables -t nat -I PREROUTING -s 198.51.100.1/32 -j RETURN");
    let rules = lab.saved(false);
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let is_on = || fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap() == "1\n";
    let took = until("forwarding is on again", is_on);
    assert!(took < PROMISE, "{took:?}");
    // Which comes last; but let it end.
    let since = Instant::now();
    until("this look is over", || since.elapsed() > Duration::from_millis(300));
    // A rule before ours may be there for a reason.
    assert_eq!(lab.saved(false), rules);
    assert_eq!(calls(lab, "restore"), before, "{}", watch.text());
    assert_eq!(shares(BIND, 3).len(), 3);
});

on_both!(rules_in_force_are_left_alone, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    lab.ok("start");
    count_calls(lab, "restore");
    let before = lab.saved(false);
    assert_eq!(ask_often("client", BIND, 1), answers(&[("b1 10.2.0.1", 1)]));
    let begin = Instant::now();
    let watch = Watch::begin(lab);
    count_calls(lab, "save");
    until("it has looked once", || begin.elapsed() > Duration::from_millis(2500));
    let reads = calls(lab, "save");
    until("it has looked once more", || begin.elapsed() > Duration::from_millis(4600));
    assert_eq!(calls(lab, "save"), reads, "a look is a system call, not a program: {}", watch.text());
    assert_eq!(lab.saved(false), before);
    assert_eq!(calls(lab, "restore"), 0, "{}", watch.text());
    // So whose turn it is has not changed.
    assert_eq!(ask_often("client", BIND, 1), answers(&[("b2 10.2.0.1", 1)]));
});
