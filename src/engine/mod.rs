//! The places in the kernel that can hold our rules, behind two small traits. Callers hand over a [`Plan`]; only the engine
//! knows how it is written, read back, compared and removed. [`transaction`] makes a change of several engines atomic.

pub mod choice;
pub mod iptables;
pub mod nftables;
pub mod transaction;

#[cfg(test)]
mod fake;

use crate::error::Error;
use crate::net::{Endpoint, Family};
use crate::service::{Bind, Ports, Service};

/// The rules that are to be in force, independent of the engine.
#[derive(Debug, Clone, Copy)]
pub enum Plan<'a> {
    /// These services are balanced.
    Serve(&'a [Service]),
    /// Connections to these binds go on, new ones are refused.
    Drain(&'a [Bind]),
    /// No rule of ours.
    Nothing,
}

impl Plan<'_> {
    /// Whether the plan has rules of this family.
    pub fn has(&self, family: Family) -> bool {
        match self {
            Plan::Serve(services) => services.iter().any(|service| service.bind.family() == family),
            Plan::Drain(binds) => binds.iter().any(|bind| bind.at.family() == family),
            Plan::Nothing => false,
        }
    }
}

/// A frontend as the rules in force tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// Its name; that of the bind where the rules tell none.
    pub name: String,
    /// Where clients connect to, with the first port.
    pub bind: Endpoint,
    /// All ports.
    pub ports: Ports,
    /// Established connections go on, new ones are not balanced.
    pub draining: bool,
    /// Each backend gets exactly its share of the connections (round robin).
    pub exact: bool,
    /// Those that get new connections, sorted by address.
    pub backends: Vec<Share>,
}

impl InForce {
    /// Its bind with all ports.
    pub fn whole(&self) -> Bind {
        Bind { at: self.bind, ports: self.ports.clone() }
    }
}

/// What a backend gets of a frontend's new connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The backend.
    pub address: Endpoint,
    /// Connections since the rules of its frontend were written.
    pub taken: u64,
    /// Its part of the sum of all `slots`, where shares are exact.
    pub slots: u64,
}

/// Adds a slot, and what it has taken, to the share of a backend, in a list that is sorted by address.
pub(crate) fn add_slot(shares: &mut Vec<Share>, address: Endpoint, taken: u64) {
    let place = shares.binary_search_by(|known| known.address.cmp(&address));
    let at = place.unwrap_or_else(|at| {
        shares.insert(at, Share { address, taken: 0, slots: 0 });
        at
    });
    if let Some(share) = shares.get_mut(at) {
        share.taken += taken;
        share.slots += 1;
    }
}

/// Facts about the rules of other programs.
#[derive(Debug, Clone, Default)]
pub struct Foreign {
    /// Families in which one of their rules uses connection tracking, so that the kernel keeps tracking without our rules.
    pub tracking: Vec<Family>,
    /// Policies (`ACCEPT`, `DROP`) of the chain that forwarded packets pass.
    pub forward_policies: Vec<(Family, String)>,
}

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but not in every case or not for long.
    Warning,
    /// It cannot work.
    Error,
}

/// One result of `check`.
#[derive(Debug)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// A sentence that names the thing, its state and the remedy.
    pub text: String,
}

impl Finding {
    /// A finding of this level.
    pub fn new(level: Level, text: std::fmt::Arguments<'_>) -> Self {
        Finding { level, text: text.to_string() }
    }
}

/// What can write rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its own rules let balanced connections through FORWARD; and its empty tables, which stay, go on translating.
    Iptables,
    /// A table of our own: what another one drops it cannot let through; and it leaves nothing.
    Nftables,
}

/// One place in the kernel where rules of ours can be.
pub trait Engine {
    /// What writes them.
    fn kind(&self) -> Kind;

    /// How people call it: `iptables-nft`.
    fn name(&self) -> &'static str;

    /// Reads the rules once. Fails where nothing of them can be read: ours may be there, unseen.
    fn read(&self) -> Result<Box<dyn View + '_>, Error>;

    /// A number that changes with every change of the rules, by whatever program. It costs a few system calls. `None` if
    /// the kernel does not provide one.
    fn stamp(&self) -> Option<u64>;

    /// Whether every change of the rules, also by another program, restarts round robin at its first backend.
    fn any_change_restarts_turns(&self) -> bool;
}

/// What [`Engine::read`] has read, and the ways on from there.
pub trait View {
    /// Our frontends.
    fn frontends(&self) -> &[InForce];

    /// Whether no rule of ours was seen.
    fn is_empty(&self) -> bool;

    /// Others' rules.
    fn foreign(&self) -> &Foreign;

    /// Families whose rules could not be read, though ours may be among them, and why.
    fn unread(&self) -> &[(Family, Error)];

    /// Whether [`replace`](Self::replace) would write anything.
    fn differs(&self, plan: &Plan<'_>) -> bool;

    /// Goes from what was read to the plan; tells whether anything had to be written. If it fails, a part may have been
    /// done, which [`restore`](Self::restore) takes back.
    fn replace(&self, plan: &Plan<'_>) -> Result<bool, Error>;

    /// Goes back to what was read, from whatever is there now.
    fn restore(&self) -> Result<(), Error>;

    /// Removes what is ours, found by name, as much of it as possible; returns all that failed.
    fn clear(&self) -> Vec<Error>;

    /// What the rules of others do to the connections of the plan that should be known: where they drop or take them, and
    /// where they no longer see them. `written`: as it is once the plan has been put in
    /// force, wherever our rules stand now.
    fn meets(&self, plan: &Plan<'_>, written: bool) -> Vec<Finding>;

    /// Whether the kernel and the tools have all that the plan needs: tried where the rules that were read do not tell.
    fn lacks(&self, plan: &Plan<'_>) -> Vec<Finding>;
}
