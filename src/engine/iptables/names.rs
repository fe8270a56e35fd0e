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
/// `check` loads rules into this one, to which nothing jumps.
pub const PROBE: &str = "PARAGLIDER-PROBE";

/// The jumps from built-in chains into ours: table, built-in chain, our chain. Applying, verifying and removing all use it.
pub const HOOKS: [(Table, &str, &str); 5] = [
    (Table::Filter, "INPUT", REJECT),
    (Table::Filter, "FORWARD", FORWARD),
    (Table::Nat, "PREROUTING", DISPATCH),
    (Table::Nat, "OUTPUT", DISPATCH),
    (Table::Nat, "POSTROUTING", SNAT),
];

/// The rule that enters `chain`.
pub fn jump(chain: &str) -> String {
    format!("-p tcp -j {chain}")
}

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
        Table::Filter => [FORWARD, REJECT, PROBE].contains(&chain),
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
