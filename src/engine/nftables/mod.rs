//! The engine that writes one table of nf_tables by netlink. It needs no program of the host.

mod change;
mod encode;
mod expression;
mod index;
mod meets;
mod print;
mod probe;
mod read;
mod render;
mod table;

use std::cell::OnceCell;

use self::index::Index;
use self::probe::refused;
use self::read::Seen;
use self::table::Table;
use super::{Engine, Finding, Foreign, InForce, Kind, Plan, View};
use crate::error::{fail, plain, Error};
use crate::host;
use crate::host::nft::{self, Chain};
use crate::net::{Endpoint, Family};
use crate::sys::batch::{Batch, Refusal, Verb};
use crate::sys::log;
use crate::sys::netlink;
use crate::sys::nftables::INET;

/// nf_tables of this kernel.
#[derive(Debug, Clone, Copy)]
pub struct Nftables {
    /// It is the engine that is to be written; else its table is only looked for.
    pub written: bool,
}

/// The rules of a plan, as `nft -f` reads them.
pub fn text(plan: &Plan<'_>) -> String {
    let nothing = Seen::default();
    render::table(plan, &Index::of(&nothing), &|_| false).map_or_else(String::new, |table| table.to_string())
}

impl Engine for Nftables {
    fn kind(&self) -> Kind {
        Kind::Nftables
    }

    fn name(&self) -> &'static str {
        "nftables"
    }

    fn read(&self) -> Result<Box<dyn View + '_>, Error> {
        let seen = seen()?;
        let frontends = Index::of(&seen).frontends();
        Ok(Box::new(Look {
            written: self.written,
            seen,
            frontends,
            foreign: Foreign::default(),
            chains: OnceCell::new(),
        }))
    }

    fn stamp(&self) -> Option<u64> {
        netlink::generation()
    }

    fn any_change_restarts_turns(&self) -> bool {
        false
    }
}

/// What was read.
struct Look {
    written: bool,
    seen: Seen,
    frontends: Vec<InForce>,
    foreign: Foreign,
    /// The chains of others, of both families, once they are asked for.
    chains: OnceCell<[Vec<Chain>; 2]>,
}

impl Look {
    fn wanted(&self, plan: &Plan<'_>, index: &Index<'_>) -> Option<Table> {
        render::table(plan, index, &|bind| self.is_shut(bind))
    }

    /// Whether others drop what comes to a bind on this host.
    fn is_shut(&self, bind: Endpoint) -> bool {
        let of = |family| nft::chains(family, true).unwrap_or_default();
        let [v4, v6] = self.chains.get_or_init(|| Family::ALL.map(of));
        meets::is_shut(bind, if bind.family() == Family::V4 { v4 } else { v6 })
    }

    /// Whether a table of this family, and nothing else, is in force.
    fn is_in_force(&self, index: &Index<'_>, wanted: &Table, family: libc::c_int) -> bool {
        self.seen.family == Some(family) && !self.seen.is_odd && change::is_same(index, wanted)
    }

    /// The family of the table for a plan: the one that is there, if it will do. That for both needs a kernel with IPv6.
    fn family(&self, plan: &Plan<'_>) -> libc::c_int {
        match self.seen.family {
            Some(family) if family == INET || !plan.has(Family::V6) => family,
            _ if plan.has(Family::V6) || host::knows(Family::V6) => INET,
            _ => Family::V4.domain(),
        }
    }

    /// Sends the change to the wanted table, of a family.
    fn write(&self, index: &Index<'_>, wanted: &Table, family: libc::c_int) -> Result<(), Error> {
        let mut anew = self.seen.is_odd;
        loop {
            let mut batch = change::to(wanted, index, family, table::TABLE, anew);
            match batch.send() {
                Ok(()) => break,
                // Others may have changed our table since, and what they put into it can hold on to what is to go.
                Err(_) if self.seen.family.is_some() && !anew => anew = true,
                Err(refusal) => return Err(refused(&refusal, &batch, wanted)),
            }
        }
        match self.seen.is_odd || self.seen.family.is_some_and(|there| there != family) {
            // The new one is in force.
            true => delete(if family == INET { Family::V4.domain() } else { INET }),
            false => Ok(()),
        }
    }
}

/// Deletes our table of a family, if there is one.
fn delete(family: libc::c_int) -> Result<(), Error> {
    let mut batch = Batch::of(family, table::TABLE);
    batch.begin(Verb::DeleteTable);
    match batch.send() {
        // It is gone, or this kernel has no such tables.
        Err(Refusal { number: libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT, .. }) | Ok(()) => Ok(()),
        Err(refusal) => {
            fail!("cannot delete the table {}: {refusal}", table::TABLE)
        }
    }
}

/// Reads the table.
fn seen() -> Result<Seen, Error> {
    Seen::read()
        .map_err(|error| Error::system(format_args!("cannot read the table inet {}: {}", table::TABLE, plain(&error))))
}

impl View for Look {
    fn frontends(&self) -> &[InForce] {
        &self.frontends
    }

    fn is_empty(&self) -> bool {
        self.seen.family.is_none()
    }

    fn foreign(&self) -> &Foreign {
        &self.foreign
    }

    fn unread(&self) -> &[(Family, Error)] {
        &[]
    }

    fn differs(&self, plan: &Plan<'_>) -> bool {
        let index = Index::of(&self.seen);
        match self.wanted(plan, &index) {
            Some(wanted) => !self.is_in_force(&index, &wanted, self.family(plan)),
            None => !self.is_empty(),
        }
    }

    fn replace(&self, plan: &Plan<'_>) -> Result<bool, Error> {
        let index = Index::of(&self.seen);
        let Some(wanted) = self.wanted(plan, &index) else {
            self.clear().into_iter().next().map_or(Ok(()), Err)?;
            return Ok(!self.is_empty());
        };
        let family = self.family(plan);
        if self.is_in_force(&index, &wanted, family) {
            return Ok(false);
        }
        log::detail!("nftables, by netlink:\n{wanted}");
        self.write(&index, &wanted, family)?;
        Ok(true)
    }

    fn restore(&self) -> Result<(), Error> {
        let now = seen()?;
        if now == self.seen {
            return Ok(());
        }
        if let Some(family) = now.family.filter(|family| self.seen.family != Some(*family)) {
            delete(family)?;
        }
        let Some(family) = self.seen.family else { return Ok(()) };
        match change::back(&self.seen, family, now.family == Some(family)).send() {
            Err(refusal) => fail!("the table inet {} as it was is refused: {refusal}", table::TABLE),
            Ok(()) => Ok(()),
        }
    }

    fn clear(&self) -> Vec<Error> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut failed = Vec::new();
        for family in [INET, Family::V4.domain()] {
            failed.extend(delete(family).err());
        }
        failed
    }

    fn meets(&self, plan: &Plan<'_>, _written: bool) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Plan::Serve(services) = plan {
            for family in Family::ALL.into_iter().filter(|family| plan.has(*family)) {
                meets::meets(family, services, self.written, &mut found);
            }
        }
        found
    }

    fn lacks(&self, plan: &Plan<'_>) -> Vec<Finding> {
        let index = Index::of(&self.seen);
        match self.wanted(plan, &index) {
            Some(wanted) => {
                let family = self.family(plan);
                let in_force = self.is_in_force(&index, &wanted, family);
                probe::lacks(wanted, in_force, family)
            }
            None => Vec::new(),
        }
    }
}
