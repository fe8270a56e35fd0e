//! All that touches the kernel's rules, behind one small trait: tests put a fake in its place, and a second engine
//! would be a neighbour of [`iptables`].

pub mod iptables;
mod save;

use crate::error::Error;
use crate::ruleset::Ruleset;
use crate::service::Family;

/// What is in force, read once.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    /// Ours, where the engine writes.
    pub ours: Ruleset,
    /// Ours, in the variant of iptables that the engine does not write: left over from before somebody switched.
    pub left_over: Ruleset,
    /// What matters about everybody else's rules.
    pub others: Others,
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
    /// Some rule of theirs uses connection tracking, so that the kernel keeps it going without us.
    pub use_conntrack: bool,
    /// The policies of the FORWARD chains (`ACCEPT`, `DROP`).
    pub forward_policies: Vec<(Family, String)>,
}

impl Others {
    /// Takes note of one of their rules.
    fn look_at(&mut self, rule: &str) {
        // What is quoted is a comment.
        let unquoted: String = rule.split('"').step_by(2).collect();
        let uses = [" state ", " conntrack ", "-j MASQUERADE", "-j SNAT", "-j DNAT", "-j REDIRECT", "-j CONNMARK"];
        self.use_conntrack |= uses.iter().any(|word| unquoted.contains(word));
    }
}

/// One way to put rules into the kernel.
pub trait Engine {
    /// What is in force now.
    fn read(&self) -> Result<InForce, Error>;

    /// Puts `wanted` in force in the place of `before`, or fails and leaves `before` in force. What is left over in
    /// another place goes once `wanted` is in force.
    fn apply(&self, before: &InForce, wanted: &Ruleset) -> Result<(), Error>;

    /// How the engine is called, for people: `iptables-nft`.
    fn name(&self) -> &'static str;
}
