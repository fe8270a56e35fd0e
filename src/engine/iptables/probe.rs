//! Whether the kernel and iptables support our rules: one rule of each kind is loaded into a chain that nothing jumps to, and
//! removed again. (`--test` does not help: the nft variant accepts what the kernel then refuses.)

use super::names::{is_ours, Table, PROBE};
use super::rule::enters;
use super::ruleset::{Ruleset, TableRules};
use super::save::Listing;
use super::tool::{Tools, Variant};
use crate::engine::{Finding, Level};
use crate::error::Error;
use crate::host::remedy::{Need, System};
use crate::net::Family;

/// Tries the kinds of rules that are not in force already.
pub fn lacks(tools: &[Tools], list: &Listing, wanted: &Ruleset) -> Vec<Finding> {
    let mut found = Vec::new();
    for tools in tools {
        let family = tools.family;
        for table in Table::ALL.into_iter().filter(|table| !wanted.table(family, *table).is_empty()) {
            let (rules, name) = (wanted.table(family, table), table.name());
            let there = kinds(list.ours.table(family, table));
            let old = tools.variant == Variant::Legacy;
            if kinds(rules).iter().all(|(kind, _)| there.iter().any(|(known, _)| known == kind)) {
                found.push(Finding::new(
                    Level::Ok,
                    format_args!("{family} {name} rules: all kinds of them are in force already"),
                ));
            } else if old && !list.ours.table(family, table).is_empty() {
                found.push(Finding::new(
                    Level::Ok,
                    format_args!(
                        "{family} {name} rules: not tried, since any change would restart the turns of those in force"
                    ),
                ));
            } else if old && list.counting.contains(&(family, table)) {
                found.push(Finding::new(
                    Level::Ok,
                    format_args!(
                        "{family} {name} rules: not tried, since any change would restart the counters of other \
                         programs' rules (limit, quota, statistic)"
                    ),
                ));
            } else {
                try_table(tools, table, rules, &mut found);
            }
        }
    }
    found
}

fn try_table(tools: &Tools, table: Table, rules: &TableRules, found: &mut Vec<Finding>) {
    let (family, name) = (tools.family, table.name());
    // Jumps are left out: they need their chain.
    let samples: Vec<&str> =
        kinds(rules).into_iter().map(|(_, sample)| sample).filter(|rule| !enters_ours(rule)).collect();
    let Err(error) = load(tools, table, &samples) else {
        found.push(Finding::new(
            Level::Ok,
            format_args!("{family} {name} rules: accepted one rule of each kind (removed again)"),
        ));
        return;
    };
    let mut named = false;
    let system = System::here();
    for Part { need, rule, v6, .. } in PARTS.iter().filter(|part| part.table == table) {
        let (need, rule) = match v6 {
            Some((need, rule)) if family == Family::V6 => (need, rule),
            _ => (need, rule),
        };
        let Err(error) = load(tools, table, &[rule]) else { continue };
        let remedy = need.remedy(system);
        found.push(Finding::new(Level::Error, format_args!("{family} {}: {error}; {remedy}", need.what)));
        named = true;
    }
    if !named {
        found.push(Finding::new(Level::Error, format_args!("{family} {name} rules: {error}")));
    }
}

/// Loads rules into the chain for trying, and removes it.
fn load(tools: &Tools, table: Table, rules: &[&str]) -> Result<(), Error> {
    let name = table.name();
    let mut lines = String::new();
    for rule in rules.iter().filter(|rule| !rule.is_empty()) {
        lines.push_str(&format!("-A {PROBE} {rule}\n"));
    }
    tools.restore(&format!("*{name}\n:{PROBE} - [0:0]\n{lines}COMMIT\n"))?;
    tools.restore(&format!("*{name}\n:{PROBE} - [0:0]\n-X {PROBE}\nCOMMIT\n"))
}

fn enters_ours(rule: &str) -> bool {
    enters(rule).is_some_and(|chain| Table::ALL.iter().any(|table| is_ours(*table, chain)))
}

/// The options and the target of a rule, without values that differ between backends.
fn kind(rule: &str) -> String {
    let word = |word: &&str| {
        word.starts_with('-') || word.chars().all(|c| c.is_ascii_uppercase()) || ["nth", "random", "tcp"].contains(word)
    };
    rule.split(' ').filter(word).collect::<Vec<_>>().join(" ")
}

/// The kinds of rules, with one rule of each.
fn kinds(rules: &TableRules) -> Vec<(String, &str)> {
    let mut kinds: Vec<(String, &str)> = Vec::new();
    for chain in rules.chains() {
        for rule in &chain.rules {
            let kind = kind(&rule.text);
            if !kinds.iter().any(|(known, _)| *known == kind) {
                kinds.push((kind, &rule.text));
            }
        }
    }
    kinds
}

/// A part of the kernel, and a rule that uses nothing else; `v6` if IPv6 has its own.
struct Part {
    table: Table,
    need: Need,
    rule: &'static str,
    v6: Option<(Need, &'static str)>,
}

const fn need(what: &'static str, openwrt: &'static str, option: &'static str, module: &'static str) -> Need {
    Need { what, openwrt, option, module }
}

/// Each part by itself, to tell which one is missing.
const PARTS: [Part; 9] = [
    Part {
        table: Table::Filter,
        need: need("filter table", "kmod-ipt-core", "IP_NF_FILTER", "iptable_filter"),
        rule: "",
        v6: Some((need("filter table", "kmod-ip6tables", "IP6_NF_FILTER", "ip6table_filter"), "")),
    },
    Part {
        table: Table::Filter,
        need: need("conntrack match", "kmod-ipt-conntrack", "NETFILTER_XT_MATCH_CONNTRACK", "xt_conntrack"),
        rule: "-p tcp -m conntrack --ctstate DNAT -j ACCEPT",
        v6: None,
    },
    Part {
        table: Table::Filter,
        need: need("REJECT target", "kmod-ipt-core", "IP_NF_TARGET_REJECT", "ipt_REJECT"),
        rule: "-p tcp -j REJECT --reject-with tcp-reset",
        v6: Some((
            need("REJECT target", "kmod-ip6tables", "IP6_NF_TARGET_REJECT", "ip6t_REJECT"),
            "-p tcp -j REJECT --reject-with tcp-reset",
        )),
    },
    Part {
        table: Table::Nat,
        need: need("nat table", "kmod-ipt-nat", "IP_NF_NAT", "iptable_nat"),
        rule: "",
        v6: Some((need("nat table", "kmod-ipt-nat6", "IP6_NF_NAT", "ip6table_nat"), "")),
    },
    Part {
        table: Table::Nat,
        need: need("tcp match", "kmod-ipt-core", "NETFILTER_XTABLES", "x_tables"),
        rule: "-p tcp -m tcp --dport 80 -j RETURN",
        v6: None,
    },
    Part {
        table: Table::Nat,
        need: need("statistic match", "iptables-mod-ipopt", "NETFILTER_XT_MATCH_STATISTIC", "xt_statistic"),
        rule: "-p tcp -m statistic --mode nth --every 2 --packet 0 -j RETURN",
        v6: None,
    },
    Part {
        table: Table::Nat,
        need: need("conntrack match", "kmod-ipt-conntrack", "NETFILTER_XT_MATCH_CONNTRACK", "xt_conntrack"),
        rule: "-p tcp -m conntrack --ctstate DNAT -j RETURN",
        v6: None,
    },
    Part {
        table: Table::Nat,
        need: need("DNAT and SNAT targets", "kmod-ipt-nat", "NETFILTER_XT_NAT", "xt_nat"),
        rule: "-p tcp -j DNAT --to-destination 192.0.2.1:80",
        v6: Some((
            need("DNAT and SNAT targets", "kmod-ipt-nat6", "NETFILTER_XT_NAT", "xt_nat"),
            "-p tcp -j DNAT --to-destination [2001:db8::1]:80",
        )),
    },
    Part {
        table: Table::Nat,
        need: need("MASQUERADE target", "kmod-ipt-nat", "NETFILTER_XT_TARGET_MASQUERADE", "xt_MASQUERADE"),
        rule: "-p tcp -j MASQUERADE",
        v6: None,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_one_kind_differ_only_in_their_values() {
        let one = "-p tcp -m statistic --mode nth --every 3 --packet 0 -j DNAT --to-destination 10.0.0.1:80";
        let two = "-p tcp -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.0.0.2:80";
        assert_eq!(kind(one), kind(two));
        assert_ne!(kind(one), kind("-p tcp -j DNAT --to-destination 10.0.0.2:80"));
        assert_ne!(kind("-p tcp -j MASQUERADE"), kind("-p tcp -j ACCEPT"));
    }
}
