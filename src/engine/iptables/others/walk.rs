//! Follows packets through chains of others, rule by rule.

use super::matches::{names_ports, reach, Only, Packet};
use super::{target, Others};

/// How deep chains may lead into each other, and how many rules a walk may visit: the rules of a large cluster must not
/// keep a small router busy.
const DEEPEST: usize = 64;
const MOST: usize = 100_000;

/// Chains that Docker and OpenWrt's fw3 call before their own, and leave to the administrator.
const BY_HAND: [&str; 4] = ["DOCKER-USER", "forwarding_rule", "forwarding_lan_rule", "forwarding_wan_rule"];

/// What a rule does with packets that it applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// They do not arrive.
    Drops,
    /// No later rule of this table sees them.
    Accepts,
    /// Another program looks at them, and may drop them.
    Inspects,
    /// It changes their destination or source.
    Translates,
    /// The kernel does not track their connection.
    Untracks,
    /// Their connection is tracked in a zone of its own.
    Zones,
}

/// A rule that may apply to the packets.
pub struct Met<'a> {
    /// The number, from 0, of the rule in the built-in chain that it is, or that leads there.
    pub at: usize,
    /// Its chain.
    pub chain: &'a str,
    /// Its text, without `-A CHAIN`.
    pub rule: &'a str,
    /// What it does.
    pub effect: Effect,
    /// To which packets, with all jumps that lead there.
    pub only: Only,
    /// The rule, or a jump that leads there, names the port that the packets go to.
    pub names_ports: bool,
}

/// The effect of a target that ends the way through a table or changes the packet.
fn effect(target: &str, rule: &str) -> Option<Effect> {
    Some(match target {
        "DROP" | "REJECT" | "TARPIT" | "STEAL" | "DELUDE" | "CHAOS" => Effect::Drops,
        "ACCEPT" => Effect::Accepts,
        "NFQUEUE" | "QUEUE" => Effect::Inspects,
        "DNAT" | "REDIRECT" | "NETMAP" | "TPROXY" | "SNAT" | "MASQUERADE" => Effect::Translates,
        "NOTRACK" => Effect::Untracks,
        "CT" if rule.ends_with("--notrack") => Effect::Untracks,
        "CT" if crate::text::value(rule, "--zone").is_some_and(|zone| zone != "0") => Effect::Zones,
        _ => return None,
    })
}

impl Others {
    /// Calls `meet` with each rule of a built-in chain, and of those that it leads to, that does something to the packets.
    /// Ends where all of them have been dropped or accepted; returns whether the end of the chain was reached.
    pub fn walk<'a>(&'a self, table: &str, chain: &'a str, packet: &Packet<'_>, meet: &mut dyn FnMut(Met<'a>)) -> bool {
        self.walk_on(false, table, chain, packet, meet)
    }

    /// The same; with `past_drops` as if nothing were dropped.
    pub fn walk_on<'a>(
        &'a self,
        past_drops: bool,
        table: &str,
        chain: &'a str,
        packet: &Packet<'_>,
        meet: &mut dyn FnMut(Met<'a>),
    ) -> bool {
        let mut walk = Walk { others: self, table, packet, past_drops, at: 0, visited: 0, meet };
        walk.chain(chain, 0, Only::ALL, false) == Way::On
    }
}

/// Where packets are after a rule or a chain.
#[derive(PartialEq)]
enum Way {
    /// At the next rule, at least some.
    On,
    /// All at the end of the chain.
    Returned,
    /// None is left.
    Ended,
}

struct Walk<'a, 'b> {
    others: &'a Others,
    table: &'b str,
    packet: &'b Packet<'b>,
    past_drops: bool,
    at: usize,
    visited: usize,
    meet: &'b mut dyn FnMut(Met<'a>),
}

impl<'a> Walk<'a, '_> {
    fn chain(&mut self, name: &'a str, depth: usize, outer: Only, named: bool) -> Way {
        let Some(chain) = self.others.chain(self.packet.family, self.table, name) else { return Way::On };
        let by_hand = BY_HAND.contains(&name);
        // Some clients have left this chain of others: what drops the rest is an allow-list.
        let mut spared = Only::ALL;
        for (number, rule) in chain.rules.iter().enumerate() {
            if depth == 0 {
                self.at = number;
            }
            self.visited += 1;
            if self.visited > MOST {
                return Way::Ended;
            }
            let Some(mut own) = reach(rule, self.packet) else { continue };
            own = own.and(spared);
            if by_hand {
                own = own.and(Only::BY_HAND);
            }
            let way = self.rule(name, rule, depth, own.and(outer), named);
            // What leaves a built-in chain meets its policy.
            if depth == 0 && way == Way::Returned {
                let effect = if chain.policy == "DROP" { Effect::Drops } else { Effect::Accepts };
                let (at, names_ports) = (self.at, names_ports(rule));
                (self.meet)(Met { at, chain: name, rule, effect, only: own, names_ports });
            }
            match way {
                Way::On => {}
                Way::Returned if own.clients() && !own.elsewhere() => spared = spared.and(Only::CLIENTS),
                Way::Ended
                    if own.clients()
                        && !own.elsewhere()
                        && depth > 0
                        && target(rule).is_some_and(|(name, _)| name == "ACCEPT") =>
                {
                    spared = spared.and(Only::CLIENTS.and(Only::REST));
                }
                // Only what all packets do ends the way of all.
                _ if !own.is_all() => {}
                // Nothing is left for the policy.
                Way::Returned if depth == 0 => return Way::Ended,
                Way::Returned => return Way::On,
                Way::Ended => return Way::Ended,
            }
        }
        Way::On
    }

    fn rule(&mut self, chain: &'a str, rule: &'a str, depth: usize, only: Only, named: bool) -> Way {
        let Some((target, goes)) = target(rule) else { return Way::On };
        let names_ports = named || names_ports(rule);
        if let Some(effect) = effect(target, rule) {
            let at = self.at;
            (self.meet)(Met { at, chain, rule, effect, only, names_ports });
            return match effect {
                Effect::Drops if self.past_drops => Way::On,
                Effect::Untracks | Effect::Zones | Effect::Inspects => Way::On,
                _ => Way::Ended,
            };
        }
        match target {
            "RETURN" => Way::Returned,
            _ if depth < DEEPEST => match self.chain(target, depth + 1, only, names_ports) {
                Way::On if goes => Way::Returned,
                way => way,
            },
            _ => Way::On,
        }
    }
}
