//! A [`Report`] as text for people, as JSON, and as Prometheus reads it.

use std::fmt::Write;

use super::{Backend, Frontend, Health, Report};
use crate::error::Exit;

fn state(report: &Report<'_>) -> &'static str {
    match report.exit {
        Exit::Done => "in force",
        Exit::NotInForce => "not in force",
        _ => "drifted",
    }
}

pub fn text(out: &mut String, report: &Report<'_>) {
    let (colon, why) = report.why.map_or(("", ""), |why| (": ", why));
    let _ = writeln!(out, "{} ({}){colon}{why}", state(report), report.engine);
    let mut width = 0;
    for Backend { address, .. } in report.frontends.iter().flat_map(|frontend| &frontend.backends) {
        width = width.max(address.to_string().len());
    }
    for Frontend { name, bind, backends } in report.frontends {
        let bind = bind.to_string();
        out.push_str(&bind);
        if bind != *name {
            let _ = write!(out, " ({name})");
        }
        out.push('\n');
        for Backend { address, taken, active, health } in backends {
            let (address, active) = (address.to_string(), number(*active, "?"));
            let _ = write!(out, "  {address:width$}  {taken:>8} taken  {active:>6} active");
            match health {
                Some(Health { up: true, since, .. }) => {
                    let _ = write!(out, "  up for {since} s");
                }
                Some(Health { since, error, .. }) => {
                    let _ = write!(out, "  down for {since} s: {error}");
                }
                None => {}
            }
            out.push('\n');
        }
    }
}

pub fn json(out: &mut String, report: &Report<'_>) {
    let reason = report.why.map_or_else(|| "null".to_owned(), quoted);
    let (state, engine) = (state(report), report.engine);
    let _ = write!(out, "{{\"state\":\"{state}\",\"reason\":{reason},\"engine\":\"{engine}\",\"frontends\":[");
    let mut comma = "";
    for Frontend { name, bind, backends } in report.frontends {
        let _ = write!(out, "{comma}{{\"name\":{},\"bind\":\"{bind}\",\"backends\":[", quoted(name));
        comma = "";
        for Backend { address, taken, active, health } in backends {
            let active = number(*active, "null");
            let _ = write!(out, "{comma}{{\"address\":\"{address}\",\"taken\":{taken},\"active\":{active}");
            match health {
                Some(Health { up, since, error }) => {
                    let state = if *up { "up" } else { "down" };
                    let error = if error.is_empty() { "null".to_owned() } else { quoted(error) };
                    let _ = write!(out, ",\"state\":\"{state}\",\"since\":{since},\"error\":{error}}}");
                }
                None => out.push_str(",\"state\":\"unchecked\",\"since\":null,\"error\":null}"),
            }
            comma = ",";
        }
        out.push_str("]}");
        comma = ",";
    }
    out.push_str("]}\n");
}

/// A number of a backend, where it is known.
type Metric = fn(&Backend) -> Option<u64>;

/// Name, type, what it tells, and the number.
const METRICS: [(&str, &str, &str, Metric); 4] = [
    ("connections", "gauge", "Connections now.", |backend| Some(backend.active? as u64)),
    ("connections_taken_total", "counter", "Connections since the rules were written.", |backend| Some(backend.taken)),
    ("state_seconds", "gauge", "How long it is up or down.", |backend| Some(backend.health.as_ref()?.since)),
    ("up", "gauge", "Whether it answers its checks.", |backend| Some(backend.health.as_ref()?.up.into())),
];

/// Text format 0.0.4.
pub fn prometheus(out: &mut String, report: &Report<'_>) {
    header(out, "in_force", "gauge", "Whether the rules are those of the config.");
    let _ = writeln!(out, "paraglider_in_force {}", u8::from(report.exit == Exit::Done));
    for (name, kind, help, metric) in METRICS {
        let name = format!("backend_{name}");
        header(out, &name, kind, help);
        for Frontend { name: frontend, bind, backends } in report.frontends {
            for backend in backends {
                // Neither a name nor an address has anything in it that would have to be escaped.
                if let Some(value) = metric(backend) {
                    let address = backend.address;
                    let _ = writeln!(
                        out,
                        "paraglider_{name}{{frontend=\"{frontend}\",bind=\"{bind}\",backend=\"{address}\"}} {value}"
                    );
                }
            }
        }
    }
}

fn header(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP paraglider_{name} {help}\n# TYPE paraglider_{name} {kind}");
}

fn number(number: Option<usize>, unknown: &str) -> String {
    number.map_or_else(|| unknown.to_owned(), |number| number.to_string())
}

/// A JSON string (RFC 8259, section 7).
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_json_whatever_is_in_them() {
        assert_eq!(quoted("a\"b\\c\nd"), "\"a\\\"b\\\\c\\u000ad\"");
    }
}
