//! `stop`: all that is ours goes, whatever the config says. It is found by name in the kernel.

use crate::engine::iptables::ruleset::Ruleset;
use crate::engine::iptables::tool::Iptables;
use crate::engine::{Engine, InForce};
use crate::error::{fail, Error, Exit};
use crate::host::conntrack;
use crate::host::lock::Lock;
use crate::net::{Endpoint, Family};
use crate::sys::log;
use crate::sys::poll;
use crate::sys::poll::clock;
use crate::sys::process;
use crate::watch::claim;

/// How often the connections are counted while they drain, in milliseconds.
const LOOK: u64 = 500;

/// Removes all; with `drain` only after connections had so many seconds to end.
pub fn run(drain: Option<u32>) -> Result<Exit, Error> {
    let engine = Iptables::find()?;
    let lock = Lock::take()?;
    if let Some(watch) = claim::running() {
        // It would put the rules back.
        watch.signal(libc::SIGUSR1);
    }
    let before = engine.read()?;
    if before.is_empty() {
        log::info!("nothing of Paraglider is in force");
        return all_was_seen(&before);
    }
    let mut binds = before.ours.binds();
    binds.extend(before.left_over.binds());
    let Some(seconds) = drain else {
        return remove(&engine, &before, &binds);
    };

    engine.apply(&before, &Ruleset::draining(&before.ours), &Ruleset::draining(&before.left_over))?;
    // While it waits, others may start.
    drop(lock);
    wait(&binds, seconds);
    let _lock = Lock::take()?;
    let now = engine.read()?;
    if now.ours.balances() {
        log::warning!("somebody started Paraglider while connections drained; its rules stay");
        return Ok(Exit::Done);
    }
    remove(&engine, &now, &binds)
}

/// Nothing found is no success where nothing could be seen.
fn all_was_seen(found: &InForce) -> Result<Exit, Error> {
    match found.unread.first() {
        None => Ok(Exit::Done),
        Some((family, why)) => fail!("cannot read the {family} rules, so some of Paraglider may be left there: {why}"),
    }
}

fn wait(binds: &[Endpoint], seconds: u32) {
    let until = clock() + u64::from(seconds) * 1000;
    log::info!("no new connections are taken; waiting at most {seconds} s for the old ones");
    while clock() < until {
        // Where they cannot be counted, they get the whole time.
        if conntrack::connections(binds).is_some_and(|left| left.is_empty()) {
            return;
        }
        poll::pause(LOOK.min(until.saturating_sub(clock())));
    }
}

fn remove(engine: &dyn Engine, before: &InForce, binds: &[Endpoint]) -> Result<Exit, Error> {
    let alive = conntrack::connections(binds);
    engine.apply(before, &Ruleset::default(), &Ruleset::default())?;
    log::info!("removed all rules of Paraglider");
    // Connections outlive the rules only where something else keeps the kernel tracking them, family by family.
    let tracked = |family| before.others.use_conntrack.contains(&family) || nft_uses_conntrack(family);
    for family in Family::ALL {
        if !binds.iter().any(|bind| bind.family() == family) {
            continue;
        }
        let alive = alive.as_ref().map(|alive| alive.iter().filter(|one| one.bind.family() == family).count());
        let connections = match alive {
            Some(0) => continue,
            Some(n) => log::count(n, "established connection"),
            None => format!("established {family} connections, if there are any,"),
        };
        if tracked(family) {
            log::info!("{connections} will live on: other rules of this host track connections");
        } else {
            log::warning!("{connections} will be cut: nothing else on this host tracks connections");
        }
    }
    all_was_seen(before)
}

/// Whether a rule of nftables itself, outside of iptables, uses connection tracking.
fn nft_uses_conntrack(family: Family) -> bool {
    let rules = process::find("nft").and_then(|nft| process::run(&nft, &["list", "ruleset"], "").ok());
    let own = if family == Family::V4 { "table ip " } else { "table ip6 " };
    let mut counts = false;
    rules.is_some_and(|rules| {
        rules.out.lines().any(|line| {
            if line.starts_with("table ") {
                counts = line.starts_with("table inet ") || line.starts_with(own);
            }
            counts
                && line
                    .split_ascii_whitespace()
                    .any(|word| ["ct", "masquerade", "snat", "dnat", "redirect"].contains(&word))
        })
    })
}
