//! The output of `iptables-save -c`. It is not trusted: chains and comments of other programs may look like ours.

use super::names::{hook_of, is_ours, Table};
use super::others::Others;
use super::rule::{enters, Rule};
use super::ruleset::{Jump, Ruleset};
use super::words::{Lines, Words};
use crate::engine::Foreign;
use crate::error::{fail, Error};
use crate::net::Family;
use crate::sys::netlink::{self, Netlink};
use crate::text::{number, Shown};

/// The content of one engine's listings.
#[derive(Debug, Default)]
pub struct Listing {
    /// Our rules.
    pub ours: Ruleset,
    /// The rules of other programs.
    pub others: Others,
    /// Facts about them.
    pub foreign: Foreign,
    /// Tables in which another program's rule has a counter that every change of the table resets (iptables-legacy).
    pub counting: Vec<(Family, Table)>,
}

/// Adds the listing `text` of one family to `to`. Fails if it is incomplete, since rules of ours may be missing from it: a
/// table of `expected` is not listed, a table does not end, or it contains rules that only `nft` can show.
pub fn read(text: &str, family: Family, expected: &[Table], to: &mut Listing) -> Result<(), Error> {
    let Listing { ours, others, foreign, counting } = to;
    let mut missing = expected.to_vec();
    let mut listed: Vec<&str> = Vec::new();
    // The current table; COMMIT ends it.
    let (mut table, mut open) = (None, None);
    // The current chain, and the number of its rules so far.
    let (mut current, mut seen) = ("", 0);
    for line in Lines(text) {
        if let Some(name) = line.strip_prefix('*') {
            if listed.contains(&name) {
                return fail!("the list of the {family} rules has table {} twice", Shown(name));
            }
            listed.push(name);
            open = Some(name.trim_ascii_end());
            table = Table::ALL.into_iter().find(|table| Some(table.name()) == open);
            current = "";
        } else if line.trim_ascii_end() == "COMMIT" {
            missing.retain(|expected| Some(*expected) != table);
            open = None;
        } else if let Some(name) = incompatible(line) {
            return fail!(
                "table {name} ({family}) has rules that iptables cannot show (`nft list ruleset` does); \
                 move them to a table of their own"
            );
        } else if let (Some(declared), Some(open)) = (line.strip_prefix(':'), open) {
            let mut words = declared.split(' ');
            let (Some(chain), policy) = (words.next(), words.next().unwrap_or("-")) else { continue };
            match table {
                Some(table) if policy == "-" && is_ours(table, chain) => ours.table_mut(family, table).declare(chain),
                _ => others.declare(family, open, chain, policy),
            }
            if table == Some(Table::Filter) && chain == "FORWARD" && policy != "-" {
                foreign.forward_policies.push((family, policy.to_owned()));
            }
        } else if let (Some((chain, rule)), Some(open)) = (appended(line), open) {
            seen = if chain == current { seen + 1 } else { 1 };
            current = chain;
            match table {
                Some(table) if is_ours(table, chain) => ours.table_mut(family, table).push(chain, rule),
                Some(table) if enters(&rule.text).is_some_and(|chain| is_ours(table, chain)) => {
                    let after = match hook_of(table, chain, &rule.text) {
                        Some(_) => others.length(family, open, chain),
                        None => others.push(family, open, chain, &rule.text),
                    };
                    let jump = Jump { chain: chain.to_owned(), rule, after, number: seen };
                    ours.table_mut(family, table).jumps.push(jump);
                }
                _ => {
                    others.push(family, open, chain, &rule.text);
                    if uses(&rule.text, &TRACK_MATCHES, &TRACK_TARGETS) && !foreign.tracking.contains(&family) {
                        foreign.tracking.push(family);
                    }
                    if let Some(table) = table.filter(|_| uses(&rule.text, &COUNT_MATCHES, &[])) {
                        counting.push((family, table));
                    }
                }
            }
        }
    }
    match (open, missing.first()) {
        (Some(name), _) => {
            fail!("the list of the {family} rules ends in the middle of table {}", name)
        }
        (_, Some(table)) => fail!("the list of the {family} rules lacks table {}, which the kernel has", table.name()),
        (None, None) => Ok(()),
    }
}

/// Fails if the kernel has a chain of ours that is not in the listing of this family: what the listing program says is
/// nothing is not taken for nothing. Asked where a table has none, since tables can be long.
pub fn hides_nothing(family: Family, listing: &Listing) -> Result<(), Error> {
    let empty = |table: &Table| listing.ours.table(family, *table).chains().is_empty();
    if !Table::ALL.iter().any(empty) {
        return Ok(());
    }
    let mut hidden = None;
    let mut take = |chain: &[u8]| {
        // NFTA_CHAIN_TABLE and NFTA_CHAIN_NAME
        let (Some(table), Some(name)) = (netlink::text_of(chain, 1), netlink::text_of(chain, 3)) else { return };
        let table = Table::ALL.into_iter().find(|known| known.name() == table);
        if table.is_some_and(|table| is_ours(table, name) && listing.ours.table(family, table).rules(name).is_none()) {
            hidden = Some(name.to_owned());
        }
    };
    // A kernel that does not tell is none that contradicts.
    let _ = Netlink::open().and_then(|mut netlink| netlink.list(netlink::CHAINS, family.domain(), &mut take));
    match hidden {
        Some(name) => fail!("the list of the {family} rules lacks chain {}, which the kernel has", Shown(&name)),
        None => Ok(()),
    }
}

/// The table's name in ``# Table `nat' is incompatible, use 'nft' tool.``, where it is one of those that we use.
fn incompatible(line: &str) -> Option<&str> {
    let (name, rest) = line.strip_prefix("# Table `")?.split_once('\'')?;
    (rest.starts_with(" is incompatible") && Table::ALL.iter().any(|table| table.name() == name)).then_some(name)
}

/// `[packets:bytes] -A CHAIN text`; the counters may be missing.
fn appended(line: &str) -> Option<(&str, Rule)> {
    let (packets, rest) = match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((counters, rest)) => (number(counters.split(':').next()?, u64::MAX)?, rest.strip_prefix(' ')?),
        None => (0, line),
    };
    let rest = rest.strip_prefix("-A ")?;
    let (chain, text) = rest.split_once(' ').unwrap_or((rest, ""));
    Some((chain, Rule { text: text.trim_ascii_end().to_owned(), packets }))
}

/// Matches and targets that use connection tracking.
const TRACK_MATCHES: [&str; 6] = ["state", "conntrack", "connmark", "connbytes", "connlimit", "helper"];
const TRACK_TARGETS: [&str; 7] = ["MASQUERADE", "SNAT", "DNAT", "REDIRECT", "NETMAP", "CONNMARK", "CT"];

/// Matches whose counters start when their table is loaded.
const COUNT_MATCHES: [&str; 3] = ["limit", "quota", "statistic"];

/// Whether a rule uses one of these matches or targets.
fn uses(rule: &str, matches: &[&str], targets: &[&str]) -> bool {
    let words: Vec<&str> = Words(rule).collect();
    words.windows(2).any(|pair| match pair {
        ["-m", name] => matches.contains(name),
        ["-j", name] => targets.contains(name),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Ruleset, Foreign) {
        let mut listing = Listing::default();
        read(text, Family::V4, &[], &mut listing).unwrap();
        (listing.ours, listing.foreign)
    }

    #[test]
    fn our_chains_rules_and_jumps_are_found_with_their_counters() {
        let (ours, foreign) = parse(
            "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them\n\
             # Generated by iptables-nft-save v1.8.9 (nf_tables) on Mon Nov 23 02:40:02 2026\n\
             *filter\n:FORWARD DROP [3:180]\n:PARAGLIDER-FWD - [0:0]\n\
             [9:540] -A FORWARD -p tcp -j PARAGLIDER-FWD\n[9:540] -A PARAGLIDER-FWD -p tcp -j ACCEPT\nCOMMIT\n\
             *nat\n:PREROUTING ACCEPT [0:0]\n:PARAGLIDER - [0:0]\n:PG-web/0 - [0:0]\n\
             [7:420] -A PREROUTING -p tcp -j PARAGLIDER\n\
             [5:300] -A PG-web/0 -p tcp -j DNAT --to-destination 10.0.0.1:80\nCOMMIT\n",
        );
        let filter = ours.table(Family::V4, Table::Filter);
        assert_eq!((filter.jumps[0].chain.as_str(), filter.jumps[0].number), ("FORWARD", 1));
        assert_eq!(filter.rules("PARAGLIDER-FWD").unwrap()[0].text, "-p tcp -j ACCEPT");
        let nat = ours.table(Family::V4, Table::Nat);
        assert_eq!(nat.rules("PARAGLIDER").unwrap(), []);
        assert_eq!(nat.rules("PG-web/0").unwrap()[0].packets, 5);
        assert_eq!(nat.jumps[0].rule.text, "-p tcp -j PARAGLIDER");
        assert_eq!(foreign.forward_policies, [(Family::V4, "DROP".to_owned())]);
    }

    #[test]
    fn others_rules_that_look_like_ours_do_not_fool_it() {
        let (ours, _) = parse(concat!(
            "*filter\n:FORWARD ACCEPT [0:0]\n:PARAGLIDERS - [0:0]\n:PG-admin - [0:0]\n:odd\"name - [0:0]\n",
            "-A FORWARD -m comment --comment \"see -j PARAGLIDER-FWD\" -j ACCEPT\n",
            "-A FORWARD -m comment --comment \"a \\\" -j PARAGLIDER-FWD\" -j DROP\n",
            "-A FORWARD -m comment --comment \"two\n:PARAGLIDER-FWD - [0:0]\n-A FORWARD -j PARAGLIDER-FWD\nCOMMIT\n\" -j DROP\n",
            "-A FORWARD -j odd\"name\n",
            "-A FORWARD -m comment --comment -j -j ACCEPT\n",
            "-A FORWARD -m comment --comment PARAGLIDER-FWD -j ACCEPT\n",
            ":PG-web/0 - [0:0]\n:PARAGLIDER - [0:0]\n-A FORWARD -j PG-web/0\n-A PG-web/0 -j DROP\n",
            "-A FORWARD -j PG-admin\n-A PARAGLIDERS -j ACCEPT\n",
            "COMMIT\n*mangle\n:PARAGLIDER - [0:0]\n-A PREROUTING -j PARAGLIDER\nCOMMIT\n",
        ));
        assert!(ours.is_empty(), "{ours:?}");
    }

    #[test]
    fn after_an_odd_name_or_an_open_quotation_mark_the_rest_is_still_read() {
        for odd in ["-A FORWARD -j odd\"name\n", "-A FORWARD -j \"odd\n", ":x\"y - [0:0]\n"] {
            let (ours, _) =
                parse(&format!("*filter\n{odd}:PARAGLIDER-FWD - [0:0]\n-A FORWARD -j PARAGLIDER-FWD\nCOMMIT\n"));
            let filter = ours.table(Family::V4, Table::Filter);
            assert_eq!((filter.chains().len(), filter.jumps.len()), (1, 1), "{odd}");
        }
    }

    #[test]
    fn others_use_of_conntrack_is_seen() {
        for (rule, uses) in [
            ("-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", true),
            ("-A INPUT -m state --state ESTABLISHED -j ACCEPT", true),
            ("-A FORWARD -o eth0 -j MASQUERADE", true),
            ("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT", false),
            ("-A INPUT -m comment --comment \"no -m conntrack\" -j ACCEPT", false),
            ("-A INPUT -m comment --comment conntrack -j ACCEPT", false),
            ("-A INPUT -j CT --notrack", true),
        ] {
            let (_, foreign) = parse(&format!("*filter\n{rule}\nCOMMIT\n"));
            assert_eq!(!foreign.tracking.is_empty(), uses, "{rule}");
        }
    }

    #[test]
    fn a_table_that_cannot_be_shown_is_an_error_where_ours_may_be_in_it() {
        let read = |table: &str| {
            let text = format!("# Table `{table}' is incompatible, use 'nft' tool.\n");
            read(&text, Family::V4, &[], &mut Listing::default())
        };
        assert!(read("nat").is_err() && read("filter").is_err() && read("mangle").is_ok());
    }

    #[test]
    fn what_is_not_whole_is_an_error() {
        let whole = "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n";
        let said = |text: &str, expected: &[Table]| {
            read(text, Family::V4, expected, &mut Listing::default()).map_err(|error| error.to_string())
        };
        assert_eq!(said(whole, &Table::ALL), Ok(()));
        assert_eq!(said("", &[]), Ok(()));
        for text in ["", "garbage\n", "*filter\nCOMMIT\n"] {
            let why = said(text, &Table::ALL).unwrap_err();
            assert!(why.contains("lacks table"), "{text}: {why}");
        }
        for length in 1..whole.len() - 1 {
            assert!(said(whole.get(..length).unwrap(), &Table::ALL).is_err(), "{length}");
        }
        let twice = format!("{whole}*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n");
        assert!(said(&twice, &Table::ALL).unwrap_err().contains("has table nat twice"));
        assert!(said("*raw\n-A PREROUTING -j NOTRACK\n", &[]).unwrap_err().contains("in the middle of table raw"));
    }

    #[test]
    fn others_that_count_are_seen() {
        let text = "*filter\n-A INPUT -m limit --limit 1/s -j ACCEPT\n-A PARAGLIDER-FWD -m quota --quota 1 -j DROP\n\
                    COMMIT\n*nat\n-A PG-x/0 -p tcp -m statistic --mode nth --every 2 --packet 0 -j RETURN\nCOMMIT\n";
        let mut listing = Listing::default();
        read(text, Family::V4, &[], &mut listing).unwrap();
        assert_eq!(listing.counting, [(Family::V4, Table::Filter)]);
    }

    #[test]
    fn garbage_is_no_panic() {
        for text in
            ["", "*", ":", "-A", "[", "[1:2] ", "[x:y] -A a b", "-A X -j", "\"", "*nat\n:\n-A \n", "*nat\n-A PG-x/0"]
        {
            let _ = read(text, Family::V4, &[], &mut Listing::default());
        }
    }
}
