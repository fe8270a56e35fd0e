//! Which backend gets the next connection, as chains of choices. Pure: weights and addresses in, choices out; how a choice
//! is written as a rule is the engine's business.

mod chain;
mod random;
mod round_robin;
mod source;

use crate::service::{Schedule, Service};

pub use self::chain::{Chains, Choice, Then, When};
pub use self::round_robin::{divide_evenly, slot_count, slots, FAN_OUT, MOST_SLOTS};
pub use self::source::{owners, BUCKETS};

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

/// The same slots, beginning with the first one of backend `start`.
pub fn beginning_with(start: usize, mut slots: Vec<usize>) -> Vec<usize> {
    let last = slots.iter().max().copied().unwrap_or(0);
    let at = (start..=last).find_map(|backend| slots.iter().position(|slot| *slot == backend));
    let mut turned = slots.split_off(at.unwrap_or(0));
    turned.extend_from_slice(&slots);
    turned
}
