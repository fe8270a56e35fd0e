//! The ports of a bind.

use std::fmt;

use crate::error::{refuse, Error};
use crate::net::port_number;
use crate::text::{has, part, Shown};

/// Most ports and ranges of one bind.
const MOST: usize = 16;

/// One port, a range, or several of both: first and last of each, sorted, none within another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// One.
    pub fn one(port: u16) -> Self {
        Ports(vec![(port, port)])
    }

    /// A range.
    pub fn range(first: u16, last: u16) -> Self {
        Ports(vec![(first, last)])
    }

    /// Reads `80`, `5000-5100`, or a list of both: `[80, 443, 8000-8100]`, with or without brackets.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        let mut rest = Some(bare);
        while let Some(list) = rest {
            let (one, behind) = part(list, ",").map_or((list, None), |(one, behind)| (one, Some(behind)));
            rest = behind;
            let one = one.trim_ascii();
            let (first, last) = part(one, "-").unwrap_or((one, one));
            if first.is_empty() || last.is_empty() {
                return refuse!(
                    "`{}` lacks a port; write one, a range as 5000-5100, or a list as [80, 443]",
                    Shown(text)
                );
            }
            let (first, last) = (port_number(first.trim_ascii_end())?, port_number(last.trim_ascii_start())?);
            if first > last {
                return refuse!("the range `{}` begins with its last port; write {last}-{first}", Shown(one));
            }
            ranges.push((first, last));
        }
        ranges.sort_unstable();
        let mut before: Option<(u16, u16)> = None;
        for (first, last) in &ranges {
            if before.is_some_and(|(_, end)| *first <= end) {
                return refuse!("`{}` has port {first} twice", Shown(text));
            }
            before = Some((*first, *last));
        }
        if ranges.len() > MOST {
            return refuse!("`{}` has more than {MOST} ports and ranges", Shown(text));
        }
        Ok(Ports(ranges))
    }

    /// First and last of each range.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// The first one.
    pub fn first(&self) -> u16 {
        self.0.first().map_or(0, |(first, _)| *first)
    }

    /// Whether there is just one.
    pub fn is_one(&self) -> bool {
        matches!(self.0.as_slice(), [(first, last)] if first == last)
    }

    /// Whether a port is one of them.
    pub fn has(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// Whether a backend with this port can get connections to one of them; 0 keeps the client's port.
    pub fn has_or_keeps(&self, port: u16) -> bool {
        port == 0 || self.has(port)
    }

    /// Whether a port is one of both.
    pub fn meets(&self, other: &Ports) -> bool {
        other.0.iter().any(|(first, last)| self.0.iter().any(|(from, to)| from <= last && first <= to))
    }

    /// Adds a range, which another program may have changed.
    pub fn add(&mut self, range: (u16, u16)) {
        if let Err(at) = self.0.binary_search(&range) {
            self.0.insert(at, range);
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let several = self.0.len() > 1;
        f.write_str(if several { "[" } else { "" })?;
        let mut comma = "";
        for (first, last) in &self.0 {
            write!(f, "{comma}{first}")?;
            if first != last {
                write!(f, "-{last}")?;
            }
            comma = ", ";
        }
        f.write_str(if several { "]" } else { "" })
    }
}

/// Whether a text behind an address can be ports that are not one alone.
pub fn are_several(text: &str) -> bool {
    has(text, ',') || has(text, '-') || text.starts_with('[')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_written() {
        for (text, written) in [
            ("80", "80"),
            ("5000-5100", "5000-5100"),
            ("[80, 443]", "[80, 443]"),
            ("443,80", "[80, 443]"),
            ("[8000-8100,53]", "[53, 8000-8100]"),
            ("7-7", "7"),
            ("1-65535", "1-65535"),
        ] {
            assert_eq!(Ports::parse(text).unwrap().to_string(), written, "{text}");
        }
        for (text, why) in [
            ("", "lacks a port"),
            ("0", "port 0"),
            ("80-", "lacks a port"),
            ("5100-5000", "write 5000-5100"),
            ("80,80", "port 80 twice"),
            ("80-90,85", "port 85 twice"),
            ("80,,443", "lacks a port"),
            ("[80, 443", "not a number"),
            ("65536", "65536"),
            ("1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", "more than 16"),
        ] {
            let said = Ports::parse(text).unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
        let ports = Ports::parse("53,5000-5100").unwrap();
        assert!(ports.has(53) && ports.has(5050) && !ports.has(5101) && !ports.is_one() && ports.first() == 53);
        assert!(ports.meets(&Ports::parse("5100-5200").unwrap()) && !ports.meets(&Ports::parse("54-4999").unwrap()));
    }
}
