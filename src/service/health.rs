//! How the backends of a frontend are checked.

use crate::error::Error;
use crate::net::Protocol;
use crate::text::one_of;

/// What a check does. Each of them can check the backends of any frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Connects by TCP, which is enough.
    Tcp,
    /// Sends an http request.
    Http,
    /// Sends a datagram of the config's.
    Udp,
    /// Asks for the name servers of the root, by UDP.
    Dns,
}

impl Kind {
    /// All of them with their names in the config.
    pub const ALL: [(&'static str, Kind); 4] =
        [("tcp", Kind::Tcp), ("http", Kind::Http), ("udp", Kind::Udp), ("dns", Kind::Dns)];

    /// Reads the name of a kind.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let at = one_of("unknown value", &Self::ALL.map(|(name, _)| name), text)?;
        Ok(Self::ALL.get(at).map_or(Kind::Tcp, |(_, kind)| *kind))
    }

    /// The protocol that a check goes by.
    pub fn protocol(self) -> Protocol {
        match self {
            Kind::Tcp | Kind::Http => Protocol::Tcp,
            Kind::Udp | Kind::Dns => Protocol::Udp,
        }
    }
}

/// `health:` of a frontend. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What a check does.
    pub kind: Kind,
    /// A backend that stops answering is out after [`fall`](Self::fall) of these; 100 to 3,600,000.
    pub interval: u64,
    /// A check without an answer after this time has failed; 1 to `interval`.
    pub timeout: u64,
    /// This many failed checks in a row take a backend out; 1 to 255.
    pub fall: u64,
    /// This many good checks in a row bring it back; 1 to 255.
    pub rise: u64,
    /// The path of the request: printable ASCII without blanks, at most 256 bytes.
    pub path: String,
    /// What the request has as its `Host:`, a host name or an address, with or without a port, at most 256 bytes; empty for
    /// the address that is checked.
    pub host: String,
    /// The lowest and the highest status that is good.
    pub statuses: (u64, u64),
    /// What a check by UDP sends; 1 to 256 bytes.
    pub send: Vec<u8>,
    /// What the body or the datagram must contain; at most 256 bytes, empty if any is good.
    pub text: Vec<u8>,
    /// Checks go to this port instead of the backend's.
    pub port: Option<u16>,
    /// When all backends are down, new connections are rejected; else those in force stay so.
    pub reject: bool,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            kind: Kind::Tcp,
            interval: 2000,
            timeout: 1000,
            fall: 3,
            rise: 2,
            path: "/".to_owned(),
            host: String::new(),
            statuses: (200, 399),
            send: Vec::new(),
            text: Vec::new(),
            port: None,
            reject: false,
        }
    }
}

impl Health {
    /// The time from the beginning of a check to that of the next, if the check is over by then: short enough that a
    /// backend which goes silent right after a good check has failed `fall` checks within `interval` × `fall`. With a
    /// timeout of more than half of the interval it may take half an interval longer, since checks keep that distance.
    pub fn pace(&self) -> u64 {
        // All of it fits into 32 bits, and small processors divide those faster.
        let (interval, fall) = (self.interval as u32, self.fall as u32);
        let timeout = (self.timeout as u32).min(interval);
        // The first limit counts while a check is over when the next one is due, the second one when each begins at the
        // end of the one before.
        (interval - timeout.div_ceil(fall)).min(fall * (interval - timeout)).max(interval / 2).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_backend_is_out_in_time_and_checks_keep_their_distance() {
        for fall in [1, 2, 3, 10, 255] {
            for timeout in [1, 50, 999, 1000, 1001, 1200, 1500, 1667, 1800, 1999, 2000] {
                let health = Health { interval: 2000, timeout, fall, ..Health::default() };
                let (interval, pace) = (health.interval, health.pace());
                // The last good check began at 0; each of the next takes its whole time.
                let out = pace + (fall - 1) * pace.max(timeout) + timeout;
                let late = if timeout * 2 > interval { interval / 2 } else { 0 };
                assert!(pace >= interval / 2 && out <= interval * fall + late, "{health:?}: {pace} {out}");
            }
        }
        // Only where it cannot be otherwise.
        let health = Health { interval: 2000, timeout: 1600, fall: 3, ..Health::default() };
        assert!(health.pace() + 3 * 1600 <= 6000);
    }
}
