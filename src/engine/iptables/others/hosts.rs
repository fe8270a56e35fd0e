//! Real hosts: where our jump into FORWARD stands among their rules, and which of their bans no longer see what is balanced.

use std::fs;

use super::meets::{Home, Meets, Ours};
use super::place::{Places, Traffic};
use crate::engine::iptables::save::{self, Listing};
use crate::engine::Level;
use crate::net::{Endpoint, Family, Protocol};

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
        protocol: Protocol::Tcp,
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
            let places = Places::among(&listing.others, &|family, protocol| match family {
                _ if protocol == Protocol::Udp => Traffic::default(),
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
        let places = Places::among(&listing.others, &|_, protocol| match protocol {
            Protocol::Tcp => behind(&host.places.last().unwrap().0),
            Protocol::Udp => Traffic::default(),
        });
        let mut found = Vec::new();
        let forward = places.families[0].forwarded.place(None);
        let mut meets = Meets {
            others: &listing.others,
            family: Family::V4,
            traffic: &traffic,
            shows_clients: false,
            variant: "iptables-nft",
            plain: true,
            home: Home::Here,
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

/// What is said where our rules are in nftables, from which level on.
fn by_nftables(rules: &str, plain: bool, shows_clients: bool) -> Vec<(Level, String)> {
    let (listing, traffic, mut found) = (listing(rules), behind("lan"), Vec::new());
    let mut meets = Meets {
        others: &listing.others,
        family: Family::V4,
        traffic: &traffic,
        shows_clients,
        variant: if plain { "iptables-nft" } else { "iptables-legacy" },
        plain,
        home: Home::Nftables,
        ours: Ours::default(),
        found: &mut found,
    };
    meets.find();
    found.into_iter().map(|one| (one.level, one.text)).collect()
}

const FILTER: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n";
const NAT: &str =
    "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n";

/// nftables cannot let through what iptables drops; the remedy is the engine that can, or the rule.
#[test]
fn what_iptables_drops_is_dropped_whatever_nftables_accepts() {
    let error = |text: &str| vec![(Level::Error, text.to_owned())];
    let shut = format!("{}COMMIT\n", FILTER.replace("FORWARD ACCEPT", "FORWARD DROP"));
    assert_eq!(
        by_nftables(&shut, true, false),
        error(
            "IPv4 filter table of iptables-nft: the policy of FORWARD is DROP, and no rule of nftables can overrule it; write \
             `engine: iptables`, whose rules let through what is balanced"
        )
    );
    assert_eq!(
        by_nftables(&shut, false, false),
        error(
            "IPv4 filter table of iptables-legacy: the policy of FORWARD is DROP, and no rule of nftables can overrule it; \
             `iptables-legacy -t filter -P FORWARD ACCEPT` mends it"
        )
    );
    let all = format!("{FILTER}-A FORWARD -j REJECT\nCOMMIT\n");
    assert_eq!(
        by_nftables(&all, true, false),
        error(
            "IPv4 filter table of iptables-nft: `-A FORWARD -j REJECT` drops balanced connections, and no rule of nftables can \
             overrule it; write `engine: iptables`, whose rules stand before it, or remove it"
        )
    );
    let [(level, named)] =
        &by_nftables(&format!("{FILTER}-A FORWARD -d 10.2.0.11/32 -j DROP\nCOMMIT\n"), true, false)[..]
    else {
        panic!("one sentence");
    };
    assert!(*level == Level::Error && named.ends_with("; remove or narrow it"), "{named}");
    // What lets them through, and what is for some clients alone.
    for fine in [
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A FORWARD -j ACCEPT\nCOMMIT\n"
            .to_owned(),
        format!("{FILTER}-A FORWARD -s 198.51.100.0/24 -j DROP\nCOMMIT\n"),
        format!("{FILTER}COMMIT\n"),
    ] {
        assert_eq!(by_nftables(&fine, true, false), [], "{fine}");
    }
}

/// Our chains of nftables come before those of iptables, and the first one that translates is the last one that is asked.
#[test]
fn what_iptables_translates_comes_behind_nftables() {
    let taken = format!("{NAT}-A PREROUTING -p tcp -m tcp --dport 4444 -j REDIRECT --to-ports 9\nCOMMIT\n");
    let masked = format!("{NAT}-A POSTROUTING -o lan -j MASQUERADE\nCOMMIT\n");
    assert_eq!(by_nftables(&taken, true, false), []);
    assert_eq!(by_nftables(&masked, true, false), []);
    // Where we leave the source as it is, the next one is asked.
    let said = by_nftables(&masked, true, true);
    assert!(
        said.len() == 1
            && said[0].0 == Level::Warning
            && said[0].1.contains("is asked too: the backends see the address that it gives, not of the client"),
        "{said:?}"
    );
}

/// Bans in INPUT miss balanced connections whatever engine it is.
#[test]
fn what_input_bans_is_told_for_the_iptables_of_the_host() {
    let ban = format!("{FILTER}-A INPUT -s 198.51.100.7/32 -j DROP\nCOMMIT\n");
    for (plain, told) in [(true, 1), (false, 0)] {
        assert_eq!(by_nftables(&ban, plain, false).len(), told);
    }
}
