//! The engine that writes with `iptables-restore`, whichever variant `iptables` is.

use std::fmt;

use super::{save, stamp};
use crate::engine::iptables::change::Change;
use crate::engine::iptables::ruleset::{Ruleset, Table};
use crate::engine::{Engine, InForce};
use crate::error::{fail, Error};
use crate::host;
use crate::net::Family;
use crate::sys::file;
use crate::sys::log;
use crate::sys::process::{self, Output, Running};
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
    fn itself(self) -> Self {
        self
    }

    fn other(self) -> Self {
        match self {
            Variant::Nft => Variant::Legacy,
            Variant::Legacy => Variant::Nft,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Variant::Nft => "iptables-nft",
            Variant::Legacy => "iptables-legacy",
        }
    }

    /// `ip6tables-legacy-save` and the like: the tool's name in a variant of its own.
    fn tool(self, family: Family, verb: &str) -> String {
        let infix = if self == Variant::Nft { "nft" } else { "legacy" };
        format!("{}-{infix}-{verb}", base(family))
    }
}

/// `iptables` or `ip6tables`.
fn base(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

/// The iptables of this host.
#[derive(Debug)]
pub struct Iptables {
    /// The variants that `iptables` and `ip6tables` are: the alternatives of each are set by themselves.
    v4: Variant,
    v6: Variant,
}

impl Iptables {
    /// Finds `iptables` and which variant it is, and fails if this process may not use it.
    pub fn find() -> Result<Self, Error> {
        let v4 = main_variant(Family::V4)?.ok_or_else(|| missing("iptables"))?;
        let v6 = main_variant(Family::V6)?.unwrap_or(v4);
        log::detail!("iptables is {}, ip6tables is {}", v4.name(), v6.name());
        host::may_change_rules(v4 == Variant::Legacy || v6 == Variant::Legacy)?;
        Ok(Iptables { v4, v6 })
    }

    /// The variant that is written.
    fn main(&self, family: Family) -> Variant {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Starts the reading of one variant's rules of one family: of all tables, or of one.
    fn start_save(&self, place: &Place) -> Result<Running, Error> {
        let Place { variant, family, table } = *place;
        let Some(path) = self.tool(variant, family, "save") else {
            return fail!("there is no {}-save", base(family));
        };
        let started = match table {
            Some(table) => process::start(&path, &["-c", "-t", table.name()], ""),
            None => process::start(&path, &["-c"], ""),
        };
        started.map_err(|error| cannot_run(&path, &error))
    }

    /// What has to be read to know all rules of a variant and family: nothing where there can be none.
    fn places(&self, variant: Variant, family: Family) -> Vec<Place> {
        let main = variant == self.main(family);
        let place = |table| Place { variant, family, table };
        match (variant, legacy_tables(family)) {
            // IPv6 and the other variant may well not be there at all.
            (Variant::Nft, _) if (!main || family == Family::V6) && self.tool(variant, family, "save").is_none() => {
                vec![]
            }
            (Variant::Nft, _) | (Variant::Legacy, LegacyTables::Some) => vec![place(None)],
            // There is nothing of ours, and asking the program costs a process.
            (Variant::Legacy, LegacyTables::None) => vec![],
            (Variant::Legacy, LegacyTables::Secret) if main => Table::ALL.map(|table| place(Some(table))).to_vec(),
            (Variant::Legacy, LegacyTables::Secret) => vec![],
        }
    }

    /// Finds `iptables-save` and the like: the plain one where that is the variant, else the variant's own.
    fn tool(&self, variant: Variant, family: Family, verb: &str) -> Option<String> {
        let plain = process::find(&format!("{}-{verb}", base(family)));
        // A program that is no link to either was put there in the place of the main one.
        let fits = |path: &String| linked_variant(path).unwrap_or_else(|| self.main(family)) == variant;
        plain.filter(fits).or_else(|| process::find(&variant.tool(family, verb)))
    }

    /// Runs `iptables-restore` of one variant and family.
    fn restore(&self, variant: Variant, family: Family, text: &str) -> Result<(), Error> {
        let plain = format!("{}-restore", base(family));
        let path = self.tool(variant, family, "restore").ok_or_else(|| missing(&plain))?;
        let run = process::run(&path, &["--noflush", "-w", WAIT], text);
        let output = run.map_err(|error| cannot_run(&path, &error))?;
        if output.code == Some(0) {
            return Ok(());
        }
        Err(refusal(&plain, text, &output))
    }

    /// What is in force: in the main variants, and in the other ones if `all`.
    fn read_from(&self, all: bool) -> Result<InForce, Error> {
        let mut found = InForce::default();
        let mut places = Vec::new();
        for family in Family::ALL {
            let main = self.main(family);
            places.extend(self.places(main, family));
            if all {
                places.extend(self.places(main.other(), family));
            }
        }
        // All at once: on a slow board most of the time goes into starting programs.
        let started: Vec<_> = places.into_iter().map(|place| (self.start_save(&place), place)).collect();
        for (child, Place { variant, family, .. }) in started {
            let main = variant == self.main(family);
            let ours = if main { &mut found.ours } else { &mut found.left_over };
            let read = child.and_then(|child| {
                let output = child.wait().map_err(|error| Error::system(format_args!("{error}")))?;
                if output.code != Some(0) {
                    return fail!("{}", Words(&output.err));
                }
                save::read(&output.out, family, ours, &mut found.others)
            });
            match read {
                Ok(()) => {}
                Err(why) if main && family == Family::V4 => {
                    return fail!("cannot read the rules in force: {why}");
                }
                // A kernel without the family or the interface has no rules there.
                Err(why) if !main && variant == Variant::Nft || !host::knows(family) => log::detail!("not read: {why}"),
                Err(why) => found.unread.push((family, why)),
            }
        }
        Ok(found)
    }

    /// Goes from `from` to `to`, family by family, in the variants that `which` makes of the main ones.
    fn write(&self, which: fn(Variant) -> Variant, from: &Ruleset, to: &Ruleset) -> Result<(), Error> {
        for family in Family::ALL {
            if let Some(change) = Change::of_family(from, to, family) {
                self.restore(which(self.main(family)), family, &change.text)?;
            }
        }
        Ok(())
    }

    /// Whether all is as wanted, read anew.
    fn verify(&self, wanted: &Ruleset) -> Result<(), Error> {
        let now = self.read_from(false)?;
        let Some(Change { text }) = Family::ALL.iter().find_map(|family| Change::of_family(&now.ours, wanted, *family))
        else {
            return Ok(());
        };
        log::detail!("still to do:\n{text}");
        let unread = now.unread.first().map(|(family, why)| format!(" ({family}: {why})")).unwrap_or_default();
        fail!("the rules are not as they were just written{unread}; another program changes them at the same time")
    }

    /// Loads a rule into a chain that nothing jumps to, and takes it out again: whether this kernel and these tools
    /// have all that the rule uses. (`--test` would not tell: the nft variant accepts what the kernel then refuses.)
    pub fn probe(&self, family: Family, table: Table, rules: &[&str]) -> Result<(), Error> {
        let (name, chain) = (table.name(), super::ruleset::PROBE);
        let mut lines = String::new();
        for rule in rules.iter().filter(|rule| !rule.is_empty()) {
            lines.push_str(&format!("-A {chain} {rule}\n"));
        }
        let variant = self.main(family);
        let loaded = self.restore(variant, family, &format!("*{name}\n:{chain} - [0:0]\n{lines}COMMIT\n"));
        let removed = || self.restore(variant, family, &format!("*{name}\n:{chain} - [0:0]\n-X {chain}\nCOMMIT\n"));
        loaded.and_then(|()| removed())
    }
}

impl Engine for Iptables {
    fn read(&self) -> Result<InForce, Error> {
        self.read_from(true)
    }

    fn apply(&self, before: &InForce, wanted: &Ruleset, left_over: &Ruleset) -> Result<(), Error> {
        let done = self
            .write(Variant::itself, &before.ours, wanted)
            .and_then(|()| self.verify(wanted))
            .and_then(|()| self.write(Variant::other, &before.left_over, left_over));
        let Err(error) = done else { return Ok(()) };
        let back = self.read_from(true).and_then(|now| {
            self.write(Variant::itself, &now.ours, &before.ours)?;
            self.write(Variant::other, &now.left_over, &before.left_over)
        });
        Err(match back {
            Ok(()) => error.and("nothing was changed"),
            Err(worse) => error.and(&format!("and going back to the rules before failed too: {worse}")),
        })
    }

    fn restarts_all_counters(&self) -> bool {
        // The old interface loads whole tables, and nth begins to count when it is loaded (xt_statistic.c).
        self.v4 == Variant::Legacy || self.v6 == Variant::Legacy
    }

    fn fingerprint(&self, family: Family) -> Option<u64> {
        match self.main(family) {
            Variant::Nft => stamp::nft(),
            Variant::Legacy => stamp::legacy(family),
        }
    }

    fn name(&self) -> &'static str {
        self.main(Family::V4).name()
    }
}

fn missing(program: &str) -> Error {
    Error::system(format_args!(
        "there is no {program} on PATH or in /usr/sbin and /sbin; `paraglider check` tells what to install"
    ))
}

fn cannot_run(path: &str, error: &std::io::Error) -> Error {
    Error::system(format_args!("cannot run {path}: {error}"))
}

/// The variant of a program that is a link to one of the two.
fn linked_variant(path: &str) -> Option<Variant> {
    let mut path = path.to_owned();
    // Links to links (alternatives of Debian) are a few; a loop of them ends.
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

/// The variant that `iptables-restore`, which writes, is: by what it is a link to, or by what `iptables` says of itself.
fn main_variant(family: Family) -> Result<Option<Variant>, Error> {
    let Some(path) = process::find(base(family)) else { return Ok(None) };
    let restore = process::find(&format!("{}-restore", base(family)));
    if let Some(variant) = restore.as_deref().and_then(linked_variant).or_else(|| linked_variant(&path)) {
        return Ok(Some(variant));
    }
    let output = process::run(&path, &["--version"], "").map_err(|error| cannot_run(&path, &error))?;
    let nft = output.out.trim_ascii_end().ends_with("(nf_tables)");
    Ok(Some(if nft { Variant::Nft } else { Variant::Legacy }))
}

/// Where rules can be.
#[derive(Debug, Clone, Copy)]
struct Place {
    variant: Variant,
    family: Family,
    /// One, where they cannot be read all at once.
    table: Option<Table>,
}

/// Which tables the old interface has in this network namespace.
enum LegacyTables {
    None,
    Some,
    /// The kernel does not tell, as in a network namespace that was made together with its user namespace.
    Secret,
}

fn legacy_tables(family: Family) -> LegacyTables {
    let names = match family {
        Family::V4 => "/proc/net/ip_tables_names",
        Family::V6 => "/proc/net/ip6_tables_names",
    };
    if !file::read(names).is_empty() {
        LegacyTables::Some
    } else if file::exists(names) && file::open(names, libc::O_RDONLY).is_err() {
        LegacyTables::Secret
    } else {
        LegacyTables::None
    }
}

/// What a program said, on one line.
struct Words<'a>(&'a str);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines =
            self.0.lines().map(str::trim_ascii).filter(|line| !line.is_empty() && !line.starts_with("Try `"));
        f.write_str(lines.next().unwrap_or("it said nothing"))?;
        lines.try_for_each(|line| write!(f, "; {line}"))
    }
}

/// Why `iptables-restore` did not take `text`, with the line that it stumbled over.
fn refusal(program: &str, text: &str, output: &Output) -> Error {
    let mut words = output.err.split(|c: char| !c.is_ascii_alphanumeric());
    if output.code == Some(BUSY) && words.clone().any(|word| word == "lock") {
        return Error::system(format_args!("another program has held the xtables lock for {WAIT} seconds"));
    }
    // "line 5 failed", "Error occurred at line: 5"; the number of COMMIT's line names no rule.
    words.find(|word| *word == "line");
    let failed = words.find_map(|word| number(word, 1 << 20));
    let line =
        failed.and_then(|failed| text.lines().nth((failed as usize).checked_sub(1)?)).filter(|line| *line != "COMMIT");
    let at = line.map(|line| format!(" at `{line}`")).unwrap_or_default();
    let words = Words(&output.err);
    Error::system(format_args!("{program} refused{at}: {words}; `paraglider check` tells what this host lacks"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i32, stderr: &str) -> String {
        let output = Output { code: Some(code), out: String::new(), err: stderr.into() };
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
    fn a_held_lock_is_named() {
        let said = refused(4, "Another app is currently holding the xtables lock; waiting for it to exit...\n");
        assert_eq!(said, "another program has held the xtables lock for 10 seconds");
    }
}
