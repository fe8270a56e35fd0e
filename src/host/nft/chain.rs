//! The chains that packets pass, as the kernel has them.

use std::fmt;
use std::io;

use super::iptables;
use crate::net::Family;
use crate::sys::file;
use crate::sys::netlink::{self, big, find, text_of, Netlink};
use crate::sys::nftables::{chain, expression, rule, INET};
use crate::text::Shown;

/// Where packets pass (enum nf_inet_hooks).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// As they come in.
    Prerouting,
    /// When it is clear that they are for this host.
    Input,
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

/// Whether it is one of these names.
#[inline(never)]
pub(super) fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.contains(&name)
}

impl Rule {
    /// Whether it has one of these expressions, or of these matches and targets of iptables.
    fn has(&self, names: &[&str]) -> bool {
        let mut rest = self.expressions.as_slice();
        while let Some((name, data)) = expression(&mut rest) {
            let name = if matches!(name, "match" | "target") { iptables::name(data) } else { name };
            if is_one_of(name, names) {
                return true;
            }
        }
        false
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
    /// Whether a rule with this handle is in the chain itself, and not in one that it leads to.
    pub fn has(&self, handle: u64) -> bool {
        self.rules.iter().any(|rule| rule.handle == handle)
    }

    /// Whether both are in one table.
    pub(super) fn is_beside(&self, other: &Chain) -> bool {
        self.family == other.family && self.table == other.table
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

/// The name of our own table, which others cannot have.
pub const OURS: &str = "paraglider";

/// The chains of others that packets of a family pass; those that iptables has made only with `all`. An error means that this
/// kernel has no nf_tables, or does not tell.
pub fn chains(family: Family, all: bool) -> io::Result<Vec<Chain>> {
    let mut netlink = Netlink::open()?;
    let mut found: Vec<Chain> = Vec::new();
    for (number, of) in [(INET, None), (family.domain(), Some(family))] {
        // These are the tables that iptables-nft has, and shows.
        let is_iptables =
            |table: &str| of.is_some() && !all && is_one_of(table, &["filter", "nat", "mangle", "raw", "security"]);
        let before = found.len();
        netlink.list(netlink::CHAINS, number, &mut |chain| {
            let (Some(table), Some(name)) = (text_of(chain, chain::TABLE), text_of(chain, chain::NAME)) else { return };
            if table != OURS && !is_iptables(table) {
                let (table, name) = (table.to_owned(), name.to_owned());
                found.push(Chain { family: of, table, name, base: base(chain), rules: Vec::new() });
            }
        })?;
        if found.len() == before {
            continue;
        }
        netlink.list(netlink::RULES, number, &mut |rule| {
            let (Some(table), Some(name)) = (text_of(rule, rule::TABLE), text_of(rule, rule::CHAIN)) else { return };
            for chain in &mut found {
                if chain.family == of && chain.table == table && chain.name == name {
                    let expressions = find(rule, rule::EXPRESSIONS).unwrap_or_default().to_vec();
                    let handle = find(rule, rule::HANDLE).unwrap_or_default();
                    let handle = handle.try_into().map_or(0, u64::from_be_bytes);
                    chain.rules.push(Rule { handle, expressions });
                    return;
                }
            }
        })?;
    }
    Ok(found)
}

fn base(chain: &[u8]) -> Option<Base> {
    let hook = find(chain, chain::HOOK)?;
    let at = match big(hook, chain::HOOK_NUMBER)? {
        0 => Hook::Prerouting,
        1 => Hook::Input,
        2 => Hook::Forward,
        4 => Hook::Postrouting,
        _ => return None,
    };
    let priority = big(hook, chain::HOOK_PRIORITY)? as i32;
    // NF_DROP is 0.
    let drops = big(chain, chain::POLICY) == Some(0);
    Some(Base { hook: at, priority, drops, nat: text_of(chain, chain::TYPE) == Some("nat") })
}

/// Whether a rule uses connection tracking, also one in iptables' tables that only `nft` can show.
pub fn uses_conntrack(family: Family) -> bool {
    let chains = chains(family, true).unwrap_or_default();
    with(&chains, &TRACKING).is_some()
}

/// Expressions of nftables, then matches and targets of iptables, which it writes by iptables-nft.
const TRACKING: [&str; 19] = [
    "ct",
    "nat",
    "masq",
    "redir",
    "connlimit",
    "flow_offload",
    "conntrack",
    "state",
    "connmark",
    "connbytes",
    "helper",
    "MASQUERADE",
    "SNAT",
    "DNAT",
    "REDIRECT",
    "NETMAP",
    "CONNMARK",
    "CT",
    "FLOWOFFLOAD",
];

/// Whether another chain for nat is there, or the nat table of iptables-legacy, so that the kernel goes on translating
/// connections without ours.
pub fn translates(family: Family) -> bool {
    let chains = chains(family, true).unwrap_or_default();
    let names = if family == Family::V4 { "/proc/net/ip_tables_names" } else { "/proc/net/ip6_tables_names" };
    chains.iter().any(|chain| chain.base.is_some_and(|base| base.nat))
        || file::read(names).lines().any(|name| name == "nat")
}

/// A chain by which established connections pass all others, if there is one: it hands them to a flow table.
pub fn offloads(chains: &[Chain]) -> Option<&Chain> {
    with(chains, &["flow_offload"])
}

/// A chain with a rule that has one of these expressions.
fn with<'a>(chains: &'a [Chain], names: &[&str]) -> Option<&'a Chain> {
    for chain in chains {
        for rule in &chain.rules {
            if rule.has(names) {
                return Some(chain);
            }
        }
    }
    None
}
