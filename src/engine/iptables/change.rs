//! The difference between the rules in force and the wanted ones, as iptables-restore text.

use std::fmt::Write;

use super::names::{frontend_of, hook_of, Place, Table, HOOKS};
use super::rule::enters;
use super::ruleset::{Chain, Jump, Ruleset, TableRules};
use crate::net::Family;

/// The change of one family: one run of `iptables-restore --noflush`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The text, one `*table … COMMIT` section for each table that changes. The kernel takes each section whole or
    /// not at all.
    pub text: String,
}

impl Change {
    /// The change from `from` to `to` in one family; `None` if they are equal.
    pub fn of_family(from: &Ruleset, to: &Ruleset, family: Family) -> Option<Change> {
        let (before, after) = (from.table(family, Table::Filter), to.table(family, Table::Filter));
        // The filter rules of both states are in force while nat changes: a connection always finds the rule that accepts
        // or refuses it.
        let both = before.and(after);
        let mut text = section(Table::Filter, before, &both);
        text.push_str(&section(Table::Nat, from.table(family, Table::Nat), to.table(family, Table::Nat)));
        text.push_str(&section(Table::Filter, &both, after));
        (!text.is_empty()).then_some(Change { text })
    }

    /// The section of one table, if it changes.
    pub fn of_table(from: &Ruleset, to: &Ruleset, family: Family, table: Table) -> Option<String> {
        let text = section(table, from.table(family, table), to.table(family, table));
        (!text.is_empty()).then_some(text)
    }
}

fn section(table: Table, from: &TableRules, to: &TableRules) -> String {
    let stale: Vec<&str> =
        from.chains().iter().map(|chain| chain.name.as_str()).filter(|name| to.rules(name).is_none()).collect();
    let differs = |chain: &&Chain| from.rules(&chain.name) != Some(&chain.rules);
    // All chains of a frontend are written together, so that their counters start at the same time.
    let differing = to.chains().iter().filter(differs).map(|chain| chain.name.as_str());
    let mut touched: Vec<&str> = Vec::new();
    for frontend in differing.chain(stale.iter().copied()).filter_map(frontend_of) {
        if let Err(at) = touched.binary_search(&frontend) {
            touched.insert(at, frontend);
        }
    }
    let is_touched = |name: &str| frontend_of(name).is_some_and(|own| touched.binary_search(&own).is_ok());
    let changed: Vec<&Chain> = to.chains().iter().filter(|chain| differs(chain) || is_touched(&chain.name)).collect();
    let (added, removed, kept) = jumps(table, from, to, &stale);

    let mut lines = String::new();
    // Declaring a chain creates or empties it.
    for chain in changed.iter().map(|chain| chain.name.as_str()).chain(stale.iter().copied()) {
        let _ = writeln!(lines, ":{chain} - [0:0]");
    }
    // Our own jumps are deleted by their text, which no other rule has. Those that other programs made may not be found by
    // text (`-m recent` has state), so they are deleted by number, the last of a chain first: that keeps the numbers valid.
    for Jump { chain, number, .. } in removed.iter().rev().filter(|jump| !is_own(table, jump)) {
        let _ = writeln!(lines, "-D {chain} {number}");
    }
    for Jump { chain, rule, .. } in removed.iter().filter(|jump| is_own(table, jump)) {
        let _ = writeln!(lines, "-D {chain} {}", rule.text);
    }
    for Chain { name, rules } in changed {
        for rule in rules {
            let _ = writeln!(lines, "-A {name} {}", rule.text);
        }
    }
    for chain in &stale {
        let _ = writeln!(lines, "-X {chain}");
    }
    for (at, jump) in added.iter().enumerate() {
        let Jump { chain, rule, after, .. } = jump;
        // Those of ours that stand there already, or were just put there, count as well; but nothing is before the top.
        let is_top = hook_of(table, chain, &rule.text).is_some_and(|hook| hook.place == Place::Top);
        let ours = kept.iter().chain(added.iter().take(at));
        let before = ours.filter(|other| other.chain == *chain && other.after <= *after).count();
        // The first place needs no number.
        let place = match after + before {
            0 => String::new(),
            _ if is_top => String::new(),
            before => format!(" {}", before + 1),
        };
        let _ = writeln!(lines, "-I {chain}{place} {}", rule.text);
    }
    if lines.is_empty() {
        return lines;
    }
    format!("*{}\n{lines}COMMIT\n", table.name())
}

/// Jumps to add, jumps to remove in the order of the numbers in their chain, and jumps of ours that stay. One that is
/// doubled or stands at the wrong place is made anew. A jump into one of our chains that another program made is kept as
/// long as that chain exists.
fn jumps<'a>(
    table: Table,
    from: &'a TableRules,
    to: &'a TableRules,
    stale: &[&str],
) -> (Vec<&'a Jump>, Vec<&'a Jump>, Vec<&'a Jump>) {
    let (mut added, mut removed, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for hook in HOOKS.iter().filter(|hook| hook.table == table) {
        let mine = |jump: &&Jump| hook.is(&jump.chain, &jump.rule.text);
        let there: Vec<&Jump> = from.jumps.iter().filter(mine).collect();
        let wanted = to.jumps.iter().find(mine);
        match (there.as_slice(), wanted) {
            ([one], Some(wanted)) if one.rule == wanted.rule && one.after == wanted.after => kept.push(*one),
            _ => {
                removed.extend(there);
                added.extend(wanted);
            }
        }
    }
    for jump in &from.jumps {
        let goes = enters(&jump.rule.text).is_some_and(|chain| stale.contains(&chain));
        if goes && !is_own(table, jump) {
            removed.push(jump);
        }
    }
    (added, removed, kept)
}

/// Whether the jump is one that we make.
fn is_own(table: Table, jump: &Jump) -> bool {
    hook_of(table, &jump.chain, &jump.rule.text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::iptables::rule::Rule;

    fn table(jumps: &[(&str, &str)], chains: &[(&str, &[&str])]) -> TableRules {
        let rule = |text: &&str| Rule { text: (*text).to_owned(), packets: 0 };
        let mut made = TableRules::default();
        for (number, (chain, text)) in (1..).zip(jumps) {
            made.jumps.push(Jump { chain: (*chain).to_owned(), rule: rule(text), after: 0, number });
        }
        for (name, rules) in chains {
            made.declare(name);
            rules.iter().for_each(|text| made.push(name, rule(text)));
        }
        made
    }

    #[test]
    fn equal_parts_need_no_change() {
        let rules = table(&[("FORWARD", "-p tcp -j PARAGLIDER-FWD")], &[("PARAGLIDER-FWD", &["-p tcp -j ACCEPT"])]);
        assert_eq!(section(Table::Filter, &rules, &rules), "");
    }

    #[test]
    fn only_what_differs_is_written() {
        let hook = ("PREROUTING", "-p tcp -j PARAGLIDER");
        let from = table(&[hook], &[("PARAGLIDER", &["a", "b"]), ("PG-x/0", &["x"]), ("PG-y/0", &["y"])]);
        let to = table(&[hook], &[("PARAGLIDER", &["a"]), ("PG-x/0", &["x"])]);
        assert_eq!(
            section(Table::Nat, &from, &to),
            "*nat\n:PARAGLIDER - [0:0]\n:PG-y/0 - [0:0]\n-A PARAGLIDER a\n-X PG-y/0\nCOMMIT\n"
        );
    }

    #[test]
    fn the_chains_of_a_frontend_are_written_together() {
        let from = table(&[], &[("PG-x/0", &["a"]), ("PG-x/1", &["same"]), ("PG-y/0", &["same"])]);
        let to = table(&[], &[("PG-x/0", &["b"]), ("PG-x/1", &["same"]), ("PG-y/0", &["same"])]);
        assert_eq!(
            section(Table::Nat, &from, &to),
            "*nat\n:PG-x/0 - [0:0]\n:PG-x/1 - [0:0]\n-A PG-x/0 b\n-A PG-x/1 same\nCOMMIT\n"
        );
    }

    #[test]
    fn a_doubled_jump_is_made_single() {
        let hook = ("PREROUTING", "-p tcp -j PARAGLIDER");
        let from = table(&[hook, hook], &[("PARAGLIDER", &["a"])]);
        let to = table(&[hook], &[("PARAGLIDER", &["a"])]);
        let twice = "-D PREROUTING -p tcp -j PARAGLIDER\n".repeat(2);
        assert_eq!(
            section(Table::Nat, &from, &to),
            format!("*nat\n{twice}-I PREROUTING -p tcp -j PARAGLIDER\nCOMMIT\n")
        );
    }

    #[test]
    fn somebody_elses_jump_into_our_chain_goes_only_with_the_chain() {
        let theirs = ("DOCKER-USER", "-s 10.0.0.0/8 -j PARAGLIDER-FWD");
        let hook = ("FORWARD", "-p tcp -j PARAGLIDER-FWD");
        let from = table(&[theirs, hook], &[("PARAGLIDER-FWD", &["a"])]);
        let to = table(&[hook], &[("PARAGLIDER-FWD", &["a"])]);
        assert_eq!(section(Table::Filter, &from, &to), "");
        assert_eq!(
            section(Table::Filter, &from, &TableRules::default()),
            "*filter\n:PARAGLIDER-FWD - [0:0]\n-D DOCKER-USER 1\n\
             -D FORWARD -p tcp -j PARAGLIDER-FWD\n-X PARAGLIDER-FWD\nCOMMIT\n"
        );
    }
}
