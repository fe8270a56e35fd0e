//! The way from what is in force to the wanted table, as one batch.

use super::encode::{chain_of_ours, counter, new_chain, new_rule};
use super::read::{Index, Seen};
use super::table::{Chain, Table, TABLE};
use crate::sys::batch::{Batch, Verb};
use crate::sys::netlink::{find, part};
use crate::sys::nftables::{chain, elements, object, rule, set};

/// Our table of this family is there and has nothing but what is wanted.
pub fn is_same(index: &Index<'_>, wanted: &Table) -> bool {
    let mut same = true;
    for known in &wanted.chains {
        same &= index.is_based(&known.name, known.base) && index.has_rules(&known.name, &known.rules);
    }
    same &= wanted.counters.iter().all(|name| index.counted(name).is_some());
    same && index.chains().count() == wanted.chains.len() && index.counters().count() == wanted.counters.len()
}

/// The messages that make the wanted table of what was read, in a table of this family and name; with `anew` whatever is there.
pub fn to(wanted: &Table, seen: &Seen, family: libc::c_int, name: &'static str, anew: bool) -> Batch {
    let mut batch = Batch::of(family, name);
    batch.begin(Verb::NewTable);
    // Where packets come to a chain cannot be changed: then everything is made anew.
    let index = Index::of(seen);
    let is_based = |chain: &Chain| !index.has(&chain.name) || index.is_based(&chain.name, chain.base);
    let nothing = Seen::default();
    let anew = anew || seen.family.is_some_and(|there| there != family) || !wanted.chains.iter().all(is_based);
    let index = if anew { Index::of(&nothing) } else { index };
    if anew {
        batch.begin(Verb::DeleteTable);
        batch.begin(Verb::NewTable);
    }
    // All chains before any rule that leads to one.
    for name in wanted.counters.iter().filter(|name| index.counted(name).is_none()) {
        counter(&mut batch, Verb::NewObject, name);
    }
    for chain in wanted.chains.iter().filter(|chain| !index.has(&chain.name)) {
        new_chain(&mut batch, &chain.name, chain.base);
    }
    let mut maps = 0;
    for chain in &wanted.chains {
        if !index.has_rules(&chain.name, &chain.rules) {
            if index.has(&chain.name) {
                chain_of_ours(&mut batch, Verb::DeleteRules, &chain.name);
            }
            for rule in &chain.rules {
                new_rule(&mut batch, &chain.name, rule, &mut maps);
            }
        }
    }
    // What is no longer wanted goes when nothing leads there any more.
    let mut names: Vec<&str> = wanted.chains.iter().map(|chain| chain.name.as_str()).collect();
    names.sort_unstable();
    let stale = |name: &&str| names.binary_search(name).is_err();
    for name in index.chains().filter(stale) {
        chain_of_ours(&mut batch, Verb::DeleteRules, name);
    }
    for name in index.chains().filter(stale) {
        chain_of_ours(&mut batch, Verb::DeleteChain, name);
    }
    let mut names: Vec<&str> = wanted.counters.iter().map(String::as_str).collect();
    names.sort_unstable();
    for name in index.counters().filter(|name| names.binary_search(name).is_err()) {
        counter(&mut batch, Verb::DeleteObject, name);
    }
    batch
}

/// The messages that bring back what was read, counters with what they had counted, whatever is there now.
pub fn back(before: &Seen, now: &Seen) -> Vec<Batch> {
    let mut batches = Vec::new();
    if let Some(family) = now.family.filter(|family| before.family != Some(*family)) {
        let mut batch = Batch::of(family, TABLE);
        batch.begin(Verb::DeleteTable);
        batches.push(batch);
    }
    if let Some(family) = before.family {
        let mut batch = Batch::of(family, TABLE);
        if now.family == Some(family) {
            batch.begin(Verb::DeleteTable);
        }
        batch.begin(Verb::NewTable);
        again(&mut batch, Verb::NewObject, &before.counters, &[object::NAME, object::TYPE, object::DATA]);
        let of_chain = [chain::NAME, chain::HOOK, chain::POLICY, chain::TYPE];
        again(&mut batch, Verb::NewChain, &before.chains, &of_chain);
        again(
            &mut batch,
            Verb::NewSet,
            &before.maps,
            &[set::NAME, set::FLAGS, set::KEY_TYPE, set::KEY_LENGTH, set::DATA_TYPE, set::USER_DATA],
        );
        for (_, elements) in &before.elements {
            again(&mut batch, Verb::NewElements, elements, &[elements::SET, elements::LIST]);
        }
        again(&mut batch, Verb::NewRule, &before.rules, &[rule::CHAIN, rule::EXPRESSIONS, rule::USER_DATA]);
        batches.push(batch);
    }
    batches
}

/// Makes the things of a list again, of these attributes.
fn again(batch: &mut Batch, verb: Verb, list: &[u8], kinds: &[u16]) {
    let mut rest = list;
    let mut number = 0;
    while let Some(attributes) = part(&mut rest) {
        batch.begin(verb);
        for kind in kinds {
            if let Some(content) = find(attributes, *kind) {
                batch.bytes(*kind, content);
            }
        }
        if verb == Verb::NewSet {
            number += 1;
            batch.number(set::ID, number);
        }
    }
}
