//! What a valid config means, as plain data. The types cannot represent an invalid config, so no layer above has to check.

mod bind;
mod interface;
mod name;
mod ports;
mod source;

pub mod health;

pub use self::bind::Bind;
use self::health::Health;
pub use self::interface::{Interface, Written};
pub use self::name::{Name, LONGEST_NAME};
pub use self::ports::{are_several, Ports};
pub use self::source::{Source, MOST_SOURCES};
use crate::error::{refuse, Error};
use crate::net::{Endpoint, Protocol};
use crate::text::{number, one_of, Shown};

/// Most backends of one frontend.
pub const MOST_BACKENDS: usize = 1024;

/// Largest weight of a backend.
pub const MOST_WEIGHT: u16 = 256;

/// Reads a weight, 0 to [`MOST_WEIGHT`].
pub fn weight(text: &str) -> Result<u16, Error> {
    match number(text, MOST_WEIGHT.into()) {
        Some(weight) if text == "0" || !text.starts_with('0') => Ok(weight as u16),
        _ => refuse!("weight `{}` is not in 0-{MOST_WEIGHT}", Shown(text)),
    }
}

/// A host and port to which connections go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Where its connections go. Of a frontend with several ports it may have port 0, which is the client's.
    pub address: Endpoint,
    /// Its share of the new connections, in proportion to the other weights; at most [`MOST_WEIGHT`]. With 0 it gets no
    /// new connections and keeps the established ones.
    pub weight: u16,
    /// The weight that the config gives it, which it has while it is chosen ([`Service::choose`]).
    pub nominal: u16,
    /// It is chosen only while no backend without this mark takes connections.
    pub backup: bool,
}

/// How the backend of a new connection is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Schedule {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// At random, by weight.
    Random,
    /// By the client's address: the same client gets the same backend.
    Source,
}

impl Schedule {
    /// All schedules with their names in the config.
    pub const ALL: [(&'static str, Schedule); 3] =
        [("roundrobin", Schedule::RoundRobin), ("random", Schedule::Random), ("source", Schedule::Source)];

    /// Reads the name of a schedule.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let at = one_of("unknown schedule", &Self::ALL.map(|(name, _)| name), text)?;
        Ok(Self::ALL.get(at).map_or(Schedule::RoundRobin, |(_, schedule)| *schedule))
    }
}

/// What is to write the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preference {
    /// iptables where it is installed, since its FORWARD chain may drop and only its own rules can let through there; else
    /// nftables.
    #[default]
    Auto,
    /// iptables, in the variant that is installed.
    Iptables,
    /// nftables, without any program.
    Nftables,
}

impl Preference {
    /// All of them with their names in the config.
    pub const ALL: [(&'static str, Preference); 3] =
        [("auto", Preference::Auto), ("iptables", Preference::Iptables), ("nftables", Preference::Nftables)];

    /// Reads the name of an engine, or `auto`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let at = one_of("unknown engine", &Self::ALL.map(|(name, _)| name), text)?;
        Ok(Self::ALL.get(at).map_or(Preference::Auto, |(_, preference)| *preference))
    }
}

/// A frontend with its backends. Only the config's reader makes one, and it checks what is said here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Unique in a config.
    pub name: Name,
    /// What clients connect to, with the first of its ports; unique in a config. If it follows an interface, its address is
    /// unspecified until that interface's is known.
    pub bind: Endpoint,
    /// All ports of it.
    pub ports: Ports,
    /// The interface whose address the bind has, if that is not fixed.
    pub follows: Option<Interface>,
    /// The source address that backends see.
    pub source: Source,
    /// At least one; each address once; of the bind's family; none is the bind.
    pub backends: Vec<Backend>,
    /// How the backend of a new connection is chosen. The weights fit it: at most `schedule::MOST_SLOTS` slots for round
    /// robin, at most `schedule::BUCKETS` backends for source.
    pub schedule: Schedule,
    /// How the backends are checked; none if they are not, and count as up.
    pub health: Option<Box<Health>>,
}

impl Service {
    /// Its bind, as the config has it.
    pub fn written(&self) -> Written<'_> {
        Written { follows: self.follows.as_ref(), at: self.bind, ports: &self.ports }
    }

    /// What the next run knows it by, if that is not its bind alone, which may have another address by then.
    pub fn known_as(&self) -> Option<&str> {
        (self.follows.is_some() || self.bind.protocol() == Protocol::Udp).then(|| self.name.as_str())
    }

    /// Its bind with all ports.
    pub fn whole(&self) -> Bind {
        Bind { at: self.bind, ports: self.ports.clone() }
    }

    /// Whether connections to an address and port are connections to it.
    pub fn has(&self, to: &Endpoint) -> bool {
        self.bind.ip() == to.ip() && self.bind.protocol() == to.protocol() && self.ports.has(to.port())
    }

    /// Whether it is what `old` was, perhaps with another address of its interface.
    pub fn was(&self, old: &Service) -> bool {
        match self.follows {
            Some(_) => self.name == old.name,
            None => self.bind == old.bind,
        }
    }

    /// The index of the next backend that takes connections, after the one of index `at`, going round.
    pub fn next_alive(&self, at: usize) -> usize {
        let backends = self.backends.len();
        let alive = |index: &usize| self.backends.get(*index).is_some_and(|backend| backend.weight > 0);
        (1..=backends).map(|step| (at + step) % backends).find(alive).unwrap_or(0)
    }

    /// Sets the weights while some backends are `down`: all others take connections, or the backups if there are no others.
    /// If all are down, the weights stay as they are, or become 0 with `on_all_down: reject`.
    pub fn choose(&mut self, down: &[Endpoint]) {
        let lives = |backend: &Backend| backend.nominal > 0 && !down.contains(&backend.address);
        let (mut others, mut backups) = (false, false);
        for backend in &self.backends {
            others |= lives(backend) && !backend.backup;
            backups |= lives(backend) && backend.backup;
        }
        if !others && !backups && !down.is_empty() && self.health.as_ref().is_some_and(|health| !health.reject) {
            // A reload may have removed every backend that was chosen: then choose as if none were down.
            if self.backends.iter().all(|backend| backend.weight == 0) {
                self.choose(&[]);
            }
            return;
        }
        for backend in &mut self.backends {
            backend.weight = if lives(backend) && backend.backup != others { backend.nominal } else { 0 };
        }
    }
}
