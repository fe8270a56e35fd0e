//! Addresses of the config that leave this host while a watch runs, or come back.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::health::{checked, QUICK};
use crate::lab::{sh, Lab, Variant};
use crate::watching::{shares, until, Watch};
use crate::{on_all, BIND};

/// Two looks.
const LOOKS: Duration = Duration::from_millis(4500);

/// What was said of addresses.
fn said(watch: &Watch) -> Vec<String> {
    let all = watch.lines(Instant::now() - Duration::from_secs(3600), "address of this host");
    all.into_iter().map(|(_, line)| line.replace(" [paraglider]", "")).collect()
}

on_all!(an_address_that_goes_and_comes_back_is_told_of_once_each, |lab| {
    let _three = Backend::three();
    // The provider gives another address; keepalived takes privateip away; binding to any address is allowed, as for many a
    // proxy.
    sh("sysctl -qw net.ipv4.ip_nonlocal_bind=1 && ip addr add 10.9.0.7/32 dev wan && ip addr add 10.2.0.7/24 dev lan");
    let config = checked(QUICK, &[1, 2, 3]).replace("privateip: 10.2.0.1", "privateip: 10.2.0.7");
    lab.config(&config.replace(BIND, "10.9.0.7:4444"));
    let watch = Watch::begin(lab);
    assert!(!lab.ok("status").contains("address"), "{}", lab.ok("status"));
    for (ip, device, loses) in [
        ("10.9.0.7", "wan", "connections to 10.9.0.7:4444 arrive only if they are routed here"),
        ("10.2.0.7", "lan", "backends of 10.9.0.7:4444 cannot answer it"),
    ] {
        let mask = if device == "wan" { 32 } else { 24 };
        let since = Instant::now();
        sh(&format!("ip addr del {ip}/{mask} dev {device}"));
        watch.hears(since, &format!("{ip} is no longer an address of this host: {loses}"));
        let text = lab.ok("status");
        assert!(text.contains(&format!("\n10.9.0.7:4444: {ip} is not an address of this host\n")), "{text}");
        assert!(lab.ok("status --json").contains(&format!("\"absent\":[\"{ip}\"]")));
        sleep(LOOKS);
        assert_eq!(watch.lines(since, "address of this host").len(), 1, "{}", watch.text());
        sh(&format!("ip addr add {ip}/{mask} dev {device}"));
        watch.hears(since, &format!("{ip} is an address of this host now"));
        assert!(!lab.ok("status").contains("address"));
    }
    assert_eq!(shares("10.9.0.7:4444", 6).into_values().collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(said(&watch).iter().filter(|line| line.starts_with("WARN")).count(), 2, "{:?}", said(&watch));
});

on_all!(an_interface_that_goes_takes_its_addresses_along, |lab| {
    let _three = Backend::three();
    sh("ip link add dsl type bridge && ip link set dsl up && ip addr add 10.9.0.7/32 dev dsl");
    sh("ip -6 addr add fd01::7/64 dev wan nodad");
    lab.config(
        "frontends:\n  - {bind: '10.9.0.7:4444', backends: ['10.2.0.11:80']}\n  \
         - {bind: '[fd01::7]:4444', backends: ['[fd02::11]:80']}\n",
    );
    let watch = Watch::begin(lab);
    let since = Instant::now();
    // Of an interface that is down, addresses of IPv4 are still this host's, those of IPv6 are not.
    sh("ip link set wan down && ip link del dsl");
    watch.hears(since, "10.9.0.7 is no longer an address of this host");
    watch.hears(since, "fd01::7 is no longer an address of this host");
    let text = lab.ok("status");
    assert!(
        text.contains("\n10.9.0.7:4444: 10.9.0.7 is not an") && text.contains("]:4444: fd01::7 is not an"),
        "{text}"
    );
    sh("ip link add dsl type bridge && ip link set dsl up && ip addr add 10.9.0.7/32 dev dsl && ip link set wan up");
    watch.hears(since, "10.9.0.7 is an address of this host now");
    // Another host has taken the other one meanwhile: it stays tentative, and is not there.
    sh("ip -n client -6 addr add fd01::7/64 dev eth0 nodad && sysctl -qw net.ipv6.conf.wan.accept_dad=1");
    sh("ip -6 addr add fd01::7/64 dev wan");
    until("it is found twice", || sh("ip -6 addr show dev wan").contains("dadfailed"));
    sleep(LOOKS);
    assert!(watch.lines(since, "fd01::7 is an address").is_empty(), "{}", watch.text());
    sh("ip -6 addr del fd01::7/64 dev wan && ip -n client -6 addr del fd01::7/64 dev eth0");
    sh("ip -6 addr add fd01::7/64 dev wan nodad preferred_lft 0");
    watch.hears(since, "fd01::7 is an address of this host now");
});

on_all!(an_address_that_was_never_here_or_moves_is_not_told_of, |lab| {
    let _three = Backend::three();
    sh("ip addr del 10.9.0.1/32 dev lo && ip addr add 10.2.0.7/32 dev lo");
    lab.config(&checked(QUICK, &[1, 2, 3]).replace("privateip: 10.2.0.1", "privateip: 10.2.0.7"));
    let watch = Watch::begin(lab);
    assert!(lab.ok("status").contains("\n10.9.0.1:4444: 10.9.0.1 is not an address of this host\n"));
    sleep(LOOKS);
    sh("ip addr add 10.2.0.7/24 dev lan && ip addr del 10.2.0.7/32 dev lo");
    sleep(LOOKS);
    assert_eq!(said(&watch), [""; 0]);
    // A backup box of keepalived's that takes over, and back.
    let since = Instant::now();
    sh("ip addr add 10.9.0.1/32 dev lo");
    watch.hears(since, "10.9.0.1 is an address of this host now");
    sh("ip addr del 10.9.0.1/32 dev lo");
    watch.hears(since, "10.9.0.1 is no longer an address of this host");
    // Nobody is told while nothing is in force.
    lab.ok("stop");
    sh("ip addr add 10.9.0.1/32 dev lo");
    sleep(LOOKS);
    assert_eq!(said(&watch).len(), 2, "{:?}", said(&watch));
});

on_all!(an_interface_that_no_longer_forwards_is_told_of, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    for name in ["wan", "lan"] {
        let since = Instant::now();
        sh(&format!("sysctl -qw net.ipv4.conf.{name}.forwarding=0"));
        let switch = format!("net.ipv4.conf.{name}.forwarding=1");
        watch.hears(since, &format!("packets that come in at {name} are no longer forwarded; {switch} switches it on"));
        sh(&format!("sysctl -qw {switch}"));
        watch.hears(since, &format!("packets that come in at {name} are forwarded again"));
    }
    // The switch for all is put back, and is another matter.
    let since = Instant::now();
    sh("sysctl -qw net.ipv4.ip_forward=0");
    watch.hears(since, "switched it on");
    sleep(LOOKS);
    assert!(watch.lines(since, "packets that come in").is_empty(), "{}", watch.text());
});
