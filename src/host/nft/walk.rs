//! The way of a connection's first packet through a chain, as far as its rules can be understood.

use super::chain::{chains, is_one_of, Base, Chain, Hook, Rule};
use super::fate::{Fate, Match, TRACKING};
use super::iptables;
use super::set::Sets;
use crate::net::{Endpoint, Family, Octets};
use crate::sys::netlink::{big, find, find_in, text_of};
use crate::sys::nftables::{data, expression};

/// How deep chains may lead into each other (NFT_JUMP_STACK_SIZE).
pub(super) const DEEPEST: usize = 16;

/// How many rules are looked at for one connection: chains that many others lead to are walked each time.
const MOST_RULES: u32 = 20_000;

/// IPS_DST_NAT, and the bits that `ct state` has for a new connection (linux/netfilter/nf_conntrack_common.h).
const DST_NAT: u32 = 1 << 5;
const NEW: u32 = 1 << 3;

/// A connection that is balanced.
#[derive(Debug, Clone)]
pub struct Path {
    /// Where the client connects to.
    pub bind: Endpoint,
    /// Where the connection goes.
    pub backend: Endpoint,
    /// The interface by which it comes in; empty if that is not known.
    pub arrives: String,
    /// The interface by which it leaves; empty if that is not known.
    pub leaves: String,
}

/// What a rule does with what it matches.
#[derive(Clone, Copy)]
pub(super) enum Verdict<'a> {
    Next,
    Return,
    Accept,
    End(Fate),
    Jump(&'a Chain),
    Goto(&'a Chain),
}

/// A value in a register: as many of these bytes, of which as many are compared as the rule has; none if it is
/// not known.
#[derive(Debug, Clone, Copy)]
struct Value {
    bytes: [u8; 16],
    length: usize,
}

/// These bytes, at most 16 of them.
#[inline(never)]
fn is(from: &[u8]) -> Value {
    let mut bytes = [0; 16];
    for (to, byte) in bytes.iter_mut().zip(from) {
        *to = *byte;
    }
    Value { bytes, length: from.len().min(16) }
}

fn address(endpoint: &Endpoint) -> Value {
    is(Octets::of(endpoint.address()).as_slice())
}

/// The name of an interface, with zeros behind it.
fn name_of(interface: &str) -> Value {
    match interface {
        "" => ANOTHER_HOSTS,
        _ => Value { length: 16, ..is(interface.as_bytes()) },
    }
}

/// An interface that is not known, but that other hosts are behind: not lo, by its name or its number.
const ANOTHER_HOSTS: Value = Value { bytes: *b"not lo\0\0\0\0\0\0\0\0\0\0", length: 0 };

/// Whether a rule compares an interface with lo, the first of each host.
fn is_lo(with: &[u8]) -> bool {
    with.starts_with(b"lo\0") || with == 1_u32.to_ne_bytes()
}

/// What the registers hold: 16 words of four bytes, each with the value that begins there.
struct Registers([Value; 16]);

impl Registers {
    /// Nothing that is known.
    fn empty() -> Self {
        Registers([is(&[]); 16])
    }

    /// The word that an attribute of an expression names: registers 1 to 4 have four words each (NFT_REG_1), those from 8 on
    /// have one (NFT_REG32_00).
    fn word(data: &[u8], attribute: u16) -> usize {
        match big(data, attribute).unwrap_or(0) as usize {
            long @ 1..=4 => (long - 1) * 4,
            short => short.wrapping_sub(8),
        }
    }

    /// The value in the register that this attribute names.
    fn value(&self, data: &[u8], attribute: u16) -> Value {
        self.0.get(Self::word(data, attribute)).copied().unwrap_or(is(&[]))
    }

    fn load(&mut self, data: &[u8], attribute: u16, value: Value) {
        if let Some(at) = self.0.get_mut(Self::word(data, attribute)) {
            *at = value;
        }
    }

    /// All that is known from this register on: the values that a key is made of, each padded to whole words.
    fn key(&self, data: &[u8], attribute: u16) -> Vec<u8> {
        let (mut key, mut word) = (Vec::new(), Self::word(data, attribute));
        while let Some(value) = self.0.get(word).filter(|value| value.length > 0) {
            key.extend_from_slice(value.known(16));
            while key.len() % 4 != 0 {
                key.push(0);
            }
            word += value.length.div_ceil(4);
        }
        key
    }
}

impl Value {
    /// Leaves what this mask leaves.
    fn mask(&mut self, mask: &[u8]) {
        for (byte, mask) in self.bytes.iter_mut().zip(mask) {
            *byte &= mask;
        }
    }

    /// What is known of it, at most this number of bytes.
    fn known(&self, most: usize) -> &[u8] {
        self.bytes.get(..self.length.min(most)).unwrap_or_default()
    }
}

/// A chain, and the connection that passes it.
pub(super) struct Walk<'a, 'b> {
    chains: &'a [Chain],
    start: &'a Chain,
    base: Base,
    pub(super) path: &'b Path,
    sets: &'b mut Sets<'a>,
    /// A rule that was not understood could have let it through.
    unsure: bool,
    /// How many rules it may still look at.
    pub(super) left: u32,
    /// The first rule that drops what cannot be told from here.
    sometimes: Option<u64>,
    /// The rule that decided.
    handle: u64,
}

impl Chain {
    /// What becomes of a connection's first packet here, and by which rule; `chains` are all, among which others are found that
    /// rules lead to.
    pub fn fate<'a>(&'a self, base: Base, chains: &'a [Chain], path: &Path, sets: &mut Sets<'a>) -> (Fate, u64) {
        let mut walk = Walk::new(self, base, chains, path, sets);
        let fate = walk.chain(self, DEEPEST).unwrap_or(if base.drops { Fate::Dropped } else { Fate::Through });
        match (fate, walk.sometimes) {
            (Fate::Dropped | Fate::Refused, _) if walk.unsure => (Fate::DroppedPerhaps, walk.handle),
            (Fate::Through, Some(handle)) => (Fate::Sometimes, handle),
            _ => (fate, walk.handle),
        }
    }
}

/// Whether one of them drops what is forwarded unless it has a reason not to.
pub fn closes(family: Family) -> bool {
    let chains = chains(family, false).unwrap_or_default();
    // No host of a network for documentation is meant by any rule (RFC 5737, RFC 3849).
    let nobody = if family == Family::V4 { "192.0.2.1:9" } else { "[2001:db8::1]:9" };
    let Ok(nobody) = Endpoint::parse(nobody) else { return false };
    let path = Path { bind: nobody, backend: nobody, arrives: String::new(), leaves: String::new() };
    let mut sets = Sets::default();
    for chain in &chains {
        let Some(base) = chain.base.filter(|base| base.hook == Hook::Forward) else { continue };
        if let (Fate::Dropped | Fate::Refused | Fate::DroppedPerhaps, _) = chain.fate(base, &chains, &path, &mut sets) {
            return true;
        }
    }
    false
}

impl<'a, 'b> Walk<'a, 'b> {
    /// At the beginning of a chain.
    pub(super) fn new(
        start: &'a Chain,
        base: Base,
        chains: &'a [Chain],
        path: &'b Path,
        sets: &'b mut Sets<'a>,
    ) -> Self {
        let (unsure, left, sometimes, handle) = (false, MOST_RULES, None, 0);
        Walk { chains, start, base, path, sets, unsure, left, sometimes, handle }
    }

    /// Its end, if it is in this chain or in one that this leads to.
    fn chain(&mut self, chain: &'a Chain, depth: usize) -> Option<Fate> {
        for rule in &chain.rules {
            if self.left == 0 {
                self.unsure = true;
                return None;
            }
            self.left -= 1;
            let (matches, verdict) = self.rule(rule);
            if matches == Match::No {
                continue;
            }
            // Whether the chain ends here if the rule is sure to match, and how.
            let (ends, end) = match verdict {
                Verdict::Next => continue,
                Verdict::Return => (true, None),
                Verdict::Accept => (true, Some(Fate::Through)),
                Verdict::End(fate) => {
                    self.handle = rule.handle;
                    (true, Some(fate))
                }
                Verdict::Jump(to) | Verdict::Goto(to) => {
                    if depth == 0 {
                        continue;
                    }
                    let end = self.chain(to, depth - 1);
                    (end.is_some() || matches!(verdict, Verdict::Goto(_)), end)
                }
            };
            if !ends {
                continue;
            }
            if matches == Match::Yes {
                return end;
            }
            match end {
                None if !matches!(verdict, Verdict::Return) => {}
                None | Some(Fate::Through) => self.unsure = true,
                // What is dropped for reasons of its own, such as a ban, is the administrator's business.
                Some(Fate::Dropped | Fate::Refused) => self.sometimes = self.sometimes.or(Some(self.handle)),
                _ => {}
            }
            self.handle = 0;
        }
        None
    }

    /// Whether a rule matches, and what it does then.
    pub(super) fn rule(&mut self, rule: &'a Rule) -> (Match, Verdict<'a>) {
        let (mut all, mut verdict, mut registers) = (Match::Yes, Verdict::Next, Registers::empty());
        let mut conditions = 0;
        let mut rest = rule.expressions.as_slice();
        while let Some((name, data)) = expression(&mut rest) {
            match name {
                "payload" => registers.load(data, 1, self.payload(data)),
                "meta" => registers.load(data, 1, self.meta(data)),
                "ct" => {
                    registers.load(data, 1, self.ct(data));
                    // Key 17 is the zone; attribute 4 the register that it is set from, 3 the direction.
                    if big(data, 2) == Some(17) && find(data, 4).is_some() && find(data, 3).is_none() {
                        verdict = Verdict::End(Fate::Split);
                    }
                }
                "bitwise" => {
                    let mut value = registers.value(data, 1);
                    match find_in(data, 4, data::VALUE) {
                        Some(mask) => value.mask(mask),
                        None => value.length = 0,
                    }
                    registers.load(data, 2, value);
                }
                "immediate" => {
                    if let Some(decided) = find_in(data, 2, data::VERDICT) {
                        verdict = decide(self.chains, self.start, decided);
                    }
                }
                "reject" => verdict = Verdict::End(Fate::Refused),
                "notrack" => verdict = Verdict::End(Fate::Untracked),
                _ if is_one_of(name, &["nat", "redir", "masq", "tproxy"]) => verdict = Verdict::End(Fate::Taken),
                _ if is_one_of(name, &["counter", "log", "last", "objref", "flow_offload"]) => {}
                "target" => {
                    if let Some(fate) = iptables::target(data) {
                        verdict = Verdict::End(fate);
                    }
                }
                _ => {
                    conditions += 1;
                    all = all.max(match name {
                        "cmp" => compare(&registers.value(data, 1), data),
                        "lookup" => self.look_up(&registers.key(data, 2), data, &mut verdict),
                        "match" => iptables::matches(data, self.base.priority, *self.destination() != self.path.bind),
                        _ => Match::Unknown,
                    });
                    // What a map has for the value is not compared any further.
                    if name != "cmp" {
                        registers = Registers::empty();
                    }
                }
            }
        }
        // Tracked in one place for all, nothing is split.
        if conditions == 0 && matches!(verdict, Verdict::End(Fate::Split)) {
            verdict = Verdict::Next;
        }
        (all, verdict)
    }

    /// Looks up a key in a set, or a verdict in a map of verdicts (register 0).
    fn look_up(&mut self, key: &[u8], data: &'a [u8], verdict: &mut Verdict<'a>) -> Match {
        let by_verdict = find(data, 3) == Some(&[0; 4]);
        let name = text_of(data, 1).unwrap_or_default();
        let found = match key {
            [] => Err(()),
            _ => self.sets.look_up(self.start, name, key),
        };
        let Ok(found) = found else {
            if by_verdict {
                *verdict = Verdict::Accept;
            }
            return Match::Unknown;
        };
        // NFT_LOOKUP_F_INV
        if found.is_some() == (big(data, 5) == Some(1)) {
            return Match::No;
        }
        if let (Some(decided), true) = (found.and_then(|found| find(found, data::VERDICT)), by_verdict) {
            *verdict = decide(self.chains, self.start, decided);
        }
        Match::Yes
    }

    /// Its destination here: our own rules change it at −101 or −100. What comes to this host itself was not changed.
    fn destination(&self) -> &Endpoint {
        match self.base.hook == Hook::Input || self.base.hook == Hook::Prerouting && self.base.priority <= -100 {
            true => &self.path.bind,
            false => &self.path.backend,
        }
    }

    /// Bytes of the packet.
    fn payload(&self, data: &[u8]) -> Value {
        let to = self.destination();
        match (big(data, 2), big(data, 3), to.family()) {
            // The network header: the destination's address, and the protocol.
            (Some(1), Some(16), Family::V4) | (Some(1), Some(24), Family::V6) => address(to),
            (Some(1), Some(9), Family::V4) => is(&[self.path.bind.protocol().number()]),
            (Some(2), Some(2), _) => is(&to.port().to_be_bytes()),
            _ => is(&[]),
        }
    }

    /// What is known of it besides: interfaces by name, the network protocol, the transport protocol.
    fn meta(&self, data: &[u8]) -> Value {
        match big(data, 2) {
            Some(4) => ANOTHER_HOSTS,
            Some(6) => name_of(&self.path.arrives),
            Some(7) if self.base.hook != Hook::Prerouting => name_of(&self.path.leaves),
            Some(15) => is(&[self.path.bind.family().domain() as u8]),
            Some(16) => is(&[self.path.bind.protocol().number()]),
            _ => is(&[]),
        }
    }

    /// What is known of its connection.
    fn ct(&self, data: &[u8]) -> Value {
        let original = find(data, 3) == Some(&[0]);
        match big(data, 2) {
            // State and status.
            Some(0) if self.base.priority > TRACKING => is(&NEW.to_ne_bytes()),
            Some(2) => {
                let bits = if *self.destination() == self.path.bind { 0 } else { DST_NAT };
                is(&bits.to_ne_bytes())
            }
            // Of the original direction: the destination's address, by either of its names, and port.
            Some(9 | 20 | 22) if original => address(&self.path.bind),
            Some(12) if original => is(&self.path.bind.port().to_be_bytes()),
            _ => is(&[]),
        }
    }
}

/// Evaluates `cmp` (enum nft_cmp_ops): equal, not equal, less, at most, more, at least, by bytes.
fn compare(value: &Value, data: &[u8]) -> Match {
    let (Some(operation), Some(with)) = (big(data, 2), find_in(data, 3, data::VALUE)) else {
        return Match::Unknown;
    };
    if value.length == 0 {
        return match operation {
            0 if value.bytes == ANOTHER_HOSTS.bytes && is_lo(with) => Match::No,
            1 if value.bytes == ANOTHER_HOSTS.bytes && is_lo(with) => Match::Yes,
            _ => Match::Unknown,
        };
    }
    let order = value.known(with.len()).cmp(with);
    let matches = match operation {
        0 => order.is_eq(),
        1 => order.is_ne(),
        2 => order.is_lt(),
        3 => order.is_le(),
        4 => order.is_gt(),
        5 => order.is_ge(),
        _ => return Match::Unknown,
    };
    match matches {
        true => Match::Yes,
        false => Match::No,
    }
}

/// NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN (enum nft_verdicts; 0 and 1 are NF_DROP and NF_ACCEPT), of a rule in the table
/// of `start`.
fn decide<'a>(chains: &'a [Chain], start: &Chain, verdict: &[u8]) -> Verdict<'a> {
    let Some(code) = big(verdict, 1) else { return Verdict::Next };
    match code as i32 {
        0 => Verdict::End(Fate::Dropped),
        1 => Verdict::Accept,
        -5 => Verdict::Return,
        code => {
            let to = text_of(verdict, 2).unwrap_or_default();
            for chain in chains {
                if chain.name == to && chain.is_beside(start) {
                    return match code {
                        -3 => Verdict::Jump(chain),
                        -4 => Verdict::Goto(chain),
                        _ => Verdict::Next,
                    };
                }
            }
            Verdict::Next
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netlink::attribute;

    fn path() -> Path {
        let endpoint = |text| Endpoint::parse(text).unwrap();
        Path {
            bind: endpoint("10.1.0.1:8080"),
            backend: endpoint("10.2.0.11:80"),
            arrives: "wan".into(),
            leaves: String::new(),
        }
    }

    /// An attribute with a number in it, as the kernel sends it.
    fn numbered(kind: u16, number: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        attribute(&mut bytes, kind, &number.to_be_bytes());
        bytes
    }

    fn comparison(operation: u32, with: &[u8]) -> Vec<u8> {
        let mut value = Vec::new();
        attribute(&mut value, data::VALUE, with);
        let mut bytes = numbered(2, operation);
        attribute(&mut bytes, 3, &value);
        bytes
    }

    #[test]
    fn comparisons_are_of_as_many_bytes_as_the_rule_has() {
        let address = is(&[10, 2, 0, 11]);
        let compare = |mut value: Value, mask: &[u8], operation, with: &[u8]| {
            value.mask(mask);
            compare(&value, &comparison(operation, with))
        };
        assert_eq!(compare(address, &[], 0, &[10, 2, 0, 11]), Match::Yes);
        assert_eq!(compare(address, &[], 0, &[10, 2]), Match::Yes);
        assert_eq!(compare(address, &[], 1, &[10, 2]), Match::No);
        assert_eq!(compare(address, &[255, 255, 255, 248], 0, &[10, 2, 0, 8]), Match::Yes);
        assert_eq!(compare(address, &[255, 255, 255, 248], 0, &[10, 2, 0, 16]), Match::No);
        let port = is(&[0, 80]);
        assert_eq!((compare(port, &[], 5, &[0, 80]), compare(port, &[], 4, &[0, 80])), (Match::Yes, Match::No));
        assert_eq!((compare(port, &[], 3, &[1, 0]), compare(port, &[], 2, &[0, 80])), (Match::Yes, Match::No));
        assert_eq!(compare(port, &[], 9, &[0, 80]), Match::Unknown);
        assert_eq!(compare(is(&[]), &[], 0, &[0, 80]), Match::Unknown);
        let state = NEW.to_ne_bytes();
        assert_eq!(compare(is(&state), &state, 1, &[0; 4]), Match::Yes);
        assert_eq!(compare(is(&[0; 4]), &state, 1, &[0; 4]), Match::No);
        // Of an interface that is not known, this is known.
        for lo in [&b"lo\0"[..], b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0", &1_u32.to_ne_bytes()] {
            assert_eq!(compare(name_of(""), &[255; 16], 0, lo), Match::No);
            assert_eq!(compare(name_of(""), &[255; 16], 1, lo), Match::Yes);
        }
        assert_eq!(compare(name_of(""), &[255; 16], 0, b"lo1\0"), Match::Unknown);
        assert_eq!(compare(name_of(""), &[255; 16], 0, &2_u32.to_ne_bytes()), Match::Unknown);
        assert_eq!(compare(is(&[]), &[], 0, b"lo\0"), Match::Unknown);
    }

    #[test]
    fn what_makes_no_sense_is_not_understood() {
        let base = Base { hook: Hook::Forward, priority: 0, drops: true, nat: false };
        let chain = |expressions: Vec<u8>| Chain {
            family: None,
            table: "t".into(),
            name: "c".into(),
            base: Some(base),
            rules: vec![Rule { handle: 7, expressions }],
        };
        let fate = |expressions| {
            let chain = chain(expressions);
            chain.fate(base, std::slice::from_ref(&chain), &path(), &mut Sets::default())
        };
        assert_eq!(fate(Vec::new()), (Fate::Dropped, 0));
        // Each prefix of a rule that accepts by an expression that we do not know.
        let mut expression = Vec::new();
        attribute(&mut expression, 1, b"quota\0");
        let mut rule = Vec::new();
        attribute(&mut rule, 1, &expression);
        let (mut verdict, mut data, mut immediate) = (Vec::new(), Vec::new(), Vec::new());
        attribute(&mut verdict, data::VERDICT, &numbered(1, 1));
        attribute(&mut data, 2, &verdict);
        attribute(&mut immediate, 1, b"immediate\0");
        attribute(&mut immediate, 2, &data);
        attribute(&mut rule, 1, &immediate);
        for length in 0..rule.len() {
            assert!(matches!(fate(rule[..length].to_vec()), (Fate::Dropped | Fate::DroppedPerhaps, 0)), "{length}");
        }
        assert_eq!(fate(rule), (Fate::DroppedPerhaps, 0));
    }

    #[test]
    fn chains_that_lead_into_each_other_are_no_endless_loop() {
        let (mut verdict, mut data, mut immediate, mut rule) =
            (numbered(1, -3_i32 as u32), Vec::new(), Vec::new(), Vec::new());
        attribute(&mut verdict, 2, b"c\0");
        let mut inner = Vec::new();
        attribute(&mut inner, data::VERDICT, &verdict);
        attribute(&mut data, 2, &inner);
        attribute(&mut immediate, 1, b"immediate\0");
        attribute(&mut immediate, 2, &data);
        attribute(&mut rule, 1, &immediate);
        let base = Base { hook: Hook::Forward, priority: 0, drops: false, nat: false };
        let rules = vec![Rule { handle: 1, expressions: rule }];
        let chain = Chain { family: None, table: "t".into(), name: "c".into(), base: Some(base), rules };
        assert_eq!(chain.fate(base, std::slice::from_ref(&chain), &path(), &mut Sets::default()), (Fate::Through, 0));
    }
}
