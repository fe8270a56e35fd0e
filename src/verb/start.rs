//! `start`, `reload`, `restart`: the config's rules in force, in one transaction a table, or all as it was.

use crate::config;
use crate::engine::{self, transaction};
use crate::error::{Error, Exit};
use crate::host::conntrack::{self, Connection};
use crate::host::lock::Lock;
use crate::net::Endpoint;
use crate::serve;
use crate::service::Service;
use crate::sys::log;
use crate::watch::claim::{self, Running};

/// Reads the config and puts it in force; with `drop_removed` the connections to backends that are no longer in it end.
pub fn run(path: &str, drop_removed: bool) -> Result<Exit, Error> {
    let mut services = config::load(path)?;
    let engines = engine::find()?;
    let _lock = Lock::take()?;
    let watch = claim::running();
    if let Some(watch) = &watch {
        claim::recall(&watch.seen, &mut services);
    }
    let views = transaction::read(&engines)?;
    if serve::put_in_force(&engines, &views, &services)? {
        serve::say_who_is_balanced(&engines, &services);
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
        let before: Vec<Endpoint> = serve::in_force(&views).map(|frontend| frontend.bind).collect();
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
