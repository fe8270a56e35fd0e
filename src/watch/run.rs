//! `watch`: the config that is meant is in force, backends that are down are taken out, and the rules are put back if
//! others change them. One thread and one poll(2); the rules stay whatever becomes of it.

use std::rc::Rc;

use crate::engine::choice::{self, Engines};
use crate::engine::{transaction, Level};
use crate::error::{Error, Exit};
use crate::host::before;
use crate::host::forwarding;
use crate::host::nft::firewall4;
use crate::host::state::{Folder, MEANT};
use crate::serve::{self, Config, Waiting};
use crate::service::{Preference, Service};
use crate::sys::log;
use crate::sys::netlink::Addresses;
use crate::sys::poll;
use crate::sys::poll::clock;
use crate::sys::signal::Signals;
use crate::watch::checker::{self, All, Seen};
use crate::watch::claim::{self, Claim, Known};
use crate::watch::presence::Presence;
use crate::watch::probe::Probe;

/// How often the rules, and what is meant, are looked at, in milliseconds.
const LOOK: u64 = 2000;

/// How long after an address has come or gone the rules follow it, in milliseconds: seldom it is the only one.
const SETTLE: u64 = 100;

/// How soon the lock is tried again that another run has, in milliseconds.
const AGAIN: u64 = 50;

/// Descriptors that are kept for all else: programs, their output, logging.
const SPARE: usize = 32;

pub(super) struct Watch<'a> {
    /// Its own config, for SIGHUP.
    pub(super) path: &'a str,
    /// What writes the rules, as the config in force has it; and all places where rules can be. Shared with what is read
    /// of them, so that a config can be taken meanwhile.
    pub(super) engine: Preference,
    pub(super) engines: Rc<Engines>,
    /// A verb has run, which may have found another iptables than we did, or none.
    pub(super) find: bool,
    pub(super) signals: Signals,
    pub(super) folder: Folder,
    pub(super) claim: Claim,
    /// The config that is in force, as text.
    pub(super) text: Vec<u8>,
    /// Of what is meant, when that was last read.
    pub(super) stamp: Option<[u64; 4]>,
    pub(super) services: Vec<Service>,
    pub(super) checked: All<Probe>,
    /// Since when it rests, because nothing is meant to be in force.
    pub(super) resting: Option<u64>,
    /// SIGHUP has come: the own config is to be read.
    pub(super) reread: bool,
    /// The rules are not yet what they ought to be.
    pub(super) pending: bool,
    /// What is known of the backends is not yet written down.
    pub(super) untold: bool,
    /// Frontends that wait for the address of an interface, and what was known of their backends.
    pub(super) waiting: Vec<Waiting>,
    pub(super) away: Vec<Seen>,
    /// Tells of addresses that come and go, if a bind follows an interface.
    pub(super) addresses: Option<Addresses>,
    /// An address may have come or gone.
    pub(super) moved: bool,
    /// A bind follows an interface, and nobody tells of addresses.
    pub(super) blind: bool,
    /// Which addresses of the config are this host's, and the like.
    pub(super) presence: Presence,
    /// When the rules are looked at next.
    pub(super) look: u64,
    /// Of the rules, when they were last read.
    pub(super) rules: Option<u64>,
    /// What went wrong last, so that it is said once: with the rules; with writing into /run; with ending connections.
    pub(super) trouble: [String; 3],
    /// How many checks may run at the same time.
    pub(super) most: usize,
}

/// Watches until a signal ends it. It begins with a start of the config at `path`; with `again` of the one that is meant, or
/// with a rest if none is.
pub fn run(path: &str, again: bool) -> Result<Exit, Error> {
    let given = if again { None } else { Some(serve::load(path)?) };
    let engine = given.as_ref().map_or(Preference::Auto, |config| config.engine);
    let engines = choice::find(engine)?;
    // Before the file is claimed: from then on `start` and `stop` send us signals.
    let signals = Signals::catch().map_err(|error| Error::system(format_args!("cannot wait for signals: {error}")))?;
    let folder = Folder::open()?;
    let (claim, known) = Claim::take(&folder)?;
    let lock = loop {
        if let Some(lock) = folder.try_lock()? {
            break lock;
        }
        poll::wait(&mut [poll::pollfd(signals.descriptor(), libc::POLLIN)], AGAIN);
        // SIGHUP and SIGUSR1 can be ignored: everything is read after this loop.
        if matches!(signals.next(), Some(libc::SIGTERM | libc::SIGINT)) {
            return Ok(Exit::Done);
        }
    };
    serve::heal(&folder, &engines)?;
    let config = match (given, folder.meant()?) {
        (Some(given), _) => Some(given),
        (None, None) => None,
        // It was in the memory of a watch that is gone.
        (None, Some(text)) if text.is_empty() => Some(serve::load(path)?),
        (None, Some(text)) => Some(serve::judged(MEANT, text)?),
    };
    let mut watch = Watch {
        path,
        engine,
        engines: Rc::new(engines),
        find: false,
        signals,
        folder,
        claim,
        text: Vec::new(),
        stamp: None,
        services: Vec::new(),
        checked: Vec::new(),
        resting: None,
        reread: false,
        pending: false,
        untold: false,
        waiting: Vec::new(),
        away: Vec::new(),
        addresses: None,
        moved: false,
        blind: false,
        presence: Presence::default(),
        look: 0,
        rules: None,
        trouble: [const { String::new() }; 3],
        most: poll::descriptors().saturating_sub(SPARE).max(1),
    };
    match config {
        Some(config) => watch.begin(config, known, again)?,
        None => watch.rest(),
    }
    drop(lock);
    watch.work();
    log::info!("no longer watching; the rules stay as they are");
    Ok(Exit::Done)
}

impl Watch<'_> {
    /// The start that a watch begins with, under the lock.
    fn begin(&mut self, config: Config, mut known: Known, again: bool) -> Result<(), Error> {
        let Config { text, engine, services, waiting } = config;
        self.text = text;
        if engine != self.engine {
            self.write_by(engine)?;
        }
        let engines = self.engines.clone();
        let rules = engines.first().and_then(|engine| engine.stamp());
        let views = transaction::read(&engines)?;
        checker::follow(&mut known.seen, &services);
        let seen = known.believed(&services, &serve::chosen(&views));
        self.draft()?;
        self.take(services, waiting, &seen);
        let changed = serve::put_in_force(&engines, &views, &self.services, &|| self.folder.mean());
        if changed.is_err() {
            self.folder.discard();
        }
        let changed = changed?;
        self.rules = if changed { None } else { rules };
        self.stamp = self.folder.stamp()?;
        (self.pending, self.look) = (false, clock() + LOOK);
        self.tell();
        before::clean(self.folder.base());
        // The `start` before has said the rest.
        let backends = self.checked.iter().map(|group| group.backends.len()).sum();
        match backends {
            0 => log::info!("watching the rules"),
            _ => log::info!("watching the rules and {}", log::count(backends, "backend")),
        }
        if changed {
            serve::say_who_is_balanced(&engines, &self.services);
        }
        for one in self.waiting.iter().filter(|_| changed || !again) {
            log::info!("{one}");
        }
        self.presence.look(&self.services);
        if changed || !again {
            serve::say_what_others_do(&views, &self.services, if changed { Level::Warning } else { Level::Error });
        }
        Ok(())
    }

    /// Finds the engines for a config. If that fails, all stays as it is.
    pub(super) fn write_by(&mut self, engine: Preference) -> Result<(), Error> {
        self.engines = Rc::new(choice::find(engine)?);
        (self.engine, self.find) = (engine, false);
        Ok(())
    }

    /// Takes a config, with what was `seen` of its backends.
    pub(super) fn take(&mut self, services: Vec<Service>, waiting: Vec<Waiting>, seen: &[Seen]) {
        self.wait_for(waiting, &services);
        let old = std::mem::replace(&mut self.services, services);
        checker::recall(seen, &mut self.services);
        let checked = std::mem::take(&mut self.checked);
        self.checked = checker::take((&old, checked), &self.services, seen, clock());
        (self.pending, self.look) = (true, 0);
        if let Err(error) = self.claim.reserve(&self.services) {
            self.cannot_write(Error::system(format_args!("{error}")));
        }
    }

    /// Checks, looks and answers signals until one of them ends it.
    fn work(&mut self) {
        loop {
            let addresses = self.addresses.as_ref().map_or(-1, Addresses::descriptor);
            let mut events =
                vec![poll::pollfd(self.signals.descriptor(), libc::POLLIN), poll::pollfd(addresses, libc::POLLIN)];
            let mut next = self.look;
            if self.resting.is_none() {
                for (service, group) in self.services.iter().zip(&self.checked) {
                    let Some(health) = &service.health else { continue };
                    for one in &group.backends {
                        next = next.min(one.wake(health));
                        if let Some(check) = &one.check {
                            next = next.min(check.wake());
                            let (descriptor, what) = check.events();
                            events.push(poll::pollfd(descriptor, what));
                        }
                    }
                }
            }
            poll::wait(&mut events, next.saturating_sub(clock()));
            while let Some(signal) = self.signals.next() {
                match signal {
                    libc::SIGHUP => self.reread = true,
                    // `start` or `stop` has changed what is meant, which counts more than an earlier SIGHUP.
                    libc::SIGUSR1 => self.reread = false,
                    _ => return,
                }
                (self.look, self.find, self.moved) = (0, true, true);
            }
            if self.addresses.as_mut().is_some_and(Addresses::changed) {
                self.moved = true;
                self.look = self.look.min(clock() + SETTLE);
            }
            if self.resting.is_none() {
                self.check(&events, clock());
            }
            let before = clock();
            if before >= self.look {
                let looked = self.reconcile();
                // A rest may have begun.
                if self.resting.is_none() {
                    self.presence.look(&self.services);
                }
                let after = clock();
                self.look = after + if matches!(looked, Ok(false)) { AGAIN } else { LOOK };
                match looked {
                    Ok(true) => self.trouble[0].clear(),
                    Ok(false) => {}
                    Err(error) => self.complain(&error),
                }
                // Running checks could not go on meanwhile.
                for one in self.checked.iter_mut().flat_map(|group| &mut group.backends) {
                    one.stood_still(after - before);
                }
            }
            if self.untold && !self.pending {
                self.tell();
            }
        }
    }

    /// Makes the kernel's rules those of the config that is meant, if they are not. Tells whether it could: another run may
    /// have the lock.
    fn reconcile(&mut self) -> Result<bool, Error> {
        self.follow_addresses()?;
        let rules = self.engines.first().and_then(|engine| engine.stamp());
        let forwards = |service: &Service| forwarding::forwards(service.bind.family());
        let right = !self.pending && rules.is_some() && rules == self.rules && self.services.iter().all(forwards);
        // The stamp is that of our engine, which is not always nf_tables.
        let right = right && firewall4::has(&serve::wanted(&self.services));
        if !self.reread && self.folder.stamp()? == self.stamp {
            // At rest nothing is written, so the age of the file is that of the last checks.
            if self.resting.is_some() {
                return Ok(true);
            }
            if right {
                match self.claim.beat() {
                    Ok(stayed) => self.untold |= !stayed,
                    Err(error) => self.cannot_write(Error::system(format_args!("{error}"))),
                }
                self.forget();
                return Ok(true);
            }
        }
        let Some(_lock) = self.folder.try_lock()? else { return Ok(false) };
        if self.find {
            self.write_by(self.engine)?;
        }
        if !self.heed()? {
            return Ok(true);
        }
        // A rest may have ended, in which an address has changed.
        self.follow_addresses()?;
        // The engine may be another one by now.
        let engines = self.engines.clone();
        let rules = engines.first().and_then(|engine| engine.stamp());
        let views = transaction::read(&engines)?;
        let changed = serve::put_in_force(&engines, &views, &self.services, &|| Ok(()))?;
        if changed && !self.pending {
            log::warning!("another program changed the rules; put them right");
        }
        // The stamp was taken before the rules were read, so no change in between is missed. After a write of our own the
        // next look reads once more: the stamp of iptables-legacy is a hash, and a flush would bring the old one back.
        self.rules = if changed { None } else { rules };
        self.pending = false;
        self.tell();
        self.forget();
        Ok(true)
    }

    /// Writes down how the backends do.
    fn tell(&mut self) {
        self.untold = false;
        let mut lines = String::new();
        for (service, group) in self.services.iter().zip(&self.checked) {
            let bind = service.known_as().map_or_else(|| service.bind.to_string(), str::to_owned);
            for (backend, one) in service.backends.iter().zip(&group.backends) {
                claim::line(&mut lines, &bind, backend, &one.condition, one.due);
            }
        }
        match self.claim.tell(&lines) {
            Ok(()) => self.trouble[1].clear(),
            Err(error) => self.cannot_write(Error::system(format_args!("{error}"))),
        }
    }

    /// Says once that nothing can be written into /run: we go on with what is in memory.
    pub(super) fn cannot_write(&mut self, error: Error) {
        let [_, trouble, _] = &mut self.trouble;
        if trouble.is_empty() {
            log::warning!("cannot write into /run ({error}); going on from memory");
            trouble.push('!');
        }
    }

    /// Says what went wrong, once.
    fn complain(&mut self, error: &Error) {
        let [trouble, ..] = &mut self.trouble;
        once(trouble, error, log::Level::Error);
    }

    /// Says once that connections to dead backends cannot be ended; it is tried again at each look.
    pub(super) fn cannot_end(&mut self, error: &Error) {
        let [.., trouble] = &mut self.trouble;
        once(trouble, error, log::Level::Warn);
    }

    /// Connections could be ended.
    pub(super) fn could_end(&mut self) {
        let [.., trouble] = &mut self.trouble;
        trouble.clear();
    }
}

/// Says an error, unless it is what was said last.
fn once(last: &mut String, error: &Error, level: log::Level) {
    let said = error.to_string();
    if said != *last {
        log::sentence(level, format_args!("{said}"));
        *last = said;
    }
}
