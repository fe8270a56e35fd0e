//! What `print` shows is what is in force: the text, loaded by the real nft, and what we write by netlink are the same rules,
//! to the last expression.

use std::fs;
use std::path::Path;

use crate::lab::{sh, Lab, Variant};

/// All expressions and elements as the kernel has them. The numbers of rules and maps, and the order in which the kernel
/// lists elements and maps, say nothing.
fn expressions() -> Vec<String> {
    let text = sh("nft --debug=netlink list table inet paraglider");
    let mut all = Vec::new();
    let (mut place, mut number) = (String::new(), 0);
    for line in text.lines().take_while(|line| !line.starts_with("table ")) {
        if let Some(rest) = line.strip_prefix("inet paraglider ") {
            let (name, handle) = rest.split_once(' ').unwrap_or((rest, ""));
            number = if name == place { number + 1 } else { 0 };
            place = name.to_owned();
            // Of a map, the elements alone count.
            if name.starts_with('@') {
                place = "map".to_owned();
            }
            assert!(handle.bytes().all(|b| b.is_ascii_digit() || b == b' '), "{line}");
        } else {
            let words = line.split_whitespace().map(|word| if word.starts_with("__map") { "__map" } else { word });
            all.push(format!("{place} {number} {}", words.collect::<Vec<_>>().join(" ")));
        }
    }
    // nft repeats some of it.
    all.sort();
    all.dedup();
    all
}

/// As a person reads it. nft 1.0.6 does not show the ports of a map by `ct original … proto-dst` that it has loaded itself.
fn listing() -> Vec<String> {
    let text = sh("nft -s list table inet paraglider");
    text.lines().filter(|line| !line.contains("ct original")).map(str::to_owned).collect()
}

#[test]
fn the_text_and_the_rules_in_force_are_the_same() {
    crate::in_lab("listing::the_text_and_the_rules_in_force_are_the_same", Variant::Netlink, |lab| {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/configs");
        let mut seen = 0;
        for entry in fs::read_dir(configs).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            same(lab, &fs::read_to_string(&path).unwrap());
            seen += 1;
        }
        assert!(seen >= 8, "{seen}");
        // A map of more than 64 KiB, which goes to the kernel in parts.
        let list: String = (0..1024).map(|n| format!(", '10.3.{}.{}:80'", n / 250, n % 250 + 1)).collect();
        let many = format!("frontend: {{bind: '10.9.0.1:80', backends: [{}]}}", &list[2..]);
        assert!(same(lab, &many) > 5 * 1024);
    });
}

fn same(lab: &Lab, yaml: &str) -> usize {
    lab.config(yaml);
    lab.ok("start");
    let ours = (expressions(), listing());
    lab.ok("stop");
    fs::write(lab.path("text.nft"), lab.ok("print --engine nftables")).unwrap();
    sh(&format!("nft -f {}", lab.path("text.nft").display()));
    let theirs = (expressions(), listing());
    for (ours, theirs) in [(&ours.0, &theirs.0), (&ours.1, &theirs.1)] {
        let differs = ours.iter().zip(theirs.iter()).find(|(ours, theirs)| ours != theirs);
        assert_eq!((differs, ours.len()), (None, theirs.len()), "{yaml}");
    }
    assert!(ours.0.iter().any(|line| line.contains("numgen") || line.contains("dnat")), "{:?}", ours.0);
    sh("nft delete table inet paraglider");
    ours.0.len()
}
