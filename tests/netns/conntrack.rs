//! Connections that are ended: those that are meant, and no others.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Instant;

use paraglider::host::conntrack::{can_forget, forget};
use paraglider::net::Endpoint;

use crate::backend::{silence, Backend};
use crate::health::{checked, hold_three, QUICK};
use crate::lab::{connect_from, inside, program, run, sh, Lab, Variant};
use crate::watching::{until, Watch};
use crate::{in_lab, on_both, BIND};

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

on_both!(a_client_that_came_back_with_the_same_port_keeps_its_new_connection, |lab| {
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
    let done = forget(&[bind], &|connection| {
        let first = format!("{connection:?}").contains("40001");
        if let Some(old) = old.borrow_mut().take_if(|_| first) {
            let first = forget(&[bind], &|one| one == connection);
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

/// The kernel lists connections only to root, unless it is told otherwise: then this watch, which may change rules and is
/// not root, cannot end any.
#[test]
fn what_cannot_be_ended_is_tried_again() {
    in_lab("conntrack::what_cannot_be_ended_is_tried_again", Variant::Nft, |lab| {
        const TABLE: &str = "/proc/net/nf_conntrack";
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
        let since = Instant::now();
        let watch = Watch::of(command);
        watch.hears(since, "is balanced over 3 backends");
        let held = hold_three();
        let is_there = || {
            let table = fs::read_to_string(TABLE).unwrap();
            table.lines().any(|line| line.contains("dst=10.9.0.1 ") && line.contains("src=10.2.0.11 "))
        };
        silence("b1");
        watch.hears(since, "10.2.0.11:80 of 10.9.0.1:4444 is down");
        watch.hears(since, "cannot end connections to backends that are gone (Permission denied)");
        assert!(is_there());
        sh(&format!("chmod 444 {TABLE}"));
        until("it is tried again", || !is_there());
        assert_eq!(held[0].ask().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        held[1].ask().unwrap();
    });
}
