//! By the client's address: a client gets the same backend as long as that is there, without a table of clients.
//!
//! The lowest 8 bits of the address choose one of 256 buckets, and each bucket has an owner. iptables takes masks that are
//! not contiguous (`-s 0.0.0.1/0.0.0.1`), so a rule can test a single bit, and the buckets are a tree of such tests.

use super::chain::{every, fill, new_chain, Chains, Choice, Then, When};
use crate::service::Backend;
use crate::text::fnv1a;

/// The number of buckets.
pub const BUCKETS: usize = 256;

/// The number of bits that choose a bucket.
const BITS: u8 = 8;

/// The owner of each bucket, as an index of `backends`. Each backend owns its share by weight, give or take one bucket.
///
/// Each pair of a bucket and a backend has a score, a hash of the bucket's number and the backend's [`key`]. In the order of
/// scores, the highest first, a backend gets the bucket if the bucket is free and the backend's quota is not used up.
/// So the order of the list does not matter. If a backend goes, its buckets go to others, and a few more change owners to
/// keep the shares even; if it comes back, all is as before.
pub fn owners(backends: &[Backend]) -> Vec<usize> {
    let seeds: Vec<u64> = backends.iter().map(|backend| hash(&key(backend, backends))).collect();
    let mut free = quotas(backends, &seeds);
    let mut pairs: Vec<(u64, u64, usize)> = Vec::with_capacity(backends.len() * BUCKETS);
    for (backend, seed) in seeds.iter().enumerate() {
        // A backend without a quota gets none: skip its scores.
        if free.get(backend).is_some_and(|quota| *quota > 0) {
            for bucket in 0..BUCKETS as u64 {
                pairs.push((mix(seed ^ mix(bucket + 1)), bucket, backend));
            }
        }
    }
    sort(&mut pairs);
    // No backend has this index.
    let nobody = backends.len();
    let mut owners = vec![nobody; BUCKETS];
    for (_, bucket, backend) in pairs.into_iter().rev() {
        if let (Some(owner), Some(quota @ 1..)) = (owners.get_mut(bucket as usize), free.get_mut(backend)) {
            if *owner == nobody {
                *owner = backend;
                *quota -= 1;
            }
        }
    }
    owners.retain(|owner| *owner != nobody);
    owners
}

/// What a backend is known by: its host alone, so that a client meets the same host through each frontend that has these
/// hosts with these weights, whatever the ports. Of several backends on one host, only that of the lowest port is known so.
/// Those that are down or drained count too, so that no key changes while the config stays.
fn key(backend: &Backend, backends: &[Backend]) -> String {
    let address = backend.address;
    for Backend { address: other, .. } in backends {
        if other.ip() == address.ip() && other.port() < address.port() {
            return address.to_string();
        }
    }
    address.ip().to_string()
}

/// The number of buckets of each backend: its share, rounded down; the rest goes to those that the rounding cost most.
fn quotas(backends: &[Backend], seeds: &[u64]) -> Vec<usize> {
    let weights: Vec<usize> = backends.iter().map(|backend| backend.weight.into()).collect();
    let all: usize = weights.iter().sum::<usize>().max(1);
    let mut quotas: Vec<usize> = weights.iter().map(|weight| BUCKETS * weight / all).collect();
    let mut lost: Vec<(u64, u64, usize)> = Vec::new();
    for (at, (weight, seed)) in weights.iter().zip(seeds).enumerate() {
        lost.push(((BUCKETS * weight % all) as u64, *seed, at));
    }
    sort(&mut lost);
    let left = BUCKETS - quotas.iter().sum::<usize>();
    for (_, _, at) in lost.into_iter().rev().take(left) {
        if let Some(quota) = quotas.get_mut(at) {
            *quota += 1;
        }
    }
    quotas
}

/// Both lists have the same type, so that the binary has this code once.
fn sort(list: &mut [(u64, u64, usize)]) {
    list.sort_unstable();
}

/// The same on every machine and in every version: else clients would change backends at an update.
fn hash(text: &str) -> u64 {
    mix(fnv1a(text.as_bytes()))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The tree of tests: one bit of the bucket's number after the other, the lowest first.
pub fn chains(owners: &[usize]) -> Chains {
    let mut chains = Vec::new();
    branch(owners, 0, &mut chains);
    chains
}

/// Adds the chain for the buckets whose bits below `bit` are decided, and those below it; returns its index. `owners` are
/// the owners of these buckets.
fn branch(owners: &[usize], bit: u8, chains: &mut Chains) -> usize {
    let own = new_chain(chains);
    let mut choices = Vec::new();
    let mut clear = owners.to_vec();
    for bit in bit..=BITS {
        if let Some(owner) = only(&clear) {
            choices.push(Choice { when: When::Always, then: Then::Backend(owner) });
            break;
        }
        let set = every(2, 1, &clear);
        clear = every(2, 0, &clear);
        let then = match only(&set) {
            Some(owner) => Then::Backend(owner),
            None => Then::Chain(branch(&set, bit + 1, chains)),
        };
        choices.push(Choice { when: When::SourceBit(bit), then });
    }
    fill(chains, own, choices);
    own
}

/// The owner of all of them, if there is one.
fn only(owners: &[usize]) -> Option<usize> {
    let (first, rest) = owners.split_first()?;
    rest.iter().all(|owner| owner == first).then_some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Endpoint;

    fn backends(weights: &[u16]) -> Vec<Backend> {
        let address = |n: usize| Endpoint::parse(&format!("10.2.{}.{}:80", n / 250, n % 250 + 1)).unwrap();
        weights
            .iter()
            .enumerate()
            .map(|(n, weight)| Backend { address: address(n), weight: *weight, nominal: *weight, backup: false })
            .collect()
    }

    fn owned(backends: &[Backend]) -> Vec<Endpoint> {
        owners(backends).into_iter().map(|owner| backends[owner].address).collect()
    }

    #[test]
    fn buckets_belong_by_weight_give_or_take_one() {
        for weights in
            [vec![1], vec![1, 1, 1], vec![5, 1, 1], vec![3, 0, 7], vec![1; 100], vec![256, 1, 1], vec![1; 256]]
        {
            let owners = owners(&backends(&weights));
            assert_eq!(owners.len(), BUCKETS);
            let all: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
            for (backend, weight) in weights.iter().enumerate() {
                let exact = (BUCKETS * usize::from(*weight)) as f64 / all as f64;
                let has = owners.iter().filter(|owner| **owner == backend).count() as f64;
                assert!((has - exact).abs() < 1.0, "{weights:?}: {backend} has {has}, not {exact}");
            }
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let straight = backends(&[1, 2, 3, 4, 5]);
        let mut turned = straight.clone();
        turned.reverse();
        turned.swap(0, 2);
        assert_eq!(owned(&straight), owned(&turned));
    }

    /// The same backends on other ports.
    fn on_port(port: u16, backends: &[Backend]) -> Vec<Backend> {
        let with = |backend: &Backend| Backend { address: backend.address.with_port(Some(port)), ..*backend };
        backends.iter().map(with).collect()
    }

    #[test]
    fn a_client_meets_one_host_on_all_ports() {
        for weights in [vec![1, 1], vec![1, 1, 1], vec![5, 1, 3], vec![1; 40], vec![3, 0, 7]] {
            let web = backends(&weights);
            let mut tls = on_port(443, &web);
            tls.reverse();
            let hosts = |backends: &[Backend]| -> Vec<_> { owned(backends).iter().map(|owner| owner.ip()).collect() };
            assert_eq!(hosts(&web), hosts(&tls), "{weights:?}");
        }
    }

    #[test]
    fn backends_on_one_host_share_its_clients_and_stay_when_others_change() {
        let plain = backends(&[1, 1, 1]);
        let (second, third) = (on_port(81, &plain), on_port(82, &plain));
        let all = [plain.clone(), second.clone(), third.clone()].concat();
        let before = owned(&all);
        for backend in &all {
            let has = before.iter().filter(|owner| **owner == backend.address).count();
            assert!((28..=29).contains(&has), "{} has {has}", backend.address);
        }
        let moved = |rest: &[Backend], gone: Endpoint| {
            let after = owned(rest);
            before.iter().zip(&after).filter(|(was, is)| **was != gone && was != is).count()
        };
        for at in 0..all.len() {
            // Down, or drained.
            let mut rest = all.clone();
            rest[at].weight = 0;
            assert!(moved(&rest, all[at].address) <= BUCKETS / 10, "{at} down");
            // Taken out of the config: but for the lowest port of a host, whose name another backend inherits.
            if all[at].address.port() != 80 {
                rest.remove(at);
                assert!(moved(&rest, all[at].address) <= BUCKETS / 10, "{at} gone");
            }
        }
        // A second backend on a host takes no more than its share from the first.
        let one: Vec<Backend> = [plain, vec![second[0]]].concat();
        let rest: Vec<Backend> = one[..3].to_vec();
        let (before, after) = (owned(&rest), owned(&one));
        let moved = before.iter().zip(&after).filter(|(was, is)| was != is && **is != second[0].address).count();
        assert!(moved <= BUCKETS / 10, "{moved}");
    }

    #[test]
    fn a_backend_that_leaves_takes_few_others_along() {
        for n in [2, 3, 4, 5, 8, 16, 32] {
            let all = backends(&vec![1; n]);
            let before = owned(&all);
            let mut moved = 0;
            for gone in 0..n {
                let mut rest = all.clone();
                let gone = rest.remove(gone).address;
                let after = owned(&rest);
                let others = before.iter().zip(&after).filter(|(was, is)| **was != gone && was != is).count();
                assert!(others <= BUCKETS / 10, "{n}: {others} buckets of others moved");
                moved += others;
            }
            assert!(moved / n <= BUCKETS / 16, "{n}: {} buckets on average", moved / n);
        }
    }

    #[test]
    fn the_tree_finds_each_bucket_in_at_most_eight_tests_and_no_more_than_needed() {
        let walk = |chains: &Chains, bucket: usize| {
            let (mut chain, mut tests) = (0, 0);
            'next: loop {
                for choice in &chains[chain] {
                    let taken = match choice.when {
                        When::Always => true,
                        When::SourceBit(bit) => {
                            tests += 1;
                            bucket >> bit & 1 == 1
                        }
                        other => panic!("{other:?}"),
                    };
                    match (taken, choice.then) {
                        (false, _) => {}
                        (true, Then::Backend(backend)) => return (backend, tests),
                        (true, Then::Chain(next)) => {
                            chain = next;
                            continue 'next;
                        }
                    }
                }
                panic!("bucket {bucket} ends nowhere");
            }
        };
        for weights in [vec![1], vec![1, 1], vec![5, 1, 1], vec![1; 256]] {
            let owners = owners(&backends(&weights));
            let chains = chains(&owners);
            for (bucket, owner) in owners.iter().enumerate() {
                let (found, tests) = walk(&chains, bucket);
                assert!(found == *owner && tests <= 8, "{weights:?}");
            }
            assert!(chains.len() <= 0xfff);
        }
        assert_eq!(chains(&owners(&backends(&[3]))).concat().len(), 1);
        // Only the lowest bit decides.
        let odd: Vec<usize> = (0..BUCKETS).map(|bucket| bucket % 2).collect();
        assert_eq!(chains(&odd).concat().len(), 2);
    }

    /// Clients keep their backends when the program is updated: these must never change.
    #[test]
    fn the_assignment_is_the_same_in_every_version() {
        let owners = owners(&backends(&[1, 1, 1]));
        let text: String = owners.iter().map(ToString::to_string).collect();
        assert_eq!(format!("{:016x}", hash(&text)), "a3e5cf98d0be66ee");
    }
}
