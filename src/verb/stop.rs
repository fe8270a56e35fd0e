//! `stop`: removes all that is ours, whatever the config says. It is found by name in the kernel.

use crate::engine::transaction;
use crate::engine::{self, Engine, View};
use crate::error::{Error, Exit};
use crate::host::conntrack;
use crate::host::lock::Lock;
use crate::host::nft;
use crate::net::{Endpoint, Family};
use crate::serve;
use crate::sys::log;
use crate::sys::poll::{self, clock};
use crate::watch::claim;

/// How often the connections are counted while they drain, in milliseconds.
const LOOK: u64 = 500;

/// What was read of each engine, or why it could not be read.
type Looked<'a> = Vec<Result<Box<dyn View + 'a>, Error>>;

/// Removes all; with `drain` only after connections had so many seconds to end.
pub fn run(drain: Option<u32>) -> Result<Exit, Error> {
    let engines = engine::find()?;
    let lock = Lock::take()?;
    if let Some(watch) = claim::running() {
        // It would put the rules back.
        watch.signal(libc::SIGUSR1);
    }
    let Some(seconds) = drain else {
        return remove(&engines);
    };
    let views = transaction::read(&engines)?;
    transaction::drain(&engines, &views)?;
    let binds: Vec<Endpoint> = serve::in_force(&views).map(|frontend| frontend.bind).collect();
    if !binds.is_empty() {
        // While it waits, others may start.
        drop(lock);
        wait(&binds, seconds);
        let _lock = Lock::take()?;
        let now = transaction::read(&engines)?;
        if serve::in_force(&now).any(|frontend| !frontend.draining) {
            log::warning!("somebody started Paraglider while connections drained; its rules stay");
            return Ok(Exit::Done);
        }
        return remove(&engines);
    }
    remove(&engines)
}

fn wait(binds: &[Endpoint], seconds: u32) {
    let until = clock() + u64::from(seconds) * 1000;
    log::info!("no new connections are taken; waiting at most {seconds} s for the old ones");
    while clock() < until {
        // Where they cannot be counted, they get the whole time.
        if conntrack::connections(binds).is_some_and(|left| left.is_empty()) {
            return;
        }
        poll::pause(LOOK.min(until.saturating_sub(clock())));
    }
}

fn remove(engines: &[Box<dyn Engine>]) -> Result<Exit, Error> {
    let looked: Looked<'_> = engines.iter().map(|engine| engine.read()).collect();
    let views = || looked.iter().flatten();
    if looked.iter().all(|view| view.as_ref().is_ok_and(|view| view.is_empty() && view.unread().is_empty())) {
        log::info!("nothing of Paraglider is in force");
        return Ok(Exit::Done);
    }
    let binds: Vec<Endpoint> = views().flat_map(|view| view.frontends()).map(|frontend| frontend.bind).collect();
    let alive = conntrack::connections(&binds);
    let failed = transaction::remove(engines, &looked);
    for error in &failed {
        log::sentence(log::Level::Error, format_args!("{error}"));
    }
    if failed.is_empty() {
        log::info!("removed all rules of Paraglider");
    } else {
        log::warning!("removed the rest of Paraglider's rules");
    }
    // Connections outlive the rules only where something else keeps the kernel tracking them, family by family.
    let tracked = |family| views().any(|view| view.foreign().tracking.contains(&family)) || nft::uses_conntrack(family);
    for family in Family::ALL {
        if !binds.iter().any(|bind| bind.family() == family) {
            continue;
        }
        let alive = alive.as_ref().map(|alive| alive.iter().filter(|one| one.bind.family() == family).count());
        let connections = match alive {
            Some(0) => continue,
            Some(n) => log::count(n, "established connection"),
            None => format!("established {family} connections, if there are any,"),
        };
        if tracked(family) {
            log::info!("{connections} will live on: other rules of this host track connections");
        } else {
            log::warning!("{connections} will be cut: nothing else on this host tracks connections");
        }
    }
    Ok(if failed.is_empty() { Exit::Done } else { Exit::Failed })
}
