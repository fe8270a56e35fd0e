//! The engine that writes with `iptables-restore`, whichever variant `iptables` is.

use std::fmt;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::{save, Engine, InForce};
use crate::error::Error;
use crate::host;
use crate::ruleset::{Change, Ruleset, Table};
use crate::say;
use crate::service::Family;

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

/// Finds a program on PATH, and where system programs are when PATH does not say so (a bare `su`, some cron daemons).
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|path| fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0))
}

/// The iptables of this host.
#[derive(Debug)]
pub struct Iptables {
    /// The variants that `iptables` and `ip6tables` are: the alternatives of each are set by themselves.
    main: [(Family, Variant); 2],
}

impl Iptables {
    /// Finds `iptables` and which variant it is, and fails if this process may not use it.
    pub fn find() -> Result<Self, Error> {
        let v4 = main_variant(Family::V4)?.ok_or_else(|| missing("iptables"))?;
        let v6 = main_variant(Family::V6)?.unwrap_or(v4);
        say::detail!("iptables is {}, ip6tables is {}", v4.name(), v6.name());
        host::may_change_rules(v4 == Variant::Legacy || v6 == Variant::Legacy)?;
        Ok(Iptables { main: [(Family::V4, v4), (Family::V6, v6)] })
    }

    /// The variant that is written.
    fn main(&self, family: Family) -> Variant {
        let own = self.main.iter().find(|(of, _)| *of == family);
        own.map_or(Variant::Nft, |(_, variant)| *variant)
    }

    /// Starts the reading of one variant's rules of one family: of all tables, or of one.
    fn start_save(&self, place: &Place) -> Result<Child, String> {
        let Place { variant, family, table } = *place;
        let path = self.tool(variant, family, "save").ok_or_else(|| format!("there is no {}-save", base(family)))?;
        let mut command = command(&path);
        command.arg("-c").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(table) = table {
            command.args(["-t", table.name()]);
        }
        say::detail!("run {command:?}");
        command.spawn().map_err(|error| cannot_run(&path, &error).to_string())
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
    fn tool(&self, variant: Variant, family: Family, verb: &str) -> Option<PathBuf> {
        let plain = find_program(&format!("{}-{verb}", base(family)));
        // A program that is no link to either was put there in the place of the main one.
        let fits = |path: &PathBuf| linked_variant(path).unwrap_or_else(|| self.main(family)) == variant;
        plain.filter(fits).or_else(|| find_program(&variant.tool(family, verb)))
    }

    /// Runs `iptables-restore` of one variant and family.
    fn restore(&self, variant: Variant, family: Family, text: &str) -> Result<(), Error> {
        let plain = format!("{}-restore", base(family));
        let path = self.tool(variant, family, "restore").ok_or_else(|| missing(&plain))?;
        let mut command = command(&path);
        command.args(["--noflush", "-w", WAIT]);
        say::detail!("run {command:?} with\n{text}");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| cannot_run(&path, &error))?;
        let stdin = child.stdin.take();
        // At the same time: a program that says much before it reads would wait for us, and we for it.
        let output = std::thread::scope(|scope| {
            // Where the program ends early, its own words say why.
            let feed = move || stdin.map(|mut stdin| stdin.write_all(text.as_bytes()));
            std::thread::Builder::new().spawn_scoped(scope, feed)?;
            child.wait_with_output()
        });
        let output = output.map_err(|error| cannot_run(&path, &error))?;
        if output.status.success() {
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
                let output = child.wait_with_output().map_err(|error| error.to_string())?;
                if !output.status.success() {
                    return Err(Words(&output.stderr).to_string());
                }
                let text = String::from_utf8_lossy(&output.stdout);
                save::read(&text, family, ours, &mut found.others).map_err(|error| error.to_string())
            });
            match read {
                Ok(()) => {}
                Err(why) if main && family == Family::V4 => {
                    return Err(Error::system(format!("cannot read the rules in force: {why}")));
                }
                // A kernel without the family or the interface has no rules there.
                Err(why) if !main && variant == Variant::Nft || !host::knows(family) => say::detail!("not read: {why}"),
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
        say::detail!("still to do:\n{text}");
        let unread: String = now.unread.iter().map(|(family, why)| format!(" ({family}: {why})")).collect();
        Err(Error::system(format!(
            "the rules are not as they were just written{unread}; another program changes them at the same time"
        )))
    }

    /// Loads a rule into a chain that nothing jumps to, and takes it out again: whether this kernel and these tools
    /// have all that the rule uses. (`--test` would not tell: the nft variant accepts what the kernel then refuses.)
    pub fn probe(&self, family: Family, table: Table, rules: &[&str]) -> Result<(), Error> {
        let (name, chain) = (table.name(), crate::ruleset::PROBE);
        let lines: String = rules.iter().map(|rule| format!("-A {chain} {rule}\n")).collect();
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
        self.main.iter().any(|(_, variant)| *variant == Variant::Legacy)
    }

    fn name(&self) -> &'static str {
        self.main(Family::V4).name()
    }
}

fn missing(program: &str) -> Error {
    Error::system(format!(
        "there is no {program} on PATH or in /usr/sbin and /sbin; `paraglider check` tells what to install"
    ))
}

fn cannot_run(path: &Path, error: &std::io::Error) -> Error {
    Error::system(format!("cannot run {}: {error}", path.display()))
}

/// A command whose words do not depend on the user's language.
fn command(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.env("LC_ALL", "C");
    command
}

/// The variant of a program that is a link to one of the two.
fn linked_variant(path: &Path) -> Option<Variant> {
    match fs::canonicalize(path).ok()?.file_name()?.to_str()? {
        "xtables-nft-multi" => Some(Variant::Nft),
        "xtables-legacy-multi" => Some(Variant::Legacy),
        _ => None,
    }
}

/// The variant that `iptables-restore`, which writes, is: by what it is a link to, or by what `iptables` says of itself.
fn main_variant(family: Family) -> Result<Option<Variant>, Error> {
    let Some(path) = find_program(base(family)) else { return Ok(None) };
    let restore = find_program(&format!("{}-restore", base(family)));
    if let Some(variant) = restore.as_deref().and_then(linked_variant).or_else(|| linked_variant(&path)) {
        return Ok(Some(variant));
    }
    let output = command(&path).arg("--version").output().map_err(|error| cannot_run(&path, &error))?;
    let nft = String::from_utf8_lossy(&output.stdout).contains("nf_tables");
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
    match fs::read_to_string(names) {
        Ok(names) if !names.trim().is_empty() => LegacyTables::Some,
        Err(error) if error.kind() != ErrorKind::NotFound => LegacyTables::Secret,
        _ => LegacyTables::None,
    }
}

/// What a program said, on one line.
struct Words<'a>(&'a [u8]);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(self.0);
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Try `"));
        f.write_str(lines.next().unwrap_or("it said nothing"))?;
        lines.try_for_each(|line| write!(f, "; {line}"))
    }
}

/// Why `iptables-restore` did not take `text`, with the line that it stumbled over.
fn refusal(program: &str, text: &str, output: &Output) -> Error {
    if output.status.code() == Some(BUSY) {
        let words = String::from_utf8_lossy(&output.stderr);
        if words.contains("lock") {
            return Error::system(format!("another program has held the xtables lock for {WAIT} seconds"));
        }
    }
    let words = Words(&output.stderr).to_string();
    // "line 5 failed", "Error occurred at line: 5"; the number of COMMIT's line names no rule.
    let number = words.rsplit_once("line").and_then(|(_, after)| {
        let digits = after.trim_start_matches([':', ' ']);
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()
    });
    let line = number.and_then(|number| text.lines().nth(number.checked_sub(1)?)).filter(|line| *line != "COMMIT");
    let at = line.map(|line| format!(" at `{line}`")).unwrap_or_default();
    Error::system(format!("{program} refused{at}: {words}; `paraglider check` tells what this host lacks"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn refused(code: i32, stderr: &str) -> String {
        let output =
            Output { status: std::process::ExitStatus::from_raw(code << 8), stdout: vec![], stderr: stderr.into() };
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
