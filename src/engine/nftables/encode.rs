//! The model as messages to the kernel (linux/netfilter/nf_tables.h), and as `nft` reads it: what is written is said at the
//! same place, so that both are the same rule. What is in the order of the network and what in that of the machine differs from
//! value to value; each place says which.

use std::fmt::{self, Write};

use super::table::{are_intervals, backend, lowest_byte, Base, By, Map, Rule};
use crate::net::{Endpoint, Family, Octets};
use crate::sys::batch::{Batch, Verb};
use crate::sys::nftables::{self, chain, data, elements, object, rule, set, ELEMENT};

/// Types of values as `nft` numbers them (enum datatypes in its datatype.h), to show them as what they are: an integer, an
/// address, and several in a row.
const INTEGER: u32 = 4;
const IPV4: u32 = 7;
const IPV6: u32 = 8;
const L4PROTO: u32 = 12;
const SERVICE: u32 = 13;
const BITS: u32 = 6;

/// In the user data of a set: the order of the bytes of its keys (enum nft_set_udata of libnftnl), that of the machine or of the
/// network.
const MACHINE: u32 = 1;
const BIG_ENDIAN: u32 = 2;

/// A list of elements that is longer than this, in bytes, goes on in another message: an attribute has at most 64 KiB.
const MOST: usize = 32 * 1024;

/// Maps with more elements than these have a line for each when they are said.
const FEW: usize = 3;

/// The name of every map of ours: the kernel puts a number there, and the map goes with its rule.
pub const MAP: &str = "__map%d";

/// Makes a chain.
pub fn new_chain(batch: &mut Batch, name: &str, base: Option<&Base>) {
    batch.begin(Verb::NewChain);
    batch.text(chain::NAME, name);
    if let Some(Base { kind, hook, priority, .. }) = base {
        let at = batch.open(chain::HOOK);
        batch.number(chain::HOOK_NUMBER, *hook);
        batch.number(chain::HOOK_PRIORITY, *priority as u32);
        batch.close(at);
        batch.text(chain::TYPE, kind);
    }
}

/// Does something to a chain that is there.
pub fn chain_of_ours(batch: &mut Batch, verb: Verb, name: &[u8]) {
    batch.begin(verb);
    batch.name(if verb == Verb::DeleteRules { rule::CHAIN } else { chain::NAME }, name);
}

/// Makes or deletes a counter.
pub fn counter(batch: &mut Batch, verb: Verb, name: &[u8]) {
    batch.begin(verb);
    batch.name(object::NAME, name);
    batch.number(object::TYPE, object::COUNTER);
    if verb == Verb::NewObject {
        let at = batch.open(object::DATA);
        batch.close(at);
    }
}

/// Makes a named map, without elements. `number` is another one for each map of a batch.
pub fn new_map(batch: &mut Batch, map: &Map, number: u32) {
    batch.begin(Verb::NewSet);
    batch.text(set::NAME, map.name);
    let (kind, length) = kind(map);
    for (attribute, number) in [
        (set::FLAGS, set::MAP),
        (set::KEY_TYPE, kind),
        (set::KEY_LENGTH, length),
        (set::DATA_TYPE, set::VERDICTS),
        (set::ID, number),
    ] {
        batch.number(attribute, number);
    }
}

/// The type and the length of the keys of a named map.
pub fn kind(map: &Map) -> (u32, u32) {
    let (address, length) = of_family(map.family);
    match map.has_protocol {
        true => (key_of(&[L4PROTO, address, SERVICE]), length + 8),
        false => (key_of(&[address, SERVICE]), length + 4),
    }
}

/// The key of a bind in a named map.
pub fn bind_key(map: &Map, bind: &Endpoint) -> Vec<u8> {
    // Each value begins in a register of its own, with zeros behind it.
    let protocol = [bind.protocol().number(), 0, 0, 0];
    let protocol: &[u8] = if map.has_protocol { &protocol } else { &[] };
    [protocol, Octets::of(bind.address()).as_slice(), &bind.port().to_be_bytes(), &[0, 0]].concat()
}

/// Adds an element to a named map, or deletes it.
pub fn element(batch: &mut Batch, verb: Verb, map: &[u8], key: &[u8], chain: &str) {
    batch.begin(verb);
    batch.name(elements::SET, map);
    let list = batch.open(elements::LIST);
    let element = batch.open(ELEMENT);
    let value = batch.open(elements::KEY);
    batch.bytes(data::VALUE, key);
    batch.close(value);
    if verb == Verb::NewElements {
        verdict(batch, elements::DATA, chain);
    }
    batch.close(element);
    batch.close(list);
}

/// Deletes a named map.
pub fn delete_map(batch: &mut Batch, name: &[u8]) {
    batch.begin(Verb::DeleteSet);
    batch.name(set::NAME, name);
}

/// Adds a rule to the end of a chain, with its map before it. `maps` is the number of the last map of the batch.
pub fn new_rule(batch: &mut Batch, chain: &str, new: &Rule, maps: &mut u32) {
    let mut writer = Writer { batch, map: *maps, list: 0, count: 0, element: 0, data: 0, said: None };
    writer.rule(chain, new);
    *maps = writer.map;
}

/// A rule as `nft` reads it.
pub fn text(rule: &Rule) -> String {
    let mut batch = Batch::of(nftables::INET, "");
    let mut writer =
        Writer { batch: &mut batch, map: 0, list: 0, count: 0, element: 0, data: 0, said: Some(Said::default()) };
    writer.rule("", rule);
    writer.said.unwrap_or_default().rule
}

/// Whether a rule has an expression of this name.
pub fn has_expression(rule: &Rule, name: &str) -> bool {
    let mut batch = Batch::of(nftables::INET, "");
    new_rule(&mut batch, "", rule, &mut 0);
    let mut number = 1;
    while let Some((verb, attributes)) = batch.get(number) {
        number += 1;
        let mut rest = crate::sys::netlink::find(attributes, rule::EXPRESSIONS).unwrap_or_default();
        while let Some((one, _)) = nftables::expression(&mut rest) {
            if verb == Verb::NewRule as u16 && one == name {
                return true;
            }
        }
    }
    false
}

/// What `nft` reads.
#[derive(Default)]
struct Said {
    rule: String,
    /// The map that the rule looks something up in.
    map: String,
}

/// A rule that is being written.
pub struct Writer<'a> {
    pub(super) batch: &'a mut Batch,
    /// The number of its map: `__map%d` gets another one from the kernel.
    pub(super) map: u32,
    /// Where the list of elements of this map is.
    list: usize,
    /// How many elements it will have.
    count: usize,
    /// Where its last expression is, and the attributes of that.
    pub(super) element: usize,
    pub(super) data: usize,
    said: Option<Said>,
}

impl Writer<'_> {
    fn rule(&mut self, chain: &str, new: &Rule) {
        self.elements(new);
        self.batch.begin(Verb::NewRule);
        self.batch.text(rule::CHAIN, chain);
        let at = self.batch.open(rule::EXPRESSIONS);
        self.expressions(new);
        self.batch.close(at);
    }

    /// Says words of the rule.
    #[inline(never)]
    pub(super) fn say(&mut self, words: &str) {
        if let Some(said) = &mut self.said {
            said.rule.push_str(words);
        }
    }

    /// The same of what has to be printed.
    #[inline(never)]
    pub(super) fn print(&mut self, words: fmt::Arguments<'_>) {
        if let Some(said) = &mut self.said {
            let _ = said.rule.write_fmt(words);
        }
    }

    /// Says the map.
    pub(super) fn say_map(&mut self) {
        if let Some(said) = &mut self.said {
            said.rule.push_str(" vmap {");
            said.rule.push_str(&said.map);
            said.rule.push_str(if self.count > FEW { "\n\t\t}" } else { " }" });
        }
    }

    /// The map that a rule has, if it has one.
    fn elements(&mut self, new: &Rule) {
        match new {
            Rule::Choose(choice) => match &choice.by {
                By::Only(_) => return,
                By::Turns(slots) => {
                    self.new_map(INTEGER, 4, MACHINE, slots.len());
                    for (slot, index) in slots.iter().enumerate() {
                        self.add_number(slot, &backend(&choice.frontend, *index));
                    }
                }
                By::Random(weights) if !are_intervals(weights) => {
                    self.new_map(INTEGER, 4, MACHINE, weights.len());
                    for (number, (index, _)) in weights.iter().enumerate() {
                        self.add_number(number, &backend(&choice.frontend, *index));
                    }
                }
                By::Random(weights) => {
                    // They are compared byte by byte, so they are in the order of the network.
                    self.new_map(INTEGER, 4, BIG_ENDIAN, weights.len());
                    let mut from = 0_u32;
                    for (index, weight) in weights {
                        let (key, chain) = (from.to_be_bytes(), backend(&choice.frontend, *index));
                        match weight {
                            1 => self.add(&key, format_args!("{from}"), &chain),
                            _ => self.add(&key, format_args!("{from}-{}", from + weight - 1), &chain),
                        }
                        from += weight;
                    }
                    // An end where the next one begins would hide its first value.
                    self.add_bare(&from.to_be_bytes(), "");
                }
                By::Source(family, owners) => {
                    let (address, length) = of_family(*family);
                    self.new_map(address, length, 0, owners.len());
                    for (byte, index) in (0..=u8::MAX).zip(owners) {
                        let ip = lowest_byte(*family, byte);
                        self.add(Octets::of(&ip).as_slice(), format_args!("{ip}"), &backend(&choice.frontend, *index));
                    }
                }
            },
            _ => return,
        }
        self.batch.close(self.list);
    }

    /// Begins a map with `count` verdicts, whose keys have this type and length. With an order they are integers; integers in the
    /// order of the network are intervals.
    fn new_map(&mut self, kind: u32, length: u32, order: u32, count: usize) {
        self.map += 1;
        self.count = count;
        let intervals = if order == BIG_ENDIAN { set::INTERVAL } else { 0 };
        self.batch.begin(Verb::NewSet);
        self.batch.text(set::NAME, MAP);
        for (attribute, number) in [
            (set::FLAGS, set::ANONYMOUS | set::CONSTANT | set::MAP | intervals),
            (set::KEY_TYPE, kind),
            (set::KEY_LENGTH, length),
            (set::DATA_TYPE, set::VERDICTS),
            (set::ID, self.map),
        ] {
            self.batch.number(attribute, number);
        }
        if order != 0 {
            // NFTNL_UDATA_SET_KEYBYTEORDER: type 0, length 4, a number in the order of the machine.
            let [a, b, c, d] = order.to_ne_bytes();
            self.batch.bytes(set::USER_DATA, &[0, 4, a, b, c, d]);
        }
        self.begin_list();
    }

    fn begin_list(&mut self) {
        self.batch.begin(Verb::NewElements);
        self.batch.text(elements::SET, MAP);
        self.batch.number(elements::SET_ID, self.map);
        self.list = self.batch.open(elements::LIST);
    }

    /// Adds an element that goes to a chain, and says it.
    #[inline(never)]
    fn add(&mut self, key: &[u8], words: fmt::Arguments<'_>, chain: &str) {
        if let Some(Said { map, .. }) = &mut self.said {
            if !map.is_empty() {
                map.push(',');
            }
            map.push_str(if self.count > FEW { "\n\t\t\t" } else { " " });
            let _ = write!(map, "{words} : goto {chain}");
        }
        self.add_bare(key, chain);
    }

    /// The same of a number, in the order of the machine.
    fn add_number(&mut self, number: usize, chain: &str) {
        self.add(&(number as u32).to_ne_bytes(), format_args!("{number}"), chain);
    }

    /// The same without a word. Without a chain, it is the end of an interval.
    #[inline(never)]
    fn add_bare(&mut self, key: &[u8], chain: &str) {
        if self.batch.length() > MOST {
            self.batch.close(self.list);
            self.begin_list();
        }
        let element = self.batch.open(ELEMENT);
        let value = self.batch.open(elements::KEY);
        self.batch.bytes(data::VALUE, key);
        self.batch.close(value);
        if chain.is_empty() {
            self.batch.number(elements::FLAGS, elements::INTERVAL_END);
        } else {
            verdict(self.batch, elements::DATA, chain);
        }
        self.batch.close(element);
    }
}

/// The verdict to go to a chain.
pub fn verdict(batch: &mut Batch, kind: u16, chain: &str) {
    let outer = batch.open(kind);
    let inner = batch.open(data::VERDICT);
    batch.number(data::CODE, data::GOTO as u32);
    batch.text(data::CHAIN, chain);
    batch.close(inner);
    batch.close(outer);
}

/// The type and the length of an address.
fn of_family(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (IPV4, 4),
        Family::V6 => (IPV6, 16),
    }
}

/// The type of several values in a row.
fn key_of(types: &[u32]) -> u32 {
    let mut all = 0;
    for one in types {
        all = all << BITS | one;
    }
    all
}
