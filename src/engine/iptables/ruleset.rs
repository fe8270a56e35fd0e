//! [`Service`]s → rules, as a pure model. Its text is that of iptables-restore in the normal form of iptables-save, so
//! that what is wanted and what is in force can be compared line by line.

use super::change::Change;
use super::rule::{destination, enters, let_through, rule, share, Match, Rule, Target};
use crate::net::{Endpoint, Family};
use crate::schedule::{self, Then, When};
use crate::service::{Name, Schedule, Service, Source};

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
pub(super) fn jump(chain: &str) -> String {
    format!("-p tcp -j {chain}")
}

/// The chain of node `node` of a frontend's schedule; 0 is the entrance.
pub(super) fn chain_name(frontend: &Name, node: usize) -> String {
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
pub struct Part {
    /// Rules that enter our chains.
    pub jumps: Vec<Jump>,
    /// Sorted by name. (A map would take more of the binary than all schedules together.)
    pub(super) chains: Vec<Chain>,
}

impl Part {
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

    /// What is here, and then what only `more` has.
    pub(super) fn and(&self, more: &Part) -> Part {
        let mut both = Part::default();
        for Chain { name, rules } in self.chains.iter().chain(&more.chains) {
            both.declare(name);
            for rule in rules {
                if both.rules(name).is_some_and(|known| !known.contains(rule)) {
                    both.push(name, rule.clone());
                }
            }
        }
        let same = |one: &Jump, other: &Jump| one.chain == other.chain && one.rule == other.rule;
        for jump in &more.jumps {
            if !self.jumps.iter().any(|known| same(known, jump)) {
                both.jumps.push(jump.clone());
            }
        }
        // Those come first in their chains.
        let added = both.jumps.len();
        for jump in &self.jumps {
            let before = both.jumps.iter().take(added).filter(|new| new.chain == jump.chain).count();
            both.jumps.push(Jump { number: jump.number + before, ..jump.clone() });
        }
        both
    }

    /// The chains of a frontend's schedule.
    fn of_frontend<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Chain> {
        self.chains.iter().filter(move |chain| frontend_of(&chain.name) == Some(name))
    }

    /// How many connections each backend of a frontend has taken since the rules were written; sorted by backend.
    pub fn taken(&self, name: &str) -> Vec<(Endpoint, u64)> {
        let mut taken: Vec<(Endpoint, u64)> = Vec::new();
        for chain in self.of_frontend(name) {
            for rule in &chain.rules {
                let Some(backend) = destination(rule) else { continue };
                match taken.binary_search_by(|(known, _)| known.cmp(&backend)) {
                    Ok(at) => taken.iter_mut().skip(at).take(1).for_each(|(_, packets)| *packets += rule.packets),
                    Err(at) => taken.insert(at, (backend, rule.packets)),
                }
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
#[derive(Debug, Clone)]
pub struct Ruleset {
    v4: Tables,
    v6: Tables,
}

#[derive(Debug, Clone, Default)]
struct Tables {
    filter: Part,
    nat: Part,
}

impl Default for Ruleset {
    // Eight lists are made in many places.
    #[inline(never)]
    fn default() -> Self {
        Ruleset { v4: Tables::default(), v6: Tables::default() }
    }
}

impl Ruleset {
    /// What is ours in a table.
    pub fn part(&self, family: Family, table: Table) -> &Part {
        let tables = if family == Family::V4 { &self.v4 } else { &self.v6 };
        if table == Table::Filter {
            &tables.filter
        } else {
            &tables.nat
        }
    }

    /// The same, to be changed.
    pub fn part_mut(&mut self, family: Family, table: Table) -> &mut Part {
        let tables = if family == Family::V4 { &mut self.v4 } else { &mut self.v6 };
        if table == Table::Filter {
            &mut tables.filter
        } else {
            &mut tables.nat
        }
    }

    /// Nothing of ours is anywhere.
    pub fn is_empty(&self) -> bool {
        self.families().next().is_none()
    }

    /// Whether new connections are sent anywhere.
    pub fn balances(&self) -> bool {
        Family::ALL.iter().any(|family| !self.part(*family, Table::Nat).is_empty())
    }

    /// The families in which something is ours.
    pub fn families(&self) -> impl Iterator<Item = Family> + '_ {
        Family::ALL.into_iter().filter(|family| Table::ALL.iter().any(|table| !self.part(*family, *table).is_empty()))
    }

    /// The rules of `services` from their first backend on.
    pub fn of(services: &[Service]) -> Self {
        Self::starting(services, &[])
    }

    /// The binds whose connections these rules let through: those that are balanced, and those that drain.
    pub fn binds(&self) -> Vec<Endpoint> {
        let mut binds = Vec::new();
        for family in Family::ALL {
            for rule in self.part(family, Table::Filter).rules(FORWARD).unwrap_or_default() {
                binds.extend(let_through(rule));
            }
        }
        binds
    }

    /// The rules that follow `in_force` when it is to end: they refuse new connections, let the old ones through and keep
    /// the kernel tracking them.
    pub fn draining(in_force: &Ruleset) -> Self {
        let mut ruleset = Self::default();
        for bind in in_force.binds() {
            ruleset.admit(bind, true);
        }
        ruleset.hook();
        ruleset
    }

    /// The rules of `services`, given what is in force: the very same where that is right already, so that counters
    /// go on; else rules that start at another backend than those in force, since a rewrite starts counters anew: those
    /// of the whole table if `all_restart`, else those of the frontends that change.
    pub fn following(services: &[Service], in_force: &Ruleset, all_restart: bool) -> Self {
        let starts: Vec<Option<usize>> = services.iter().map(|service| in_force.start(service)).collect();
        let same = Self::starting(services, &starts);
        let mut next = starts.clone();
        for (service, start) in services.iter().zip(&mut next) {
            let (family, name) = (service.bind.family(), service.name.as_str());
            let (now, then) = (in_force.part(family, Table::Nat), same.part(family, Table::Nat));
            let restarts = match all_restart {
                true => Change::of_part(in_force, &same, family, Table::Nat).is_some(),
                false => now.of_frontend(name).ne(then.of_frontend(name)),
            };
            // What was not there before has no start to move on from.
            *start = start.map(|at| if restarts { next_alive(service, at) } else { at });
        }
        if next == starts {
            return same;
        }
        Self::starting(services, &next)
    }

    /// The index of the backend that the first connection of a service went to.
    fn start(&self, service: &Service) -> Option<usize> {
        let first = self.first_backend(service)?;
        service.backends.iter().position(|backend| backend.address == first)
    }

    /// The backend that the first connection went to: the first DNAT rule of the entrance, or of what it enters first.
    fn first_backend(&self, service: &Service) -> Option<Endpoint> {
        if service.schedule != Schedule::RoundRobin {
            return None;
        }
        let nat = self.part(service.bind.family(), Table::Nat);
        let mut name = chain_name(&service.name, 0);
        // Each step goes down one chain; a loop, which only somebody else can have made, ends with the chains.
        for _ in 0..=nat.chains.len() {
            let rule = nat.rules(&name)?.first()?;
            if let Some(backend) = destination(rule) {
                return Some(backend);
            }
            name = enters(&rule.text)?.to_owned();
        }
        None
    }

    /// The rules of `services`, each from the backend of its index in `starts` on.
    fn starting(services: &[Service], starts: &[Option<usize>]) -> Self {
        let mut ruleset = Self::default();
        for (at, service) in services.iter().enumerate() {
            ruleset.add(service, starts.get(at).copied().flatten().unwrap_or(0));
        }
        ruleset.hook();
        ruleset
    }

    /// Adds the jumps into the chains that are there.
    fn hook(&mut self) {
        for (table, chain, ours) in HOOKS {
            for family in Family::ALL {
                if self.part(family, table).rules(ours).is_some() {
                    let rule = Rule { text: jump(ours), packets: 0 };
                    // First in its chain, before anybody else's rule decides.
                    let jump = Jump { chain: chain.to_owned(), rule, number: 1 };
                    self.part_mut(family, table).jumps.push(jump);
                }
            }
        }
    }

    /// Lets the connections to `bind` through that were balanced, and refuses new ones if nobody takes them: else they
    /// would get to a service of this host itself, or of whoever has the address.
    fn admit(&mut self, bind: Endpoint, refuse: bool) {
        let filter = self.part_mut(bind.family(), Table::Filter);
        filter.push(FORWARD, rule(Some(Match::Balanced(bind)), &Target::Accept));
        if refuse {
            filter.push(FORWARD, rule(Some(Match::FirstTo(bind)), &Target::Reject));
            filter.push(REJECT, rule(Some(Match::FirstTo(bind)), &Target::Reject));
        }
    }

    fn add(&mut self, service: &Service, start: usize) {
        let Service { name, bind, source, backends, .. } = service;
        let family = bind.family();

        self.admit(*bind, backends.iter().all(|backend| backend.weight == 0));
        let nat = self.part_mut(family, Table::Nat);
        nat.push(DISPATCH, rule(Some(Match::To(*bind)), &Target::Jump(chain_name(name, 0))));
        let snat = match *source {
            Source::Masquerade => Some(Target::Masquerade),
            Source::Addresses(first, last) => Some(Target::Snat(first, last)),
            Source::Client => None,
        };
        // The chain is there in any case: it is hooked, and an empty one does no harm.
        nat.declare(SNAT);
        if let Some(target) = snat {
            nat.push(SNAT, rule(Some(Match::Balanced(*bind)), &target));
        }

        for (node, choices) in schedule::chains(service, start).iter().enumerate() {
            let chain = chain_name(name, node);
            nat.declare(&chain);
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
                nat.push(&chain, rule(condition, &target));
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
