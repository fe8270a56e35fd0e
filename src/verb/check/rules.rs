//! Can the rules be loaded, and do the rules of others let the connections through?

use super::findings::Findings;
use crate::engine::transaction::{self, Views};
use crate::engine::{choice, iptables, Engine, InForce, Level, Plan, Share};
use crate::host::nft::firewall4;
use crate::host::remedy;
use crate::host::state::Lock;
use crate::serve;
use crate::service::{Preference, Service};

/// Adds what is found.
pub fn check(preference: Preference, services: &[Service], findings: &mut Findings<'_>) {
    if preference == Preference::Iptables && !iptables::is_installed() {
        let remedy = remedy::iptables(findings.system);
        findings.error(format_args!(
            "engine: the config asks for iptables, and there is none on PATH or in /usr/sbin and /sbin; {remedy}, or write \
             `engine: nftables`, which needs none"
        ));
        return;
    }
    findings.by_iptables = !choice::is_nftables(preference);
    let plan = Plan::Serve(services);
    let looked = choice::find(preference).and_then(|engines| {
        findings.ok(format_args!("engine: {}, {}", choice::name(&engines), choice::reason(preference)));
        // The lock keeps another `start` from changing rules between reading and trying.
        let _lock = Lock::take()?;
        let views = transaction::read(&engines)?;
        if let Some(view) = views.first() {
            findings.all(&view.lacks(&plan));
        }
        others(&plan, &engines, &views, findings);
        Ok(())
    });
    if let Err(error) = looked {
        findings.error(format_args!("rules: {error}"));
    }
}

/// What the rules of others do to balanced connections.
fn others(plan: &Plan<'_>, engines: &[Box<dyn Engine>], views: &Views<'_>, findings: &mut Findings<'_>) {
    for (at, view) in views.iter().enumerate() {
        if let (1.., false, Some(engine)) = (at, view.is_empty(), engines.get(at)) {
            let name = engine.name();
            findings.warning(format_args!(
                "rules: some of ours are left in {name} too; `{}` removes them",
                remedy::start()
            ));
        }
    }
    for view in views {
        for (family, why) in view.unread() {
            // `start` refuses to write what it cannot read back.
            let level = if plan.has(*family) { Level::Error } else { Level::Warning };
            findings.add(level, format_args!("{family} rules: cannot be read: {why}"));
        }
        findings.forward_policies.extend_from_slice(&view.foreign().forward_policies);
    }
    let (Some(ours), Some(engine)) = (views.first(), engines.first()) else { return };
    for (family, policy) in &ours.foreign().forward_policies {
        if plan.has(*family) && policy == "DROP" {
            findings.ok(format_args!("{family} FORWARD policy: DROP, and our own rules let through what is balanced"));
        }
    }
    if !firewall4::has(&serve::binds(views)) {
        findings.warning(format_args!(
            "firewall4: it does not let through what is balanced; `{}` puts it right",
            remedy::start()
        ));
    }
    for view in views {
        findings.all(&view.meets(plan, false));
    }
    if engine.any_change_restarts_turns() {
        for frontend in ours.frontends() {
            churn(frontend, findings);
        }
    }
}

/// Undisturbed round robin is exact. If it is not, another program changes the nat table of iptables-legacy: each change
/// restarts all turns. The shares are compared with those of the rules in force, not of the config, since the rules have
/// counted.
fn churn(frontend: &InForce, findings: &mut Findings<'_>) {
    if let Some((Share { address, taken, .. }, all)) = uneven(frontend) {
        findings.warning(format_args!(
            "shares of {}: {address} has taken {taken} of {all} connections, more or less than its turn; another program \
             changes the nat table, which on iptables-legacy starts all turns anew; \
             find it, switch to iptables-nft, or use `schedule: random`",
            frontend.bind
        ));
    }
}

/// A backend that has not got its turns, and the sum of all connections.
fn uneven(frontend: &InForce) -> Option<(&Share, u64)> {
    let slots: u64 = frontend.backends.iter().map(|share| share.slots).sum();
    let all: u64 = frontend.backends.iter().map(|share| share.taken).sum();
    // After `rounds` whole rounds, a backend may have got none or all of its slots of the current one.
    let rounds = all / slots.max(1);
    let owed = |share: &Share| (rounds * share.slots)..=((rounds + 1) * share.slots);
    let uneven = frontend.backends.iter().find(|share| !owed(share).contains(&share.taken))?;
    frontend.exact.then_some((uneven, all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Endpoint;

    fn frontend(exact: bool, shares: &[(u64, u64)]) -> InForce {
        let endpoint = |n: usize| Endpoint::parse(&format!("10.0.0.{n}:80")).unwrap();
        let share =
            |(n, (taken, slots)): (usize, &(u64, u64))| Share { address: endpoint(n), taken: *taken, slots: *slots };
        let backends = (1..).zip(shares).map(share).collect();
        let ports = crate::service::Ports::one(80);
        InForce { name: "x".into(), bind: endpoint(9), ports, draining: false, exact, backends }
    }

    #[test]
    fn turns_of_the_rules_in_force_are_even_and_others_are_found() {
        for even in [&[(0, 1), (0, 1)][..], &[(5, 1), (4, 1), (5, 1)], &[(10, 2), (5, 1), (4, 1)], &[(7, 1)], &[]] {
            assert_eq!(uneven(&frontend(true, even)), None, "{even:?}");
        }
        let (share, all) = (Share { address: Endpoint::parse("10.0.0.1:80").unwrap(), taken: 9, slots: 1 }, 15);
        assert_eq!(uneven(&frontend(true, &[(9, 1), (3, 1), (3, 1)])), Some((&share, all)));
        assert_eq!(uneven(&frontend(false, &[(9, 1), (3, 1), (3, 1)])), None);
    }
}
