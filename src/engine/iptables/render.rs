//! A plan → rules. Pure.

use super::change::Change;
use super::names::{chain_name, Place, Table, DISPATCH, FORWARD, HOOKS, REJECT, RESET, SNAT};
use super::others::place::{FamilyPlaces, Places};
use super::rule::{destination, enters, rule, share, Match, Range, Rule, Target};
use super::ruleset::{Jump, Ruleset};
use crate::net::{Endpoint, Family, Protocol};
use crate::schedule::{Then, When};
use crate::service::{Bind, Schedule, Service, Source};

impl Ruleset {
    /// The rules of `services` from their first backend on.
    pub fn of(services: &[Service]) -> Self {
        Self::starting(services, &[], &Self::default(), &Places::default())
    }

    /// The rules that drain `binds`: they refuse new connections, accept established ones and keep the kernel tracking them.
    pub fn draining(binds: &[Bind], in_force: &Ruleset, places: &Places) -> Self {
        let mut ruleset = Self::default();
        for bind in binds {
            ruleset.admit(bind, true);
        }
        ruleset.hook(in_force, places);
        ruleset
    }

    /// The rules of `services`, given those in force. A frontend that needs no change keeps its rules, so that its counters
    /// go on. One that is rewritten starts at the next backend, since a rewrite resets its counters; in the families of
    /// `all_restart` any change resets the counters of all frontends.
    pub fn following(services: &[Service], in_force: &Ruleset, places: &Places, all_restart: &[Family]) -> Self {
        let starts: Vec<Option<usize>> = services.iter().map(|service| in_force.start(service)).collect();
        let same = Self::starting(services, &starts, in_force, places);
        let mut next = starts.clone();
        for (service, start) in services.iter().zip(&mut next) {
            let (family, name) = (service.bind.family(), service.name.as_str());
            let (now, then) = (in_force.table(family, Table::Nat), same.table(family, Table::Nat));
            let restarts = match all_restart.contains(&family) {
                true => Change::of_table(in_force, &same, family, Table::Nat).is_some(),
                false => now.of_frontend(name).ne(then.of_frontend(name)),
            };
            // A new frontend starts at its first backend.
            *start = start.map(|at| if restarts { service.next_alive(at) } else { at });
        }
        if next == starts {
            return same;
        }
        Self::starting(services, &next, in_force, places)
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
        let nat = self.table(service.bind.family(), Table::Nat);
        let mut name = chain_name(&service.name, 0);
        // Each step goes down one chain. The limit ends a loop, which only another program can have made.
        for _ in 0..=nat.chains().len() {
            let rule = nat.rules(&name)?.first()?;
            if let Some(backend) = destination(rule) {
                return Some(backend);
            }
            name = enters(&rule.text)?.to_owned();
        }
        None
    }

    /// The rules of `services`, each from the backend of its index in `starts` on.
    fn starting(services: &[Service], starts: &[Option<usize>], in_force: &Ruleset, places: &Places) -> Self {
        let mut ruleset = Self::default();
        for (at, service) in services.iter().enumerate() {
            ruleset.add(service, starts.get(at).copied().flatten().unwrap_or(0));
        }
        ruleset.hook(in_force, places);
        ruleset
    }

    /// Adds the jumps into the chains that are there: to where they stand in force if that is right, else to where they
    /// belong.
    fn hook(&mut self, in_force: &Ruleset, places: &Places) {
        for (family, FamilyPlaces { forwarded, strays }) in Family::ALL.into_iter().zip(&places.families) {
            // Where the firewall lets packets in, the kernel itself answers those of unknown connections.
            if !strays.is_shut() {
                self.table_mut(family, Table::Filter).remove(RESET);
            }
            for hook in &HOOKS {
                let table = self.table_mut(family, hook.table);
                let rules = table.rules(hook.ours).unwrap_or_default();
                if !rules.iter().any(|rule| hook.leads_to(&rule.text)) {
                    continue;
                }
                let mut there = in_force.table(family, hook.table).jumps.iter();
                let now = there.find(|jump| hook.is(&jump.chain, &jump.rule.text)).map(|jump| jump.after);
                let after = match hook.place {
                    // Rules that were put before ours later are the administrator's.
                    Place::Top => now.unwrap_or(0),
                    Place::BeforeDrops => forwarded.place(now),
                    Place::WhereDropped => strays.place(now),
                };
                let rule = Rule { text: hook.rule(), packets: 0 };
                table.jumps.push(Jump { chain: hook.chain.to_owned(), rule, after, number: 0 });
            }
        }
    }

    /// Accepts balanced connections to `bind`; with `refuse` rejects new ones, which would otherwise reach a service of this
    /// host, or of the host that has the address.
    fn admit(&mut self, bind: &Bind, refuse: bool) {
        let (family, protocol) = (bind.at.family(), bind.at.protocol());
        let filter = self.table_mut(family, Table::Filter);
        for range in Range::all(bind) {
            filter.push(FORWARD, rule(protocol, Some(Match::About(range)), &Target::Accept));
            if refuse {
                // A flow of UDP begins with a packet like any other.
                let first = if protocol == Protocol::Tcp { Match::FirstTo(range) } else { Match::Stray(range) };
                filter.push(REJECT, rule(protocol, Some(first), &Target::Reject(protocol, family)));
            }
        }
    }

    fn add(&mut self, service: &Service, start: usize) {
        let Service { name, bind, source, backends, schedule, .. } = service;
        let (family, protocol, whole) = (bind.family(), bind.protocol(), service.whole());
        let target = match *source {
            Source::Masquerade => Target::Masquerade,
            Source::Addresses(first, last) => Target::Snat(first, last),
            // No later rule changes it either.
            Source::Client => Target::Accept,
        };

        self.admit(&whole, backends.iter().all(|backend| backend.weight == 0));
        for range in Range::all(&whole) {
            if *schedule != Schedule::Source && protocol == Protocol::Tcp {
                let reset = Target::Reject(protocol, family);
                self.table_mut(family, Table::Filter).push(RESET, rule(protocol, Some(Match::Stray(range)), &reset));
            }
            let nat = self.table_mut(family, Table::Nat);
            // A packet of a connection that is not known may be of one that this host, or a host behind it, has served since
            // before we came. Where the client's address alone chooses, it is most likely one of ours whose entry was lost,
            // and gets its old backend.
            let new = match schedule {
                Schedule::Source => Match::To(range),
                _ => Match::FirstTo(range),
            };
            nat.push(DISPATCH, rule(protocol, Some(new), &Target::Jump(chain_name(name, 0))));
            nat.push(SNAT, rule(protocol, Some(Match::Balanced(range)), &target));
        }

        let nat = self.table_mut(family, Table::Nat);
        for (node, choices) in crate::schedule::chains(service, start).iter().enumerate() {
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
                nat.push(&chain, rule(protocol, condition, &target));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(yaml: &str) -> Vec<Service> {
        crate::config::parse(yaml.as_bytes()).unwrap().services
    }

    fn three() -> Vec<Service> {
        service("frontend: {bind: '10.0.0.1:80', backends: ['10.0.1.1:80', '10.0.1.2:80', '10.0.1.3:80']}")
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
        let firsts = |all_restart: &[Family]| {
            let wanted = Ruleset::following(&after, &before, &Places::default(), all_restart);
            after.iter().map(|one| wanted.first_backend(one).unwrap().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(firsts(&[]), ["10.0.1.1:80", "10.0.1.2:80"]);
        assert_eq!(firsts(&Family::ALL), ["10.0.1.2:80", "10.0.1.2:80"]);
    }

    #[test]
    fn what_is_right_stays_and_what_is_rewritten_starts_elsewhere() {
        let first = Ruleset::of(&three());
        let name = &three()[0];
        assert_eq!(first.first_backend(name).unwrap().to_string(), "10.0.1.1:80");
        let same = Ruleset::following(&three(), &first, &Places::default(), &Family::ALL);
        assert_eq!(same.first_backend(name).unwrap().to_string(), "10.0.1.1:80");

        let mut drifted = first.clone();
        drifted.table_mut(Family::V4, Table::Nat).jumps.clear();
        let again = Ruleset::following(&three(), &drifted, &Places::default(), &Family::ALL);
        assert_eq!(again.first_backend(name).unwrap().to_string(), "10.0.1.2:80");
    }
}
