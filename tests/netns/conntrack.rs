//! Connections that are ended: those that are meant, and no others.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Instant;

use paraglider::host::conntrack::{can_forget, forget};
use paraglider::net::Endpoint;

use crate::backend::{silence, Backend};
use crate::health::{checked, hold_three, QUICK};
use crate::lab::{connect_from, inside, program, run, sh, Held, Lab, Variant};
use crate::watching::{until, Watch};
use crate::{in_lab, on_all, BIND};

/// A connection of the client from this port, and the backend that serves it.
fn from_port(port: u16) -> (TcpStream, String) {
    let connect = move || {
        let stream = connect_from(SocketAddr::from(([10, 1, 0, 2], port)), BIND.parse().unwrap()).unwrap();
        let name = asked(&stream);
        (stream, name)
    };
    inside("client", connect).join().unwrap()
}

fn asked(mut stream: &TcpStream) -> String {
    use std::io::{BufRead, BufReader, Write};
    stream.set_read_timeout(Some(crate::lab::PATIENCE)).unwrap();
    stream.write_all(b"?\n").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.split(' ').next().unwrap().to_owned()
}

on_all!(a_client_that_came_back_with_the_same_port_keeps_its_new_connection, |lab| {
    let _three = Backend::three();
    lab.balance(&[1]);
    lab.ok("start");
    can_forget().unwrap();
    let bind = Endpoint::parse(BIND).unwrap();
    let b1 = Endpoint::parse("10.2.0.11:80").unwrap();
    let (old, name) = from_port(40_001);
    let (other, _) = from_port(40_002);
    assert_eq!(name, "b1");
    lab.balance(&[2]);
    lab.ok("start");
    let came_back = std::cell::RefCell::new(None);
    let old = std::cell::RefCell::new(Some(old));
    // After the table was read and before anything is ended, the first client begins anew.
    let done = forget(&[paraglider::service::Bind::one(bind)], &|connection| {
        let first = format!("{connection:?}").contains("40001");
        if let Some(old) = old.borrow_mut().take_if(|_| first) {
            let first = forget(&[paraglider::service::Bind::one(bind)], &|one| one == connection);
            assert_eq!((first.ended, first.left), (1, 0));
            // The entry is gone, so this ends with an RST from the balancer, and the port is free.
            nix::sys::socket::setsockopt(
                &old,
                nix::sys::socket::sockopt::Linger,
                &libc::linger { l_onoff: 1, l_linger: 0 },
            )
            .unwrap();
            drop(old);
            *came_back.borrow_mut() = Some((*connection, from_port(40_001)));
        }
        connection.backend == b1
    });
    let (which, (stream, name)) = came_back.into_inner().unwrap();
    assert_eq!((which.backend, name.as_str()), (b1, "b2"));
    // The other one has ended, if it was not the one that came back.
    assert!(done.left == 0 && done.error.is_none() && done.ended == 1, "{done:?}");
    assert_eq!(asked(&stream), "b2");
    let table = fs::read_to_string("/proc/net/nf_conntrack").unwrap();
    assert!(!table.contains("sport=40002") && table.contains("sport=40001"), "{table}");
    drop(other);
});

/// The lines of the kernel's table with this bind.
fn entries(bind: &str) -> usize {
    let (ip, port) = bind.rsplit_once(':').unwrap();
    let (ip, port) = (format!("dst={ip} "), format!("dport={port} "));
    let table = fs::read_to_string("/proc/net/nf_conntrack").unwrap();
    table.lines().filter(|line| line.contains(&ip) && line.contains(&port)).count()
}

on_all!(what_stop_has_cut_does_not_catch_new_connections, |lab| {
    let _three = Backend::three();
    for stop in ["stop", "stop --drain 1"] {
        lab.balance(&[1]);
        lab.ok("start");
        let old = [from_port(40_001), from_port(40_002)];
        assert!(old.iter().all(|(_, name)| name == "b1"));
        let (code, _, err) = lab.paraglider(stop);
        assert!(code == 0 && err.contains("2 established connections will be cut"), "{err}");
        assert_eq!(entries(BIND), 0, "{stop}");
        // The clients are gone, as after a power cut; others come by the same ports.
        for (stream, _) in &old {
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
        }
        drop(old);
        lab.balance(&[2]);
        lab.ok("start");
        assert_eq!([from_port(40_001).1, from_port(40_002).1], ["b2", "b2"], "{stop}");
        lab.ok("stop");
    }
});

on_all!(stop_forgets_connections_of_ipv6_too, |lab| {
    let _three = Backend::three();
    lab.config("frontend: {bind: '[fd09::1]:4444', privateip: 'fd02::1', backends: ['[fd02::11]:80']}");
    lab.ok("start");
    let held = inside("client", || Held::open("[fd09::1]:4444".parse().unwrap()).unwrap()).join().unwrap();
    held.ask().unwrap();
    let table = || fs::read_to_string("/proc/net/nf_conntrack").unwrap();
    let to_bind = |table: &str| table.lines().filter(|line| line.contains("dport=4444 ")).count();
    assert_eq!(to_bind(&table()), 1);
    lab.ok("stop");
    assert_eq!(to_bind(&table()), 0, "{}", table());
});

on_all!(stop_forgets_only_what_it_cuts, |lab| {
    lab.with_nat_of_others();
    let _three = Backend::three();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    sh("ip -n b2 route add default via 10.2.0.1");
    // One beside the bind, and one of the bind's that lives on, since another rule tracks it.
    let direct = inside("client", || Held::open("10.2.0.12:80".parse().unwrap()).unwrap()).join().unwrap();
    direct.ask().unwrap();
    sh("iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    let (stream, name) = from_port(40_001);
    lab.ok("stop");
    assert_eq!(asked(&stream), name);
    lab.ok("start");
    sh("iptables -F INPUT");
    lab.ok("stop");
    assert_eq!(entries(BIND), 0);
    assert_eq!(entries("10.2.0.12:80"), 1, "the direct one");
});

/// Paraglider as in a kernel without CONFIG_NF_CONNTRACK_PROCFS: a /proc of links that lacks the table.
pub fn without_file(lab: &Lab, words: &str) -> Command {
    let [real, links] = ["real", "links"].map(|name| lab.path(name).display().to_string());
    if !lab.path("links").exists() {
        sh(&format!("mkdir -p {real} {links}/net && mount --rbind /proc {real}"));
        sh(&format!("cd {real} && for file in [!0-9]*; do [ $file = net ] || ln -s {real}/$file {links}; done"));
        sh(&format!(
            "cd {real}/net && for file in *; do ln -s {real}/net/$file {links}/net; done; rm {links}/net/nf_conntrack"
        ));
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", &format!("mount --bind {links} /proc && exec \"$@\""), "sh"]);
    let command = lab.command(words);
    unshare.arg(command.get_program()).args(command.get_args()).env_remove("SSH_CONNECTION");
    unshare
}

on_all!(stop_forgets_what_it_cuts_without_the_kernels_file, |lab| {
    let _three = Backend::three();
    lab.balance(&[1]);
    lab.ok("start");
    let (_held, _) = from_port(40_001);
    assert_eq!(entries(BIND), 1);
    let output = without_file(lab, "stop").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 established connection will be cut"), "{said}");
    assert_eq!(entries(BIND), 0, "{said}");
});

on_all!(stop_succeeds_where_connections_cannot_be_forgotten, |lab| {
    let _three = Backend::three();
    lab.config(
        "frontends: [{bind: '10.9.0.1:4444', backends: ['10.2.0.11:80']}, {bind: '[fd09::1]:4444', backends: ['[fd02::11]:80']}]",
    );
    fs::write(lab.path("deaf"), "").unwrap();
    // They are listed and cannot be ended; they are not even listed.
    for command in [lab.command("stop"), without_file(lab, "stop")] {
        lab.ok("start");
        let (_held, _) = from_port(40_001);
        let Some(mut deaf) = lab.deaf_of(&command) else { return };
        let output = deaf.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let why = "cannot end connections to backends that are gone (Invalid argument); the kernel needs CONFIG_NF_CT_NETLINK";
        assert_eq!((said.matches("cannot end connections").count(), said.matches(why).count()), (1, 1), "{said}");
        assert_eq!(lab.ours(), [""; 0]);
    }
});

on_all!(checks_do_not_fill_the_table, |lab| {
    let mut backends = Backend::three();
    // One that refuses, one that says nothing, and the same in IPv6.
    backends[1].stop();
    let yaml = |bind: &str, net: &str| {
        format!(
            "  - bind: '{bind}'\n    health: {{interval: 100ms, timeout: 50ms, fall: 9}}\n    backends: \
             ['{}', '{}', '{}']\n",
            net.replace('N', "1"),
            net.replace('N', "2"),
            net.replace('N', "9")
        )
    };
    lab.config(&format!(
        "frontends:\n{}{}",
        yaml("10.9.0.1:4444", "10.2.0.1N:80"),
        yaml("[fd09::1]:4444", "[fd02::1N]:80")
    ));
    // The silent one has an address in the network, so that packets to it leave.
    sh("ip neigh add 10.2.0.19 lladdr 02:00:00:00:00:19 dev lan && ip -6 neigh add fd02::19 lladdr 02:00:00:00:00:19 dev lan");
    let watch = Watch::begin(lab);
    // The balancer tracks what it sends itself, as with any firewall that knows states.
    sh("iptables -A OUTPUT -m conntrack --ctstate INVALID -j DROP");
    sh("ip6tables -A OUTPUT -m conntrack --ctstate INVALID -j DROP");
    let from = backends[0].connections();
    until("there were many checks", || backends[0].connections() >= from + 40);
    let table = fs::read_to_string("/proc/net/nf_conntrack").unwrap();
    let entries = table.lines().filter(|line| line.contains("dport=80 ")).count();
    // Of each backend the one of the check that runs.
    assert!(entries <= 6, "{entries} entries:\n{table}");
    assert_eq!(watch.end(nix::sys::signal::Signal::SIGTERM), Some(0));
    let table = fs::read_to_string("/proc/net/nf_conntrack").unwrap();
    assert!(!table.contains("dport=80 "), "{table}");
});

/// What cannot be ended is said once and tried again. Without root, as this watch is, which may change rules all the same,
/// the kernel's file cannot be read; ctnetlink can.
#[test]
fn what_cannot_be_ended_is_tried_again() {
    in_lab("conntrack::what_cannot_be_ended_is_tried_again", Variant::Nft, |lab| {
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        if !run("setpriv", &[&nobody[..], &["true"]].concat()).status.success() {
            println!("skipped: what_cannot_be_ended_is_tried_again: there is only one user here");
            return;
        }
        let _three = Backend::three();
        lab.config(&checked(QUICK, &[1, 2, 3]));
        sh("sysctl -qw net.ipv4.ip_forward=1 && mkdir /run/nobody && chown 65534 /run/nobody");
        let copy = lab.path("paraglider");
        fs::copy(program(), &copy).unwrap();
        let mut command = Command::new("setpriv");
        let rights = ["--inh-caps=+net_admin,+net_raw", "--ambient-caps=+net_admin,+net_raw", "--"];
        command.args(nobody).args(rights).arg(copy).arg("-config").arg(lab.path("glider.yaml")).arg("watch");
        command.env("XTABLES_LOCKFILE", "/run/nobody/xtables.lock");
        fs::write(lab.path("deaf"), "").unwrap();
        let Some(command) = lab.deaf_of(&command) else { return };
        let since = Instant::now();
        let watch = Watch::of(command);
        watch.hears(since, "watching the rules and 3 backends");
        let held = hold_three();
        let is_there = || {
            let table = fs::read_to_string("/proc/net/nf_conntrack").unwrap();
            table.lines().any(|line| line.contains("dst=10.9.0.1 ") && line.contains("src=10.2.0.11 "))
        };
        silence("b1");
        watch.hears(since, "10.2.0.11:80 of 10.9.0.1:4444 is down");
        watch.hears(since, "cannot end connections to backends that are gone (Invalid argument)");
        assert!(is_there());
        fs::remove_file(lab.path("deaf")).unwrap();
        until("it is tried again", || !is_there());
        assert_eq!(held[0].ask().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        held[1].ask().unwrap();
        assert_eq!(watch.lines(since, "cannot end connections").len(), 1, "{}", watch.text());
    });
}
