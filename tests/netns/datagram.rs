//! Services of UDP, and clients of them. The suites share this file; each uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{mpsc, Arc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::lab::inside;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A host's service: to each datagram it answers `NAME PEER PORT`, its own name, the address that it sees, and the port that it
/// is asked at. Without an address it is at all of the host's.
pub fn serve(host: &'static str, address: Option<Ipv4Addr>, port: u16) {
    let (ready, wait) = mpsc::channel();
    let work = move || {
        let socket = match address {
            Some(ip) => UdpSocket::bind((ip, port)).unwrap(),
            None => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
                .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
                .unwrap(),
        };
        ready.send(()).unwrap();
        let mut buffer = [0; 1500];
        loop {
            let Ok((_, from)) = socket.recv_from(&mut buffer) else { continue };
            let _ = socket.send_to(format!("{host} {} {port}", from.ip().to_canonical()).as_bytes(), from);
        }
    };
    if host == "balancer" {
        thread::spawn(work);
    } else {
        inside(host, work);
    }
    wait.recv().unwrap();
}

/// One question from a socket of its own, which has a port that no other has had: one that comes again could be of a flow that
/// the kernel still knows.
pub fn ask(to: SocketAddr) -> std::io::Result<String> {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, port))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"?")?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Asks from sockets of a host, one after the other; counts the answers. Failures count too.
pub fn ask_often(from: &str, to: &str, n: usize) -> BTreeMap<String, usize> {
    let to: SocketAddr = to.parse().unwrap();
    let work = move || {
        let mut counts = BTreeMap::new();
        for _ in 0..n {
            let answer = ask(to).unwrap_or_else(|error| format!("{:?}", error.kind()));
            *counts.entry(answer).or_insert(0) += 1;
        }
        counts
    };
    match from {
        "balancer" => work(),
        _ => inside(from, work).join().unwrap(),
    }
}

/// A client that sends a datagram every 100 ms, all from one socket.
pub struct Talker {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Instant, Option<String>)>>,
}

impl Talker {
    pub fn begin(to: &str) -> Self {
        let to: SocketAddr = to.parse().unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let until = done.clone();
        let thread = inside("client", move || {
            let any = if to.is_ipv4() {
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
            } else {
                (Ipv6Addr::UNSPECIFIED, 0).into()
            };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(to).unwrap();
            let mut all = Vec::new();
            while !until.load(Ordering::Relaxed) {
                let since = Instant::now();
                // An ICMP error about an earlier one may come out here.
                let _ = socket.send(b"?").or_else(|_| socket.send(b"?"));
                socket.set_read_timeout(Some(Duration::from_millis(95))).unwrap();
                let mut buffer = [0; 1500];
                let answer = socket.recv(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned());
                all.push((since, answer));
                thread::sleep(Duration::from_millis(100).saturating_sub(since.elapsed()));
            }
            all
        });
        Talker { done, thread }
    }

    /// It stops; returns each datagram's time and the host that answered it.
    pub fn end(self) -> Vec<(Instant, Option<String>)> {
        self.done.store(true, Ordering::Relaxed);
        let all = self.thread.join().unwrap();
        let host = |answer: String| answer.split(' ').next().unwrap().to_owned();
        all.into_iter().map(|(at, answer)| (at, answer.map(host))).collect()
    }
}

/// The hosts that answered, each once for as long as it did, and how many datagrams got no answer.
pub fn in_turn(all: &[(Instant, Option<String>)]) -> (Vec<&str>, usize) {
    let lost = all.iter().filter(|(_, answer)| answer.is_none()).count();
    let mut order: Vec<&str> = all.iter().filter_map(|(_, answer)| answer.as_deref()).collect();
    order.dedup();
    (order, lost)
}

/// Who answered after a moment, and how many datagrams got no answer.
pub fn since(all: &[(Instant, Option<String>)], from: Instant, to: Instant) -> (BTreeMap<String, usize>, usize) {
    let (mut answers, mut lost) = (BTreeMap::new(), 0);
    for (_, answer) in all.iter().filter(|(at, _)| (from..to).contains(at)) {
        match answer {
            Some(host) => *answers.entry(host.clone()).or_insert(0) += 1,
            None => lost += 1,
        }
    }
    (answers, lost)
}

/// A service of a host: to each datagram to any of its addresses it answers with the name of the host.
pub fn answer_by_name(host: &'static str, port: u16) {
    answer_at(host, &SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port).to_string());
}

/// The same of one address, from which its answers come then.
pub fn answer_at(host: &'static str, at: &str) {
    let (ready, wait) = mpsc::channel();
    let at: SocketAddr = at.parse().unwrap();
    let work = move || {
        let socket = UdpSocket::bind(at).unwrap();
        ready.send(()).unwrap();
        let mut buffer = [0; 2048];
        loop {
            // An ICMP error about an earlier answer is told by the next call.
            if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(host.as_bytes(), from);
            }
        }
    };
    if host == "balancer" {
        std::thread::spawn(work);
    } else {
        inside(host, work);
    }
    wait.recv().unwrap();
}

/// A client's socket on this port, whose flow goes to one address.
pub struct Flow(UdpSocket);

impl Flow {
    /// From the client's host.
    pub fn from_port(port: u16, to: &str) -> Self {
        let to: SocketAddr = to.parse().unwrap();
        let from: IpAddr = if to.is_ipv4() { [10, 1, 0, 2].into() } else { "fd01::2".parse().unwrap() };
        let connect = move || {
            let socket = UdpSocket::bind((from, port)).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(1000))).unwrap();
            Flow(socket)
        };
        inside("client", connect).join().unwrap()
    }

    /// Says something and waits for the answer; nothing if there is none.
    pub fn ask(&self) -> Option<String> {
        self.say();
        let mut buffer = [0; 2048];
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Says something.
    pub fn say(&self) {
        self.0.send(b"?").unwrap();
    }
}
