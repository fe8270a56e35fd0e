//! What was read of our table, in order, to be searched and compared.

use super::encode::{self, MAP};
use super::read::Seen;
use super::table::{self, counter, Base, Map, Rule, BACKEND, DRAINING, FRONTEND, PREROUTING, TABLE};
use crate::engine::{add_slot, InForce};
use crate::net::{Endpoint, Protocol};
use crate::service::{Name, Ports};
use crate::sys::batch::{Batch, Verb, NESTED};
use crate::sys::netlink::{big, find, find_in, name_of, next, part};
use crate::sys::nftables::{chain, data, elements, expression, object, rule, set, INET};
use crate::text::{has, number};

/// A thing of a list, or an element of a map. All lists are of this one type, so that the binary has one sort.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its name; of a rule that of its chain, of a list of elements that of their map; of an element its key.
    pub name: &'a [u8],
    /// Its attributes; of an element the chain that it leads to, or [`END`].
    pub content: &'a [u8],
}

/// No chain: the element ends an interval.
const END: &[u8] = &[0];

/// Entries in the order of their names. Those with one name are in the order of the list.
#[derive(Debug)]
pub struct Sorted<'a>(Vec<Entry<'a>>);

impl<'a> Sorted<'a> {
    #[inline(never)]
    fn of(mut entries: Vec<Entry<'a>>) -> Self {
        // What comes later in a list has a higher address.
        let place = |entry: &Entry<'a>| (entry.name, entry.content.as_ptr());
        entries.sort_unstable_by(|a, b| place(a).cmp(&place(b)));
        Sorted(entries)
    }

    /// The things of a list that was read, by the name that they have in this attribute.
    fn of_list(mut list: &'a [u8], kind: u16) -> Self {
        let mut entries = Vec::new();
        while let Some(content) = part(&mut list) {
            entries.push(Entry { name: name_of(content, kind), content });
        }
        Self::of(entries)
    }

    /// Names alone.
    pub fn names(names: &mut dyn Iterator<Item = &'a str>) -> Self {
        let mut entries = Vec::new();
        for name in names {
            entries.push(Entry { name: name.as_bytes(), content: &[] });
        }
        Self::of(entries)
    }

    /// All of them.
    pub fn all(&self) -> &[Entry<'a>] {
        &self.0
    }

    /// Those with this name.
    #[inline(never)]
    pub fn named(&self, name: &[u8]) -> &[Entry<'a>] {
        let from = self.0.partition_point(|entry| entry.name < name);
        let rest = self.0.get(from..).unwrap_or_default();
        let mut count = 0;
        while rest.get(count).is_some_and(|entry| entry.name == name) {
            count += 1;
        }
        rest.get(..count).unwrap_or_default()
    }

    /// Whether there is one with this name.
    pub fn has(&self, name: &[u8]) -> bool {
        !self.named(name).is_empty()
    }
}

/// What was read, in order.
#[derive(Debug)]
pub struct Index<'a> {
    pub seen: &'a Seen,
    /// All chains.
    pub chains: Sorted<'a>,
    /// All counters.
    pub counters: Sorted<'a>,
    /// All maps that have a name of ours.
    pub maps: Sorted<'a>,
    rules: Sorted<'a>,
    elements: Sorted<'a>,
}

impl<'a> Index<'a> {
    /// Of what was read.
    #[inline(never)]
    pub fn of(seen: &'a Seen) -> Self {
        let mut maps = Sorted::of_list(&seen.maps, set::NAME);
        // Those of single rules are compared, and go, with these.
        maps.0.retain(|map| big(map.content, set::FLAGS).unwrap_or(0) & set::ANONYMOUS == 0);
        Index {
            seen,
            maps,
            chains: Sorted::of_list(&seen.chains, chain::NAME),
            counters: Sorted::of_list(&seen.counters, object::NAME),
            rules: Sorted::of_list(&seen.rules, rule::CHAIN),
            elements: Sorted::of_list(&seen.elements, elements::SET),
        }
    }

    /// Whether packets come to this chain where `base` says, or only from other chains.
    pub fn is_based(&self, name: &str, base: Option<&Base>) -> bool {
        let Some(known) = self.chains.named(name.as_bytes()).first() else { return false };
        let hook = find(known.content, chain::HOOK);
        match (hook, base) {
            (None, None) => true,
            (Some(hook), Some(base)) => {
                big(hook, chain::HOOK_NUMBER) == Some(base.hook)
                    && big(hook, chain::HOOK_PRIORITY) == Some(base.priority as u32)
                    && name_of(known.content, chain::TYPE) == base.kind.as_bytes()
                    // NF_ACCEPT.
                    && big(known.content, chain::POLICY) == Some(1)
            }
            _ => false,
        }
    }

    /// Whether a map is of the right kind.
    pub fn is_kind(&self, map: &Map) -> bool {
        let Some(known) = self.maps.named(map.name.as_bytes()).first() else { return false };
        let (_, length) = encode::kind(map);
        big(known.content, set::FLAGS) == Some(set::MAP) && big(known.content, set::KEY_LENGTH) == Some(length)
    }

    /// The elements of a map.
    pub fn elements(&self, map: &[u8]) -> Sorted<'a> {
        let mut found = Vec::new();
        for list in self.elements.named(map) {
            each_element(list.content, &mut found);
        }
        Sorted::of(found)
    }

    /// Whether the rules of a chain are these.
    pub fn has_rules(&self, chain: &str, rules: &[Rule]) -> bool {
        let known = self.rules.named(chain.as_bytes());
        known.len() == rules.len() && known.iter().zip(rules).all(|(known, rule)| self.is(expressions(known), rule))
    }

    /// Whether the expressions in the kernel are those of a rule, and its map has the same elements.
    fn is(&self, known: &'a [u8], wanted: &Rule) -> bool {
        let mut batch = Batch::of(self.seen.family.unwrap_or(INET), TABLE);
        encode::new_rule(&mut batch, "", wanted, &mut 0);
        let mut wanted_elements = Vec::new();
        let mut number = 1;
        while let Some((verb, attributes)) = batch.get(number) {
            number += 1;
            if verb == Verb::NewElements as u16 {
                each_element(attributes, &mut wanted_elements);
            } else if verb == Verb::NewRule as u16 {
                let wanted = find(attributes, rule::EXPRESSIONS).unwrap_or_default();
                if !are(known, wanted) {
                    return false;
                }
            }
        }
        // A map that has a name is compared by itself.
        if wanted_elements.is_empty() {
            return true;
        }
        let (there, wanted) = (self.elements_of(known), Sorted::of(wanted_elements));
        let mut same = there.0.len() == wanted.0.len();
        for (there, wanted) in there.0.iter().zip(wanted.all()) {
            same &= there.name == wanted.name && there.content == wanted.content;
        }
        same
    }

    /// The elements of the map in which expressions look something up.
    fn elements_of(&self, mut expressions: &[u8]) -> Sorted<'a> {
        while let Some((name, of)) = expression(&mut expressions) {
            if name == "lookup" {
                return self.elements(name_of(of, 1));
            }
        }
        Sorted(Vec::new())
    }

    /// The connections that a counter has counted; 0 if it is not there.
    fn counted(&self, name: &str) -> u64 {
        let known = self.counters.named(name.as_bytes()).first();
        let packets = known.and_then(|known| find_in(known.content, object::DATA, object::PACKETS)?.try_into().ok());
        packets.map_or(0, u64::from_be_bytes)
    }

    /// The frontends in force, sorted by bind.
    pub fn frontends(&self) -> Vec<InForce> {
        let mut found: Vec<InForce> = Vec::new();
        for rule in self.rules.named(PREROUTING.name.as_bytes()) {
            if let Some((at, ports, chain)) = range_of(expressions(rule)) {
                self.add(at, ports, chain, &mut found);
                continue;
            }
            for element in self.elements_of(expressions(rule)).all() {
                if let Some(bind) = bind_of(element.name) {
                    self.add(bind, (bind.port(), bind.port()), element.content, &mut found);
                }
            }
        }
        found.sort_by_key(|one| one.bind);
        found
    }

    /// Adds ports of a bind to the frontend of their chain.
    fn add(&self, bind: Endpoint, ports: (u16, u16), chain: &[u8], found: &mut Vec<InForce>) {
        let target = std::str::from_utf8(chain).unwrap_or_default();
        let own = target.strip_prefix(FRONTEND);
        let name = match own {
            // A name from the config has no slash.
            Some(own) if !has(own, '/') => own.to_owned(),
            _ => Name::of_bind(bind).as_str().to_owned(),
        };
        let draining = target == DRAINING;
        let is_it = |one: &&mut InForce| {
            one.name == name && one.bind.ip() == bind.ip() && one.bind.protocol() == bind.protocol()
        };
        if let Some(known) = found.iter_mut().find(is_it).filter(|_| !draining) {
            known.ports.add(ports);
            known.bind = known.bind.with_port(Some(known.ports.first()));
            return;
        }
        let ports = Ports::range(ports.0, ports.1);
        let mut one = InForce { name, bind, ports, draining, exact: false, backends: Vec::new() };
        if let Some(own) = own {
            self.shares(own, &mut one);
        }
        found.push(one);
    }

    /// What each backend gets of a frontend.
    fn shares(&self, frontend: &str, one: &mut InForce) {
        let turns = self.turns(frontend);
        one.exact = turns.is_exact;
        for chain in turns.chains {
            if let Some(address) = self.backend(chain) {
                add_slot(&mut one.backends, address, 0);
            }
        }
        for share in &mut one.backends {
            share.taken = self.counted(&counter(frontend, &share.address));
        }
    }

    /// How the connections of a frontend are dealt out.
    pub fn turns(&self, frontend: &str) -> Turns<'a> {
        let mut turns = Turns { chains: Vec::new(), is_exact: false };
        // What follows is there only for packets that are on their way when this one is replaced.
        if let Some(rule) = self.rules.named(table::frontend(frontend).as_bytes()).first() {
            let all = expressions(rule);
            let mut rest = all;
            while let Some((name, of)) = expression(&mut rest) {
                match name {
                    // NFTA_NG_TYPE
                    "numgen" => turns.is_exact = big(of, 3) == Some(0),
                    "immediate" => {
                        let verdict = find_in(of, 2, data::VERDICT).unwrap_or_default();
                        if find(verdict, data::CHAIN).is_some() {
                            turns.is_exact = true;
                            turns.chains.push(name_of(verdict, data::CHAIN));
                        }
                    }
                    "lookup" => turns.of_map(&self.elements_of(all)),
                    _ => {}
                }
            }
        }
        turns
    }

    /// Where the chain of a backend sends connections.
    pub fn backend(&self, chain: &[u8]) -> Option<Endpoint> {
        let mut rest = expressions(self.rules.named(chain).first()?);
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
        // It keeps the client's port.
        Endpoint::of_octets(address, 1).map(|any| Endpoint::anywhere(any.family(), 0).with_ip(any.ip()))
    }
}

/// The chains of the backends of a frontend.
#[derive(Debug)]
pub struct Turns<'a> {
    /// Each slot's, in their order.
    pub chains: Vec<&'a [u8]>,
    /// They take turns.
    pub is_exact: bool,
}

impl<'a> Turns<'a> {
    /// The chains that the elements of a map lead to.
    fn of_map(&mut self, elements: &Sorted<'a>) {
        self.chains = vec![END; elements.0.len()];
        for (at, element) in elements.0.iter().enumerate() {
            // The numbers of slots are in the order of the machine.
            let slot = element.name.try_into().map_or(0, u32::from_ne_bytes) as usize;
            if let Some(chain) = self.chains.get_mut(if self.is_exact { slot } else { at }) {
                *chain = element.content;
            }
        }
        self.chains.retain(|chain| *chain != END);
    }

    /// The index of the backend of each slot, if all are of this frontend and take turns.
    pub fn indices(&self, frontend: &str) -> Option<Vec<usize>> {
        let own = [BACKEND, frontend, "/"].concat();
        let mut indices = Vec::new();
        for chain in &self.chains {
            let index = std::str::from_utf8(chain.strip_prefix(own.as_bytes())?).ok()?;
            indices.push(number(index, u16::MAX.into())? as usize);
        }
        (self.is_exact && !indices.is_empty()).then_some(indices)
    }
}

/// The expressions of a rule.
fn expressions<'a>(rule: &Entry<'a>) -> &'a [u8] {
    find(rule.content, rule::EXPRESSIONS).unwrap_or_default()
}

/// Appends the elements of a message.
fn each_element<'a>(message: &'a [u8], to: &mut Vec<Entry<'a>>) {
    let mut list = find(message, elements::LIST).unwrap_or_default();
    while let Some((_, element)) = next(&mut list) {
        let name = find_in(element, elements::KEY, data::VALUE).unwrap_or_default();
        let ends = big(element, elements::FLAGS).unwrap_or(0) & elements::INTERVAL_END != 0;
        let verdict = find_in(element, elements::DATA, data::VERDICT).unwrap_or_default();
        to.push(Entry { name, content: if ends { END } else { name_of(verdict, data::CHAIN) } });
    }
}

/// Whether the expressions that the kernel has are the wanted ones. It adds attributes of its own with their defaults, and
/// names maps.
fn are(mut known: &[u8], mut wanted: &[u8]) -> bool {
    loop {
        match (expression(&mut known), expression(&mut wanted)) {
            (None, None) => return true,
            (Some((name, known)), Some((other, wanted))) if name == other => {
                // The kernel has given a name to the map of a single rule.
                let is_own_map = name == "lookup" && name_of(wanted, 1) == MAP.as_bytes();
                if !is_own_map && !contains(known, wanted) {
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
    Some(endpoint(key.get(4..port)?, key.get(port..port + 2)?)?.of_protocol(protocol(*key.first()?)?))
}

fn protocol(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp].into_iter().find(|protocol| protocol.number() == number)
}

/// What a rule says that sends a range of ports to a chain: what is compared has a length that tells what it is; the protocol
/// comes after the family.
fn range_of(mut expressions: &[u8]) -> Option<(Endpoint, (u16, u16), &[u8])> {
    let (mut of, mut address, mut ports, mut chain): (_, &[u8], _, _) = (None, &[], Vec::new(), None);
    while let Some((name, content)) = expression(&mut expressions) {
        match name {
            // NFTA_CMP_DATA, NFTA_IMMEDIATE_DATA
            "cmp" => match find_in(content, 3, data::VALUE)? {
                [one] => of = protocol(*one).or(of),
                [high, low] => ports.push(u16::from_be_bytes([*high, *low])),
                long => address = long,
            },
            "immediate" => chain = find_in(content, 2, data::VERDICT).map(|verdict| name_of(verdict, data::CHAIN)),
            "lookup" => return None,
            _ => {}
        }
    }
    let [first, last] = *ports.as_slice() else { return None };
    let at = Endpoint::of_octets(address, first)?.of_protocol(of?);
    Some((at, (first, last), chain?))
}

fn endpoint(address: &[u8], port: &[u8]) -> Option<Endpoint> {
    let port = u16::from_be_bytes(port.try_into().ok()?);
    Endpoint::of_octets(address, port)
}
