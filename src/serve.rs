//! Services in force on this host: their rules, and the forwarding that they need.

use crate::engine::iptables::change::Change;
use crate::engine::iptables::ruleset::Ruleset;
use crate::engine::{Engine, InForce};
use crate::error::{fail, Error};
use crate::host::conntrack;
use crate::host::forwarding::{self, Forwarding};
use crate::host::ssh;
use crate::net::Family;
use crate::service::Service;
use crate::sys::log;

/// Puts `services` in force by means of `engine`; tells whether rules had to change.
pub fn put_in_force(engine: &dyn Engine, services: &[Service]) -> Result<bool, Error> {
    let before = engine.read()?;
    for (family, why) in &before.unread {
        let needed = services.iter().any(|service| service.bind.family() == *family);
        let said = format!("cannot read the {family} rules in force: {why}");
        if needed {
            return fail!("{said}");
        }
        log::warning!("{said}");
    }
    let wanted = Ruleset::following(services, &before.ours, engine.restarts_all_counters());
    let unchanged = Family::ALL.iter().all(|family| Change::of_family(&before.ours, &wanted, *family).is_none());
    let unchanged = unchanged && before.left_over.is_empty();
    if !unchanged {
        keep_ssh(&before, services)?;
    }
    // Rules first, forwarding last: a failure of the rules leaves nothing else to undo. (Going back from 1 to 0 would
    // not be going back: the kernel resets other settings of the interfaces at each change.)
    let mut switches = Vec::new();
    for family in Family::ALL {
        if services.iter().any(|service| service.bind.family() == family) && !forwarding::forwards(family) {
            switches.push(Forwarding::prepare(family)?);
        }
    }
    if !unchanged {
        engine.apply(&before, &wanted, &Ruleset::default())?;
    }
    for switch in switches {
        if let Err(error) = switch.switch_on() {
            let now = engine.read()?;
            engine.apply(&now, &before.ours, &before.left_over)?;
            return Err(error.and("the rules are as they were before"));
        }
    }
    if unchanged {
        return Ok(false);
    }
    if !before.left_over.is_empty() {
        log::info!("removed the rules that were left in the other variant of iptables");
    }
    say_who_is_left_alone(&before, services);
    Ok(true)
}

/// Says what was put in force.
pub fn say_who_is_balanced(engine: &dyn Engine, services: &[Service]) {
    for Service { bind, backends, .. } in services {
        let chosen = backends.iter().filter(|backend| backend.weight > 0).count();
        let backends = log::count(chosen, "backend");
        log::info!("{bind} is balanced over {backends} by {}", engine.name());
    }
}

/// Connections of a frontend that is no longer there have lost the rule that let them through.
fn say_who_is_left_alone(before: &InForce, services: &[Service]) {
    let mut gone = before.ours.binds();
    gone.retain(|bind| services.iter().all(|service| service.bind != *bind));
    let alive = conntrack::connections(&gone).map_or(0, |connections| connections.len());
    if alive > 0 {
        let connections = log::count(alive, "established connection");
        log::warning!("{connections} of frontends that were removed will live only if other rules let them through");
    }
}

/// Refuses to take the very address and port by which the administrator is logged in.
fn keep_ssh(before: &InForce, services: &[Service]) -> Result<(), Error> {
    let taken = before.ours.binds();
    match ssh::session() {
        Some(bind) if !taken.contains(&bind) && services.iter().any(|service| service.bind == bind) => fail!(
            "bind {bind} is where your SSH session comes in, and you would not get in again; \
             choose another port, or start it from the console or at boot"
        ),
        _ => Ok(()),
    }
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

        fn apply(&self, _: &InForce, wanted: &Ruleset, _: &Ruleset) -> Result<(), Error> {
            if self.refuses {
                return Err(Error::system(format_args!("refused")));
            }
            *self.writes.borrow_mut() += 1;
            *self.rules.borrow_mut() = wanted.clone();
            Ok(())
        }

        fn restarts_all_counters(&self) -> bool {
            false
        }

        fn fingerprint(&self, _: Family) -> Option<u64> {
            None
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
            Ruleset::of(&crate::config::parse(b"frontend: {bind: '10.0.0.1:80', backends: ['10.0.1.1:80']}").unwrap());
        engine.refuses = true;
        assert_eq!(put_in_force(&engine, &[]).unwrap_err().to_string(), "refused");
        engine.refuses = false;
        put_in_force(&engine, &[]).unwrap();
        assert!(engine.rules.borrow().is_empty());
    }
}
