//! For people.

use std::fmt::Write;

use crate::text::Escaped;
use crate::verb::status::report::{number, state, BackendStatus, FrontendStatus, HealthStatus, Report};

/// One line of the state, then one for each frontend and backend.
pub fn write(out: &mut String, report: &Report<'_>) {
    let (colon, why) = report.why.map_or(("", ""), |why| (": ", why));
    let _ = writeln!(out, "{} ({}, {}){colon}{why}", state(report), report.engine, report.chosen);
    let mut width = 0;
    for BackendStatus { address, .. } in report.frontends.iter().flat_map(|frontend| &frontend.backends) {
        width = width.max(address.to_string().len());
    }
    for FrontendStatus { name, bind, follows, absent, backends } in report.frontends {
        let bind = bind.to_string();
        out.push_str(&bind);
        let _ = match follows {
            Some(interface) => write!(out, " ({}, follows {interface})", Escaped(name)),
            None if bind != *name => write!(out, " ({})", Escaped(name)),
            None => Ok(()),
        };
        if let [first, others @ ..] = absent.as_slice() {
            let _ = match others.len() {
                0 => write!(out, ": {first} is not an address of this host"),
                more => write!(out, ": {first} and {more} more are not addresses of this host"),
            };
        }
        out.push('\n');
        for BackendStatus { address, taken, active, health } in backends {
            let (address, active) = (address.to_string(), number(*active, "?"));
            let _ = write!(out, "  {address:width$}  {taken:>8} taken  {active:>6} active");
            match health {
                Some(HealthStatus { up: true, since, .. }) => {
                    let _ = write!(out, "  up for {since} s");
                }
                Some(HealthStatus { since, error, .. }) => {
                    let _ = write!(out, "  down for {since} s: {}", Escaped(error));
                }
                None => {}
            }
            out.push('\n');
        }
    }
    for one in report.waiting {
        let _ = writeln!(out, "{one}");
    }
}
