//! A change of all engines or of none: write, read back, and undo if any step fails.

use super::{Engine, InForce, Plan, View};
use crate::error::{fail, Error};
use crate::sys::log;
use crate::sys::poll::clock;

/// The views of all engines, in their order.
pub type Views<'a> = Vec<Box<dyn View + 'a>>;

/// Reads what is in force. It is an error if an engine cannot be read: it may contain rules of ours.
pub fn read(engines: &[Box<dyn Engine>]) -> Result<Views<'_>, Error> {
    engines.iter().map(|engine| look(engine.as_ref())).collect()
}

/// Reads the rules of one engine; again, if they could not be read while another program changed them: a flush of nf_tables
/// takes whole tables away. (Those of the old variant stay, and its stamp is not asked for without need: that can create
/// a table.)
pub fn look(engine: &dyn Engine) -> Result<Box<dyn View + '_>, Error> {
    let tables_vanish = !engine.any_change_restarts_turns();
    let until = clock() + PATIENCE;
    for _ in 1..TRIES {
        let stamp = if tables_vanish { engine.stamp() } else { None };
        let view = engine.read()?;
        if view.unread().is_empty() || stamp.is_none() || stamp == engine.stamp() || clock() >= until {
            return Ok(view);
        }
    }
    engine.read()
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
    if !matches!(done, Ok(false)) {
        done = settle(engine.as_ref(), first.as_ref(), plan, done.err()).map(|()| true);
    }
    // Remove old rules after the new ones are in force, so that no connection meets neither.
    for (view, engine) in others.iter().zip(other_engines).filter(|(view, _)| !view.is_empty()) {
        if done.is_ok() {
            done = match clear(engine.as_ref(), view.as_ref()).into_iter().next() {
                Some(error) => Err(error),
                None => Ok(true),
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
        let binds: Vec<_> = view.frontends().iter().map(InForce::whole).collect();
        let plan = Plan::Drain(&binds);
        done = done.and_then(|()| settle(engine.as_ref(), view.as_ref(), &plan, view.replace(&plan).err()));
    }
    done.map_err(|error| take_back(engines, views, error))
}

/// Removes all our rules from all engines, given what was read of each. Goes on after an error, and returns all errors.
pub fn remove(engines: &[Box<dyn Engine>], looked: &[Result<Box<dyn View + '_>, Error>]) -> Vec<Error> {
    let mut failed = Vec::new();
    for (engine, view) in engines.iter().zip(looked) {
        match view {
            Err(error) => failed.push(error.again()),
            Ok(view) => failed.extend(clear(engine.as_ref(), view.as_ref())),
        }
    }
    failed
}

/// How often, and for how many milliseconds, rules are written again that another program changes at the same time.
const TRIES: usize = 20;
const PATIENCE: u64 = 3000;

/// Whether another program changed rules since a moment. Only then is writing once more of use, and no harm: what was not
/// written by our own program would not be the next time either.
struct Others<'a> {
    engine: &'a dyn Engine,
    stamp: Option<u64>,
    tries: usize,
    until: u64,
}

impl<'a> Others<'a> {
    /// From now on: right after our first write.
    fn watch(engine: &'a dyn Engine) -> Self {
        Others { engine, stamp: engine.stamp(), tries: 0, until: clock() + PATIENCE }
    }

    /// Whether the rules that were just found wrong are worth another try; `raced` tells what is known from elsewhere.
    fn interfered(&mut self, raced: bool) -> bool {
        self.tries += 1;
        // Where the kernel has no stamp, once more is worth it.
        let stamp = self.engine.stamp();
        let same = stamp == self.stamp && (stamp.is_some() || self.tries > 1);
        (raced || !same) && self.tries <= TRIES && clock() < self.until
    }

    /// From now on again: after another write.
    fn written(&mut self) {
        self.stamp = self.engine.stamp();
    }
}

/// After a write that was `refused`, or not: reads the rules again and compares them with the plan. If another program has
/// changed them since `view` was read, as one that flushes all rules, they are written again.
fn settle(
    engine: &dyn Engine,
    view: &(dyn View + '_),
    plan: &Plan<'_>,
    mut refused: Option<Error>,
) -> Result<(), Error> {
    let mut others = Others::watch(engine);
    loop {
        let now = match look(engine) {
            Ok(now) => now,
            Err(error) => return Err(refused.unwrap_or(error)),
        };
        if let Some((family, why)) = now.unread().iter().find(|(family, _)| plan.has(*family)) {
            return match refused {
                Some(error) => Err(error),
                None => fail!("the {family} rules cannot be read back: {why}"),
            };
        }
        if !now.differs(plan) {
            return Ok(());
        }
        // It may come from a write to rules that were no longer those which were read.
        let raced = others.tries == 0 && is_raced(now.as_ref(), view, refused.is_some());
        if !others.interfered(raced) {
            return match refused {
                Some(error) => Err(error),
                None => fail!(
                    "the rules of {} are not as they were just written; another program changes them at the same time",
                    engine.name()
                ),
            };
        }
        log::detail!("another program has just changed the rules of {}; writing them again", engine.name());
        refused = now.replace(plan).err();
        others.written();
    }
}

/// Removes what `view` has of ours; again if another program changes rules meanwhile. Returns all that failed.
fn clear(engine: &dyn Engine, view: &(dyn View + '_)) -> Vec<Error> {
    let mut failed = view.clear();
    if view.is_empty() {
        return failed;
    }
    let mut others = Others::watch(engine);
    loop {
        let now = match look(engine) {
            Ok(now) => now,
            Err(error) => {
                failed.push(error);
                return failed;
            }
        };
        if !now.differs(&Plan::Nothing) && now.unread().is_empty() {
            // What could not be removed has been removed by others.
            return Vec::new();
        }
        let raced = others.tries == 0 && is_raced(now.as_ref(), view, !failed.is_empty());
        if !others.interfered(raced) {
            if failed.is_empty() && now.differs(&Plan::Nothing) {
                failed.push(Error::system(format_args!(
                    "rules of Paraglider are in {} again; another program changes them at the same time",
                    engine.name()
                )));
            }
            return failed;
        }
        failed = now.clear();
        others.written();
    }
}

/// Whether rules are found, after a write, that other programs must have changed. A part of our own write that was
/// `refused` only adds frontends.
fn is_raced(now: &(dyn View + '_), then: &(dyn View + '_), refused: bool) -> bool {
    let lost = then.frontends().iter().any(|then| !now.frontends().iter().any(|now| now.bind == then.bind));
    lost || !refused && now.frontends().len() != then.frontends().len()
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
        crate::config::parse(yaml.as_bytes()).unwrap().services
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
                // What was refused may be tried again, once.
                fakes[engine].fail(step, after);
                fakes[engine].fail(step, 0);
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
        fakes[0].fail(Step::Write(Family::V6), 0);
        fakes[0].fail(Step::Restore, 0);
        let error = put(&engines, &views, &Plan::Serve(&both_families()), &mut || Ok(())).unwrap_err().to_string();
        assert!(error.contains("; going back to the rules before failed too: "), "{error}");
    }

    #[test]
    fn removal_goes_on_after_errors_and_tells_all() {
        let (fakes, engines) = engines(&both_families(), &both_families());
        for _ in 0..2 {
            fakes[0].fail(Step::Clear(Family::V4), 0);
            fakes[1].fail(Step::Clear(Family::V6), 0);
        }
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

    #[test]
    fn rules_that_others_flush_at_the_same_time_are_written_again() {
        let (fakes, engines) = engines(&one(), &one());
        let wanted = both_families();
        let views = read(&engines).unwrap();
        for after in 0..3 {
            fakes[0].fail(Step::Flushed, after);
            fakes[1].fail(Step::Flushed, after);
        }
        assert!(put(&engines, &views, &Plan::Serve(&wanted), &mut || Ok(())).unwrap());
        fakes.iter().for_each(|fake| fake.heal());
        assert_eq!(all(&engines), [vec!["10.0.0.1:81".to_owned(), "[fd00::1]:80".to_owned()], vec![]]);
        // Removal is what they want too.
        let looked: Vec<_> = engines.iter().map(|engine| engine.read()).collect();
        fakes[0].fail(Step::Clear(Family::V4), 0);
        fakes[0].fail(Step::Flushed, 0);
        assert_eq!(remove(&engines, &looked).len(), 0);
        assert_eq!(all(&engines), [[""; 0]; 2]);
        // There is an end to it.
        for _ in 0..100 {
            fakes[0].fail(Step::Flushed, 0);
        }
        let views = read(&engines).unwrap();
        let error = put(&engines, &views, &Plan::Serve(&wanted), &mut || Ok(())).unwrap_err().to_string();
        assert!(error.contains("another program changes them at the same time; nothing was changed"), "{error}");
    }
}
