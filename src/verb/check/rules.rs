//! Can the rules be loaded, and do others' rules let the connections through?

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use super::Findings;
use crate::engine::iptables::{find_program, Iptables};
use crate::engine::{Engine, InForce};
use crate::host::Lock;
use crate::remedy::{self, Need};
use crate::ruleset::{enters, is_ours, Jump, Part, Rule, Ruleset, Table, HOOKS};
use crate::say;
use crate::service::{Backend, Family, Schedule, Service};

pub fn check(services: &[Service], findings: &mut Findings) {
    if find_program("iptables").is_none() {
        let remedy = remedy::iptables(findings.system, Family::V4);
        findings.error(format!("iptables: there is none on PATH or in /usr/sbin and /sbin; {remedy}"));
        return;
    }
    let looked = Iptables::find().and_then(|engine| {
        // Nobody else's start may come between what is read and what is tried.
        let _lock = Lock::take()?;
        let found = engine.read()?;
        load(&engine, services, &found, findings);
        Ok(found)
    });
    match looked {
        Ok(found) => others(services, &found, findings),
        Err(error) => findings.error(format!("rules: {error}")),
    }
}

/// Loads each kind of rule of the config into a chain of its own to which nothing jumps, and takes it out again.
fn load(engine: &Iptables, services: &[Service], found: &InForce, findings: &mut Findings) {
    findings.ok(format!("iptables: it is {}", engine.name()));
    let wanted = Ruleset::of(services);
    for family in wanted.families() {
        for table in Table::ALL {
            let part = wanted.part(family, table);
            if kinds(part).is_subset(&kinds(found.ours.part(family, table))) {
                let name = table.name();
                findings.ok(format!("{family} {name} rules: all kinds of them are in force already"));
                continue;
            }
            if engine.restarts_all_counters() && !found.ours.part(family, table).is_empty() {
                findings.ok(format!(
                    "{family} {} rules: not tried, since any change would start the counters of those in force anew",
                    table.name()
                ));
                continue;
            }
            load_part(engine, family, table, part, findings);
        }
    }
}

fn load_part(engine: &Iptables, family: Family, table: Table, part: &Part, findings: &mut Findings) {
    let rules = part.chains.values().flatten().map(|rule| rule.text.as_str());
    // One of each kind is enough, and a jump needs its chain: what remains can stand alone.
    let samples: BTreeMap<String, &str> =
        rules.filter(|rule| !enters_ours(rule)).map(|rule| (kind(rule), rule)).collect();
    let samples: Vec<&str> = samples.into_values().collect();
    let name = table.name();
    let Err(error) = engine.probe(family, table, &samples) else {
        findings.ok(format!("{family} {name} rules: the kernel took one of each kind, and gave them back"));
        return;
    };
    let mut named = false;
    for (need, probe) in needs(family, table) {
        let probed = engine.probe(family, table, probe.as_slice());
        let Err(error) = probed else { continue };
        let remedy = need.remedy(findings.system);
        findings.error(format!("{family} {}: {error}; {remedy}", need.what));
        named = true;
    }
    if !named {
        findings.error(format!("{family} {name} rules: {error}"));
    }
}

fn enters_ours(rule: &str) -> bool {
    enters(rule).is_some_and(|chain| Table::ALL.iter().any(|table| is_ours(*table, chain)))
}

/// A rule without what differs from one backend to the other: the options and the target.
fn kind(rule: &str) -> String {
    let word = |word: &&str| {
        word.starts_with('-') || word.chars().all(|c| c.is_ascii_uppercase()) || ["nth", "random", "tcp"].contains(word)
    };
    rule.split(' ').filter(word).collect::<Vec<_>>().join(" ")
}

fn kinds(part: &Part) -> BTreeSet<String> {
    let text = |rule: &Rule| kind(&rule.text);
    part.chains.values().flatten().map(text).collect()
}

/// Each part by itself, to tell which one is missing. A rule of each that uses nothing else.
fn needs(family: Family, table: Table) -> Vec<(Need, Vec<&'static str>)> {
    let need = |what, openwrt, option, module| Need { what, openwrt, option, module };
    let v4 = family == Family::V4;
    match table {
        Table::Filter => vec![
            if v4 {
                (need("filter table", "kmod-ipt-core", "IP_NF_FILTER", "iptable_filter"), vec![])
            } else {
                (need("filter table", "kmod-ip6tables", "IP6_NF_FILTER", "ip6table_filter"), vec![])
            },
            (
                need("conntrack match", "kmod-ipt-conntrack", "NETFILTER_XT_MATCH_CONNTRACK", "xt_conntrack"),
                vec!["-p tcp -m conntrack --ctstate DNAT -j ACCEPT"],
            ),
            (
                if v4 {
                    need("REJECT target", "kmod-ipt-core", "IP_NF_TARGET_REJECT", "ipt_REJECT")
                } else {
                    need("REJECT target", "kmod-ip6tables", "IP6_NF_TARGET_REJECT", "ip6t_REJECT")
                },
                vec!["-p tcp -j REJECT --reject-with tcp-reset"],
            ),
        ],
        Table::Nat => vec![
            if v4 {
                (need("nat table", "kmod-ipt-nat", "IP_NF_NAT", "iptable_nat"), vec![])
            } else {
                (need("nat table", "kmod-ipt-nat6", "IP6_NF_NAT", "ip6table_nat"), vec![])
            },
            (
                need("tcp match", "kmod-ipt-core", "NETFILTER_XTABLES", "x_tables"),
                vec!["-p tcp -m tcp --dport 80 -j RETURN"],
            ),
            (
                need("statistic match", "iptables-mod-ipopt", "NETFILTER_XT_MATCH_STATISTIC", "xt_statistic"),
                vec!["-p tcp -m statistic --mode nth --every 2 --packet 0 -j RETURN"],
            ),
            (
                need("conntrack match", "kmod-ipt-conntrack", "NETFILTER_XT_MATCH_CONNTRACK", "xt_conntrack"),
                vec!["-p tcp -m conntrack --ctstate DNAT -j RETURN"],
            ),
            (
                need("DNAT target", "kmod-ipt-nat", "NETFILTER_XT_NAT", "xt_nat"),
                vec![if v4 {
                    "-p tcp -j DNAT --to-destination 192.0.2.1:80"
                } else {
                    "-p tcp -j DNAT --to-destination [2001:db8::1]:80"
                }],
            ),
            (
                need("SNAT target", "kmod-ipt-nat", "NETFILTER_XT_NAT", "xt_nat"),
                vec![if v4 {
                    "-p tcp -j SNAT --to-source 192.0.2.1"
                } else {
                    "-p tcp -j SNAT --to-source 2001:db8::1"
                }],
            ),
            (
                need("MASQUERADE target", "kmod-ipt-nat", "NETFILTER_XT_TARGET_MASQUERADE", "xt_MASQUERADE"),
                vec!["-p tcp -j MASQUERADE"],
            ),
        ],
    }
}

/// What others' rules do to balanced connections.
fn others(services: &[Service], found: &InForce, findings: &mut Findings) {
    if !found.left_over.is_empty() {
        findings.warning(
            "rules: some are left in the other variant of iptables, where they win; `paraglider start` removes them",
        );
    }
    for family in Family::ALL {
        if !services.iter().any(|service| service.bind.family() == family) {
            continue;
        }
        let drops = |policy: &&(Family, String)| policy.0 == family && policy.1 == "DROP";
        if found.others.forward_policies.iter().any(|policy| drops(&policy)) {
            findings.ok(format!("{family} FORWARD policy: DROP, and our own rules let through what is balanced"));
        }
    }
    for (family, why) in &found.unread {
        findings.warning(format!("{family} rules: cannot be read: {why}"));
    }
    for (table, chain, _) in HOOKS {
        for family in Family::ALL {
            let late = |jump: &&Jump| jump.chain == chain && jump.number > 1;
            if let Some(jump) = found.ours.part(family, table).jumps.iter().find(late) {
                let before = say::count(jump.number - 1, "rule");
                findings.warning(format!(
                    "{family} {chain} ({}): {before} of others before ours; what they drop or take does not get to it",
                    table.name()
                ));
            }
        }
    }
    churn(services, found, findings);
    for table in foreign_forward_hooks() {
        findings.warning(format!(
            "nftables: {table} decides about forwarded packets too, and our ACCEPT cannot overrule a drop there; \
             let pass there what has `ct status dnat`"
        ));
    }
}

/// Round robin that was left alone is exact. Where it is not, somebody else changes the nat table of the old iptables,
/// and each change starts all counters anew.
fn churn(services: &[Service], found: &InForce, findings: &mut Findings) {
    for service in services.iter().filter(|service| service.schedule == Schedule::RoundRobin) {
        let nat = found.ours.part(service.bind.family(), Table::Nat);
        let counted = nat.taken(service.name.as_str());
        let taken = |backend: &Backend| counted.get(&backend.address).copied().unwrap_or(0);
        let weights: u64 = service.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        let all: u64 = service.backends.iter().map(taken).sum();
        // So many whole rounds have passed; in the last one a backend has got nothing, or all that it is owed.
        let rounds = all / weights.max(1);
        let owed =
            |backend: &Backend| (rounds * u64::from(backend.weight))..=((rounds + 1) * u64::from(backend.weight));
        if let Some(backend) = service.backends.iter().find(|backend| !owed(backend).contains(&taken(backend))) {
            findings.warning(format!(
                "shares of {}: {} has taken {} of {all} connections, more or less than its turn; another program \
                 changes the nat table, which on iptables-legacy starts all counters anew; \
                 find it, switch to iptables-nft, or use `schedule: random`",
                service.bind,
                backend.address,
                taken(backend)
            ));
        }
    }
}

/// Tables outside of iptables with a chain at the forward hook. An ACCEPT in one base chain is no verdict for the next.
fn foreign_forward_hooks() -> Vec<String> {
    let Some(nft) = find_program("nft") else { return Vec::new() };
    let output = Command::new(nft).args(["list", "chains"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    hooked(&text)
}

fn hooked(chains: &str) -> Vec<String> {
    let mut table = "";
    let mut found: Vec<String> = Vec::new();
    for line in chains.lines().map(str::trim) {
        if line.starts_with("table ") {
            table = line.trim_end_matches(" {");
        } else if line.contains("hook forward")
            && !["table ip ", "table ip6 "]
                .iter()
                .any(|family| matches!(table.strip_prefix(family), Some("filter" | "mangle" | "security")))
            && !found.iter().any(|known| known == table)
        {
            found.push(table.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_decide_too_are_found() {
        let chains = "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n\
                      table inet fw4 {\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n\
                      \tchain x {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n}\n\
                      table inet lone {\n\tchain x {\n\t}\n}\n";
        assert_eq!(hooked(chains), ["table inet fw4"]);
    }

    #[test]
    fn rules_of_one_kind_differ_only_in_their_values() {
        let one = "-p tcp -m statistic --mode nth --every 3 --packet 0 -j DNAT --to-destination 10.0.0.1:80";
        let two = "-p tcp -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.0.0.2:80";
        assert_eq!(kind(one), kind(two));
        assert_ne!(kind(one), kind("-p tcp -j DNAT --to-destination 10.0.0.2:80"));
        assert_ne!(kind("-p tcp -j MASQUERADE"), kind("-p tcp -j ACCEPT"));
    }
}
