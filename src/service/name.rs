//! The name of a frontend.

use std::fmt;

use super::interface::Written;
use super::ports::Ports;
use crate::error::{refuse, Error};
use crate::net::{Endpoint, Family, Protocol};
use crate::text::{fnv1a, is_word, Shown};

/// Longest name of a frontend, in bytes. With `PG-`, a slash and three digits it fills the 28 bytes of a chain's name
/// (XT_EXTENSION_MAXNAMELEN, linux/netfilter/x_tables.h).
pub const LONGEST_NAME: usize = 21;

/// The name of a frontend. The names of its chains contain it, so they stay when other frontends come and go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// Reads a name: letters, digits, `-`, `_` and `.`, beginning with a letter or a digit.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let begins_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if begins_well && text.len() <= LONGEST_NAME && is_word(text, "-_.") {
            return Ok(Name(text.to_owned()));
        }
        refuse!(
            "name `{}` is not 1 to {LONGEST_NAME} letters, digits, `-`, `_` or `.` with a letter or a digit first",
            Shown(text)
        )
    }

    /// The name of a frontend that the config gives none: its bind, or a hash of it if it is too long. Where that is more than
    /// an address and a port of TCP, it has only letters that a name from the config has.
    pub fn of(bind: &Written<'_>) -> Self {
        let text = bind.to_string();
        let plain = bind.follows.is_none() && bind.ports.is_one() && bind.at.protocol() == Protocol::Tcp;
        let mut own = String::new();
        for c in text.chars() {
            match c {
                _ if plain => own.push(c),
                '[' | ']' | ' ' => {}
                ':' | '/' | ',' => own.push('-'),
                c => own.push(c),
            }
        }
        if bind.follows.is_some() && bind.at.family() == Family::V6 {
            own.push_str("-v6");
        }
        let six = bind.follows.is_none() && bind.at.family() == Family::V6;
        match (plain, own.len() <= LONGEST_NAME && (plain || !six)) {
            (_, true) => Name(own),
            (true, _) => Name(format!("v6:{:016x}", fnv1a(text.as_bytes()))),
            _ => Name(format!("of-{:016x}", fnv1a(text.as_bytes()))),
        }
    }

    /// The name of a frontend of UDP whose name another one has, of TCP.
    pub fn of_udp(&self) -> Self {
        let text = format!("{self}-udp");
        match text.len() <= LONGEST_NAME {
            true => Name(text),
            false => Name(format!("of-{:016x}", fnv1a(text.as_bytes()))),
        }
    }

    /// The name that a bind of one port of TCP has without any.
    pub fn of_bind(at: Endpoint) -> Self {
        Self::of(&Written { follows: None, at, ports: &Ports::one(at.port()) })
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_chain_names() {
        assert!(Name::parse("web-1_a.b").is_ok());
        assert!(Name::parse(&"x".repeat(LONGEST_NAME)).is_ok());
        for bad in ["", "-x", ".x", "a b", "a/b", "a\nb", "$(x)", "é", &"x".repeat(LONGEST_NAME + 1)] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
        let longest = Endpoint::parse("[2001:db8:1111:2222:3333:4444:5555:6666]:65535").unwrap();
        assert!(Name::of_bind(longest).as_str().len() <= LONGEST_NAME);
        let longest = Endpoint::parse("255.255.255.254:65535").unwrap();
        assert_eq!(Name::of_bind(longest).as_str(), "255.255.255.254:65535");
    }
}
