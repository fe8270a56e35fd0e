//! One check of one backend, without waiting: it goes on whenever its socket has something to tell.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

use super::Health;
use crate::error::plain;
use crate::host;
use crate::service::Endpoint;

/// How much of an answer is looked at, in bytes.
const MOST_ANSWER: usize = 16 * 1024;

/// A check that has begun.
#[derive(Debug)]
pub struct Probe {
    socket: TcpStream,
    /// The request has been sent.
    asked: bool,
    answer: Vec<u8>,
}

/// Nothing yet, good, or why not.
pub type Verdict = Option<Result<(), String>>;

impl Probe {
    /// Begins to connect.
    pub fn begin(to: Endpoint) -> io::Result<Self> {
        let family = if to.ip().is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let socket = host::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
        abort_on_close(socket.as_raw_fd());
        match connect(socket.as_raw_fd(), to) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Probe { socket: std::os::fd::OwnedFd::from(socket).into(), asked: false, answer: Vec::new() }),
        }
    }

    /// What poll(2) has to wait for.
    pub fn events(&self) -> (RawFd, libc::c_short) {
        (self.socket.as_raw_fd(), if self.asked { libc::POLLIN } else { libc::POLLOUT })
    }

    /// Goes on after one of [`events`](Self::events).
    pub fn go_on(&mut self, health: &Health, to: Endpoint) -> Verdict {
        match self.step(health, to) {
            Ok(verdict) => verdict,
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => Some(Err(sentence(&error))),
        }
    }

    fn step(&mut self, health: &Health, to: Endpoint) -> io::Result<Verdict> {
        if !self.asked {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            if !health.http {
                return Ok(Some(Ok(())));
            }
            // A new socket has room for it.
            let request = format!(
                "GET {} HTTP/1.0\r\nHost: {to}\r\nUser-Agent: paraglider\r\nConnection: close\r\n\r\n",
                health.path
            );
            self.socket.write_all(request.as_bytes())?;
            self.asked = true;
            return Ok(None);
        }
        let mut part = [0; 4096];
        let read = self.socket.read(&mut part)?;
        self.answer.extend_from_slice(part.get(..read).unwrap_or_default());
        Ok(judge(&self.answer, read == 0 || self.answer.len() >= MOST_ANSWER, health))
    }
}

/// What the system said, as the end of a sentence.
pub fn sentence(error: &io::Error) -> String {
    plain(error).to_ascii_lowercase()
}

/// What the beginning of an answer tells, of which `all` may be there.
fn judge(answer: &[u8], all: bool, health: &Health) -> Verdict {
    // "HTTP/1.1 200 ": RFC 9112, section 4.
    const STATUS: usize = 12;
    let bad = |why: &str| Some(Err(why.to_owned()));
    let Some(line) = answer.get(..STATUS) else {
        return if all { bad("the answer is no HTTP") } else { None };
    };
    let status = match line {
        [b'H', b'T', b'T', b'P', b'/', _, b'.', _, b' ', a, b, c] if [a, b, c].iter().all(|b| b.is_ascii_digit()) => {
            [a, b, c].iter().fold(0, |status, digit| status * 10 + u64::from(**digit - b'0'))
        }
        _ => return bad("the answer is no HTTP"),
    };
    if status < health.statuses.0 || status > health.statuses.1 {
        return Some(Err(format!("status {status}")));
    }
    if health.text.is_empty() {
        return Some(Ok(()));
    }
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").and_then(|head| answer.get(head + 4..));
    if body.is_some_and(|body| body.windows(health.text.len()).any(|part| part == health.text.as_bytes())) {
        return Some(Ok(()));
    }
    if all {
        bad("the body lacks the text")
    } else {
        None
    }
}

/// Closing sends an RST: no TIME_WAIT is left behind for each check, neither here nor in the connection table.
#[allow(unsafe_code)]
fn abort_on_close(socket: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `linger`. If it fails, nothing is lost.
    unsafe {
        libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), length);
    }
}

#[allow(unsafe_code)]
fn connect(socket: RawFd, to: Endpoint) -> io::Result<()> {
    // Family, port, flow label of IPv6, address, scope: sockaddr_in and sockaddr_in6 (ip(7), ipv6(7)).
    let mut address = Vec::new();
    let family = if to.ip().is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    address.extend((family as libc::sa_family_t).to_ne_bytes());
    address.extend(to.port().to_be_bytes());
    match to.ip() {
        IpAddr::V4(ip) => address.extend(ip.octets()),
        IpAddr::V6(ip) => {
            address.extend([0; 4]);
            address.extend(ip.octets());
            address.extend([0; 4]);
        }
    }
    // IPv4's is padded.
    address.resize(address.len().max(16), 0);
    // SAFETY: the kernel reads as many bytes as there are.
    match unsafe { libc::connect(socket, address.as_ptr().cast(), address.len() as libc::socklen_t) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(answer: &str, all: bool, expect: &str) -> Verdict {
        let mut health = Health { http: true, ..Health::default() };
        health.take("expect", expect).unwrap();
        judge(answer.as_bytes(), all, &health)
    }

    #[test]
    fn an_answer_is_judged_as_soon_as_it_can_be() {
        let no = |why: &str| Some(Err(why.to_owned()));
        assert_eq!(judged("HTTP/1.1 200 OK\r\n", false, "200-399"), Some(Ok(())));
        assert_eq!(judged("HTTP/1.1 20", false, "200-399"), None);
        assert_eq!(judged("HTTP/1.1 20", true, "200-399"), no("the answer is no HTTP"));
        assert_eq!(judged("SSH-2.0-OpenSSH_9.2\r\n", false, "200-399"), no("the answer is no HTTP"));
        assert_eq!(judged("HTTP/1.0 500 Oh no\r\n", false, "200-399"), no("status 500"));
        assert_eq!(judged("HTTP/1.0 204 No Content\r\n", false, "204"), Some(Ok(())));
        assert_eq!(judged("HTTP/1.1 200 ready\r\n\r\nnot yet", false, "ready"), None);
        assert_eq!(judged("HTTP/1.1 200 ready\r\n\r\nnot yet", true, "ready"), no("the body lacks the text"));
        assert_eq!(judged("HTTP/1.1 200 OK\r\nx: y\r\n\r\nall is ready", false, "ready"), Some(Ok(())));
        assert_eq!(judged("HTTP/1.1 503 OK\r\n\r\nready", true, "ready"), no("status 503"));
        assert_eq!(judged("", true, "200"), no("the answer is no HTTP"));
    }
}
