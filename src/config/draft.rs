//! What has been read of a config so far, and the functions that take the values of frontends and backends. Each value is
//! checked against everything read before it, so the error is reported at the value's own line and column.

use std::fmt;

use super::address::{backend, bind, explain, Place, Whose};
use super::words;
use crate::error::{refuse, Error};
use crate::net::{Endpoint, Family, Protocol};
use crate::schedule::{self, BUCKETS, MOST_SLOTS};
use crate::service::health::Health;
use crate::service::{weight, Backend, Name, Preference, Schedule, Service, Source, Written, MOST_BACKENDS};
use crate::text::{one_of, Shown};

/// The message about a config without any frontend.
const NO_FRONTEND: &str = "there is no frontend; begin with `frontend:` or `frontends:`";

/// Takes a single value of the config.
pub(super) type Take = fn(&mut Draft, &str) -> Result<(), Error>;

/// What has been read so far. It contains no contradiction; something may be missing.
#[derive(Default)]
pub(super) struct Draft {
    /// What `engine:` says.
    pub engine: Preference,
    /// The frontends that are complete.
    pub services: Vec<Service>,
    /// The frontend that is being read.
    pub frontend: Frontend,
    /// The backend that is being read, if it is a mapping.
    backend: Share,
    /// The `health:` that is being read.
    pub checks: Checks,
    /// How many single values have been read.
    values: usize,
    /// The number of a value, and the error about it that only the end of its mapping revealed.
    pub late: Option<(usize, Error)>,
    /// The same while the config is read once more, up to that value: the error then has the value's place.
    pub known: Option<(usize, Error)>,
}

/// The values of a frontend.
#[derive(Default)]
pub(super) struct Frontend {
    name: Option<Name>,
    bind: Option<Place>,
    /// The number of the value that `bind:` has.
    bind_at: usize,
    protocol: Protocols,
    source: Option<Source>,
    schedule: Schedule,
    /// What `health:` says, once it is complete.
    pub health: Option<Box<Health>>,
    backends: Vec<Backend>,
    /// The number of the value that makes the first backup; 0 if there is none.
    backup_at: usize,
    /// The backends' addresses, sorted: a duplicate among a thousand is found by binary search.
    addresses: Vec<Endpoint>,
}

/// What `protocol:` says.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Protocols {
    #[default]
    Tcp,
    Udp,
    Both,
}

/// The values of `health:`.
#[derive(Default)]
pub(super) struct Checks {
    /// The values, defaults included; the timeout only once it is complete.
    pub health: Health,
    /// `timeout:` in milliseconds.
    pub timeout: Option<u64>,
    /// The number of the value that `timeout:` has.
    pub timeout_at: usize,
    /// The number of the value that `type:` has.
    pub kind_at: usize,
    /// What `expect:` says, which means one thing to http and another to udp.
    pub expect: String,
    /// The keys that were given and that not all kinds of checks have, each with the number of its value.
    pub special: Vec<(&'static str, usize)>,
}

/// The values of a backend; its address joins the frontend at once.
#[derive(Default)]
struct Share {
    addressed: bool,
    weight: Option<u16>,
    backup: bool,
}

impl Draft {
    /// Takes the next single value.
    pub fn take_next(&mut self, take: Take, text: &str) -> Result<(), Error> {
        self.values += 1;
        match self.known.take_if(|(at, _)| *at == self.values) {
            Some((_, error)) => Err(error),
            None => take(self, text),
        }
    }

    /// The number of the value that is being taken.
    pub fn value(&self) -> usize {
        self.values
    }

    /// An error about a value that was taken before.
    pub fn too_late(&mut self, at: usize, error: Error) -> Result<(), Error> {
        self.late = Some((at, error.again()));
        Err(error)
    }

    /// `engine:`.
    pub fn engine(&mut self, text: &str) -> Result<(), Error> {
        self.engine = match Preference::parse(text) {
            Ok(engine) => engine,
            Err(error) => {
                words::refuse_any(&words::ENGINES, "unknown engine", text)?;
                return Err(error);
            }
        };
        Ok(())
    }

    /// `name:` of a frontend.
    pub fn name(&mut self, text: &str) -> Result<(), Error> {
        let name = Name::parse(text)?;
        self.unique(&name)?;
        self.frontend.name = Some(name);
        Ok(())
    }

    fn unique(&self, name: &Name) -> Result<(), Error> {
        if self.services.iter().any(|service| service.name == *name) {
            return refuse!("the name `{name}` is taken by another frontend");
        }
        Ok(())
    }

    /// `bind:` of a frontend.
    pub fn bind(&mut self, text: &str) -> Result<(), Error> {
        let place = bind(text)?;
        let backends = &self.frontend.backends;
        if let Some(backend) = backends.iter().find(|backend| is_circle(&place, &backend.address)) {
            return refuse!(
                "`{}` is also a backend of this frontend; connections would run in circles",
                backend.address
            );
        }
        if let Some(family) = self.frontend.source.and_then(Source::family) {
            same_family(text, place.at, family, format_args!("privateip"))?;
        }
        if let Some(backend) = backends.first() {
            same_family(text, place.at, backend.address.family(), format_args!("the backends"))?;
        }
        (self.frontend.bind, self.frontend.bind_at) = (Some(place), self.values);
        Ok(())
    }

    /// `protocol:` of a frontend.
    pub fn protocol(&mut self, text: &str) -> Result<(), Error> {
        words::refuse_any(&words::PROTOCOLS, "unknown protocol", text)?;
        self.frontend.protocol = match one_of("unknown protocol", &["tcp", "udp", "both"], text)? {
            0 => Protocols::Tcp,
            1 => Protocols::Udp,
            _ => Protocols::Both,
        };
        Ok(())
    }

    /// `privateip:` of a frontend.
    pub fn source(&mut self, text: &str) -> Result<(), Error> {
        let source = match Source::parse(text) {
            Ok(source) => source,
            Err(error) => {
                explain(text, Whose::Source)?;
                return Err(error);
            }
        };
        if let (Some(family), Some(bind)) = (source.family(), &self.frontend.bind) {
            if family != bind.at.family() {
                return refuse!("`{}` is {family}, but bind `{}` is {}", Shown(text), bind.written(), bind.at.family());
            }
        }
        self.frontend.source = Some(source);
        Ok(())
    }

    /// `schedule:` of a frontend.
    pub fn schedule(&mut self, text: &str) -> Result<(), Error> {
        words::refuse_any(&words::SCHEDULES, "unknown schedule", text)?;
        self.frontend.schedule = Schedule::parse(text)?;
        Ok(())
    }

    /// A backend that is an address alone.
    pub fn plain_backend(&mut self, text: &str) -> Result<(), Error> {
        self.address(text)?;
        self.end_of_backend()
    }

    /// `address:` of a backend.
    pub fn address(&mut self, text: &str) -> Result<(), Error> {
        let mut address = backend(text)?;
        let Frontend { bind, backends, addresses, .. } = &mut self.frontend;
        if let Some(Place { ports, .. }) = bind.as_ref().filter(|bind| address.port() == 0 && bind.ports.is_one()) {
            address = address.with_port(Some(ports.first()));
        }
        if bind.as_ref().is_some_and(|bind| is_circle(bind, &address)) {
            return refuse!("`{address}` is also the bind of this frontend; connections would run in circles");
        }
        let Err(place) = addresses.binary_search(&address) else {
            return refuse!("`{address}` is already a backend of this frontend; use weight to give it more");
        };
        if let Some(bind) = bind {
            same_family(text, address, bind.at.family(), format_args!("bind `{}`", bind.written()))?;
        } else if let Some(first) = backends.first() {
            same_family(text, address, first.address.family(), format_args!("backend `{}`", first.address))?;
        }
        if backends.len() == MOST_BACKENDS {
            return refuse!("`{address}` is one backend too many; a frontend has at most {MOST_BACKENDS}");
        }
        addresses.insert(place, address);
        backends.push(Backend { address, weight: 0, nominal: 1, backup: false });
        self.backend.addressed = true;
        Ok(())
    }

    /// `weight:` of a backend.
    pub fn weight(&mut self, text: &str) -> Result<(), Error> {
        self.backend.weight = Some(weight(text)?);
        Ok(())
    }

    /// `backup:` of a backend.
    pub fn backup(&mut self, text: &str) -> Result<(), Error> {
        self.backend.backup = one_of("unknown value", &["false", "true"], text)? == 1;
        if self.backend.backup && self.frontend.backup_at == 0 {
            self.frontend.backup_at = self.values;
        }
        Ok(())
    }

    /// The end of a backend that is a mapping.
    pub fn end_of_backend(&mut self) -> Result<(), Error> {
        let Share { addressed, weight, backup } = std::mem::take(&mut self.backend);
        match self.frontend.backends.last_mut().filter(|_| addressed) {
            Some(backend) => (backend.nominal, backend.backup) = (weight.unwrap_or(1), backup),
            None => return refuse!("this backend has no `address:`"),
        }
        Ok(())
    }

    /// The end of the list of backends.
    pub fn end_of_backends(&mut self) -> Result<(), Error> {
        match self.frontend.backends.is_empty() {
            true => refuse!("the list of backends is empty"),
            false => Ok(()),
        }
    }

    /// The end of a frontend: nothing may be missing, and what was left out gets its default.
    pub fn end_of_frontend(&mut self) -> Result<(), Error> {
        let Frontend {
            name,
            bind,
            bind_at,
            protocol,
            source,
            schedule,
            health,
            mut backends,
            backup_at,
            addresses,
            ..
        } = std::mem::take(&mut self.frontend);
        let Some(Place { at, ports, follows }) = bind else {
            return refuse!("`bind` is missing: the address:port that clients connect to");
        };
        if backends.is_empty() {
            return refuse!("`backends` is missing: a list of address:port");
        }
        fits(schedule, &backends)?;
        if let Some(Backend { address, .. }) = backends.iter().find(|backend| backend.backup && health.is_none()) {
            let why = format_args!(
                "`{address}` is a backup, but without `health:` in this frontend nothing detects that the others are down"
            );
            return self.too_late(backup_at, Error::usage(why));
        }
        for backend in backends.iter_mut().filter(|backend| backend.address.port() == 0) {
            if ports.is_one() {
                // `bind:` came last.
                let whole = backend.address.with_port(Some(ports.first()));
                if addresses.contains(&whole) {
                    let error =
                        Error::usage(format_args!("`{whole}` is twice among the backends, once without its port"));
                    return self.too_late(bind_at, error);
                }
                backend.address = whole;
            } else if health.as_ref().is_some_and(|health| health.port.is_none()) {
                return refuse!(
                    "`{}` keeps the client's port, of which there are several, so `health:` needs `port:`, the one that is \
                     checked",
                    backend.address
                );
            }
        }
        let source = source.unwrap_or(Source::Masquerade);
        let mut first: Option<Name> = None;
        for one in [Protocol::Tcp, Protocol::Udp] {
            if protocol != Protocols::Both && (protocol == Protocols::Udp) != (one == Protocol::Udp) {
                continue;
            }
            let (at, ports, follows) = (at.of_protocol(one), ports.clone(), follows.clone());
            let written = Written { follows: follows.as_ref(), at, ports: &ports };
            let meets = |other: &&Service| {
                let same = other.follows == follows && other.bind.ip() == at.ip() && other.bind.protocol() == one;
                same && other.ports.meets(&ports)
            };
            if let Some(other) = self.services.iter().find(meets) {
                let error = if other.ports == ports {
                    Error::usage(format_args!("`{written}` is the bind of another frontend (`{}`)", other.name))
                } else {
                    let (theirs, name) = (other.written(), &other.name);
                    Error::usage(format_args!("`{written}` and `{theirs}`, the bind of `{name}`, have ports in common"))
                };
                return self.too_late(bind_at, error);
            }
            let circle = |other: &&Service| {
                let comes_back = |backend: &Backend| {
                    let (to, port) = (backend.address, backend.address.port());
                    follows.is_none() && to.ip() == at.ip() && ports.has(port)
                };
                let to_us = other.bind.protocol() == one && other.backends.iter().any(comes_back);
                to_us || backends.iter().any(|backend| other.has(&backend.address.of_protocol(one)))
            };
            if let Some(other) = self.services.iter().find(circle) {
                let error = Error::usage(format_args!(
                    "a backend of `{written}` or of `{}` is the bind of the other; a connection is balanced only once",
                    other.written()
                ));
                return self.too_late(bind_at, error);
            }
            let own = match (&name, &first) {
                (Some(name), Some(_)) => name.of_udp(),
                (Some(name), None) => name.clone(),
                (None, _) => Name::of(&written),
            };
            self.unique(&own)?;
            first = Some(own.clone());
            let (backends, health) = (backends.clone(), health.clone());
            let mut service = Service { name: own, bind: at, ports, follows, source, backends, schedule, health };
            service.choose(&[]);
            self.services.push(service);
        }
        Ok(())
    }

    /// The end of the list of frontends.
    pub fn end_of_frontends(&mut self) -> Result<(), Error> {
        match self.services.is_empty() {
            true => refuse!("the list of frontends is empty"),
            false => Ok(()),
        }
    }

    /// The end of the config.
    pub fn end(&mut self) -> Result<(), Error> {
        match self.services.is_empty() {
            true => refuse!("{NO_FRONTEND}"),
            false => Ok(()),
        }
    }
}

/// Whether the schedule has room for the backends.
fn fits(schedule: Schedule, backends: &[Backend]) -> Result<(), Error> {
    let count = backends.len();
    match schedule {
        Schedule::RoundRobin => {
            let mut weights = Vec::new();
            for backend in backends {
                weights.push(backend.nominal);
            }
            let slots = schedule::slot_count(&weights);
            if slots > MOST_SLOTS {
                return refuse!(
                    "the weights, divided by their greatest common divisor, add up to {slots}, and {MOST_SLOTS} is the \
                     most; use smaller ones, or `schedule: random`"
                );
            }
        }
        Schedule::Source if count > BUCKETS => {
            return refuse!("`schedule: source` has {BUCKETS} buckets for clients, fewer than these {count} backends");
        }
        Schedule::Source | Schedule::Random => {}
    }
    Ok(())
}

/// Whether connections to a bind would come back to it.
fn is_circle(bind: &Place, backend: &Endpoint) -> bool {
    bind.follows.is_none() && bind.at.ip() == backend.ip() && bind.ports.has_or_keeps(backend.port())
}

fn same_family(text: &str, address: Endpoint, family: Family, other: fmt::Arguments<'_>) -> Result<(), Error> {
    if address.family() == family {
        return Ok(());
    }
    refuse!("`{}` is {}, but {other} is {family}; one frontend has one family", Shown(text), address.family())
}
