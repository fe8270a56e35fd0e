//! What `start` changes besides rules when it lets the host forward: what the host has from router advertisements stays,
//! and what is open from then on is said. And what a start drops is named.

use std::fs;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::SockaddrIn6;
use nix::sys::socket::{
    sendto, setsockopt, socket, sockopt, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType,
};

use crate::lab::{ask_often, inside, needs_ipv6, serve, sh, Held, Lab, Variant};
use crate::watching::{until, Watch};
use crate::{answers, on_all, BIND};

const SIX: &str = "frontend: {bind: '[fd09::1]:4444', backends: ['[fd02::11]:80']}";

/// Removes the address and the network that came by advertisement.
const NOTHING_LEFT: &str = "ip -6 addr flush dev wan scope global dynamic && ip -6 route del 2001:db8:1::/64 dev wan";

/// One router advertisement from a host's eth0 (RFC 4861, 4.2): a default route for half an hour, and addresses in
/// 2001:db8:1::/64.
fn advertise(host: &str) {
    let mut packet = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    packet.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
    packet.extend("2001:db8:1::".parse::<Ipv6Addr>().unwrap().octets());
    let work = move || {
        let socket = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::IcmpV6).unwrap();
        // Others are not believed.
        setsockopt(&socket, sockopt::Ipv6MulticastHops, &255).unwrap();
        let link = nix::net::if_::if_nametoindex("eth0").unwrap();
        let all = SockaddrIn6::from(SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, link));
        // The host may still look whether another one has its address (RFC 4862, 5.4).
        let _ = sendto(socket.as_raw_fd(), &packet, &all, MsgFlags::empty());
    };
    inside(host, work).join().unwrap();
}

fn advertised_route() -> String {
    sh("ip -6 route show default proto ra dev wan")
}

/// The client advertises itself as a router, and the balancer believes it.
fn by_advertisement() {
    needs_ipv6();
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv6/conf/wan/accept_ra").unwrap(), "1\n");
    until("the route is there", || {
        advertise("client");
        std::thread::sleep(Duration::from_millis(100));
        !advertised_route().is_empty()
    });
}

fn accept_ra(interface: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra")).unwrap().trim().to_owned()
}

on_all!(a_default_route_by_router_advertisement_stays, |lab| {
    by_advertisement();
    lab.config(SIX);
    let out = lab.ok("check");
    assert!(out.contains("warning  net.ipv6.conf.wan.accept_ra: it is 1; `start` sets it to 2"), "{out}");
    let (code, _, err) = lab.paraglider("start");
    let line = err.lines().find(|line| line.contains("set to 2, so that router advertisements are heard")).unwrap();
    assert!(
        code == 0 && line.contains("net.ipv6.conf.wan.accept_ra") && line.contains("net.ipv6.conf.default.accept_ra"),
        "{err}"
    );
    assert!(!advertised_route().is_empty());
    // It is not only kept, but heard again.
    sh("ip -6 route del default proto ra dev wan");
    by_hand_until_it_is_back();
    // Only there: nothing came by the other.
    assert_eq!((accept_ra("wan"), accept_ra("lan")), ("2".to_owned(), "1".to_owned()));
    let out = lab.ok("check");
    assert!(!out.contains("accept_ra"), "{out}");
    lab.ok("stop");
    assert!(!advertised_route().is_empty());
});

fn by_hand_until_it_is_back() {
    until("the route is back", || {
        advertise("client");
        std::thread::sleep(Duration::from_millis(100));
        !advertised_route().is_empty()
    });
}

on_all!(a_default_route_that_has_not_come_yet_can_come_after_start, |lab| {
    needs_ipv6();
    lab.config(SIX);
    lab.ok("start");
    assert_eq!(accept_ra("wan"), "2");
    by_hand_until_it_is_back();
    // Another interface is made anew, as by a new PPP session.
    sh("ip link add later type bridge && ip link set later up");
    assert_eq!(accept_ra("later"), "2");
    // A host that has its route from elsewhere keeps its settings.
    sh("sysctl -qw net.ipv6.conf.all.forwarding=0 net.ipv6.conf.wan.accept_ra=1 net.ipv6.conf.default.accept_ra=1");
    sh(NOTHING_LEFT);
    sh("ip -6 route flush proto ra && ip -6 route add default via fd01::2");
    let (code, _, err) = lab.paraglider("start");
    assert!(
        code == 0 && err.contains("IPv6 forwarding was off; switched it on") && !err.contains("accept_ra"),
        "{err}"
    );
    assert_eq!((accept_ra("wan"), accept_ra("default")), ("1".to_owned(), "1".to_owned()));
});

on_all!(a_route_that_cannot_be_kept_is_a_refusal, |lab| {
    by_advertisement();
    lab.config(SIX);
    sh("mount --bind /proc/sys/net/ipv6/conf/wan/accept_ra /proc/sys/net/ipv6/conf/wan/accept_ra && \
        mount -o remount,bind,ro /proc/sys/net/ipv6/conf/wan/accept_ra");
    let (code, out, _) = lab.paraglider("check");
    assert!(code == 1 && out.contains("error    net.ipv6.conf.wan.accept_ra: it is 1 and cannot be written"), "{out}");
    let (code, _, err) = lab.paraglider("start");
    assert!(code == 1 && err.contains("set net.ipv6.conf.wan.accept_ra=2 from outside"), "{err}");
    assert!(!advertised_route().is_empty() && lab.ours().is_empty());
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap(), "0\n");
});

on_all!(check_finds_that_advertisements_are_ignored, |lab| {
    by_advertisement();
    lab.config(SIX);
    // As others do it, and what was there is gone but for the address.
    sh("sysctl -qw net.ipv6.conf.all.forwarding=1");
    assert_eq!(advertised_route(), "");
    let warning =
        "warning  net.ipv6.conf.wan.accept_ra: it is 1, and a host that forwards ignores router advertisements";
    let out = lab.ok("check");
    assert!(out.contains(warning) && out.contains("sysctl -w net.ipv6.conf.wan.accept_ra=2"), "{out}");
    // Nothing is left of it; but one arrives.
    sh(NOTHING_LEFT);
    advertise("client");
    assert!(lab.ok("check").contains(warning));
    // A program of the host's takes them, or they are not needed.
    sh("sysctl -qw net.ipv6.conf.wan.accept_ra=0");
    let out = lab.ok("check");
    assert!(!out.contains("accept_ra"), "{out}");
    sh("sysctl -qw net.ipv6.conf.wan.accept_ra=1 && ip -6 route add default via fd01::2");
    let out = lab.ok("check");
    assert!(!out.contains("accept_ra"), "{out}");
});

/// How a host that forwards all is closed without what is balanced.
fn remedy(lab: &Lab, iptables: &str) -> String {
    match lab.variant {
        Variant::Netlink => "drop in a forward chain of nftables what is not `ct status dnat`".to_owned(),
        _ => format!("{iptables} -P FORWARD DROP"),
    }
}

on_all!(what_forwarding_opens_is_said, |lab| {
    serve("b2", 22);
    lab.balance(&[1]);
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let opens = "forwards between all its interfaces whatever no rule drops";
    let out = lab.ok("check");
    let told = remedy(lab, "iptables");
    let close = match lab.variant {
        Variant::Netlink => {
            "nft 'add table inet other; add chain inet other f { type filter hook forward priority 0; policy drop; }; \
             add rule inet other f ct status dnat accept'"
        }
        _ => "iptables -P FORWARD DROP",
    };
    assert!(out.contains(opens) && out.contains(&told), "{out}");
    let (_, _, err) = lab.paraglider("start");
    assert!(err.contains(&format!("IPv4: this host {opens}")) && err.contains(&told), "{err}");
    // The backends need no route back to the client for this story; the client can reach them directly.
    sh("ip -n b2 route add default via 10.2.0.1");
    assert_eq!(ask_often("client", "10.2.0.12:22", 1), answers(&[("b2 10.1.0.2", 1)]));
    let (_, _, err) = lab.paraglider("stop");
    assert!(err.contains("IPv4 forwarding stays on (net.ipv4.ip_forward=1)"), "{err}");
    // The rule that was named closes it, and what is balanced goes on.
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    sh(close);
    let out = lab.ok("check");
    assert!(out.contains("forwarding is off; `start` switches it on") && !out.contains(opens), "{out}");
    let (_, _, err) = lab.paraglider("start");
    assert!(err.contains("switched it on") && !err.contains(opens), "{err}");
    serve("b1", 80);
    assert_eq!(ask_often("client", BIND, 1), answers(&[("b1 10.2.0.1", 1)]));
    let (_, _, err) = lab.paraglider("stop");
    assert!(!err.contains("stays on"), "{err}");
});

on_all!(what_others_close_is_not_called_open, |lab| {
    // firewalld and firewall4 close it in a table of their own; an accept of what is balanced opens nothing.
    lab.balance(&[1]);
    for closed in [
        "policy drop; }; add rule inet other forward ct status dnat accept",
        "}; add rule inet other forward ct state established,related accept; add rule inet other forward ct status dnat accept; \
         add rule inet other forward counter reject",
    ] {
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        sh(&format!("nft 'add table inet other; add chain inet other forward {{ type filter hook forward priority 0; {closed}'"));
        assert!(!lab.ok("check").contains("forwards between all"), "{closed}");
        let (_, _, err) = lab.paraglider("start");
        assert!(err.contains("switched it on") && !err.contains("forwards between all"), "{closed}: {err}");
        let (_, _, err) = lab.paraglider("stop");
        assert!(err.contains("removed all rules") && !err.contains("stays on"), "{closed}: {err}");
        sh("nft delete table inet other");
    }
    // A table in which something is dropped closes nothing else.
    sh("nft 'add table inet other; add chain inet other forward { type filter hook forward priority 0; }; \
        add rule inet other forward ip saddr 198.51.100.1 drop'");
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let (_, _, err) = lab.paraglider("start");
    assert!(err.contains("forwards between all"), "{err}");
});

on_all!(what_forwarding_opens_is_said_of_ipv6_too, |lab| {
    lab.config(SIX);
    let (_, _, err) = lab.paraglider("start");
    assert!(err.contains("IPv6: this host forwards") && err.contains(&remedy(lab, "ip6tables")), "{err}");
    assert!(!err.contains("IPv4: this host forwards"), "{err}");
    // Where nothing is switched on, nothing is said; but also without a change of rules.
    let (_, _, err) = lab.paraglider("start");
    assert!(!err.contains("this host forwards"), "{err}");
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "0").unwrap();
    let (_, _, err) = lab.paraglider("start");
    assert!(err.contains("already in force") && err.contains("IPv6: this host forwards"), "{err}");
});

on_all!(a_frontend_that_is_dropped_is_named, |lab| {
    let list = |binds: &[&str]| {
        let one = |bind: &&str| format!("  - {{{bind}, backends: ['10.2.0.11:80', '10.2.0.12:80']}}\n");
        lab.config(&format!("frontends:\n{}", binds.iter().map(one).collect::<String>()));
    };
    list(&["bind: '10.9.0.1:4444'", "bind: '10.9.0.1:5555'", "bind: '10.9.0.1:6666', name: six"]);
    let (_, _, err) = lab.paraglider("start");
    assert!(!err.contains("no longer"), "{err}");
    // Another name, another port, another file: only what is not a bind any more is dropped.
    list(&["bind: '10.9.0.1:4444', name: web", "bind: '10.9.0.1:7777', name: six"]);
    for verb in ["reload", "start"] {
        let (_, _, err) = lab.paraglider(verb);
        let named: Vec<&str> = err.lines().filter(|line| line.contains("no longer balanced")).collect();
        match verb {
            "reload" => assert!(
                named.len() == 2 && named[0].contains("10.9.0.1:5555 is") && named[1].contains("10.9.0.1:6666 is"),
                "{err}"
            ),
            _ => assert!(named.is_empty(), "{err}"),
        }
    }
    let watch = Watch::begin(lab);
    list(&["bind: '10.9.0.1:4444', name: web"]);
    let since = std::time::Instant::now();
    watch.signal(nix::sys::signal::Signal::SIGHUP);
    watch.hears(since, "10.9.0.1:7777 is no longer balanced");
});

on_all!(connections_to_a_backend_that_is_dropped_are_counted, |lab| {
    serve("b1", 80);
    serve("b2", 80);
    lab.balance(&[1, 2]);
    lab.ok("start");
    let held = inside("client", || [(); 2].map(|()| Held::open(BIND.parse().unwrap()).unwrap())).join().unwrap();
    assert!(held.iter().all(|one| one.ask().is_ok()));
    lab.balance(&[1]);
    let (_, _, err) = lab.paraglider("reload");
    let says = "1 established connection to backends that are no longer in the config live on";
    assert!(err.contains(says) && !err.contains("no longer balanced"), "{err}");
    assert!(held.iter().all(|one| one.ask().is_ok()));
    let (_, _, err) = lab.paraglider("reload --drop-removed");
    assert!(err.contains("ended 1 connection to what is no longer in the config") && !err.contains("live on"), "{err}");
});
