//! Names of tables, chains and hooks. A chain is ours if its name says so; no config and no file is needed to tell.

use crate::service::Name;

/// A netfilter table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Lets through what was balanced.
    Filter,
    /// Balances.
    Nat,
}

impl Table {
    /// In the order of writing: the rule that lets a connection through before the one that sends it to a backend.
    pub const ALL: [Table; 2] = [Table::Filter, Table::Nat];

    /// As iptables calls it.
    pub fn name(self) -> &'static str {
        match self {
            Table::Filter => "filter",
            Table::Nat => "nat",
        }
    }
}

/// Selects the frontend.
pub const DISPATCH: &str = "PARAGLIDER";
/// Sets the source address of balanced connections.
pub const SNAT: &str = "PARAGLIDER-SNAT";
/// Accepts balanced connections.
pub const FORWARD: &str = "PARAGLIDER-FWD";
/// Refuses new connections to frontends without a backend.
pub const REJECT: &str = "PARAGLIDER-REJECT";
/// Answers packets of unknown connections with an RST, where this host's firewall would drop them silently.
pub const RESET: &str = "PARAGLIDER-RST";
/// `check` loads rules into this one, to which nothing jumps.
pub const PROBE: &str = "PARAGLIDER-PROBE";

/// Where a jump stands among the rules of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before all of them.
    Top,
    /// Right before the first one that can drop any balanced connection, so after those that ban some clients; at the end
    /// where none does.
    BeforeDrops,
    /// The same, but only where they drop what comes to the bind itself.
    WhereDropped,
}

/// A jump from a built-in chain into one of ours.
#[derive(Debug)]
pub struct Hook {
    /// The table of both.
    pub table: Table,
    /// The built-in chain.
    pub chain: &'static str,
    /// Our chain.
    pub ours: &'static str,
    /// What goes there.
    matches: &'static str,
    /// Where it stands.
    pub place: Place,
}

impl Hook {
    /// The rule.
    pub fn rule(&self) -> String {
        format!("{} -j {}", self.matches, self.ours)
    }

    /// The rule as 0.2 and older versions wrote it.
    pub fn older(&self) -> String {
        format!("{TCP} -j {}", self.ours)
    }

    /// Whether packets that go there can match a rule.
    pub fn leads_to(&self, rule: &str) -> bool {
        match self.matches {
            TCP | UDP => rule.split(' ').zip(rule.split(' ').skip(1)).any(|pair| {
                let (option, protocol) = pair;
                option == "-p" && self.matches.ends_with(protocol)
            }),
            _ => true,
        }
    }

    /// Whether `rule` in `chain` is this jump, as this version writes it or as older ones did.
    pub fn is(&self, chain: &str, rule: &str) -> bool {
        chain == self.chain
            && rule
                .strip_suffix(self.ours)
                .and_then(|rest| rest.strip_suffix(" -j "))
                .is_some_and(|matches| matches == self.matches || matches == TCP && self.matches != UDP)
    }
}

/// The jump that a rule of a built-in chain is, if it is one of ours.
pub fn hook_of(table: Table, chain: &str, rule: &str) -> Option<&'static Hook> {
    HOOKS.iter().find(|hook| hook.table == table && hook.is(chain, rule))
}

const TCP: &str = "-p tcp";
const UDP: &str = "-p udp";

const fn hook(table: Table, chain: &'static str, ours: &'static str, matches: &'static str, place: Place) -> Hook {
    Hook { table, chain, ours, matches, place }
}

/// All jumps. Applying, verifying and removing use it. Those of one chain that stand at the same place are in this order.
pub static HOOKS: [Hook; 12] = [
    hook(Table::Filter, "INPUT", REJECT, TCP, Place::Top),
    hook(Table::Filter, "INPUT", REJECT, UDP, Place::Top),
    hook(Table::Filter, "INPUT", RESET, TCP, Place::WhereDropped),
    hook(Table::Filter, "FORWARD", REJECT, TCP, Place::Top),
    hook(Table::Filter, "FORWARD", REJECT, UDP, Place::Top),
    // Not only TCP and UDP: an ICMP error belongs to the connection that it is about.
    hook(Table::Filter, "FORWARD", FORWARD, "-m conntrack --ctstate DNAT", Place::BeforeDrops),
    hook(Table::Nat, "PREROUTING", DISPATCH, TCP, Place::Top),
    hook(Table::Nat, "PREROUTING", DISPATCH, UDP, Place::Top),
    hook(Table::Nat, "OUTPUT", DISPATCH, TCP, Place::Top),
    hook(Table::Nat, "OUTPUT", DISPATCH, UDP, Place::Top),
    hook(Table::Nat, "POSTROUTING", SNAT, TCP, Place::Top),
    hook(Table::Nat, "POSTROUTING", SNAT, UDP, Place::Top),
];

/// The chain of node `node` of a frontend's schedule; 0 is the entrance.
pub fn chain_name(frontend: &Name, node: usize) -> String {
    format!("PG-{frontend}/{node:x}")
}

/// The frontend's name in the name of one of its chains.
pub fn frontend_of(chain: &str) -> Option<&str> {
    let (frontend, node) = chain.strip_prefix("PG-")?.rsplit_once('/')?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (!frontend.is_empty() && (1..=3).contains(&node.len()) && node.bytes().all(hex)).then_some(frontend)
}

/// Whether a chain of this name is ours.
pub fn is_ours(table: Table, chain: &str) -> bool {
    match table {
        Table::Filter => [FORWARD, REJECT, RESET, PROBE].contains(&chain),
        Table::Nat => [DISPATCH, SNAT, PROBE].contains(&chain) || frontend_of(chain).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_chains_are_ours() {
        for ours in ["PARAGLIDER", "PG-web/0", "PG-166.1.101.2:4444/3ff", "PG-[fd00::1]:80/a"] {
            assert!(is_ours(Table::Nat, ours) && !is_ours(Table::Filter, ours), "{ours}");
        }
        assert!(is_ours(Table::Filter, "PARAGLIDER-FWD") && !is_ours(Table::Nat, "PARAGLIDER-FWD"));
        for other in ["PARAGLIDERS", "paraglider", "PG-web", "PG-/0", "PG-web/", "PG-web/G", "PG-web/0000", "PGweb/0"] {
            assert!(!is_ours(Table::Nat, other) && !is_ours(Table::Filter, other), "{other}");
        }
    }

    #[test]
    fn chain_names_fit() {
        let name = Name::parse(&"x".repeat(crate::service::LONGEST_NAME)).unwrap();
        assert_eq!(chain_name(&name, 0xfff).len(), 28);
    }
}
