//! Checks that fail because of the way, not because of the backends: nothing is taken out, and no connection ends.

use std::io::{BufRead, BufReader, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::backend::{silence, speak, Backend};
use crate::health::{checked, hold_three, of_backends, QUICK, WINDOW};
use crate::lab::{ask_often, connect_from, inside, sh, Held, Lab, Variant};
use crate::watching::{shares, until, Watch};
use crate::{answers, on_all, BIND};

const SIX: &str = "[fd09::1]:4444";

const DARK: &str = "all backends are down";
const LIGHT: &str = "no longer all backends are down";

/// Connections that the client holds, evenly over the backends.
fn hold(to: &str, number: usize) -> Vec<Held> {
    let to: SocketAddr = to.parse().unwrap();
    let open = move || (0..number).map(|_| Held::open(to).unwrap()).collect::<Vec<_>>();
    let held = inside("client", open).join().unwrap();
    held.iter().for_each(|held| drop(held.ask().unwrap()));
    held
}

/// How many of them live.
fn living(held: &[Held]) -> usize {
    held.iter().filter(|held| held.ask().is_ok()).count()
}

/// How often a backend was said to be up or down.
fn turns(watch: &Watch, since: Instant) -> usize {
    watch.lines(since, " is up").len() + watch.lines(since, " is down").len()
}

/// Waits until the checks say so, and the rules have followed.
pub fn all_up(lab: &Lab) {
    until("all are up", || {
        let (code, out, _) = lab.paraglider("status");
        code == 0 && out.matches(" up for ").count() == 3
    });
}

/// Nothing is said of a single backend.
fn only_the_way(watch: &Watch, since: Instant) {
    assert_eq!(turns(watch, since), 0, "{}", watch.text());
}

/// Each of these cuts the checks off, and only them: held connections live, new ones go to all, and two lines are said.
fn cut_off(lab: &Lab, to: &str, cuts: &[(&str, &str, &str)]) {
    let watch = Watch::begin(lab);
    let begin = Instant::now();
    let held = hold(to, 6);
    for (why, cut, heal) in cuts {
        all_up(lab);
        let rules = lab.ours();
        let since = Instant::now();
        sh(cut);
        watch.hears(since, why);
        sleep(WINDOW * 2);
        assert_eq!(living(&held), 6, "{cut}: {}", watch.text());
        assert_eq!(shares(to, 6).into_values().collect::<Vec<_>>(), [2, 2, 2], "{cut}");
        assert_eq!(lab.ours(), rules, "{cut}");
        let since = Instant::now();
        sh(heal);
        watch.hears(since, LIGHT);
        sleep(WINDOW * 2);
        assert_eq!((living(&held), lab.ours()), (6, rules), "{cut}: {}", watch.text());
    }
    only_the_way(&watch, begin);
    assert_eq!(watch.lines(begin, "WARN").len(), cuts.len(), "{}", watch.text());
}

on_all!(checks_that_are_cut_off_take_nothing_out, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    // As on any host with a firewall.
    sh("iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    let own = "rule add pref 1 iif lo to 10.2.0.0/24";
    cut_off(
        lab,
        BIND,
        &[
            (
                "(no answer within 150 ms)",
                "iptables -A OUTPUT -p tcp -d 10.2.0.0/24 --dport 80 -m conntrack --ctstate NEW -j DROP",
                "iptables -F OUTPUT",
            ),
            (
                "(connection refused)",
                "iptables -A OUTPUT -p tcp -d 10.2.0.0/24 --dport 80 --syn -j REJECT --reject-with tcp-reset",
                "iptables -F OUTPUT",
            ),
            ("(network is unreachable)", &format!("ip {own} unreachable"), "ip rule del pref 1"),
            ("(invalid argument)", &format!("ip {own} blackhole"), "ip rule del pref 1"),
            // Backends whose firewall lets in privateip alone, where this host has another address as well.
            (
                "(no answer within 150 ms)",
                "ip addr add 10.2.0.9/24 dev lan && ip route replace 10.2.0.0/24 dev lan src 10.2.0.9 && \
                 for n in 1 2 3; do ip netns exec b$n nft 'add table inet own; add chain inet own in { type filter hook \
                 input priority 0; }; add rule inet own in ip saddr 10.2.0.9 tcp dport 80 drop'; done",
                "for n in 1 2 3; do ip netns exec b$n nft delete table inet own; done",
            ),
        ],
    );
});

on_all!(checks_of_ipv6_that_are_cut_off_take_nothing_out, |lab| {
    let _three = Backend::three();
    lab.config(&format!(
        "frontend: {{bind: '{SIX}', privateip: 'fd02::1', health: {{{QUICK}}}, backends: ['[fd02::11]:80', '[fd02::12]:80', '[fd02::13]:80']}}"
    ));
    cut_off(
        lab,
        SIX,
        &[
            (
                "(no answer within 150 ms)",
                "ip6tables -A OUTPUT -p tcp -d fd02::/64 --dport 80 --syn -j DROP",
                "ip6tables -F OUTPUT",
            ),
            (
                "(connection refused)",
                "ip6tables -A OUTPUT -p tcp -d fd02::/64 --dport 80 --syn -j REJECT --reject-with tcp-reset",
                "ip6tables -F OUTPUT",
            ),
            (
                "(network is unreachable)",
                "ip -6 rule add pref 1 iif lo to fd02::/64 unreachable",
                "ip -6 rule del pref 1",
            ),
        ],
    );
});

/// What the kernel denies to this process alone says nothing of the backends, and is told.
#[test]
fn checks_that_may_not_begin_are_told_of_and_leave_all_in_force() {
    crate::in_lab("dark::checks_that_may_not_begin_are_told_of_and_leave_all_in_force", Variant::Nft, |lab| {
        let _three = Backend::three();
        lab.config(&checked(QUICK, &[1, 2, 3]));
        let watch = Watch::begin(lab);
        let held = hold(BIND, 6);
        all_up(lab);
        let process = watch.process();
        let files = || std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
        for (why, cut, heal) in [
            (
                "Too many open files",
                format!("prlimit --pid {process} --nofile={}:64", files().min(5)),
                format!("prlimit --pid {process} --nofile=64:64"),
            ),
            (
                "Permission denied",
                "ip rule add pref 1 iif lo to 10.2.0.0/24 prohibit".to_owned(),
                "ip rule del pref 1".to_owned(),
            ),
        ] {
            let since = Instant::now();
            sh(&cut);
            watch.hears(since, &format!("{BIND}: checks cannot begin ({why}"));
            sleep(Duration::from_millis(2500));
            // Addresses that cannot be looked for are not gone.
            assert!(!watch.text().contains("address of this host"), "{}", watch.text());
            assert_eq!((living(&held), shares(BIND, 6).into_values().collect()), (6, vec![2, 2, 2]));
            let since = Instant::now();
            sh(&heal);
            watch.hears(since, "checks begin again");
            assert_eq!(watch.text().matches("cannot begin (").count(), watch.text().matches("begin again").count());
        }
        only_the_way(&watch, Instant::now() - Duration::from_secs(3600));
    });
}

/// A client that asks over one connection, and waits as long as it takes.
fn patient(from: &'static str, to: SocketAddr) -> (TcpStream, std::thread::JoinHandle<Result<TcpStream>>) {
    let (stream, other) = inside(from, move || {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let other = stream.try_clone().unwrap();
        (stream, other)
    })
    .join()
    .unwrap();
    let talk = std::thread::spawn(move || {
        let begin = Instant::now();
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        while begin.elapsed() < Duration::from_secs(22) {
            (&stream).write_all(b"?\n")?;
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            sleep(Duration::from_millis(200));
        }
        Ok(stream)
    });
    (other, talk)
}

on_all!(a_switch_that_restarts_ends_none_of_fifty_connections, |lab| {
    let _three = Backend::three();
    lab.config(&checked("interval: 1s", &[1, 2, 3]));
    let watch = Watch::begin(lab);
    // Half of them talk all the time, half of them are quiet.
    let quiet = hold(BIND, 25);
    let talking = [(); 25].map(|()| patient("client", BIND.parse().unwrap()));
    sleep(Duration::from_secs(2));
    let since = Instant::now();
    let ports = |state, ports: &[u8]| ports.iter().for_each(|n| drop(sh(&format!("ip link set v{n} {state}"))));
    ports("down", &[1, 2, 3]);
    watch.hears(since, DARK);
    sleep(Duration::from_secs(12).saturating_sub(since.elapsed()));
    // A port is up before the others.
    ports("up", &[2]);
    sleep(Duration::from_secs(1));
    ports("up", &[1, 3]);
    until("it is over", || !watch.lines(since, LIGHT).is_empty());
    let ended: Vec<_> = talking.into_iter().filter_map(|(_, talk)| talk.join().unwrap().err()).collect();
    assert!(ended.is_empty(), "{ended:?}\n{}", watch.text());
    assert_eq!(living(&quiet), 25, "{}", watch.text());
    only_the_way(&watch, since);
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
});

on_all!(a_link_that_is_down_for_a_while_ends_nothing, |lab| {
    let _three = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let held = hold(BIND, 6);
    for (cut, heal) in [
        ("ip link set lan down", "ip link set lan up"),
        ("ip route del 10.2.0.0/24 dev lan", "ip route add 10.2.0.0/24 dev lan src 10.2.0.1"),
    ] {
        let since = Instant::now();
        sh(cut);
        watch.hears(since, &format!("{DARK}, the last one 10.2.0.1"));
        sleep(WINDOW * 2);
        sh(heal);
        watch.hears(since, LIGHT);
        assert_eq!(living(&held), 6, "{cut}: {}", watch.text());
        all_up(lab);
    }
    only_the_way(&watch, Instant::now() - Duration::from_secs(3600));
});

/// Backends whose health is asked at another port than the one that serves: what becomes of connections is only up to the
/// watch.
fn doctors() -> [Backend; 3] {
    [1, 2, 3].map(|n| Backend::at(n, 8080))
}

const DOCTORS: &str = "interval: 300ms, timeout: 150ms, fall: 4, rise: 2, port: 8080";

on_all!(of_those_that_return_one_after_another_only_the_late_one_ends, |lab| {
    let _three = Backend::three();
    let mut doctors = doctors();
    lab.config(&checked(DOCTORS, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let held = hold_three();
    let since = Instant::now();
    doctors.iter_mut().for_each(Backend::stop);
    watch.hears(since, DARK);
    sleep(WINDOW * 2);
    doctors[1].start();
    watch.hears(since, LIGHT);
    doctors[0].start();
    sleep(WINDOW);
    assert_eq!(living(&held), 3, "{}", watch.text());
    watch.turns(lab, since, "10.2.0.13:80 of 10.9.0.1:4444 is down (connection refused)");
    until("its connections end", || held[2].ask().is_err());
    assert_eq!(living(&held), 2);
    assert_eq!(shares(BIND, 4).into_keys().collect::<Vec<_>>(), ["b1", "b2"]);
    doctors[2].start();
    watch.turns(lab, since, "10.2.0.13:80 of 10.9.0.1:4444 is up");
    // They were not spoken of, since they stayed in force.
    assert_eq!(turns(&watch, since), 2, "{}", watch.text());
});

on_all!(a_single_backend_stays_in_force_and_with_reject_new_ones_are_refused, |lab| {
    let _one = Backend::at(1, 80);
    let mut doctor = Backend::at(1, 8080);
    for reject in [false, true] {
        lab.config(&checked(&format!("{DOCTORS}, on_all_down: {}", if reject { "reject" } else { "keep" }), &[1]));
        let watch = Watch::begin(lab);
        let held = hold(BIND, 3);
        let since = Instant::now();
        doctor.stop();
        watch.hears(since, DARK);
        let new = if reject { answers(&[("ConnectionRefused", 3)]) } else { answers(&[("b1 10.2.0.1", 3)]) };
        until("the rules have followed", || lab.paraglider("status").0 == 0 && ask_often("client", BIND, 3) == new);
        sleep(WINDOW * 2);
        assert_eq!(living(&held), 3, "{}", watch.text());
        doctor.start();
        watch.hears(since, LIGHT);
        until("new ones are served", || ask_often("client", BIND, 3) == answers(&[("b1 10.2.0.1", 3)]));
        assert_eq!((living(&held), watch.lines(since, "WARN").len()), (3, 1), "{}", watch.text());
    }
});

on_all!(with_reject_checks_that_are_cut_off_end_nothing, |lab| {
    let _three = Backend::three();
    lab.config(&checked(&format!("{QUICK}, on_all_down: reject"), &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let held = hold(BIND, 6);
    let since = Instant::now();
    sh("iptables -A OUTPUT -p tcp -d 10.2.0.0/24 --syn -j DROP");
    watch.hears(since, "new connections are refused, and no connection is ended");
    until("new ones are refused", || ask_often("client", BIND, 3) == answers(&[("ConnectionRefused", 3)]));
    sleep(WINDOW * 2);
    assert_eq!(living(&held), 6, "{}", watch.text());
    // A watch that begins meanwhile knows no more than that.
    assert_eq!(watch.end(nix::sys::signal::Signal::SIGTERM), Some(0));
    let watch = Watch::begin(lab);
    watch.hears(since, DARK);
    sh("iptables -F OUTPUT");
    watch.hears(since, LIGHT);
    all_up(lab);
    sleep(WINDOW * 2);
    assert_eq!((living(&held), shares(BIND, 6).into_values().collect()), (6, vec![2, 2, 2]), "{}", watch.text());
});

on_all!(each_frontend_judges_a_shared_backend_by_its_own_others, |lab| {
    let _three = Backend::three();
    let health = format!("health: {{{QUICK}}}");
    lab.config(&format!(
        "frontends:\n  - {{bind: '{BIND}', {health}, backends: ['10.2.0.11:80', '10.2.0.12:80']}}\n  \
         - {{bind: '10.9.0.1:5555', {health}, backends: ['10.2.0.11:80']}}\n  \
         - {{bind: '10.9.0.1:6666', {health}, backends: ['10.2.0.11:80', '10.2.0.13:80']}}\n"
    ));
    let watch = Watch::begin(lab);
    let single = hold("10.9.0.1:5555", 2);
    let since = Instant::now();
    silence("b1");
    watch.turns(lab, since, "10.2.0.11:80 of 10.9.0.1:4444 is down");
    watch.turns(lab, since, "10.2.0.11:80 of 10.9.0.1:6666 is down");
    watch.hears(since, &format!("10.9.0.1:5555: {DARK}"));
    sleep(Duration::from_millis(2500));
    let table = std::fs::read_to_string("/proc/net/nf_conntrack").unwrap();
    assert_eq!(table.matches(" dport=5555 ").count(), 2, "{table}");
    speak("b1");
    watch.turns(lab, since, "10.2.0.11:80 of 10.9.0.1:4444 is up");
    watch.hears(since, &format!("10.9.0.1:5555: {LIGHT}"));
    assert_eq!(living(&single), 2, "{}", watch.text());
});

on_all!(a_backup_that_fails_with_all_others_changes_nothing, |lab| {
    let _three = Backend::three();
    let mut doctors = doctors();
    lab.config(&of_backends(DOCTORS, "'10.2.0.11:80', '10.2.0.12:80', {address: '10.2.0.13:80', backup: true}"));
    let watch = Watch::begin(lab);
    let held = hold(BIND, 4);
    let (rules, since) = (lab.ours(), Instant::now());
    doctors.iter_mut().for_each(Backend::stop);
    watch.hears(since, DARK);
    sleep(WINDOW * 2);
    assert_eq!((living(&held), lab.ours()), (4, rules), "{}", watch.text());
    // The backup alone returns: after a while it takes over, and the others' connections end.
    doctors[2].start();
    watch.turns(lab, since, "10.2.0.12:80 of 10.9.0.1:4444 is down");
    watch.turns(lab, since, "10.2.0.11:80 of 10.9.0.1:4444 is down");
    assert_eq!(shares(BIND, 3).into_keys().collect::<Vec<_>>(), ["b3"]);
    until("their connections end", || living(&held) == 0);
});

// As conntrackd does, which brings the connections of another box into the kernel.
on_all!(connections_that_come_in_while_a_backend_is_down_are_ended_too, |lab| {
    let _three = Backend::three();
    let mut doctors = doctors();
    lab.config(&checked(DOCTORS, &[1, 2, 3]));
    let watch = Watch::begin(lab);
    let since = Instant::now();
    doctors[0].stop();
    watch.turns(lab, since, "10.2.0.11:80 of 10.9.0.1:4444 is down");
    // Before the rules of any engine.
    sh("nft 'add table ip before; add chain ip before pre { type nat hook prerouting priority -150; }; \
        add rule ip before pre ip saddr 10.1.0.2 ip daddr 10.9.0.1 tcp sport 40001 tcp dport 4444 dnat to 10.2.0.11:80'");
    let stream = inside("client", || connect_from("10.1.0.2:40001".parse().unwrap(), BIND.parse().unwrap()).unwrap());
    let mut stream = stream.join().unwrap();
    sh("nft delete table ip before");
    let table = || std::fs::read_to_string("/proc/net/nf_conntrack").unwrap();
    let mine = |line: &&str| line.contains("sport=40001 dport=4444 ") && line.contains("src=10.2.0.11 ");
    assert!(table().lines().any(|line| mine(&line)), "{}", table());
    until("its entry is gone", || !table().lines().any(|line| mine(&line)));
    stream.write_all(b"?\n").unwrap();
    let mut line = String::new();
    assert!(BufReader::new(&stream).read_line(&mut line).is_err(), "{line}");
});
