//! A node of the config as data, and the one reader of all nodes.
//!
//! [`Node`] says what may stand at a place of the config and which functions take it; `keys.rs` has the tree of them. There
//! is one serde visitor for all nodes, since serde makes the code of each visitor anew.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, Expected, MapAccess, SeqAccess, Unexpected, Visitor};

use super::draft::Draft;
use super::error::own;
use crate::error::{refuse, Error};
use crate::text::{one_of, Shown};

/// Takes a value of the config.
pub(super) type Take = fn(&mut Draft, &str) -> Result<(), Error>;

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
    /// The message about a second key, if only one is allowed.
    only_one: Option<&'static str>,
    /// For a list or a mapping.
    end: End,
}

/// A key of a mapping, and what its value is.
pub(super) struct Key(pub &'static str, pub Node);

impl Node {
    /// A single value.
    pub const fn text(expected: &'static str, take: Take) -> Self {
        Node { expected, take: Some(take), element: None, keys: &[], only_one: None, end: |_| Ok(()) }
    }

    /// A list of nodes of one kind.
    pub const fn list(expected: &'static str, element: &'static Node, end: End) -> Self {
        Node { expected, take: None, element: Some(element), keys: &[], only_one: None, end }
    }

    /// A mapping.
    pub const fn mapping(expected: &'static str, keys: &'static [Key], end: End) -> Self {
        Node { expected, take: None, element: None, keys, only_one: None, end }
    }

    /// The same, or a single value.
    pub const fn or_text(self, take: Take) -> Self {
        Node { take: Some(take), ..self }
    }

    /// The same, with one key only.
    pub const fn of_one_key(self, only_one: &'static str) -> Self {
        Node { only_one: Some(only_one), ..self }
    }

    /// Reads such a node.
    pub fn read<'de, D: Deserializer<'de>>(&'static self, draft: &mut Draft, from: D) -> Result<(), D::Error> {
        Reader::Node(self, draft).deserialize(from)
    }
}

/// Reads a node, or a key of a mapping.
enum Reader<'a> {
    Node(&'static Node, &'a mut Draft),
    Key(&'a mut Keys),
}

/// The keys of a mapping that is being read.
struct Keys {
    node: &'static Node,
    /// A bit for each key that was there, by its index.
    seen: u32,
    /// The last key that was read.
    found: Option<&'static Key>,
}

impl Keys {
    fn take(&mut self, text: &str) -> Result<(), Error> {
        let names: Vec<&str> = self.node.keys.iter().map(|Key(name, _)| *name).collect();
        let at = one_of("unknown key", &names, text)?;
        let bit = 1 << at;
        if self.seen & bit != 0 {
            return refuse!("`{text}` is there twice");
        }
        if let Some(why) = self.node.only_one.filter(|_| self.seen != 0) {
            return refuse!("{why}");
        }
        self.seen |= bit;
        self.found = self.node.keys.get(at);
        Ok(())
    }
}

impl Reader<'_> {
    /// The error about a value of another kind.
    fn refuse<E: serde::de::Error>(self, found: fmt::Arguments<'_>) -> E {
        own(format_args!("found {found}, expected {}", &self as &dyn Expected))
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        // A single value is wanted as it is written: `1.10` is not a number here. Lists and mappings show themselves.
        match self {
            Reader::Node(Node { element: None, keys: [], .. }, _) | Reader::Key(_) => from.deserialize_str(self),
            Reader::Node(..) => from.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reader::Node(node, _) => node.expected,
            Reader::Key(_) => "a key",
        })
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        match self {
            Reader::Key(keys) => keys.take(text).map_err(own),
            Reader::Node(Node { take: Some(take), .. }, draft) => take(draft, text).map_err(own),
            Reader::Node(..) => Err(self.refuse(format_args!("`{}`", Shown(text)))),
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
        if let Reader::Node(node, draft) = &mut self {
            (node.end)(draft).map_err(own)?;
        }
        Err(E::invalid_type(Unexpected::Unit, &self))
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Reader::Node(node @ Node { keys: [_, ..], .. }, draft) = self else {
            return Err(A::Error::invalid_type(Unexpected::Map, &self));
        };
        let mut keys = Keys { node, seen: 0, found: None };
        while map.next_key_seed(Reader::Key(&mut keys))?.is_some() {
            if let Some(Key(_, value)) = keys.found {
                map.next_value_seed(Reader::Node(value, draft))?;
            }
        }
        (node.end)(draft).map_err(own)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Reader::Node(Node { element: Some(element), end, .. }, draft) = self else {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        };
        while list.next_element_seed(Reader::Node(element, draft))?.is_some() {}
        end(draft).map_err(own)
    }
}
