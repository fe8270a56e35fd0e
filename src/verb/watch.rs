//! `watch`: stays, checks backends and guards the rules.

use super::stop;
use crate::error::{Error, Exit};
use crate::serve;
use crate::watch::run;

/// Watches until a signal ends it; with `again` it begins with the config that is meant to be in force, if there is one.
pub fn run(path: &str, stop_on_exit: bool, again: bool) -> Result<Exit, Error> {
    let exit = run::run(path, again)?;
    if stop_on_exit {
        return stop::run(None);
    }
    Ok(exit)
}

/// Whether the config needs a watch, as an exit status for scripts: [`Exit::Done`] if a frontend has `health:`, else
/// [`Exit::Failed`]. Prints nothing.
pub fn needed(path: &str) -> Result<Exit, Error> {
    let (_, services) = serve::load(path)?;
    Ok(if services.iter().any(|service| service.health.is_some()) { Exit::Done } else { Exit::Failed })
}
