//! [`Service`]s → rules, as a pure model. Its text is that of iptables-restore in the normal form of iptables-save, so
//! that what is wanted and what is in force can be compared line by line.

mod change;
mod rule;

pub use change::Change;
pub use rule::{destination, dispatched, enters, let_through, Match, Rule, Target};

use std::collections::BTreeMap;

use self::rule::{rule, share};
use crate::schedule::{self, Then, When};
use crate::service::{Endpoint, Family, Name, Schedule, Service, Source};

/// A netfilter table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Lets through what was balanced.
    Filter,
    /// Balances.
    Nat,
}

impl Table {
    /// In the order in which rules go in: what lets a connection through is there before what sends it.
    pub const ALL: [Table; 2] = [Table::Filter, Table::Nat];

    /// As iptables calls it.
    pub fn name(self) -> &'static str {
        match self {
            Table::Filter => "filter",
            Table::Nat => "nat",
        }
    }
}

/// Frontends are told apart here.
pub const DISPATCH: &str = "PARAGLIDER";
/// Here balanced connections get their source address.
pub const SNAT: &str = "PARAGLIDER-SNAT";
/// Here balanced connections are let through.
pub const FORWARD: &str = "PARAGLIDER-FWD";
/// Here new connections are refused that nobody can take.
pub const REJECT: &str = "PARAGLIDER-REJECT";
/// `check` loads rules into this one, to which nothing jumps.
pub const PROBE: &str = "PARAGLIDER-PROBE";

/// Where the kernel enters our chains: table, built-in chain, chain of ours. This one list serves start, stop and status.
pub const HOOKS: [(Table, &str, &str); 5] = [
    (Table::Filter, "INPUT", REJECT),
    (Table::Filter, "FORWARD", FORWARD),
    (Table::Nat, "PREROUTING", DISPATCH),
    (Table::Nat, "OUTPUT", DISPATCH),
    (Table::Nat, "POSTROUTING", SNAT),
];

/// The rule that enters `chain`.
fn jump(chain: &str) -> String {
    format!("-p tcp -j {chain}")
}

/// The chain of node `node` of a frontend's schedule; 0 is the entrance.
fn chain_name(frontend: &Name, node: usize) -> String {
    format!("PG-{frontend}/{node:x}")
}

/// The frontend's name in the name of one of its chains.
pub fn frontend_of(chain: &str) -> Option<&str> {
    let (frontend, node) = chain.strip_prefix("PG-")?.rsplit_once('/')?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (!frontend.is_empty() && (1..=3).contains(&node.len()) && node.bytes().all(hex)).then_some(frontend)
}

/// Whether a chain of this name is ours. Nothing else tells: no config, no file.
pub fn is_ours(table: Table, chain: &str) -> bool {
    match table {
        Table::Filter => [FORWARD, REJECT, PROBE].contains(&chain),
        Table::Nat => [DISPATCH, SNAT, PROBE].contains(&chain) || frontend_of(chain).is_some(),
    }
}

/// A rule that enters a chain of ours.
#[derive(Debug, Clone)]
pub struct Jump {
    /// The chain it stands in: a built-in one, unless somebody else made it.
    pub chain: String,
    /// The rule.
    pub rule: Rule,
    /// Its place in that chain, from 1.
    pub number: usize,
}

/// What is ours in one table.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Rules that enter our chains.
    pub jumps: Vec<Jump>,
    /// Our chains by name.
    pub chains: BTreeMap<String, Vec<Rule>>,
}

impl Part {
    fn add(&mut self, chain: &str, rule: Rule) {
        self.chains.entry(chain.to_owned()).or_default().push(rule);
    }

    /// The chains of a frontend's schedule.
    fn of_frontend<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a String, &'a Vec<Rule>)> {
        self.chains.iter().filter(move |(chain, _)| frontend_of(chain) == Some(name))
    }

    /// How many connections each backend of a frontend has taken since the rules were written.
    pub fn taken(&self, name: &str) -> BTreeMap<Endpoint, u64> {
        let mut taken = BTreeMap::new();
        for rule in self.of_frontend(name).flat_map(|(_, rules)| rules) {
            if let Some(backend) = destination(rule) {
                *taken.entry(backend).or_default() += rule.packets;
            }
        }
        taken
    }

    /// Nothing of ours is here.
    pub fn is_empty(&self) -> bool {
        self.jumps.is_empty() && self.chains.is_empty()
    }
}

/// All that is ours, wanted or in force.
#[derive(Debug, Clone, Default)]
pub struct Ruleset {
    parts: BTreeMap<(Family, Table), Part>,
}

impl Ruleset {
    /// What is ours in a table.
    pub fn part(&self, family: Family, table: Table) -> &Part {
        static NOTHING: Part = Part { jumps: Vec::new(), chains: BTreeMap::new() };
        self.parts.get(&(family, table)).unwrap_or(&NOTHING)
    }

    /// The same, to be changed.
    pub fn part_mut(&mut self, family: Family, table: Table) -> &mut Part {
        self.parts.entry((family, table)).or_default()
    }

    /// Nothing of ours is anywhere.
    pub fn is_empty(&self) -> bool {
        self.parts.values().all(Part::is_empty)
    }

    /// The families in which something is ours.
    pub fn families(&self) -> impl Iterator<Item = Family> + '_ {
        Family::ALL.into_iter().filter(|family| Table::ALL.iter().any(|table| !self.part(*family, *table).is_empty()))
    }

    /// The rules of `services` from their first backend on.
    pub fn of(services: &[Service]) -> Self {
        Self::starting(services, |_| 0)
    }

    /// The rules of `services`, given what is in force: the very same where that is right already, so that counters
    /// go on; else rules that start at another backend than those in force, since a rewrite starts counters anew: those
    /// of the whole table if `all_restart`, else those of the frontends that change.
    pub fn following(services: &[Service], in_force: &Ruleset, all_restart: bool) -> Self {
        let start = |service: &Service| {
            let first = in_force.first_backend(service)?;
            service.backends.iter().position(|backend| backend.address == first)
        };
        let same = Self::starting(services, |service| start(service).unwrap_or(0));
        let rewritten = |family: &Family| Change::of_part(in_force, &same, *family, Table::Nat).is_some();
        let all_restart: Vec<Family> =
            Family::ALL.into_iter().filter(|family| all_restart && rewritten(family)).collect();
        let restarts = |service: &Service| {
            let (family, name) = (service.bind.family(), service.name.as_str());
            let (now, then) = (in_force.part(family, Table::Nat), same.part(family, Table::Nat));
            all_restart.contains(&family) || now.of_frontend(name).ne(then.of_frontend(name))
        };
        let restarting: Vec<bool> = services.iter().map(restarts).collect();
        // What was not there before has no start to move on from.
        if !services.iter().zip(&restarting).any(|(service, restarts)| *restarts && start(service).is_some()) {
            return same;
        }
        let mut restarting = restarting.into_iter();
        Self::starting(services, |service| match (start(service), restarting.next()) {
            (Some(at), Some(true)) => next_alive(service, at),
            (at, _) => at.unwrap_or(0),
        })
    }

    /// The backend that the first connection went to: the first DNAT rule of the entrance, or of what it enters first.
    fn first_backend(&self, service: &Service) -> Option<Endpoint> {
        if service.schedule != Schedule::RoundRobin {
            return None;
        }
        let chains = &self.part(service.bind.family(), Table::Nat).chains;
        let mut name = chain_name(&service.name, 0);
        // Each step goes down one chain; a loop, which only somebody else can have made, ends with the chains.
        for _ in 0..=chains.len() {
            let rule = chains.get(&name)?.first()?;
            if let Some(backend) = destination(rule) {
                return Some(backend);
            }
            name = enters(&rule.text)?.to_owned();
        }
        None
    }

    fn starting(services: &[Service], mut start: impl FnMut(&Service) -> usize) -> Self {
        let mut ruleset = Self::default();
        for service in services {
            ruleset.add(service, start(service));
        }
        for (table, chain, ours) in HOOKS {
            for family in Family::ALL {
                if ruleset.part(family, table).chains.contains_key(ours) {
                    let rule = Rule { text: jump(ours), packets: 0 };
                    // First in its chain, before anybody else's rule decides.
                    let jump = Jump { chain: chain.to_owned(), rule, number: 1 };
                    ruleset.part_mut(family, table).jumps.push(jump);
                }
            }
        }
        ruleset
    }

    fn add(&mut self, service: &Service, start: usize) {
        let Service { name, bind, source, backends, .. } = service;
        let family = bind.family();

        let filter = self.part_mut(family, Table::Filter);
        filter.add(FORWARD, rule(Some(Match::Balanced(*bind)), &Target::Accept));
        if backends.iter().all(|backend| backend.weight == 0) {
            // Else they would get to a service of this host itself, or of whoever has the address.
            filter.add(FORWARD, rule(Some(Match::FirstTo(*bind)), &Target::Reject));
            filter.add(REJECT, rule(Some(Match::FirstTo(*bind)), &Target::Reject));
        }

        let nat = self.part_mut(family, Table::Nat);
        nat.add(DISPATCH, rule(Some(Match::To(*bind)), &Target::Jump(chain_name(name, 0))));
        let snat = match *source {
            Source::Masquerade => Some(Target::Masquerade),
            Source::Addresses(first, last) => Some(Target::Snat(first, last)),
            Source::Client => None,
        };
        // The chain is there in any case: it is hooked, and an empty one does no harm.
        nat.chains.entry(SNAT.to_owned()).or_default();
        if let Some(target) = snat {
            nat.add(SNAT, rule(Some(Match::Balanced(*bind)), &target));
        }

        for (node, choices) in schedule::chains(service, start).iter().enumerate() {
            let chain = chain_name(name, node);
            nat.chains.entry(chain.clone()).or_default();
            for choice in choices {
                let condition = match choice.when {
                    When::Always => None,
                    When::Every(n) => Some(Match::Every(n)),
                    When::Share(parts, of) => Some(Match::Random(share(parts, of))),
                    When::SourceBit(bit) => Some(Match::SourceBit(family, bit)),
                };
                let target = match choice.then {
                    Then::Backend(index) => match backends.get(index) {
                        Some(backend) => Target::Dnat(backend.address),
                        None => continue,
                    },
                    Then::Chain(node) => Target::Jump(chain_name(name, node)),
                };
                nat.add(&chain, rule(condition, &target));
            }
        }
    }
}

/// The next backend that takes connections, after the one of index `at`, going round.
fn next_alive(service: &Service, at: usize) -> usize {
    let backends = service.backends.len();
    let round = (1..=backends).map(|step| (at + step) % backends);
    let alive = |index: &usize| service.backends.get(*index).is_some_and(|backend| backend.weight > 0);
    round.into_iter().find(alive).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(yaml: &str) -> Vec<Service> {
        crate::config::parse(yaml.as_bytes()).unwrap()
    }

    fn three() -> Vec<Service> {
        service("frontend: {bind: '10.0.0.1:80', backends: ['10.0.1.1:80', '10.0.1.2:80', '10.0.1.3:80']}")
    }

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
    fn only_the_frontend_that_changes_starts_elsewhere_unless_all_counters_restart() {
        let yaml = |last: &str| {
            format!(
                "frontends:\n  - {{name: a, bind: '10.0.0.1:80', backends: ['10.0.1.1:80', '10.0.1.2:80']}}\n  \
                 - {{name: b, bind: '10.0.0.1:81', backends: ['10.0.1.1:80', '10.0.1.2:80', '10.0.1.{last}:80']}}\n"
            )
        };
        let before = Ruleset::of(&service(&yaml("3")));
        let after = service(&yaml("4"));
        let firsts = |all_restart| {
            let wanted = Ruleset::following(&after, &before, all_restart);
            after.iter().map(|one| wanted.first_backend(one).unwrap().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(firsts(false), ["10.0.1.1:80", "10.0.1.2:80"]);
        assert_eq!(firsts(true), ["10.0.1.2:80", "10.0.1.2:80"]);
    }

    #[test]
    fn what_is_right_stays_and_what_is_rewritten_starts_elsewhere() {
        let first = Ruleset::of(&three());
        let name = &three()[0];
        assert_eq!(first.first_backend(name).unwrap().to_string(), "10.0.1.1:80");
        let same = Ruleset::following(&three(), &first, true);
        assert_eq!(same.first_backend(name).unwrap().to_string(), "10.0.1.1:80");

        let mut drifted = first.clone();
        drifted.part_mut(Family::V4, Table::Nat).jumps.clear();
        let again = Ruleset::following(&three(), &drifted, true);
        assert_eq!(again.first_backend(name).unwrap().to_string(), "10.0.1.2:80");
    }

    #[test]
    fn chain_names_fit() {
        let name = Name::parse(&"x".repeat(crate::service::LONGEST_NAME)).unwrap();
        assert_eq!(chain_name(&name, 0xfff).len(), 28);
    }
}
