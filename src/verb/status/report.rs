//! The content of a status report. Pure.

use std::net::IpAddr;

use crate::engine::InForce;
use crate::error::Exit;
use crate::host::conntrack::Connection;
use crate::net::Endpoint;
use crate::serve::Waiting;
use crate::service::{Bind, Interface, Service};
use crate::watch::checker::Seen;

/// A frontend in force.
#[derive(Debug, PartialEq)]
pub struct FrontendStatus {
    pub name: String,
    pub bind: Bind,
    /// The interface whose address it is.
    pub follows: Option<String>,
    /// Addresses of its bind and its `privateip` that this host does not have.
    pub absent: Vec<IpAddr>,
    pub backends: Vec<BackendStatus>,
}

/// A backend of a frontend.
#[derive(Debug, PartialEq)]
pub struct BackendStatus {
    pub address: Endpoint,
    /// Connections since the rules were last written.
    pub taken: u64,
    /// Connections now; unknown where the kernel does not list them.
    pub active: Option<usize>,
    /// What its checks tell, if it is checked.
    pub health: Option<HealthStatus>,
}

/// What the checks of a backend tell.
#[derive(Debug, PartialEq)]
pub struct HealthStatus {
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
    /// Why it is that engine: the end of a sentence.
    pub chosen: &'static str,
    pub frontends: &'a [FrontendStatus],
    /// What is not in force yet.
    pub waiting: &'a [Waiting],
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

/// The frontends in force with their connections and the health of their backends. `now`: milliseconds of the clock that
/// `seen` uses.
pub fn frontends<'a>(
    in_force: impl Iterator<Item = &'a InForce>,
    connections: Option<&[Connection]>,
    seen: &[Seen],
    now: u64,
) -> Vec<FrontendStatus> {
    let mut all = Vec::new();
    for one @ InForce { name, backends, .. } in in_force {
        let mut known = Vec::new();
        for share in backends {
            known.push(BackendStatus { address: share.address, taken: share.taken, active: None, health: None });
        }
        let (name, follows, absent) = (name.clone(), None, Vec::new());
        all.push(FrontendStatus { name, bind: one.whole(), follows, absent, backends: known });
    }
    count(&mut all, connections);
    examine(&mut all, seen, now);
    all
}

fn count(frontends: &mut [FrontendStatus], connections: Option<&[Connection]>) {
    let Some(connections) = connections else { return };
    for FrontendStatus { bind, backends, .. } in frontends {
        for backend in &mut *backends {
            backend.active = Some(0);
        }
        for one in connections.iter().filter(|one| one.bind == bind.at) {
            // Of several ports, one that is not in the rules may keep the client's.
            let is_listed = backends.binary_search_by(|backend| backend.address.cmp(&one.backend)).is_ok();
            let kept = !is_listed && !bind.ports.is_one() && one.keeps_port();
            let address = if kept { one.backend.with_port(Some(0)) } else { one.backend };
            if let Some(BackendStatus { active: Some(active), .. }) = known(backends, address, Some(0)) {
                *active += 1;
            }
        }
    }
}

/// The backend with this address. It is added if the rules do not contain it: it is down, has weight 0, or is no longer in
/// the config.
fn known(backends: &mut Vec<BackendStatus>, address: Endpoint, active: Option<usize>) -> Option<&mut BackendStatus> {
    let place = backends.binary_search_by(|backend| backend.address.cmp(&address));
    let at = place.unwrap_or_else(|at| {
        backends.insert(at, BackendStatus { address, taken: 0, active, health: None });
        at
    });
    backends.get_mut(at)
}

/// Adds what the config tells and the rules do not: the interfaces that binds follow, and addresses, also of `privateip`,
/// that this host does not have.
pub fn missing(frontends: &mut [FrontendStatus], services: &[Service], has: &dyn Fn(IpAddr) -> bool) {
    for FrontendStatus { name, bind, follows, absent, .. } in frontends {
        let mut look = |ip| {
            if !has(ip) {
                absent.push(ip);
            }
        };
        look(bind.at.ip());
        for service in services.iter().filter(|service| service.bind == bind.at) {
            service.source.each(&mut look);
            *follows = service.follows.as_ref().filter(|_| service.name.as_str() == name).map(Interface::to_string);
        }
    }
}

/// Adds what `watch` has seen.
fn examine(frontends: &mut [FrontendStatus], seen: &[Seen], now: u64) {
    for Seen { bind, backend, condition, .. } in seen.iter().filter(|seen| seen.condition.checked) {
        for frontend in frontends.iter_mut().filter(|frontend| frontend.bind.at == *bind) {
            let active = frontend.backends.first().and_then(|known| known.active).map(|_| 0);
            if let Some(backend) = known(&mut frontend.backends, *backend, active) {
                let since = now.saturating_sub(condition.since) / 1000;
                backend.health = Some(HealthStatus { up: !condition.down, since, error: condition.error.clone() });
            }
        }
    }
}
