//! Where a jump of ours has to stand in a built-in chain of the filter table.

use super::matches::{End, Interface, Packet, Stage};
use super::walk::Effect;
use super::Others;
use crate::net::{Endpoint, Family, Protocol};

/// The connections of one family and protocol that are to be balanced.
#[derive(Debug, Default)]
pub struct Traffic {
    /// The protocol.
    pub protocol: Protocol,
    /// Where clients connect to.
    pub binds: Vec<Endpoint>,
    /// Where their connections go.
    pub backends: Vec<Endpoint>,
    /// The interfaces behind which the backends are; `None` if none is known.
    pub interfaces: Option<Vec<String>>,
    /// The interfaces by which their clients come; empty if not known.
    pub front: Vec<String>,
}

impl Traffic {
    /// Calls `take` with each kind of packets that FORWARD has of these connections: the first one, later ones, answers.
    pub fn forwarded(&self, family: Family, take: &mut dyn FnMut(&Packet<'_>)) {
        let backends = End::Server(&self.backends);
        let front = Interface::Front(&self.front);
        let all = |interface: Interface<'_>, take: &mut dyn FnMut(&Packet<'_>)| {
            let there = Packet {
                family,
                protocol: self.protocol,
                source: End::Client,
                destination: backends,
                input: front,
                output: interface,
                stage: Stage::First,
                dnat: true,
                local: false,
                binds: &self.binds,
            };
            take(&there);
            let later = Packet { stage: Stage::Later, ..there };
            take(&later);
            let (source, destination) = (backends, End::Client);
            take(&Packet { source, destination, input: interface, output: front, ..later });
        };
        match &self.interfaces {
            Some(names) => names.iter().for_each(|name| all(Interface::Named(name), take)),
            None => all(Interface::Front(&[]), take),
        }
    }

    /// A packet that comes in for a bind.
    pub fn arriving(&self, family: Family, stage: Stage) -> Packet<'_> {
        Packet {
            family,
            protocol: self.protocol,
            source: End::Client,
            destination: End::Server(&self.binds),
            input: Interface::Front(&self.front),
            output: Interface::Front(&[]),
            stage,
            dnat: false,
            local: true,
            binds: &self.binds,
        }
    }
}

/// The rules of a built-in chain that can drop balanced connections.
#[derive(Debug, Default)]
pub struct Drops {
    /// The number of rules in the chain.
    rules: usize,
    /// The policy drops what comes to the end.
    by_policy: bool,
    /// The first rule, from 0, that can drop whatever passes.
    general: Option<usize>,
    /// All rules that can drop some of it, also those for some clients only.
    any: Vec<usize>,
    /// All rules that can accept some of it.
    accepts: Vec<usize>,
}

impl Drops {
    fn add(&mut self, others: &Others, chain: &str, packet: &Packet<'_>) {
        let Some(listed) = others.chain(packet.family, "filter", chain) else { return };
        self.rules = listed.rules.len();
        let ends = others.walk("filter", chain, packet, &mut |met| {
            match met.effect {
                Effect::Drops | Effect::Inspects => {}
                Effect::Accepts => return self.accepts.push(met.at),
                _ => return,
            }
            if met.effect == Effect::Drops && met.only.is_general() {
                self.general = Some(self.general.map_or(met.at, |known| known.min(met.at)));
            }
            self.any.push(met.at);
        });
        self.by_policy |= ends && listed.policy == "DROP";
    }

    /// Some rule or the policy drops whatever comes that far, and a jump before it is behind all that accept.
    pub fn is_shut(&self) -> bool {
        match self.general {
            // The same chain of others accepts some of it.
            Some(at) => !self.accepts.contains(&at),
            None => self.by_policy,
        }
    }

    /// How many rules belong before our jump: those before the first one that can drop whatever passes, or all. If `now`
    /// stand there and that does the same, since none that can drop anything is between, it is `now`.
    pub fn place(&self, now: Option<usize>) -> usize {
        let right = self.general.unwrap_or(self.rules);
        match now {
            Some(now) if !self.any.iter().any(|rule| (now.min(right)..now.max(right)).contains(rule)) => now,
            _ => right,
        }
    }
}

/// Where our jumps into built-in chains of the filter table belong, in one family.
#[derive(Debug, Default)]
pub struct FamilyPlaces {
    /// In FORWARD.
    pub forwarded: Drops,
    /// In INPUT.
    pub strays: Drops,
}

/// The same for both families, in the order of [`Family::ALL`].
#[derive(Debug, Default)]
pub struct Places {
    pub families: [FamilyPlaces; 2],
}

impl Places {
    /// Among these rules.
    pub fn among(others: &Others, traffic: &dyn Fn(Family, Protocol) -> Traffic) -> Self {
        let mut all = Places::default();
        for (family, places) in Family::ALL.into_iter().zip(&mut all.families) {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let traffic = traffic(family, protocol);
                if traffic.binds.is_empty() {
                    continue;
                }
                traffic.forwarded(family, &mut |packet| places.forwarded.add(others, "FORWARD", packet));
                if protocol == Protocol::Tcp {
                    places.strays.add(others, "INPUT", &traffic.arriving(family, Stage::Stray));
                }
            }
        }
        all
    }
}
