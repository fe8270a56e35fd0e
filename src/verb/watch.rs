//! `watch`: stays, checks backends and guards the rules.

use super::stop;
use crate::error::{Error, Exit};
use crate::host::remedy::System;
use crate::host::state::{Folder, MEANT};
use crate::serve;
use crate::sys::{log, rights};
use crate::watch::run;

/// Watches until a signal ends it; with `again` it begins with the config that is meant to be in force, if there is one.
pub fn run(path: &str, stop_on_exit: bool, again: bool) -> Result<Exit, Error> {
    // By hand it may be asked for anything.
    if log::is_of_service() {
        rights::keep_those_of_rules();
    }
    let exit = run::run(path, again)?;
    if stop_on_exit {
        return stop::run(None);
    }
    Ok(exit)
}

/// Whether a watch is needed, as an exit status for scripts: [`Exit::Done`] if a frontend has `health:`, or follows an
/// interface where nobody else tells of a change; else [`Exit::Failed`]. Asks the config that is meant to be in force, as `watch --again` does; if there is none, the file.
/// Prints nothing.
pub fn needed(path: &str) -> Result<Exit, Error> {
    let meant = Folder::as_it_is().and_then(|folder| folder.meant().ok()?).filter(|text| !text.is_empty());
    // One of another version may no longer be read.
    let meant = meant.and_then(|text| serve::judged(MEANT, text).ok());
    let config = match meant {
        Some(meant) => meant,
        None => serve::load(path)?,
    };
    let waiting = config.waiting.iter().map(|one| &one.service);
    let checked = config.services.iter().chain(waiting).any(|service| service.health.is_some());
    let needed = checked || config.follows() && !System::here().follows_interfaces();
    Ok(if needed { Exit::Done } else { Exit::Failed })
}
