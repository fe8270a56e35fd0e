//! `status`: what is in force, read from the kernel and held against the config.

mod format;

use std::fmt::Write;

use crate::cli::Form;
use crate::config;
use crate::engine::iptables::change::Change;
use crate::engine::iptables::rule::dispatched;
use crate::engine::iptables::ruleset::{Ruleset, Table, DISPATCH};
use crate::engine::iptables::tool::Iptables;
use crate::engine::{Engine, InForce};
use crate::error::{Error, Exit};
use crate::host::conntrack::{self, Connection};
use crate::host::forwarding;
use crate::host::lock::Lock;
use crate::net::{Endpoint, Family};
use crate::service::Service;
use crate::sys::poll;
use crate::watch::claim::{self, Seen};

/// A frontend in force.
struct Frontend {
    name: String,
    bind: Endpoint,
    backends: Vec<Backend>,
}

struct Backend {
    address: Endpoint,
    /// Connections since the rules were last written.
    taken: u64,
    /// Connections now; unknown where the kernel does not list them.
    active: Option<usize>,
    /// What its checks tell, if it is checked.
    health: Option<Health>,
}

struct Health {
    up: bool,
    /// Seconds that it is up or down.
    since: u64,
    /// Why its last bad check failed; empty if there was none.
    error: String,
}

/// What there is to tell.
struct Report<'a> {
    exit: Exit,
    /// Why it is not as it should be.
    why: Option<&'a str>,
    engine: &'static str,
    frontends: &'a [Frontend],
}

/// Tells what is in force.
pub fn run(path: &str, form: Form, out: &mut String) -> Result<Exit, Error> {
    let engine = Iptables::find()?;
    // What `watch` has seen and the rules belong together. If the lock is not to be had, something is told all the same.
    let lock = Lock::take();
    let watch = claim::running();
    let found = engine.read()?;
    drop(lock);
    let mut frontends = frontends(&found.ours);
    let binds: Vec<Endpoint> = frontends.iter().map(|frontend| frontend.bind).collect();
    count(&mut frontends, conntrack::connections(&binds).as_deref());
    let watched = watch.is_some();
    let seen = watch.map_or_else(Vec::new, |watch| watch.seen);
    examine(&mut frontends, &seen);

    let services = config::load(path);
    let (exit, why) = match services {
        _ if found.is_empty() && !found.unread.is_empty() => {
            let mut all = String::new();
            for (family, why) in &found.unread {
                let semicolon = if all.is_empty() { "" } else { "; " };
                let _ = write!(all, "{semicolon}cannot read the {family} rules: {why}");
            }
            (Exit::Failed, Some(all))
        }
        Err(error) if found.is_empty() => (Exit::NotInForce, Some(error.to_string())),
        Err(error) => (Exit::Failed, Some(format!("the config cannot be compared: {error}"))),
        Ok(_) if found.is_empty() => (Exit::NotInForce, None),
        Ok(mut services) => {
            claim::recall(&seen, &mut services);
            drift(path, &services, &found, watched)
        }
    };
    let report = Report { exit, why: why.as_deref(), engine: engine.name(), frontends: &frontends };
    match form {
        Form::Text => format::text(out, &report),
        Form::Json => format::json(out, &report),
        Form::Prometheus => format::prometheus(out, &report),
    }
    Ok(exit)
}

/// Whether the rules in force are those of the config, and if not, what is the matter.
fn drift(path: &str, services: &[Service], found: &InForce, watched: bool) -> (Exit, Option<String>) {
    let wanted = Ruleset::following(services, &found.ours, false);
    let differs = |family: &&Family| Change::of_family(&found.ours, &wanted, **family).is_some();
    let shut = |family: &&Family| !forwarding::forwards(**family) && !wanted.part(**family, Table::Nat).is_empty();
    let why = if let Some((family, why)) = found.unread.first() {
        format!("cannot read the {family} rules: {why}")
    } else if !found.left_over.is_empty() {
        "rules are left in the other variant of iptables, where they win; `paraglider start` removes them".into()
    } else if !found.ours.balances() {
        "`stop --drain` lets connections end, or was broken off; `paraglider start` or `stop` puts it right".into()
    } else if Family::ALL.iter().any(|family| differs(&family)) {
        format!("the rules are not those of {}; `paraglider start` puts them right", path)
    } else if let Some(family) = Family::ALL.iter().find(shut) {
        format!("{family} forwarding is off, so nothing gets through; `paraglider start` switches it on")
    } else {
        let unchecked = !watched && services.iter().any(|service| service.health.is_some());
        return (
            Exit::Done,
            unchecked.then(|| "the backends are not checked, since no `paraglider watch` runs".into()),
        );
    };
    (Exit::Failed, Some(why))
}

/// The frontends as their rules tell them, and the living connections of each.
fn frontends(rules: &Ruleset) -> Vec<Frontend> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let nat = rules.part(family, Table::Nat);
        for (bind, name) in nat.rules(DISPATCH).unwrap_or_default().iter().filter_map(dispatched) {
            let mut backends = Vec::new();
            for (address, taken) in nat.taken(name) {
                backends.push(Backend { address, taken, active: None, health: None });
            }
            all.push(Frontend { name: name.to_owned(), bind, backends });
        }
    }
    all
}

fn count(frontends: &mut [Frontend], connections: Option<&[Connection]>) {
    let Some(connections) = connections else { return };
    for Frontend { bind, backends, .. } in frontends {
        for backend in &mut *backends {
            backend.active = Some(0);
        }
        for Connection { backend: address, .. } in connections.iter().filter(|one| one.bind == *bind) {
            if let Some(Backend { active: Some(active), .. }) = known(backends, *address, Some(0)) {
                *active += 1;
            }
        }
    }
}

/// A backend of a frontend; it joins them if it takes no more new connections, since it is down, its weight is 0, or it
/// is no longer in the config.
fn known(backends: &mut Vec<Backend>, address: Endpoint, active: Option<usize>) -> Option<&mut Backend> {
    let place = backends.binary_search_by(|backend| backend.address.cmp(&address));
    let at = place.unwrap_or_else(|at| {
        backends.insert(at, Backend { address, taken: 0, active, health: None });
        at
    });
    backends.get_mut(at)
}

/// Adds what `watch` has seen.
fn examine(frontends: &mut [Frontend], seen: &[Seen]) {
    for Seen { bind, backend, state, .. } in seen {
        for frontend in frontends.iter_mut().filter(|frontend| frontend.bind == *bind) {
            let active = frontend.backends.first().and_then(|known| known.active).map(|_| 0);
            if let Some(backend) = known(&mut frontend.backends, *backend, active) {
                let since = poll::clock().saturating_sub(state.since) / 1000;
                backend.health = Some(Health { up: !state.down, since, error: state.error.clone() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::iptables::rule::Rule;

    #[test]
    fn a_backend_in_several_chains_is_one_backend() {
        let rule = |text: &str, packets| Rule { text: text.to_owned(), packets };
        let mut rules = Ruleset::default();
        let nat = rules.part_mut(Family::V4, Table::Nat);
        nat.push(DISPATCH, rule("-d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j PG-web/0", 9));
        nat.push("PG-web/0", rule("-p tcp -j DNAT --to-destination 10.0.1.1:80", 4));
        nat.push("PG-web/1", rule("-p tcp -j DNAT --to-destination 10.0.1.1:80", 5));
        let found = frontends(&rules);
        assert_eq!((found[0].name.as_str(), found[0].backends.len(), found[0].backends[0].taken), ("web", 1, 9));
    }
}
