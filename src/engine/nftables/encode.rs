//! The model as messages to the kernel (linux/netfilter/nf_tables.h). What is in the order of the network and what in that of
//! the machine differs from value to value; each place says which.

use super::expression::{self, verdict, MAP, TCP};
use super::table::{are_intervals, backend, lowest_byte, Base, By, Choice, Rule};
use crate::net::{Endpoint, Family, Octets};
use crate::sys::batch::{Batch, Verb};
use crate::sys::netlink::{next, text_of};
use crate::sys::nftables::{chain, data, elements, object, rule, set, ELEMENT};

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

/// After so many bytes a list of elements goes on in another message: an attribute has at most 64 KiB.
const MOST: usize = 32 * 1024;

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
pub fn chain_of_ours(batch: &mut Batch, verb: Verb, name: &str) {
    batch.begin(verb);
    batch.text(if verb == Verb::DeleteRules { rule::CHAIN } else { chain::NAME }, name);
}

/// Makes or deletes a counter.
pub fn counter(batch: &mut Batch, verb: Verb, name: &str) {
    batch.begin(verb);
    batch.text(object::NAME, name);
    batch.number(object::TYPE, object::COUNTER);
    if verb == Verb::NewObject {
        let at = batch.open(object::DATA);
        batch.close(at);
    }
}

/// Adds a rule to the end of a chain, with its map before it. `maps` is the number of the last map of the batch.
pub fn new_rule(batch: &mut Batch, chain: &str, new: &Rule, maps: &mut u32) {
    map(batch, new, maps);
    batch.begin(Verb::NewRule);
    batch.text(rule::CHAIN, chain);
    let at = batch.open(rule::EXPRESSIONS);
    expression::write(batch, new, *maps);
    batch.close(at);
}

/// Whether a rule has an expression of this name.
pub fn has_expression(rule: &Rule, name: &str) -> bool {
    let mut batch = Batch::of(0, "");
    batch.begin(Verb::NewRule);
    expression::write(&mut batch, rule, 0);
    let (_, mut rest) = batch.get(1).unwrap_or_default();
    while let Some((kind, one)) = next(&mut rest) {
        if kind == ELEMENT && text_of(one, crate::sys::nftables::expression::NAME) == Some(name) {
            return true;
        }
    }
    false
}

/// The map that a rule has, if it has one.
fn map(batch: &mut Batch, new: &Rule, maps: &mut u32) {
    match new {
        Rule::Dispatch(family, binds) => {
            let (address, length) = of_family(*family);
            let mut map = Map::new(batch, maps, key_of(&[L4PROTO, address, SERVICE]), length + 8, 0, None);
            for (bind, chain) in binds {
                // Each value begins in a register of its own, with zeros behind it.
                map.add(&[[TCP, 0, 0, 0].to_vec(), key(bind)].concat(), chain);
            }
            map.end();
        }
        Rule::Leave(family, binds) => {
            let (address, length) = of_family(*family);
            let mut map = Map::new(batch, maps, key_of(&[address, SERVICE]), length + 4, 0, None);
            for (bind, chain) in binds {
                map.add(&key(bind), chain);
            }
            map.end();
        }
        Rule::Choose(Choice { frontend, by, .. }) => match by {
            By::Only(_) => {}
            By::Turns(slots) => {
                let mut map = Map::new(batch, maps, INTEGER, 4, 0, Some(MACHINE));
                for (slot, index) in (0_u32..).zip(slots) {
                    map.add(&slot.to_ne_bytes(), &backend(frontend, *index));
                }
                map.end();
            }
            By::Random(weights) if are_intervals(weights) => {
                // They are compared byte by byte, so they are in the order of the network.
                let mut map = Map::new(batch, maps, INTEGER, 4, set::INTERVAL, Some(BIG_ENDIAN));
                let mut from = 0_u32;
                for (index, weight) in weights {
                    map.add(&from.to_be_bytes(), &backend(frontend, *index));
                    from += weight;
                }
                // An end where the next one begins would hide its first value.
                map.add(&from.to_be_bytes(), "");
                map.end();
            }
            By::Random(weights) => {
                let mut map = Map::new(batch, maps, INTEGER, 4, 0, Some(MACHINE));
                for (number, (index, _)) in (0_u32..).zip(weights) {
                    map.add(&number.to_ne_bytes(), &backend(frontend, *index));
                }
                map.end();
            }
            By::Source(family, owners) => {
                let (address, length) = of_family(*family);
                let mut map = Map::new(batch, maps, address, length, 0, None);
                for (byte, index) in (0..=255).zip(owners) {
                    let ip = lowest_byte(*family, byte);
                    map.add(Octets::of(&ip).as_slice(), &backend(frontend, *index));
                }
                map.end();
            }
        },
        Rule::Deliver(..) | Rule::From(..) | Rule::Refuse | Rule::Reset => {}
    }
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

/// An address and a port in a key.
fn key(endpoint: &Endpoint) -> Vec<u8> {
    [Octets::of(endpoint.address()).as_slice(), &endpoint.port().to_be_bytes(), &[0, 0]].concat()
}

/// A map of verdicts that is being written: `__map%d` gets a number from the kernel, and goes with its rule.
struct Map<'a> {
    batch: &'a mut Batch,
    number: u32,
    list: usize,
}

impl<'a> Map<'a> {
    fn new(batch: &'a mut Batch, maps: &mut u32, kind: u32, length: u32, flags: u32, order: Option<u32>) -> Self {
        *maps += 1;
        batch.begin(Verb::NewSet);
        batch.text(set::NAME, MAP);
        batch.number(set::FLAGS, set::ANONYMOUS | set::CONSTANT | set::MAP | flags);
        batch.number(set::KEY_TYPE, kind);
        batch.number(set::KEY_LENGTH, length);
        batch.number(set::DATA_TYPE, set::VERDICTS);
        batch.number(set::ID, *maps);
        if let Some(order) = order {
            // NFTNL_UDATA_SET_KEYBYTEORDER: type 0, length 4, a number in the order of the machine.
            let [a, b, c, d] = order.to_ne_bytes();
            batch.bytes(set::USER_DATA, &[0, 4, a, b, c, d]);
        }
        let mut map = Map { batch, number: *maps, list: 0 };
        map.begin();
        map
    }

    fn begin(&mut self) {
        self.batch.begin(Verb::NewElements);
        self.batch.text(elements::SET, MAP);
        self.batch.number(elements::SET_ID, self.number);
        self.list = self.batch.open(elements::LIST);
    }

    /// Adds an element that goes to a chain; without one, it is the end of an interval.
    fn add(&mut self, key: &[u8], chain: &str) {
        if self.batch.length() > MOST {
            self.batch.close(self.list);
            self.begin();
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

    fn end(self) {
        self.batch.close(self.list);
    }
}
