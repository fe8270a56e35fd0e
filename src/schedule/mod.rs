//! Who gets the next connection, as chains of choices. Pure: it knows nothing of rule text.

mod random;
mod round_robin;
mod source;

use crate::service::{Schedule, Service};

pub use round_robin::{divide_evenly, slots, FAN_OUT, MOST_SLOTS};
pub use source::{owners, BUCKETS};

/// What a connection has to be for a choice to take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Any.
    Always,
    /// The first, and then each n-th that comes to this choice. At least 2.
    Every(usize),
    /// So many of so many, at random. Less than all.
    Share(u32, u32),
    /// This bit (0 is the lowest) of the client's address is set.
    SourceBit(u8),
}

/// Where a choice sends it.
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

/// Chains of choices, tried in turn; the first chain is the entrance. The last choice of a chain is [`When::Always`],
/// unless there is nobody to choose: then there is one empty chain.
pub type Chains = Vec<Vec<Choice>>;

/// The schedule of a service. Round robin begins with the backend of index `start`, or the next one with a weight.
pub fn chains(service: &Service, start: usize) -> Chains {
    let weights: Vec<u16> = service.backends.iter().map(|backend| backend.weight).collect();
    if weights.iter().all(|weight| *weight == 0) {
        return vec![Vec::new()];
    }
    match service.schedule {
        Schedule::RoundRobin => divide_evenly(&beginning_with(start, slots(&weights)), FAN_OUT),
        Schedule::Random => random::chains(&weights),
        Schedule::Source => source::chains(&owners(&service.backends)),
    }
}

/// The same slots from the first one of backend `start` on.
fn beginning_with(start: usize, mut slots: Vec<usize>) -> Vec<usize> {
    let last = slots.iter().max().copied().unwrap_or(0);
    let at = (start..=last).find_map(|backend| slots.iter().position(|slot| *slot == backend));
    slots.rotate_left(at.unwrap_or(0));
    slots
}

/// Adds an empty chain, to be filled later; tells its index.
fn new_chain(chains: &mut Chains) -> usize {
    chains.push(Vec::new());
    chains.len() - 1
}

/// Fills a chain made by [`new_chain`].
fn fill(chains: &mut Chains, index: usize, choices: Vec<Choice>) {
    if let Some(chain) = chains.get_mut(index) {
        *chain = choices;
    }
}
