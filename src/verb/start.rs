//! `start`, `reload`, `restart`: put the config's rules in force, or leave everything as it was.

use crate::engine::{choice, transaction, Level};
use crate::error::{Error, Exit};
use crate::host::before;
use crate::host::conntrack::{self, Connection};
use crate::host::remedy::System;
use crate::host::state::{Folder, MEANT};
use crate::serve::{self, Config};
use crate::service::Preference;
use crate::sys::log;
use crate::watch::checker;
use crate::watch::claim::Known;

/// Puts the config in force. `drop_removed`: also ends connections to backends that are no longer in it. `again`: takes the
/// config of the last start instead of the file, and does nothing after a `stop`.
pub fn run(path: &str, drop_removed: bool, again: bool) -> Result<Exit, Error> {
    let given = if again { None } else { Some(serve::load(path)?) };
    let folder = Folder::open()?;
    if again && folder.stamp()?.is_none() && !folder.was_left_by_stop() {
        return Ok(Exit::Done);
    }
    // The config of the last start is read under the lock; which of the engines it asks for does not matter before.
    let preference = given.as_ref().map_or(Preference::Auto, |config| config.engine);
    let engines = choice::find(preference)?;
    let _lock = folder.lock()?;
    let mut known = Known::of(&folder);
    serve::heal(&folder, &engines)?;
    // What is in the place of the file is replaced, unless its content is needed.
    let meant = if again { folder.meant()? } else { folder.meant().unwrap_or_default() };
    let config = match (given, &meant) {
        (Some(given), _) => given,
        (None, None) => return Ok(Exit::Done),
        // There was no space to write it down. A running `watch` has it in memory, and puts it back.
        (None, Some(text)) if text.is_empty() && known.watch.is_some() => return Ok(Exit::Done),
        (None, Some(text)) if text.is_empty() => serve::load(path)?,
        (None, Some(text)) => serve::judged(MEANT, text.clone())?,
    };
    let follows = config.follows();
    let Config { text, engine, mut services, waiting } = config;
    let engines = if engine == preference { engines } else { choice::find(engine)? };
    let views = transaction::read(&engines)?;
    checker::follow(&mut known.seen, &services);
    checker::recall(&known.believed(&services, &serve::chosen(&views)), &mut services);
    // Writing the same config again could only fail for want of space.
    let noted = again || meant.as_ref() == Some(&text);
    if !noted {
        draft(&folder, &known, &text)?;
    }
    let note = || if noted { Ok(()) } else { folder.mean() };
    let changed = serve::put_in_force(&engines, &views, &services, &note);
    if changed.is_err() {
        folder.discard();
    }
    if changed? {
        serve::say_who_is_balanced(&engines, &services);
        serve::say_what_others_do(&views, &services, Level::Warning);
    } else {
        // What calls for `again` does so at each change around it.
        if !again && !services.is_empty() {
            log::info!("already in force");
        }
        // A firewall that came since then may drop all of it.
        serve::say_what_others_do(&views, &services, Level::Error);
    }
    serve::say_who_waits(&views, &waiting, again);
    // The watch waits for the lock, and then finds what is meant.
    known.wake();
    before::tell(folder.base(), libc::SIGHUP);
    let checked = services.iter().chain(waiting.iter().map(|one| &one.service)).any(|service| service.health.is_some());
    if !checked {
        before::clean(folder.base());
    }
    if known.watch.is_none() && !again && !log::is_of_service() {
        if checked {
            log::info!("the backends are not checked until `paraglider watch` runs");
        }
        if follows && !System::here().follows_interfaces() {
            log::info!("binds follow their interfaces while `paraglider watch` runs, and else at the next `start`");
        }
    }
    if drop_removed {
        let before = serve::binds(&views);
        // One that waits has not left the config.
        let mut all = services.clone();
        all.extend(waiting.into_iter().map(|one| one.service));
        let stays = |one: &Connection| {
            let service = serve::serving(&all, &views, one);
            service.is_some_and(|service| service.backends.iter().any(|known| one.is_to(&known.address)))
        };
        let ended = conntrack::forget(&before, &|connection| !stays(connection)).complete()?;
        log::info!("ended {} to what is no longer in the config", log::count(ended, "connection"));
    } else {
        serve::say_who_stays(&views, &services);
    }
    Ok(Exit::Done)
}

/// Writes down the config before anything is changed. A failure is fatal only if a `watch` runs, which reads it from there.
fn draft(folder: &Folder, known: &Known, text: &[u8]) -> Result<(), Error> {
    match (folder.draft(text), known.who()) {
        (Err(error), Some(who)) => Err(error
            .and(&format!("the running `paraglider watch` ({who}) cannot be told of the config; nothing was changed"))),
        (Err(error), None) => {
            log::warning!("{error}; `paraglider start --again` will read {MEANT} anew");
            // An empty file takes no space, and says that something is meant.
            folder.draft(b"")
        }
        _ => Ok(()),
    }
}
