//! The findings, as they are printed.

use std::fmt::{self, Write};

use crate::engine::{Finding, Level};
use crate::host::remedy::{self, System};
use crate::net::Family;

/// All findings so far.
pub struct Findings<'a> {
    /// Where they are printed.
    pub out: &'a mut String,
    /// The worst of them.
    pub worst: Level,
    /// What kind of system this is, for remedies.
    pub system: System,
    /// Our rules are, or are to be, in iptables.
    pub by_iptables: bool,
    /// Policies of FORWARD, as the rules that were read have them.
    pub forward_policies: Vec<(Family, String)>,
}

impl Findings<'_> {
    /// Adds one.
    pub fn add(&mut self, level: Level, what: fmt::Arguments<'_>) {
        let word = match level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let _ = writeln!(self.out, "{word:8} {what}");
        self.worst = self.worst.max(level);
    }

    /// Adds those of an engine.
    pub fn all(&mut self, found: &[Finding]) {
        for Finding { level, text } in found {
            self.add(*level, format_args!("{text}"));
        }
    }

    /// Adds one about a sysctl that has to have another value.
    pub fn sysctl(&mut self, level: Level, name: &str, wrong: fmt::Arguments<'_>, wanted: u64) {
        let remedy = remedy::sysctl(self.system, name, wanted);
        self.add(level, format_args!("{name}: {wrong}; {remedy}"));
    }

    /// As it should be.
    pub fn ok(&mut self, what: fmt::Arguments<'_>) {
        self.add(Level::Ok, what);
    }

    /// It works, but not in every case or not for long.
    pub fn warning(&mut self, what: fmt::Arguments<'_>) {
        self.add(Level::Warning, what);
    }

    /// It cannot work.
    pub fn error(&mut self, what: fmt::Arguments<'_>) {
        self.add(Level::Error, what);
    }
}
