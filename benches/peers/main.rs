//! `make bench`: how far the data path is from the kernel's limit, and from what one would use instead; all in one run.
//!
//! Each measurement is a program of its own in a laboratory of its own (`tests/netns/lab.rs`), so that nothing is left
//! from the one before: no rule, no connection, no port. Rounds are interleaved; the tables show medians and the spread,
//! and ratios to the floor of the same run. What is not installed is said to be missing.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

#[path = "../../tests/netns/lab.rs"]
#[allow(unused)]
mod lab;

mod change;
mod counted;
mod load;
mod report;
mod setup;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use lab::{Lab, Variant};

/// Figures of one measurement by name.
type Figures = BTreeMap<String, f64>;

/// The numbers of backends.
const SIZES: [usize; 3] = [3, 64, 1024];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["one", variant, case @ ..] => {
            let variant = match *variant {
                "nftables" => Variant::Netlink,
                "legacy" => Variant::Legacy,
                _ => Variant::Nft,
            };
            // The emulated machine has networks of its own.
            let counted = case[0].starts_with("counted");
            let figures = measure(&if counted { Lab::bare(variant) } else { Lab::new(variant) }, case);
            println!("{}", figures.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "));
        }
        ["there"] => counted::there(),
        ["counted"] => report::write_counted(&counted::all("").unwrap()),
        ["counted", word @ ..] => drop(counted::all(&word.join("_")).unwrap()),
        [] => report::write(&all()),
        // A word of a case's name: only those.
        [only] => drop(rounds(&cases().into_iter().filter(|case| case.contains(only)).collect::<Vec<_>>(), 3)),
        other => panic!("{other:?}"),
    }
}

fn measure(lab: &Lab, case: &[&str]) -> Figures {
    match case {
        ["rate", what, n] => load::rate(lab, what, n.parse().unwrap()),
        ["pair", what, n] => load::pair(lab, what, n.parse().unwrap()),
        ["bulk", what] => load::bulk(lab, what),
        ["change", n] => change::paraglider(lab, n.parse().unwrap()),
        ["original", n] => change::one_run_per_rule(lab, n.parse().unwrap()),
        ["growth", held, privateip] => load::growth(lab, held.parse().unwrap(), privateip),
        ["counted", what, n] => counted::connections(lab, what, n.parse().unwrap()),
        ["counted-change", n] => counted::change(lab, n.parse().unwrap()),
        ["reloads"] => load::reloads(lab),
        other => panic!("{other:?}"),
    }
}

/// All cases as words: the variant of iptables, or nftables, and what [`measure`] understands.
fn cases() -> Vec<String> {
    let mut cases = vec!["nft rate direct 1".to_owned()];
    for variant in ["nftables", "nft", "legacy"] {
        cases.push(format!("{variant} rate floor 1"));
        // The tree, its fan-out and the list that it is better than are iptables' alone.
        for what in ["paraglider", "fanout4", "linear"].into_iter().take(if variant == "nftables" { 1 } else { 3 }) {
            cases.extend(SIZES.map(|n| format!("{variant} rate {what} {n}")));
        }
    }
    cases.extend(["paraglider 3", "paraglider 1024"].map(|what| format!("nftables pair {what}")));
    for variant in ["nft", "legacy"] {
        cases.extend(
            ["paraglider 3", "paraglider 1024", "fanout4 1024", "linear 1024"]
                .map(|what| format!("{variant} pair {what}")),
        );
    }
    for what in ["nftlb", "haproxy", "nginx"] {
        match setup::missing(what) {
            None => cases.extend(SIZES.map(|n| format!("nft rate {what} {n}"))),
            Some(package) => println!("missing: {what} (package {package})"),
        }
    }
    match setup::missing("iperf3") {
        None => cases.extend(["direct", "paraglider", "haproxy"].map(|what| format!("nft bulk {what}"))),
        Some(package) => println!("missing: iperf3 (package {package})"),
    }
    for variant in ["nftables", "nft", "legacy"] {
        cases.extend(SIZES.map(|n| format!("{variant} change {n}")));
        cases.push(format!("{variant} reloads"));
    }
    for held in [0, 10_000, 60_000] {
        cases.extend(["10.2.0.1", "10.2.0.1-10.2.0.4"].map(|privateip| format!("nft growth {held} {privateip}")));
    }
    cases.retain(|case| !case.contains("bulk haproxy") || setup::missing("haproxy").is_none());
    cases
}

/// The results of all rounds by case.
type Results = BTreeMap<String, Vec<Figures>>;

fn all() -> Results {
    let mut results = rounds(&cases(), 5);
    // Slow, and far from everything else: once is enough.
    let original: Vec<String> =
        ["nft", "legacy"].iter().flat_map(|variant| SIZES.map(|n| format!("{variant} original {n}"))).collect();
    results.extend(rounds(&original, 1));
    match counted::all("") {
        Ok(counted) => results.extend(counted),
        Err(why) => println!("skipped: what is counted by instructions: {why}"),
    }
    results
}

fn rounds(cases: &[String], rounds: usize) -> Results {
    let mut results = Results::new();
    for round in 1..=rounds {
        for case in cases {
            let figures = run(case);
            println!("{round}/{rounds} {case}: {figures:?}");
            results.entry(case.clone()).or_default().push(figures);
        }
    }
    results
}

/// One measurement, in a program of its own.
fn run(case: &str) -> Figures {
    let mut arguments = vec!["one"];
    arguments.extend(case.split(' '));
    let mut command: Command = lab::entrance(&arguments).expect("the bench itself does not run inside");
    let output = command.stderr(Stdio::piped()).output().expect("cannot run unshare (package util-linux)");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{case}: {text}{}", String::from_utf8_lossy(&output.stderr));
    let words = text.lines().last().unwrap_or_default().split(' ');
    words
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}
