//! Bytes → config → rules: whatever the bytes are, there is a sentence or there are well-formed rules.
#![no_main]

use libfuzzer_sys::fuzz_target;
use paraglider::config;
use paraglider::engine::iptables::change::Change;
use paraglider::engine::iptables::names::{is_ours, Table};
use paraglider::engine::iptables::ruleset::Ruleset;
use paraglider::net::Family;

fuzz_target!(|bytes: &[u8]| {
    let services = match config::parse(bytes) {
        Ok(config) => config.services,
        Err(mistake) => {
            let sentence = mistake.to_string();
            assert!(mistake.line >= 1 && mistake.column >= 1);
            assert!(!sentence.contains(['\n', '\r', '\u{1b}']), "{sentence:?}");
            return;
        }
    };
    let wanted = Ruleset::of(&services);
    assert!(!wanted.is_empty());
    for family in Family::ALL {
        let Some(change) = Change::of_family(&Ruleset::default(), &wanted, family) else { continue };
        let mut table = Table::Filter;
        for line in change.text.lines() {
            assert!(line.is_ascii(), "{line:?}");
            let mut words = line.split(' ');
            match words.next() {
                Some("*filter") => table = Table::Filter,
                Some("*nat") => table = Table::Nat,
                Some("COMMIT") => {}
                Some("-A") => assert!(is_ours(table, words.next().unwrap())),
                Some("-I") => assert!(words.next().unwrap().bytes().all(|b| b.is_ascii_uppercase())),
                Some(chain) => assert!(is_ours(table, chain.strip_prefix(':').unwrap()) && chain.len() <= 29),
                None => panic!("an empty line"),
            }
        }
        // Rules in force need no change.
        assert_eq!(Change::of_family(&wanted, &Ruleset::following(&services, &wanted, &Family::ALL), family), None);
    }
});
