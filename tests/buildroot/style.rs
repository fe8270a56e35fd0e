//! The rules of Buildroot's utils/check-package that apply to these files. Buildroot itself is not here to ask, so they
//! are looked at again; each rule is tried on a text that breaks it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::{package, read, ROOT};

type Rule = fn(&str) -> Option<String>;

/// What a rule says, the rule, and a text that breaks it.
type Named = (&'static str, Rule, &'static str);

/// The first line that `wrong` finds something in.
fn find(text: &str, mut wrong: impl FnMut(&str) -> bool) -> Option<String> {
    text.lines().find(|line| wrong(line)).map(|line| format!("`{line}`"))
}

/// For every kind of file.
const PLAIN: [Named; 3] = [
    ("blanks at the end of a line", |text| find(text, |line| line.ends_with([' ', '\t'])), "a \nb\n"),
    ("two empty lines", |text| text.contains("\n\n\n").then(String::new), "a\n\n\nb\n"),
    ("the end is not one newline", |text| (!text.ends_with('\n') || text.ends_with("\n\n")).then(String::new), "a"),
];

const CONFIG: [Named; 4] = [
    ("attributes by one tab, entries by none", indent_of_config, "config A\n  bool\n"),
    ("the order is type, default, depends, select, help", order, "config A\n\tselect B\n\tdepends on C\n"),
    ("help is a tab, two blanks, and at most 62 characters", help, "config A\n\thelp\n\tx\n"),
    ("n is the default anyway", |text| find(text, |line| line == "\tdefault n"), "config A\n\tdefault n\n"),
];

const ENTRIES: [&str; 9] = ["choice", "comment", "config", "endchoice", "endif", "if", "menu", "endmenu", "source"];
const ATTRIBUTES: [&[&str]; 5] = [&["bool", "prompt", "string"], &["default"], &["depends"], &["select"], &["help"]];

fn word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

fn is_help(line: &str) -> bool {
    line.starts_with("\t  ")
}

fn indent_of_config(text: &str) -> Option<String> {
    let mut goes_on = false;
    find(text, |line| {
        let wrong = if is_help(line) || line.is_empty() || line.starts_with('#') {
            false
        } else if goes_on {
            !line.starts_with('\t')
        } else if ENTRIES.contains(&word(line)) {
            !line.starts_with(word(line))
        } else {
            !ATTRIBUTES.concat().contains(&word(line))
                || line.strip_prefix('\t').is_none_or(|rest| !rest.starts_with(word(line)))
        };
        goes_on = line.ends_with('\\');
        wrong
    })
}

fn order(text: &str) -> Option<String> {
    let mut last = 0;
    find(text, |line| {
        if is_help(line) {
            return false;
        }
        if ENTRIES.contains(&word(line)) {
            last = 0;
        }
        let Some(place) = ATTRIBUTES.iter().position(|words| words.contains(&word(line))) else { return false };
        let wrong = place < last;
        last = place;
        wrong
    })
}

fn help(text: &str) -> Option<String> {
    let mut inside = false;
    find(text, |line| {
        if ENTRIES.contains(&word(line)) && !line.starts_with('\t') {
            inside = false;
        }
        let wrong = inside && !line.is_empty() && (!is_help(line) || line.chars().count() > 65);
        inside = inside || line == "\thelp";
        wrong
    })
}

const MAKE: [Named; 6] = [
    ("no header of a package", header, "# paraglider\n"),
    (
        "tabs inside of define and after a backslash, and nowhere else",
        indent_of_make,
        "define PARAGLIDER_A\n  x\nendef\n",
    ),
    (
        "one blank before a backslash",
        |text| find(text, |line| line.ends_with("  \\") || line.ends_with("\t\\")),
        "A = \t\\\n",
    ),
    ("a variable that is not of the package", foreign, "PARAGLIDE_A = 1\n"),
    ("$() and not ${}", |text| find(text, |line| line.contains("${")), "A = ${B}\n"),
    ("set, and set again under a condition", set_again, "PARAGLIDER_A = 1\nifeq (a,b)\nPARAGLIDER_A = 2\nendif\n"),
];

fn header(text: &str) -> Option<String> {
    let rule = "#".repeat(80);
    let expected = format!("{rule}\n#\n# paraglider\n#\n{rule}\n\n");
    (!text.starts_with(&expected)).then_some(expected)
}

fn is_condition(line: &str) -> bool {
    ["ifeq", "ifneq", "ifdef", "ifndef", "else", "endif"].contains(&word(line))
}

fn indent_of_make(text: &str) -> Option<String> {
    let (mut define, mut goes_on) = (false, false);
    find(text, |line| {
        let begins = word(line) == "define";
        define &= word(line) != "endef";
        let tab = (define || goes_on) && !is_condition(line);
        goes_on = line.ends_with('\\') && !line.starts_with('#');
        let free = line.is_empty() || define && word(line).starts_with('#');
        let wrong = !free && line.starts_with('\t') != tab;
        define |= begins;
        wrong
    })
}

/// The variable that a line at the margin sets.
fn sets(line: &str) -> Option<&str> {
    let line = line.strip_prefix("define ").unwrap_or(line);
    let end = line.find(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_').unwrap_or(line.len());
    (end > 0 && !is_condition(line)).then(|| &line[..end])
}

fn foreign(text: &str) -> Option<String> {
    find(text, |line| sets(line).is_some_and(|variable| !variable.starts_with("PARAGLIDER_")))
}

fn set_again(text: &str) -> Option<String> {
    let (mut depth, mut always) = (0, Vec::new());
    find(text, |line| {
        match word(line) {
            "ifeq" | "ifneq" | "ifdef" | "ifndef" => depth += 1,
            "endif" => depth -= 1,
            _ => {}
        }
        let assigned = line.contains(" = ") || line.contains(" := ");
        let Some(variable) = sets(line).filter(|_| assigned) else { return false };
        let known = always.contains(&variable.to_owned());
        if depth == 0 {
            always.push(variable.to_owned());
        }
        known
    })
}

const HASH: [Named; 1] = [("kind, hash and file, two blanks between", form_of_hash, "sha256 00 LICENSE\n")];

fn form_of_hash(text: &str) -> Option<String> {
    find(text, |line| {
        let fields: Vec<&str> = line.split("  ").collect();
        let is_hash = |hash: &str| hash.len() == 64 && hash.chars().all(|c| c.is_ascii_hexdigit());
        !line.starts_with('#') && !matches!(fields[..], ["sha256", hash, file] if is_hash(hash) && !file.contains(' '))
    })
}

const INIT: [Named; 3] = [
    ("tabs", |text| find(text, |line| line.trim_start_matches('\t').starts_with(' ')), "start() {\n    x\n}\n"),
    ("DAEMON is the name in the file's name", daemon, "DAEMON=\"/usr/bin/paraglider\"\n"),
    (
        "it says what it does before it does it",
        |text| {
            let all = ["Starting", "Stopping"]
                .iter()
                .all(|word| text.contains(&format!("\tprintf '{word} %s: ' \"$DAEMON\"\n")));
            let verdict = text.contains("\techo \"OK\"\n") && text.contains("\techo \"FAIL\"\n");
            (!all || !verdict).then(String::new)
        },
        "echo starting\n",
    ),
];

fn daemon(text: &str) -> Option<String> {
    let set: Vec<&str> = text.lines().filter(|line| line.starts_with("DAEMON=")).collect();
    (set != ["DAEMON=\"paraglider\""]).then(|| format!("{set:?}"))
}

/// The files, and the rules for them.
fn files() -> Vec<(String, Vec<Named>)> {
    let with = |rules: &[Named]| [&PLAIN[..], rules].concat();
    vec![
        (format!("{ROOT}/buildroot/Config.in"), with(&CONFIG)),
        (format!("{ROOT}/buildroot/external.mk"), with(&[])),
        (format!("{ROOT}/buildroot/external.desc"), with(&[])),
        (package("Config.in"), with(&CONFIG)),
        (package("paraglider.mk"), with(&MAKE)),
        (package("paraglider.hash"), with(&HASH)),
        (package("S50paraglider"), with(&INIT)),
    ]
}

#[test]
fn the_files_keep_the_rules() {
    let mut wrong = String::new();
    for (file, rules) in files() {
        let text = read(&file);
        for (rule, broken, _) in rules {
            if let Some(line) = broken(&text) {
                wrong.push_str(&format!("{file}: {rule}: {line}\n"));
            }
        }
        // The init script becomes executable when it is installed.
        if fs::metadata(&file).unwrap().permissions().mode() & 0o111 != 0 {
            wrong.push_str(&format!("{file}: is executable\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn each_rule_finds_what_breaks_it() {
    for (_, rules) in files() {
        for (rule, broken, sample) in rules {
            assert!(broken(sample).is_some(), "{rule}: nothing found in `{sample}`");
        }
    }
}

#[test]
fn the_tree_has_its_name() {
    let desc = read(&format!("{ROOT}/buildroot/external.desc"));
    assert!(desc.lines().any(|line| line == "name: PARAGLIDER"), "{desc}");
}

#[test]
fn the_hash_is_that_of_the_license() {
    let licence = crate::lab::sh(&format!("sha256sum '{ROOT}/LICENSE'"));
    let line = format!("sha256  {}  LICENSE", licence.split(' ').next().unwrap());
    let hashes = read(&package("paraglider.hash"));
    assert!(hashes.lines().any(|known| known == line), "no `{line}` in\n{hashes}");
}

#[test]
fn shellcheck_has_nothing_to_say() {
    let output = std::process::Command::new("shellcheck").arg(package("S50paraglider")).output();
    let output = output.expect("shellcheck is missing: make setup");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
