//! How the backends of a frontend are checked.

/// `health:` of a frontend. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// With an http request; else a TCP connection is enough.
    pub http: bool,
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
    /// A text that the body must contain; at most 256 bytes, empty if any body is good.
    pub text: String,
    /// Checks go to this port instead of the backend's.
    pub port: Option<u16>,
    /// When all backends are down, new connections are rejected; else the backends chosen last stay in force.
    pub reject: bool,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            http: false,
            interval: 2000,
            timeout: 1000,
            fall: 3,
            rise: 2,
            path: "/".to_owned(),
            host: String::new(),
            statuses: (200, 399),
            text: String::new(),
            port: None,
            reject: false,
        }
    }
}

impl Health {
    /// The time from the beginning of a check to that of the next, if the check is over by then: short enough that a
    /// backend which goes silent right after a good check has failed `fall` checks within `interval` × `fall`.
    pub fn pace(&self) -> u64 {
        self.interval - self.timeout.div_ceil(self.fall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_backend_is_out_in_time_and_checks_keep_their_distance() {
        for (interval, timeout, fall) in
            [(2000, 1000, 3), (2000, 1000, 1), (2000, 999, 2), (100, 50, 1), (2000, 1, 255)]
        {
            let health = Health { interval, timeout, fall, ..Health::default() };
            let pace = health.pace();
            // The last good check began at 0; each of the next takes its whole time.
            let out = pace + (fall - 1) * pace.max(timeout) + timeout;
            assert!(pace >= interval / 2 && out <= interval * fall, "{health:?}: {pace} {out}");
        }
    }
}
