//! One check of one backend on a non-blocking socket: it goes on whenever poll(2) has an event for it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};

use crate::error::plain;
use crate::host::conntrack;
use crate::net::Endpoint;
use crate::service::health::Health;
use crate::sys::file;
use crate::sys::socket;
use crate::watch::checker::Event;

/// How much of an answer is read, in bytes.
const MOST_ANSWER: usize = 16 * 1024;

/// How much of the expected text a message repeats, in characters: with it, it fits into the file of the state.
const MOST_TEXT: usize = 40;

/// A check that has begun.
#[derive(Debug)]
pub struct Probe {
    socket: File,
    to: Endpoint,
    /// The request has been sent.
    asked: bool,
    answer: Vec<u8>,
}

impl Drop for Probe {
    /// Ends the connection with an RST, so that no TIME_WAIT is left in this host's TCP, and lets the connection table
    /// forget it, where this host tracks its own connections: an entry would stay for 10 s after the RST, or for 2 minutes
    /// where the backend was silent (nf_conntrack_tcp_timeout_close and _syn_sent), and many checks would fill the table.
    fn drop(&mut self) {
        let from = socket::local(&self.socket);
        socket::abort(&self.socket);
        if let Ok(from) = from {
            conntrack::forget_own(from, self.to);
        }
    }
}

/// The result of a check, the reason if it failed; `None` while it runs.
pub type Verdict = Option<Result<(), String>>;

impl Probe {
    /// Begins to connect; the outcome comes as an event.
    pub fn begin(to: Endpoint) -> io::Result<Self> {
        let socket = socket::open(to.family().domain(), libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
        match socket::connect(&socket, to.ip(), to.port()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Probe { socket, to, asked: false, answer: Vec::new() }),
        }
    }

    /// The descriptor, and what poll(2) has to wait for.
    pub fn events(&self) -> (RawFd, libc::c_short) {
        (self.socket.as_raw_fd(), if self.asked { libc::POLLIN } else { libc::POLLOUT })
    }

    /// Goes on after one of [`events`](Self::events).
    pub fn go_on(&mut self, health: &Health, to: Endpoint) -> Event {
        match self.step(health, to) {
            Ok(verdict) => verdict.map_or(Event::Progress, Event::Ended),
            // Connected, and there is nothing to read yet.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && health.http => Event::Progress,
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Event::Ended(Ok(())),
            // Of IPv6, EACCES is what a router or the backend itself answers (ICMPv6, administratively prohibited).
            Err(error) if is_ours(&error) && error.raw_os_error() != Some(libc::EACCES) => Event::Lapsed,
            Err(error) => Event::Ended(Err(plain(&error).to_ascii_lowercase())),
        }
    }

    fn step(&mut self, health: &Health, to: Endpoint) -> io::Result<Verdict> {
        if !self.asked {
            // An ICMP error that comes while connect(2) still runs, as on a veth, ends nothing (sk_err_soft in
            // net/ipv4/tcp_ipv4.c): only this tells it, and reading says EAGAIN as if we were connected.
            socket::failure(&self.socket)?;
        }
        if health.http && !self.asked {
            // It fits into the empty send buffer of a new connection.
            self.socket.write_all(request(health, to).as_bytes())?;
            self.asked = true;
            return Ok(None);
        }
        // If the connection failed, this read returns the reason.
        let more = file::read_on(&mut self.socket, &mut self.answer)?;
        if !health.http {
            return Ok(Some(Ok(())));
        }
        Ok(judge(&self.answer, !more || self.answer.len() >= MOST_ANSWER, health))
    }
}

/// Whether a check failed for a reason of this host's, which says nothing about the backend. (That there is no route does:
/// then clients do not get there either.)
pub fn is_ours(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRNOTAVAIL
                | libc::EAFNOSUPPORT
                | libc::EAGAIN
                | libc::EINTR
                | libc::EPERM
                | libc::EACCES
        )
    )
}

/// Judges the beginning of an HTTP answer, or `all` of it.
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
    if body(answer).is_some_and(|body| body.windows(health.text.len()).any(|part| part == health.text.as_bytes())) {
        return Some(Ok(()));
    }
    if all {
        Some(Err(format!("answered {status}, but the body lacks `{}`", crate::text::Cut(&health.text, MOST_TEXT))))
    } else {
        None
    }
}

/// What an http check sends.
fn request(health: &Health, to: Endpoint) -> String {
    let own = to.to_string();
    let host = if health.host.is_empty() { &own } else { &health.host };
    format!("GET {} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: paraglider\r\nConnection: close\r\n\r\n", health.path)
}

/// What follows the empty line after the headers. Some programs end lines with a bare LF (RFC 9112, section 2.2).
fn body(answer: &[u8]) -> Option<&[u8]> {
    let mut rest = answer;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        rest = rest.get(end + 1..)?;
        match rest {
            [b'\n', body @ ..] | [b'\r', b'\n', body @ ..] => return Some(body),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(answer: &str, all: bool, expect: &str) -> Verdict {
        let yaml =
            format!("{{bind: '10.0.0.1:1', backends: ['10.0.0.2:1'], health: {{type: http, expect: '{expect}'}}}}");
        let services = crate::config::parse(format!("frontend: {yaml}").as_bytes()).unwrap().services;
        judge(answer.as_bytes(), all, services[0].health.as_ref().unwrap())
    }

    #[test]
    fn a_check_asks_for_the_host_of_the_config_or_for_the_address() {
        let to = Endpoint::parse("[fd00::2]:8080").unwrap();
        let mut health = Health { path: "/x".into(), ..Health::default() };
        let asked = |health: &Health| request(health, to).split("\r\n").take(2).collect::<Vec<_>>().join("|");
        assert_eq!(asked(&health), "GET /x HTTP/1.0|Host: [fd00::2]:8080");
        health.host = "www.example.com:81".into();
        assert_eq!(asked(&health), "GET /x HTTP/1.0|Host: www.example.com:81");
        assert!(request(&health, to).ends_with("\r\n\r\n"));
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
        assert_eq!(
            judged("HTTP/1.1 200 ready\r\n\r\nnot yet", true, "ready"),
            no("answered 200, but the body lacks `ready`")
        );
        assert_eq!(
            judged("HTTP/1.1 302 Found\r\n\r\n", true, &"long ".repeat(20)),
            no("answered 302, but the body lacks `long long long long long long long long …`")
        );
        assert_eq!(judged("HTTP/1.1 200 OK\r\nx: y\r\n\r\nall is ready", false, "ready"), Some(Ok(())));
        assert_eq!(judged("HTTP/1.1 503 OK\r\n\r\nready", true, "ready"), no("status 503"));
        for head in [
            "HTTP/1.0 200 OK\n\n",
            "HTTP/1.0 200 OK\r\nx: y\n\r\n",
            "HTTP/1.0 200 OK\nx: y\r\n\n",
            "HTTP/1.0 200 OK\n\n\n",
        ] {
            assert_eq!(judged(&format!("{head}all is ready"), false, "ready"), Some(Ok(())), "{head:?}");
        }
        assert_eq!(judged("HTTP/1.0 200 OK\nx: ready\r", false, "ready"), None);
        assert_eq!(judged("", true, "200"), no("the answer is no HTTP"));
    }
}
