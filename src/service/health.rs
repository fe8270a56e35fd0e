//! `health:` of a frontend: how its backends are checked.

use crate::error::{refuse, Error};
use crate::net::port_number;
use crate::text::number;
use crate::text::{one_of, Shown};

/// A key of a mapping, and what belongs there, for people.
pub type Key = (&'static str, &'static str);

/// The keys of the mapping, and what belongs to each.
pub const KEYS: [Key; 9] = [
    ("type", "`tcp` or `http`"),
    ("interval", "a time such as 500ms or 2s"),
    ("timeout", "a time such as 500ms or 2s"),
    ("fall", "a number of checks in 1-255"),
    ("rise", "a number of checks in 1-255"),
    ("path", "a path such as /health"),
    ("expect", "a status, a range of them such as 200-399, or a text of the body"),
    ("port", "a port"),
    ("on_all_down", "`keep` or `reject`"),
];

/// Those that only a check by http has.
const OF_HTTP: [&str; 2] = ["path", "expect"];

/// Shortest and longest interval, in milliseconds.
const INTERVALS: (u64, u64) = (100, 3_600_000);

/// Longest path or text, in bytes.
const LONGEST: usize = 256;

/// How backends are checked. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// By an http request; else a TCP connection is enough.
    pub http: bool,
    /// A backend that stops answering is out after [`fall`](Self::fall) of these.
    pub interval: u64,
    /// A check without an answer by then has failed. At most half of `interval`.
    pub timeout: u64,
    /// How many checks in a row have to fail. Not 0.
    pub fall: u64,
    /// How many checks in a row have to be good. Not 0.
    pub rise: u64,
    /// What is asked for: printable ASCII without blanks.
    pub path: String,
    /// The lowest and the highest status that is good.
    pub statuses: (u64, u64),
    /// What the body has to contain.
    pub text: String,
    /// Another port than that of the backend.
    pub port: Option<u16>,
    /// When all are down, new connections are refused; else whoever was chosen last stays.
    pub reject: bool,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            http: false,
            interval: 2000,
            timeout: 0,
            fall: 3,
            rise: 2,
            path: "/".to_owned(),
            statuses: (200, 399),
            text: String::new(),
            port: None,
            reject: false,
        }
    }
}

impl Health {
    /// Takes the value of a key.
    pub fn take(&mut self, key: &str, text: &str) -> Result<(), Error> {
        match key {
            "type" => self.http = second_of(["tcp", "http"], text)?,
            "interval" => self.interval = milliseconds(text)?,
            "timeout" => self.timeout = milliseconds(text)?,
            "fall" => self.fall = checks(text)?,
            "rise" => self.rise = checks(text)?,
            "path" => self.path = path(text)?,
            "expect" => (self.statuses, self.text) = expectation(text)?,
            "port" => self.port = Some(port_number(text)?),
            _ => self.reject = second_of(["keep", "reject"], text)?,
        }
        Ok(())
    }

    /// Judges what the values say together, given the keys that were there.
    pub fn finish(&mut self, seen: &[&str]) -> Result<(), Error> {
        let (least, most) = INTERVALS;
        if self.interval < least || self.interval > most {
            return refuse!("an interval of {} ms is not in 100ms-3600s", self.interval);
        }
        if !seen.contains(&"timeout") {
            self.timeout = 1000.min(self.interval / 2);
        }
        // Else there would be no time for the next check before the backend has to be out.
        let half = self.interval / 2;
        if self.timeout == 0 || self.timeout > half {
            return refuse!("a timeout of {} ms is not in 1-{half} ms, half of the interval", self.timeout);
        }
        match OF_HTTP.iter().find(|key| seen.contains(key)) {
            Some(key) if !self.http => refuse!("`{key}` is for checks with `type: http`"),
            _ => Ok(()),
        }
    }

    /// The time from the beginning of a check to that of the next, if it is over by then: so short that a backend which
    /// falls silent right after a good check has failed `fall` checks when `interval` × `fall` is over.
    pub fn pace(&self) -> u64 {
        self.interval - self.timeout.div_ceil(self.fall)
    }
}

fn second_of(words: [&str; 2], text: &str) -> Result<bool, Error> {
    one_of("there is no", &words, text).map(|at| at == 1)
}

fn milliseconds(text: &str) -> Result<u64, Error> {
    let (digits, unit) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s').unwrap_or(""), 1000),
    };
    match number(digits, INTERVALS.1) {
        Some(number) => Ok(number * unit),
        None => refuse!("`{}` is not a time: write it as 500ms or 2s", Shown(text)),
    }
}

fn checks(text: &str) -> Result<u64, Error> {
    match number(text, 255) {
        Some(checks) if checks > 0 => Ok(checks),
        _ => refuse!("`{}` is not a number of checks in 1-255", Shown(text)),
    }
}

fn path(text: &str) -> Result<String, Error> {
    if text.starts_with('/') && text.len() <= LONGEST && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    refuse!("`{}` is not a path: at most {LONGEST} characters without blanks, and the first is a slash", Shown(text))
}

/// A status, a range of them, or a text.
fn expectation(text: &str) -> Result<((u64, u64), String), Error> {
    let any = Health::default().statuses;
    if text.is_empty() || text.len() > LONGEST {
        return refuse!("a text to be expected has 1-{LONGEST} bytes");
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        return match (number(low, 599), number(high, 599)) {
            (Some(low), Some(high)) if low >= 100 && low <= high => Ok(((low, high), String::new())),
            _ => refuse!("`{text}` is not a status in 100-599, nor a range of them such as 200-399"),
        };
    }
    Ok((any, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_falls_silent_is_out_in_time_and_checks_do_not_crowd() {
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

    #[test]
    fn values_are_judged() {
        let taken = |key: &str, text: &str| {
            let mut health = Health::default();
            health.take(key, text).map(|()| health).map_err(|error| error.to_string())
        };
        assert_eq!(taken("interval", "500ms").unwrap().interval, 500);
        assert_eq!(taken("timeout", "2s").unwrap().timeout, 2000);
        assert_eq!(taken("expect", "200").unwrap().statuses, (200, 200));
        assert_eq!(taken("expect", "ready, 200-399").unwrap().text, "ready, 200-399");
        for (key, text, why) in [
            ("type", "https", "did you mean `http`?"),
            ("interval", "2", "500ms or 2s"),
            ("interval", "2m", "500ms or 2s"),
            ("interval", "-2s", "500ms or 2s"),
            ("interval", "99999999999999999999s", "500ms or 2s"),
            ("fall", "0", "1-255"),
            ("rise", "256", "1-255"),
            ("path", "health", "slash"),
            ("path", "/a b", "blanks"),
            ("expect", "99", "100-599"),
            ("expect", "400-200", "100-599"),
            ("expect", "", "1-256"),
            ("port", "0", "1-65535"),
            ("on_all_down", "drop", "allowed: keep, reject"),
        ] {
            let said = taken(key, text).unwrap_err();
            assert!(said.contains(why), "{key}: {text}: {said}");
        }
    }
}
