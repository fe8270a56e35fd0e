//! The way from what is in force to the wanted table, as one batch.

use super::encode::{bind_key, chain_of_ours, counter, delete_map, element, new_chain, new_map, new_rule};
use super::index::{Index, Sorted};
use super::read::Seen;
use super::table::{Map, Table, TABLE};
use crate::sys::batch::{Batch, Verb};
use crate::sys::netlink::{find, part};
use crate::sys::nftables::{chain, elements, object, rule, set};

/// Our table is there and has nothing but what is wanted.
pub fn is_same(index: &Index<'_>, wanted: &Table) -> bool {
    let mut same =
        index.chains.all().len() == wanted.chains.len() && index.counters.all().len() == wanted.counters.len();
    for name in &wanted.counters {
        same = same && index.counters.has(name.as_bytes());
    }
    same &= index.maps.all().len() == wanted.maps.len();
    for map in &wanted.maps {
        same = same && index.is_kind(map) && !has_other_elements(index, map, &mut |_, _, _| {});
    }
    for known in &wanted.chains {
        same = same && index.is_based(&known.name, known.base) && index.has_rules(&known.name, &known.rules);
    }
    same
}

/// The messages that make the wanted table of what was read, in a table of this family and name; with `anew` whatever is there.
pub fn to(wanted: &Table, index: &Index<'_>, family: libc::c_int, name: &'static str, anew: bool) -> Batch {
    let mut batch = Batch::of(family, name);
    batch.begin(Verb::NewTable);
    // Where packets come to a chain cannot be changed: then everything is made anew.
    let mut anew = anew || index.seen.family.is_some_and(|there| there != family);
    for chain in &wanted.chains {
        anew |= index.chains.has(chain.name.as_bytes()) && !index.is_based(&chain.name, chain.base);
    }
    for map in &wanted.maps {
        anew |= index.maps.has(map.name.as_bytes()) && !index.is_kind(map);
    }
    if anew {
        batch.begin(Verb::DeleteTable);
        batch.begin(Verb::NewTable);
    }
    let nothing = Seen::default();
    let none = Index::of(&nothing);
    let index = if anew { &none } else { index };
    // All chains before any rule that leads to one.
    for name in &wanted.counters {
        if !index.counters.has(name.as_bytes()) {
            counter(&mut batch, Verb::NewObject, name.as_bytes());
        }
    }
    for chain in &wanted.chains {
        if !index.chains.has(chain.name.as_bytes()) {
            new_chain(&mut batch, &chain.name, chain.base);
        }
    }
    let mut maps = 0;
    for map in &wanted.maps {
        if !index.maps.has(map.name.as_bytes()) {
            maps += 1;
            new_map(&mut batch, map, maps);
        }
        has_other_elements(index, map, &mut |verb, key, chain| {
            element(&mut batch, verb, map.name.as_bytes(), key, chain)
        });
    }
    for chain in &wanted.chains {
        if !index.has_rules(&chain.name, &chain.rules) {
            if index.chains.has(chain.name.as_bytes()) {
                chain_of_ours(&mut batch, Verb::DeleteRules, chain.name.as_bytes());
            }
            for rule in &chain.rules {
                new_rule(&mut batch, &chain.name, rule, &mut maps);
            }
        }
    }
    // What is no longer wanted goes when nothing leads there any more.
    let names = Sorted::names(&mut wanted.maps.iter().map(|map| map.name));
    for known in index.maps.all() {
        if !names.has(known.name) {
            delete_map(&mut batch, known.name);
        }
    }
    let names = Sorted::names(&mut wanted.chains.iter().map(|chain| chain.name.as_str()));
    for verb in [Verb::DeleteRules, Verb::DeleteChain] {
        for chain in index.chains.all() {
            if !names.has(chain.name) {
                chain_of_ours(&mut batch, verb, chain.name);
            }
        }
    }
    let names = Sorted::names(&mut wanted.counters.iter().map(String::as_str));
    for known in index.counters.all() {
        if !names.has(known.name) {
            counter(&mut batch, Verb::DeleteObject, known.name);
        }
    }
    batch
}

/// Calls `change` with what makes the elements of a map the wanted ones: what to do with a key, and its chain. Tells whether
/// there is anything.
fn has_other_elements(index: &Index<'_>, map: &Map, change: &mut dyn FnMut(Verb, &[u8], &str)) -> bool {
    let there = index.elements(map.name.as_bytes());
    let (mut stay, mut differs) = (0, false);
    let mut new = Vec::new();
    for (bind, chain) in &map.binds {
        let key = bind_key(map, bind);
        match there.named(&key).first() {
            Some(known) if known.content == chain.as_bytes() => stay += 1,
            _ => new.push((key, chain)),
        }
    }
    if stay < there.all().len() {
        for known in there.all() {
            let stays = map
                .binds
                .iter()
                .any(|(bind, chain)| known.content == chain.as_bytes() && known.name == bind_key(map, bind).as_slice());
            if !stays {
                differs = true;
                change(Verb::DeleteElements, known.name, "");
            }
        }
    }
    for (key, chain) in new {
        differs = true;
        change(Verb::NewElements, &key, chain);
    }
    differs
}

/// The messages that bring back what was read, in a table of this family, counters with what they had counted. What is `there`
/// of the table goes.
pub fn back(before: &Seen, family: libc::c_int, there: bool) -> Batch {
    let mut batch = Batch::of(family, TABLE);
    if there {
        batch.begin(Verb::DeleteTable);
    }
    batch.begin(Verb::NewTable);
    let of_map = &[set::NAME, set::FLAGS, set::KEY_TYPE, set::KEY_LENGTH, set::DATA_TYPE, set::USER_DATA];
    again(&mut batch, Verb::NewObject, &before.counters, &[object::NAME, object::TYPE, object::DATA]);
    again(&mut batch, Verb::NewChain, &before.chains, &[chain::NAME, chain::HOOK, chain::POLICY, chain::TYPE]);
    again(&mut batch, Verb::NewSet, &before.maps, of_map);
    again(&mut batch, Verb::NewElements, &before.elements, &[elements::SET, elements::LIST]);
    again(&mut batch, Verb::NewRule, &before.rules, &[rule::CHAIN, rule::EXPRESSIONS, rule::USER_DATA]);
    batch
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
