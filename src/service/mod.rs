//! What a valid config means. These types cannot hold an invalid state: whoever has a [`Service`] can render it.

mod name;
mod source;

pub mod health;

use self::health::Health;
pub use self::name::{Name, LONGEST_NAME};
pub use self::source::{Source, MOST_SOURCES};
use crate::error::{refuse, Error};
use crate::net::Endpoint;
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

/// One that takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Where its connections go.
    pub address: Endpoint,
    /// Its share of new connections in proportion to the others' weights, at most [`MOST_WEIGHT`]. With 0 it gets none,
    /// and keeps those that it has.
    pub weight: u16,
    /// The same as the config says: what it gets while it is chosen.
    pub nominal: u16,
    /// It is chosen only while no other takes connections.
    pub backup: bool,
}

/// Who gets the next connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Schedule {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// Anyone.
    Random,
    /// Always the same for the same client.
    Source,
}

impl Schedule {
    /// All of them with their names in the config.
    pub const ALL: [(&'static str, Schedule); 3] =
        [("roundrobin", Schedule::RoundRobin), ("random", Schedule::Random), ("source", Schedule::Source)];

    /// Reads a name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let at = one_of("there is no schedule", &Self::ALL.map(|(name, _)| name), text)?;
        Ok(Self::ALL.get(at).map_or(Schedule::RoundRobin, |(_, schedule)| *schedule))
    }
}

/// One frontend with all that belongs to it. [`config`](crate::config) is the only maker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Unique in a config.
    pub name: Name,
    /// What clients connect to; unique in a config.
    pub bind: Endpoint,
    /// The source address that backends see.
    pub source: Source,
    /// At least one; each address once; of the bind's family; none is the bind.
    pub backends: Vec<Backend>,
    /// Who gets the next connection. Round robin has at most [`MOST_SLOTS`](crate::schedule::MOST_SLOTS) slots, source
    /// at most [`BUCKETS`](crate::schedule::BUCKETS) backends.
    pub schedule: Schedule,
    /// How the backends are checked; nothing where they are taken for alive.
    pub health: Option<Box<Health>>,
}

impl Service {
    /// Chooses who takes connections while some backends are `down`: all others, and the backups only if there is nobody
    /// else. If all are down and nothing else is wanted, whoever was chosen before stays.
    pub fn choose(&mut self, down: &[Endpoint]) {
        let lives = |backend: &Backend| backend.nominal > 0 && !down.contains(&backend.address);
        let (mut others, mut backups) = (false, false);
        for backend in &self.backends {
            others |= lives(backend) && !backend.backup;
            backups |= lives(backend) && backend.backup;
        }
        if !others && !backups && !down.is_empty() && self.health.as_ref().is_some_and(|health| !health.reject) {
            // Nobody may have been chosen who is still there: then they are as good as each other.
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
