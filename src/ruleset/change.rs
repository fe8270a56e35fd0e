//! The way from the rules in force to the wanted ones, as iptables-restore text: only what differs is written.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{Part, Ruleset, Table, HOOKS};
use crate::service::Family;

/// The change of one family: one run of `iptables-restore --noflush`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The text, one `*table … COMMIT` section for each table that changes. The kernel takes each section whole or
    /// not at all.
    pub text: String,
}

impl Change {
    /// What leads from `from` to `to` in one family; nothing where they are equal.
    pub fn of_family(from: &Ruleset, to: &Ruleset, family: Family) -> Option<Change> {
        let section = |table| section(table, from.part(family, table), to.part(family, table));
        let mut text = String::new();
        // On the way in connections are let through before they are sent; on the way out they are no longer sent
        // before they are no longer let through.
        let leaves = to.part(family, Table::Nat).is_empty();
        for at in 0..Table::ALL.len() {
            let at = if leaves { Table::ALL.len() - 1 - at } else { at };
            if let Some(table) = Table::ALL.get(at) {
                text.push_str(&section(*table));
            }
        }
        (!text.is_empty()).then_some(Change { text })
    }
}

fn section(table: Table, from: &Part, to: &Part) -> String {
    let stale: BTreeSet<&String> = from.chains.keys().filter(|chain| !to.chains.contains_key(*chain)).collect();
    let changed: Vec<_> = to.chains.iter().filter(|(name, rules)| from.chains.get(*name) != Some(rules)).collect();
    let (added, removed) = jumps(table, from, to, &stale);

    let mut lines = String::new();
    // Declaring a chain makes it where it is missing and empties it where it is there.
    for chain in changed.iter().map(|(name, _)| *name).chain(stale.iter().copied()) {
        let _ = writeln!(lines, ":{chain} - [0:0]");
    }
    for (chain, rule) in removed {
        let _ = writeln!(lines, "-D {chain} {rule}");
    }
    for (chain, rules) in &changed {
        for rule in *rules {
            let _ = writeln!(lines, "-A {chain} {}", rule.text);
        }
    }
    for chain in &stale {
        let _ = writeln!(lines, "-X {chain}");
    }
    // First in their chains, before anybody else's rule decides.
    for (chain, rule) in added {
        let _ = writeln!(lines, "-I {chain} {rule}");
    }
    if lines.is_empty() {
        return lines;
    }
    format!("*{}\n{lines}COMMIT\n", table.name())
}

type Jumps<'a> = Vec<(&'a str, &'a str)>;

/// Jumps to add and jumps to remove. A jump that somebody else made into a chain of ours is left alone as long as that
/// chain stays.
fn jumps<'a>(table: Table, from: &'a Part, to: &'a Part, stale: &BTreeSet<&String>) -> (Jumps<'a>, Jumps<'a>) {
    let pairs = |part: &'a Part| part.jumps.iter().map(|(chain, rule)| (chain.as_str(), rule.text.as_str()));
    let ours = |chain: &str| HOOKS.iter().any(|(of, hooked, _)| *of == table && *hooked == chain);
    let mut missing: Jumps = pairs(to).collect();
    let mut removed = Vec::new();
    for jump in pairs(from) {
        let (chain, rule) = jump;
        if let Some(at) = missing.iter().position(|wanted| *wanted == jump) {
            missing.remove(at);
        } else if ours(chain) || stale.iter().any(|name| enters(rule, name)) {
            removed.push(jump);
        }
    }
    (missing, removed)
}

/// Whether a rule goes to `chain`.
fn enters(rule: &str, chain: &str) -> bool {
    ["-j ", "-g "].iter().any(|flag| rule.rsplit_once(flag).is_some_and(|(_, target)| target == chain))
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::*;

    fn part(jumps: &[(&str, &str)], chains: &[(&str, &[&str])]) -> Part {
        let rule = |text: &&str| Rule { text: (*text).to_owned(), packets: 0 };
        Part {
            jumps: jumps.iter().map(|(chain, text)| ((*chain).to_owned(), rule(text))).collect(),
            chains: chains.iter().map(|(name, rules)| ((*name).to_owned(), rules.iter().map(rule).collect())).collect(),
        }
    }

    #[test]
    fn equal_parts_need_no_change() {
        let part = part(&[("FORWARD", "-p tcp -j PARAGLIDER-FWD")], &[("PARAGLIDER-FWD", &["-p tcp -j ACCEPT"])]);
        assert_eq!(section(Table::Filter, &part, &part), "");
    }

    #[test]
    fn only_what_differs_is_written() {
        let hook = ("PREROUTING", "-p tcp -j PARAGLIDER");
        let from = part(&[hook], &[("PARAGLIDER", &["a", "b"]), ("PG-x/0", &["x"]), ("PG-y/0", &["y"])]);
        let to = part(&[hook], &[("PARAGLIDER", &["a"]), ("PG-x/0", &["x"])]);
        assert_eq!(
            section(Table::Nat, &from, &to),
            "*nat\n:PARAGLIDER - [0:0]\n:PG-y/0 - [0:0]\n-A PARAGLIDER a\n-X PG-y/0\nCOMMIT\n"
        );
    }

    #[test]
    fn a_doubled_jump_is_made_single() {
        let hook = ("PREROUTING", "-p tcp -j PARAGLIDER");
        let from = part(&[hook, hook], &[("PARAGLIDER", &["a"])]);
        let to = part(&[hook], &[("PARAGLIDER", &["a"])]);
        assert_eq!(section(Table::Nat, &from, &to), "*nat\n-D PREROUTING -p tcp -j PARAGLIDER\nCOMMIT\n");
    }

    #[test]
    fn somebody_elses_jump_into_our_chain_goes_only_with_the_chain() {
        let theirs = ("DOCKER-USER", "-s 10.0.0.0/8 -j PARAGLIDER-FWD");
        let hook = ("FORWARD", "-p tcp -j PARAGLIDER-FWD");
        let from = part(&[theirs, hook], &[("PARAGLIDER-FWD", &["a"])]);
        let to = part(&[hook], &[("PARAGLIDER-FWD", &["a"])]);
        assert_eq!(section(Table::Filter, &from, &to), "");
        assert_eq!(
            section(Table::Filter, &from, &Part::default()),
            "*filter\n:PARAGLIDER-FWD - [0:0]\n-D DOCKER-USER -s 10.0.0.0/8 -j PARAGLIDER-FWD\n\
             -D FORWARD -p tcp -j PARAGLIDER-FWD\n-X PARAGLIDER-FWD\nCOMMIT\n"
        );
    }
}
