//! Real hosts: where our jump into FORWARD stands among their rules, and which of their bans no longer see what is balanced.

use std::fs;

use super::meets::{Meets, Ours};
use super::place::{Places, Traffic};
use crate::engine::iptables::save::{self, Listing};
use crate::engine::Level;
use crate::net::{Endpoint, Family};

/// A host as a file tells it: `# INTERFACE: before RULE` or `at the end` says where the jump belongs if the backends are
/// behind that interface, `# unasked: RULE` which ban comes too late then for the last of them.
struct Host {
    name: String,
    rules: String,
    places: Vec<(String, String)>,
    unasked: Vec<String>,
}

fn hosts() -> Vec<Host> {
    let mut all = Vec::new();
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hosts")).unwrap() {
        let path = entry.unwrap().path();
        let rules = fs::read_to_string(&path).unwrap();
        let (mut places, mut unasked) = (Vec::new(), Vec::new());
        for (key, value) in rules.lines().filter_map(|line| line.strip_prefix("# ")?.split_once(": ")) {
            match key {
                "unasked" => unasked.push(value.to_owned()),
                _ if key.contains(' ') => {}
                _ => places.push((key.to_owned(), value.to_owned())),
            }
        }
        all.push(Host { name: path.file_name().unwrap().to_string_lossy().into_owned(), rules, places, unasked });
    }
    assert!(all.len() >= 14, "{} hosts", all.len());
    all
}

fn listing(rules: &str) -> Listing {
    let mut listing = Listing::default();
    save::read(rules, Family::V4, &[], &mut listing).unwrap();
    listing
}

fn behind(interface: &str) -> Traffic {
    Traffic {
        binds: vec![Endpoint::parse("203.0.113.1:4444").unwrap()],
        backends: vec![Endpoint::parse("10.2.0.11:5555").unwrap()],
        interfaces: Some(vec![interface.to_owned()]),
        front: vec!["wan".to_owned()],
    }
}

#[test]
fn the_jump_stands_behind_bans_and_before_what_drops_all() {
    for host in hosts() {
        let listing = listing(&host.rules);
        assert!(!host.places.is_empty(), "{} tells no place", host.name);
        for (interface, wanted) in &host.places {
            let places = Places::among(&listing.others, &|family| match family {
                Family::V4 => behind(interface),
                Family::V6 => Traffic::default(),
            });
            let at = places.families[0].forwarded.place(None);
            let rules = &listing.others.chain(Family::V4, "filter", "FORWARD").unwrap().rules;
            let found = rules.get(at).map_or("at the end".to_owned(), |rule| format!("before {rule}"));
            assert!(
                found == *wanted || found.ends_with(wanted.trim_start_matches("before ")),
                "{}: {interface}: {found}, not {wanted}",
                host.name
            );
            // Once there, it stays there.
            assert_eq!(places.families[0].forwarded.place(Some(at)), at, "{}", host.name);
        }
    }
}

#[test]
fn no_more_is_said_of_a_healthy_host_than_which_bans_come_too_late() {
    for host in hosts() {
        let listing = listing(&host.rules);
        let traffic = behind(&host.places.last().unwrap().0);
        let places = Places::among(&listing.others, &|_| behind(&host.places.last().unwrap().0));
        let mut found = Vec::new();
        let forward = places.families[0].forwarded.place(None);
        let mut meets = Meets {
            others: &listing.others,
            family: Family::V4,
            traffic: &traffic,
            shows_clients: false,
            apart: None,
            ours: Ours { forward, ..Ours::default() },
            found: &mut found,
        };
        meets.find();
        let said: Vec<String> = found
            .into_iter()
            .filter(|one| one.level > Level::Ok)
            .map(|one| one.text)
            .filter(|text| !text.contains("does not apply"))
            .collect();
        assert_eq!(said.len(), host.unasked.len(), "{}: {said:#?}", host.name);
        for rule in &host.unasked {
            assert!(
                said.iter().any(|text| text.contains(rule.as_str()) && text.contains("does not see")),
                "{}: {said:?}",
                host.name
            );
        }
    }
}
