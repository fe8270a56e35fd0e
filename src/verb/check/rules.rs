//! Can the rules be loaded, and do others' rules let the connections through?

use super::Findings;
use crate::engine::iptables::rule::{enters, value};
use crate::engine::iptables::ruleset::{is_ours, Jump, Part, Ruleset, Table, HOOKS};
use crate::engine::iptables::tool::Iptables;
use crate::engine::{Engine, InForce};
use crate::host::lock::Lock;
use crate::host::remedy::{self, Need};
use crate::net::Family;
use crate::service::{Backend, Schedule, Service};
use crate::sys::log;
use crate::sys::process;

pub fn check(services: &[Service], findings: &mut Findings) {
    if process::find("iptables").is_none() {
        let remedy = remedy::iptables(findings.system, Family::V4);
        findings.error(format_args!("iptables: there is none on PATH or in /usr/sbin and /sbin; {remedy}"));
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
        Err(error) => findings.error(format_args!("rules: {error}")),
    }
}

/// Loads each kind of rule of the config into a chain of its own to which nothing jumps, and takes it out again.
fn load(engine: &Iptables, services: &[Service], found: &InForce, findings: &mut Findings) {
    findings.ok(format_args!("iptables: it is {}", engine.name()));
    let wanted = Ruleset::of(services);
    for family in wanted.families() {
        for table in Table::ALL {
            let part = wanted.part(family, table);
            let there = kinds(found.ours.part(family, table));
            if kinds(part).iter().all(|(kind, _)| there.iter().any(|(known, _)| known == kind)) {
                let name = table.name();
                findings.ok(format_args!("{family} {name} rules: all kinds of them are in force already"));
                continue;
            }
            if engine.restarts_all_counters() && !found.ours.part(family, table).is_empty() {
                findings.ok(format_args!(
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
    // One of each kind is enough, and a jump needs its chain: what remains can stand alone.
    let samples: Vec<&str> =
        kinds(part).into_iter().map(|(_, sample)| sample).filter(|rule| !enters_ours(rule)).collect();
    let name = table.name();
    let Err(error) = engine.probe(family, table, &samples) else {
        findings.ok(format_args!("{family} {name} rules: the kernel took one of each kind, and gave them back"));
        return;
    };
    let mut named = false;
    for Probe { need, rule, v6, .. } in PROBES.iter().filter(|probe| probe.table == table) {
        let (need, rule) = match v6 {
            Some((need, rule)) if family == Family::V6 => (need, rule),
            _ => (need, rule),
        };
        let Err(error) = engine.probe(family, table, &[rule]) else { continue };
        let remedy = need.remedy(findings.system);
        findings.error(format_args!("{family} {}: {error}; {remedy}", need.what));
        named = true;
    }
    if !named {
        findings.error(format_args!("{family} {name} rules: {error}"));
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

/// The kinds of rules, with one rule of each.
fn kinds(part: &Part) -> Vec<(String, &str)> {
    let mut kinds: Vec<(String, &str)> = Vec::new();
    for chain in part.chains() {
        for rule in &chain.rules {
            let kind = kind(&rule.text);
            if !kinds.iter().any(|(known, _)| *known == kind) {
                kinds.push((kind, &rule.text));
            }
        }
    }
    kinds
}

/// A part of the kernel, and a rule that uses it and nothing else; where IPv6 has its own, that.
struct Probe {
    table: Table,
    need: Need,
    rule: &'static str,
    v6: Option<(Need, &'static str)>,
}

const fn need(what: &'static str, openwrt: &'static str, option: &'static str, module: &'static str) -> Need {
    Need { what, openwrt, option, module }
}

/// Each part by itself, to tell which one is missing.
const PROBES: [Probe; 9] = [
    Probe {
        table: Table::Filter,
        need: need("filter table", "kmod-ipt-core", "IP_NF_FILTER", "iptable_filter"),
        rule: "",
        v6: Some((need("filter table", "kmod-ip6tables", "IP6_NF_FILTER", "ip6table_filter"), "")),
    },
    Probe {
        table: Table::Filter,
        need: need("conntrack match", "kmod-ipt-conntrack", "NETFILTER_XT_MATCH_CONNTRACK", "xt_conntrack"),
        rule: "-p tcp -m conntrack --ctstate DNAT -j ACCEPT",
        v6: None,
    },
    Probe {
        table: Table::Filter,
        need: need("REJECT target", "kmod-ipt-core", "IP_NF_TARGET_REJECT", "ipt_REJECT"),
        rule: "-p tcp -j REJECT --reject-with tcp-reset",
        v6: Some((
            need("REJECT target", "kmod-ip6tables", "IP6_NF_TARGET_REJECT", "ip6t_REJECT"),
            "-p tcp -j REJECT --reject-with tcp-reset",
        )),
    },
    Probe {
        table: Table::Nat,
        need: need("nat table", "kmod-ipt-nat", "IP_NF_NAT", "iptable_nat"),
        rule: "",
        v6: Some((need("nat table", "kmod-ipt-nat6", "IP6_NF_NAT", "ip6table_nat"), "")),
    },
    Probe {
        table: Table::Nat,
        need: need("tcp match", "kmod-ipt-core", "NETFILTER_XTABLES", "x_tables"),
        rule: "-p tcp -m tcp --dport 80 -j RETURN",
        v6: None,
    },
    Probe {
        table: Table::Nat,
        need: need("statistic match", "iptables-mod-ipopt", "NETFILTER_XT_MATCH_STATISTIC", "xt_statistic"),
        rule: "-p tcp -m statistic --mode nth --every 2 --packet 0 -j RETURN",
        v6: None,
    },
    Probe {
        table: Table::Nat,
        need: need("conntrack match", "kmod-ipt-conntrack", "NETFILTER_XT_MATCH_CONNTRACK", "xt_conntrack"),
        rule: "-p tcp -m conntrack --ctstate DNAT -j RETURN",
        v6: None,
    },
    Probe {
        table: Table::Nat,
        need: need("DNAT and SNAT targets", "kmod-ipt-nat", "NETFILTER_XT_NAT", "xt_nat"),
        rule: "-p tcp -j DNAT --to-destination 192.0.2.1:80",
        v6: Some((
            need("DNAT and SNAT targets", "kmod-ipt-nat6", "NETFILTER_XT_NAT", "xt_nat"),
            "-p tcp -j DNAT --to-destination [2001:db8::1]:80",
        )),
    },
    Probe {
        table: Table::Nat,
        need: need("MASQUERADE target", "kmod-ipt-nat", "NETFILTER_XT_TARGET_MASQUERADE", "xt_MASQUERADE"),
        rule: "-p tcp -j MASQUERADE",
        v6: None,
    },
];

/// What others' rules do to balanced connections.
fn others(services: &[Service], found: &InForce, findings: &mut Findings) {
    if !found.left_over.is_empty() {
        findings.warning(format_args!(
            "rules: some are left in the other variant of iptables, where they win; `paraglider start` removes them"
        ));
    }
    for family in Family::ALL {
        if !services.iter().any(|service| service.bind.family() == family) {
            continue;
        }
        let drops = |policy: &&(Family, String)| policy.0 == family && policy.1 == "DROP";
        if found.others.forward_policies.iter().any(|policy| drops(&policy)) {
            findings.ok(format_args!("{family} FORWARD policy: DROP, and our own rules let through what is balanced"));
        }
    }
    for (family, why) in &found.unread {
        findings.warning(format_args!("{family} rules: cannot be read: {why}"));
    }
    for (table, chain, _) in HOOKS {
        for family in Family::ALL {
            let late = |jump: &&Jump| jump.chain == chain && jump.number > 1;
            if let Some(jump) = found.ours.part(family, table).jumps.iter().find(late) {
                let before = log::count(jump.number - 1, "rule");
                findings.warning(format_args!(
                    "{family} {chain} ({}): {before} of others before ours; what they drop or take does not get to it",
                    table.name()
                ));
            }
        }
    }
    churn(services, found, findings);
    for table in foreign_forward_hooks() {
        findings.warning(format_args!(
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
        let taken =
            |backend: &Backend| counted.iter().find(|(of, _)| *of == backend.address).map_or(0, |(_, taken)| *taken);
        let weights: u64 = service.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        let all: u64 = service.backends.iter().map(taken).sum();
        // So many whole rounds have passed; in the last one a backend has got nothing, or all that it is owed.
        let rounds = all / weights.max(1);
        let owed =
            |backend: &Backend| (rounds * u64::from(backend.weight))..=((rounds + 1) * u64::from(backend.weight));
        if let Some(backend) = service.backends.iter().find(|backend| !owed(backend).contains(&taken(backend))) {
            findings.warning(format_args!(
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
    let chains = process::find("nft").and_then(|nft| process::run(&nft, &["list", "chains"], "").ok());
    chains.map(|chains| hooked(&chains.out)).unwrap_or_default()
}

fn hooked(chains: &str) -> Vec<String> {
    let mut table = "";
    let mut found: Vec<String> = Vec::new();
    for line in chains.lines().map(str::trim_ascii) {
        if line.starts_with("table ") {
            table = line.strip_suffix(" {").unwrap_or(line);
        } else if value(line, "hook") == Some("forward")
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
