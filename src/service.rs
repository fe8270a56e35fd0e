//! What a valid config means. These types cannot hold an invalid state: whoever has a [`Service`] can render it.

use crate::error::{nearest, one_of, refuse, Error, Shown};
use crate::health::Health;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Most addresses that a `privateip` range may name.
pub const MOST_SOURCES: u128 = 256;

/// Most backends of one frontend.
pub const MOST_BACKENDS: usize = 1024;

/// Longest name of a frontend, in bytes. With `PG-`, a slash and three digits it fills the 28 bytes of a chain name.
pub const LONGEST_NAME: usize = 21;

/// The address family, which decides which tool (`iptables` or `ip6tables`) has the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// As socket(2) calls it.
    pub fn domain(self) -> libc::c_int {
        match self {
            Family::V4 => libc::AF_INET,
            Family::V6 => libc::AF_INET6,
        }
    }

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// Whether `text` has this character. (`str::contains` brings the search for any text with it: 3 KiB of the binary.)
pub(crate) fn has(text: &str, c: char) -> bool {
    text.chars().any(|other| other == c)
}

/// A unicast address. Its text is the same in Rust, in iptables and in the config.
fn unicast(text: &str) -> Result<IpAddr, Error> {
    let ip: IpAddr = text.parse().or_else(|_| no_address(text))?;
    let shown = Shown(text);
    let reserved = match ip {
        // The kernel never sees a packet to 0.0.0.0 or ::, and one to many hosts is no TCP.
        _ if ip.is_unspecified() => Some("stands for no address in particular; give the address of one host"),
        _ if ip.is_multicast() => Some("is a multicast address; give the address of one host"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("is the broadcast address; give the address of one host"),
        IpAddr::V6(v6) if v6.to_ipv4().is_some() && !ip.is_loopback() => {
            Some("is an IPv4 address in IPv6 clothes; write the IPv4 address")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("is link-local, and rules cannot say on which link"),
        _ => None,
    };
    match reserved {
        Some(why) => refuse!("`{shown}` {why}"),
        None => Ok(ip),
    }
}

/// Says why `text` is no IP address, for the one who wrote it.
fn no_address(text: &str) -> Result<IpAddr, Error> {
    let shown = Shown(text);
    let numbers = |t: &str| t.split('.').all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let why = if text.is_empty() {
        return refuse!("the address is missing");
    } else if has(text, '%') {
        "names a zone; an address in a rule has none"
    } else if has(text, '/') {
        "is a network; give one address"
    } else if numbers(text) {
        if text.split('.').any(|part| part.len() > 1 && part.starts_with('0')) {
            "has a leading zero; write each of the four numbers plainly, as in 192.0.2.1"
        } else {
            "is not an IPv4 address: four numbers from 0 to 255, as in 192.0.2.1"
        }
    } else if has(text, ':') {
        "is not an IPv6 address, as in 2001:db8::1"
    } else if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        "is a name; rules hold addresses only, so write its IP address"
    } else {
        "is not an IP address"
    };
    refuse!("`{shown}` {why}")
}

/// An address and a port that a TCP connection can go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    ip: IpAddr,
    port: u16,
}

impl Endpoint {
    /// Reads `192.0.2.1:80` or `[2001:db8::1]:80`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        const FORM: &str = "write address:port, as in 192.0.2.1:80 or \"[2001:db8::1]:80\"";
        let shown = Shown(text);
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, port)) => match port.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None => return refuse!("`{shown}` is not an address and a port; {FORM}"),
                },
                None => return refuse!("`{shown}` lacks its `]`; {FORM}"),
            },
            None => match text.rsplit_once(':') {
                Some((host, _)) if has(host, ':') => {
                    return refuse!("`{shown}`: an IPv6 address stands in brackets; {FORM}");
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            None | Some("") => return refuse!("`{shown}` has no port; {FORM}"),
            Some(port) => port_number(port)?,
        };
        let ip = unicast(host)?;
        if text.starts_with('[') != ip.is_ipv6() {
            return refuse!("`{shown}`: brackets are for IPv6 addresses; {FORM}");
        }
        Ok(Endpoint { ip, port })
    }

    /// From an address and a port as other programs print them, each by itself.
    pub fn of(ip: &str, port: &str) -> Option<Self> {
        let text = if has(ip, ':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
        Self::parse(&text).ok()
    }

    /// The address.
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// The port, never 0.
    pub fn port(self) -> u16 {
        self.port
    }

    /// The same address with another port, if one is given (never 0).
    #[must_use]
    pub fn with_port(self, port: Option<u16>) -> Self {
        Endpoint { port: port.unwrap_or(self.port), ..self }
    }

    /// For the standard library's sockets.
    pub fn socket(self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    /// The address family.
    pub fn family(self) -> Family {
        Family::of(self.ip)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { ip, port } = self;
        match self.family() {
            Family::V4 => write!(f, "{ip}:{port}"),
            Family::V6 => write!(f, "[{ip}]:{port}"),
        }
    }
}

/// A number of at most `most`, in decimal digits and nothing else.
pub fn number(text: &str, most: u64) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number <= most)
}

/// Reads a port, 1 to 65535, written plainly.
pub fn port_number(text: &str) -> Result<u16, Error> {
    let shown = Shown(text);
    match number(text, u16::MAX.into()) {
        _ if text.bytes().any(|b| !b.is_ascii_digit()) => refuse!("port `{shown}` is not a number in 1-65535"),
        Some(0) | None => refuse!("port {shown} is not in 1-65535"),
        Some(_) if text.starts_with('0') => refuse!("port {shown} has a leading zero; write it plainly"),
        Some(port) => Ok(port as u16),
    }
}

/// The source address that backends see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The address of the interface that the connection leaves by (`privateip` left out, or `auto`).
    Masquerade,
    /// One address, or one of a range: first and last, of one family, first ≤ last.
    Addresses(IpAddr, IpAddr),
    /// The client's own (`none`): the backends must route back through this host.
    Client,
}

impl Source {
    /// Reads `172.19.0.4`, `172.19.0.4-172.19.0.7`, `auto` or `none`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let shown = Shown(text);
        match text {
            "auto" => return Ok(Source::Masquerade),
            "none" => return Ok(Source::Client),
            "" => return refuse!("an address, a range first-last, `auto` or `none` is missing"),
            _ => {}
        }
        // An address never contains a dash.
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (source_address(first.trim_ascii())?, source_address(last.trim_ascii())?);
        let size = match (first, last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(u32::from(b)).checked_sub(u32::from(a).into()),
            (IpAddr::V6(a), IpAddr::V6(b)) => u128::from(b).checked_sub(u128::from(a)),
            _ => return refuse!("the range `{shown}` mixes IPv4 and IPv6"),
        };
        match size {
            None => refuse!("the range `{shown}` is upside down; write {last}-{first}"),
            Some(size) if size >= MOST_SOURCES => {
                refuse!("the range `{shown}` has more than {MOST_SOURCES} addresses")
            }
            Some(_) => Ok(Source::Addresses(first, last)),
        }
    }

    /// The family of the addresses, where there are any.
    pub fn family(self) -> Option<Family> {
        match self {
            Source::Addresses(first, _) => Some(Family::of(first)),
            Source::Masquerade | Source::Client => None,
        }
    }
}

fn source_address(text: &str) -> Result<IpAddr, Error> {
    if Endpoint::parse(text).is_ok() {
        return refuse!("`{}` has a port; give the address alone", Shown(text));
    }
    if let Some(word) = nearest(text, &["auto", "none"]) {
        return refuse!("there is no privateip `{}`; did you mean `{word}`?", Shown(text));
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    match unicast(bare) {
        Ok(ip) if ip.is_loopback() => {
            refuse!("`{}` is a loopback address, to which no backend can answer", Shown(text))
        }
        Ok(ip) => Ok(ip),
        Err(why) => refuse!("{why}; or write a range first-last, `auto` or `none`"),
    }
}

/// A frontend's name: the middle of the names of its chains, so that it stays when a neighbour changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// A name that a person gave: letters, digits, `-`, `_` and `.`, beginning with a letter or a digit.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let begins_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if begins_well && text.len() <= LONGEST_NAME && text.bytes().all(plain) {
            return Ok(Name(text.to_owned()));
        }
        refuse!(
            "name `{}` is not 1 to {LONGEST_NAME} letters, digits, `-`, `_` or `.` that begin with a letter or a digit",
            Shown(text)
        )
    }

    /// The name of a frontend without one: its bind, where that is short enough for a chain's name.
    pub fn of_bind(bind: Endpoint) -> Self {
        let text = bind.to_string();
        if text.len() <= LONGEST_NAME {
            return Name(text);
        }
        Name(format!("v6:{:016x}", fnv1a(text.as_bytes())))
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

/// Largest weight of a backend.
pub const MOST_WEIGHT: u16 = 256;

/// Reads a weight, 0 to [`MOST_WEIGHT`].
pub fn weight(text: &str) -> Result<u16, Error> {
    match number(text, MOST_WEIGHT.into()) {
        Some(weight) if text == "0" || !text.starts_with('0') => Ok(weight as u16),
        _ => refuse!("weight `{}` is not in 0-{MOST_WEIGHT}", Shown(text)),
    }
}

/// FNV-1a, 64 bits: keeps the endpoints of one config apart, the same way on every machine and in every version.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, hash)
}

/// One that takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Where its connections go.
    pub address: Endpoint,
    /// Its share of new connections in proportion to the others' weights, at most [`MOST_WEIGHT`]. With 0 it gets none,
    /// and keeps those that it has.
    pub weight: u16,
    /// The same as the config says: what it gets while it is chosen.
    pub nominal: u16,
    /// It is chosen only while no other takes connections.
    pub backup: bool,
}

/// Who gets the next connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Schedule {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// Anyone.
    Random,
    /// Always the same for the same client.
    Source,
}

impl Schedule {
    /// All of them with their names in the config.
    pub const ALL: [(&'static str, Schedule); 3] =
        [("roundrobin", Schedule::RoundRobin), ("random", Schedule::Random), ("source", Schedule::Source)];

    /// Reads a name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let at = one_of("there is no schedule", &Self::ALL.map(|(name, _)| name), text)?;
        Ok(Self::ALL.get(at).map_or(Schedule::RoundRobin, |(_, schedule)| *schedule))
    }
}

/// One frontend with all that belongs to it. [`config`](crate::config) is the only maker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Unique in a config.
    pub name: Name,
    /// What clients connect to; unique in a config.
    pub bind: Endpoint,
    /// The source address that backends see.
    pub source: Source,
    /// At least one; each address once; of the bind's family; none is the bind.
    pub backends: Vec<Backend>,
    /// Who gets the next connection. Round robin has at most [`MOST_SLOTS`](crate::schedule::MOST_SLOTS) slots, source
    /// at most [`BUCKETS`](crate::schedule::BUCKETS) backends.
    pub schedule: Schedule,
    /// How the backends are checked; nothing where they are taken for alive.
    pub health: Option<Box<Health>>,
}

impl Service {
    /// Chooses who takes connections while some backends are `down`: all others, and the backups only if there is nobody
    /// else. If all are down and nothing else is wanted, whoever was chosen before stays.
    pub fn choose(&mut self, down: &[Endpoint]) {
        let lives = |backend: &Backend| backend.nominal > 0 && !down.contains(&backend.address);
        let (mut others, mut backups) = (false, false);
        for backend in &self.backends {
            others |= lives(backend) && !backend.backup;
            backups |= lives(backend) && backend.backup;
        }
        if !others && !backups && !down.is_empty() && self.health.as_ref().is_some_and(|health| !health.reject) {
            // Nobody may have been chosen who is still there: then they are as good as each other.
            if self.backends.iter().all(|backend| backend.weight == 0) {
                self.choose(&[]);
            }
            return;
        }
        for backend in &mut self.backends {
            backend.weight = if lives(backend) && backend.backup != others { backend.nominal } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_what_it_was_written_as() {
        for text in ["166.1.101.2:4444", "127.0.0.1:1", "255.255.255.254:65535", "[2001:db8::1]:80", "[::1]:8080"] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_told_why() {
        for (text, why) in [
            ("", "has no port"),
            ("172.19.0.2", "has no port"),
            ("172.19.0.2:", "has no port"),
            ("172.19.0.2:0", "port 0 is not in 1-65535"),
            ("172.19.0.2:70000", "port 70000 is not in 1-65535"),
            ("172.19.0.2:99999999999999999999", "is not in 1-65535"),
            ("172.19.0.2:+80", "is not a number"),
            ("172.19.0.2:080", "leading zero"),
            ("172.19.0.2:http", "port `http` is not a number"),
            ("256.1.1.1:80", "`256.1.1.1` is not an IPv4 address"),
            ("172.019.0.2:80", "leading zero"),
            ("1.2.3:80", "is not an IPv4 address"),
            ("web.example:80", "`web.example` is a name"),
            (":80", "the address is missing"),
            ("0.0.0.0:80", "stands for no address"),
            ("[::]:80", "stands for no address"),
            ("224.0.0.1:80", "multicast"),
            ("255.255.255.255:80", "broadcast"),
            ("[::ffff:1.2.3.4]:80", "IPv4 address in IPv6 clothes"),
            ("[fe80::1]:80", "link-local"),
            ("[fe80::1%eth0]:80", "zone"),
            ("fd00::1:80", "stands in brackets"),
            ("[fd00::1:80", "lacks its `]`"),
            ("[fd00::1]80", "is not an address and a port"),
            ("[fd00::1]", "has no port"),
            ("[1.2.3.4]:80", "brackets are for IPv6"),
            ("10.0.0.0/8:80", "is a network"),
            ("$(reboot):80", "is not an IP address"),
        ] {
            let said = Endpoint::parse(text).unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn a_source_is_an_address_a_range_or_a_word() {
        let one = |text: &str| Source::Addresses(text.parse().unwrap(), text.parse().unwrap());
        assert_eq!(Source::parse("172.19.0.4").unwrap(), one("172.19.0.4"));
        assert_eq!(Source::parse("[fd00::4]").unwrap(), one("fd00::4"));
        assert_eq!(
            Source::parse("172.19.0.4-172.19.0.7").unwrap(),
            Source::Addresses("172.19.0.4".parse().unwrap(), "172.19.0.7".parse().unwrap())
        );
        assert_eq!(Source::parse("auto").unwrap(), Source::Masquerade);
        assert_eq!(Source::parse("none").unwrap(), Source::Client);
        for (text, why) in [
            ("", "missing"),
            ("172.19.0.9-172.19.0.4", "upside down"),
            ("172.19.0.4-fd00::4", "mixes"),
            ("10.0.0.1-10.0.1.1", "more than 256"),
            ("172.19.0.4:80", "has a port"),
            ("web", "`auto` or `none`"),
            ("None", "did you mean `none`?"),
            ("127.0.0.1", "is a loopback address"),
            ("0.0.0.0", "no address"),
        ] {
            let said = Source::parse(text).unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

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
