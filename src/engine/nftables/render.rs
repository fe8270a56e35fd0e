//! A plan → our table. Pure.

use super::index::Index;
use super::table::{
    backend, counter, frontend, key, source, By, Choice, Map, Rule, Table, BINDS, DRAINING, INPUT, OUTPUT, POSTROUTING,
    PREROUTING, SOURCES, STRAYS, STRAY_BINDS,
};
use crate::engine::Plan;
use crate::net::{Endpoint, Family};
use crate::schedule;
use crate::service::{Schedule, Service};

/// Whether the rules of others drop what comes to a bind, so that the kernel itself cannot answer packets of unknown
/// connections.
pub type IsShut<'a> = &'a dyn Fn(Endpoint) -> bool;

/// The table of a plan; none if nothing is to be in force.
pub fn table(plan: &Plan<'_>, in_force: &Index<'_>, is_shut: IsShut<'_>) -> Option<Table> {
    let mut table = Table::default();
    let mut binds = Binds::default();
    match plan {
        Plan::Nothing => return None,
        Plan::Drain(draining) => {
            // Established connections live on while there is a chain for nat, and a rule that uses their tracking.
            table.push(DRAINING.to_owned(), None, vec![Rule::Refuse]);
            for bind in *draining {
                binds.dispatch.push((*bind, DRAINING.to_owned()));
            }
        }
        Plan::Serve(services) => {
            for service in *services {
                serve(service, in_force, is_shut, &mut table, &mut binds);
            }
        }
    }
    if !binds.strays.is_empty() {
        table.push(STRAYS.to_owned(), None, vec![Rule::Reset]);
    }
    let dispatch = |family, name| Rule::Dispatch(family, name);
    for (bases, names, binds, rule) in [
        (&[&PREROUTING, &OUTPUT][..], BINDS, &binds.dispatch, &dispatch as &dyn Fn(_, _) -> _),
        (&[&POSTROUTING], SOURCES, &binds.leave, &|family, name| Rule::Leave(family, name)),
        (&[&INPUT], STRAY_BINDS, &binds.strays, &dispatch),
    ] {
        let has_protocol = names != SOURCES;
        let used = maps(binds, names, has_protocol, &mut table.maps);
        for base in bases {
            let rules = used.iter().map(|(family, name)| rule(*family, name)).collect();
            table.push(base.name.to_owned(), Some(base), rules);
        }
    }
    Some(table)
}

/// The chain of each bind, in the chains that all packets pass.
#[derive(Default)]
struct Binds {
    dispatch: Vec<(Endpoint, String)>,
    leave: Vec<(Endpoint, String)>,
    strays: Vec<(Endpoint, String)>,
}

/// Adds a map for each family that has binds, and returns them.
fn maps(
    all: &[(Endpoint, String)],
    names: [&'static str; 2],
    has_protocol: bool,
    to: &mut Vec<Map>,
) -> Vec<(Family, &'static str)> {
    let mut used = Vec::new();
    for (family, name) in Family::ALL.into_iter().zip(names) {
        let mut binds = Vec::new();
        for (bind, chain) in all {
            if bind.family() == family {
                binds.push((*bind, chain.clone()));
            }
        }
        if !binds.is_empty() {
            to.push(Map { name, family, has_protocol, binds });
            used.push((family, name));
        }
    }
    used
}

fn serve(service: &Service, in_force: &Index<'_>, is_shut: IsShut<'_>, table: &mut Table, binds: &mut Binds) {
    let Service { name, bind, source: from, backends, schedule, .. } = service;
    let (family, own) = (bind.family(), key(name.as_str()));
    for (index, one) in backends.iter().enumerate() {
        let counter = counter(&own, &one.address);
        table.push(backend(&own, index), None, vec![Rule::Deliver(counter.clone(), one.address)]);
        table.counters.push(counter);
    }
    let first = *schedule != Schedule::Source;
    let choose = |by| Rule::Choose(Choice { frontend: own.clone(), first, by });
    let rules = match (by(service, &own, in_force), backends.iter().position(|backend| backend.weight > 0)) {
        (Some(by @ By::Only(_)), _) => vec![choose(by)],
        // A packet that is on its way while the first rule is replaced finds its map empty, and gets to the second one.
        (Some(by), Some(any)) => vec![choose(by), choose(By::Only(any))],
        _ => vec![Rule::Refuse],
    };
    table.push(frontend(&own), None, rules);
    table.push(source(&own), None, vec![Rule::From(family, *from)]);
    binds.dispatch.push((*bind, frontend(&own)));
    binds.leave.push((*bind, source(&own)));
    if first && is_shut(*bind) {
        binds.strays.push((*bind, STRAYS.to_owned()));
    }
}

/// By what a service chooses; none if no backend takes connections.
fn by(service: &Service, own: &str, in_force: &Index<'_>) -> Option<By> {
    let Service { backends, schedule, bind, .. } = service;
    let mut weights = Vec::new();
    let mut alive = Vec::new();
    for (index, backend) in backends.iter().enumerate() {
        weights.push(backend.weight);
        if backend.weight > 0 {
            alive.push((index, u32::from(backend.weight)));
        }
    }
    Some(match (alive.as_slice(), schedule) {
        ([], _) => return None,
        ([(only, _)], _) => By::Only(*only),
        (_, Schedule::RoundRobin) => By::Turns(turns(service, own, schedule::slots(&weights), in_force)),
        (_, Schedule::Random) => By::Random(alive),
        (_, Schedule::Source) => By::Source(bind.family(), schedule::owners(backends)),
    })
}

/// The slots, from the right one on. If those in force are the same ones, they stay, and the turns go on, whatever has become of
/// the backends behind them. Else the kernel begins anew, and so with another backend than the last time: where rules
/// are written again and again, no backend gets more than the others.
fn turns(service: &Service, own: &str, slots: Vec<usize>, in_force: &Index<'_>) -> Vec<usize> {
    let turns = in_force.turns(own);
    let there = turns.indices(own).unwrap_or_default();
    if let Some(first) = there.first() {
        let same = schedule::beginning_with(*first, slots.clone());
        if same == there {
            return same;
        }
    }
    // A new frontend begins with its first backend.
    let first = turns.chains.first().and_then(|chain| in_force.backend(chain));
    let start = first.and_then(|first| service.backends.iter().position(|backend| backend.address == first));
    schedule::beginning_with(start.map_or(0, |at| service.next_alive(at)), slots)
}
