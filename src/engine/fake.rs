//! An engine in memory, with both families, that fails at any step when told so.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Engine, Finding, Foreign, InForce, Kind, Plan, View};
use crate::error::{fail, Error};
use crate::net::{Endpoint, Family};
use crate::service::Ports;

/// What can fail. As in iptables, families are written one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The rules cannot be read.
    Read,
    /// Those of one family cannot be read.
    ReadOne(Family),
    /// One family cannot be written.
    Write(Family),
    /// Nothing is written, without a word.
    WriteNothing,
    /// Before the rules are read, another program removes them all.
    Flushed,
    /// One family cannot be removed.
    Clear(Family),
    /// There is no way back.
    Restore,
}

impl Step {
    /// All but the way back, which is of no use unless something else has failed, and what others do.
    pub const ALL: [Step; 8] = [
        Step::Read,
        Step::ReadOne(Family::V4),
        Step::ReadOne(Family::V6),
        Step::Write(Family::V4),
        Step::Write(Family::V6),
        Step::WriteNothing,
        Step::Clear(Family::V4),
        Step::Clear(Family::V6),
    ];
}

/// The engine.
#[derive(Debug)]
pub struct Fake {
    name: &'static str,
    rules: RefCell<Vec<InForce>>,
    /// Steps that fail once, and how often each succeeds before.
    faults: RefCell<Vec<(Step, usize)>>,
    writes: Cell<usize>,
}

fn rules(plan: &Plan<'_>) -> Vec<InForce> {
    let in_force = |bind: Endpoint, draining| {
        let ports = Ports::one(bind.port());
        InForce { name: String::new(), bind, ports, draining, exact: true, backends: Vec::new() }
    };
    let mut all: Vec<InForce> = match plan {
        Plan::Serve(services) => services.iter().map(|service| in_force(service.bind, false)).collect(),
        Plan::Drain(binds) => binds.iter().map(|bind| in_force(bind.at, true)).collect(),
        Plan::Nothing => Vec::new(),
    };
    all.iter_mut().for_each(|one| one.name = one.bind.to_string());
    all
}

impl Fake {
    /// One that has `plan` in force.
    pub fn with(name: &'static str, plan: &Plan<'_>) -> Rc<Self> {
        Rc::new(Fake { name, rules: rules(plan).into(), faults: RefCell::default(), writes: Cell::default() })
    }

    /// Makes a step fail once, after `after` successes.
    pub fn fail(&self, step: Step, after: usize) {
        self.faults.borrow_mut().push((step, after));
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.faults.borrow_mut().clear();
    }

    /// How often a family was written.
    pub fn writes(&self) -> usize {
        self.writes.get()
    }

    /// Whether this step fails now.
    fn fails(&self, step: Step) -> bool {
        let mut faults = self.faults.borrow_mut();
        let Some(at) = faults.iter().position(|(fault, _)| *fault == step) else { return false };
        if faults[at].1 > 0 {
            faults[at].1 -= 1;
            return false;
        }
        faults.remove(at);
        true
    }

    /// Goes to `wanted` in one family.
    fn write(&self, family: Family, wanted: &[InForce]) {
        self.writes.set(self.writes.get() + 1);
        let mut rules = self.rules.borrow_mut();
        rules.retain(|one| one.bind.family() != family);
        rules.extend(wanted.iter().filter(|one| one.bind.family() == family).cloned());
        rules.sort_by_key(|one| one.bind);
    }

    fn write_both(&self, wanted: &[InForce], step: fn(Family) -> Step) -> Vec<Error> {
        let mut failed = Vec::new();
        if self.fails(Step::WriteNothing) {
            return failed;
        }
        for family in Family::ALL {
            if self.fails(step(family)) {
                failed.push(Error::system(format_args!("{}: {family} is refused", self.name)));
            } else {
                self.write(family, wanted);
            }
        }
        failed
    }
}

impl Engine for Rc<Fake> {
    fn kind(&self) -> Kind {
        Kind::Iptables
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn read(&self) -> Result<Box<dyn View + '_>, Error> {
        if self.fails(Step::Read) {
            return fail!("{} cannot be read", self.name);
        }
        if self.fails(Step::Flushed) {
            Family::ALL.into_iter().for_each(|family| self.write(family, &[]));
        }
        let mut frontends = self.rules.borrow().clone();
        let mut unread = Vec::new();
        for family in Family::ALL {
            if self.fails(Step::ReadOne(family)) {
                frontends.retain(|one| one.bind.family() != family);
                unread.push((family, Error::system(format_args!("no {family} today"))));
            }
        }
        Ok(Box::new(Seen { engine: self, frontends, unread, foreign: Foreign::default() }))
    }

    fn stamp(&self) -> Option<u64> {
        Some(self.writes.get() as u64)
    }

    fn any_change_restarts_turns(&self) -> bool {
        false
    }
}

struct Seen<'a> {
    engine: &'a Fake,
    frontends: Vec<InForce>,
    unread: Vec<(Family, Error)>,
    foreign: Foreign,
}

impl View for Seen<'_> {
    fn frontends(&self) -> &[InForce] {
        &self.frontends
    }

    fn is_empty(&self) -> bool {
        self.frontends.is_empty()
    }

    fn foreign(&self) -> &Foreign {
        &self.foreign
    }

    fn unread(&self) -> &[(Family, Error)] {
        &self.unread
    }

    fn differs(&self, plan: &Plan<'_>) -> bool {
        let mut wanted = rules(plan);
        wanted.sort_by_key(|one| one.bind);
        self.frontends != wanted
    }

    fn replace(&self, plan: &Plan<'_>) -> Result<bool, Error> {
        if !self.differs(plan) {
            return Ok(false);
        }
        self.engine.write_both(&rules(plan), Step::Write).into_iter().next().map_or(Ok(true), Err)
    }

    fn restore(&self) -> Result<(), Error> {
        if self.engine.fails(Step::Restore) {
            return fail!("no way back");
        }
        Family::ALL.into_iter().for_each(|family| self.engine.write(family, &self.frontends));
        Ok(())
    }

    fn clear(&self) -> Vec<Error> {
        self.engine.write_both(&[], Step::Clear)
    }

    fn meets(&self, _: &Plan<'_>, _: bool) -> Vec<Finding> {
        Vec::new()
    }

    fn lacks(&self, _: &Plan<'_>) -> Vec<Finding> {
        Vec::new()
    }
}
