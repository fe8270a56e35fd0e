//! What clients connect to.

use std::fmt;

use super::interface::Written;
use super::ports::Ports;
use crate::net::Endpoint;

/// An address, a protocol, and ports of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// With the first of the ports; no other bind has it.
    pub at: Endpoint,
    /// All ports.
    pub ports: Ports,
}

impl Bind {
    /// Of one port.
    pub fn one(at: Endpoint) -> Self {
        Bind { at, ports: Ports::one(at.port()) }
    }

    /// Whether a connection can be to both.
    pub fn meets(&self, other: &Bind) -> bool {
        let same = self.at.ip() == other.at.ip() && self.at.protocol() == other.at.protocol();
        same && self.ports.meets(&other.ports)
    }

    /// Whether connections to an address and port are connections to it.
    pub fn has(&self, to: &Endpoint) -> bool {
        self.at.ip() == to.ip() && self.at.protocol() == to.protocol() && self.ports.has(to.port())
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Written { follows: None, at: self.at, ports: &self.ports }.fmt(f)
    }
}
