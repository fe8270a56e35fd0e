//! What becomes of balanced connections between the rules of others, in sentences.

use super::matches::{End, Interface, Packet, Stage};
use super::place::Traffic;
use super::walk::{Effect, Met};
use super::Others;
use crate::engine::{Finding, Level};
use crate::net::Family;
use crate::text::{value, Line, Shown};

/// Most rules that are named of one chain: the list of a ban can be long.
const MOST: usize = 3;

/// A rule that drops what an allow-list before it leaves.
const ALLOW_LIST: &str =
    "drops balanced connections of all clients but those that are accepted before it; remove it if that \
                          is not meant";

/// Why a policy of FORWARD counts where our rules are in nftables, and what is to be done.
const OVER_NFTABLES: &str = "no rule of nftables can overrule it";
const BY_IPTABLES: &str = "write `engine: iptables`, whose rules let through what is balanced";

/// Where our jumps stand, or will, in one family: how many rules of others are before each.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ours {
    /// In FORWARD of the filter table.
    pub forward: usize,
    /// In PREROUTING of the nat table.
    pub dispatch: usize,
    /// In POSTROUTING of the nat table.
    pub snat: usize,
}

/// Where our rules are, seen from a variant of iptables. Packets pass the rules of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// In this variant.
    Here,
    /// In the other one.
    Variant,
    /// In nftables: they translate before those of iptables, and let nothing through that iptables drops.
    Nftables,
}

/// What is found of one family.
pub struct Meets<'a> {
    /// The rules of others.
    pub others: &'a Others,
    /// Of these packets.
    pub family: Family,
    /// The connections.
    pub traffic: &'a Traffic,
    /// The backends are to see the addresses of the clients, at least of one frontend.
    pub shows_clients: bool,
    /// The variant of iptables that has the rules.
    pub variant: &'static str,
    /// It is that of the plain `iptables`.
    pub plain: bool,
    /// Where ours are. Elsewhere, what this variant accepts or not is decided for itself.
    pub home: Home,
    /// Where we are.
    pub ours: Ours,
    /// The sentences.
    pub found: &'a mut Vec<Finding>,
}

/// Packets that meet rules: on the way to a backend, or back.
#[derive(Clone, Copy)]
enum Hook {
    /// Before the destination is changed.
    Arriving,
    /// After that.
    Forwarded,
}

impl Meets<'_> {
    /// Adds all sentences.
    pub fn find(&mut self) {
        for (table, chain, hook) in [
            ("raw", "PREROUTING", Hook::Arriving),
            ("mangle", "PREROUTING", Hook::Arriving),
            ("mangle", "FORWARD", Hook::Forwarded),
            ("mangle", "POSTROUTING", Hook::Forwarded),
            ("security", "FORWARD", Hook::Forwarded),
        ] {
            self.dropped(table, chain, hook);
        }
        match self.home {
            Home::Here => self.forward(),
            _ => self.forward_apart(),
        }
        // The first chain that translates a connection is the last one that is asked.
        if self.home != Home::Nftables {
            self.translated("PREROUTING", self.ours.dispatch);
        }
        if self.home != Home::Nftables || self.shows_clients {
            self.translated("POSTROUTING", self.ours.snat);
        }
        if self.home != Home::Variant && self.plain {
            self.input();
        }
    }

    fn add(&mut self, level: Level, table: &str, met: &Met<'_>, said: &str) {
        let (family, chain, rule) = (self.family, Shown(met.chain), Line(met.rule));
        let variant = self.of_variant();
        let finding = Finding::new(level, format_args!("{family} {table} table{variant}: `-A {chain} {rule}` {said}"));
        if !self.found.iter().any(|known| known.text == finding.text) {
            self.found.push(finding);
        }
    }

    /// Which variant a sentence is about, where ours are elsewhere.
    fn of_variant(&self) -> String {
        match self.home {
            Home::Here => String::new(),
            _ => [" of ", self.variant].concat(),
        }
    }

    /// A policy that drops.
    fn policy(&mut self, table: &str, chain: &str, why: &str) {
        let (family, six) = (self.family, if self.family == Family::V4 { "" } else { "6" });
        let tool = if self.plain { "tables" } else { self.variant.strip_prefix("ip").unwrap_or_default() };
        let (of, open) = (self.of_variant(), format!("`ip{six}{tool} -t {table} -P {chain} ACCEPT` mends it"));
        // Where iptables would let through what is balanced, the host need not be opened.
        let remedy = if why == OVER_NFTABLES && self.plain { BY_IPTABLES } else { &open };
        self.found.push(Finding::new(
            Level::Error,
            format_args!("{family} {table} table{of}: the policy of {chain} is DROP, and {why}; {remedy}"),
        ));
    }

    /// Calls `take` with each kind of packets at a hook.
    fn packets(&self, hook: Hook, take: &mut dyn FnMut(&Packet<'_>)) {
        match hook {
            Hook::Forwarded => self.traffic.forwarded(self.family, take),
            Hook::Arriving => {
                take(&self.traffic.arriving(self.family, Stage::First));
                // Answers, before the kernel has put the client's address into them.
                let back = |input: Interface<'_>, take: &mut dyn FnMut(&Packet<'_>)| {
                    take(&Packet {
                        source: End::Server(&self.traffic.backends),
                        destination: End::Client,
                        input,
                        output: Interface::Front(&[]),
                        dnat: true,
                        local: !self.shows_clients,
                        ..self.traffic.arriving(self.family, Stage::Later)
                    });
                };
                match &self.traffic.interfaces {
                    Some(names) => names.iter().for_each(|name| back(Interface::Named(name), take)),
                    None => back(Interface::Front(&[]), take),
                }
            }
        }
    }

    /// Rules of tables that come before or after the filter table: no rule of ours can overrule them.
    fn dropped(&mut self, table: &'static str, chain: &'static str, hook: Hook) {
        let mut met = Vec::new();
        // In which zone the first packets are tracked, and in which the answers.
        let mut zones = ["0"; 2];
        let others = self.others;
        let mut reached = false;
        self.packets(hook, &mut |packet| {
            reached |= others.walk(table, chain, packet, &mut |one| {
                if let (Some(zone), [to, back]) = (value(one.rule, "--zone"), &mut zones) {
                    *(if packet.dnat { back } else { to }) = zone;
                }
                met.push(one);
            });
        });
        let policy = others.chain(self.family, table, chain).map_or("", |chain| chain.policy.as_str());
        if reached && policy == "DROP" {
            self.policy(table, chain, "no rule of ours can overrule it");
        }
        let [to, back] = zones;
        for one in met.iter().filter(|one| !one.only.is_for_some_clients()) {
            match one.effect {
                Effect::Drops => self.add(
                    Level::Error,
                    table,
                    one,
                    "drops balanced connections, and no rule of ours can overrule it; remove or narrow it",
                ),
                Effect::Untracks => self.add(
                    Level::Error,
                    table,
                    one,
                    "switches connection tracking off, without which nothing is balanced; except the binds and backends",
                ),
                Effect::Zones if to != back => self.add(
                    Level::Error,
                    table,
                    one,
                    "tracks them in another zone than their answers, which do not come back then; use one zone for both",
                ),
                Effect::Translates if chain == "PREROUTING" => {
                    self.add(Level::Error, table, one, "takes connections before they are balanced; remove or narrow it");
                }
                Effect::Zones | Effect::Accepts | Effect::Inspects | Effect::Translates => {}
            }
        }
    }

    /// FORWARD of the filter table: what stands before our jump and can drop, and what stands behind it and is no longer asked.
    fn forward(&mut self) {
        let mut met = Vec::new();
        let others = self.others;
        self.packets(Hook::Forwarded, &mut |packet| {
            others.walk_on(true, "filter", "FORWARD", packet, &mut |one| met.push(one));
        });
        let drops = met.iter().filter(|one| matches!(one.effect, Effect::Drops | Effect::Inspects));
        let (mut unasked, mut bans) = (0, 0);
        for one in drops {
            if one.at < self.ours.forward {
                if one.effect == Effect::Inspects || one.only.is_for_some_clients() && !one.only.rest() {
                    bans += 1;
                    if bans <= MOST {
                        self.add(Level::Ok, "filter", one, "stands before our rules and can drop balanced connections");
                    }
                } else if one.only.rest() {
                    self.add(Level::Warning, "filter", one, ALLOW_LIST);
                } else if one.only.is_general() {
                    self.add(
                        Level::Error,
                        "filter",
                        one,
                        "drops balanced connections, since it stands before our rules; `paraglider start` puts them before it",
                    );
                } else {
                    self.add(
                        Level::Error,
                        "filter",
                        one,
                        "drops balanced connections; it names them, so our rules are left behind it: remove or narrow it",
                    );
                }
            } else if (one.only.clients() || one.only.servers() || one.only.by_hand()) && unasked < MOST {
                unasked += 1;
                self.add(
                    Level::Warning,
                    "filter",
                    one,
                    "does not see balanced connections, since our rules stand before a rule that drops all and comes \
                     earlier; ban clients at the top of FORWARD, or in PREROUTING of the raw table by the bind's port",
                );
            }
        }
    }

    /// The same chain where our rules are elsewhere: nothing there is accepted for it.
    fn forward_apart(&mut self) {
        let mut met = Vec::new();
        let (others, mut reached) = (self.others, false);
        self.packets(Hook::Forwarded, &mut |packet| {
            reached |= others.walk("filter", "FORWARD", packet, &mut |one| met.push(one));
        });
        let by_nftables = self.home == Home::Nftables;
        for one in met.iter().filter(|one| one.effect == Effect::Drops) {
            let said = match by_nftables {
                true if one.only.rest() => ALLOW_LIST,
                _ if one.only.is_for_some_clients() => continue,
                true if self.plain && one.only.is_general() => {
                    "drops balanced connections, and no rule of nftables can overrule it; write `engine: iptables`, whose \
                     rules stand before it, or remove it"
                }
                true => "drops balanced connections, and no rule of nftables can overrule it; remove or narrow it",
                false => "drops balanced connections: packets must pass both variants of iptables; remove it there",
            };
            let level = if one.only.rest() { Level::Warning } else { Level::Error };
            self.add(level, "filter", one, said);
        }
        let policy = others.chain(self.family, "filter", "FORWARD").map_or("", |chain| chain.policy.as_str());
        if reached && policy == "DROP" {
            let why = if by_nftables { OVER_NFTABLES } else { "packets must pass both variants of iptables" };
            self.policy("filter", "FORWARD", why);
        }
    }

    /// Rules of the nat table before ours.
    fn translated(&mut self, chain: &'static str, ours: usize) {
        let mut met = Vec::new();
        let (others, first) = (self.others, self.traffic.arriving(self.family, Stage::First));
        if chain == "PREROUTING" {
            others.walk("nat", chain, &first, &mut |one| met.push(one));
            for one in &met {
                if one.only.is_for_some_clients() || one.at >= ours && self.home == Home::Here {
                    continue;
                }
                let said = match one.effect {
                    Effect::Translates => "takes connections to a bind before our rules",
                    Effect::Accepts => "keeps connections to a bind from our rules",
                    _ => continue,
                };
                self.add(Level::Error, "nat", one, &format!("{said}; remove it, or choose another port"));
            }
            return;
        }
        self.traffic.forwarded(self.family, &mut |packet| {
            if packet.stage == Stage::First {
                others.walk("nat", chain, packet, &mut |one| met.push(one));
            }
        });
        for one in &met {
            if one.only.is_for_some_clients() || one.at >= ours && self.home == Home::Here {
                continue;
            }
            if one.effect == Effect::Accepts && self.home == Home::Here && !self.shows_clients {
                self.add(
                    Level::Error,
                    "nat",
                    one,
                    "keeps connections from our rules, so the backends answer past this host; remove it",
                );
            }
            if one.effect == Effect::Translates {
                let seen = if self.shows_clients { "not of the client" } else { "not privateip" };
                let comes = if self.home == Home::Nftables { "is asked too" } else { "comes before our rules" };
                self.add(
                    Level::Warning,
                    "nat",
                    one,
                    &format!("{comes}: the backends see the address that it gives, {seen}; remove or narrow it"),
                );
            }
        }
    }

    /// INPUT: what it says of a port that is balanced, or of some clients, does not hold for balanced connections.
    fn input(&mut self) {
        let mut met: Vec<Met<'_>> = Vec::new();
        let (others, first) = (self.others, self.traffic.arriving(self.family, Stage::First));
        let open = others.walk("filter", "INPUT", &first, &mut |one| met.push(one));
        let shut = !open || others.chain(self.family, "filter", "INPUT").is_some_and(|chain| chain.policy == "DROP");
        let mut named = 0;
        for one in &met {
            // A ban; or, where the rest is dropped, what lets only some in.
            let bans = one.effect == Effect::Drops && (one.only.clients() || one.names_ports);
            let only = one.only;
            let admits = one.effect == Effect::Accepts
                && one.names_ports
                && shut
                && (only.is_for_some_clients() || only.interfaces());
            if (bans || admits) && named < MOST {
                named += 1;
                self.add(
                    Level::Warning,
                    "filter",
                    one,
                    "does not apply to balanced connections, which are forwarded; filter them at the top of FORWARD, or in \
                     PREROUTING of the raw table by the bind's port",
                );
            }
        }
    }
}
