//! A plan → our table. Pure.

use super::index::Index;
use super::table::{
    backend, counter, frontend, key, source, Base, By, Choice, Map, Range, Rule, Table, BINDS, DRAINING, INPUT, OUTPUT,
    POSTROUTING, PREROUTING, SOURCES, SOURCES_OF_UDP, STRAYS, STRAY_BINDS,
};
use crate::engine::Plan;
use crate::net::{Endpoint, Family, Protocol};
use crate::schedule;
use crate::service::{Bind, Schedule, Service};

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
            let mut rules = Vec::new();
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                if draining.iter().any(|bind| bind.at.protocol() == protocol) {
                    rules.push(Rule::Refuse(protocol));
                }
            }
            table.push(DRAINING, None, rules);
            for bind in *draining {
                binds.dispatch.push((bind.clone(), DRAINING.to_owned()));
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
    lead(&mut table, &[&PREROUTING, &OUTPUT], BINDS, &binds.dispatch);
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    for one in binds.leave {
        let of = if one.0.at.protocol() == Protocol::Tcp { &mut tcp } else { &mut udp };
        of.push(one);
    }
    let mut rules = leave(&mut table, SOURCES, &tcp, Protocol::Tcp);
    rules.extend(leave(&mut table, SOURCES_OF_UDP, &udp, Protocol::Udp));
    table.push(POSTROUTING.name, Some(&POSTROUTING), rules);
    lead(&mut table, &[&INPUT], STRAY_BINDS, &binds.strays);
    Some(table)
}

/// The chain of each bind, in the chains that all packets pass.
#[derive(Default)]
struct Binds {
    dispatch: Vec<(Bind, String)>,
    leave: Vec<(Bind, String)>,
    strays: Vec<(Bind, String)>,
}

/// Adds the maps of binds, and chains with the rules that look something up in them and those for ranges of ports. (Intervals in
/// a map of several values would need Linux 5.6, and slow down the others.)
#[inline(never)]
fn lead(table: &mut Table, bases: &[&'static Base], names: [&'static str; 2], all: &[(Bind, String)]) {
    let used = maps(table, names, all, true);
    for base in bases {
        let mut rules = Vec::new();
        for (family, name) in &used {
            rules.push(Rule::Dispatch(*family, name));
        }
        ranges(all, Rule::DispatchRange, &mut rules);
        table.push(base.name, Some(base), rules);
    }
}

/// Adds the maps of binds of a protocol; returns the rules that give their connections a source address.
#[inline(never)]
fn leave(table: &mut Table, names: [&'static str; 2], all: &[(Bind, String)], protocol: Protocol) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (family, name) in maps(table, names, all, false) {
        rules.push(Rule::Leave(protocol, family, name));
    }
    ranges(all, Rule::LeaveRange, &mut rules);
    rules
}

/// Adds a map for each family that has binds of single ports.
fn maps(
    table: &mut Table,
    names: [&'static str; 2],
    all: &[(Bind, String)],
    has_protocol: bool,
) -> Vec<(Family, &'static str)> {
    let mut used = Vec::new();
    for (family, name) in Family::ALL.into_iter().zip(names) {
        let mut binds = Vec::new();
        for (bind, chain) in all.iter().filter(|(bind, _)| bind.at.family() == family) {
            for (first, last) in bind.ports.ranges() {
                if first == last {
                    binds.push((bind.at.with_port(Some(*first)), chain.clone()));
                }
            }
        }
        if !binds.is_empty() {
            table.maps.push(Map { name, family, has_protocol, binds });
            used.push((family, name));
        }
    }
    used
}

/// Adds a rule for each range of ports.
fn ranges(all: &[(Bind, String)], rule: fn(Box<Range>) -> Rule, rules: &mut Vec<Rule>) {
    for (bind, chain) in all {
        for ports in bind.ports.ranges().iter().filter(|(first, last)| first != last) {
            rules.push(rule(Box::new(Range { at: bind.at, ports: *ports, chain: chain.clone() })));
        }
    }
}

fn serve(service: &Service, in_force: &Index<'_>, is_shut: IsShut<'_>, table: &mut Table, binds: &mut Binds) {
    let Service { name, bind, source: from, backends, schedule, .. } = service;
    let (family, protocol, own) = (bind.family(), bind.protocol(), key(name.as_str()));
    for (index, one) in backends.iter().enumerate() {
        let counter = counter(&own, &one.address);
        table.push_one(&backend(&own, index), Rule::Deliver(protocol, counter.clone(), one.address));
        table.counters.push(counter);
    }
    // Every packet of UDP could be the first one, so none of a flow that is not known is told apart.
    let first = *schedule != Schedule::Source && protocol == Protocol::Tcp;
    let choose = |by| Rule::Choose(Box::new(Choice { frontend: own.clone(), first, by }));
    let rules = match (by(service, &own, in_force), backends.iter().position(|backend| backend.weight > 0)) {
        (Some(by @ By::Only(_)), _) => vec![choose(by)],
        // A packet that is on its way while the first rule is replaced finds its map empty, and gets to the second one.
        (Some(by), Some(any)) => vec![choose(by), choose(By::Only(any))],
        _ => vec![Rule::Refuse(protocol)],
    };
    let (dispatch, leave) = (frontend(&own), source(&own));
    table.push(&dispatch, None, rules);
    table.push_one(&leave, Rule::From(family, *from));
    binds.dispatch.push((service.whole(), dispatch));
    binds.leave.push((service.whole(), leave));
    if first && is_shut(*bind) {
        binds.strays.push((service.whole(), STRAYS.to_owned()));
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
