//! A node of the config as data, and the one reader of all nodes.
//!
//! [`Node`] says what may stand at a place of the config and which functions take it; `keys.rs` has the tree of them. There
//! is one serde visitor for all nodes, since serde makes the code of each visitor anew.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, Expected, MapAccess, SeqAccess, Unexpected, Visitor};

use super::character::Stray;
use super::draft::{Draft, Take};
use super::error::own;
use super::words::{plain, refuse_any, Stranger, EVERYWHERE};
use crate::error::{refuse, Error};
use crate::net::{unicast, Endpoint};
use crate::text::{number, one_of, until, Shown};

/// Judges a list or a mapping of which all has been read.
pub(super) type End = fn(&mut Draft) -> Result<(), Error>;

/// What may stand at a place of the config. Made by [`Node::text`], [`Node::list`] and [`Node::mapping`].
pub(super) struct Node {
    /// What is expected, in messages.
    expected: &'static str,
    /// Takes a single value, if that is allowed.
    take: Option<Take>,
    /// What each element of a list is, if a list is allowed.
    element: Option<&'static Node>,
    /// The keys of a mapping, if a mapping is allowed.
    keys: &'static [Key],
    /// Where these keys belong, in messages.
    place: &'static str,
    /// Keys that do not exist here, but are tried.
    strangers: &'static [Stranger],
    /// How many of the first keys exclude each other, and the message about a second one of them.
    only_one: (usize, &'static str),
    /// For a list or a mapping.
    end: End,
}

/// A key of a mapping, and what its value is.
pub(super) struct Key(pub &'static str, pub Node);

impl Node {
    /// A single value.
    pub const fn text(expected: &'static str, take: Take) -> Self {
        Node { take: Some(take), ..Node::nothing(expected, |_| Ok(())) }
    }

    /// A list of nodes of one kind.
    pub const fn list(expected: &'static str, element: &'static Node, end: End) -> Self {
        Node { element: Some(element), ..Node::nothing(expected, end) }
    }

    /// A mapping.
    pub const fn mapping(expected: &'static str, keys: &'static [Key], end: End) -> Self {
        Node { keys, ..Node::nothing(expected, end) }
    }

    const fn nothing(expected: &'static str, end: End) -> Self {
        Node { expected, take: None, element: None, keys: &[], place: "", strangers: &[], only_one: (0, ""), end }
    }

    /// The same, with the place of its keys, and what is said about keys that it does not have.
    pub const fn at(self, place: &'static str, strangers: &'static [Stranger]) -> Self {
        Node { place, strangers, ..self }
    }

    /// The same, or a single value.
    pub const fn or_text(self, take: Take) -> Self {
        Node { take: Some(take), ..self }
    }

    /// The same, with only one of its first `keys`; and the message about a second one.
    pub const fn with_one_of(self, keys: usize, second: &'static str) -> Self {
        Node { only_one: (keys, second), ..self }
    }

    /// Reads such a node.
    pub fn read<'de, D: Deserializer<'de>>(&'static self, draft: &mut Draft, from: D) -> Result<(), D::Error> {
        Reader::Node(self, draft, self).deserialize(from)
    }

    /// Where this key belongs, here or below.
    pub fn place_of(&self, key: &str) -> Option<&'static str> {
        for Key(name, value) in self.keys {
            let found = if *name == key { Some(self.place) } else { value.place_of(key) };
            if found.is_some() {
                return found;
            }
        }
        self.element.and_then(|element| element.place_of(key))
    }
}

/// Reads a node, or a key of a mapping. The last node is that of the whole file.
enum Reader<'a> {
    Node(&'static Node, &'a mut Draft, &'static Node),
    Key(&'a mut Keys),
}

/// The keys of a mapping that is being read.
struct Keys {
    node: &'static Node,
    /// That of the whole file.
    root: &'static Node,
    /// A bit for each key that was there, by its index.
    seen: u32,
    /// The last key that was read.
    found: Option<&'static Key>,
}

impl Keys {
    fn take(&mut self, text: &str) -> Result<(), Error> {
        let mut names = Vec::new();
        let mut known = false;
        for Key(name, _) in self.node.keys {
            names.push(*name);
            known |= *name == text;
        }
        if !known {
            self.explain(text)?;
        }
        let at = one_of("unknown key", &names, text)?;
        let bit = 1 << at;
        let (first, second) = self.node.only_one;
        let alone = if at < first { (1 << first) - 1 } else { 0 };
        if self.seen & bit != 0 {
            return match alone {
                0 => refuse!("`{text}` is there twice"),
                _ => refuse!("`{text}` is there twice; list all frontends under one `frontends:`"),
            };
        }
        if self.seen & alone != 0 {
            return refuse!("{second}");
        }
        self.seen |= bit;
        self.found = self.node.keys.get(at);
        Ok(())
    }

    /// Refuses what is no key here, if it is a key elsewhere, in another program, or something else that people write.
    fn explain(&self, text: &str) -> Result<(), Error> {
        let shown = Shown(text);
        refuse_any(self.node.strangers, "unknown key", text)?;
        refuse_any(&EVERYWHERE, "unknown key", text)?;
        if let Some(place) = self.root.place_of(text) {
            return refuse!("`{shown}` belongs {place}");
        }
        let key = until(text, ":= ");
        if key != text && self.root.place_of(key).is_some() {
            return refuse!("`{shown}`: write a colon and a blank after `{key}`");
        }
        if number(text, u64::MAX).is_some() {
            return refuse!("`{shown}` is no key; in braces, a comma ends the value before it");
        }
        if Endpoint::parse(text).is_ok() {
            return refuse!("`{shown}` stands in the place of a key; write {{address: \"{shown}\", weight: 3}}");
        }
        if unicast(text).is_ok() {
            return refuse!("`{shown}` is followed by a colon and a blank; write address:port without a blank");
        }
        // The same word in other letters, or joined otherwise.
        let word = plain(text);
        for Key(name, _) in self.node.keys {
            if !word.is_empty() && plain(name) == word {
                return refuse!("unknown key `{shown}`; write `{name}`");
            }
        }
        Ok(())
    }
}

impl Reader<'_> {
    /// The error about a value of another kind.
    fn refuse<E: serde::de::Error>(self, found: fmt::Arguments<'_>) -> E {
        own(&format_args!("found {found}, expected {}", &self as &dyn Expected))
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        // A single value is wanted as it is written: `1.10` is not a number here. Lists and mappings show themselves.
        match self {
            Reader::Node(Node { element: None, keys: [], .. }, ..) | Reader::Key(_) => from.deserialize_str(self),
            Reader::Node(..) => from.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reader::Node(node, ..) => node.expected,
            Reader::Key(_) => "a key",
        })
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        match self {
            Reader::Key(keys) => keys.take(text).map_err(|error| blame(text, error)),
            Reader::Node(Node { take: Some(take), .. }, draft, _) => {
                draft.take_next(*take, text).map_err(|error| blame(text, error))
            }
            Reader::Node(..) => Err(match Stray::find(text) {
                Some((_, stray)) => own(&stray),
                None => self.refuse(format_args!("`{}`", Shown(text))),
            }),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(self.refuse(format_args!("a number")))
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.visit_f64(0.0)
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.visit_f64(0.0)
    }

    fn visit_u128<E: serde::de::Error>(self, _: u128) -> Result<(), E> {
        self.visit_f64(0.0)
    }

    fn visit_i128<E: serde::de::Error>(self, _: i128) -> Result<(), E> {
        self.visit_f64(0.0)
    }

    fn visit_unit<E: serde::de::Error>(mut self) -> Result<(), E> {
        // An empty list or mapping: what is missing in it says more.
        if let Reader::Node(node, draft, _) = &mut self {
            (node.end)(draft).map_err(|error| own(&error))?;
        }
        Err(E::invalid_type(Unexpected::Unit, &self))
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Reader::Node(node @ Node { keys: [_, ..], .. }, draft, root) = self else {
            return Err(A::Error::invalid_type(Unexpected::Map, &self));
        };
        let mut keys = Keys { node, root, seen: 0, found: None };
        while map.next_key_seed(Reader::Key(&mut keys))?.is_some() {
            if let Some(Key(_, value)) = keys.found {
                map.next_value_seed(Reader::Node(value, draft, root))?;
            }
        }
        (node.end)(draft).map_err(|error| own(&error))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Reader::Node(Node { element: Some(element), end, .. }, draft, root) = self else {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        };
        while list.next_element_seed(Reader::Node(element, draft, root))?.is_some() {}
        end(draft).map_err(|error| own(&error))
    }
}

/// The error about a text, or about a character in it that looks like another one: then it is that character's fault.
fn blame<E: serde::de::Error>(text: &str, error: Error) -> E {
    if let Some((_, stray)) = Stray::find(text) {
        return own(&stray);
    }
    match text.chars().find(|c| !c.is_ascii()) {
        // Perhaps a letter of another alphabet.
        Some(c) => {
            let shown = Shown(c.encode_utf8(&mut [0; 4])).to_string();
            own(&format_args!("{error}; its `{shown}` is U+{:04X}", u32::from(c)))
        }
        None => own(&error),
    }
}
