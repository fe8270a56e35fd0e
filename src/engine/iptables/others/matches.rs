//! Which packets of balanced connections a rule of others applies to, as far as its text tells.

use std::net::IpAddr;

use super::super::words::Words;
use crate::net::{self, Endpoint, Family, Protocol};
use crate::text::number;

/// What a rule tells apart among the packets in question: a bit for each condition, so that all of them are copied and joined
/// at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Only(u8);

/// Not to all, as far as can be told.
const PARTLY: u8 = 1;

impl Only {
    /// To all packets.
    pub const ALL: Only = Only(0);
    /// Only to those of some clients, or at some times: a ban, or a limit.
    pub const CLIENTS: Only = Only(2 | PARTLY);
    /// Only to clients that come by other interfaces than most.
    const ELSEWHERE: Only = Only(4 | PARTLY);
    /// Only to some frontends or backends.
    const SERVERS: Only = Only(8);
    /// Only to those that come in or leave by some interface, which may be all.
    const INTERFACES: Only = Only(16);
    /// It stands in a chain that firewalls leave to the administrator: nothing of it is there by default.
    pub const BY_HAND: Only = Only(32);
    /// Only to those that an ACCEPT before it in the same chain of others has left.
    pub const REST: Only = Only(64);

    /// Whether it has this condition.
    fn has(self, condition: Only) -> bool {
        self.0 & condition.0 & !PARTLY != 0
    }

    /// [`CLIENTS`](Self::CLIENTS).
    pub fn clients(self) -> bool {
        self.has(Only::CLIENTS)
    }

    /// [`ELSEWHERE`](Self::ELSEWHERE).
    pub fn elsewhere(self) -> bool {
        self.has(Only::ELSEWHERE)
    }

    /// [`SERVERS`](Self::SERVERS).
    pub fn servers(self) -> bool {
        self.has(Only::SERVERS)
    }

    /// [`INTERFACES`](Self::INTERFACES).
    pub fn interfaces(self) -> bool {
        self.has(Only::INTERFACES)
    }

    /// [`BY_HAND`](Self::BY_HAND).
    pub fn by_hand(self) -> bool {
        self.has(Only::BY_HAND)
    }

    /// [`REST`](Self::REST).
    pub fn rest(self) -> bool {
        self.has(Only::REST)
    }

    /// What two conditions together tell apart.
    pub fn and(self, other: Only) -> Only {
        Only(self.0 | other.0)
    }

    /// It applies to all of the packets.
    pub fn is_all(self) -> bool {
        self.0 & PARTLY == 0
    }

    /// It is about whatever passes, and not meant for some clients or servers.
    pub fn is_general(self) -> bool {
        !self.is_for_some_clients() && !self.servers() && !self.by_hand()
    }

    /// Most likely it leaves other clients alone.
    pub fn is_for_some_clients(self) -> bool {
        self.clients() || self.elsewhere()
    }
}

/// What is known of one end of a packet.
#[derive(Debug, Clone, Copy)]
pub enum End<'a> {
    /// A client.
    Client,
    /// One of these: a bind, or a backend.
    Server(&'a [Endpoint]),
}

/// What is known of an interface that a packet passes.
#[derive(Debug, Clone, Copy)]
pub enum Interface<'a> {
    /// This one.
    Named(&'a str),
    /// One of those by which clients come; with none of them, any. Others may come by other interfaces.
    Front(&'a [String]),
}

/// A kind of packets of balanced connections, at one hook.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Of its addresses.
    pub family: Family,
    /// What it is of.
    pub protocol: Protocol,
    /// Where it is from.
    pub source: End<'a>,
    /// Where it goes.
    pub destination: End<'a>,
    /// The interface by which it came in.
    pub input: Interface<'a>,
    /// The interface by which it will leave.
    pub output: Interface<'a>,
    /// Its place in its connection.
    pub stage: Stage,
    /// Its connection is known to have a changed destination.
    pub dnat: bool,
    /// It has an address of this host as its destination.
    pub local: bool,
    /// Where the client connected to.
    pub binds: &'a [Endpoint],
}

/// The place of a packet in its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A SYN.
    First,
    /// It does not begin a connection, and the kernel knows none that it belongs to.
    Stray,
    /// Of an established connection.
    Later,
}

/// Of a set of things, whether a condition holds for any and for all of them.
#[derive(Clone, Copy)]
struct Holds {
    any: bool,
    all: bool,
}

impl Holds {
    fn of(is: bool) -> Self {
        Holds { any: is, all: is }
    }

    /// For some, as far as anybody can tell.
    const FOR_SOME: Holds = Holds { any: true, all: false };

    /// Of some endpoints.
    fn among(all: &[Endpoint], is: &dyn Fn(&Endpoint) -> bool) -> Self {
        let mut holds = Holds { any: false, all: true };
        for one in all {
            holds.any |= is(one);
            holds.all &= is(one);
        }
        holds
    }
}

/// The packets that a rule applies to; `None` if to none. A condition that is not known tells clients apart.
pub fn reach(rule: &str, packet: &Packet<'_>) -> Option<Only> {
    let mut words = Words(rule);
    let (mut reach, mut not) = (Only::ALL, false);
    while let Some(word) = words.next() {
        if word == "!" {
            not = true;
            continue;
        }
        let mut value = || words.next().unwrap_or_default();
        // What the condition holds for, and what it tells apart unless it holds for all.
        let (holds, of) = match word {
            "-j" | "-g" => break,
            "-p" => (Holds::of(is_protocol(packet.protocol, value())), Only::CLIENTS),
            "-s" => (address(packet.source, value()), side(packet.source)),
            "-d" => (address(packet.destination, value()), side(packet.destination)),
            "-i" => interface(packet.input, value(), std::mem::take(&mut not)),
            "-o" => interface(packet.output, value(), std::mem::take(&mut not)),
            "--sport" | "--sports" => (ports(packet.source, value()), side(packet.source)),
            "--dport" | "--dports" => (ports(packet.destination, value()), side(packet.destination)),
            "--ctstate" | "--state" => (states(packet, value()), Only::CLIENTS),
            "--ctproto" => (Holds::of(is_protocol(packet.protocol, value())), Only::CLIENTS),
            "--ctorigdst" => (address(End::Server(packet.binds), value()), Only::SERVERS),
            "--ctorigdstport" => (ports(End::Server(packet.binds), value()), Only::SERVERS),
            "--tcp-flags" => {
                let mask = value();
                (flags(packet, mask, value()), Only::CLIENTS)
            }
            "--ctdir" => {
                let first = matches!(packet.source, End::Client);
                (Holds::of((value() == "ORIGINAL") == first), Only::CLIENTS)
            }
            "--pkt-type" => (Holds::of(value() == "unicast"), Only::CLIENTS),
            "--dst-range" => {
                value();
                (Holds::FOR_SOME, side(packet.destination))
            }
            "--dst-type" => {
                let wanted = if packet.local { "LOCAL" } else { "UNICAST" };
                (Holds::of(value().split(',').any(|kind| kind == wanted)), Only::INTERFACES)
            }
            "--src-type" => (Holds::of(value().split(',').any(|kind| kind == "UNICAST")), Only::CLIENTS),
            "--comment" => {
                value();
                continue;
            }
            "-m" => match value() {
                "tcp" | "udp" | "comment" | "conntrack" | "state" | "multiport" | "addrtype" | "pkttype"
                | "iprange" => continue,
                // It holds for what comes in by the right interface.
                "rpfilter" => (Holds::of(Words(rule).all(|word| word != "--invert")), Only::CLIENTS),
                _ => (Holds::FOR_SOME, Only::CLIENTS),
            },
            // The options of `rpfilter`.
            "--validmark" | "--loose" | "--accept-local" | "--invert" => continue,
            _ => (Holds::FOR_SOME, Only::CLIENTS),
        };
        let Holds { any, all } = if not { Holds { any: !holds.all, all: !holds.any } } else { holds };
        if !any {
            return None;
        }
        // A rule that names servers is about them, even if there are no others.
        if !all || of.servers() && !not {
            reach = reach.and(Only(of.0 & !PARTLY | if all { 0 } else { PARTLY }));
        }
        not = false;
    }
    Some(reach)
}

/// Whether a word stands for a protocol.
fn is_protocol(protocol: Protocol, word: &str) -> bool {
    word == "all" || word == protocol.word() || number(word, 255) == Some(protocol.number().into())
}

/// Whether a rule names ports that its packets go to.
pub fn names_ports(rule: &str) -> bool {
    Words(rule).any(|word| word == "--dport" || word == "--dports")
}

/// What a condition about this end tells apart.
fn side(end: End<'_>) -> Only {
    match end {
        End::Client => Only::CLIENTS,
        End::Server(_) => Only::SERVERS,
    }
}

/// No client has such an address (RFC 1122, 3.2.1.3); firewalls drop what pretends to.
const NOBODY: [&str; 9] = [
    "127.0.0.0/8",
    "0.0.0.0/8",
    "224.0.0.0/4",
    "224.0.0.0/3",
    "240.0.0.0/4",
    "240.0.0.0/5",
    "255.255.255.255/32",
    "169.254.0.0/16",
    "::1/128",
];

fn address(end: End<'_>, network: &str) -> Holds {
    match end {
        End::Client if NOBODY.contains(&network) => Holds::of(false),
        End::Client => Holds::FOR_SOME,
        End::Server(all) => Holds::among(all, &|one| within(one.ip(), network)),
    }
}

/// Whether a network, as iptables prints it (`10.0.0.0/8`, `10.0.0.1`, `0.0.1.0/0.0.255.0`), contains an address.
fn within(ip: IpAddr, network: &str) -> bool {
    let (base, mask) = network.split_once('/').unwrap_or((network, ""));
    let Ok(base) = base.parse() else { return true };
    let mask = match (number(mask, 128), mask.parse()) {
        (Some(length), _) => net::prefix(length as u32),
        (None, Ok(mask)) => net::mask(&mask),
        (None, Err(_)) => net::prefix(128),
    };
    net::agree(&ip, &base, &mask)
}

/// `80`, `1000:2000`, or a list of both.
fn ports(end: End<'_>, list: &str) -> Holds {
    let is_listed = |port: u16| {
        list.split(',').any(|one| {
            let (first, last) = one.split_once(':').unwrap_or((one, one));
            let in_range = |first, last| (first..=last).contains(&u64::from(port));
            matches!((number(first, 65_535), number(last, 65_535)), (Some(first), Some(last)) if in_range(first, last))
        })
    };
    match end {
        // No client has port 0, and all have one that was not asked for (RFC 6056, 3.2).
        End::Client if list == "0" => Holds::of(false),
        End::Client if ["1024:65535", "1:65535", "0:65535", "1025:65535", "1024:65534"].contains(&list) => {
            Holds::of(true)
        }
        End::Client => Holds::FOR_SOME,
        End::Server(all) => Holds::among(all, &|one| is_listed(one.port())),
    }
}

/// For which of the packets `-i wanted` or `-o wanted` holds, with `not` the opposite, and what it tells apart.
fn interface(known: Interface<'_>, wanted: &str, not: bool) -> (Holds, Only) {
    let is = |name: &str| match wanted.strip_suffix('+') {
        Some(beginning) => name.starts_with(beginning),
        None => name == wanted,
    };
    match known {
        Interface::Named(name) => (Holds::of(is(name) != not), Only::INTERFACES),
        _ if wanted == "lo" => (Holds::of(not), Only::INTERFACES),
        // Where nothing is known, a rule that names an interface is taken for a ban: better nobody gets in than one too many.
        Interface::Front([]) => (Holds::FOR_SOME, Only::ELSEWHERE),
        Interface::Front(names) => {
            let (mut yes, mut no) = (false, false);
            for name in names {
                yes |= is(name) != not;
                no |= is(name) == not;
            }
            match (yes, no) {
                (true, false) => (Holds::of(true), Only::INTERFACES),
                // Only for those that come by another interface.
                (false, _) => (Holds::FOR_SOME, Only::ELSEWHERE),
                _ => (Holds::FOR_SOME, Only::INTERFACES),
            }
        }
    }
}

fn states(packet: &Packet<'_>, list: &str) -> Holds {
    let now = if packet.stage == Stage::Later { "ESTABLISHED" } else { "NEW" };
    let mut some = false;
    for state in list.split(',') {
        if state == now || state == "DNAT" && packet.dnat {
            return Holds::of(true);
        }
        some |= state == "SNAT";
    }
    if some {
        Holds::FOR_SOME
    } else {
        Holds::of(false)
    }
}

/// A SYN, or a packet with nothing but ACK.
fn flags(packet: &Packet<'_>, mask: &str, set: &str) -> Holds {
    let ours = if packet.stage == Stage::First { "SYN" } else { "ACK" };
    let contains = |list: &str, flag: &str| list == "ALL" || list.split(',').any(|one| one == flag);
    let others_unset = set.split(',').all(|flag| flag == ours || flag == "NONE");
    Holds::of(others_unset && set != "ALL" && contains(mask, ours) == contains(set, ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a rule tells apart of the first packets to 10.2.0.11:80 and 10.2.0.12:80 behind `lan`, in FORWARD: `-` if it
    /// applies to none, else letters for clients, servers and interfaces.
    fn forwarded(rule: &str) -> String {
        let backends = ["10.2.0.11:80", "10.2.0.12:80"].map(|text| Endpoint::parse(text).unwrap());
        let binds = [Endpoint::parse("10.9.0.1:4444").unwrap()];
        let front = ["wan".to_owned()];
        let packet = Packet {
            protocol: Protocol::Tcp,
            family: Family::V4,
            source: End::Client,
            destination: End::Server(&backends),
            input: Interface::Front(&front),
            output: Interface::Named("lan"),
            stage: Stage::First,
            dnat: true,
            local: false,
            binds: &binds,
        };
        match reach(rule, &packet) {
            None => "-".to_owned(),
            Some(only) => {
                let (clients, elsewhere) = (only.clients(), only.elsewhere());
                let (servers, interfaces) = (only.servers(), only.interfaces());
                [(clients, 'c'), (elsewhere, 'e'), (servers, 's'), (interfaces, 'i')]
                    .iter()
                    .filter(|one| one.0)
                    .map(|one| one.1)
                    .collect()
            }
        }
    }

    #[test]
    fn a_rule_tells_apart_what_its_conditions_say() {
        for (rule, apart) in [
            ("-j DROP", ""),
            ("-p tcp -j DROP", ""),
            ("-p udp -j DROP", "-"),
            ("! -p udp -j DROP", ""),
            ("! -p tcp -j DROP", "-"),
            ("-s 192.0.2.0/24 -j DROP", "c"),
            ("! -s 192.0.2.0/24 -j DROP", "c"),
            ("-s 127.0.0.0/8 -j DROP", "-"),
            ("-d 10.2.0.0/24 -j DROP", "s"),
            ("-d 10.2.0.11/32 -j DROP", "s"),
            ("-d 10.3.0.0/24 -j DROP", "-"),
            ("! -d 10.3.0.0/24 -j DROP", ""),
            ("! -d 10.2.0.0/24 -j DROP", "-"),
            ("-d 0.0.0.12/0.0.0.255 -j DROP", "s"),
            ("-i wan -j DROP", ""),
            ("-i w+ -j DROP", ""),
            ("-i tun0 -j DROP", "e"),
            ("! -i wan -o lan -j DROP", "e"),
            ("! -i tun0 -j DROP", ""),
            ("-i lo -j DROP", "-"),
            ("-o lan -j DROP", ""),
            ("-o la+ -j DROP", ""),
            ("-o wan -j DROP", "-"),
            ("! -i lan -o lan -j DROP", ""),
            ("-i lan ! -o lan -j DROP", "-"),
            ("-i lan -o lan -j DROP", "e"),
            ("-p tcp -m tcp --dport 80 -j DROP", "s"),
            ("-p tcp -m tcp --dport 1:79 -j DROP", "-"),
            ("-p tcp -m tcp ! --dport 443 -j DROP", ""),
            ("-p tcp -m multiport --dports 22,80:90 -j DROP", "s"),
            ("-p tcp -m tcp --sport 1024:65535 -j DROP", ""),
            ("-p tcp -m tcp --sport 40000 -j DROP", "c"),
            ("-s 0.0.0.3/0.0.0.255 -j DROP", "c"),
            ("-m rpfilter --validmark -j RETURN", ""),
            ("-m conntrack --ctdir ORIGINAL -j DROP", ""),
            ("-m conntrack --ctdir REPLY -j DROP", "-"),
            ("-m pkttype --pkt-type multicast -j DROP", "-"),
            ("-m conntrack --ctstate INVALID -j DROP", "-"),
            ("-m conntrack --ctstate NEW -j DROP", ""),
            ("-m conntrack ! --ctstate DNAT -j DROP", "-"),
            ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "-"),
            ("-m state --state NEW -i wan -j DROP", ""),
            ("-m conntrack --ctorigdst 10.9.0.1 --ctorigdstport 4444 -j DROP", "s"),
            ("-m conntrack --ctorigdstport 22 -j DROP", "-"),
            ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP", ""),
            ("-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j DROP", "-"),
            ("-p tcp -m tcp --tcp-flags FIN,SYN FIN,SYN -j DROP", "-"),
            ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j DROP", "-"),
            ("-m set --match-set banned src -j DROP", "c"),
            ("-m limit --limit 3/min -j ACCEPT", "c"),
            ("-m comment --comment \"-s 1.2.3.4 ! -p tcp\" -j DROP", ""),
            ("-m rpfilter --invert -j DROP", "-"),
            ("-m addrtype --dst-type BROADCAST -j DROP", "-"),
            ("-m mark --mark 0x1 -i wan -j DROP", "c"),
        ] {
            assert_eq!(forwarded(rule), apart, "{rule}");
        }
    }
}
