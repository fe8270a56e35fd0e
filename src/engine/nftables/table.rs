//! Our table as a model.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::{Endpoint, Family, Protocol};
use crate::service::Source;

/// The name of our table.
pub use crate::host::nft::OURS as TABLE;

/// The chain of frontends that drain.
pub const DRAINING: &str = "draining";
/// The chain that answers packets of unknown connections.
pub const STRAYS: &str = "strays";

/// What comes before the name of a frontend in the name of its chain; of its chain for the source address; of the counters of
/// its backends.
pub const FRONTEND: &str = "frontend/";
const SOURCE: &str = "source/";
/// The same of its backends' chains, with a slash and their index behind it.
pub const BACKEND: &str = "backend/";
const TAKEN: &str = "taken/";

/// A chain of the kernel's that packets come through.
#[derive(Debug)]
pub struct Base {
    /// Its name.
    pub name: &'static str,
    /// `nat` or `filter`.
    pub kind: &'static str,
    /// Where: enum nf_inet_hooks.
    pub hook: u32,
    /// Lower ones come first.
    pub priority: i32,
}

/// Of two chains for nat at one priority the one that was made last is asked first, and the first that decides wins. So ours
/// are one step away from where others have theirs, −100 and 100.
pub static PREROUTING: Base = Base { name: "prerouting", kind: "nat", hook: 0, priority: -101 };
/// For connections from this host.
pub static OUTPUT: Base = Base { name: "output", kind: "nat", hook: 3, priority: -101 };
/// Where connections get their source address.
pub static POSTROUTING: Base = Base { name: "postrouting", kind: "nat", hook: 4, priority: 99 };
/// For packets to this host.
pub static INPUT: Base = Base { name: "input", kind: "filter", hook: 1, priority: -1 };

/// All that is ours.
#[derive(Debug, Default)]
pub struct Table {
    /// Named counters.
    pub counters: Vec<String>,
    /// Named maps, of binds.
    pub maps: Vec<Map>,
    /// Chains; each before those that lead to it.
    pub chains: Vec<Chain>,
}

/// A chain with its rules.
#[derive(Debug)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where packets come to it; none if only others lead there.
    pub base: Option<&'static Base>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// A map that has a name. Where frontends come and go, single elements of it do, and the rules that look something up in it
/// stay: a packet that is on its way through a rule that goes finds its map empty already.
#[derive(Debug)]
pub struct Map {
    /// Its name.
    pub name: &'static str,
    /// Of its binds.
    pub family: Family,
    /// The key has the protocol before the bind.
    pub has_protocol: bool,
    /// The chain of each bind.
    pub binds: Vec<(Endpoint, String)>,
}

/// The maps of each family: the chains of binds for new connections, for the source address of balanced ones, and for packets of
/// unknown ones.
pub const BINDS: [&str; 2] = ["binds", "binds6"];
/// See [`BINDS`]. (`nft` reads no key of a protocol and an original port.)
pub const SOURCES: [&str; 2] = ["sources", "sources6"];
/// The same of UDP.
pub const SOURCES_OF_UDP: [&str; 2] = ["sources-udp", "sources6-udp"];
/// See [`BINDS`].
pub const STRAY_BINDS: [&str; 2] = ["strays", "strays6"];

/// A rule.
#[derive(Debug)]
pub enum Rule {
    /// Sends what comes to a bind to its chain in the map of this name.
    Dispatch(Family, &'static str),
    /// Sends what comes to several ports of a bind to a chain.
    DispatchRange(Box<Range>),
    /// Sends balanced connections of a protocol to the chain of their bind in the map of this name.
    Leave(Protocol, Family, &'static str),
    /// Sends balanced connections of several ports of a bind to a chain.
    LeaveRange(Box<Range>),
    /// Chooses a backend.
    Choose(Box<Choice>),
    /// Counts a connection of a protocol and sends it to a backend.
    Deliver(Protocol, String, Endpoint),
    /// Sets the source address.
    From(Family, Source),
    /// Refuses new connections of a protocol, as a closed port does.
    Refuse(Protocol),
    /// Answers packets of unknown connections, as a host does that knows nothing of them.
    Reset,
}

/// Ports of a bind, one next to the other, and the chain for them.
#[derive(Debug)]
pub struct Range {
    /// Their address and protocol.
    pub at: Endpoint,
    /// First and last.
    pub ports: (u16, u16),
    /// The chain.
    pub chain: String,
}

/// How a backend is chosen: that of an index has a chain of its own.
#[derive(Debug)]
pub struct Choice {
    /// The frontend, as names of chains have it ([`key`]).
    pub frontend: String,
    /// Only a connection's first packet counts. Else the client's address alone chooses, and packets of a connection that is
    /// not known are most likely of one of ours whose entry was lost: they get the old backend.
    pub first: bool,
    /// By what.
    pub by: By,
}

/// By what a backend is chosen.
#[derive(Debug)]
pub enum By {
    /// There is only one.
    Only(usize),
    /// In turn: the backend of each slot.
    Turns(Vec<usize>),
    /// At random: each backend with its weight.
    Random(Vec<(usize, u32)>),
    /// By the lowest byte of the client's address: the backend of each of its values.
    Source(Family, Vec<usize>),
}

/// Whether weights need a map of intervals: else each number is one backend's.
pub fn are_intervals(weights: &[(usize, u32)]) -> bool {
    weights.iter().any(|(_, weight)| *weight != 1)
}

/// A name of a frontend, or an address and port, in the names of chains and counters. `nft` knows no `:` or `[` there, and a
/// name from the config has no `/`.
pub fn key(name: &str) -> String {
    let mut key = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '[' | ']' => {}
            ':' => key.push('/'),
            c => key.push(c),
        }
    }
    key
}

/// The chain of a frontend.
pub fn frontend(key: &str) -> String {
    [FRONTEND, key].concat()
}

/// Its chain for the source address.
pub fn source(key: &str) -> String {
    [SOURCE, key].concat()
}

/// The chain of its backend with this index.
pub fn backend(key: &str, index: usize) -> String {
    format!("{BACKEND}{key}/{index}")
}

/// The counter of a backend.
pub fn counter(frontend: &str, address: &Endpoint) -> String {
    [TAKEN, frontend, "/", &key(&address.to_string())].concat()
}

/// The lowest byte of an address.
pub fn lowest_byte(family: Family, byte: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(0, 0, 0, byte).into(),
        Family::V6 => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, byte.into()).into(),
    }
}

impl Table {
    /// Adds a chain, unless it has no rule.
    #[inline(never)]
    pub fn push(&mut self, name: &str, base: Option<&'static Base>, rules: Vec<Rule>) {
        if !rules.is_empty() {
            self.chains.push(Chain { name: name.to_owned(), base, rules });
        }
    }

    /// Adds a chain of one rule.
    #[inline(never)]
    pub fn push_one(&mut self, name: &str, rule: Rule) {
        self.push(name, None, vec![rule]);
    }

    /// The rule with this number, from 0, of a chain.
    pub fn rule(&self, chain: &str, number: usize) -> Option<&Rule> {
        self.chains.iter().find(|known| known.name == chain)?.rules.get(number)
    }
}
