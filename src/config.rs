//! `glider.yaml` as written → [`Service`]s. Reading and judging are one pass: each value is held against all that was
//! read before it, right where it stands, so every error knows its line and column.

mod mistake;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

pub use self::mistake::Mistake;
use self::mistake::OWN;
use crate::error::{nearest, Error};
use crate::schedule::{self, BUCKETS, MOST_SLOTS};
use crate::service::{weight, Backend, Endpoint, Name, Schedule, Service, Source, MOST_BACKENDS};

/// Largest config, in bytes. A thousand backends take half of it.
pub const MOST_BYTES: usize = 64 * 1024;

/// Reads and judges the config file.
pub fn load(path: &Path) -> Result<Vec<Service>, Error> {
    let shown = path.display();
    let cannot = |what: std::io::Error| Error::usage(format!("{shown}: cannot read the config: {}", plain(&what)));
    let file = File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file of exactly the size from a larger one, and /dev/zero ends.
    file.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    parse(&bytes).map_err(|mistake| Error::usage(format!("{shown}:{mistake}")))
}

/// What the system said, without the number that means nothing to a user.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((sentence, _)) => sentence.to_owned(),
        None => text,
    }
}

/// Judges the text of a config.
pub fn parse(bytes: &[u8]) -> Result<Vec<Service>, Mistake> {
    let text = mistake::text(bytes)?;
    let mut services = Vec::new();
    match Document(&mut services).deserialize(serde_yaml::Deserializer::from_str(text)) {
        Ok(()) => Ok(services),
        Err(error) => Err(Mistake::of(text, &error)),
    }
}

fn own<E: serde::de::Error>(what: impl fmt::Display) -> E {
    E::custom(format_args!("{OWN}{what}"))
}

/// One plain value, judged where it stands.
struct Scalar<'a> {
    /// What belongs here, for the case that it is no plain value at all.
    expected: &'static str,
    judge: &'a mut dyn FnMut(&str) -> Result<(), String>,
}

impl<'de> DeserializeSeed<'de> for Scalar<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Scalar<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        (self.judge)(text).map_err(own)
    }
}

/// The next key of a mapping: one of `allowed`, and none twice.
fn next_key<'de, A: MapAccess<'de>>(
    map: &mut A,
    allowed: &[&'static str],
    seen: &mut Vec<&'static str>,
) -> Result<Option<&'static str>, A::Error> {
    let mut found = None;
    let mut judge = |text: &str| match allowed.iter().find(|key| **key == text) {
        Some(key) if seen.contains(key) => Err(format!("`{key}` is there twice")),
        Some(key) => {
            seen.push(key);
            found = Some(*key);
            Ok(())
        }
        None => Err(match nearest(text, allowed) {
            Some(key) => format!("unknown key `{}`; did you mean `{key}`?", text.escape_debug()),
            None => format!("unknown key `{}`; allowed here: {}", text.escape_debug(), allowed.join(", ")),
        }),
    };
    map.next_key_seed(Scalar { expected: "a key", judge: &mut judge })?;
    Ok(found)
}

/// The whole file.
struct Document<'a>(&'a mut Vec<Service>);

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`frontend:` or `frontends:`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = Vec::new();
        while let Some(key) = next_key(&mut map, &["frontend", "frontends"], &mut seen)? {
            if seen.len() > 1 {
                return Err(own("`frontend` and `frontends` exclude each other; list all of them under `frontends:`"));
            }
            match key {
                "frontend" => map.next_value_seed(Frontend(self.0))?,
                _ => map.next_value_seed(Frontends(self.0))?,
            }
        }
        if self.0.is_empty() {
            return Err(own("there is no frontend; begin with `frontend:` or `frontends:`"));
        }
        Ok(())
    }
}

/// The list under `frontends:`.
struct Frontends<'a>(&'a mut Vec<Service>);

impl<'de> DeserializeSeed<'de> for Frontends<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Frontends<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of frontends")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Frontend(self.0))?.is_some() {}
        if self.0.is_empty() {
            return Err(own("the list of frontends is empty"));
        }
        Ok(())
    }
}

/// One frontend; it joins the services that were read before it.
struct Frontend<'a>(&'a mut Vec<Service>);

impl<'de> DeserializeSeed<'de> for Frontend<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Frontend<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a frontend with `bind:`, `privateip:` and `backends:`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let earlier = self.0;
        let mut draft = Draft::default();
        let mut seen = Vec::new();
        while let Some(key) = next_key(&mut map, &["name", "bind", "privateip", "schedule", "backends"], &mut seen)? {
            if key == "backends" {
                map.next_value_seed(Backends(&mut draft))?;
                continue;
            }
            let (expected, take): (_, Take) = match key {
                "name" => ("a name", Draft::name),
                "bind" => ("address:port", Draft::bind),
                "schedule" => ("`roundrobin`, `random` or `source`", Draft::schedule),
                _ => ("an address, a range first-last, `auto` or `none`", Draft::privateip),
            };
            map.next_value_seed(Scalar { expected, judge: &mut |text| take(&mut draft, text, earlier) })?;
        }
        earlier.push(draft.finish(earlier).map_err(own)?);
        Ok(())
    }
}

/// Takes one value of a frontend, given the frontends before it.
type Take = fn(&mut Draft, &str, &[Service]) -> Result<(), String>;

/// A frontend of which not all is known yet. What is known is consistent.
#[derive(Default)]
struct Draft {
    name: Option<Name>,
    bind: Option<Endpoint>,
    source: Option<Source>,
    schedule: Schedule,
    backends: Vec<Backend>,
    /// The backends' addresses, sorted: a thousand are told apart quickly.
    addresses: Vec<Endpoint>,
}

impl Draft {
    fn name(&mut self, text: &str, earlier: &[Service]) -> Result<(), String> {
        let name = Name::parse(text)?;
        if earlier.iter().any(|service| service.name == name) {
            return Err(format!("the name `{name}` is taken by another frontend"));
        }
        self.name = Some(name);
        Ok(())
    }

    fn bind(&mut self, text: &str, earlier: &[Service]) -> Result<(), String> {
        let bind = Endpoint::parse(text)?;
        if let Some(other) = earlier.iter().find(|service| service.bind == bind) {
            return Err(format!("`{bind}` is the bind of another frontend (`{}`)", other.name));
        }
        if self.addresses.binary_search(&bind).is_ok() {
            return Err(format!("`{bind}` is also a backend of this frontend; connections would run in circles"));
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

    fn privateip(&mut self, text: &str, _: &[Service]) -> Result<(), String> {
        let source = Source::parse(text)?;
        if let (Some(family), Some(bind)) = (source.family(), self.bind) {
            if family != bind.family() {
                return Err(format!("`{text}` is {family}, but bind `{bind}` is {}", bind.family()));
            }
        }
        self.source = Some(source);
        Ok(())
    }

    fn schedule(&mut self, text: &str, _: &[Service]) -> Result<(), String> {
        self.schedule = Schedule::parse(text)?;
        Ok(())
    }

    fn backend(&mut self, text: &str) -> Result<(), String> {
        let address = Endpoint::parse(text)?;
        if self.bind == Some(address) {
            return Err(format!("`{address}` is also the bind of this frontend; connections would run in circles"));
        }
        let Err(place) = self.addresses.binary_search(&address) else {
            return Err(format!("`{address}` is already a backend of this frontend; use weight to give it more"));
        };
        if let Some(bind) = self.bind {
            same_family(address, bind.family(), &format!("bind `{bind}`"))?;
        } else if let Some(first) = self.backends.first() {
            same_family(address, first.address.family(), &format!("backend `{}`", first.address))?;
        }
        if self.backends.len() == MOST_BACKENDS {
            return Err(format!("`{address}` is one backend too many; a frontend has at most {MOST_BACKENDS}"));
        }
        self.addresses.insert(place, address);
        self.backends.push(Backend { address, weight: 1 });
        Ok(())
    }

    /// Nothing may be missing; what may be left out gets its default.
    fn finish(self, earlier: &[Service]) -> Result<Service, String> {
        let bind = self.bind.ok_or("`bind` is missing: the address:port that clients connect to")?;
        if self.backends.is_empty() {
            return Err("`backends` is missing: a list of address:port".into());
        }
        let name = self.name.unwrap_or_else(|| Name::of_bind(bind));
        if earlier.iter().any(|service| service.name == name) {
            return Err(format!("the name `{name}` is taken by another frontend"));
        }
        let weights: Vec<u16> = self.backends.iter().map(|backend| backend.weight).collect();
        let slots = match self.schedule {
            Schedule::RoundRobin => schedule::slots(&weights).len(),
            _ => 0,
        };
        if slots > MOST_SLOTS {
            return Err(format!(
                "the weights add up to {slots} (divided by what they have in common), and {MOST_SLOTS} is the most; \
                 use smaller ones, or `schedule: random`"
            ));
        }
        if self.schedule == Schedule::Source && weights.len() > BUCKETS {
            return Err(format!(
                "`schedule: source` has {BUCKETS} buckets for clients, fewer than these {} backends",
                weights.len()
            ));
        }
        let source = self.source.unwrap_or(Source::Masquerade);
        Ok(Service { name, bind, source, backends: self.backends, schedule: self.schedule })
    }
}

fn same_family(address: Endpoint, family: crate::service::Family, other: &str) -> Result<(), String> {
    if address.family() == family {
        return Ok(());
    }
    Err(format!("`{address}` is {}, but {other} is {family}; one frontend has one family", address.family()))
}

/// The list under `backends:`.
struct Backends<'a>(&'a mut Draft);

impl<'de> DeserializeSeed<'de> for Backends<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Backends<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of backends, each `- address:port`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(OneBackend(self.0))?.is_some() {}
        if self.0.backends.is_empty() {
            return Err(own("the list of backends is empty"));
        }
        Ok(())
    }
}

/// A backend: `address:port`, or a mapping with `address:`.
struct OneBackend<'a>(&'a mut Draft);

impl<'de> DeserializeSeed<'de> for OneBackend<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneBackend<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a backend as address:port, or as a mapping with `address:`")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.0.backend(text).map_err(own)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = Vec::new();
        let mut share = 1;
        while let Some(key) = next_key(&mut map, &["address", "weight"], &mut seen)? {
            if key == "address" {
                let judge = &mut |text: &str| self.0.backend(text);
                map.next_value_seed(Scalar { expected: "address:port", judge })?;
            } else {
                let judge = &mut |text: &str| weight(text).map(|weight| share = weight);
                map.next_value_seed(Scalar { expected: "a weight in 0-256", judge })?;
            }
        }
        match self.0.backends.last_mut().filter(|_| seen.contains(&"address")) {
            Some(backend) => backend.weight = share,
            None => return Err(own("this backend has no `address:`")),
        }
        Ok(())
    }
}
