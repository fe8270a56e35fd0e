//! `watch`: stays, checks backends and guards the rules.

use super::stop;
use crate::error::{Error, Exit};
use crate::watch::run;

/// Watches until a signal ends it.
pub fn run(path: &str, stop_on_exit: bool) -> Result<Exit, Error> {
    let exit = run::run(path)?;
    if stop_on_exit {
        return stop::run(None);
    }
    Ok(exit)
}
