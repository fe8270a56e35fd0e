//! What can become of a connection in a chain.

/// Below this priority connections are not tracked yet (NF_IP_PRI_CONNTRACK).
pub(super) const TRACKING: i32 = -200;

/// What becomes of it in a chain; with the handle of the rule that does it, or 0 for the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on, as far as can be told.
    Through,
    /// It goes on, unless it is one of those that a rule drops: those from a banned client.
    Sometimes,
    /// It is dropped.
    Dropped,
    /// The same, and the client is told.
    Refused,
    /// The same, unless a rule that was not understood lets it through before.
    DroppedPerhaps,
    /// A rule gives it another destination or source.
    Taken,
    /// A rule keeps it from being tracked.
    Untracked,
    /// A rule tracks it where its answers are not.
    Split,
}

/// Whether a packet matches. What is further down prevails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Match {
    Yes,
    Unknown,
    No,
}
