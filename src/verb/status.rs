//! `status`: what is in force, read from the kernel and held against the config.

use std::fmt::Write;

use crate::config;
use crate::conntrack::{self, Connection};
use crate::engine::iptables::Iptables;
use crate::engine::{Engine, InForce};
use crate::error::{Error, Exit};
use crate::host;
use crate::ruleset::{dispatched, Change, Ruleset, Table, DISPATCH};
use crate::service::{Endpoint, Family, Service};

/// A frontend in force.
struct Frontend {
    name: String,
    bind: Endpoint,
    backends: Vec<Backend>,
}

struct Backend {
    address: Endpoint,
    /// Connections since the rules were last written.
    taken: u64,
    /// Connections now; unknown where the kernel does not list them.
    active: Option<usize>,
}

/// Tells what is in force.
pub fn run(path: &str, json: bool, out: &mut String) -> Result<Exit, Error> {
    let engine = Iptables::find()?;
    let found = engine.read()?;
    let mut frontends = frontends(&found.ours);
    let binds: Vec<Endpoint> = frontends.iter().map(|frontend| frontend.bind).collect();
    count(&mut frontends, conntrack::connections(&binds).as_deref());

    let services = config::load(path);
    let (exit, why) = match services {
        _ if found.is_empty() && !found.unread.is_empty() => {
            let mut all = String::new();
            for (family, why) in &found.unread {
                let semicolon = if all.is_empty() { "" } else { "; " };
                let _ = write!(all, "{semicolon}cannot read the {family} rules: {why}");
            }
            (Exit::Failed, Some(all))
        }
        Err(error) if found.is_empty() => (Exit::NotInForce, Some(error.to_string())),
        Err(error) => (Exit::Failed, Some(format!("the config cannot be compared: {error}"))),
        Ok(_) if found.is_empty() => (Exit::NotInForce, None),
        Ok(services) => drift(path, &services, &found),
    };
    let state = match exit {
        Exit::Done => "in force",
        Exit::NotInForce => "not in force",
        _ => "drifted",
    };
    if json {
        write_json(out, state, why.as_deref(), engine.name(), &frontends);
    } else {
        write_text(out, state, why.as_deref(), engine.name(), &frontends);
    }
    Ok(exit)
}

/// Whether the rules in force are those of the config, and if not, what is the matter.
fn drift(path: &str, services: &[Service], found: &InForce) -> (Exit, Option<String>) {
    let wanted = Ruleset::following(services, &found.ours, false);
    let differs = |family: &&Family| Change::of_family(&found.ours, &wanted, **family).is_some();
    let shut = |family: &&Family| !host::forwards(**family) && !wanted.part(**family, Table::Nat).is_empty();
    let balances = Family::ALL.iter().any(|family| !found.ours.part(*family, Table::Nat).is_empty());
    let why = if let Some((family, why)) = found.unread.first() {
        format!("cannot read the {family} rules: {why}")
    } else if !found.left_over.is_empty() {
        "rules are left in the other variant of iptables, where they win; `paraglider start` removes them".into()
    } else if !balances {
        "`stop --drain` lets connections end, or was broken off; `paraglider start` or `stop` puts it right".into()
    } else if Family::ALL.iter().any(|family| differs(&family)) {
        format!("the rules are not those of {}; `paraglider start` puts them right", path)
    } else if let Some(family) = Family::ALL.iter().find(shut) {
        format!("{family} forwarding is off, so nothing gets through; `paraglider start` switches it on")
    } else {
        return (Exit::Done, None);
    };
    (Exit::Failed, Some(why))
}

/// The frontends as their rules tell them, and the living connections of each.
fn frontends(rules: &Ruleset) -> Vec<Frontend> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let nat = rules.part(family, Table::Nat);
        for (bind, name) in nat.rules(DISPATCH).unwrap_or_default().iter().filter_map(dispatched) {
            let mut backends = Vec::new();
            for (address, taken) in nat.taken(name) {
                backends.push(Backend { address, taken, active: None });
            }
            all.push(Frontend { name: name.to_owned(), bind, backends });
        }
    }
    all
}

fn count(frontends: &mut [Frontend], connections: Option<&[Connection]>) {
    let Some(connections) = connections else { return };
    for Frontend { bind, backends, .. } in frontends {
        for backend in &mut *backends {
            backend.active = Some(0);
        }
        for Connection { backend: address, .. } in connections.iter().filter(|one| one.bind == *bind) {
            let place = backends.binary_search_by(|backend| backend.address.cmp(address));
            // One that takes no more new ones: its weight is 0, or it is no longer in the config.
            let unknown = Backend { address: *address, taken: 0, active: Some(0) };
            let at = place.unwrap_or_else(|at| {
                backends.insert(at, unknown);
                at
            });
            if let Some(Backend { active: Some(active), .. }) = backends.get_mut(at) {
                *active += 1;
            }
        }
    }
}

fn write_text(out: &mut String, state: &str, why: Option<&str>, engine: &str, frontends: &[Frontend]) {
    let (colon, why) = why.map_or(("", ""), |why| (": ", why));
    let _ = writeln!(out, "{state} ({engine}){colon}{why}");
    let mut width = 0;
    for Backend { address, .. } in frontends.iter().flat_map(|frontend| &frontend.backends) {
        width = width.max(address.to_string().len());
    }
    for Frontend { name, bind, backends } in frontends {
        let bind = bind.to_string();
        out.push_str(&bind);
        if bind != *name {
            let _ = write!(out, " ({name})");
        }
        out.push('\n');
        for Backend { address, taken, active } in backends {
            let (address, active) = (address.to_string(), number(*active, "?"));
            let _ = writeln!(out, "  {address:width$}  {taken:>8} taken  {active:>6} active");
        }
    }
}

fn write_json(out: &mut String, state: &str, why: Option<&str>, engine: &str, frontends: &[Frontend]) {
    let reason = why.map_or_else(|| "null".to_owned(), quoted);
    let _ = write!(out, "{{\"state\":\"{state}\",\"reason\":{reason},\"engine\":\"{engine}\",\"frontends\":[");
    let mut comma = "";
    for Frontend { name, bind, backends } in frontends {
        let _ = write!(out, "{comma}{{\"name\":{},\"bind\":\"{bind}\",\"backends\":[", quoted(name));
        comma = "";
        for Backend { address, taken, active } in backends {
            let active = number(*active, "null");
            let _ = write!(out, "{comma}{{\"address\":\"{address}\",\"taken\":{taken},\"active\":{active}}}");
            comma = ",";
        }
        out.push_str("]}");
        comma = ",";
    }
    out.push_str("]}\n");
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
    use crate::ruleset::Rule;

    #[test]
    fn a_backend_in_several_chains_is_one_backend() {
        let rule = |text: &str, packets| Rule { text: text.to_owned(), packets };
        let mut rules = Ruleset::default();
        let nat = rules.part_mut(Family::V4, Table::Nat);
        nat.push(DISPATCH, rule("-d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j PG-web/0", 9));
        nat.push("PG-web/0", rule("-p tcp -j DNAT --to-destination 10.0.1.1:80", 4));
        nat.push("PG-web/1", rule("-p tcp -j DNAT --to-destination 10.0.1.1:80", 5));
        let found = frontends(&rules);
        assert_eq!((found[0].name.as_str(), found[0].backends.len(), found[0].backends[0].taken), ("web", 1, 9));
    }

    #[test]
    fn strings_are_json_whatever_is_in_them() {
        assert_eq!(quoted("a\"b\\c\nd"), "\"a\\\"b\\\\c\\u000ad\"");
    }
}
