//! A packet tracer: sends one new connection after the other through rules in the format of `iptables-save`, as the kernel
//! does, and returns where each ends and with which source address. It knows the matches and targets that Paraglider and
//! its tests use, and panics at any other.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::rules::{bits, tables, Match, Table, Target};

/// Where a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// On another host: its packets come in and are routed.
    Outside,
    /// On the balancer itself.
    Here,
}

/// Where a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// At another host.
    Forwarded,
    /// At the balancer itself.
    Local,
    /// Nowhere: a rule or a policy dropped it.
    Dropped,
}

/// What became of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    pub end: End,
    /// Its destination in the end.
    pub to: SocketAddr,
    /// The source address that the destination sees.
    pub from: IpAddr,
    /// The number of rules of the nat table that it passed until its destination was known.
    pub visited: usize,
}

/// The host on which the rules are.
pub struct Host {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The address that MASQUERADE uses.
    pub outgoing: IpAddr,
}

/// The rules with their counters.
pub struct Tracer {
    tables: BTreeMap<String, Table>,
    addresses: Vec<IpAddr>,
    luck: Luck,
    /// Of the connections.
    pub protocol: &'static str,
}

/// What does not follow from the rules.
struct Luck {
    outgoing: IpAddr,
    /// State of a pseudo-random generator (xorshift64) for `random`.
    dice: u64,
}

/// A connection on its way.
struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    original: SocketAddr,
    dnatted: bool,
    protocol: &'static str,
}

impl Tracer {
    /// Reads rules.
    pub fn new(text: &str, host: Host) -> Self {
        let tables = tables(text);
        let luck = Luck { outgoing: host.outgoing, dice: 0x9e37_79b9_7f4a_7c15 };
        let tracer = Tracer { tables, addresses: host.addresses, luck, protocol: "tcp" };
        tracer.every_jump_has_its_chain();
        tracer
    }

    fn every_jump_has_its_chain(&self) {
        for (name, table) in &self.tables {
            for rule in table.values().flat_map(|chain| &chain.rules) {
                if let Target::Go(chain) = &rule.target {
                    assert!(table.contains_key(chain), "{name}: a jump to {chain}, which is not there");
                }
            }
        }
    }

    /// Follows a new connection.
    pub fn connect(&mut self, origin: From, from: SocketAddr, to: SocketAddr) -> Fate {
        let mut packet = Packet { from, to, original: to, dnatted: false, protocol: self.protocol };
        let mut visited = 0;
        self.walk("nat", if origin == From::Here { "OUTPUT" } else { "PREROUTING" }, &mut packet, &mut visited);
        let fate = |end, packet: &Packet| Fate { end, to: packet.to, from: packet.from.ip(), visited };
        let local = self.addresses.contains(&packet.to.ip());
        let hook = match origin {
            From::Here => "OUTPUT",
            From::Outside if local => "INPUT",
            From::Outside => "FORWARD",
        };
        if !self.walk("filter", hook, &mut packet, &mut 0) {
            return fate(End::Dropped, &packet);
        }
        if local && origin == From::Outside {
            return fate(End::Local, &packet);
        }
        self.walk("nat", "POSTROUTING", &mut packet, &mut 0);
        if local && !self.walk("filter", "INPUT", &mut packet, &mut 0) {
            return fate(End::Dropped, &packet);
        }
        fate(if local { End::Local } else { End::Forwarded }, &packet)
    }

    /// Walks a built-in chain; returns whether the packet goes on.
    fn walk(&mut self, table: &str, chain: &str, packet: &mut Packet, visited: &mut usize) -> bool {
        let Some(table) = self.tables.get_mut(table) else { return true };
        let Some(drops) = table.get(chain).map(|chain| chain.drops) else { return true };
        walk_chain(table, chain, packet, visited, &mut self.luck).unwrap_or(!drops)
    }
}

/// Walks a chain; returns whether the packet goes on, or nothing if the chain ended without a verdict.
fn walk_chain(
    table: &mut Table,
    name: &str,
    packet: &mut Packet,
    visited: &mut usize,
    luck: &mut Luck,
) -> Option<bool> {
    let mut at = 0;
    loop {
        let rule = table.get_mut(name)?.rules.get_mut(at)?;
        at += 1;
        *visited += 1;
        // The first match that fails ends the rule: counters of the matches behind it do not advance.
        if !rule.matches.iter_mut().all(|one| matches(one, packet, &mut luck.dice)) {
            continue;
        }
        match rule.target.clone() {
            Target::Go(chain) => {
                if let Some(verdict) = walk_chain(table, &chain, packet, visited, luck) {
                    return Some(verdict);
                }
            }
            Target::Accept => return Some(true),
            Target::Drop => return Some(false),
            Target::Return => return None,
            Target::Dnat(to) => {
                let port = if to.port() == 0 { packet.to.port() } else { to.port() };
                packet.to = SocketAddr::new(to.ip(), port);
                packet.dnatted = true;
                return Some(true);
            }
            Target::Snat(from) => {
                packet.from.set_ip(from);
                return Some(true);
            }
            Target::Masquerade => {
                packet.from.set_ip(luck.outgoing);
                return Some(true);
            }
            Target::Nothing => {}
        }
    }
}

fn matches(one: &mut Match, packet: &Packet, dice: &mut u64) -> bool {
    let under = |ip: IpAddr, mask: u128| bits(ip) & mask;
    match one {
        Match::Protocol(name) => packet.protocol == name,
        Match::Source { ip, mask } => under(packet.from.ip(), *mask) == under(*ip, *mask),
        Match::Destination { ip, mask } => under(packet.to.ip(), *mask) == under(*ip, *mask),
        Match::Port(first, last) => (*first..=*last).contains(&packet.to.port()),
        Match::Every { n, packet, seen } => {
            let hit = *seen == *packet;
            *seen = (*seen + 1) % *n;
            hit
        }
        Match::Probability(p) => {
            *dice ^= *dice << 13;
            *dice ^= *dice >> 7;
            *dice ^= *dice << 17;
            (*dice >> 33) < *p
        }
        Match::Dnatted => packet.dnatted,
        Match::Established => false,
        Match::OriginalTo(ip) => packet.original.ip() == *ip,
        Match::OriginalPort(first, last) => (*first..=*last).contains(&packet.original.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(text: &str) -> Tracer {
        let here = ["10.9.0.1", "10.2.0.1"].map(|ip| ip.parse().unwrap());
        Tracer::new(text, Host { addresses: here.to_vec(), outgoing: here[1] })
    }

    fn end(tracer: &mut Tracer, to: &str) -> (End, String, String) {
        let fate = tracer.connect(From::Outside, "10.1.0.2:40000".parse().unwrap(), to.parse().unwrap());
        (fate.end, fate.to.to_string(), fate.from.to_string())
    }

    fn ended(end: End, to: &str, from: &str) -> (End, String, String) {
        (end, to.into(), from.into())
    }

    #[test]
    fn without_rules_a_connection_goes_where_it_wants() {
        let mut none = tracer("");
        assert_eq!(end(&mut none, "10.9.0.1:80"), ended(End::Local, "10.9.0.1:80", "10.1.0.2"));
        assert_eq!(end(&mut none, "10.2.0.11:80"), ended(End::Forwarded, "10.2.0.11:80", "10.1.0.2"));
    }

    #[test]
    fn a_policy_and_a_rule_can_drop() {
        let mut policy = tracer("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n");
        assert_eq!(end(&mut policy, "10.2.0.11:80").0, End::Dropped);
        assert_eq!(end(&mut policy, "10.9.0.1:80").0, End::Local);
        let mut rule =
            tracer("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -s 10.1.0.0/16 -p tcp -m tcp --dport 80 -j DROP\nCOMMIT\n");
        assert_eq!(end(&mut rule, "10.9.0.1:80").0, End::Dropped);
        assert_eq!(end(&mut rule, "10.9.0.1:81").0, End::Local);
    }

    #[test]
    fn nth_counts_what_reaches_it_as_the_kernel_does() {
        let mut one = tracer(
            "*nat\n:PREROUTING ACCEPT [0:0]\n\
             -A PREROUTING -p tcp -m statistic --mode nth --every 3 --packet 0 -j DNAT --to-destination 10.2.0.11:80\n\
             -A PREROUTING -p tcp -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.2.0.12:80\n\
             -A PREROUTING -p tcp -j DNAT --to-destination 10.2.0.13:80\nCOMMIT\n",
        );
        let to: Vec<String> = (0..6).map(|_| end(&mut one, "10.9.0.1:80").1).collect();
        assert_eq!(to, ["11", "12", "13", "11", "12", "13"].map(|n| format!("10.2.0.{n}:80")));
        let mut packet = tracer(
            "*nat\n:PREROUTING ACCEPT [0:0]\n\
             -A PREROUTING -p tcp -m statistic --mode nth --every 3 --packet 2 -j DNAT --to-destination 10.2.0.11:80\nCOMMIT\n",
        );
        let hits: Vec<bool> = (0..6).map(|_| end(&mut packet, "10.9.0.1:80").1 == "10.2.0.11:80").collect();
        assert_eq!(hits, [false, false, true, false, false, true]);
    }

    #[test]
    fn a_chain_that_is_left_without_a_verdict_goes_on_behind_the_jump() {
        let mut one = tracer(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:X - [0:0]\n:Y - [0:0]\n-A PREROUTING -p tcp -j X\n\
             -A PREROUTING -p tcp -j DNAT --to-destination 10.2.0.12:80\n-A X -p tcp -m tcp --dport 1 -j RETURN\n\
             -A X -p tcp -m tcp --dport 2 -j Y\n-A Y -p tcp -j DNAT --to-destination 10.2.0.11:80\nCOMMIT\n",
        );
        assert_eq!(end(&mut one, "10.9.0.1:1").1, "10.2.0.12:80");
        assert_eq!(end(&mut one, "10.9.0.1:2").1, "10.2.0.11:80");
        assert_eq!(end(&mut one, "10.9.0.1:3").1, "10.2.0.12:80");
    }

    #[test]
    fn snat_takes_only_what_it_matches() {
        let rules = "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
             -A PREROUTING -d 10.9.0.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.2.0.11:80\n\
             -A POSTROUTING -p tcp -m conntrack --ctstate DNAT --ctorigdst 10.9.0.1 --ctorigdstport 80 -j SNAT --to-source 10.2.0.1\nCOMMIT\n";
        let mut one = tracer(rules);
        assert_eq!(end(&mut one, "10.9.0.1:80"), ended(End::Forwarded, "10.2.0.11:80", "10.2.0.1"));
        assert_eq!(end(&mut one, "10.2.0.11:80"), ended(End::Forwarded, "10.2.0.11:80", "10.1.0.2"));
    }

    #[test]
    fn masks_need_not_be_contiguous() {
        let mut odd = tracer(
            "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -s 0.0.0.1/0.0.0.1 -p tcp -j DNAT --to-destination 10.2.0.11:80\nCOMMIT\n",
        );
        let mut hit =
            |from: &str| odd.connect(From::Outside, from.parse().unwrap(), "10.9.0.1:80".parse().unwrap()).to.port();
        assert_eq!((hit("10.1.0.3:1"), hit("10.1.0.2:1")), (80, 80));
        let mut to =
            |from: &str| odd.connect(From::Outside, from.parse().unwrap(), "10.9.0.1:81".parse().unwrap()).to.port();
        assert_eq!((to("10.1.0.3:1"), to("10.1.0.2:1")), (80, 81));
    }

    #[test]
    #[should_panic(expected = "a jump to NOWHERE")]
    fn a_jump_without_its_chain_is_found() {
        tracer("*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -j NOWHERE\nCOMMIT\n");
    }

    #[test]
    #[should_panic(expected = "does not know --uid-owner")]
    fn it_does_not_guess() {
        tracer("*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT --uid-owner 0 -j ACCEPT\nCOMMIT\n");
    }
}
