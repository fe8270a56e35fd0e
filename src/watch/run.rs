//! `watch`: the config in force, backends that are down taken out, and the rules put back if somebody changes them. One
//! thread and one poll(2); the rules stay whatever becomes of it.

use crate::config;
use crate::engine::{self, transaction, Engine};
use crate::error::{Error, Exit};
use crate::host::conntrack;
use crate::host::forwarding;
use crate::host::lock::Lock;
use crate::net::Endpoint;
use crate::serve;
use crate::service::health::Health;
use crate::service::Service;
use crate::sys::log;
use crate::sys::poll::clock;
use crate::sys::poll::{self, Signals};
use crate::watch::claim::{self, Claim};
use crate::watch::probe::{sentence, Probe, Verdict};
use crate::watch::state::State;

/// How often the rules are looked at, in milliseconds.
const LOOK: u64 = 2000;

/// In how many parts the backends of a frontend are checked.
const BURSTS: u64 = 4;

/// Descriptors that are kept for all else: programs, their words, logging.
const SPARE: usize = 32;

/// How long a check is put off that cannot begin, in milliseconds.
const PUT_OFF: u64 = 50;

/// A backend that is checked.
#[derive(Default)]
struct Target {
    state: State,
    /// The check that runs, if one does.
    probe: Option<Probe>,
    /// When that check has failed, or when the next one begins.
    due: u64,
    /// When the last check began.
    begun: u64,
    /// Its connections have been ended.
    forgotten: bool,
}

struct Watch<'a> {
    path: &'a str,
    engines: &'a [Box<dyn Engine>],
    signals: Signals,
    claim: Claim,
    services: Vec<Service>,
    /// For each service one for each backend, or none at all.
    targets: Vec<Vec<Target>>,
    /// The rules are not yet what they ought to be.
    pending: bool,
    /// When the rules are looked at next.
    look: u64,
    /// Of the rules, when they were last read.
    stamp: Option<u64>,
    /// What went wrong last, so that it is said once.
    trouble: String,
    /// So many checks may run at a time.
    most: usize,
}

/// Watches until a signal ends it.
pub fn run(path: &str) -> Result<Exit, Error> {
    let services = config::load(path)?;
    let engines = engine::find()?;
    // First: to whom the claim tells our number may send signals.
    let signals = Signals::catch().map_err(|error| Error::system(format_args!("cannot wait for signals: {error}")))?;
    let claim = Claim::take()?;
    let mut watch = Watch {
        path,
        engines: &engines,
        signals,
        claim,
        services: Vec::new(),
        targets: Vec::new(),
        pending: true,
        look: 0,
        stamp: None,
        trouble: String::new(),
        most: poll::descriptors().saturating_sub(SPARE),
    };
    watch.take(services);
    // Before a `stop` asks whose the claim is.
    watch.tell()?;
    if watch.put_right()? {
        serve::say_who_is_balanced(&engines, &watch.services);
    }
    watch.work();
    log::info!("no longer watching; the rules stay as they are");
    Ok(Exit::Done)
}

impl Watch<'_> {
    /// Takes a config, with what is written down of its backends.
    fn take(&mut self, services: Vec<Service>) {
        let seen = self.claim.last();
        self.services = services;
        claim::recall(&seen, &mut self.services);
        let now = clock();
        self.targets.clear();
        for service in &self.services {
            let mut targets = Vec::new();
            if let Some(health) = &service.health {
                for (at, backend) in (0..).zip(&service.backends) {
                    // Not all at once, and not each by itself: to wake up costs more than the check.
                    let due = now + health.pace() * (at % BURSTS) / BURSTS;
                    let mut target = Target { due, ..Target::default() };
                    target.state.since = now;
                    if let Some(known) = claim::of(&seen, service.bind, backend.address) {
                        target.state.clone_from(&known.state);
                        // A file that has outlived the machine tells of another clock.
                        target.state.since = now.min(known.state.since);
                        target.due = due.min(known.due);
                    }
                    targets.push(target);
                }
            }
            self.targets.push(targets);
        }
        (self.pending, self.look) = (true, 0);
    }

    /// Checks, looks and answers signals until one of them ends it.
    fn work(&mut self) {
        // After a `stop` nothing is done until somebody starts again.
        let mut resting = false;
        loop {
            let mut events = vec![poll::pollfd(self.signals.descriptor(), libc::POLLIN)];
            let mut next = self.look;
            for target in self.targets.iter().flatten() {
                next = next.min(target.due);
                if let Some(probe) = &target.probe {
                    let (descriptor, what) = probe.events();
                    events.push(poll::pollfd(descriptor, what));
                }
            }
            if resting {
                events.truncate(1);
                next = u64::MAX;
            }
            poll::wait(&mut events, next.saturating_sub(clock()));
            while let Some(signal) = self.signals.next() {
                match signal {
                    libc::SIGHUP => resting &= !self.reload(),
                    libc::SIGUSR1 => {
                        // A `start` may have come after it, whose signal has the smaller number and so is read first.
                        let _lock = Lock::take();
                        resting = !transaction::read(self.engines)
                            .is_ok_and(|views| serve::in_force(&views).any(|frontend| !frontend.draining));
                        if resting {
                            log::info!("the rules were stopped; watching goes on when they are started");
                        }
                    }
                    _ => return,
                }
                // What they were for may be gone.
                events.truncate(1);
            }
            if resting {
                continue;
            }
            self.check(&events, clock());
            let before = clock();
            if before >= self.look {
                let done = self.put_right().unwrap_or_else(|error| {
                    self.complain(&error);
                    true
                });
                let after = clock();
                self.look = if done { after + LOOK } else { 0 };
                // Nobody was listened to meanwhile.
                for target in self.targets.iter_mut().flatten().filter(|target| target.probe.is_some()) {
                    target.due += after - before;
                }
            }
        }
    }

    /// Reads the config anew; tells whether it is good.
    fn reload(&mut self) -> bool {
        match config::load(self.path) {
            Ok(services) => {
                log::info!("read the config anew");
                // What was seen since the file was written.
                if let Err(error) = self.tell() {
                    self.complain(&error);
                }
                self.take(services);
                true
            }
            Err(error) => {
                log::warning!("{error}; the config from before stays in force");
                false
            }
        }
    }

    /// Begins the checks that are due, and goes on with those that run. `events` are theirs, after that of the signals.
    fn check(&mut self, events: &[libc::pollfd], now: u64) {
        let mut running = self.targets.iter().flatten().filter(|target| target.probe.is_some()).count();
        let mut events = events.iter().skip(1);
        for (service, targets) in self.services.iter_mut().zip(&mut self.targets) {
            let Some(health) = &service.health else { continue };
            let mut turned = false;
            for (backend, target) in service.backends.iter().zip(&mut *targets) {
                let to = backend.address.with_port(health.port);
                let verdict = match &mut target.probe {
                    Some(_) => target.go_on(events.next(), health, to, now),
                    None if target.due > now => None,
                    None if running < self.most => {
                        running += 1;
                        target.begin(health, to, now)
                    }
                    None => {
                        target.due = now + PUT_OFF;
                        None
                    }
                };
                let Some(result) = verdict else { continue };
                target.probe = None;
                target.due = now.max(target.begun + health.pace());
                if target.state.judge(result, now, health) {
                    turned = true;
                    target.forgotten = false;
                    let (backend, bind) = (backend.address, service.bind);
                    match target.state.down {
                        true => log::warning!("{backend} of {bind} is down ({})", target.state.error),
                        false => log::info!("{backend} of {bind} is up"),
                    }
                }
            }
            if turned {
                let reject = health.reject;
                let mut down = Vec::new();
                for (backend, target) in service.backends.iter().zip(targets) {
                    if target.state.down {
                        down.push(backend.address);
                    }
                }
                if down.len() == service.backends.len() {
                    let what = if reject { "new connections are refused" } else { "the last ones stay in force" };
                    log::warning!("{}: all backends are down; {what}", service.bind);
                }
                service.choose(&down);
                (self.pending, self.look) = (true, 0);
            }
        }
    }

    /// Puts the rules in force, if they are to change or somebody has changed them. It may be that a signal comes first.
    fn put_right(&mut self) -> Result<bool, Error> {
        let stamp = self.engines.first().and_then(|engine| engine.stamp());
        let forwards = |service: &Service| forwarding::forwards(service.bind.family());
        if !self.pending && stamp.is_some() && stamp == self.stamp && self.services.iter().all(forwards) {
            return Ok(true);
        }
        let _lock = Lock::take()?;
        // Whoever had the lock, a `stop` or a `start`, has told so before it let go of it.
        if self.signals.any() {
            return Ok(false);
        }
        let changed = serve::put_in_force(self.engines, &transaction::read(self.engines)?, &self.services)?;
        if changed && !self.pending {
            log::warning!("somebody changed the rules; put them right");
        }
        // It was asked for before the rules were read, so no change between the two is missed.
        self.stamp = stamp;
        if self.pending {
            self.pending = false;
            let told = self.tell();
            self.forget()?;
            told?;
        }
        self.trouble.clear();
        Ok(true)
    }

    /// Ends the connections to backends that are down and no longer chosen.
    fn forget(&mut self) -> Result<(), Error> {
        for (service, targets) in self.services.iter().zip(&mut self.targets) {
            let mut gone = Vec::new();
            for (backend, target) in service.backends.iter().zip(targets) {
                // One that drains keeps them: it may have stopped listening, and serve them to their end.
                if target.state.down && backend.weight == 0 && backend.nominal > 0 && !target.forgotten {
                    target.forgotten = true;
                    gone.push(backend.address);
                }
            }
            if !gone.is_empty() {
                conntrack::forget(&[service.bind], &|connection| gone.contains(&connection.backend))?;
            }
        }
        Ok(())
    }

    /// Writes down how the backends do.
    fn tell(&mut self) -> Result<(), Error> {
        let mut lines = String::new();
        for (service, targets) in self.services.iter().zip(&self.targets) {
            for (backend, Target { state, due, .. }) in service.backends.iter().zip(targets) {
                claim::line(&mut lines, service.bind, backend, state, *due);
            }
        }
        self.claim
            .tell(self.path, &lines)
            .map_err(|error| Error::system(format_args!("cannot write into /run: {error}")))
    }

    /// Says what went wrong, once.
    fn complain(&mut self, error: &Error) {
        let trouble = error.to_string();
        if trouble != self.trouble {
            log::sentence(log::Level::Error, format_args!("{trouble}"));
            self.trouble = trouble;
        }
    }
}

impl Target {
    fn begin(&mut self, health: &Health, to: Endpoint, now: u64) -> Verdict {
        self.begun = now;
        self.due = now + health.timeout;
        match Probe::begin(to) {
            Ok(probe) => {
                self.probe = Some(probe);
                None
            }
            // This host's own trouble says nothing about the backend.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL)
                ) =>
            {
                self.due = now + PUT_OFF;
                None
            }
            Err(error) => Some(Err(sentence(&error))),
        }
    }

    fn go_on(&mut self, event: Option<&libc::pollfd>, health: &Health, to: Endpoint, now: u64) -> Verdict {
        let told = event.is_some_and(|event| event.revents != 0);
        let verdict = if told { self.probe.as_mut().and_then(|probe| probe.go_on(health, to)) } else { None };
        // If this process or the machine stood still, whoever has just answered gets as much time again.
        let late = now >= self.due + if told { health.timeout } else { 0 };
        verdict.or_else(|| late.then(|| Err(format!("no answer within {} ms", health.timeout))))
    }
}
