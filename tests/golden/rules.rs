//! Rules in the format of `iptables-save`, read into what the tracer walks.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

#[derive(Debug)]
pub enum Match {
    /// `tcp` or `udp`.
    Protocol(String),
    Source {
        ip: IpAddr,
        mask: u128,
    },
    Destination {
        ip: IpAddr,
        mask: u128,
    },
    Port(u16, u16),
    Every {
        n: u32,
        packet: u32,
        seen: u32,
    },
    /// Out of 2³¹.
    Probability(u64),
    Dnatted,
    /// Only packets of established connections: never those of a new one.
    Established,
    OriginalTo(IpAddr),
    OriginalPort(u16, u16),
}

#[derive(Debug, Clone)]
pub enum Target {
    Go(String),
    Accept,
    Drop,
    Return,
    /// Port 0 keeps that of the packet.
    Dnat(SocketAddr),
    Snat(IpAddr),
    Masquerade,
    Nothing,
}

#[derive(Debug)]
pub struct Rule {
    pub matches: Vec<Match>,
    pub target: Target,
}

#[derive(Debug, Default)]
pub struct Chain {
    pub drops: bool,
    pub rules: Vec<Rule>,
}

pub type Table = BTreeMap<String, Chain>;

/// Reads a text of rules: the tables by name.
pub fn tables(text: &str) -> BTreeMap<String, Table> {
    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    let mut name = "";
    for line in text.lines() {
        if let Some(table) = line.strip_prefix('*') {
            name = table;
            tables.entry(name.to_owned()).or_default();
            continue;
        }
        let Some(table) = tables.get_mut(name) else { continue };
        let words: Vec<&str> = split(line);
        match words.as_slice() {
            [declared, policy, ..] if declared.starts_with(':') => {
                let chain = Chain { drops: *policy == "DROP", rules: Vec::new() };
                table.insert(declared[1..].to_owned(), chain);
            }
            ["-A", chain, rule @ ..] => table.entry((*chain).to_owned()).or_default().rules.push(parse(rule)),
            ["-I", chain, place, rule @ ..] if place.parse::<usize>().is_ok() => {
                table
                    .entry((*chain).to_owned())
                    .or_default()
                    .rules
                    .insert(place.parse::<usize>().unwrap() - 1, parse(rule));
            }
            ["-I", chain, rule @ ..] => table.entry((*chain).to_owned()).or_default().rules.insert(0, parse(rule)),
            ["COMMIT"] => name = "",
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            other => panic!("the tracer does not know {other:?}"),
        }
    }
    tables
}

/// The words of a line; one in quotes may contain blanks.
fn split(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for (n, part) in line.split('"').enumerate() {
        if n % 2 == 1 {
            words.push(part);
        } else {
            words.extend(part.split_whitespace());
        }
    }
    words
}

/// A rule without `-A CHAIN`.
fn parse(words: &[&str]) -> Rule {
    let mut matches = Vec::new();
    let mut target = Target::Nothing;
    let (mut every, mut packet) = (None, 0);
    let mut words = words.iter().copied();
    while let Some(option) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{option} without a value"));
        match option {
            "-p" => {
                let protocol = value();
                assert!(["tcp", "udp"].contains(&protocol));
                matches.push(Match::Protocol(protocol.to_owned()));
            }
            "-m" => assert!(["tcp", "udp", "statistic", "conntrack", "comment"].contains(&value())),
            "-s" | "-d" => {
                let (ip, mask) = network(value());
                matches.push(if option == "-s" { Match::Source { ip, mask } } else { Match::Destination { ip, mask } });
            }
            "--dport" => {
                let (first, last) = range(value());
                matches.push(Match::Port(first, last));
            }
            "--mode" => assert!(["nth", "random"].contains(&value())),
            "--every" => every = Some(value().parse().unwrap()),
            "--packet" => packet = value().parse().unwrap(),
            "--probability" => {
                let share: f64 = value().parse().unwrap();
                matches.push(Match::Probability((share * f64::from(1_u32 << 31)).round() as u64));
            }
            "--ctstate" => matches.push(match value() {
                "DNAT" => Match::Dnatted,
                "RELATED,ESTABLISHED" => Match::Established,
                "NEW" => continue,
                other => panic!("the tracer does not know --ctstate {other}"),
            }),
            "--ctproto" => {
                let name = if value() == "6" { "tcp" } else { "udp" };
                matches.push(Match::Protocol(name.to_owned()));
            }
            "--ctorigdst" => matches.push(Match::OriginalTo(value().parse().unwrap())),
            "--ctorigdstport" => {
                let (first, last) = range(value());
                matches.push(Match::OriginalPort(first, last));
            }
            // A new connection begins with such a packet.
            "--tcp-flags" => {
                assert_eq!(value(), "FIN,SYN,RST,ACK");
                assert_eq!(value(), "SYN");
            }
            "--reject-with" => {
                assert!(["tcp-reset", "icmp-port-unreachable", "icmp6-port-unreachable"].contains(&value()));
            }
            "--comment" => drop(value()),
            "-j" => {
                target = match value() {
                    "ACCEPT" => Target::Accept,
                    "DROP" | "REJECT" => Target::Drop,
                    "RETURN" => Target::Return,
                    "MASQUERADE" => Target::Masquerade,
                    "DNAT" | "SNAT" => Target::Nothing,
                    chain => Target::Go(chain.to_owned()),
                }
            }
            "--to-destination" => {
                let to = value();
                target = Target::Dnat(to.parse().unwrap_or_else(|_| SocketAddr::new(to.parse().unwrap(), 0)));
            }
            "--to-source" => target = Target::Snat(value().split('-').next().unwrap().parse().unwrap()),
            other => panic!("the tracer does not know {other}"),
        }
    }
    if let Some(n) = every {
        matches.push(Match::Every { n, packet, seen: 0 });
    }
    Rule { matches, target }
}

/// `80` or `80:90`.
fn range(text: &str) -> (u16, u16) {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    (first.parse().unwrap(), last.parse().unwrap())
}

/// `10.0.0.0/8`, `10.0.0.1`, `0.0.0.1/0.0.0.1`, and the same in IPv6.
fn network(text: &str) -> (IpAddr, u128) {
    let (ip, mask) = text.split_once('/').unwrap_or((text, ""));
    let ip: IpAddr = ip.parse().unwrap();
    let all = if ip.is_ipv4() { 32 } else { 128 };
    let mask = match (mask, mask.parse::<u32>()) {
        ("", _) => u128::MAX,
        (_, Ok(0)) => 0,
        (_, Ok(length)) => u128::MAX << (all - length),
        (mask, Err(_)) => bits(mask.parse().unwrap()),
    };
    (ip, mask)
}

/// An address as a number.
pub fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}
