//! Prometheus' text format 0.0.4.

use std::fmt::Write;

use super::json::quoted;
use crate::error::Exit;
use crate::verb::status::report::{BackendStatus, FrontendStatus, Report};

/// A number of a backend, where it is known.
type Metric = fn(&BackendStatus) -> Option<u64>;

/// Name, type, what it tells, and the number.
const METRICS: [(&str, &str, &str, Metric); 4] = [
    ("connections", "gauge", "Connections now.", |backend| Some(backend.active? as u64)),
    ("connections_taken_total", "counter", "Connections since the rules were written.", |backend| Some(backend.taken)),
    ("state_seconds", "gauge", "How long it is up or down.", |backend| Some(backend.health.as_ref()?.since)),
    ("up", "gauge", "Whether it answers its checks.", |backend| Some(backend.health.as_ref()?.up.into())),
];

/// Metrics of each backend, and whether all is in force.
pub fn write(out: &mut String, report: &Report<'_>) {
    header(out, "in_force", "gauge", "Whether the rules are those of the config.");
    let _ = writeln!(out, "paraglider_in_force {}", u8::from(report.exit == Exit::Done));
    for (name, kind, help, metric) in METRICS {
        let name = format!("backend_{name}");
        header(out, &name, kind, help);
        for FrontendStatus { name: frontend, bind, backends, .. } in report.frontends {
            for backend in backends {
                if let Some(value) = metric(backend) {
                    // A chain that another program made may have a quotation mark in its name. Prometheus escapes it as
                    // JSON does.
                    let (frontend, address) = (quoted(frontend), backend.address);
                    let _ = writeln!(
                        out,
                        "paraglider_{name}{{frontend={frontend},bind=\"{bind}\",backend=\"{address}\"}} {value}"
                    );
                }
            }
        }
    }
}

fn header(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP paraglider_{name} {help}\n# TYPE paraglider_{name} {kind}");
}
