//! Services and clients of datagrams.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

use crate::lab::inside;

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
