//! The findings, as they are printed.

use std::fmt::{self, Write};

use crate::engine::Level;
use crate::host::remedy::System;
use crate::net::Family;

/// All findings so far.
pub struct Findings<'a> {
    /// Where they are printed.
    pub out: &'a mut String,
    /// The worst of them.
    pub worst: Level,
    /// What kind of system this is, for remedies.
    pub system: System,
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
