//! JSON. Fields are added, never renamed or removed.

use std::fmt::Write;

use crate::serve::Waiting;
use crate::verb::status::report::{number, state, BackendStatus, FrontendStatus, HealthStatus, Report};

/// One object on one line.
pub fn write(out: &mut String, report: &Report<'_>) {
    let reason = report.why.map_or_else(|| "null".to_owned(), quoted);
    let (state, engine) = (state(report), report.engine);
    let _ = write!(out, "{{\"state\":\"{state}\",\"reason\":{reason},\"engine\":\"{engine}\",\"frontends\":[");
    let mut comma = "";
    for FrontendStatus { name, bind, follows, absent, backends } in report.frontends {
        let (name, follows) = (quoted(name), follows.as_deref().map_or_else(|| "null".to_owned(), quoted));
        let _ = write!(out, "{comma}{{\"name\":{name},\"bind\":\"{bind}\",\"follows\":{follows},\"absent\":[");
        comma = "";
        for ip in absent {
            let _ = write!(out, "{comma}\"{ip}\"");
            comma = ",";
        }
        out.push_str("],\"backends\":[");
        comma = "";
        for BackendStatus { address, taken, active, health } in backends {
            let active = number(*active, "null");
            let _ = write!(out, "{comma}{{\"address\":\"{address}\",\"taken\":{taken},\"active\":{active}");
            match health {
                Some(HealthStatus { up, since, error }) => {
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
    out.push_str("],\"waiting\":[");
    comma = "";
    for Waiting { service, why } in report.waiting {
        let (name, bind, why) = (quoted(service.name.as_str()), service.written(), quoted(why));
        let _ = write!(out, "{comma}{{\"name\":{name},\"bind\":\"{bind}\",\"reason\":{why}}}");
        comma = ",";
    }
    out.push_str("]}\n");
}

/// A JSON string (RFC 8259, section 7).
pub(super) fn quoted(text: &str) -> String {
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
