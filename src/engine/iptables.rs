//! The engine that writes with `iptables-restore`, whichever variant `iptables` is.

use std::fmt;
use std::fs;
use std::io::{ErrorKind, Write};
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
        .find(|path| path.is_file())
}

/// The iptables of this host.
#[derive(Debug)]
pub struct Iptables {
    variant: Variant,
}

impl Iptables {
    /// Finds `iptables` and which variant it is, and fails if this process may not use it.
    pub fn find() -> Result<Self, Error> {
        let path = find_program("iptables").ok_or_else(|| missing("iptables"))?;
        let variant = variant_of(&path)?;
        say::detail!("{} is {}", path.display(), variant.name());
        host::may_change_rules(variant == Variant::Legacy)?;
        Ok(Iptables { variant })
    }

    /// Starts the reading of one variant's rules of one family, where there can be any: of all tables, or of one.
    fn start_save(&self, variant: Variant, family: Family, table: Option<Table>) -> Result<Option<Reader>, Error> {
        let Some(path) = self.tool(variant, family, "save") else {
            // Only the main one has to be there: what cannot be read elsewhere cannot be written either.
            return if variant == self.variant && family == Family::V4 {
                Err(missing("iptables-save"))
            } else {
                Ok(None)
            };
        };
        let mut command = command(&path);
        command.arg("-c").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(table) = table {
            command.args(["-t", table.name()]);
        }
        say::detail!("run {command:?}");
        let child = command.spawn().map_err(|error| cannot_run(&path, &error))?;
        Ok(Some(Reader { variant, family, path, child }))
    }

    /// What has to be read to know all rules of a variant and family.
    fn to_read(&self, variant: Variant, family: Family) -> Vec<(Variant, Family, Option<Table>)> {
        let all = vec![(variant, family, None)];
        if variant == Variant::Nft {
            return all;
        }
        match legacy_tables(family) {
            // There is nothing of ours, and asking the program costs a process.
            LegacyTables::None => Vec::new(),
            LegacyTables::Some => all,
            LegacyTables::Secret if variant != self.variant => Vec::new(),
            LegacyTables::Secret => Table::ALL.map(|table| (variant, family, Some(table))).to_vec(),
        }
    }

    /// Finds `iptables-save` and the like: the plain one for the main variant, else the variant's own.
    fn tool(&self, variant: Variant, family: Family, verb: &str) -> Option<PathBuf> {
        let plain = (variant == self.variant).then(|| find_program(&format!("{}-{verb}", base(family))));
        plain.flatten().or_else(|| find_program(&variant.tool(family, verb)))
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
        if let Some(mut stdin) = child.stdin.take() {
            // Where the program ends early, its own words say why.
            if let Err(error) = stdin.write_all(text.as_bytes()) {
                say::detail!("{} stopped reading: {error}", path.display());
            }
        }
        let output = child.wait_with_output().map_err(|error| cannot_run(&path, &error))?;
        if output.status.success() {
            return Ok(());
        }
        Err(refusal(&plain, text, &output))
    }

    /// What is in force in these variants.
    fn read_from(&self, variants: &[Variant]) -> Result<InForce, Error> {
        let mut found = InForce::default();
        let places = variants.iter().flat_map(|variant| Family::ALL.map(|family| self.to_read(*variant, family)));
        // All at once: on a slow board most of the time goes into starting programs.
        let started: Vec<_> =
            places.flatten().map(|(variant, family, table)| self.start_save(variant, family, table)).collect();
        for started in started {
            let Some(Reader { variant, family, path, child }) = started? else { continue };
            let program = path.display();
            let output = child.wait_with_output().map_err(|error| cannot_run(&path, &error))?;
            if !output.status.success() {
                let why = Words(&output.stderr);
                // Rules of ours cannot be where the kernel has no such tables.
                if variant == self.variant && family == Family::V4 {
                    return Err(Error::system(format!("{program} failed: {why}")));
                }
                if variant == self.variant && Path::new("/proc/net/if_inet6").exists() {
                    say::warning!("cannot look at the IPv6 rules: {program} failed: {why}");
                } else {
                    say::detail!("{program} failed: {why}");
                }
                continue;
            }
            let ours = if variant == self.variant { &mut found.ours } else { &mut found.left_over };
            save::read(&String::from_utf8_lossy(&output.stdout), family, ours, &mut found.others);
        }
        Ok(found)
    }

    /// Goes from `from` to `to` in the main variant, family by family.
    fn write(&self, from: &Ruleset, to: &Ruleset) -> Result<(), Error> {
        for family in Family::ALL {
            if let Some(change) = Change::of_family(from, to, family) {
                self.restore(self.variant, family, &change.text)?;
            }
        }
        Ok(())
    }

    /// Loads a rule into a chain that nothing jumps to, and takes it out again: whether this kernel and these tools
    /// have all that the rule uses. (`--test` would not tell: the nft variant accepts what the kernel then refuses.)
    pub fn probe(&self, family: Family, table: Table, rules: &[&str]) -> Result<(), Error> {
        let (name, chain) = (table.name(), crate::ruleset::PROBE);
        let lines: String = rules.iter().map(|rule| format!("-A {chain} {rule}\n")).collect();
        let loaded = self.restore(self.variant, family, &format!("*{name}\n:{chain} - [0:0]\n{lines}COMMIT\n"));
        let removed =
            || self.restore(self.variant, family, &format!("*{name}\n:{chain} - [0:0]\n-X {chain}\nCOMMIT\n"));
        loaded.and_then(|()| removed())
    }
}

impl Engine for Iptables {
    fn read(&self) -> Result<InForce, Error> {
        self.read_from(&[self.variant, self.variant.other()])
    }

    fn apply(&self, before: &InForce, wanted: &Ruleset) -> Result<(), Error> {
        let done = self.write(&before.ours, wanted).and_then(|()| {
            let now = self.read_from(&[self.variant])?;
            match Family::ALL.iter().find_map(|family| Change::of_family(&now.ours, wanted, *family)) {
                None => Ok(()),
                Some(Change { text }) => {
                    say::detail!("still to do:\n{text}");
                    Err(Error::system(
                        "the rules are not as they were just written; another program changes them at the same time",
                    ))
                }
            }
        });
        if let Err(error) = done {
            let back = self.read_from(&[self.variant]).and_then(|now| self.write(&now.ours, &before.ours));
            return Err(match back {
                Ok(()) => error.and("nothing was changed"),
                Err(worse) => error.and(&format!("and going back to the rules before failed too: {worse}")),
            });
        }
        for family in before.left_over.families() {
            if let Some(change) = Change::of_family(&before.left_over, &Ruleset::default(), family) {
                self.restore(self.variant.other(), family, &change.text)?;
            }
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        self.variant.name()
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

/// The variant of the program at `path`: by the name of what it is a link to, or by its own words.
fn variant_of(path: &Path) -> Result<Variant, Error> {
    if let Ok(real) = fs::canonicalize(path) {
        match real.file_name().and_then(|name| name.to_str()) {
            Some("xtables-nft-multi") => return Ok(Variant::Nft),
            Some("xtables-legacy-multi") => return Ok(Variant::Legacy),
            _ => {}
        }
    }
    let output = command(path).arg("--version").output().map_err(|error| cannot_run(path, &error))?;
    let nft = String::from_utf8_lossy(&output.stdout).contains("nf_tables");
    Ok(if nft { Variant::Nft } else { Variant::Legacy })
}

/// A program that prints rules.
struct Reader {
    variant: Variant,
    family: Family,
    path: PathBuf,
    child: Child,
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
