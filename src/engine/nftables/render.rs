//! A plan → our table. Pure.

use super::index::Index;
use super::table::{
    backend, counter, frontend, key, source, Base, By, Choice, Map, Rule, Table, BINDS, DRAINING, INPUT, OUTPUT,
    POSTROUTING, PREROUTING, SOURCES, STRAYS, STRAY_BINDS,
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
        Plan::Nothing | Plan::Serve([]) => return None,
        Plan::Drain(draining) => {
            // Established connections live on while there is a chain for nat, and a rule that uses their tracking.
            table.push_one(DRAINING, Rule::Refuse);
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
        table.push_one(STRAYS, Rule::Reset);
    }
    lead(&mut table, &[&PREROUTING, &OUTPUT], BINDS, &binds.dispatch, Rule::Dispatch);
    lead(&mut table, &[&POSTROUTING], SOURCES, &binds.leave, Rule::Leave);
    lead(&mut table, &[&INPUT], STRAY_BINDS, &binds.strays, Rule::Dispatch);
    Some(table)
}

/// The chain of each bind, in the chains that all packets pass.
#[derive(Default)]
struct Binds {
    dispatch: Vec<(Endpoint, String)>,
    leave: Vec<(Endpoint, String)>,
    strays: Vec<(Endpoint, String)>,
}

/// Adds a map for each family that has binds, and these chains with a rule for each of the maps.
#[inline(never)]
fn lead(
    table: &mut Table,
    bases: &[&'static Base],
    names: [&'static str; 2],
    all: &[(Endpoint, String)],
    rule: fn(Family, &'static str) -> Rule,
) {
    let mut used = Vec::new();
    for (family, name) in Family::ALL.into_iter().zip(names) {
        let mut binds = Vec::new();
        for (bind, chain) in all {
            if bind.family() == family {
                binds.push((*bind, chain.clone()));
            }
        }
        if !binds.is_empty() {
            table.maps.push(Map { name, family, has_protocol: names != SOURCES, binds });
            used.push((family, name));
        }
    }
    for base in bases {
        let mut rules = Vec::new();
        for (family, name) in &used {
            rules.push(rule(*family, name));
        }
        table.push(base.name, Some(base), rules);
    }
}

fn serve(service: &Service, in_force: &Index<'_>, is_shut: IsShut<'_>, table: &mut Table, binds: &mut Binds) {
    let Service { name, bind, source: from, backends, schedule, .. } = service;
    let (family, own) = (bind.family(), key(name.as_str()));
    for (index, one) in backends.iter().enumerate() {
        let counter = counter(&own, &one.address);
        table.push_one(&backend(&own, index), Rule::Deliver(counter.clone(), one.address));
        table.counters.push(counter);
    }
    let first = *schedule != Schedule::Source;
    let choose = |by| Rule::Choose(Box::new(Choice { frontend: own.clone(), first, by }));
    let rules = match (by(service, &own, in_force), backends.iter().position(|backend| backend.weight > 0)) {
        (Some(by @ By::Only(_)), _) => vec![choose(by)],
        // A packet that is on its way while the first rule is replaced finds its map empty, and gets to the second one.
        (Some(by), Some(any)) => vec![choose(by), choose(By::Only(any))],
        _ => vec![Rule::Refuse],
    };
    let (dispatch, leave) = (frontend(&own), source(&own));
    table.push(&dispatch, None, rules);
    table.push_one(&leave, Rule::From(family, *from));
    binds.dispatch.push((*bind, dispatch));
    binds.leave.push((*bind, leave));
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
