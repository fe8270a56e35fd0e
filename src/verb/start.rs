//! `start`, `reload`, `restart`: the config's rules in force, in one transaction a table, or all as it was.

use crate::config;
use crate::engine::iptables::tool::Iptables;
use crate::engine::Engine;
use crate::error::{Error, Exit};
use crate::host::conntrack::{self, Connection};
use crate::host::lock::Lock;
use crate::serve;
use crate::service::Service;
use crate::sys::log;
use crate::watch::claim::{self, Running};

/// Reads the config and puts it in force; with `drop_removed` the connections to backends that are no longer in it end.
pub fn run(path: &str, drop_removed: bool) -> Result<Exit, Error> {
    let mut services = config::load(path)?;
    let engine = Iptables::find()?;
    let _lock = Lock::take()?;
    let watch = claim::running();
    if let Some(watch) = &watch {
        claim::recall(&watch.seen, &mut services);
    }
    let before = if drop_removed { engine.read()?.ours.binds() } else { Vec::new() };
    if serve::put_in_force(&engine, &services)? {
        serve::say_who_is_balanced(&engine, &services);
    } else {
        log::info!("already in force");
    }
    if let Some(watch) = watch {
        // It waits for the lock, and so does not take what was changed for somebody else's doing.
        watch.signal(libc::SIGHUP);
        if watch.config != path {
            let Running { process, config, .. } = watch;
            log::warning!("`paraglider watch` (process {process}) goes by {config}, and puts that back in force");
        }
    } else if services.iter().any(|service| service.health.is_some()) {
        log::info!("the backends are not checked until `paraglider watch` runs");
    }
    if drop_removed {
        let stays = |one: &Connection| services.iter().any(|service| has(service, one));
        let ended = conntrack::forget(&before, &|connection| !stays(connection))?;
        log::info!("ended {} to what is no longer in the config", log::count(ended, "connection"));
    }
    Ok(Exit::Done)
}

/// Whether a connection is to one of the service's backends.
fn has(service: &Service, connection: &Connection) -> bool {
    let Connection { bind, backend, .. } = connection;
    service.bind == *bind && service.backends.iter().any(|known| known.address == *backend)
}
