//! The way of a connection's first packet through a chain, as far as its rules can be understood.

use std::net::IpAddr;

use super::chain::{big, chains, Base, Chain, Hook, Rule};
use super::set::Sets;
use crate::net::{Endpoint, Family};
use crate::sys::netlink::{find, text_of};

const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// How deep chains may lead into each other (NFT_JUMP_STACK_SIZE).
const DEEPEST: usize = 16;

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

/// What becomes of it in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on, as far as can be told.
    Through,
    /// It is dropped: by this rule, or (0) by the policy.
    Dropped(u64),
    /// The same, unless a rule that was not understood lets it through before.
    DroppedPerhaps(u64),
    /// It goes on, unless it is one of those that this rule drops: those from a banned client.
    Sometimes(u64),
    /// This rule gives it another destination or source.
    Taken(u64),
    /// This rule keeps it from being tracked.
    Untracked(u64),
    /// This rule tracks it where its answers are not.
    Split(u64),
}

/// Whether a packet matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Yes,
    No,
    Unknown,
}

/// What a rule does with what it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Next,
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    Take,
    Untrack,
    Split,
}

/// The value that a comparison looks at.
#[derive(Debug, Clone, Copy)]
enum Value {
    /// As many of these bytes, of which as many are compared as the rule has.
    Is([u8; 16], usize),
    /// The state of the connection, of which any of these bits is set.
    Bits(u32),
    Unknown,
}

/// These bytes, at most 16 of them.
#[inline(never)]
fn is(from: &[u8]) -> Value {
    let mut bytes = [0; 16];
    for (to, byte) in bytes.iter_mut().zip(from) {
        *to = *byte;
    }
    Value::Is(bytes, from.len().min(16))
}

fn address(ip: IpAddr) -> Value {
    match ip {
        IpAddr::V4(ip) => is(&ip.octets()),
        IpAddr::V6(ip) => is(&ip.octets()),
    }
}

/// The bytes of a value, as far as a mask leaves them.
fn masked(bytes: &[u8; 16], length: usize, mask: Option<&[u8]>) -> Vec<u8> {
    let mut masked = Vec::new();
    for (at, byte) in bytes.iter().take(length).enumerate() {
        masked.push(byte & mask.and_then(|mask| mask.get(at)).copied().unwrap_or(0xff));
    }
    masked
}

/// A chain, and the connection that passes it.
struct Walk<'a> {
    chains: &'a [Chain],
    start: &'a Chain,
    base: Base,
    path: &'a Path,
    sets: &'a mut Sets,
    /// A rule that was not understood could have let it through.
    unsure: bool,
    /// How many rules it may still look at.
    left: u32,
    /// The first rule that drops what cannot be told from here.
    sometimes: Option<u64>,
}

impl Chain {
    /// What becomes of a connection's first packet here; `chains` are all, among which others are found that rules lead to.
    pub fn fate(&self, base: Base, chains: &[Chain], path: &Path, sets: &mut Sets) -> Fate {
        let mut walk = Walk { chains, start: self, base, path, sets, unsure: false, left: MOST_RULES, sometimes: None };
        let fate = match walk.chain(self, DEEPEST) {
            Some(fate) => fate,
            None if base.drops => Fate::Dropped(0),
            None => Fate::Through,
        };
        match fate {
            Fate::Dropped(handle) if walk.unsure => Fate::DroppedPerhaps(handle),
            Fate::Through => walk.sometimes.map_or(Fate::Through, Fate::Sometimes),
            fate => fate,
        }
    }
}

/// Whether one of them drops what is forwarded unless it has a reason not to.
pub fn closes(family: Family) -> bool {
    let chains = chains(family).unwrap_or_default();
    // No host of a network for documentation is meant by any rule (RFC 5737, RFC 3849).
    let nobody = if family == Family::V4 { "192.0.2.1:9" } else { "[2001:db8::1]:9" };
    let Ok(nobody) = Endpoint::parse(nobody) else { return false };
    let path = Path { bind: nobody, backend: nobody, arrives: String::new(), leaves: String::new() };
    let mut sets = Sets::default();
    chains.iter().any(|chain| match chain.base {
        Some(base) if base.hook == Hook::Forward => {
            matches!(chain.fate(base, &chains, &path, &mut sets), Fate::Dropped(_) | Fate::DroppedPerhaps(_))
        }
        _ => false,
    })
}

impl Walk<'_> {
    /// Its end, if it is in this chain or in one that this leads to.
    fn chain(&mut self, chain: &Chain, depth: usize) -> Option<Fate> {
        for rule in &chain.rules {
            if self.left == 0 {
                self.unsure = true;
                return None;
            }
            self.left -= 1;
            let (matches, verdict) = self.rule(chain, rule);
            let certain = matches == Match::Yes;
            match verdict {
                _ if matches == Match::No => {}
                Verdict::Next => {}
                Verdict::Accept if certain => return Some(Fate::Through),
                Verdict::Accept => self.unsure = true,
                // What is dropped for reasons of its own, such as a ban, is the administrator's business.
                Verdict::Drop if certain => return Some(Fate::Dropped(rule.handle)),
                Verdict::Drop => self.sometimes = self.sometimes.or(Some(rule.handle)),
                Verdict::Return if certain => return None,
                Verdict::Return => self.unsure = true,
                Verdict::Take if certain => return Some(Fate::Taken(rule.handle)),
                Verdict::Untrack if certain => return Some(Fate::Untracked(rule.handle)),
                Verdict::Split if certain => return Some(Fate::Split(rule.handle)),
                Verdict::Take | Verdict::Untrack | Verdict::Split => {}
                Verdict::Jump(ref to) | Verdict::Goto(ref to) => {
                    let chains = self.chains;
                    let start = self.start;
                    let mut same = chains.iter().filter(|one| one.family == start.family && one.table == start.table);
                    let Some(to) = same.find(|one| one.name == *to).filter(|_| depth > 0) else { continue };
                    let end = self.chain(to, depth - 1);
                    match end {
                        Some(_) if certain => return end,
                        None if certain && matches!(verdict, Verdict::Goto(_)) => return None,
                        Some(Fate::Through) => self.unsure = true,
                        Some(Fate::Dropped(handle)) => self.sometimes = self.sometimes.or(Some(handle)),
                        _ => {}
                    }
                }
            }
        }
        None
    }

    /// Whether a rule matches, and what it does then.
    fn rule(&mut self, chain: &Chain, rule: &Rule) -> (Match, Verdict) {
        let (mut all, mut verdict, mut value, mut mask) = (Match::Yes, Verdict::Next, Value::Unknown, None);
        let mut conditions = 0;
        rule.each(&mut |name, data| {
            let mut one = Match::Yes;
            match name {
                "payload" | "meta" | "ct" => {
                    (value, mask) = (self.load(name, data), None);
                    // Key 17 is the zone; attribute 4 the register that it is set from, 3 the direction.
                    if name == "ct" && big(data, 2) == Some(17) && find(data, 4).is_some() && find(data, 3).is_none() {
                        verdict = Verdict::Split;
                    }
                }
                "bitwise" => mask = find(data, 4).and_then(|mask| find(mask, DATA_VALUE)).map(<[u8]>::to_vec),
                "cmp" => {
                    conditions += 1;
                    one = compare(value, mask.as_deref(), data);
                }
                "immediate" => {
                    if let Some(decided) = find(data, 2).and_then(|data| find(data, DATA_VERDICT)) {
                        verdict = decide(decided);
                    }
                }
                "reject" => verdict = Verdict::Drop,
                "notrack" => verdict = Verdict::Untrack,
                "nat" | "redir" | "masq" | "tproxy" => verdict = Verdict::Take,
                "counter" | "log" | "last" | "objref" | "flow_offload" => {}
                "lookup" => {
                    conditions += 1;
                    let decided;
                    (one, decided) = self.look_up(chain, value, mask.as_deref(), data);
                    verdict = decided.unwrap_or(verdict.clone());
                    // What a map has for the value is not compared any further.
                    (value, mask) = (Value::Unknown, None);
                }
                _ => {
                    conditions += 1;
                    (one, value, mask) = (Match::Unknown, Value::Unknown, None);
                }
            }
            all = match (all, one) {
                (Match::No, _) | (_, Match::No) => Match::No,
                (Match::Unknown, _) | (_, Match::Unknown) => Match::Unknown,
                _ => Match::Yes,
            };
        });
        // Tracked in one place for all, nothing is split.
        if conditions == 0 && verdict == Verdict::Split {
            verdict = Verdict::Next;
        }
        (all, verdict)
    }

    /// Looks up a value in a set, or a verdict in a map of verdicts (register 0).
    fn look_up(&mut self, chain: &Chain, value: Value, mask: Option<&[u8]>, data: &[u8]) -> (Match, Option<Verdict>) {
        let by_verdict = find(data, 3).is_some_and(|register| register == [0; 4]);
        let unknown = (Match::Unknown, by_verdict.then_some(Verdict::Accept));
        let value = match (value, mask) {
            (Value::Is(bytes, length), mask) => masked(&bytes, length, mask),
            (Value::Bits(bits), None) => bits.to_ne_bytes().to_vec(),
            _ => return unknown,
        };
        let Ok(found) = self.sets.look_up(chain, text_of(data, 1).unwrap_or_default(), &value) else { return unknown };
        // NFT_LOOKUP_F_INV
        let inverted = big(data, 5) == Some(1);
        match (found.is_some() != inverted, found) {
            (false, _) => (Match::No, None),
            (true, Some(data)) if by_verdict => (Match::Yes, find(&data, DATA_VERDICT).map(decide)),
            (true, _) => (Match::Yes, None),
        }
    }

    /// Its destination here: our own rules change it at −100.
    fn destination(&self) -> Endpoint {
        match self.base.hook == Hook::Prerouting && self.base.priority <= -100 {
            true => self.path.bind,
            false => self.path.backend,
        }
    }

    fn load(&self, name: &str, data: &[u8]) -> Value {
        let to = self.destination();
        match (name, big(data, 2)) {
            ("payload", Some(base)) => match (base, big(data, 3), to.ip()) {
                // The network header: the destination's address, and the protocol.
                (1, Some(16), IpAddr::V4(_)) | (1, Some(24), IpAddr::V6(_)) => address(to.ip()),
                (1, Some(9), IpAddr::V4(_)) => is(&[6]),
                (2, Some(2), _) => is(&to.port().to_be_bytes()),
                _ => Value::Unknown,
            },
            // Interfaces by name, the network protocol, the transport protocol.
            ("meta", Some(6)) => name_of(&self.path.arrives),
            ("meta", Some(7)) if self.base.hook != Hook::Prerouting => name_of(&self.path.leaves),
            ("meta", Some(15)) => is(&[to.family().domain() as u8]),
            ("meta", Some(16)) => is(&[6]),
            // State and status. At −200 tracking begins.
            ("ct", Some(0)) if self.base.priority > -200 => Value::Bits(NEW),
            ("ct", Some(2)) if to != self.path.bind => Value::Bits(DST_NAT),
            ("ct", Some(2)) => Value::Bits(0),
            // Of the original direction: the destination's address, by either of its names, and port.
            ("ct", Some(9 | 20 | 22)) if find(data, 3) == Some(&[0]) => address(self.path.bind.ip()),
            ("ct", Some(12)) if find(data, 3) == Some(&[0]) => is(&self.path.bind.port().to_be_bytes()),
            _ => Value::Unknown,
        }
    }
}

fn name_of(interface: &str) -> Value {
    match (interface, is(interface.as_bytes())) {
        ("", _) => Value::Unknown,
        // The rest is zeros.
        (_, Value::Is(bytes, _)) => Value::Is(bytes, 16),
        (_, value) => value,
    }
}

/// Evaluates `cmp` (enum nft_cmp_ops): equal, not equal, less, at most, more, at least, by bytes.
fn compare(value: Value, mask: Option<&[u8]>, data: &[u8]) -> Match {
    let (Some(operation), Some(with)) = (big(data, 2), find(data, 3).and_then(|data| find(data, DATA_VALUE))) else {
        return Match::Unknown;
    };
    let order = match value {
        Value::Is(bytes, length) => masked(&bytes, length.min(with.len()), mask).as_slice().cmp(with),
        Value::Bits(bits) => {
            let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_ne_bytes);
            (bits & mask.map_or(u32::MAX, word)).cmp(&word(with))
        }
        Value::Unknown => return Match::Unknown,
    };
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

/// NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN (enum nft_verdicts; 0 and 1 are NF_DROP and NF_ACCEPT).
fn decide(verdict: &[u8]) -> Verdict {
    let to = || text_of(verdict, 2).unwrap_or_default().to_owned();
    match big(verdict, 1).map(|code| code as i32) {
        Some(0) => Verdict::Drop,
        Some(1) => Verdict::Accept,
        Some(-3) => Verdict::Jump(to()),
        Some(-4) => Verdict::Goto(to()),
        Some(-5) => Verdict::Return,
        _ => Verdict::Next,
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
        attribute(&mut value, DATA_VALUE, with);
        let mut bytes = numbered(2, operation);
        attribute(&mut bytes, 3, &value);
        bytes
    }

    #[test]
    fn comparisons_are_of_as_many_bytes_as_the_rule_has() {
        let address = is(&[10, 2, 0, 11]);
        let compare = |value: Value, mask: Option<&[u8]>, operation, with: &[u8]| {
            compare(value, mask, &comparison(operation, with))
        };
        assert_eq!(compare(address, None, 0, &[10, 2, 0, 11]), Match::Yes);
        assert_eq!(compare(address, None, 0, &[10, 2]), Match::Yes);
        assert_eq!(compare(address, None, 1, &[10, 2]), Match::No);
        assert_eq!(compare(address, Some(&[255, 255, 255, 248]), 0, &[10, 2, 0, 8]), Match::Yes);
        assert_eq!(compare(address, Some(&[255, 255, 255, 248]), 0, &[10, 2, 0, 16]), Match::No);
        let port = is(&[0, 80]);
        assert_eq!((compare(port, None, 5, &[0, 80]), compare(port, None, 4, &[0, 80])), (Match::Yes, Match::No));
        assert_eq!((compare(port, None, 3, &[1, 0]), compare(port, None, 2, &[0, 80])), (Match::Yes, Match::No));
        assert_eq!(compare(port, None, 9, &[0, 80]), Match::Unknown);
        assert_eq!(compare(Value::Unknown, None, 0, &[0, 80]), Match::Unknown);
        let state = NEW.to_ne_bytes();
        assert_eq!(compare(Value::Bits(NEW), Some(&state), 1, &[0; 4]), Match::Yes);
        assert_eq!(compare(Value::Bits(0), Some(&state), 1, &[0; 4]), Match::No);
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
        assert_eq!(fate(Vec::new()), Fate::Dropped(0));
        // Each prefix of a rule that accepts by an expression that we do not know.
        let mut expression = Vec::new();
        attribute(&mut expression, 1, b"quota\0");
        let mut rule = Vec::new();
        attribute(&mut rule, 1, &expression);
        let (mut verdict, mut data, mut immediate) = (Vec::new(), Vec::new(), Vec::new());
        attribute(&mut verdict, DATA_VERDICT, &numbered(1, 1));
        attribute(&mut data, 2, &verdict);
        attribute(&mut immediate, 1, b"immediate\0");
        attribute(&mut immediate, 2, &data);
        attribute(&mut rule, 1, &immediate);
        for length in 0..rule.len() {
            assert!(matches!(fate(rule[..length].to_vec()), Fate::Dropped(0) | Fate::DroppedPerhaps(0)), "{length}");
        }
        assert_eq!(fate(rule), Fate::DroppedPerhaps(0));
    }

    #[test]
    fn chains_that_lead_into_each_other_are_no_endless_loop() {
        let (mut verdict, mut data, mut immediate, mut rule) =
            (numbered(1, -3_i32 as u32), Vec::new(), Vec::new(), Vec::new());
        attribute(&mut verdict, 2, b"c\0");
        let mut inner = Vec::new();
        attribute(&mut inner, DATA_VERDICT, &verdict);
        attribute(&mut data, 2, &inner);
        attribute(&mut immediate, 1, b"immediate\0");
        attribute(&mut immediate, 2, &data);
        attribute(&mut rule, 1, &immediate);
        let base = Base { hook: Hook::Forward, priority: 0, drops: false, nat: false };
        let rules = vec![Rule { handle: 1, expressions: rule }];
        let chain = Chain { family: None, table: "t".into(), name: "c".into(), base: Some(base), rules };
        assert_eq!(chain.fate(base, std::slice::from_ref(&chain), &path(), &mut Sets::default()), Fate::Through);
    }
}
