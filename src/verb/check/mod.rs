//! `check`: is the config right, and can it work on this host? Each finding with its remedy.

mod network;
mod rules;

use std::fmt::{self, Write};

use crate::engine::Level;
use crate::error::{Error, Exit};
use crate::host::remedy::System;
use crate::serve;
use crate::sys::log;

/// All findings so far.
struct Findings<'a> {
    out: &'a mut String,
    worst: Level,
    system: System,
}

impl Findings<'_> {
    fn add(&mut self, level: Level, what: fmt::Arguments<'_>) {
        let word = match level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let _ = writeln!(self.out, "{word:8} {what}");
        self.worst = self.worst.max(level);
    }

    fn ok(&mut self, what: fmt::Arguments<'_>) {
        self.add(Level::Ok, what);
    }

    fn warning(&mut self, what: fmt::Arguments<'_>) {
        self.add(Level::Warning, what);
    }

    fn error(&mut self, what: fmt::Arguments<'_>) {
        self.add(Level::Error, what);
    }
}

/// Looks at everything, even after a finding.
pub fn run(path: &str, out: &mut String) -> Result<Exit, Error> {
    let (_, services) = serve::load(path)?;
    let mut findings = Findings { out, worst: Level::Ok, system: System::here() };
    let backends: usize = services.iter().map(|service| service.backends.len()).sum();
    let (frontends, backends) = (log::count(services.len(), "frontend"), log::count(backends, "backend"));
    findings.ok(format_args!("config: {} has {frontends} and {backends}", path));
    rules::check(&services, &mut findings);
    network::check(&services, &mut findings);
    Ok(if findings.worst == Level::Error { Exit::Failed } else { Exit::Done })
}
