//! What the kernel has of our table.

use std::io;

use super::encode;
use super::table::{counter, Base, Rule, BACKEND, DRAINING, FRONTEND, PREROUTING, TABLE};
use crate::engine::{InForce, Share};
use crate::net::{Endpoint, Family};
use crate::service::Name;
use crate::sys::batch::{Batch, Verb, NESTED};
use crate::sys::netlink::{self, append, find, find_in, next, part, text_of, Netlink};
use crate::sys::nftables::{chain, data, elements, expression, object, rule, set, table, INET};
use crate::text::has;

/// How often our table is read while others change theirs.
const TRIES: usize = 5;

/// Our table as lists of its things ([`part`]); all empty if there is none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The family of the table; none if there is no table.
    pub family: Option<libc::c_int>,
    /// It is not as we make it: somebody has set a flag, such as `dormant`, with which none of its chains is asked. Or there is
    /// one of the other family too.
    pub is_odd: bool,
    pub chains: Vec<u8>,
    pub rules: Vec<u8>,
    pub counters: Vec<u8>,
    pub maps: Vec<u8>,
    /// For each lookup of the rules, in their order: the name of its map, and the map's elements.
    pub elements: Vec<(String, Vec<u8>)>,
}

/// An attribute with our table's name.
fn named(kind: u16) -> Vec<u8> {
    let mut attributes = Vec::new();
    netlink::attribute(&mut attributes, kind, &[TABLE.as_bytes(), &[0]].concat());
    attributes
}

impl Seen {
    /// Reads the table. An error means that it may be there, unseen.
    pub fn read() -> io::Result<Self> {
        let mut netlink = match Netlink::open() {
            Ok(netlink) => netlink,
            // This kernel has no nf_tables.
            Err(error) if lacks_nftables(&error) => return Ok(Seen::default()),
            Err(error) => return Err(error),
        };
        let mut left = TRIES;
        loop {
            let before = netlink::generation();
            left -= 1;
            // Between the requests another program may change or remove what we read.
            match Self::once(&mut netlink) {
                Ok(seen) if left == 0 || before == netlink::generation() => return Ok(seen),
                Err(error) if left == 0 => return Err(error),
                _ => {}
            }
        }
    }

    fn once(netlink: &mut Netlink) -> io::Result<Self> {
        let mut seen = Seen::default();
        for family in [INET, Family::V4.domain()] {
            match netlink.ask(netlink::TABLES, family, &named(table::NAME)) {
                Ok(known) => {
                    let flags = find(&known, table::FLAGS).is_some_and(|flags| flags != [0; 4]);
                    seen.is_odd |= flags || seen.family.is_some();
                    seen.family = seen.family.or(Some(family));
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) if lacks_nftables(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let Some(family) = seen.family else { return Ok(seen) };
        // Older kernels list the chains of all tables.
        netlink.list_of(netlink::CHAINS, family, &named(chain::TABLE), &mut |attributes| {
            if text_of(attributes, chain::TABLE) == Some(TABLE) {
                append(&mut seen.chains, attributes);
            }
        })?;
        seen.rules = netlink.collect(netlink::RULES, family, &named(rule::TABLE))?;
        seen.counters = netlink.collect(netlink::OBJECTS, family, &named(object::TABLE))?;
        seen.maps = netlink.collect(netlink::SETS, family, &named(set::TABLE))?;
        let mut rest = seen.rules.as_slice();
        while let Some(one) = part(&mut rest) {
            if let Some(map) = map_of(find(one, rule::EXPRESSIONS).unwrap_or_default()) {
                let mut which = named(elements::TABLE);
                netlink::attribute(&mut which, elements::SET, &[map.as_bytes(), &[0]].concat());
                let listed = netlink.collect(netlink::ELEMENTS, family, &which)?;
                seen.elements.push((map.to_owned(), listed));
            }
        }
        Ok(seen)
    }

    fn elements(&self, map: &str) -> &[u8] {
        let found = self.elements.iter().find(|(name, _)| name == map);
        found.map_or(&[], |(_, elements)| elements.as_slice())
    }
}

/// Whether an error says that the kernel has no nf_tables, or not for this family.
fn lacks_nftables(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL))
}

/// The name of the map in which the expressions of a rule look something up.
fn map_of(mut expressions: &[u8]) -> Option<&str> {
    while let Some((name, data)) = expression(&mut expressions) {
        if name == "lookup" {
            return text_of(data, 1);
        }
    }
    None
}

/// Takes the first expression from the others: its name and its attributes.
fn expression<'a>(expressions: &mut &'a [u8]) -> Option<(&'a str, &'a [u8])> {
    let (_, one) = next(expressions)?;
    Some((text_of(one, expression::NAME).unwrap_or_default(), find(one, expression::DATA).unwrap_or_default()))
}

/// A chain in the kernel, with its rules.
#[derive(Debug)]
struct Known<'a> {
    name: &'a str,
    attributes: &'a [u8],
}

/// What was read, in order, to be searched.
#[derive(Debug)]
pub struct Index<'a> {
    seen: &'a Seen,
    /// By name.
    chains: Vec<Known<'a>>,
    /// By chain; those of one chain in their order: the chain's name, and the expressions.
    rules: Vec<(&'a str, &'a [u8])>,
    /// By name: with the connections counted.
    counters: Vec<(&'a str, u64)>,
}

impl<'a> Index<'a> {
    /// Of what was read.
    pub fn of(seen: &'a Seen) -> Self {
        let mut index = Index { seen, chains: Vec::new(), rules: Vec::new(), counters: Vec::new() };
        let mut rest = seen.chains.as_slice();
        while let Some(attributes) = part(&mut rest) {
            let name = text_of(attributes, chain::NAME).unwrap_or_default();
            index.chains.push(Known { name, attributes });
        }
        rest = &seen.rules;
        while let Some(one) = part(&mut rest) {
            let of = text_of(one, rule::CHAIN).unwrap_or_default();
            index.rules.push((of, find(one, rule::EXPRESSIONS).unwrap_or_default()));
        }
        rest = &seen.counters;
        while let Some(one) = part(&mut rest) {
            let packets = find_in(one, object::DATA, object::PACKETS).and_then(|packets| packets.try_into().ok());
            let name = text_of(one, object::NAME).unwrap_or_default();
            index.counters.push((name, packets.map_or(0, u64::from_be_bytes)));
        }
        index.chains.sort_by(|a, b| a.name.cmp(b.name));
        // Stable: the order within a chain stays.
        index.rules.sort_by(|a, b| a.0.cmp(b.0));
        index.counters.sort_by(|a, b| a.0.cmp(b.0));
        index
    }

    /// The names of all chains.
    pub fn chains(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.chains.iter().map(|known| known.name)
    }

    /// The names of all counters.
    pub fn counters(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.counters.iter().map(|(name, _)| *name)
    }

    fn chain(&self, name: &str) -> Option<&Known<'a>> {
        let at = self.chains.binary_search_by(|known| known.name.cmp(name)).ok()?;
        self.chains.get(at)
    }

    /// Whether there is a chain of this name.
    pub fn has(&self, name: &str) -> bool {
        self.chain(name).is_some()
    }

    /// The connections that a counter has counted; none if it is not there.
    pub fn counted(&self, name: &str) -> Option<u64> {
        let at = self.counters.binary_search_by(|known| known.0.cmp(name)).ok()?;
        self.counters.get(at).map(|(_, packets)| *packets)
    }

    /// The expressions of the rules of a chain.
    fn rules(&self, chain: &str) -> &[(&'a str, &'a [u8])] {
        let from = self.rules.partition_point(|(of, _)| *of < chain);
        let rest = self.rules.get(from..).unwrap_or_default();
        rest.get(..rest.partition_point(|(of, _)| *of == chain)).unwrap_or_default()
    }

    /// Whether packets come to this chain where `base` says, or only from other chains.
    pub fn is_based(&self, name: &str, base: Option<&Base>) -> bool {
        let Some(known) = self.chain(name) else { return false };
        let hook = find(known.attributes, chain::HOOK);
        match (hook, base) {
            (None, None) => true,
            (Some(hook), Some(base)) => {
                let number = |kind| find(hook, kind).and_then(|number| number.try_into().ok()).map(u32::from_be_bytes);
                number(chain::HOOK_NUMBER) == Some(base.hook)
                    && number(chain::HOOK_PRIORITY) == Some(base.priority as u32)
                    && text_of(known.attributes, chain::TYPE) == Some(base.kind)
                    // NF_ACCEPT.
                    && find(known.attributes, chain::POLICY) == Some(&[0, 0, 0, 1])
            }
            _ => false,
        }
    }

    /// Whether the rules of a chain are these.
    pub fn has_rules(&self, chain: &str, rules: &[Rule]) -> bool {
        let known = self.rules(chain);
        known.len() == rules.len() && known.iter().zip(rules).all(|((_, known), rule)| self.is(known, rule))
    }

    /// Whether the expressions in the kernel are those of a rule, and its map has the same elements.
    fn is(&self, known: &[u8], wanted: &Rule) -> bool {
        let mut batch = Batch::of(self.seen.family.unwrap_or(INET), TABLE);
        encode::new_rule(&mut batch, "", wanted, &mut 0);
        let mut wanted_elements = Vec::new();
        let mut number = 1;
        while let Some((verb, attributes)) = batch.get(number) {
            number += 1;
            if verb == Verb::NewElements as u16 {
                each_element(find(attributes, elements::LIST).unwrap_or_default(), &mut wanted_elements);
            } else if verb == Verb::NewRule as u16 {
                let wanted = find(attributes, rule::EXPRESSIONS).unwrap_or_default();
                if !are(known, wanted) {
                    return false;
                }
            }
        }
        let Some(map) = map_of(known) else { return wanted_elements.is_empty() };
        let mut there = self.elements_of(map);
        there.sort_unstable();
        wanted_elements.sort_unstable();
        there == wanted_elements
    }

    /// The elements of a map: key, whether it ends an interval, the chain that it leads to.
    fn elements_of(&self, map: &str) -> Vec<Element<'a>> {
        let (mut found, mut rest) = (Vec::new(), self.seen.elements(map));
        while let Some(one) = part(&mut rest) {
            each_element(find(one, elements::LIST).unwrap_or_default(), &mut found);
        }
        found
    }

    /// The frontends in force.
    pub fn frontends(&self) -> Vec<InForce> {
        let mut found: Vec<InForce> = Vec::new();
        for (_, expressions) in self.rules(PREROUTING.name) {
            for (bytes, _, target) in map_of(expressions).map(|map| self.elements_of(map)).unwrap_or_default() {
                let Some(bind) = bind_of(bytes) else { continue };
                let own = target.strip_prefix(FRONTEND);
                let name = match own {
                    // A name from the config has no slash.
                    Some(own) if !has(own, '/') => own.to_owned(),
                    _ => Name::of_bind(bind).as_str().to_owned(),
                };
                let draining = target == DRAINING;
                let mut one = InForce { name, bind, draining, exact: false, backends: Vec::new() };
                if let Some(own) = own {
                    self.shares(own, &mut one);
                }
                found.push(one);
            }
        }
        found.sort_unstable_by_key(|one| one.bind);
        found
    }

    /// What each backend gets of a frontend.
    fn shares(&self, frontend: &str, one: &mut InForce) {
        let turns = self.turns(frontend);
        one.exact = turns.is_exact;
        for chain in turns.chains {
            let Some(address) = self.backend(chain) else { continue };
            let place = one.backends.binary_search_by(|known| known.address.cmp(&address));
            let at = place.unwrap_or_else(|at| {
                let taken = self.counted(&counter(frontend, &address)).unwrap_or(0);
                one.backends.insert(at, Share { address, taken, slots: 0 });
                at
            });
            if let Some(share) = one.backends.get_mut(at) {
                share.slots += 1;
            }
        }
    }

    /// How the connections of a frontend are dealt out.
    pub fn turns(&self, frontend: &str) -> Turns<'a> {
        let mut turns = Turns { chains: Vec::new(), is_exact: false };
        for (_, expressions) in self.rules(&super::table::frontend(frontend)) {
            let mut rest = *expressions;
            while let Some((name, of)) = expression(&mut rest) {
                match name {
                    // NFTA_NG_TYPE
                    "numgen" => turns.is_exact = find(of, 3) == Some(&[0; 4]),
                    "immediate" => {
                        let chain = find_in(of, 2, data::VERDICT).and_then(|verdict| text_of(verdict, data::CHAIN));
                        turns.is_exact |= chain.is_some();
                        turns.chains.extend(chain);
                    }
                    "lookup" => {
                        let mut slots = self.elements_of(text_of(of, 1).unwrap_or_default());
                        // By their numbers, which are in the order of the machine.
                        slots.sort_by_key(|(key, ..)| (*key).try_into().map_or(0, u32::from_ne_bytes));
                        turns.chains.extend(slots.iter().map(|(_, _, chain)| *chain).filter(|chain| !chain.is_empty()));
                    }
                    _ => {}
                }
            }
        }
        turns
    }

    /// Where the chain of a backend sends connections.
    pub fn backend(&self, chain: &str) -> Option<Endpoint> {
        let (_, mut rest) = *self.rules(chain).first()?;
        let mut address: &[u8] = &[];
        while let Some((name, of)) = expression(&mut rest) {
            if name == "immediate" {
                let value = find_in(of, 2, data::VALUE)?;
                match value.len() {
                    2 => return endpoint(address, value),
                    _ => address = value,
                }
            }
        }
        None
    }
}

/// A key, whether it ends an interval, and the chain that it leads to.
type Element<'a> = (&'a [u8], bool, &'a str);

/// The chains of the backends of a frontend.
#[derive(Debug)]
pub struct Turns<'a> {
    /// Each slot's, in their order.
    pub chains: Vec<&'a str>,
    /// They take turns.
    pub is_exact: bool,
}

impl Turns<'_> {
    /// The index of the backend of each slot, if all are of this frontend and take turns.
    pub fn indices(&self, frontend: &str) -> Option<Vec<u16>> {
        let mut indices = Vec::new();
        for chain in &self.chains {
            let (own, index) = chain.strip_prefix(BACKEND)?.rsplit_once('/')?;
            if own != frontend {
                return None;
            }
            indices.push(index.parse().ok()?);
        }
        (self.is_exact && !indices.is_empty()).then_some(indices)
    }
}

/// Appends the elements of a list.
fn each_element<'a>(mut list: &'a [u8], to: &mut Vec<Element<'a>>) {
    while let Some((_, element)) = next(&mut list) {
        let bytes = find_in(element, elements::KEY, data::VALUE).unwrap_or_default();
        let flags = find(element, elements::FLAGS).and_then(|flags| flags.try_into().ok());
        let ends = flags.map_or(0, u32::from_be_bytes) & elements::INTERVAL_END != 0;
        let verdict = find_in(element, elements::DATA, data::VERDICT).unwrap_or_default();
        to.push((bytes, ends, text_of(verdict, data::CHAIN).unwrap_or_default()));
    }
}

/// Whether the expressions that the kernel has are the wanted ones. It adds attributes of its own with their defaults, and
/// names maps.
fn are(mut known: &[u8], mut wanted: &[u8]) -> bool {
    loop {
        match (expression(&mut known), expression(&mut wanted)) {
            (None, None) => return true,
            (Some((name, known)), Some((other, wanted))) if name == other => {
                if name != "lookup" && !contains(known, wanted) {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

/// Whether all attributes that are wanted are there.
fn contains(known: &[u8], mut wanted: &[u8]) -> bool {
    loop {
        let nested = matches!(wanted, [_, _, c, d, ..] if u16::from_ne_bytes([*c, *d]) & NESTED != 0);
        let Some((kind, content)) = next(&mut wanted) else { return true };
        match find(known, kind) {
            Some(known) if nested && contains(known, content) => {}
            Some(known) if known == content => {}
            _ => return false,
        }
    }
}

/// The bind in a key: the protocol, the address, the port, each filled up to four bytes.
fn bind_of(key: &[u8]) -> Option<Endpoint> {
    let port = key.len().checked_sub(4)?;
    endpoint(key.get(4..port)?, key.get(port..port + 2)?)
}

fn endpoint(address: &[u8], port: &[u8]) -> Option<Endpoint> {
    let port = u16::from_be_bytes(port.try_into().ok()?);
    Endpoint::of_octets(address, port)
}
