//! The layers of the source: no file names a module of a higher layer, and no two files need each other.
//!
//! The source is read as text: paths that begin with `crate`, `super` or `self`, and those that begin with a module that
//! the file declares. Unit tests (`#[cfg(test)] mod tests`) are left out: they may use what they like.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lowest first. A name stands for the file and for the folder of that name.
const LAYERS: [&[&str]; 13] = [
    &["error"],
    &["text"],
    &["net"],
    &["sys"],
    &["service"],
    &["schedule"],
    &["config"],
    &["host"],
    &["engine"],
    &["serve"],
    &["watch"],
    &["verb"],
    // The binary's files: `sys/entry.rs` is the part of `main.rs` that the C library calls.
    &["cli", "main", "lib", "sys/entry"],
];

/// The files below `src/`: module path (`sys/file`; `config` for `config/mod.rs`) → content without comments and tests.
type Files = BTreeMap<String, String>;

/// An arrow: the file that names something, and the file that it is in.
type Arrows = BTreeSet<(String, String)>;

fn source() -> Files {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut folders) = (Files::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap().with_extension("");
            let name = name.to_str().unwrap();
            files
                .insert(name.strip_suffix("/mod").unwrap_or(name).to_owned(), code(&fs::read_to_string(path).unwrap()));
        }
    }
    assert!(files.len() > 30, "{:?}", files.keys());
    files
}

/// The source without comments and without its unit tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let bare = |line: &str| {
        let line = line.trim_start();
        if line.starts_with("//") {
            String::new()
        } else {
            format!("{}\n", line.split(" // ").next().unwrap())
        }
    };
    text.lines().map(bare).collect()
}

/// All paths in `code` as lists of names: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(code: &str) -> Vec<Vec<String>> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(word) {
        rest = &rest[start..];
        // Not a path: its first name alone.
        let length = tree(rest, &[], &mut found);
        rest = &rest[length.max(1)..];
    }
    found
}

/// Adds the paths of the use-tree (or plain path) that `text` begins with; returns its length.
fn tree(text: &str, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let name = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap();
    let mut path = before.to_vec();
    path.push(name.to_owned());
    let mut at = name.len();
    if !text[at..].starts_with("::") {
        found.push(path);
        return at;
    }
    at += 2;
    if !text[at..].starts_with('{') {
        return at + tree(&text[at..], &path, found);
    }
    at += 1;
    loop {
        at += text[at..].find(|c: char| !(c.is_whitespace() || c == ',')).unwrap();
        if text[at..].starts_with('}') {
            return at + 1;
        }
        // An alias (`as x`), a glob.
        let more = tree(&text[at..], &path, found);
        at += more.max(1);
    }
}

/// The file that a path, from the root on, leads into: the longest beginning that is a file.
fn file_of(files: &Files, path: &[String]) -> Option<String> {
    (1..=path.len()).rev().map(|n| path[..n].join("/")).find(|name| files.contains_key(name))
}

fn arrows(files: &Files) -> Arrows {
    let mut arrows = Arrows::new();
    for (file, code) in files {
        let here: Vec<String> = file.split('/').map(str::to_owned).collect();
        let root = ["main", "lib"].contains(&file.as_str());
        let declared: BTreeSet<&str> = code
            .lines()
            .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "))
            .map(|m| m.trim_end_matches(';'))
            .collect();
        // A name alone is no path, nor is the scope in `pub(super)`.
        for path in paths(code).into_iter().filter(|path| path.len() > 1) {
            let from = match path[0].as_str() {
                "crate" if file == "sys/entry" => continue, // The root of the binary, which has it as its own.
                "crate" | "paraglider" => path[1..].to_vec(),
                "super" => {
                    let ups = path.iter().take_while(|name| *name == "super").count();
                    let kept = here.len().saturating_sub(ups);
                    here[..kept].iter().chain(&path[ups..]).cloned().collect()
                }
                "self" => here.iter().chain(&path[1..]).cloned().collect(),
                first if declared.contains(first) && !root => here.iter().chain(&path).cloned().collect(),
                _ => continue,
            };
            if let Some(target) = file_of(files, &from).filter(|target| target != file) {
                arrows.insert((file.clone(), target));
            }
        }
    }
    arrows
}

fn layer(file: &str) -> usize {
    let first = file.split('/').next().unwrap();
    let of = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    of(file).or_else(|| of(first)).unwrap_or_else(|| panic!("src/{file}.rs is in no layer"))
}

/// Arrows to a higher layer.
fn upward(arrows: &Arrows) -> Vec<String> {
    let up = arrows.iter().filter(|(from, to)| layer(from) < layer(to));
    up.map(|(from, to)| format!("src/{from} names {to}, which is above it")).collect()
}

/// Pairs of files of which each reaches the other.
fn circles(arrows: &Arrows) -> BTreeSet<(String, String)> {
    let reach = |from: &str| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(at) = next.pop() {
            for (_, to) in arrows.iter().filter(|(file, _)| file == at) {
                if seen.insert(to.as_str()) {
                    next.push(to);
                }
            }
        }
        seen
    };
    let arrow = arrows.iter().filter(|(from, to)| {
        from < to && reach(to).contains(from.as_str()) || from > to && reach(to).contains(from.as_str())
    });
    arrow.map(|(from, to)| if from < to { (from.clone(), to.clone()) } else { (to.clone(), from.clone()) }).collect()
}

#[test]
fn no_arrow_points_up() {
    let up = upward(&arrows(&source()));
    assert!(up.is_empty(), "{up:#?}");
}

#[test]
fn no_two_files_need_each_other() {
    let found = circles(&arrows(&source()));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn arrows_are_found_in_every_spelling() {
    let files: Files = [
        ("error", ""),
        ("net", "use crate::error::{fail, Error};"),
        ("sys", "mod file;\npub use file::open;\nfn f() { crate::verb::run(); }"),
        ("sys/file", "use super::{\n    socket::{self, S},\n    OPEN,\n};"),
        ("sys/socket", "macro_rules! m { () => { $crate::net::x() } }"),
        ("verb", "mod stop;\nuse self::stop::run;"),
        ("verb/stop", "// crate::cli\n/// [`crate::cli`]\nuse crate::host; // crate::cli\n#[cfg(test)]\nmod tests { use crate::cli; }"),
        ("host", "use super::net::Family;\npub(super) fn f() {}"),
    ]
    .map(|(name, text)| (name.to_owned(), code(text)))
    .into();
    let found = arrows(&files);
    let expected: Arrows = [
        ("net", "error"),
        ("sys", "sys/file"),
        ("sys", "verb"),
        ("sys/file", "sys/socket"),
        ("sys/file", "sys"),
        ("sys/socket", "net"),
        ("verb", "verb/stop"),
        ("verb/stop", "host"),
        ("host", "net"),
    ]
    .map(|(from, to)| (from.to_owned(), to.to_owned()))
    .into();
    assert_eq!(found, expected);
    assert_eq!(upward(&found), ["src/sys names verb, which is above it"]);
    assert_eq!(circles(&found), [("sys".to_owned(), "sys/file".to_owned())].into());
}
