//! The rules of other programs: as listed, and what they do to balanced connections. Pure.

mod matches;
pub mod meets;
pub mod place;
mod walk;

use super::words::Words;
use crate::net::Family;

/// The rules of others in one variant of iptables, in all tables and families.
#[derive(Debug, Default)]
pub struct Others {
    chains: Vec<Chain>,
}

/// A chain of others, or a built-in one.
#[derive(Debug)]
pub struct Chain {
    family: Family,
    table: String,
    name: String,
    /// What becomes of packets at its end; empty unless it is a built-in one.
    pub policy: String,
    /// Without `-A CHAIN`, and without our own jumps.
    pub rules: Vec<String>,
}

impl Others {
    /// A chain, if it is there.
    pub fn chain(&self, family: Family, table: &str, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name && chain.table == table && chain.family == family)
    }

    /// Adds a chain. Its rules follow.
    pub fn declare(&mut self, family: Family, table: &str, name: &str, policy: &str) {
        let chain = Chain {
            family,
            table: table.to_owned(),
            name: name.to_owned(),
            policy: policy.trim_start_matches('-').to_owned(),
            rules: Vec::new(),
        };
        self.chains.push(chain);
    }

    /// Adds a rule to the end of a chain; returns how many stand before it.
    pub fn push(&mut self, family: Family, table: &str, name: &str, rule: &str) -> usize {
        let chains = self.chains.iter_mut();
        // Listings are in order of chains: the last one that was asked for is the next one, too.
        let Some(chain) =
            chains.rev().find(|chain| chain.name == name && chain.table == table && chain.family == family)
        else {
            self.declare(family, table, name, "-");
            return self.push(family, table, name, rule);
        };
        chain.rules.push(rule.to_owned());
        chain.rules.len() - 1
    }

    /// Whether there is not even a built-in chain.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// How many rules a chain has so far.
    pub fn length(&self, family: Family, table: &str, name: &str) -> usize {
        self.chain(family, table, name).map_or(0, |chain| chain.rules.len())
    }
}

/// The target of a rule, and whether it returns to where its own chain was entered from (`-g`).
fn target(rule: &str) -> Option<(&str, bool)> {
    let mut words = Words(rule);
    loop {
        let word = words.next()?;
        if word == "--comment" {
            words.next();
        } else if word == "-j" || word == "-g" {
            return words.next().map(|target| (target, word == "-g"));
        }
    }
}

#[cfg(test)]
mod hosts;
