//! A change of all engines or of none: write, read back, and undo if any step fails.

use super::{Engine, Plan, View};
use crate::error::{fail, Error};
use crate::sys::log;

/// The views of all engines, in their order.
pub type Views<'a> = Vec<Box<dyn View + 'a>>;

/// Reads what is in force. It is an error if an engine cannot be read: it may contain rules of ours.
pub fn read(engines: &[Box<dyn Engine>]) -> Result<Views<'_>, Error> {
    engines.iter().map(|engine| engine.read()).collect()
}

/// Puts `plan` in force in the first engine and removes our rules from the others; then calls `last`, which also has to
/// succeed. Returns whether rules were changed. On failure the rules are those that `views` have read, and the error says
/// "nothing was changed", or why going back failed too.
pub fn put(
    engines: &[Box<dyn Engine>],
    views: &[Box<dyn View + '_>],
    plan: &Plan<'_>,
    last: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<bool, Error> {
    let (Some((first, others)), Some((engine, other_engines))) = (views.split_first(), engines.split_first()) else {
        return fail!("there is no engine");
    };
    let mut done = first.replace(plan);
    if let Ok(true) = done {
        done = verify(engine.as_ref(), plan).map(|()| true);
    }
    // Remove old rules after the new ones are in force, so that no connection meets neither.
    for (view, engine) in others.iter().zip(other_engines).filter(|(view, _)| !view.is_empty()) {
        if done.is_ok() {
            done = match view.clear().into_iter().next() {
                Some(error) => Err(error),
                None => verify(engine.as_ref(), &Plan::Nothing).map(|()| true),
            };
        }
    }
    done.and_then(|changed| last().map(|()| changed)).map_err(|error| take_back(engines, views, error))
}

/// Replaces the rules of each engine by ones that refuse new connections and let established ones end. On failure the rules
/// are those that `views` have read.
pub fn drain(engines: &[Box<dyn Engine>], views: &[Box<dyn View + '_>]) -> Result<(), Error> {
    let mut done = Ok(());
    for (engine, view) in engines.iter().zip(views).filter(|(_, view)| !view.is_empty()) {
        let binds: Vec<_> = view.frontends().iter().map(|frontend| frontend.bind).collect();
        let plan = Plan::Drain(&binds);
        done = done.and_then(|()| view.replace(&plan)).and_then(|_| verify(engine.as_ref(), &plan));
    }
    done.map_err(|error| take_back(engines, views, error))
}

/// Removes all our rules from all engines, given what was read of each. Goes on after an error, and returns all errors.
pub fn remove(engines: &[Box<dyn Engine>], looked: &[Result<Box<dyn View + '_>, Error>]) -> Vec<Error> {
    let mut failed = Vec::new();
    for (engine, view) in engines.iter().zip(looked) {
        match view {
            Err(error) => failed.push(error.again()),
            Ok(view) => {
                let errors = view.clear();
                if errors.is_empty() && !view.is_empty() {
                    // Another program may have written at the same time.
                    failed.extend(verify(engine.as_ref(), &Plan::Nothing).err());
                }
                failed.extend(errors);
            }
        }
    }
    failed
}

/// Reads the rules again and compares them with the plan.
fn verify(engine: &dyn Engine, plan: &Plan<'_>) -> Result<(), Error> {
    let now = engine.read()?;
    if let Some((family, why)) = now.unread().iter().find(|(family, _)| plan.has(*family)) {
        return fail!("the {family} rules cannot be read back: {why}");
    }
    if !now.differs(plan) {
        return Ok(());
    }
    fail!(
        "the rules of {} are not as they were just written; another program changes them at the same time",
        engine.name()
    )
}

/// Goes back to what was read, the last engine first. Returns `error` with the outcome added.
fn take_back(engines: &[Box<dyn Engine>], views: &[Box<dyn View + '_>], error: Error) -> Error {
    let mut worse = None;
    for (engine, view) in engines.iter().zip(views).rev() {
        if let Err(why) = view.restore() {
            log::detail!("{}: {why}", engine.name());
            worse.get_or_insert(why);
        }
    }
    match worse {
        None => error.and("nothing was changed"),
        Some(why) => error.and(&format!("going back to the rules before failed too: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake::{Fake, Step};
    use crate::net::Family;
    use crate::service::Service;
    use std::rc::Rc;

    fn services(yaml: &str) -> Vec<Service> {
        crate::config::parse(yaml.as_bytes()).unwrap()
    }

    fn one() -> Vec<Service> {
        services("frontend: {bind: '10.0.0.1:80', backends: ['10.0.1.1:80']}")
    }

    fn both_families() -> Vec<Service> {
        services(
            "frontends: [{bind: '10.0.0.1:81', backends: ['10.0.1.1:80']}, {bind: '[fd00::1]:80', backends: ['[fd01::1]:80']}]",
        )
    }

    /// Two engines, of which the first has `first` in force and the second `second`; as fakes, and as engines.
    fn engines(first: &[Service], second: &[Service]) -> ([Rc<Fake>; 2], Vec<Box<dyn Engine>>) {
        let fakes = [Fake::with("first", &Plan::Serve(first)), Fake::with("second", &Plan::Serve(second))];
        let engines = fakes.iter().map(|fake| Box::new(fake.clone()) as Box<dyn Engine>).collect();
        (fakes, engines)
    }

    /// What all engines have.
    fn all(engines: &[Box<dyn Engine>]) -> Vec<Vec<String>> {
        let names = |view: Box<dyn View + '_>| view.frontends().iter().map(|one| one.name.clone()).collect();
        read(engines).unwrap().into_iter().map(names).collect()
    }

    #[test]
    fn the_plan_is_in_force_in_the_first_engine_alone_and_the_same_again_writes_nothing() {
        let (fakes, engines) = engines(&one(), &one());
        let wanted = both_families();
        let plan = Plan::Serve(&wanted);
        assert!(put(&engines, &read(&engines).unwrap(), &plan, &mut || Ok(())).unwrap());
        assert_eq!(all(&engines), [vec!["10.0.0.1:81".to_owned(), "[fd00::1]:80".to_owned()], vec![]]);
        let writes = fakes[0].writes();
        assert!(writes > 0);
        assert!(!put(&engines, &read(&engines).unwrap(), &plan, &mut || Ok(())).unwrap());
        assert_eq!(fakes[0].writes(), writes);
    }

    #[test]
    fn whatever_fails_all_is_as_it_was() {
        let mut failed = 0;
        for step in Step::ALL {
            for (engine, after) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)] {
                let (fakes, engines) = engines(&one(), &one());
                let before = all(&engines);
                let views = read(&engines).unwrap();
                fakes[engine].fail(step, after);
                let wanted = both_families();
                let done = put(&engines, &views, &Plan::Serve(&wanted), &mut || Ok(()));
                fakes[engine].heal();
                let Err(error) = done else { continue };
                failed += 1;
                let said = error.to_string();
                assert!(said.ends_with("nothing was changed"), "{step:?} of {engine} after {after}: {said}");
                assert_eq!(all(&engines), before, "{step:?} of {engine} after {after}");
            }
        }
        assert!(failed >= 8, "{failed} faults came to anything");
    }

    #[test]
    fn a_write_that_only_says_so_is_found_out() {
        let (fakes, engines) = engines(&one(), &[]);
        let (before, views) = (all(&engines), read(&engines).unwrap());
        fakes[0].fail(Step::WriteNothing, 0);
        let error = put(&engines, &views, &Plan::Serve(&both_families()), &mut || Ok(())).unwrap_err().to_string();
        assert!(error.contains("the rules of first are not as they were just written"), "{error}");
        assert_eq!(all(&engines), before);
    }

    #[test]
    fn what_comes_last_is_part_of_it() {
        let (_, engines) = engines(&one(), &one());
        let (before, views) = (all(&engines), read(&engines).unwrap());
        let last = &mut || fail!("no forwarding");
        let error = put(&engines, &views, &Plan::Serve(&both_families()), last).unwrap_err().to_string();
        assert_eq!(error, "no forwarding; nothing was changed");
        assert_eq!(all(&engines), before);
    }

    #[test]
    fn a_way_back_that_fails_too_is_told() {
        let (fakes, engines) = engines(&one(), &[]);
        let views = read(&engines).unwrap();
        fakes[0].fail(Step::Write(Family::V6), 0);
        fakes[0].fail(Step::Restore, 0);
        let error = put(&engines, &views, &Plan::Serve(&both_families()), &mut || Ok(())).unwrap_err().to_string();
        assert!(error.contains("; going back to the rules before failed too: "), "{error}");
    }

    #[test]
    fn removal_goes_on_after_errors_and_tells_all() {
        let (fakes, engines) = engines(&both_families(), &both_families());
        fakes[0].fail(Step::Clear(Family::V4), 0);
        fakes[1].fail(Step::Clear(Family::V6), 0);
        let looked: Vec<_> = engines.iter().map(|engine| engine.read()).collect();
        let failed = remove(&engines, &looked);
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert_eq!(all(&engines), [["10.0.0.1:81"], ["[fd00::1]:80"]]);
        // An engine that cannot be read at all does not hinder the other.
        fakes[0].fail(Step::Read, 0);
        let looked: Vec<_> = engines.iter().map(|engine| engine.read()).collect();
        assert_eq!(remove(&engines, &looked).len(), 1);
        assert_eq!(all(&engines), [vec!["10.0.0.1:81".to_owned()], vec![]]);
    }

    #[test]
    fn a_removal_that_only_says_so_is_found_out() {
        let (fakes, engines) = engines(&one(), &[]);
        fakes[0].fail(Step::WriteNothing, 0);
        let looked: Vec<_> = engines.iter().map(|engine| engine.read()).collect();
        assert_eq!(remove(&engines, &looked).len(), 1);
    }

    #[test]
    fn a_drain_that_fails_half_way_is_undone() {
        for step in [Step::Write(Family::V6), Step::WriteNothing] {
            let (fakes, engines) = engines(&both_families(), &both_families());
            let views = read(&engines).unwrap();
            let draining = |engines: &[Box<dyn Engine>]| {
                read(engines).unwrap().iter().flat_map(|view| view.frontends()).filter(|one| one.draining).count()
            };
            fakes[1].fail(step, 0);
            let error = drain(&engines, &views).unwrap_err().to_string();
            assert!(error.ends_with("nothing was changed") && draining(&engines) == 0, "{step:?}: {error}");
            drain(&engines, &read(&engines).unwrap()).unwrap();
            assert_eq!(draining(&engines), 4);
        }
    }
}
