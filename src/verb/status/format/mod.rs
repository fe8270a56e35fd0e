//! A report, written: for people, as JSON, and as Prometheus reads it.

mod json;
mod prometheus;
mod text;

use super::report::Report;
use crate::error::Exit;

/// How `status` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// Prometheus' text format.
    Prometheus,
}

impl Format {
    /// Appends the report.
    pub fn write(self, out: &mut String, report: &Report<'_>) {
        match self {
            Format::Text => text::write(out, report),
            Format::Json => json::write(out, report),
            Format::Prometheus => prometheus::write(out, report),
        }
    }
}

/// The state in a word or two.
pub(super) fn state(report: &Report<'_>) -> &'static str {
    match report.exit {
        Exit::Done => "in force",
        Exit::NotInForce => "not in force",
        Exit::Unknown => "unknown",
        _ => "drifted",
    }
}

pub(super) fn number(number: Option<usize>, unknown: &str) -> String {
    number.map_or_else(|| unknown.to_owned(), |number| number.to_string())
}
