//! `--help`, README.md and the man page name the same verbs, options, keys and limits as the program's tables.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use paraglider::cli::{help, DEFAULT_CONFIG, OPTIONS, VERBS};
use paraglider::config::MOST_BYTES;
use paraglider::service::{Schedule, LONGEST_NAME, MOST_BACKENDS, MOST_SOURCES, MOST_WEIGHT};

const README: &str = include_str!("../../README.md");
const MAN: &str = include_str!("../../man/paraglider.8");

type Words = BTreeSet<String>;

/// The words of `text` that begin with a dash, without dashes: `--drain SECONDS` is `drain`.
fn options(text: &str) -> Words {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    let option = |word: &str| word.starts_with('-').then(|| word.trim_start_matches('-').to_owned());
    words.filter_map(option).filter(|word| !word.is_empty()).collect()
}

/// What stands after `before` at the beginning of a line, up to something that is no letter.
fn after(text: &str, before: &str) -> Words {
    let word = |line: &str| {
        let rest = line.strip_prefix(before)?;
        let word: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        (!word.is_empty()).then_some(word)
    };
    text.lines().filter_map(word).collect()
}

fn section<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    text.split_once(begin).unwrap().1.split_once(end).unwrap().0
}

/// The words in the program's own sentence of what is allowed, or of what there is.
fn told(config: &str, before: &str) -> Words {
    let error = paraglider::config::parse(config.as_bytes()).unwrap_err().to_string();
    error.split_once(before).unwrap_or_else(|| panic!("{error}")).1.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_verbs_are_the_same_everywhere() {
    let table: Words = VERBS.iter().map(|verb| verb.word.to_owned()).collect();
    let help = help();
    let mut listed = after(section(&help, "Verbs:\n", "\nOptions:"), "  ");
    listed.insert("restart".into()); // "reload … so is restart"
    let mut man = after(section(MAN, "The verbs", "The options"), ".It Cm ");
    man.insert("restart".into()); // ".It Cm reload , restart"
    assert!(MAN.contains(".It Cm reload , restart") && help.contains("so is restart"));
    let readme = section(README, "\n## Verbs", "\n## The rules");
    let told: Words = after(readme, "| `").into_iter().chain(["restart".into()]).collect();
    assert_eq!(table, listed);
    assert_eq!(table, man);
    assert_eq!(table, told);
}

/// The synopsis of the man page, verb by verb: `status` → `json`, `prometheus`.
fn synopsis() -> BTreeMap<String, Words> {
    let mut found: BTreeMap<String, Words> = BTreeMap::new();
    let text = section(MAN, ".Sh SYNOPSIS\n", ".Sh DESCRIPTION");
    for part in text.split(".Nm\n").filter(|part| part.starts_with(".Cm ")) {
        let (verbs, options) = part.split_once('\n').unwrap();
        let words = |text: &str| -> Words {
            text.split(['\n', ' ']).filter_map(|word| word.strip_prefix('-')).map(str::to_owned).collect()
        };
        for verb in verbs.trim_start_matches(".Cm ").split(" | ") {
            found.entry(verb.to_owned()).or_default().extend(words(options));
        }
    }
    found
}

#[test]
fn the_options_are_the_same_everywhere() {
    let help = options(&help());
    for option in &OPTIONS {
        assert!(help.contains(&option.word[2..]), "{}", option.word);
    }
    let mut man = Words::new();
    for line in MAN.lines().filter(|line| line.contains("Fl ")) {
        man.extend(
            line.split("Fl ").skip(1).map(|rest| rest.trim_start_matches('-').split(' ').next().unwrap().to_owned()),
        );
    }
    let mut other = help.clone();
    assert!(other.remove("noflush"), "that one is of iptables-restore");
    assert_eq!(other, man);
    let mut readme: Words = options(section(README, "\n## Verbs", "What happens to established"));
    // It leaves out the short forms, and the long one of `-v`.
    readme.extend(["c", "h", "verbose", "noflush"].map(str::to_owned));
    assert_eq!(help, readme);
}

#[test]
fn the_synopsis_of_the_man_page_is_the_table_of_options() {
    let mut table: BTreeMap<String, Words> = BTreeMap::new();
    for verb in &VERBS {
        let own = OPTIONS.iter().filter(|option| option.verbs.contains(&verb.word));
        table.insert(verb.word.into(), own.map(|option| option.word[2..].to_owned()).collect());
    }
    assert_eq!(synopsis(), table);
}

#[test]
fn the_keys_are_the_same_everywhere() {
    let mut program = told("x: 1", "allowed: ");
    program.extend(told("frontend: {qqqqqqqq: 1}", "allowed: "));
    program.extend(told("frontend: {backends: [{qqqqqqqq: 1}]}", "allowed: "));
    program.extend(told("frontend: {health: {qqqqqqqq: 1}}", "allowed: "));
    let man: Words = section(MAN, ".Sh CONFIGURATION", ".Sh ENVIRONMENT")
        .lines()
        .filter_map(|line| line.strip_prefix(".It Ic ").or(line.strip_prefix(".Ic ")))
        .map(|word| word.trim_end_matches([' ', '.', ',']).to_owned())
        .collect();
    assert_eq!(program, man);
    let mut readme = after(section(README, "| key | default | what it is |", "`privateip` is the address"), "| `");
    readme.insert("address".into()); // in the row of `backends`
    assert_eq!(program, readme);
}

#[test]
fn the_limits_are_the_same_everywhere() {
    let thousands = |n: usize| format!("{},{:03}", n / 1000, n % 1000);
    let schedules = Schedule::ALL.map(|(name, _)| name.to_owned());
    for (name, text) in [("README.md", README), ("man page", MAN)] {
        for said in [
            format!("1 to {}", thousands(MOST_BACKENDS)),
            format!("0 to {MOST_WEIGHT}"),
            format!("at most {MOST_SOURCES}"),
            format!("at most {} KiB", MOST_BYTES / 1024),
            format!("1 to {LONGEST_NAME} letters"),
            DEFAULT_CONFIG.to_owned(),
        ]
        .into_iter()
        .chain(schedules.clone())
        {
            assert!(text.contains(&said), "{name} does not say `{said}`");
        }
    }
}

#[test]
fn the_exit_statuses_are_the_same() {
    let plain = |text: &str| text.replace(".Cm ", "").replace(".Pp\n", "").replace(" :\n", ": ").replace('\n', " ");
    let man = plain(section(MAN, ".Sh EXIT STATUS\n", ".Sh EXAMPLES"));
    let help = help();
    let help = help.split_once("Exit status: ").unwrap().1.replace('\n', " ");
    assert_eq!(man.trim(), help.trim());
    // The README has those of `status` in its table.
    let status = help.split_once("status: ").unwrap().1.split_once('.').unwrap().0;
    let row = README.lines().find(|line| line.starts_with("| `status`")).unwrap();
    assert_eq!(row.trim_end_matches(" |").rsplit_once("| ").unwrap().1, status);
}

#[test]
fn the_man_page_is_clean() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/man/paraglider.8");
    match Command::new("mandoc").args(["-T", "lint", "-W", "style", page]).output() {
        // Whether pages that it refers to are installed here says nothing of this one.
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            let own: Vec<&str> = said.lines().filter(|line| line.contains("paraglider.8:")).collect();
            assert!(own.is_empty(), "{own:?}");
        }
        Err(error) => println!("skipped: the man page: cannot run mandoc: {error}"),
    }
}
