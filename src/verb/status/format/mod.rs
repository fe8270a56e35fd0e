//! A report, written: for people, as JSON, and as Prometheus reads it.

mod json;
mod prometheus;
mod text;

use super::report::Report;

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
