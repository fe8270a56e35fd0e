//! From an older version, whose rules looked otherwise: nothing is lost, and nothing of them is left.
//! They were all written by iptables.

use std::fs;

use crate::lab::{inside, serve, sh, Held, Lab, Variant};
use crate::watching::{failed, shares, Clients};
use crate::{on_both, BIND};

/// The rules of 0.1 for three backends.
const OLD: &str = "*filter
:PARAGLIDER-FWD - [0:0]
-A PARAGLIDER-FWD -p tcp -m conntrack --ctstate DNAT --ctorigdst 10.9.0.1 --ctorigdstport 4444 -j ACCEPT
-I FORWARD -p tcp -j PARAGLIDER-FWD
COMMIT
*nat
:PARAGLIDER - [0:0]
:PARAGLIDER-SNAT - [0:0]
:PG-10.9.0.1:4444/0 - [0:0]
-A PARAGLIDER -d 10.9.0.1/32 -p tcp -m tcp --dport 4444 -j PG-10.9.0.1:4444/0
-A PARAGLIDER-SNAT -p tcp -m conntrack --ctstate DNAT --ctorigdst 10.9.0.1 --ctorigdstport 4444 -j SNAT --to-source 10.2.0.1
-A PG-10.9.0.1:4444/0 -p tcp -m statistic --mode nth --every 3 --packet 0 -j DNAT --to-destination 10.2.0.11:80
-A PG-10.9.0.1:4444/0 -p tcp -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.2.0.12:80
-A PG-10.9.0.1:4444/0 -p tcp -j DNAT --to-destination 10.2.0.13:80
-I PREROUTING -p tcp -j PARAGLIDER
-I OUTPUT -p tcp -j PARAGLIDER
-I POSTROUTING -p tcp -j PARAGLIDER-SNAT
COMMIT
";

fn old(lab: &Lab) {
    for host in ["b1", "b2", "b3"] {
        serve(host, 80);
    }
    sh("iptables -P FORWARD DROP; iptables -P INPUT DROP; sysctl -qw net.ipv4.ip_forward=1");
    fs::write(lab.path("old"), OLD).unwrap();
    sh(&format!("iptables-restore --noflush < {}", lab.path("old").display()));
    lab.balance(&[1, 2, 3]);
}

on_both!(a_start_over_the_rules_of_0_1_loses_nothing, |lab| {
    old(lab);
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    let at_first = held.ask().unwrap();
    let clients = Clients::begin("client", BIND, 2, std::time::Duration::from_millis(5));
    lab.ok("start");
    lab.is_in_force();
    let failures = failed(&clients.end()).len();
    assert_eq!((failures, held.ask().unwrap()), (0, at_first));
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
    assert!(!lab.ours().iter().any(|line| line.contains("FORWARD -p tcp")), "{:?}", lab.ours());
});

on_both!(a_stop_takes_the_rules_of_0_1_away, |lab| {
    old(lab);
    lab.ok("stop");
    assert_eq!(lab.ours(), [""; 0]);
});

on_both!(a_drain_over_the_rules_of_0_1_keeps_connections, |lab| {
    old(lab);
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    let at_first = held.ask().unwrap();
    let mut drain = lab.command("stop --drain 20").spawn().unwrap();
    crate::watching::until("new connections are refused", || {
        inside("client", || Held::open(BIND.parse().unwrap()).is_err()).join().unwrap()
    });
    assert_eq!(held.ask().unwrap(), at_first);
    drop(held);
    assert!(drain.wait().unwrap().success());
    assert_eq!(lab.ours(), [""; 0]);
});
