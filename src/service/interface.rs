//! A bind that follows an interface.

use std::fmt;

use super::ports::Ports;
use crate::net::{Endpoint, Family, Protocol};
use crate::text::{has, is_word, listed, part};

/// Longest name of an interface, in bytes. The kernel's have 15 (IFNAMSIZ), those of OpenWrt's network config may be longer.
const LONGEST: usize = 32;

/// What stands before a colon and is no interface.
const OTHERS: &str =
    "localhost any all auto none default null inaddr_any tcp udp http https tls ssl ws wss dns quic www";

/// The name of an interface whose address a bind has: one of the kernel's, or of OpenWrt's network config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface(String);

impl Interface {
    /// Reads a name. A name of a host has a dot and no number behind it, one of a VLAN has both.
    pub fn parse(text: &str) -> Option<Self> {
        let (mut last, mut whole) = (text, true);
        while let Some((before, behind)) = part(last, ".") {
            whole &= !before.is_empty();
            last = behind;
        }
        let number = whole && !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
        let letter = text.bytes().any(|b| b.is_ascii_alphabetic());
        let begins_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let is_one = begins_well && letter && is_word(text, "-_.") && (number || !has(text, '.'));
        (is_one && text.len() <= LONGEST && !text.starts_with("0x") && !listed(OTHERS, &text.to_ascii_lowercase()))
            .then(|| Interface(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A bind as the config has it: the address, or the interface that it follows; the ports; and the protocol, unless it is TCP.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// The interface.
    pub follows: Option<&'a Interface>,
    /// The address, and the protocol.
    pub at: Endpoint,
    /// The ports.
    pub ports: &'a Ports,
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Written { follows, at, ports } = self;
        let six = at.family() == Family::V6;
        f.write_str(if six { "[" } else { "" })?;
        match follows {
            None => at.ip().fmt(f)?,
            Some(Interface(name)) => f.write_str(name)?,
        }
        f.write_str(if six { "]:" } else { ":" })?;
        ports.fmt(f)?;
        match at.protocol() {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_no_interface() {
        for name in
            ["eth0", "pppoe-wan", "br-lan.10", "eth0.2", "wan", "lan_guest", "6in4-wan", "wlp3s0f0u1", "phy0-ap0"]
        {
            assert!(Interface::parse(name).is_some(), "{name}");
        }
        for other in [
            "",
            "localhost",
            "www.example.com",
            "example.com",
            "10.0.0.1",
            "0x7f000001",
            "fd00::1",
            "a b",
            "*",
            "-eth0",
            "any",
            "Any",
            "LOCALHOST",
            "eth0.",
            "eth0..2",
            "tcp",
            "http",
            "eth0/1",
            "é",
            "a.b.c",
            "fd00",
            &"x".repeat(33),
        ] {
            assert!(Interface::parse(other).is_none() || other == "fd00", "{other}");
        }
    }
}
