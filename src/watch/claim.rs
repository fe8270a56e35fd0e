//! What `watch` knows of the backends, in a file that it holds: its states and the time of writing.
//!
//! The kernel tells which process holds it (fcntl(2), F_GETLK): a number in the file could be of another PID namespace, or
//! be reused by a later process. The holder must never open the file a second time, since closing that descriptor would
//! release the lock; other processes may open it, which has no effect on the lock.
//!
//! The first line has a fixed length: version, sequence number, time of writing ([`clock`], milliseconds), boot ID. The
//! sequence number is odd while the other lines are being written. One line for each checked backend follows, then `end`.
//! The rest of the file is space reserved for longer lines, so that writing works when the file system is full.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;

use crate::error::{fail, plain, Error};
use crate::host::before;
use crate::host::state::{boot, Folder};
use crate::net::Endpoint;
use crate::service::{Backend, Service, LONGEST_NAME};
use crate::sys::poll::{clock, pause};
use crate::sys::{file, process};
use crate::text::number;
use crate::watch::checker::{Condition, Seen};

/// The file's name.
const NAME: &str = "watch";

/// How the file begins: what it is, and the version of its format.
const BEGIN: &str = "paraglider 1";

/// The last line.
const END: &str = "end";

/// How often the file is read again if it is being written.
const TRIES: usize = 20;

/// Longest line of a backend without its two addresses: the words, three times, and the reason.
const LONGEST_REST: usize = 100 + LONGEST_REASON;

/// Longest reason of a failed check that is kept, in characters.
const LONGEST_REASON: usize = 80;

/// How long a `watch` may be silent until `status` says so, in milliseconds. It writes every 2 s.
const SILENCE: u64 = 10_000;

/// How much older than `interval` × `fall` a file may be that is believed, in milliseconds: the time of an upgrade.
const UPGRADE: u64 = 60_000;

/// The file, held by this process until it ends.
#[derive(Debug)]
pub struct Claim {
    file: File,
    path: String,
    boot: String,
    sequence: u64,
    /// Bytes of the file that are reserved.
    reserved: usize,
}

impl Claim {
    /// Fails if another `watch` is running; also returns what the last one knew.
    pub fn take(folder: &Folder) -> Result<(Self, Known), Error> {
        let file = folder.file(NAME, libc::O_RDWR | libc::O_CREAT);
        let mut file =
            file.map_err(|error| Error::system(format_args!("cannot open {NAME} in /run: {}", plain(&error))))?;
        let known = Known::read(&mut file, folder);
        if let Some(who) = known.who() {
            return fail!("another `paraglider watch` is running ({who})");
        }
        let locked = file::lock_record(&file);
        let locked =
            locked.map_err(|error| Error::system(format_args!("cannot lock {NAME} in /run: {}", plain(&error))))?;
        if !locked || before::watch(folder.base()).is_some_and(|watch| watch.runs) {
            return fail!("another `paraglider watch` is running");
        }
        Ok((Claim { file, path: folder.path(NAME), boot: boot(), sequence: 0, reserved: 0 }, known))
    }

    /// Reserves the space that the states of these services may ever take.
    pub fn reserve(&mut self, services: &[Service]) -> io::Result<()> {
        let mut most = self.header().len() + END.len() + 1;
        for service in services.iter().filter(|service| service.health.is_some()) {
            let bind = service.bind.to_string().len().max(LONGEST_NAME);
            for backend in &service.backends {
                most += bind + backend.address.to_string().len() + LONGEST_REST;
            }
        }
        if most > self.reserved {
            file::reserve(&self.file, most as u32)?;
            self.reserved = most;
        }
        Ok(())
    }

    /// Writes what is known now: a [`line`] for each backend.
    pub fn tell(&mut self, lines: &str) -> io::Result<()> {
        self.stay()?;
        self.sequence |= 1;
        self.begin()?;
        let begin = self.header().len() as u64;
        self.file.write_all_at(format!("{lines}{END}\n").as_bytes(), begin)?;
        self.sequence += 1;
        self.begin()
    }

    /// Heartbeat: writes the time alone. `false` if the file had been removed, so that all is to be told again.
    pub fn beat(&mut self) -> io::Result<bool> {
        let stayed = self.stay()?;
        self.begin()?;
        Ok(stayed)
    }

    /// Makes the file again if it was removed, since another `watch` would begin beside this one; `false` if so.
    fn stay(&mut self) -> io::Result<bool> {
        if file::exists(&self.path) {
            return Ok(true);
        }
        let file = file::open(&self.path, libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW)?;
        if !file::is_own_regular(&file) || !file::lock_record(&file)? {
            return Err(file::refusal("another process has made its file anew"));
        }
        file::reserve(&file, self.reserved as u32)?;
        self.file = file;
        // What is written is not whole before all was told.
        self.sequence |= 1;
        Ok(false)
    }

    fn begin(&self) -> io::Result<()> {
        self.file.write_all_at(self.header().as_bytes(), 0)
    }

    fn header(&self) -> String {
        format!("{BEGIN} {:010} {:016} {}\n", self.sequence, clock(), self.boot)
    }
}

/// What the file tells.
#[derive(Debug, Default)]
pub struct Known {
    /// The process of the `watch` that is running, if one is; 0 if it is in another PID namespace.
    pub watch: Option<u32>,
    /// What it knows, or knew at its end; nothing where that cannot be told.
    pub seen: Vec<Seen>,
    /// When it last wrote.
    written: Option<u64>,
    /// It is of version 0.1, which wrote only when something had changed.
    before: bool,
}

impl Known {
    /// Looks into the file. Not for the process that holds it.
    pub fn of(folder: &Folder) -> Self {
        match folder.file(NAME, libc::O_RDONLY) {
            Ok(mut file) => Self::read(&mut file, folder),
            Err(_) => Self::of_before(folder),
        }
    }

    /// What this process itself knew at that time.
    pub fn remembered(seen: Vec<Seen>, at: u64) -> Self {
        Known { watch: Some(0), seen, written: Some(at), before: false }
    }

    fn of_before(folder: &Folder) -> Self {
        before::watch(folder.base()).map_or_else(Self::default, |watch| Known {
            watch: None,
            seen: watch.lines.lines().filter_map(Seen::parse).collect(),
            written: Some(watch.written),
            before: true,
        })
    }

    fn read(file: &mut File, folder: &Folder) -> Self {
        let watch = file::lock_holder(file).unwrap_or(None);
        for _ in 0..TRIES {
            let (text, again) = (image(file), image(file));
            // While the first line changes, what is behind it may be half of this and half of that.
            if text.lines().next() != again.lines().next() {
                continue;
            }
            match parse(&text, &boot()) {
                Some((_, None)) if watch.is_some() => pause(1),
                Some((written, seen)) => {
                    return Known { watch, seen: seen.unwrap_or_default(), written: Some(written), before: false }
                }
                None => break,
            }
        }
        match watch {
            None => Self::of_before(folder),
            // The lock is held, so a watch is running, even if its file cannot be read.
            watch => Known { watch, ..Known::default() },
        }
    }

    /// The running `watch`, for people.
    pub fn who(&self) -> Option<String> {
        Some(match self.watch? {
            0 => "a process in another PID namespace".to_owned(),
            process => format!("process {process}"),
        })
    }

    /// For how many seconds the running `watch` has not written, if that is too long.
    pub fn silence(&self) -> Option<u64> {
        self.watch?;
        let age = clock().saturating_sub(self.written?);
        (age > SILENCE).then_some(age / 1000)
    }

    /// Wakes the running `watch` up, to look at what is meant; without that it does so within 2 s.
    pub fn wake(&self) {
        if let Some(process) = self.watch.filter(|process| *process > 1) {
            process::signal(process, libc::SIGUSR1);
        }
    }

    /// What can be believed of it about the backends of `services`: what is not older than a dead backend would have taken
    /// to be found, and, if no `watch` runs, agrees with the rules. `in_force` has the frontends with those of their
    /// backends that get new connections.
    pub fn believed(&self, services: &[Service], in_force: &[(Endpoint, Vec<Endpoint>)]) -> Vec<Seen> {
        let age = clock().saturating_sub(self.written.unwrap_or(0));
        let believed = |service: &Service| {
            let Some(health) = &service.health else { return false };
            let fresh = age <= health.interval * health.fall + UPGRADE;
            match in_force.iter().find(|(bind, _)| *bind == service.bind) {
                // One without backends was flushed by half, or refuses all connections: neither contradicts.
                Some((_, chosen)) if self.watch.is_none() && !chosen.is_empty() => {
                    let agrees = |one: &Seen| one.bind != service.bind || one.chosen == chosen.contains(&one.backend);
                    (fresh || self.before) && self.seen.iter().all(agrees)
                }
                _ => fresh,
            }
        };
        let mut kept = Vec::new();
        for service in services.iter().filter(|service| believed(service)) {
            kept.extend(self.seen.iter().filter(|one| one.bind == service.bind).cloned());
        }
        kept
    }
}

/// All that is in the file, as text.
fn image(file: &mut File) -> String {
    let mut bytes = Vec::new();
    if file.rewind().is_ok() {
        while bytes.len() < 1 << 20 && file::read_on(file, &mut bytes).unwrap_or(false) {}
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The time of writing, and the states unless they are being written.
fn parse(text: &str, boot: &str) -> Option<(u64, Option<Vec<Seen>>)> {
    let (header, lines) = text.split_once('\n')?;
    let mut words = header.strip_prefix(BEGIN)?.strip_prefix(' ')?.split(' ');
    let mut time = || number(words.next()?, u64::MAX);
    let (sequence, written) = (time()?, time()?);
    if words.next()? != boot {
        return None;
    }
    let mut seen = Vec::new();
    for line in lines.lines() {
        if line == END && sequence % 2 == 0 {
            return Some((written, Some(seen)));
        }
        seen.extend(Seen::parse(line));
    }
    Some((written, None))
}

impl Seen {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(8, ' ');
        let mut word = || words.next().unwrap_or("");
        let (place, backend) = (word(), Endpoint::parse(word()).ok()?);
        // One that is known by its name gets its bind when the config is known.
        let (bind, name) = match Endpoint::parse(place) {
            Ok(bind) => (bind, ""),
            Err(_) => (Endpoint::anywhere(backend.family(), 0), place),
        };
        let name = name.to_owned();
        let (state, chosen) = (word(), word() == "chosen");
        let (down, checked) = (state == "down", state != "unchecked");
        let mut time = || number(word(), u64::MAX);
        let (since, against, due) = (time()?, time()?, time()?);
        let condition = Condition { down, checked, since, against, error: word().to_owned() };
        Some(Seen { bind, name, backend, chosen, condition, due })
    }
}

/// Appends the line of a backend of the frontend that is known as `bind`.
pub fn line(to: &mut String, bind: &str, backend: &Backend, condition: &Condition, due: u64) {
    let Backend { address, weight, .. } = backend;
    let Condition { since, against, error, .. } = condition;
    let state = match condition {
        Condition { down: true, .. } => "down",
        Condition { checked: true, .. } => "up",
        _ => "unchecked",
    };
    let chosen = if *weight > 0 { "chosen" } else { "left" };
    let _ = write!(to, "{bind} {address} {state} {chosen} {since} {against} {due} ");
    to.extend(error.chars().take(LONGEST_REASON).map(|c| if c.is_ascii_graphic() { c } else { ' ' }));
    to.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIND: &str = "[fd00::1]:80";

    fn endpoint(text: &str) -> Endpoint {
        Endpoint::parse(text).unwrap()
    }

    fn backend(address: &str, weight: u16) -> Backend {
        Backend { address: endpoint(address), weight, nominal: 1, backup: false }
    }

    fn down() -> Condition {
        Condition { down: true, checked: true, since: 17, against: 1, error: "connection refused".into() }
    }

    fn claim(dir: &tempfile::TempDir) -> Claim {
        let path = dir.path().join("watch");
        let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
        Claim { file, path: "/".into(), boot: "b".into(), sequence: 0, reserved: 0 }
    }

    #[test]
    fn what_is_written_can_be_read_and_half_of_it_is_nothing() {
        let mut lines = String::new();
        line(&mut lines, BIND, &backend("[fd00::2]:80", 0), &down(), 18);
        line(&mut lines, BIND, &backend("[fd00::3]:80", 1), &Condition::default(), 19);
        let dir = tempfile::tempdir().unwrap();
        let mut claim = claim(&dir);
        claim.tell(&lines).unwrap();
        let text = image(&mut claim.file);
        let (written, seen) = parse(&text, "b").unwrap();
        let seen = seen.unwrap();
        assert!(clock() - written < 1000);
        assert_eq!((seen[0].bind, seen[0].backend), (endpoint(BIND), endpoint("[fd00::2]:80")));
        assert_eq!((seen[0].chosen, &seen[0].condition, seen[0].due), (false, &down(), 18));
        assert_eq!((seen[1].chosen, &seen[1].condition, seen[1].due), (true, &Condition::default(), 19));
        for length in 0..text.len() - 1 {
            assert!(parse(text.get(..length).unwrap(), "b").is_none_or(|(_, seen)| seen.is_none()), "{length}");
        }
        assert_eq!(parse(&text, "another boot"), None);
        // While it is being written.
        claim.sequence = 3;
        claim.beat().unwrap();
        assert!(matches!(parse(&image(&mut claim.file), "b"), Some((_, None))));
        // A sign of life leaves the rest alone.
        claim.sequence = 4;
        claim.beat().unwrap();
        assert_eq!(parse(&image(&mut claim.file), "b").unwrap().1.unwrap().len(), 2);
    }

    #[test]
    fn what_was_reserved_is_enough_for_the_longest_lines() {
        let yaml = b"frontend: {bind: '10.0.0.1:80', health: {}, backends: ['10.0.1.1:80', '10.0.1.2:80']}";
        let services = crate::config::parse(yaml).unwrap().services;
        let dir = tempfile::tempdir().unwrap();
        let mut claim = claim(&dir);
        claim.reserve(&services).unwrap();
        let size = || std::fs::metadata(dir.path().join("watch")).unwrap().len();
        let before = size();
        let far = u64::from(u32::MAX) * 1000;
        let longest =
            Condition { down: false, checked: false, since: far, against: 255, error: "\u{e9}\n".repeat(999) };
        let mut lines = String::new();
        for backend in &services[0].backends {
            line(&mut lines, &services[0].bind.to_string(), backend, &longest, far);
        }
        claim.tell(&lines).unwrap();
        assert_eq!(size(), before);
        assert_eq!(parse(&image(&mut claim.file), "b").unwrap().1.unwrap().len(), 2);
    }

    #[test]
    fn only_what_is_fresh_and_agrees_with_the_rules_is_believed() {
        let yaml = b"frontend: {bind: '10.0.0.1:80', health: {}, backends: ['10.0.1.1:80', '10.0.1.2:80']}";
        let services = crate::config::parse(yaml).unwrap().services;
        let [bind, one, two] = ["10.0.0.1:80", "10.0.1.1:80", "10.0.1.2:80"].map(endpoint);
        // 1 is down and left out.
        let believed = |watch: Option<u32>, age: u64, before: bool, rules: &[Endpoint]| {
            let of = |backend, down| {
                let condition = Condition { down, checked: true, ..Condition::default() };
                Seen { bind, name: String::new(), backend, chosen: !down, condition, due: 0 }
            };
            let written = Some(clock().saturating_sub(age));
            let known = Known { watch, seen: vec![of(one, true), of(two, false)], written, before };
            let in_force = [(bind, rules.to_vec())];
            known.believed(&services, if rules.is_empty() { &[] } else { &in_force }).len() == 2
        };
        // interval × fall + 60 s
        let (fresh, old) = (65_000, 66_500);
        for (watch, age, before, rules, expected) in [
            (None, fresh, false, vec![two], true),
            (None, fresh, false, vec![], true),
            (None, fresh, false, vec![one, two], false),
            (None, fresh, false, vec![one], false),
            // A backend of a config that came later says nothing.
            (None, fresh, false, vec![two, endpoint("10.0.1.3:80")], true),
            (None, old, false, vec![two], false),
            (None, old, false, vec![], false),
            (None, old, true, vec![two], true),
            (None, old, true, vec![], false),
            (Some(7), fresh, false, vec![one, two], true),
            (Some(7), old, false, vec![two], false),
        ] {
            // A machine that has just been started has no old files.
            if clock() > old {
                assert_eq!(believed(watch, age, before, &rules), expected, "{watch:?} {age} {before} {rules:?}");
            }
        }
    }
}
