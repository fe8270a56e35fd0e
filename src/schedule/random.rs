//! Random, with weights: each connection is decided independently.
//!
//! Each choice splits off half of the backends with the probability of their weights, so the number of rules that a
//! connection passes grows with the logarithm of their number. The last choice of a chain takes all that is left, so the
//! probabilities add up to 1 exactly, however the kernel rounds them.

use super::chain::{fill, new_chain, Chains, Choice, Then, When};

/// The longest plain list at the end of a chain.
const LONGEST_LIST: usize = 4;

/// The chains for backends of these weights.
pub fn chains(weights: &[u16]) -> Chains {
    let alive: Vec<(usize, u32)> = (0..).zip(weights).map(|(at, weight)| (at, u32::from(*weight))).collect();
    let alive: Vec<(usize, u32)> = alive.into_iter().filter(|(_, weight)| *weight > 0).collect();
    let mut chains = Vec::new();
    split(&alive, &mut chains);
    chains
}

fn sum(backends: &[(usize, u32)]) -> u32 {
    backends.iter().map(|(_, weight)| weight).sum()
}

fn split(backends: &[(usize, u32)], chains: &mut Chains) -> usize {
    let own = new_chain(chains);
    let mut choices = Vec::new();
    let mut rest = backends;
    while rest.len() > LONGEST_LIST {
        let (half, other) = rest.split_at(rest.len() / 2);
        let chain = split(half, chains);
        choices.push(Choice { when: When::Share(sum(half), sum(rest)), then: Then::Chain(chain) });
        rest = other;
    }
    while let Some(((backend, weight), others)) = rest.split_first() {
        let when = if others.is_empty() { When::Always } else { When::Share(*weight, sum(rest)) };
        choices.push(Choice { when, then: Then::Backend(*backend) });
        rest = others;
    }
    fill(chains, own, choices);
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each backend's probability as the product of the choices on the way to it.
    fn probabilities(chains: &Chains, chain: usize, reach: f64, found: &mut Vec<f64>) {
        let mut left = reach;
        for choice in &chains[chain] {
            let taken = match choice.when {
                When::Always => left,
                When::Share(parts, of) => left * f64::from(parts) / f64::from(of),
                other => panic!("{other:?}"),
            };
            left -= taken;
            match choice.then {
                Then::Backend(backend) => found[backend] += taken,
                Then::Chain(chain) => probabilities(chains, chain, taken, found),
            }
        }
        assert!(left.abs() < 1e-12);
    }

    #[test]
    fn each_backend_has_the_probability_of_its_weight() {
        for weights in [vec![1], vec![1, 1, 1], vec![5, 0, 1, 1], vec![256; 100], (1..=256).collect(), vec![1; 1024]] {
            let chains = chains(&weights);
            let mut found = vec![0.0; weights.len()];
            probabilities(&chains, 0, 1.0, &mut found);
            let all: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (probability, weight) in found.iter().zip(&weights) {
                assert!((probability - f64::from(*weight) / all).abs() < 1e-9, "{weights:?}: {found:?}");
            }
            assert!(chains.len() <= 0xfff);
        }
    }
}
