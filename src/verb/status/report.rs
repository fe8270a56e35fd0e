//! What there is to tell of what is in force. Pure.

use crate::engine::InForce;
use crate::error::Exit;
use crate::host::conntrack::Connection;
use crate::net::Endpoint;
use crate::watch::checker::Seen;

/// A frontend in force.
#[derive(Debug, PartialEq)]
pub struct Frontend {
    pub name: String,
    pub bind: Endpoint,
    pub backends: Vec<Backend>,
}

/// A backend of a frontend.
#[derive(Debug, PartialEq)]
pub struct Backend {
    pub address: Endpoint,
    /// Connections since the rules were last written.
    pub taken: u64,
    /// Connections now; unknown where the kernel does not list them.
    pub active: Option<usize>,
    /// What its checks tell, if it is checked.
    pub health: Option<BackendHealth>,
}

/// What the checks of a backend tell.
#[derive(Debug, PartialEq)]
pub struct BackendHealth {
    pub up: bool,
    /// Seconds that it is up or down.
    pub since: u64,
    /// Why its last bad check failed; empty if there was none.
    pub error: String,
}

/// What there is to tell.
pub struct Report<'a> {
    pub exit: Exit,
    /// Why it is not as it should be.
    pub why: Option<&'a str>,
    pub engine: &'static str,
    pub frontends: &'a [Frontend],
}

/// The state in a word or two.
pub fn state(report: &Report<'_>) -> &'static str {
    match report.exit {
        Exit::Done => "in force",
        Exit::NotInForce => "not in force",
        Exit::Unknown => "unknown",
        _ => "drifted",
    }
}

pub fn number(number: Option<usize>, unknown: &str) -> String {
    number.map_or_else(|| unknown.to_owned(), |number| number.to_string())
}

/// The frontends as their rules tell them, with their living connections and what `watch` has seen. `now` is in
/// milliseconds of the clock of `seen`.
pub fn frontends<'a>(
    in_force: impl Iterator<Item = &'a InForce>,
    connections: Option<&[Connection]>,
    seen: &[Seen],
    now: u64,
) -> Vec<Frontend> {
    let mut all = Vec::new();
    for InForce { name, bind, backends, .. } in in_force {
        let mut known = Vec::new();
        for share in backends {
            known.push(Backend { address: share.address, taken: share.taken, active: None, health: None });
        }
        all.push(Frontend { name: name.clone(), bind: *bind, backends: known });
    }
    count(&mut all, connections);
    examine(&mut all, seen, now);
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
fn examine(frontends: &mut [Frontend], seen: &[Seen], now: u64) {
    for Seen { bind, backend, condition, .. } in seen.iter().filter(|seen| seen.condition.checked) {
        for frontend in frontends.iter_mut().filter(|frontend| frontend.bind == *bind) {
            let active = frontend.backends.first().and_then(|known| known.active).map(|_| 0);
            if let Some(backend) = known(&mut frontend.backends, *backend, active) {
                let since = now.saturating_sub(condition.since) / 1000;
                backend.health = Some(BackendHealth { up: !condition.down, since, error: condition.error.clone() });
            }
        }
    }
}
