//! `start`, `reload`, `restart`: the config's rules in force, in one transaction a table, or all as it was.

use crate::engine::{self, transaction};
use crate::error::{Error, Exit};
use crate::host::before;
use crate::host::conntrack::{self, Connection};
use crate::host::state::{Folder, MEANT};
use crate::net::Endpoint;
use crate::serve;
use crate::service::Service;
use crate::sys::log;
use crate::watch::checker;
use crate::watch::claim::Known;

/// Reads the config and puts it in force; with `drop_removed` the connections to backends that are no longer in it end;
/// with `again` it is the config that is meant to be in force, and nothing is done if none is.
pub fn run(path: &str, drop_removed: bool, again: bool) -> Result<Exit, Error> {
    let given = if again { None } else { Some(serve::load(path)?) };
    let folder = Folder::open()?;
    if again && folder.stamp().is_none() {
        return Ok(Exit::Done);
    }
    let engines = engine::find()?;
    let _lock = folder.lock()?;
    let (text, mut services) = match given {
        Some(given) => given,
        // An empty one is in the memory of the running `watch`, which puts it back.
        None => match folder.meant().filter(|text| !text.is_empty()) {
            Some(text) => serve::judged(MEANT, text)?,
            None => return Ok(Exit::Done),
        },
    };
    let known = Known::of(&folder);
    let views = transaction::read(&engines)?;
    checker::recall(&known.believed(&services, &serve::chosen(&views)), &mut services);
    // The same config needs no space.
    let noted = again || folder.meant().as_ref() == Some(&text);
    if !noted {
        note(&folder, &known, &text)?;
    }
    let changed = serve::put_in_force(&engines, &views, &services);
    if changed.is_err() {
        folder.discard();
    } else if !noted {
        folder.mean()?;
    }
    if changed? {
        serve::say_who_is_balanced(&engines, &services);
    } else {
        log::info!("already in force");
    }
    // The watch waits for the lock, and then finds what is meant.
    known.wake();
    before::tell(folder.base(), libc::SIGHUP);
    if services.iter().all(|service| service.health.is_none()) {
        before::clean(folder.base());
    } else if known.watch.is_none() {
        log::info!("the backends are not checked until `paraglider watch` runs");
    }
    if drop_removed {
        let before: Vec<Endpoint> = serve::in_force(&views).map(|frontend| frontend.bind).collect();
        let stays = |one: &Connection| services.iter().any(|service| has(service, one));
        let ended = conntrack::forget(&before, &|connection| !stays(connection)).complete()?;
        log::info!("ended {} to what is no longer in the config", log::count(ended, "connection"));
    }
    Ok(Exit::Done)
}

/// Writes down what is going to be meant, before anything is changed. Without a `watch` it can be done without.
fn note(folder: &Folder, known: &Known, text: &[u8]) -> Result<(), Error> {
    match (folder.draft(text), known.who()) {
        (Err(error), Some(who)) => Err(error
            .and(&format!("the running `paraglider watch` ({who}) cannot be told of the config; nothing was changed"))),
        (Err(error), None) => {
            log::warning!("{error}; `paraglider start --again` will not put this config back");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether a connection is to one of the service's backends.
fn has(service: &Service, connection: &Connection) -> bool {
    let Connection { bind, backend, .. } = connection;
    service.bind == *bind && service.backends.iter().any(|known| known.address == *backend)
}
