//! Rules as a model, wanted or in force. Their text is that of iptables-restore in the normal form of iptables-save, so
//! that both can be compared line by line.

use super::names::{frontend_of, Table, DISPATCH, FORWARD};
use super::rule::{destination, dispatched, enters, let_through, Range, Rule};
use crate::engine::{add_slot, InForce, Share};
use crate::net::Family;
use crate::service::Ports;
use crate::text::value;

/// A rule that enters a chain of ours.
#[derive(Debug, Clone)]
pub struct Jump {
    /// The chain that contains it: a built-in one, unless another program added the jump.
    pub chain: String,
    /// The rule.
    pub rule: Rule,
    /// How many rules of others stand before it.
    pub after: usize,
    /// Its place in that chain, from 1, if it was listed.
    pub number: usize,
}

/// A chain of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Its rules, in their order.
    pub rules: Vec<Rule>,
}

/// What is ours in one table.
#[derive(Debug, Clone, Default)]
pub struct TableRules {
    /// Rules that enter our chains.
    pub jumps: Vec<Jump>,
    /// Sorted by name. (A map would take more of the binary than all schedules together.)
    chains: Vec<Chain>,
}

impl TableRules {
    /// Our chains, by name.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// The rules of a chain, if there is one of this name.
    pub fn rules(&self, chain: &str) -> Option<&[Rule]> {
        let at = self.place(chain).ok()?;
        self.chains.get(at).map(|chain| chain.rules.as_slice())
    }

    /// Makes a chain if it is not there.
    pub fn declare(&mut self, chain: &str) {
        if let Err(at) = self.place(chain) {
            self.chains.insert(at, Chain { name: chain.to_owned(), rules: Vec::new() });
        }
    }

    /// Takes a chain away.
    pub fn remove(&mut self, chain: &str) {
        self.chains.retain(|known| known.name != chain);
    }

    /// Adds a rule to the end of a chain, which is made if it is not there.
    pub fn push(&mut self, chain: &str, rule: Rule) {
        self.declare(chain);
        if let Some(chain) = self.place(chain).ok().and_then(|at| self.chains.get_mut(at)) {
            chain.rules.push(rule);
        }
    }

    fn place(&self, chain: &str) -> Result<usize, usize> {
        self.chains.binary_search_by(|known| known.name.as_str().cmp(chain))
    }

    /// The rules of `self`, followed by those that only `more` has.
    pub fn and(&self, more: &TableRules) -> TableRules {
        let mut both = TableRules::default();
        for Chain { name, rules } in self.chains.iter().chain(&more.chains) {
            both.declare(name);
            for rule in rules {
                if both.rules(name).is_some_and(|known| !known.contains(rule)) {
                    both.push(name, rule.clone());
                }
            }
        }
        // A jump into the same chain of ours stands where `more` has it.
        both.jumps.clone_from(&more.jumps);
        for jump in &self.jumps {
            let same = |new: &Jump| new.chain == jump.chain && enters(&new.rule.text) == enters(&jump.rule.text);
            if !more.jumps.iter().any(same) {
                both.jumps.push(jump.clone());
            }
        }
        both
    }

    /// The chains of a frontend's schedule.
    pub fn of_frontend<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Chain> {
        self.chains.iter().filter(move |chain| frontend_of(&chain.name) == Some(name))
    }

    /// What each backend gets of a frontend's new connections, sorted by backend.
    fn shares(&self, name: &str) -> Vec<Share> {
        let mut shares: Vec<Share> = Vec::new();
        for rule in self.of_frontend(name).flat_map(|chain| &chain.rules) {
            if let Some(address) = destination(rule) {
                // Round robin gives each DNAT rule the same share (schedule::round_robin).
                add_slot(&mut shares, address, rule.packets);
            }
        }
        shares
    }

    /// Whether the schedule of a frontend is round robin: by turns, or of one rule.
    fn is_exact(&self, name: &str) -> bool {
        let mut rules = self.of_frontend(name).flat_map(|chain| &chain.rules);
        rules.next().is_some_and(|first| value(&first.text, "--mode") == Some("nth") || rules.next().is_none())
    }

    /// Nothing of ours is here.
    pub fn is_empty(&self) -> bool {
        self.jumps.is_empty() && self.chains.is_empty()
    }
}

/// All that is ours, wanted or in force.
#[derive(Debug, Clone)]
pub struct Ruleset {
    v4: Tables,
    v6: Tables,
}

#[derive(Debug, Clone, Default)]
struct Tables {
    filter: TableRules,
    nat: TableRules,
}

impl Default for Ruleset {
    // It is called in many places, and inlined it is large.
    #[inline(never)]
    fn default() -> Self {
        Ruleset { v4: Tables::default(), v6: Tables::default() }
    }
}

impl Ruleset {
    /// What is ours in a table.
    pub fn table(&self, family: Family, table: Table) -> &TableRules {
        let tables = if family == Family::V4 { &self.v4 } else { &self.v6 };
        if table == Table::Filter {
            &tables.filter
        } else {
            &tables.nat
        }
    }

    /// The same, to be changed.
    pub fn table_mut(&mut self, family: Family, table: Table) -> &mut TableRules {
        let tables = if family == Family::V4 { &mut self.v4 } else { &mut self.v6 };
        if table == Table::Filter {
            &mut tables.filter
        } else {
            &mut tables.nat
        }
    }

    /// Nothing of ours is anywhere.
    pub fn is_empty(&self) -> bool {
        Family::ALL.iter().all(|family| Table::ALL.iter().all(|table| self.table(*family, *table).is_empty()))
    }

    /// The binds whose connections these rules let through: those that are balanced, and those that drain.
    pub fn binds(&self) -> Vec<Range> {
        let mut binds = Vec::new();
        for family in Family::ALL {
            for rule in self.table(family, Table::Filter).rules(FORWARD).unwrap_or_default() {
                binds.extend(let_through(rule));
            }
        }
        binds
    }

    /// The frontends: those that are balanced, then those that only drain.
    pub fn frontends(&self) -> Vec<InForce> {
        let mut all: Vec<InForce> = Vec::new();
        for family in Family::ALL {
            let nat = self.table(family, Table::Nat);
            for (Range { at, first, last }, name) in
                nat.rules(DISPATCH).unwrap_or_default().iter().filter_map(dispatched)
            {
                // Each range of its ports has a rule.
                let same = |known: &&mut InForce| {
                    known.name == name && known.bind.ip() == at.ip() && known.bind.protocol() == at.protocol()
                };
                match all.iter_mut().find(same) {
                    Some(known) => known.ports.add((first, last)),
                    None => {
                        let (exact, backends) = (nat.is_exact(name), nat.shares(name));
                        let (name, ports) = (name.to_owned(), Ports::range(first, last));
                        all.push(InForce { name, bind: at, ports, draining: false, exact, backends });
                    }
                }
            }
        }
        for Range { at, first, last } in self.binds() {
            let is_known = |known: &InForce| {
                known.bind.ip() == at.ip() && known.bind.protocol() == at.protocol() && known.ports.has(first)
            };
            if !all.iter().any(is_known) {
                let (name, ports) = (at.to_string(), Ports::range(first, last));
                all.push(InForce { name, bind: at, ports, draining: true, exact: false, backends: Vec::new() });
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_in_several_chains_is_one_backend() {
        let rule = |text: &str, packets| Rule { text: text.to_owned(), packets };
        let mut rules = Ruleset::default();
        let nat = rules.table_mut(Family::V4, Table::Nat);
        nat.push(DISPATCH, rule("-d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j PG-web/0", 9));
        nat.push("PG-web/0", rule("-p tcp -j DNAT --to-destination 10.0.1.1:80", 4));
        nat.push("PG-web/1", rule("-p tcp -j DNAT --to-destination 10.0.1.1:80", 5));
        let found = rules.frontends();
        let [InForce { name, backends, draining: false, exact: false, .. }] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!((name.as_str(), backends.len(), backends[0].taken, backends[0].slots), ("web", 1, 9, 2));
    }

    #[test]
    fn what_is_let_through_and_not_balanced_drains() {
        let mut rules = Ruleset::default();
        let text = "-p tcp -m conntrack --ctstate DNAT --ctorigdst 10.0.0.1 --ctorigdstport 80 -j ACCEPT";
        let filter = rules.table_mut(Family::V4, Table::Filter);
        filter.push(FORWARD, Rule { text: text.to_owned(), packets: 0 });
        let found = rules.frontends();
        assert!(matches!(found.as_slice(), [InForce { draining: true, .. }]), "{found:?}");
    }
}
