//! One check of one backend, by TCP or UDP, on a non-blocking socket: it goes on whenever poll(2) has an event for it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use super::datagram;
use super::http::{judge, request, Verdict, MOST_ANSWER};
use crate::error::plain;
use crate::host::conntrack;
use crate::net::{Endpoint, Protocol};
use crate::service::health::{Health, Kind};
use crate::sys::file;
use crate::sys::socket;
use crate::watch::checker::Event;

/// How many checks by UDP there were, of which each has a number: a late answer to one is none to the next.
static CHECKS: AtomicU32 = AtomicU32::new(0);

/// A check that has begun.
#[derive(Debug)]
pub struct Probe {
    socket: File,
    to: Endpoint,
    /// The request has been sent.
    asked: bool,
    answer: Vec<u8>,
    /// Of a check by UDP, and when it asks once more: a datagram that was lost says nothing about the backend.
    number: u16,
    again: Option<u64>,
}

impl Drop for Probe {
    /// Ends the connection with an RST, so that no TIME_WAIT is left in this host's TCP, and lets the connection table
    /// forget it, where this host tracks its own connections: an entry would stay for 10 s after the RST, or for 2 minutes
    /// where the backend was silent (nf_conntrack_tcp_timeout_close and _syn_sent), and one by UDP for half a minute
    /// (nf_conntrack_udp_timeout); many checks would fill the table.
    fn drop(&mut self) {
        let from = socket::local(&self.socket);
        socket::abort(&self.socket);
        if let Ok(from) = from {
            conntrack::forget_own(from, self.to);
        }
    }
}

impl Probe {
    /// Begins to connect, or sends the datagram; the outcome comes as an event.
    pub fn begin(to: Endpoint, health: &Health, now: u64) -> io::Result<Self> {
        let to = to.of_protocol(health.kind.protocol());
        let by_udp = to.protocol() == Protocol::Udp;
        let kind = if by_udp { libc::SOCK_DGRAM } else { libc::SOCK_STREAM };
        let socket = socket::open(to.family().domain(), kind | libc::SOCK_NONBLOCK, 0)?;
        match socket::connect(&socket, to.ip(), to.port()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let mut probe = Probe { socket, to, asked: by_udp, answer: Vec::new(), number: 0, again: None };
        if by_udp {
            probe.number = CHECKS.fetch_add(1, Ordering::Relaxed) as u16;
            probe.again = Some(now + health.timeout / 2);
            probe.ask(health)?;
        }
        Ok(probe)
    }

    /// When [`go_on`](Self::go_on) has to be called without an event, by UDP.
    pub fn wake(&self) -> u64 {
        self.again.unwrap_or(u64::MAX)
    }

    fn ask(&mut self, health: &Health) -> io::Result<()> {
        self.socket.write_all(&datagram::question(health, self.number))
    }

    /// The descriptor, and what poll(2) has to wait for.
    pub fn events(&self) -> (RawFd, libc::c_short) {
        (self.socket.as_raw_fd(), if self.asked { libc::POLLIN } else { libc::POLLOUT })
    }

    /// Goes on: after one of [`events`](Self::events) if there was `any`, and at the time of [`wake`](Self::wake).
    pub fn go_on(&mut self, health: &Health, any: bool, now: u64) -> Event {
        let step = match self.to.protocol() {
            _ if !any && self.again.take_if(|at| now >= *at).is_some() => self.ask(health).map(|()| None),
            _ if !any => return Event::Silence,
            Protocol::Tcp => self.step(health),
            Protocol::Udp => self.hear(health),
        };
        match step {
            Ok(Some(verdict)) => Event::Ended(verdict),
            // What came to a check by UDP was nothing.
            Ok(None) if self.to.protocol() == Protocol::Udp => Event::Silence,
            Ok(None) => Event::Progress,
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => match health.kind {
                // Connected, and there is nothing to read yet.
                Kind::Tcp => Event::Ended(Ok(())),
                Kind::Http => Event::Progress,
                // A datagram whose checksum was wrong.
                Kind::Udp | Kind::Dns => Event::Silence,
            },
            // Of IPv6, EACCES is what a router or the backend itself answers (ICMPv6, administratively prohibited).
            Err(error) if is_ours(&error) && error.raw_os_error() != Some(libc::EACCES) => Event::Lapsed,
            Err(error) => Event::Ended(Err(plain(&error).to_ascii_lowercase())),
        }
    }

    fn step(&mut self, health: &Health) -> io::Result<Verdict> {
        if !self.asked {
            // An ICMP error that comes while connect(2) still runs, as on a veth, ends nothing (sk_err_soft in
            // net/ipv4/tcp_ipv4.c): only this tells it, and reading says EAGAIN as if we were connected.
            socket::failure(&self.socket)?;
        }
        let http = health.kind == Kind::Http;
        if http && !self.asked {
            // It fits into the empty send buffer of a new connection.
            self.socket.write_all(request(health, self.to).as_bytes())?;
            self.asked = true;
            return Ok(None);
        }
        // If the connection failed, this read returns the reason.
        let more = file::read_on(&mut self.socket, &mut self.answer)?;
        if !http {
            return Ok(Some(Ok(())));
        }
        Ok(judge(&self.answer, !more || self.answer.len() >= MOST_ANSWER, health))
    }

    /// Receives one datagram, or why none will come: the port of the backend is closed (ICMP).
    fn hear(&mut self, health: &Health) -> io::Result<Verdict> {
        self.answer.clear();
        file::read_on(&mut self.socket, &mut self.answer)?;
        Ok(datagram::judge(&self.answer, self.number, health))
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
