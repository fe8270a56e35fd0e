//! What a running `watch` knows, in a file that it keeps locked: who it is, and how each backend does.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Seek, Write};

use crate::error::{fail, plain, Error};
use crate::host::lock;
use crate::net::Endpoint;
use crate::service::{Backend, Service};
use crate::sys::{file, process};
use crate::text::number;
use crate::watch::state::State;

/// How a backend does. As text it is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The frontend.
    pub bind: Endpoint,
    /// The backend.
    pub backend: Endpoint,
    /// It is chosen to take connections.
    pub chosen: bool,
    /// What its checks tell; times are those of [`poll::clock`].
    pub state: State,
    /// When its next check is due.
    pub due: u64,
}

/// The end of the file: a reader that does not find it has come while it was written.
const END: &str = "end";

/// How often something is tried that fails only for a moment.
const TRIES: usize = 10;

/// The file, locked by this process until it ends.
#[derive(Debug)]
pub struct Claim(File);

impl Claim {
    /// Fails if another `watch` is running.
    pub fn take() -> Result<Self, Error> {
        let path = path();
        // Not truncated: it is the other one's, until the lock says no.
        let file = file::open(&path, libc::O_RDWR | libc::O_CREAT);
        let file = file.map_err(|error| Error::system(format_args!("cannot open {path}: {}", plain(&error))))?;
        // Whoever asks whether a `watch` is running has the lock for a moment.
        for _ in 0..TRIES {
            if file::try_lock(&file, false) {
                return Ok(Claim(file));
            }
            if let Some(Running { process, .. }) = running() {
                return fail!("another `paraglider watch` is running (process {process})");
            }
        }
        fail!("{path} is locked by somebody else")
    }

    /// What the last `watch` knew at its end.
    pub fn last(&self) -> Vec<Seen> {
        parse(&file::read(&path())).map_or_else(Vec::new, |running| running.seen)
    }

    /// Writes what is known now.
    pub fn tell(&mut self, config: &str, lines: &str) -> io::Result<()> {
        let text = format!("{} {config}\n{lines}{END}\n", std::process::id());
        self.0.rewind()?;
        self.0.write_all(text.as_bytes())?;
        self.0.set_len(text.len() as u64)
    }
}

/// A `watch` that is running.
#[derive(Debug)]
pub struct Running {
    /// Its process.
    pub process: u32,
    /// The path of its config, as it was given.
    pub config: String,
    /// What it knows.
    pub seen: Vec<Seen>,
}

impl Running {
    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) {
        process::signal(self.process, signal);
    }
}

/// The `watch` that is running, if any.
pub fn running() -> Option<Running> {
    let path = path();
    let file = file::open(&path, libc::O_RDONLY).ok()?;
    if file::try_lock(&file, true) {
        return None;
    }
    parse(&file::read(&path))
}

fn path() -> String {
    lock::run_file("paraglider.watch")
}

fn parse(text: &str) -> Option<Running> {
    let mut lines = text.lines();
    let (process, config) = lines.next()?.split_once(' ')?;
    let (process, config) = (number(process, u32::MAX.into())? as u32, config.to_owned());
    let mut seen = Vec::new();
    for line in lines {
        if line == END {
            return Some(Running { process, config, seen });
        }
        seen.extend(Seen::parse(line));
    }
    None
}

impl Seen {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(8, ' ');
        let mut word = || words.next().unwrap_or("");
        let (bind, backend) = (Endpoint::parse(word()).ok()?, Endpoint::parse(word()).ok()?);
        let (down, chosen) = (word() == "down", word() == "chosen");
        let mut time = || number(word(), u64::MAX);
        let (since, against, due) = (time()?, time()?, time()?);
        let state = State { down, since, against, error: word().to_owned() };
        Some(Seen { bind, backend, chosen, state, due })
    }
}

/// Appends the line of a backend.
pub fn line(to: &mut String, bind: Endpoint, backend: &Backend, state: &State, due: u64) {
    let Backend { address, weight, .. } = backend;
    let State { since, against, error, .. } = state;
    let down = if state.down { "down" } else { "up" };
    let chosen = if *weight > 0 { "chosen" } else { "left" };
    let _ = writeln!(to, "{bind} {address} {down} {chosen} {since} {against} {due} {error}");
}

/// What is known of a backend.
pub fn of(seen: &[Seen], bind: Endpoint, backend: Endpoint) -> Option<&Seen> {
    seen.iter().find(|seen| seen.bind == bind && seen.backend == backend)
}

/// Chooses backends as the `watch` that saw them does.
pub fn recall(seen: &[Seen], services: &mut [Service]) {
    for service in services.iter_mut().filter(|service| service.health.is_some()) {
        let bind = service.bind;
        let mut down = Vec::new();
        for backend in &mut service.backends {
            if let Some(known) = of(seen, bind, backend.address) {
                backend.weight = if known.chosen { backend.nominal } else { 0 };
                if known.state.down {
                    down.push(backend.address);
                }
            }
        }
        service.choose(&down);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_and_half_of_it_is_nothing() {
        let endpoint = |text| Endpoint::parse(text).unwrap();
        let bind = endpoint("[fd00::1]:80");
        let backend = Backend { address: endpoint("10.0.0.1:80"), weight: 0, nominal: 1, backup: false };
        let state = State { down: true, since: 17, against: 1, error: "connection refused".into() };
        let mut whole = "7 /etc/x y.yaml\n".to_owned();
        line(&mut whole, bind, &backend, &state, 18);
        whole.push_str("end\n");
        let read = parse(&whole).unwrap();
        assert_eq!((read.process, read.config.as_str()), (7, "/etc/x y.yaml"));
        assert_eq!(read.seen, [Seen { bind, backend: backend.address, chosen: false, state, due: 18 }]);
        for length in 0..whole.len() - 1 {
            assert!(parse(whole.get(..length).unwrap()).is_none(), "{length}");
        }
    }
}
