//! `status`: what is in force, read from the kernel and held against the config.

use std::fmt::Write;
use std::path::Path;

use crate::config;
use crate::conntrack::{self, Connection};
use crate::engine::iptables::Iptables;
use crate::engine::{Engine, InForce};
use crate::error::{Error, Exit};
use crate::host;
use crate::ruleset::{dispatched, Change, Part, Ruleset, Table, DISPATCH};
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
pub fn run(path: &Path, json: bool, out: &mut String) -> Result<Exit, Error> {
    let engine = Iptables::find()?;
    let found = engine.read()?;
    let mut frontends: Vec<Frontend> =
        Family::ALL.iter().flat_map(|family| frontends(found.ours.part(*family, Table::Nat))).collect();
    let binds: Vec<Endpoint> = frontends.iter().map(|frontend| frontend.bind).collect();
    count(&mut frontends, conntrack::connections(&binds).as_deref());

    let services = config::load(path);
    let (exit, why) = match services {
        _ if found.is_empty() && !found.unread.is_empty() => {
            let why = found.unread.iter().map(|(family, why)| format!("cannot read the {family} rules: {why}"));
            (Exit::Failed, Some(why.collect::<Vec<_>>().join("; ")))
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
fn drift(path: &Path, services: &[Service], found: &InForce) -> (Exit, Option<String>) {
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
        format!("the rules are not those of {}; `paraglider start` puts them right", path.display())
    } else if let Some(family) = Family::ALL.iter().find(shut) {
        format!("{family} forwarding is off, so nothing gets through; `paraglider start` switches it on")
    } else {
        return (Exit::Done, None);
    };
    (Exit::Failed, Some(why))
}

/// The frontends of one family as their rules tell them.
fn frontends(nat: &Part) -> Vec<Frontend> {
    let rules = nat.chains.get(DISPATCH).into_iter().flatten();
    let frontend = |(bind, name): (Endpoint, &str)| {
        let backend = |(address, taken)| Backend { address, taken, active: None };
        Frontend { name: name.to_owned(), bind, backends: nat.taken(name).into_iter().map(backend).collect() }
    };
    rules.filter_map(dispatched).map(frontend).collect()
}

fn count(frontends: &mut [Frontend], connections: Option<&[Connection]>) {
    let Some(connections) = connections else { return };
    for frontend in frontends {
        for backend in &mut frontend.backends {
            backend.active = Some(0);
        }
        for Connection { backend: address, .. } in connections.iter().filter(|one| one.bind == frontend.bind) {
            match frontend.backends.iter_mut().find(|backend| backend.address == *address) {
                Some(backend) => backend.active = backend.active.map(|n| n + 1),
                // It takes no more new ones: its weight is 0, or it is no longer in the config.
                None => frontend.backends.push(Backend { address: *address, taken: 0, active: Some(1) }),
            }
        }
        frontend.backends.sort_by_key(|backend| backend.address);
    }
}

fn write_text(out: &mut String, state: &str, why: Option<&str>, engine: &str, frontends: &[Frontend]) {
    let _ = match why {
        Some(why) => writeln!(out, "{state} ({engine}): {why}"),
        None => writeln!(out, "{state} ({engine})"),
    };
    let addresses =
        frontends.iter().flat_map(|frontend| &frontend.backends).map(|backend| backend.address.to_string().len());
    let width = addresses.max().unwrap_or(0);
    for frontend in frontends {
        let named =
            if frontend.name == frontend.bind.to_string() { String::new() } else { format!(" ({})", frontend.name) };
        let _ = writeln!(out, "{}{named}", frontend.bind);
        for Backend { address, taken, active } in &frontend.backends {
            let active = active.map_or_else(|| "?".to_owned(), |n| n.to_string());
            let _ = writeln!(out, "  {:width$}  {taken:>8} taken  {active:>6} active", address.to_string());
        }
    }
}

fn write_json(out: &mut String, state: &str, why: Option<&str>, engine: &str, frontends: &[Frontend]) {
    let list = |items: Vec<String>| format!("[{}]", items.join(","));
    let backend = |Backend { address, taken, active }: &Backend| {
        let active = active.map_or_else(|| "null".to_owned(), |n| n.to_string());
        format!("{{\"address\":\"{address}\",\"taken\":{taken},\"active\":{active}}}")
    };
    let frontend = |Frontend { name, bind, backends }: &Frontend| {
        let backends = list(backends.iter().map(backend).collect());
        format!("{{\"name\":{},\"bind\":\"{bind}\",\"backends\":{backends}}}", quoted(name))
    };
    let frontends = list(frontends.iter().map(frontend).collect());
    let reason = why.map_or_else(|| "null".to_owned(), quoted);
    let _ = writeln!(
        out,
        "{{\"state\":\"{state}\",\"reason\":{reason},\"engine\":\"{engine}\",\"frontends\":{frontends}}}"
    );
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
        let mut nat = Part::default();
        nat.chains.insert(DISPATCH.into(), vec![rule("-d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j PG-web/0", 9)]);
        nat.chains.insert("PG-web/0".into(), vec![rule("-p tcp -j DNAT --to-destination 10.0.1.1:80", 4)]);
        nat.chains.insert("PG-web/1".into(), vec![rule("-p tcp -j DNAT --to-destination 10.0.1.1:80", 5)]);
        let found = frontends(&nat);
        assert_eq!((found[0].name.as_str(), found[0].backends.len(), found[0].backends[0].taken), ("web", 1, 9));
    }

    #[test]
    fn strings_are_json_whatever_is_in_them() {
        assert_eq!(quoted("a\"b\\c\nd"), "\"a\\\"b\\\\c\\u000ad\"");
    }
}
