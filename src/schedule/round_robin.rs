//! Exact round robin.
//!
//! The usual rules are a list: `every N`, `every N-1`, … `every 2`, rest. A new connection passes half of it on average.
//! Here a chain divides its slots into [`FAN_OUT`] shares: each share but the last gets a rule that sends its connections
//! to a chain of its own, and the last share goes on in the same chain. So a connection passes O(log N) rules. Slots that
//! do not divide evenly are taken out first, with one rule for each.
//!
//! It is exact: of any n connections in a row, a chain of n slots gives each slot one, whatever the state of its counters.
//! `every n` takes exactly one of any n in a row. What remains is divided evenly, and `every k` takes exactly one of any
//! k, so a share of s slots gets s of them; the same holds for the chain of that share. The order is that of the slots.

use super::chain::{every, fill, new_chain, Chains, Choice, Then, When};

/// Into how many shares a chain is divided. With 2 a connection passes fewer rules than with 4, and it was never slower
/// (`make bench`).
pub const FAN_OUT: usize = 2;

/// Most slots of one frontend.
pub const MOST_SLOTS: usize = 1024;

/// The longest plain list at the end of a chain: up to here a list is as fast as another division.
const LONGEST_LIST: usize = 4;

/// The number of [`slots`].
pub fn slot_count(weights: &[u16]) -> usize {
    let divisor = usize::from(divisor(weights));
    weights.iter().map(|weight| usize::from(*weight) / divisor).sum()
}

/// The greatest common divisor of the weights; 1 if all are 0.
fn divisor(weights: &[u16]) -> u16 {
    weights.iter().fold(0, |a, b| gcd(a, *b)).max(1)
}

/// One round: the index of each backend as many times as its weight (divided by the weights' greatest common divisor),
/// the same one as rarely in a row as possible.
pub fn slots(weights: &[u16]) -> Vec<usize> {
    let divisor = divisor(weights);
    // In the order of weights, the lightest first: the backends of one weight in turn, spread between those before. So
    // the heaviest, which are the hardest to keep apart, get all others between them.
    let heaviest = weights.iter().copied().max().unwrap_or(0);
    let mut spread: Vec<usize> = Vec::new();
    for weight in 1..=heaviest {
        let mut alike = Vec::new();
        for (index, other) in weights.iter().enumerate() {
            if *other == weight {
                alike.push(index);
            }
        }
        if !alike.is_empty() {
            spread = interleave(&alike.repeat(usize::from(weight / divisor)), &spread);
        }
    }
    spread
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 {
        a
    } else {
        gcd(b, a % b)
    }
}

/// Merges two sequences, each spread as evenly as possible through the other (Bresenham's line).
fn interleave(a: &[usize], b: &[usize]) -> Vec<usize> {
    let (mut first, mut second) = (a.iter(), b.iter());
    let whole = a.len() + b.len();
    let mut line = 0;
    let mut merged = Vec::with_capacity(whole);
    for _ in 0..whole {
        line += b.len();
        if line >= whole {
            line -= whole;
            merged.extend(second.next());
        } else {
            merged.extend(first.next());
        }
    }
    merged
}

/// Exact round robin over `slots` (indices of backends), in their order.
pub fn divide_evenly(slots: &[usize], fan_out: usize) -> Chains {
    let mut chains = Vec::new();
    divide(slots, fan_out.max(2), &mut chains);
    chains
}

/// Adds the chain of `slots` and those below it; returns its index.
fn divide(slots: &[usize], fan_out: usize, chains: &mut Chains) -> usize {
    let own = new_chain(chains);
    let mut choices = Vec::new();
    let mut rest = slots.to_vec();
    while rest.len() > LONGEST_LIST.max(fan_out) {
        let even = rest.split_off(rest.len() % fan_out);
        take_out(&rest, even.len(), &mut choices);
        rest = even;
        // Dealt out like cards: the shares are served in turn, which restores the order of the slots.
        for share in 0..fan_out - 1 {
            let chain = divide(&every(fan_out, share, &rest), fan_out, chains);
            choices.push(Choice { when: When::Every(fan_out - share), then: Then::Chain(chain) });
        }
        rest = every(fan_out, fan_out - 1, &rest);
    }
    take_out(&rest, 0, &mut choices);
    fill(chains, own, choices);
    own
}

/// A plain list: each of `slots` gets one of every `slots.len() + more` connections.
fn take_out(slots: &[usize], more: usize, choices: &mut Vec<Choice>) {
    for (taken, slot) in slots.iter().enumerate() {
        let when = match slots.len() + more - taken {
            1 => When::Always,
            n => When::Every(n),
        };
        choices.push(Choice { when, then: Then::Backend(*slot) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(n: usize) -> Vec<usize> {
        (0..n).collect()
    }

    #[test]
    fn three_backends_are_a_plain_list() {
        let choice = |when, backend| Choice { when, then: Then::Backend(backend) };
        let expected = vec![vec![choice(When::Every(3), 0), choice(When::Every(2), 1), choice(When::Always, 2)]];
        assert_eq!(divide_evenly(&list(3), FAN_OUT), expected);
    }

    #[test]
    fn one_backend_gets_all() {
        assert_eq!(divide_evenly(&[0], FAN_OUT), vec![vec![Choice { when: When::Always, then: Then::Backend(0) }]]);
    }

    #[test]
    fn every_chain_ends_in_an_unconditional_choice_and_is_entered_once() {
        for fan_out in [2, 4] {
            for n in 1..=1024 {
                let schedule = divide_evenly(&list(n), fan_out);
                let mut entered = vec![0; schedule.len()];
                for chain in &schedule {
                    assert_eq!(chain.last().unwrap().when, When::Always, "{n} by {fan_out}");
                    for choice in chain {
                        if let Then::Chain(chain) = choice.then {
                            entered[chain] += 1;
                        }
                    }
                }
                assert_eq!(entered[0], 0);
                assert!(entered[1..].iter().all(|times| *times == 1), "{n} by {fan_out}");
            }
        }
    }

    #[test]
    fn weights_become_slots_without_their_common_divisor() {
        assert_eq!(slots(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(slots(&[256, 256]), [0, 1]);
        assert_eq!(slots(&[0, 3, 0]), [1]);
        assert_eq!(slots(&[4, 2]).len(), 3);
        assert_eq!(slots(&[0, 0]), [0; 0]);
        for weights in [vec![1, 1, 1], vec![256, 256], vec![0, 3, 0], vec![4, 2], vec![0, 0], vec![255, 256, 0], vec![]]
        {
            assert_eq!(slot_count(&weights), slots(&weights).len(), "{weights:?}");
        }
    }

    /// The longest run of one backend, going round.
    fn longest_run(slots: &[usize], backend: usize) -> usize {
        let twice = slots.iter().chain(slots).copied();
        let (mut run, mut longest) = (0, 0);
        for slot in twice {
            run = if slot == backend { run + 1 } else { 0 };
            longest = longest.max(run);
        }
        longest.min(slots.len())
    }

    #[test]
    fn each_weight_gets_its_slots_spread_out() {
        let mut cases =
            vec![vec![5, 1, 1], vec![5, 5, 1], vec![1, 2, 3, 4], vec![256, 1], vec![3, 2, 2], vec![7, 0, 2]];
        // And some of a small pseudo-random generator.
        let mut dice = 1_u32;
        for n in 2..40 {
            cases.push(
                (0..n)
                    .map(|_| {
                        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (dice >> 27) as u16
                    })
                    .collect(),
            );
        }
        for weights in cases {
            let slots = slots(&weights);
            let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
            for (backend, weight) in weights.iter().enumerate() {
                let own = usize::from(weight / divisor);
                assert_eq!(slots.iter().filter(|slot| **slot == backend).count(), own, "{weights:?}");
                let others = slots.len() - own;
                if others == 0 || own == 0 {
                    continue;
                }
                // As short as possible for the heaviest; for the others a neighbour may be unavoidable.
                let best = own.div_ceil(others);
                let heaviest = weights.iter().filter(|other| *other >= weight).count() == 1;
                let run = longest_run(&slots, backend);
                assert!(run <= best + usize::from(!heaviest), "{weights:?}: {backend} {run} times in a row: {slots:?}");
            }
        }
        assert_eq!(longest_run(&slots(&[5, 1, 1]), 0), 3);
    }

    /// Follows one connection; `seen` counts what came to each choice, as the kernel does.
    fn next(chains: &Chains, seen: &mut [Vec<usize>]) -> usize {
        let (mut chain, mut at) = (0, 0);
        loop {
            let Choice { when, then } = chains[chain][at];
            let n = match when {
                When::Every(n) => n,
                _ => 1,
            };
            let hit = seen[chain][at] % n == 0;
            seen[chain][at] += 1;
            (chain, at) = match (hit, then) {
                (false, _) => (chain, at + 1),
                (true, Then::Chain(next)) => (next, 0),
                (true, Then::Backend(backend)) => return backend,
            };
        }
    }

    #[test]
    fn every_fan_out_goes_through_the_slots_in_their_order() {
        for fan_out in [2, 3, 4, 5] {
            for n in 1..=1024 {
                let chains = divide_evenly(&list(n), fan_out);
                let mut seen: Vec<Vec<usize>> = chains.iter().map(|chain| vec![0; chain.len()]).collect();
                for round in 0..2 {
                    let order: Vec<usize> = (0..n).map(|_| next(&chains, &mut seen)).collect();
                    assert_eq!(order, list(n), "{n} by {fan_out}, round {round}");
                }
            }
        }
    }

    #[test]
    fn chains_fit_the_three_digits_of_their_names() {
        for fan_out in [2, 4] {
            assert!((1..=1024).all(|n| divide_evenly(&list(n), fan_out).len() <= 0xfff));
        }
    }
}
