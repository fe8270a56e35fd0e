//! The chains that packets pass, as the kernel has them.

use std::fmt;
use std::io;

use crate::net::Family;
use crate::sys::netlink::{self, each, find, text_of, Netlink};
use crate::text::Shown;

/// NFPROTO_INET, for both families.
pub(super) const INET: libc::c_int = 1;

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// Where packets pass (enum nf_inet_hooks).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// As they come in.
    Prerouting,
    /// When it is clear that they are not for this host.
    Forward,
    /// As they leave.
    Postrouting,
}

/// What makes a chain one that packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Where.
    pub hook: Hook,
    /// Lower ones come first. Connections get their tracking at −200, their backend at −100, their source address at 100.
    pub priority: i32,
    /// What gets to its end is dropped.
    pub drops: bool,
    /// It is asked only about the first packet of a connection.
    pub nat: bool,
}

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// Its number, as `nft -a` shows it.
    pub handle: u64,
    /// Its expressions, as the kernel has them.
    pub(super) expressions: Vec<u8>,
}

impl Rule {
    /// Calls `take` with the name and the attributes of each expression.
    pub(super) fn each(&self, take: &mut dyn FnMut(&str, &[u8])) {
        each(&self.expressions, &mut |_, one| {
            take(text_of(one, EXPRESSION_NAME).unwrap_or_default(), find(one, EXPRESSION_DATA).unwrap_or_default());
        });
    }
}

/// A chain with its rules.
#[derive(Debug)]
pub struct Chain {
    /// The family of its table; none for both.
    pub(super) family: Option<Family>,
    pub(super) table: String,
    pub(super) name: String,
    /// Where packets come to it; none if only other chains lead there.
    pub base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

impl Chain {
    /// Whether it is firewall4's, to which our package for OpenWrt has added a chain that the service fills.
    pub fn is_filled_at_start(&self, chains: &[Chain]) -> bool {
        self.table == "fw4" && chains.iter().any(|other| other.table == "fw4" && other.name == "paraglider")
    }
}

/// As `nft` takes it: `inet filter forward`.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            None => "inet",
            Some(Family::V4) => "ip",
            Some(Family::V6) => "ip6",
        };
        write!(f, "{family} {} {}", Shown(&self.table), Shown(&self.name))
    }
}

/// A number, which nf_tables has in the order of the network.
pub(super) fn big(attributes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find(attributes, kind)?.try_into().ok()?))
}

/// The chains that packets of a family pass, but for those of iptables. An error means that this kernel has no nf_tables, or
/// does not tell.
pub fn chains(family: Family) -> io::Result<Vec<Chain>> {
    listed(family, false)
}

/// With `all`, those of iptables too.
fn listed(family: Family, all: bool) -> io::Result<Vec<Chain>> {
    let mut netlink = Netlink::open()?;
    let mut found: Vec<Chain> = Vec::new();
    for (number, of) in [(INET, None), (family.domain(), Some(family))] {
        // These are the tables that iptables-nft has, and shows.
        let is_iptables =
            |table: &str| of.is_some() && !all && ["filter", "nat", "mangle", "raw", "security"].contains(&table);
        let before = found.len();
        netlink.list(netlink::CHAINS, number, &mut |chain| {
            let (Some(table), Some(name)) = (text_of(chain, CHAIN_TABLE), text_of(chain, CHAIN_NAME)) else { return };
            if !is_iptables(table) {
                let (table, name) = (table.to_owned(), name.to_owned());
                found.push(Chain { family: of, table, name, base: base(chain), rules: Vec::new() });
            }
        })?;
        let (_, chains) = found.split_at_mut_checked(before).unwrap_or_default();
        if chains.is_empty() {
            continue;
        }
        netlink.list(netlink::RULES, number, &mut |rule| {
            let (Some(table), Some(name)) = (text_of(rule, RULE_TABLE), text_of(rule, RULE_CHAIN)) else { return };
            let expressions = find(rule, RULE_EXPRESSIONS).unwrap_or_default().to_vec();
            let handle = find(rule, RULE_HANDLE).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
            if let Some(chain) = chains.iter_mut().find(|chain| chain.table == table && chain.name == name) {
                chain.rules.push(Rule { handle, expressions });
            }
        })?;
    }
    Ok(found)
}

fn base(chain: &[u8]) -> Option<Base> {
    let hook = find(chain, CHAIN_HOOK)?;
    let at = match big(hook, HOOK_NUMBER)? {
        0 => Hook::Prerouting,
        2 => Hook::Forward,
        4 => Hook::Postrouting,
        _ => return None,
    };
    let priority = big(hook, HOOK_PRIORITY)? as i32;
    // NF_DROP is 0.
    let drops = big(chain, CHAIN_POLICY) == Some(0);
    Some(Base { hook: at, priority, drops, nat: text_of(chain, CHAIN_TYPE) == Some("nat") })
}

/// Whether a rule uses connection tracking, also one in iptables' tables that only `nft` can show.
pub fn uses_conntrack(family: Family) -> bool {
    let mut uses = false;
    for chain in listed(family, true).unwrap_or_default() {
        for rule in &chain.rules {
            rule.each(&mut |name, _| {
                uses |= ["ct", "nat", "masq", "redir", "connlimit", "flow_offload"].contains(&name)
            });
        }
    }
    uses
}

/// A chain by which established connections pass all others, if there is one: it hands them to a flow table.
pub fn offloads(chains: &[Chain]) -> Option<&Chain> {
    chains.iter().find(|chain| {
        let mut offloads = false;
        for rule in &chain.rules {
            rule.each(&mut |name, _| offloads |= name == "flow_offload");
        }
        offloads
    })
}
