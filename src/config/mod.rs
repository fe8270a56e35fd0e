//! `glider.yaml` as written → [`Service`]s. Reading and judging are one pass: each value is held against all that was
//! read before it, right where it stands, so every error knows its line and column.

mod error;

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Unexpected, Visitor};

pub use self::error::Mistake;
use self::error::OWN;
use crate::error::{refuse, Error};
use crate::net::Endpoint;
use crate::schedule::{self, BUCKETS, MOST_SLOTS};
use crate::service::health::{self, Health, Key};
use crate::service::{weight, Backend, Name, Schedule, Service, Source, MOST_BACKENDS};
use crate::text::one_of;

/// Largest config, in bytes. A thousand backends take half of it.
pub const MOST_BYTES: usize = 64 * 1024;

/// Judges the text of a config.
pub fn parse(bytes: &[u8]) -> Result<Vec<Service>, Mistake> {
    let text = error::text(bytes)?;
    let mut services = Vec::new();
    match Place::Document(&mut services).deserialize(serde_yaml::Deserializer::from_str(text)) {
        Ok(()) => Ok(services),
        Err(error) => Err(Mistake::of(text, &error)),
    }
}

const NO_FRONTEND: &str = "there is no frontend; begin with `frontend:` or `frontends:`";

fn own<E: serde::de::Error>(what: impl fmt::Display) -> E {
    E::custom(format_args!("{OWN}{what}"))
}

/// A place in the config: what belongs there, and who takes it. (One type for all of them: serde makes the code of each
/// anew.)
enum Place<'a> {
    /// The whole file.
    Document(&'a mut Vec<Service>),
    /// The list under `frontends:`.
    Frontends(&'a mut Vec<Service>),
    /// One frontend; it joins the services that were read before it.
    Frontend(&'a mut Vec<Service>),
    /// The list under `backends:`.
    Backends(&'a mut Draft),
    /// A backend: `address:port`, or a mapping with `address:`.
    Backend(&'a mut Draft),
    /// The mapping under `health:`.
    Health(&'a mut Draft),
    /// A plain value, judged where it stands; its name is for the case that it is no plain value at all.
    Value(&'static str, &'a mut dyn FnMut(&str) -> Result<(), Error>),
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // A plain value is wanted as it is written: `1.10` is no number here. All else shows itself.
        match self {
            Place::Value(..) => deserializer.deserialize_str(self),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Document(_) => "`frontend:` or `frontends:`",
            Place::Frontends(_) => "a list of frontends",
            Place::Frontend(_) => "a frontend with `bind:`, `privateip:` and `backends:`",
            Place::Backends(_) => "a list of backends, each `- address:port`",
            Place::Backend(_) => "a backend as address:port, or as a mapping with `address:`",
            Place::Health(_) => "a mapping such as `{type: tcp, interval: 2s}`",
            Place::Value(name, _) => name,
        })
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        match self {
            Place::Backend(draft) => draft.backend(text).map_err(own),
            Place::Value(_, judge) => judge(text).map_err(own),
            _ => Err(E::invalid_type(Unexpected::Str(text), &self)),
        }
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        match self {
            Place::Document(_) => Err(own(NO_FRONTEND)),
            _ => Err(E::invalid_type(Unexpected::Unit, &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        match self {
            Place::Document(services) => document(map, services),
            Place::Frontend(earlier) => frontend(map, earlier),
            Place::Backend(draft) => backend(map, draft),
            Place::Health(draft) => health(map, draft),
            _ => Err(A::Error::invalid_type(Unexpected::Map, &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        match self {
            Place::Frontends(services) => {
                while list.next_element_seed(Place::Frontend(services))?.is_some() {}
                if services.is_empty() {
                    return Err(own("the list of frontends is empty"));
                }
            }
            Place::Backends(draft) => {
                while list.next_element_seed(Place::Backend(draft))?.is_some() {}
                if draft.backends.is_empty() {
                    return Err(own("the list of backends is empty"));
                }
            }
            _ => return Err(A::Error::invalid_type(Unexpected::Seq, &self)),
        }
        Ok(())
    }
}

const DOCUMENT: [Key; 2] = [("frontend", ""), ("frontends", "")];

const FRONTEND: [Key; 6] = [
    ("name", "a name"),
    ("bind", "address:port"),
    ("privateip", "an address, a range first-last, `auto` or `none`"),
    ("schedule", "`roundrobin`, `random` or `source`"),
    ("health", ""),
    ("backends", ""),
];

const BACKEND: [Key; 3] =
    [("address", "address:port"), ("weight", "a weight in 0-256"), ("backup", "`true` or `false`")];

/// The next key of a mapping: one of `allowed`, and none twice.
fn next_key<'de, A: MapAccess<'de>>(
    map: &mut A,
    allowed: &'static [Key],
    seen: &mut Vec<&'static str>,
) -> Result<Option<Key>, A::Error> {
    let mut found = None;
    let mut judge = |text: &str| {
        let names: Vec<&str> = allowed.iter().map(|(name, _)| *name).collect();
        found = allowed.get(one_of("unknown key", &names, text)?).copied();
        if let Some((name, _)) = found {
            if seen.contains(&name) {
                return refuse!("`{name}` is there twice");
            }
            seen.push(name);
        }
        Ok(())
    };
    map.next_key_seed(Place::Value("a key", &mut judge))?;
    Ok(found)
}

fn document<'de, A: MapAccess<'de>>(mut map: A, services: &mut Vec<Service>) -> Result<(), A::Error> {
    let mut seen = Vec::new();
    while let Some((key, _)) = next_key(&mut map, &DOCUMENT, &mut seen)? {
        if seen.len() > 1 {
            return Err(own("`frontend` and `frontends` exclude each other; list all of them under `frontends:`"));
        }
        let one = key == "frontend";
        map.next_value_seed(if one { Place::Frontend(services) } else { Place::Frontends(services) })?;
    }
    if services.is_empty() {
        return Err(own(NO_FRONTEND));
    }
    Ok(())
}

fn frontend<'de, A: MapAccess<'de>>(mut map: A, earlier: &mut Vec<Service>) -> Result<(), A::Error> {
    let mut draft = Draft::default();
    let mut seen = Vec::new();
    while let Some((key, expected)) = next_key(&mut map, &FRONTEND, &mut seen)? {
        let take: Take = match key {
            "name" => Draft::name,
            "bind" => Draft::bind,
            "schedule" => Draft::schedule,
            "privateip" => Draft::privateip,
            _ => {
                let list = key == "backends";
                map.next_value_seed(if list { Place::Backends(&mut draft) } else { Place::Health(&mut draft) })?;
                continue;
            }
        };
        map.next_value_seed(Place::Value(expected, &mut |text| take(&mut draft, text, earlier)))?;
    }
    earlier.push(draft.finish(earlier).map_err(own)?);
    Ok(())
}

fn backend<'de, A: MapAccess<'de>>(mut map: A, draft: &mut Draft) -> Result<(), A::Error> {
    let mut seen = Vec::new();
    let (mut share, mut backup) = (1, false);
    while let Some((key, expected)) = next_key(&mut map, &BACKEND, &mut seen)? {
        let judge = &mut |text: &str| {
            match key {
                "address" => draft.backend(text)?,
                "weight" => share = weight(text)?,
                _ => backup = one_of("there is no", &["false", "true"], text)? == 1,
            }
            Ok(())
        };
        map.next_value_seed(Place::Value(expected, judge))?;
    }
    match draft.backends.last_mut().filter(|_| seen.contains(&"address")) {
        Some(backend) => (backend.nominal, backend.backup) = (share, backup),
        None => return Err(own("this backend has no `address:`")),
    }
    Ok(())
}

fn health<'de, A: MapAccess<'de>>(mut map: A, draft: &mut Draft) -> Result<(), A::Error> {
    let mut health = Box::<Health>::default();
    let mut seen = Vec::new();
    while let Some((key, expected)) = next_key(&mut map, &health::KEYS, &mut seen)? {
        map.next_value_seed(Place::Value(expected, &mut |text| health.take(key, text)))?;
    }
    health.finish(&seen).map_err(own)?;
    draft.health = Some(health);
    Ok(())
}

/// Takes one value of a frontend, given the frontends before it.
type Take = fn(&mut Draft, &str, &[Service]) -> Result<(), Error>;

/// A frontend of which not all is known yet. What is known is consistent.
#[derive(Default)]
struct Draft {
    name: Option<Name>,
    bind: Option<Endpoint>,
    source: Option<Source>,
    schedule: Schedule,
    health: Option<Box<Health>>,
    backends: Vec<Backend>,
    /// The backends' addresses, sorted: a thousand are told apart quickly.
    addresses: Vec<Endpoint>,
}

impl Draft {
    fn name(&mut self, text: &str, earlier: &[Service]) -> Result<(), Error> {
        let name = Name::parse(text)?;
        if earlier.iter().any(|service| service.name == name) {
            return refuse!("the name `{name}` is taken by another frontend");
        }
        self.name = Some(name);
        Ok(())
    }

    fn bind(&mut self, text: &str, earlier: &[Service]) -> Result<(), Error> {
        let bind = Endpoint::parse(text)?;
        if let Some(other) = earlier.iter().find(|service| service.bind == bind) {
            return refuse!("`{bind}` is the bind of another frontend (`{}`)", other.name);
        }
        if self.addresses.binary_search(&bind).is_ok() {
            return refuse!("`{bind}` is also a backend of this frontend; connections would run in circles");
        }
        if let Some(family) = self.source.and_then(Source::family) {
            same_family(bind, family, "privateip")?;
        }
        if let Some(backend) = self.backends.first() {
            same_family(bind, backend.address.family(), "the backends")?;
        }
        self.bind = Some(bind);
        Ok(())
    }

    fn privateip(&mut self, text: &str, _: &[Service]) -> Result<(), Error> {
        let source = Source::parse(text)?;
        if let (Some(family), Some(bind)) = (source.family(), self.bind) {
            if family != bind.family() {
                return refuse!("`{text}` is {family}, but bind `{bind}` is {}", bind.family());
            }
        }
        self.source = Some(source);
        Ok(())
    }

    fn schedule(&mut self, text: &str, _: &[Service]) -> Result<(), Error> {
        self.schedule = Schedule::parse(text)?;
        Ok(())
    }

    fn backend(&mut self, text: &str) -> Result<(), Error> {
        let address = Endpoint::parse(text)?;
        if self.bind == Some(address) {
            return refuse!("`{address}` is also the bind of this frontend; connections would run in circles");
        }
        let Err(place) = self.addresses.binary_search(&address) else {
            return refuse!("`{address}` is already a backend of this frontend; use weight to give it more");
        };
        if let Some(bind) = self.bind {
            same_family(address, bind.family(), &format!("bind `{bind}`"))?;
        } else if let Some(first) = self.backends.first() {
            same_family(address, first.address.family(), &format!("backend `{}`", first.address))?;
        }
        if self.backends.len() == MOST_BACKENDS {
            return refuse!("`{address}` is one backend too many; a frontend has at most {MOST_BACKENDS}");
        }
        self.addresses.insert(place, address);
        self.backends.push(Backend { address, weight: 0, nominal: 1, backup: false });
        Ok(())
    }

    /// Nothing may be missing; what may be left out gets its default.
    fn finish(self, earlier: &[Service]) -> Result<Service, Error> {
        let Some(bind) = self.bind else {
            return refuse!("`bind` is missing: the address:port that clients connect to");
        };
        if self.backends.is_empty() {
            return refuse!("`backends` is missing: a list of address:port");
        }
        let name = self.name.unwrap_or_else(|| Name::of_bind(bind));
        if earlier.iter().any(|service| service.name == name) {
            return refuse!("the name `{name}` is taken by another frontend");
        }
        let weights: Vec<u16> = self.backends.iter().map(|backend| backend.nominal).collect();
        let slots = match self.schedule {
            Schedule::RoundRobin => schedule::slot_count(&weights),
            _ => 0,
        };
        if slots > MOST_SLOTS {
            return refuse!(
                "the weights add up to {slots} (divided by what they have in common), and {MOST_SLOTS} is the most; \
                 use smaller ones, or `schedule: random`"
            );
        }
        if self.schedule == Schedule::Source && weights.len() > BUCKETS {
            return refuse!(
                "`schedule: source` has {BUCKETS} buckets for clients, fewer than these {} backends",
                weights.len()
            );
        }
        if let Some(backup) = self.backends.iter().find(|backend| backend.backup && self.health.is_none()) {
            return refuse!(
                "`{}` is a backup, but without `health:` nobody tells when the others are down",
                backup.address
            );
        }
        let Draft { backends, schedule, health, .. } = self;
        let source = self.source.unwrap_or(Source::Masquerade);
        let mut service = Service { name, bind, source, backends, schedule, health };
        service.choose(&[]);
        Ok(service)
    }
}

fn same_family(address: Endpoint, family: crate::net::Family, other: &str) -> Result<(), Error> {
    if address.family() == family {
        return Ok(());
    }
    refuse!("`{address}` is {}, but {other} is {family}; one frontend has one family", address.family())
}
