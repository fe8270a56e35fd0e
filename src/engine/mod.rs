//! All that touches the kernel's rules, behind one small trait: tests put a fake in its place, and a second engine
//! would be a neighbour of [`iptables`].

pub mod iptables;

use crate::engine::iptables::ruleset::Ruleset;
use crate::error::Error;
use crate::net::Family;

/// What is in force, read once.
#[derive(Debug, Default)]
pub struct InForce {
    /// Ours, where the engine writes.
    pub ours: Ruleset,
    /// Ours, in the variant of iptables that the engine does not write: left over from before somebody switched.
    pub left_over: Ruleset,
    /// What matters about everybody else's rules.
    pub others: Others,
    /// Where rules could not be read, though there may be some of ours: family and reason.
    pub unread: Vec<(Family, Error)>,
}

impl InForce {
    /// Nothing of ours is anywhere.
    pub fn is_empty(&self) -> bool {
        self.ours.is_empty() && self.left_over.is_empty()
    }
}

/// What Paraglider has to know about other programs' rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Others {
    /// The families in which some rule of theirs uses connection tracking, so that the kernel keeps it going without us.
    pub use_conntrack: Vec<Family>,
    /// The policies of the FORWARD chains (`ACCEPT`, `DROP`).
    pub forward_policies: Vec<(Family, String)>,
}

/// One way to put rules into the kernel.
pub trait Engine {
    /// What is in force now.
    fn read(&self) -> Result<InForce, Error>;

    /// Puts `wanted` in force in the place of `before.ours`, and then `left_over` in the place of `before.left_over`; or
    /// fails and leaves all as it was.
    fn apply(&self, before: &InForce, wanted: &Ruleset, left_over: &Ruleset) -> Result<(), Error>;

    /// Whether a change of one frontend's rules starts the counters of all of them anew.
    fn restarts_all_counters(&self) -> bool;

    /// A number that changes whenever somebody changes the rules of a family, and is cheap to ask for; nothing where the
    /// kernel does not tell.
    fn fingerprint(&self, family: Family) -> Option<u64>;

    /// How the engine is called, for people: `iptables-nft`.
    fn name(&self) -> &'static str;
}
