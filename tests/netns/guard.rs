//! While `watch` runs, the rules stay those of the config, whatever others do to them; and what is others' stays theirs.

use std::fs;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::failure::wrap;
use crate::health::{checked, QUICK};
use crate::lab::{ask_often, sh, Lab, Variant};
use crate::watching::{shares, until, Watch, Writes};
use crate::{answers, on_all, BIND};

/// Within this time it has to be right again.
const PROMISE: Duration = Duration::from_secs(5);

/// How often `iptables-save` was called since [`count_reads`].
fn reads(lab: &Lab) -> usize {
    fs::read_to_string(lab.path("reads")).unwrap_or_default().lines().count()
}

fn count_reads(lab: &Lab) {
    if lab.variant != Variant::Netlink {
        wrap(lab, "save", "echo >>$DIR/reads\nexec $REAL \"$@\"");
    }
}

/// Does a damage and waits until `status` has nothing to complain about any more.
fn damage(lab: &Lab, writes: &Writes, change: &str) {
    let before = writes.number();
    sh(change);
    let took = until(&format!("right again after {change}"), || lab.paraglider("status").0 == 0);
    assert!(took < PROMISE, "{change}: {took:?}");
    assert!(writes.number() > before, "{change} did no damage");
}

/// The lines of others.
fn foreign(lab: &Lab) -> Vec<String> {
    let ours = lab.ours();
    let lines = lab.saved(false).lines().map(str::to_owned).collect::<Vec<_>>();
    lines.into_iter().filter(|line| !ours.contains(line)).collect()
}

on_all!(rules_that_others_removed_come_back, |lab| {
    let _three = Backend::three();
    lab.balance(&[1, 2, 3]);
    // Without `health:` there is nothing to check, but it is guarded all the same.
    let watch = Watch::begin(lab);
    let writes = Writes::begin(lab);
    sh("iptables -t mangle -A FORWARD -p tcp -j ACCEPT && iptables -A INPUT -p udp -m udp --dport 9 -j DROP");
    let others = foreign(lab);
    let changes = match lab.variant {
        Variant::Netlink => ["nft delete table inet paraglider", "nft flush table inet paraglider"],
        _ => [
            "iptables -t nat -F && iptables -t nat -X",
            "iptables -F FORWARD && iptables -t nat -D OUTPUT -p tcp -j PARAGLIDER",
        ],
    };
    for change in changes {
        damage(lab, &writes, change);
        assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10], "{change}");
        assert_eq!(foreign(lab), others, "{change}");
    }
    assert!(!watch.text().contains("ERROR"), "{}", watch.text());
});

/// The command by which nft makes the rule of ours that ends in `right` end in `wrong`.
fn instead(right: &str, wrong: &str) -> String {
    let listing = sh("nft -a -s list table inet paraglider");
    let mut chain = "";
    for line in listing.lines().map(str::trim) {
        chain = line.strip_prefix("chain ").map_or(chain, |rest| rest.split(' ').next().unwrap());
        if let Some((rule, handle)) = line.split_once(" # handle ") {
            if let Some(rest) = rule.strip_suffix(right) {
                return format!("nft replace rule inet paraglider {chain} handle {handle} '{rest}{wrong}'");
            }
        }
    }
    panic!("no rule ends in `{right}`: {listing}");
}

on_all!(a_rule_that_others_changed_is_put_right, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let _watch = Watch::begin(lab);
    let writes = Writes::begin(lab);
    if lab.variant == Variant::Netlink {
        for (right, wrong) in
            [("dnat ip to 10.2.0.12:80", "dnat ip to 10.2.0.99:80"), ("snat ip to 10.2.0.1", "snat ip to 10.2.0.99")]
        {
            damage(lab, &writes, &instead(right, wrong));
            assert!(!lab.ours().iter().any(|line| line.contains(wrong)), "{:?}", lab.ours());
        }
        return assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
    }
    // Of the very same length: the size of the table says nothing.
    let (chain, wrong) = ("'PG-10.9.0.1:4444/0'", "10.2.0.99:80");
    let rules = sh(&format!("iptables -t nat -S {chain}"));
    let at = rules.lines().skip(1).position(|line| line.contains("10.2.0.12:80")).unwrap() + 1;
    let rule = rules.lines().nth(at).unwrap().splitn(3, ' ').nth(2).unwrap().replace("10.2.0.12:80", wrong);
    damage(lab, &writes, &format!("iptables -t nat -R {chain} {at} {rule}"));
    assert!(!lab.ours().iter().any(|line| line.contains(wrong)), "{:?}", lab.ours());

    let rule = sh("iptables -S PARAGLIDER-FWD 1").trim().replace("-j ACCEPT", "-j DROP");
    damage(lab, &writes, &format!("iptables {}", rule.replacen("-A PARAGLIDER-FWD", "-R PARAGLIDER-FWD 1", 1)));
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
});

on_all!(forwarding_comes_back_and_a_foreign_rule_stays_where_it_is, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let writes = Writes::begin(lab);
    let watch = Watch::begin(lab);
    let before = writes.number();
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
    assert_eq!(writes.number(), before, "{}", watch.text());
    assert_eq!(shares(BIND, 3).len(), 3);
});

on_all!(rules_in_force_are_left_alone, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    lab.ok("start");
    let writes = Writes::begin(lab);
    let before = lab.saved(false);
    assert_eq!(ask_often("client", BIND, 1), answers(&[("b1 10.2.0.1", 1)]));
    let begin = Instant::now();
    let watch = Watch::begin(lab);
    count_reads(lab);
    until("it has looked once", || begin.elapsed() > Duration::from_millis(2500));
    let before_look = reads(lab);
    until("it has looked once more", || begin.elapsed() > Duration::from_millis(4600));
    assert_eq!(reads(lab), before_look, "a look is a system call, not a program: {}", watch.text());
    assert_eq!(lab.saved(false), before);
    assert_eq!(writes.number(), 0, "{}", watch.text());
    // So whose turn it is has not changed.
    assert_eq!(ask_often("client", BIND, 1), answers(&[("b2 10.2.0.1", 1)]));
});
