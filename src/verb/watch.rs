//! `watch`: stays, checks backends and guards the rules.

use super::stop;
use crate::error::{Error, Exit};
use crate::watch::run;

/// Watches until a signal ends it; with `again` it begins with the config that is meant to be in force, if there is one.
pub fn run(path: &str, again: bool, stop_on_exit: bool) -> Result<Exit, Error> {
    let exit = run::run(path, again)?;
    if stop_on_exit {
        return stop::run(None);
    }
    Ok(exit)
}
