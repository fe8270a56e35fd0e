//! Chains of choices: what every schedule is made of.

/// Which connections a choice takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// All.
    Always,
    /// The first that comes to this choice, and then each n-th. At least 2.
    Every(usize),
    /// The first number out of the second, at random. Less than all.
    Share(u32, u32),
    /// Those whose client's address has this bit set; 0 is the lowest.
    SourceBit(u8),
}

/// Where a choice sends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// To the backend of this index.
    Backend(usize),
    /// To the chain of this index.
    Chain(usize),
}

/// One rule of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The condition.
    pub when: When,
    /// The consequence.
    pub then: Then,
}

/// Chains of choices, tried in order; the first chain is the entrance. The last choice of a chain is [`When::Always`],
/// except if no backend has a weight: then there is one empty chain.
pub type Chains = Vec<Vec<Choice>>;

/// Every `step`th element, from the one of index `first` on.
pub(super) fn every(step: usize, first: usize, of: &[usize]) -> Vec<usize> {
    of.iter().skip(first).step_by(step).copied().collect()
}

/// Adds an empty chain, which [`fill`] fills later; returns its index.
pub(super) fn new_chain(chains: &mut Chains) -> usize {
    chains.push(Vec::new());
    chains.len() - 1
}

/// Fills a chain made by [`new_chain`].
pub(super) fn fill(chains: &mut Chains, index: usize, choices: Vec<Choice>) {
    if let Some(chain) = chains.get_mut(index) {
        *chain = choices;
    }
}
