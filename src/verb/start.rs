//! `start`, `reload`, `restart`: the config's rules in force, in one transaction a table, or all as it was.

use std::path::Path;

use crate::config;
use crate::engine::iptables::Iptables;
use crate::engine::{Engine, InForce};
use crate::error::{Error, Exit};
use crate::host::{self, Lock};
use crate::ruleset::{dispatched, Change, Ruleset, Table, DISPATCH};
use crate::say;
use crate::service::{Endpoint, Family, Service};

/// Reads the config and puts it in force.
pub fn run(path: &Path) -> Result<Exit, Error> {
    let services = config::load(path)?;
    let engine = Iptables::find()?;
    let _lock = Lock::take()?;
    put_in_force(&engine, &services)?;
    Ok(Exit::Done)
}

/// Puts `services` in force by means of `engine`.
fn put_in_force(engine: &dyn Engine, services: &[Service]) -> Result<(), Error> {
    let before = engine.read()?;
    let wanted = Ruleset::following(services, &before.ours);
    let unchanged = Family::ALL.iter().all(|family| Change::of_family(&before.ours, &wanted, *family).is_none());
    let unchanged = unchanged && before.left_over.is_empty();
    if !unchanged {
        keep_ssh(&before, services)?;
    }
    let switched = forward(services)?;
    if unchanged {
        say::info!("already in force");
        return Ok(());
    }
    if let Err(error) = engine.apply(&before, &wanted) {
        for family in switched {
            host::set_forwarding(family, false)?;
        }
        return Err(error);
    }
    if !before.left_over.is_empty() {
        say::info!("removed the rules that were left in the other variant of iptables");
    }
    for Service { bind, backends, .. } in services {
        say::info!("{bind} is balanced over {} by {}", say::count(backends.len(), "backend"), engine.name());
    }
    Ok(())
}

/// Switches forwarding on where it is needed and off; tells where.
fn forward(services: &[Service]) -> Result<Vec<Family>, Error> {
    let mut switched = Vec::new();
    for family in Family::ALL {
        let needed = services.iter().any(|service| service.bind.family() == family);
        if needed && !host::forwards(family) {
            host::set_forwarding(family, true)?;
            say::info!("{family} forwarding was off; switched it on ({}=1)", host::forwarding_name(family));
            switched.push(family);
        }
    }
    Ok(switched)
}

/// Refuses to take the very address and port by which the administrator is logged in.
fn keep_ssh(before: &InForce, services: &[Service]) -> Result<(), Error> {
    let taken: Vec<Endpoint> = binds(&before.ours).collect();
    let new = services.iter().map(|service| service.bind).filter(|bind| !taken.contains(bind));
    match host::own_ssh(new) {
        Some(bind) => Err(Error::system(format!(
            "bind {bind} is where your SSH session comes in, and you would not get in again; \
             choose another port, or start it from the console or at boot"
        ))),
        None => Ok(()),
    }
}

/// The binds that are in force.
pub fn binds(rules: &Ruleset) -> impl Iterator<Item = Endpoint> + '_ {
    let dispatch = |family| rules.part(family, Table::Nat).chains.get(DISPATCH);
    Family::ALL.into_iter().filter_map(dispatch).flatten().filter_map(|rule| Some(dispatched(rule)?.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// A kernel in memory; it refuses to change when told so.
    #[derive(Default)]
    struct Fake {
        rules: RefCell<Ruleset>,
        writes: RefCell<usize>,
        refuses: bool,
    }

    impl Engine for Fake {
        fn read(&self) -> Result<InForce, Error> {
            Ok(InForce { ours: self.rules.borrow().clone(), ..InForce::default() })
        }

        fn apply(&self, _: &InForce, wanted: &Ruleset) -> Result<(), Error> {
            if self.refuses {
                return Err(Error::system("refused"));
            }
            *self.writes.borrow_mut() += 1;
            *self.rules.borrow_mut() = wanted.clone();
            Ok(())
        }

        fn name(&self) -> &'static str {
            "fake"
        }
    }

    // 127.0.0.1 needs no forwarding in the tests' own network: a config without services switches nothing on.
    #[test]
    fn the_same_again_writes_nothing() {
        let engine = Fake::default();
        put_in_force(&engine, &[]).unwrap();
        assert_eq!(*engine.writes.borrow(), 0);
    }

    #[test]
    fn what_is_left_over_goes_even_if_nothing_else_changes() {
        let mut engine = Fake::default();
        *engine.rules.borrow_mut() =
            Ruleset::of(&config::parse(b"frontend: {bind: '10.0.0.1:80', backends: ['10.0.1.1:80']}").unwrap());
        engine.refuses = true;
        assert_eq!(put_in_force(&engine, &[]).unwrap_err().to_string(), "refused");
        engine.refuses = false;
        put_in_force(&engine, &[]).unwrap();
        assert!(engine.rules.borrow().is_empty());
    }
}
