//! ICMP errors about balanced connections get through, whatever the firewall does with other ICMP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::lab::{ask, host, inside, sh, Lab, Variant, PATIENCE};
use crate::{on_all, BIND};

/// What is asked for or sent: many packets.
const MUCH: usize = 200_000;

/// Answers a byte `d` with much data, and a byte `u` and that much data with one byte.
fn trade(at: &'static str, port: u16) {
    let (ready, wait) = mpsc::channel();
    inside(at, move || {
        let listener = TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port)).unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut what = [0];
                stream.read_exact(&mut what)?;
                if what == *b"d" {
                    stream.write_all(&vec![7; MUCH])
                } else {
                    stream.read_exact(&mut vec![0; MUCH])?;
                    stream.write_all(b"!")
                }
            });
        }
    });
    wait.recv().unwrap();
}

/// Lets a client trade, down or up; returns the bytes that it got.
fn get(from: &str, to: &str, what: &'static [u8]) -> usize {
    let to: SocketAddr = to.parse().unwrap();
    inside(from, move || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(what);
        if what == b"u" {
            let _ = stream.write_all(&vec![7; MUCH]);
        }
        let (mut got, mut buffer) = (0, vec![0; 1 << 16]);
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            got += n;
        }
        got
    })
    .join()
    .unwrap()
}

/// A router between the balancer and the networks 198.51.100.0/24 and fd05::/64, to which no packet of more than 1,300
/// bytes goes, and a host `far` there that does not know it.
fn far() {
    host("router");
    host("far");
    sh("ip link add away type veth peer name r0 netns router && ip link set away up && ip addr add 10.3.0.1/24 dev away");
    sh("ip -n router addr add 10.3.0.2/24 dev r0 && ip -n router link set r0 up");
    sh("ip -n router link add r1 mtu 1300 type veth peer name eth0 netns far && ip -n router link set r1 up");
    sh("ip -n router addr add 198.51.100.1/24 dev r1 && ip -n router route add default via 10.3.0.1");
    sh("ip -n far addr add 198.51.100.2/24 dev eth0 && ip -n far link set eth0 up mtu 1500");
    sh("ip -n far route add default via 198.51.100.1 && ip route add 198.51.100.0/24 via 10.3.0.2");
    sh("ip -6 addr add fd03::1/64 dev away nodad && ip -n router -6 addr add fd03::2/64 dev r0 nodad");
    sh("ip -n router -6 addr add fd05::1/64 dev r1 nodad && ip -n router -6 route add default via fd03::1");
    sh("ip -n far -6 addr add fd05::2/64 dev eth0 nodad && ip -n far -6 route add default via fd05::1");
    sh("ip -6 route add fd05::/64 via fd03::2");
    inside("router", || sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")).join().unwrap();
}

/// A firewall that lets nothing through by itself.
fn shut(lab: &Lab) {
    for tool in ["iptables", "ip6tables"] {
        sh(&format!("{tool} -P FORWARD DROP"));
    }
    lab.let_through();
}

on_all!(a_small_mtu_on_the_way_to_a_client_is_no_harm, |lab| {
    far();
    shut(lab);
    trade("b1", 80);
    lab.config(
        "frontends:\n  - {bind: '10.9.0.1:4444', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}\n  \
         - {bind: '[fd09::1]:4444', privateip: 'fd02::1', backends: ['[fd02::11]:80']}\n",
    );
    lab.ok("start");
    for to in [BIND, "[fd09::1]:4444"] {
        assert_eq!(get("far", to, b"d"), MUCH, "{to}");
    }
});

on_all!(a_small_mtu_on_the_way_to_a_backend_is_no_harm, |lab| {
    far();
    shut(lab);
    trade("far", 80);
    lab.config(
        "frontends:\n  - {bind: '10.9.0.1:4444', privateip: 10.3.0.1, backends: ['198.51.100.2:80']}\n  \
         - {bind: '[fd09::1]:4444', privateip: 'fd03::1', backends: ['[fd05::2]:80']}\n",
    );
    lab.ok("start");
    for to in [BIND, "[fd09::1]:4444"] {
        assert_eq!(get("client", to, b"u"), 1, "{to}");
    }
});

on_all!(without_privateip_it_is_the_same, |lab| {
    far();
    shut(lab);
    trade("far", 80);
    lab.config("frontend: {bind: '10.9.0.1:4444', privateip: none, backends: ['198.51.100.2:80']}");
    lab.ok("start");
    assert_eq!(get("client", BIND, b"u"), 1);
});

on_all!(what_a_backends_network_says_reaches_the_client, |lab| {
    far();
    shut(lab);
    sh("ip -n router route add unreachable 198.51.100.9/32; ip -n router -6 route add unreachable fd05::9/128");
    lab.config(
        "frontends:\n  - {bind: '10.9.0.1:4444', privateip: 10.3.0.1, backends: ['198.51.100.9:80']}\n  \
         - {bind: '[fd09::1]:4444', privateip: 'fd03::1', backends: ['[fd05::9]:80']}\n",
    );
    lab.ok("start");
    for to in [BIND, "[fd09::1]:4444"] {
        let to: SocketAddr = to.parse().unwrap();
        let begin = Instant::now();
        let error = inside("client", move || ask(to)).join().unwrap().unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(2), "{to}: {error}");
        assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{to}");
    }
});

on_all!(other_icmp_is_not_let_through, |lab| {
    far();
    shut(lab);
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    sh("ip -n b1 route add default via 10.2.0.1");
    assert!(!inside("far", || echoes("10.2.0.11")).join().unwrap());
    sh("iptables -P FORWARD ACCEPT");
    assert!(inside("far", || echoes("10.2.0.11")).join().unwrap(), "it would not have come back at all");
});

/// Whether an echo request (RFC 792) is answered within half a second.
fn echoes(to: &str) -> bool {
    use nix::sys::socket::{
        recv, sendto, setsockopt, socket, sockopt, AddressFamily, MsgFlags, SockFlag, SockProtocol,
    };
    use nix::sys::socket::{SockType, SockaddrIn};
    use nix::sys::time::{TimeVal, TimeValLike};
    let family = AddressFamily::Inet;
    let socket = socket(family, SockType::Raw, SockFlag::empty(), Some(SockProtocol::Icmp)).unwrap();
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(500)).unwrap();
    let to = SockaddrIn::from(std::net::SocketAddrV4::new(to.parse().unwrap(), 0));
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&socket);
    sendto(descriptor, &[8, 0, 0xf7, 0xfd, 0, 1, 0, 1], &to, MsgFlags::empty()).unwrap();
    recv(descriptor, &mut [0; 128], MsgFlags::empty()).is_ok()
}
