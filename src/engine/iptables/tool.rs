//! The programs of iptables: where they are, which variant they are, how they are run and what they say.

use super::names::Table;
use crate::error::{fail, Error};
use crate::net::Family;
use crate::sys::file;
use crate::sys::log;
use crate::sys::process::{self, Child, End, Output};
use crate::text::number;

/// How long a held xtables lock is waited for, in seconds.
const WAIT: &str = "10";

/// The exit status of iptables when the lock was not to be had ("RESOURCE_PROBLEM" in xtables.h).
const BUSY: i32 = 4;

/// Which of the kernel's two interfaces a set of tools writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// nf_tables.
    Nft,
    /// The old one, ip_tables.
    Legacy,
}

impl Variant {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Variant::Nft => Variant::Legacy,
            Variant::Legacy => Variant::Nft,
        }
    }

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Nft => "iptables-nft",
            Variant::Legacy => "iptables-legacy",
        }
    }
}

/// `iptables` or `ip6tables`.
fn base(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

/// The tools that write one family in one variant.
#[derive(Debug, Clone, Copy)]
pub struct Tools {
    /// The family.
    pub family: Family,
    /// The variant.
    pub variant: Variant,
    /// Whether the plain `iptables` is of this variant.
    pub main: bool,
}

impl Tools {
    /// Finds `iptables-save` and the like: the plain one where that is the variant, else `iptables-legacy-save`.
    pub fn find(&self, verb: &str) -> Option<String> {
        let base = base(self.family);
        let plain = process::find(&format!("{base}-{verb}"));
        // A program that is no link to either variant stands in for the main one.
        let fits = |path: &String| linked_variant(path).map_or(self.main, |variant| variant == self.variant);
        let infix = if self.variant == Variant::Nft { "nft" } else { "legacy" };
        plain.filter(fits).or_else(|| process::find(&format!("{base}-{infix}-{verb}")))
    }

    /// Starts to list the rules of all tables, or of one, with counters.
    pub fn list(&self, table: Option<Table>) -> Result<Child, Error> {
        let Some(path) = self.find("save") else {
            return fail!("there is no {}-save", base(self.family));
        };
        match table {
            Some(table) => process::start(&path, &["-c", "-t", table.name()], ""),
            None => process::start(&path, &["-c"], ""),
        }
    }

    /// Runs `iptables-restore --noflush`: each table of `text` changes as a whole or not at all.
    pub fn restore(&self, text: &str) -> Result<(), Error> {
        let plain = format!("{}-restore", base(self.family));
        let path = self.find("restore").ok_or_else(|| missing(&plain))?;
        let output = process::run(&path, &["--noflush", "-w", WAIT], text)?;
        if output.succeeded() {
            return Ok(());
        }
        Err(refusal(&plain, text, &output))
    }
}

/// There is no such program.
pub fn missing(program: &str) -> Error {
    Error::system(format_args!(
        "there is no {program} on PATH or in /usr/sbin and /sbin; `paraglider check` tells what to install"
    ))
}

/// The variant of a program that is a link to one of the two.
fn linked_variant(path: &str) -> Option<Variant> {
    let mut path = path.to_owned();
    // Debian's alternatives are links to links; the limit ends a loop.
    for _ in 0..8 {
        let (dir, name) = path.rsplit_once('/')?;
        match name {
            "xtables-nft-multi" => return Some(Variant::Nft),
            "xtables-legacy-multi" => return Some(Variant::Legacy),
            _ => {}
        }
        let target = file::link(&path)?;
        path = if target.starts_with('/') { target } else { format!("{dir}/{target}") };
    }
    None
}

/// The variant of the program that writes, `iptables-restore`: by the link that it is, or by what `iptables --version`
/// says. `None` where there is no iptables.
pub fn main_variant(family: Family) -> Result<Option<Variant>, Error> {
    let Some(path) = process::find(base(family)) else { return Ok(None) };
    let restore = process::find(&format!("{}-restore", base(family)));
    if let Some(variant) = restore.as_deref().and_then(linked_variant).or_else(|| linked_variant(&path)) {
        return Ok(Some(variant));
    }
    let output = process::run(&path, &["--version"], "")?;
    let nft = output.out.trim_ascii_end().ends_with("(nf_tables)");
    log::detail!("{path} says {}", output.out.trim_ascii_end());
    Ok(Some(if nft { Variant::Nft } else { Variant::Legacy }))
}

/// Why iptables-restore failed, with the rule that it complained about.
fn refusal(program: &str, text: &str, output: &Output) -> Error {
    let mut words = output.err.split(|c: char| !c.is_ascii_alphanumeric());
    if output.end == End::Status(BUSY) && words.clone().any(|word| word == "lock") {
        return Error::system(format_args!("another program has held the xtables lock for {WAIT} seconds"));
    }
    // "line 5 failed", "Error occurred at line: 5"; the number of COMMIT's line names no rule.
    words.find(|word| *word == "line");
    let failed = words.find_map(|word| number(word, 1 << 20));
    let line =
        failed.and_then(|failed| text.lines().nth((failed as usize).checked_sub(1)?)).filter(|line| *line != "COMMIT");
    let at = line.map(|line| format!(" at `{line}`")).unwrap_or_default();
    let said = output.said();
    match output.end {
        End::Status(_) => {
            Error::system(format_args!("{program} refused{at}: {said}; `paraglider check` tells what this host lacks"))
        }
        // It was killed; nothing that the kernel lacks is the cause.
        End::Signal(_) => Error::system(format_args!("{program} failed: {said}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i32, stderr: &str) -> String {
        ended(End::Status(code), stderr)
    }

    fn ended(end: End, stderr: &str) -> String {
        let output = Output { end, out: String::new(), err: stderr.into() };
        refusal("iptables-restore", "*nat\n-A X -j Y\nCOMMIT\n", &output).to_string()
    }

    #[test]
    fn a_refusal_shows_the_rule_it_is_about() {
        let said =
            refused(2, "iptables-restore v1.8.9 (legacy): Couldn't load match\nError occurred at line: 2\nTry `x'\n");
        assert!(
            said.contains("refused at `-A X -j Y`: iptables-restore v1.8.9 (legacy): Couldn't load match"),
            "{said}"
        );
        let said = refused(1, "iptables-restore: line 3 failed\n");
        assert!(said.contains("refused: iptables-restore: line 3 failed"), "{said}");
        assert!(refused(1, "").contains("it said nothing"));
    }

    #[test]
    fn one_that_was_killed_has_not_refused() {
        assert_eq!(ended(End::Signal(9), ""), "iptables-restore failed: it was ended by signal 9");
    }

    #[test]
    fn a_held_lock_is_named() {
        let said = refused(4, "Another app is currently holding the xtables lock; waiting for it to exit...\n");
        assert_eq!(said, "another program has held the xtables lock for 10 seconds");
    }
}
