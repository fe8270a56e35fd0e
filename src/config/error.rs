//! [`Mistake`]: a message with its place in the config, and how one is made of an error of the YAML library.

use std::fmt;

use crate::text::{find, has, part, split, until};

/// A mistake in the config, and its place.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong: the value, and what is allowed. One line without control characters.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.what)
    }
}

/// Stands in front of a message of ours inside an error of the YAML library. A config cannot contain it: control
/// characters are refused, and values in messages are escaped.
const OWN: &str = "\u{1}";

/// A message of ours as an error of the YAML library, which adds the place.
pub fn own<E: serde::de::Error>(what: &dyn fmt::Display) -> E {
    E::custom(format_args!("{OWN}{what}"))
}

/// How the YAML library begins the message about a value of another kind.
const INVALID: &str = "invalid type: ";

/// Who found a mistake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Finder {
    /// Our own functions: the text is YAML up to here, and the place is that of the value, the key or the mapping.
    Ours,
    /// The YAML library: the place is where it gave up, at the mistake or behind it.
    Library,
}

impl Mistake {
    /// An error of the YAML library about `text`, in our words.
    pub(super) fn of(text: &str, error: &serde_yaml::Error) -> (Mistake, Finder) {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let mut what = error.to_string();
        if let Some(at) = find(&what, &format!(" at line {line} column {column}")) {
            what.truncate(at);
        }
        let mut finder = Finder::Ours;
        // The library may put the path of the value in front ("frontend.bind: "); line and column are more exact.
        if let Some((_, own)) = split(&what, OWN) {
            what = own.to_owned();
        } else if let Some(found) = find(&what, INVALID).and_then(|at| what.get(at + INVALID.len()..)) {
            // YAML's words instead of serde's.
            let words = &[("sequence,", "a list,"), ("map,", "a mapping,"), ("unit value,", "nothing,")];
            let mut known = ("", found);
            for (word, plain) in words {
                if let Some(rest) = found.strip_prefix(*word) {
                    known = (*plain, rest);
                }
            }
            what = ["found ", known.0, known.1].concat();
        } else {
            finder = Finder::Library;
        }
        let source = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        if what.starts_with("deserializing from YAML") {
            finder = Finder::Ours;
            what =
                "the config has more than one document (`---`); list all frontends in one, under `frontends:`".into();
        } else if source.bytes().find(|b| *b != b' ') == Some(b'\t') {
            finder = Finder::Ours;
            what = "a tab indents this line; YAML allows only spaces".into();
        } else if (what.starts_with("found a list") || what.starts_with("did not find"))
            && part(source, "[").is_some_and(|(_, after)| begins_with_ipv6(after))
        {
            finder = Finder::Ours;
            what.push_str("; an IPv6 address in brackets needs quotes, as in \"[2001:db8::1]:80\"");
        } else if what.starts_with("found a list")
            && split(source, "bind:").is_some_and(|(_, value)| is_in_brackets(value))
        {
            finder = Finder::Ours;
            what.push_str("; an interface in brackets needs quotes, as in \"[eth0]:80\"");
        }
        (Mistake { line, column, what }, finder)
    }
}

/// Whether it begins with brackets before a port.
fn is_in_brackets(text: &str) -> bool {
    text.trim_ascii_start().starts_with('[') && find(text, "]:").is_some()
}

/// Whether the first thing in brackets is an IPv6 address, not an IPv4 address with its port.
fn begins_with_ipv6(text: &str) -> bool {
    part(until(text, "],"), ":").is_some_and(|(_, rest)| has(rest, ':'))
}
