//! What the kernel lacks, told from what it refuses.

use super::change;
use super::encode;
use super::index::Index;
use super::read::Seen;
use super::table::{Table, TABLE};
use crate::engine::{Finding, Level};
use crate::error::Error;
use crate::host::remedy::{Need, System};
use crate::sys::batch::{Batch, Refusal, Verb};
use crate::sys::netlink::text_of;
use crate::sys::nftables::{chain, object, rule};

const fn need(what: &'static str, openwrt: &'static str, option: &'static str, module: &'static str) -> Need {
    Need { what, openwrt, option, module }
}

/// The parts of the kernel that our rules need, by the names of their expressions.
static EXPRESSIONS: [Need; 6] = [
    need("numgen", "kmod-nft-core", "NFT_NUMGEN", "nft_numgen"),
    need("ct", "kmod-nft-core", "NFT_CT", "nft_ct"),
    need("nat", "kmod-nft-nat", "NFT_NAT", "nft_nat"),
    need("masq", "kmod-nft-nat", "NFT_MASQ", "nft_masq"),
    need("reject", "kmod-nft-core", "NFT_REJECT_INET", "nft_reject_inet"),
    need("objref", "kmod-nft-core", "NFT_OBJREF", "nft_objref"),
];

/// What comes before any rule.
static TABLES: Need = need("nf_tables", "kmod-nft-core", "NF_TABLES", "nf_tables");
static INET_TABLES: Need = need("tables for both families (inet)", "kmod-nft-core", "NF_TABLES_INET", "nf_tables");
static NAT_CHAINS: Need = need("chains for nat", "kmod-nft-nat", "NFT_NAT", "nft_chain_nat");
static COUNTERS: Need = need("counters", "kmod-nft-core", "NFT_COUNTER", "nft_counter");

/// The part that a message needs and the kernel lacks, if that is why it was refused.
fn lacking(refusal: &Refusal, verb: Option<Verb>) -> Option<&'static Need> {
    let absent = matches!(refusal.number, libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT);
    if !absent {
        return None;
    }
    match verb {
        None => Some(&TABLES),
        Some(Verb::NewTable) => Some(&INET_TABLES),
        Some(Verb::NewChain) => Some(&NAT_CHAINS),
        Some(Verb::NewObject) => Some(&COUNTERS),
        Some(_) => EXPRESSIONS.iter().find(|need| Some(need.what) == refusal.expression.as_deref()),
    }
}

/// The error about a batch that was refused: which rule, why, and what to do.
pub fn refused(refusal: &Refusal, batch: &Batch, table: &Table) -> Error {
    let (what, verb) = place(refusal, batch, table);
    let error = Error::system(format_args!("the kernel refuses {what}: {refusal}"));
    match lacking(refusal, verb) {
        Some(need) => error.and(&format!("it lacks {}: {}", need.what, need.remedy(System::here()))),
        None => error,
    }
}

/// What a refusal is about.
fn place(refusal: &Refusal, batch: &Batch, table: &Table) -> (String, Option<Verb>) {
    let Some((number, (verb, attributes))) = refusal.message.and_then(|number| Some((number, batch.get(number)?)))
    else {
        return (["the table ", TABLE].concat(), None);
    };
    let of_rule = Some(Verb::NewRule);
    let named = |what: &str, kind| [what, text_of(attributes, kind).unwrap_or_default()].concat();
    if verb == Verb::NewTable as u16 {
        return (["the table ", TABLE].concat(), Some(Verb::NewTable));
    } else if verb == Verb::NewChain as u16 {
        return (named("the chain ", chain::NAME), Some(Verb::NewChain));
    } else if verb == Verb::NewObject as u16 {
        return (named("the counter ", object::NAME), Some(Verb::NewObject));
    }
    // A map comes before its rule. The rules of a chain are next to each other, perhaps with their maps between them.
    let (mut at, mut last, mut nth) = (0, "", 0);
    while let Some((verb, attributes)) = batch.get(at) {
        at += 1;
        if verb != Verb::NewRule as u16 {
            continue;
        }
        let chain = text_of(attributes, rule::CHAIN).unwrap_or_default();
        nth = if chain == last { nth + 1 } else { 0 };
        last = chain;
        if at > number {
            if let Some(rule) = table.rule(chain, nth) {
                return (format!("the rule `{rule}` of chain {chain}"), of_rule);
            }
        }
    }
    ("the change".to_owned(), of_rule)
}

/// Whether the kernel would take a table of a family that is not in force: it is tried under another name, and removed in the
/// same transaction. Rules that it cannot take are left out, until all that it lacks is known.
pub fn lacks(mut wanted: Table, in_force: bool, family: libc::c_int) -> Vec<Finding> {
    if in_force {
        return vec![Finding::new(Level::Ok, format_args!("nftables: all kinds of rules are in force already"))];
    }
    let (mut found, nothing) = (Vec::new(), Seen::default());
    loop {
        let mut batch = change::to(&wanted, &Index::of(&nothing), family, TRIED, false);
        batch.begin(Verb::DeleteTable);
        let Err(refusal) = batch.send() else {
            if found.is_empty() {
                found.push(Finding::new(
                    Level::Ok,
                    format_args!("nftables: the kernel takes the rules (removed again)"),
                ));
            }
            return found;
        };
        found.push(Finding::new(Level::Error, format_args!("nftables: {}", refused(&refusal, &batch, &wanted))));
        let Some(missing) = refusal.expression.filter(|_| found.len() <= EXPRESSIONS.len()) else { return found };
        for chain in &mut wanted.chains {
            chain.rules.retain(|rule| !encode::has_expression(rule, &missing));
        }
    }
}

/// The name of the table for trying.
const TRIED: &str = "paraglider-probe";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::nftables::render;
    use crate::engine::Plan;
    use crate::net::Protocol;
    use crate::sys::nftables::INET;

    #[test]
    fn what_the_kernel_refuses_is_named_with_what_it_lacks() {
        let config = "frontend: {name: web, bind: '10.0.0.1:80', backends: ['10.0.1.1:80', '10.0.1.2:80']}";
        let services = crate::config::parse(config.as_bytes()).unwrap().services;
        let nothing = Seen::default();
        let table = render::table(&Plan::Serve(&services), &Index::of(&nothing), &|_| false).unwrap();
        let batch = change::to(&table, &Index::of(&nothing), INET, TABLE, false);
        let said = |message, number, expression: &str| {
            let expression = (!expression.is_empty()).then(|| expression.to_owned());
            refused(&Refusal { number, message, expression }, &batch, &table).to_string()
        };
        // The first message of each kind whose attributes contain this text.
        let at = |verb: Verb, text: &str| {
            let has = |(of, attributes): &(u16, &[u8])| {
                *of == verb as u16 && attributes.windows(text.len()).any(|part| part == text.as_bytes())
            };
            (0..).find(|at| batch.get(*at).is_some_and(|message| has(&message)))
        };
        for (place, number, expression, wanted) in [
            (
                None,
                libc::EOPNOTSUPP,
                "",
                "the kernel refuses the table paraglider: Operation not supported; it lacks nf_tables: ",
            ),
            (at(Verb::NewTable, "paraglider"), libc::EOPNOTSUPP, "", "it lacks tables for both families (inet): "),
            (
                at(Verb::NewChain, "prerouting"),
                libc::ENOENT,
                "",
                "refuses the chain prerouting: No such file or directory; it lacks chains for nat: ",
            ),
            (
                at(Verb::NewObject, "taken/web/10.0.1.2/80"),
                libc::ENOENT,
                "",
                "refuses the counter taken/web/10.0.1.2/80: No such file or directory; it lacks counters: ",
            ),
            (
                at(Verb::NewElements, "backend/web/1"),
                libc::ENOENT,
                "",
                "refuses the rule `meta l4proto tcp tcp flags & (fin | syn | rst | ack) == syn numgen inc mod 2 vmap \
                 { 0 : goto backend/web/0, 1 : goto backend/web/1 }` of chain frontend/web: No such file or directory",
            ),
            (
                at(Verb::NewRule, "frontend/web"),
                libc::ENOENT,
                "numgen",
                "of chain frontend/web: No such file or directory; it lacks numgen: ",
            ),
            (
                at(Verb::NewRule, "backend/web/1"),
                libc::ENOMEM,
                "",
                "dnat ip to 10.0.1.2:80` of chain backend/web/1: Cannot allocate memory",
            ),
            (
                at(Verb::NewRule, "source/web"),
                libc::ENOENT,
                "masq",
                "the rule `masquerade` of chain source/web: No such file or directory; it lacks masq: ",
            ),
        ] {
            let said = said(place, number, expression);
            assert!(said.contains(wanted), "{place:?}: {said}");
            // Only what is missing has a remedy.
            assert_eq!(said.contains("it lacks"), wanted.contains("it lacks"), "{said}");
        }
    }

    #[test]
    fn rules_are_left_out_by_their_expressions() {
        use crate::engine::nftables::table::Rule;
        let refuse = Rule::Refuse(Protocol::Tcp);
        assert!(encode::has_expression(&refuse, "reject") && !encode::has_expression(&refuse, "nat"));
        assert!(encode::has_expression(&Rule::Reset, "ct") && !encode::has_expression(&Rule::Reset, "objref"));
    }
}
