//! The command line.

use std::ffi::OsString;
use std::fmt;

use argh::FromArgs;

use crate::error::Error;
use crate::text::number;
use crate::text::{one_of, Shown};
use crate::verb::status::Format;

/// Where the config is unless told otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/paraglider/glider.yaml";

/// What `--help` prints.
pub const HELP: &str = "\
Usage: paraglider [--config FILE] [-v] VERB

Balances TCP connections over backends with iptables rules; only `watch` is a process that stays.

Verbs:
  start    put the config's rules in force; changes nothing if they already are
  stop     remove every rule of Paraglider; needs no config
             --drain SECONDS   take no new connections, and wait for the old ones to end
  reload   the same as start; so is restart
             --drop-removed    end the connections to backends that are no longer in the config
  watch    start, then check the backends that have `health:`, and put back rules that others change
             --stop-on-exit    remove the rules when it ends
  status   what is in force: connections taken and active, and how each backend does
             --json            for programs; --prometheus for Prometheus
  check    is the config right, and can this host run it?
  print    the rules that start would put in force, for iptables-restore --noflush
             --ipv6            those for ip6tables-restore

Options:
  -c, -config, --config FILE   default: /etc/paraglider/glider.yaml
  -v, --verbose                show every command that is run, and the text fed to it
  --version                    print the version
  -h, --help                   print this

Exit status: 0 done; 1 the system refused or failed; 2 wrong usage or config.
status: 0 in force, 1 not as in the config, 3 not in force. check: 1 it would not work.
";

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Put the config's rules in force; `reload` and `restart` are the same.
    Start {
        /// End the connections to backends that are no longer there.
        drop_removed: bool,
    },
    /// The same, and stay to check backends.
    Watch {
        /// Remove the rules at the end.
        stop_on_exit: bool,
    },
    /// Remove all that is ours.
    Stop {
        /// Wait at most so many seconds for connections to end.
        drain: Option<u32>,
    },
    /// Tell what is in force.
    Status(Format),
    /// Tell whether the config can work here.
    Check,
    /// Show the rules.
    Print {
        /// Those of the IPv6 frontends.
        ipv6: bool,
    },
}

/// The words, understood.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
    /// Do it.
    Run {
        /// The verb with its own options.
        verb: Verb,
        /// The config file.
        config: String,
        /// Show commands and their input.
        verbose: bool,
    },
}

const VERBS: [&str; 8] = ["start", "stop", "reload", "restart", "watch", "status", "check", "print"];

const OPTIONS: [&str; 9] =
    ["config", "verbose", "version", "json", "prometheus", "ipv6", "drain", "drop-removed", "stop-on-exit"];

/// The words as argh sees them.
#[derive(FromArgs)]
/// Balances TCP connections.
struct Words {
    /// the config file
    #[argh(option, short = 'c', default = "DEFAULT_CONFIG.to_owned()")]
    config: String,
    /// show commands
    #[argh(switch, short = 'v')]
    verbose: bool,
    /// print the version
    #[argh(switch)]
    version: bool,
    /// for programs
    #[argh(switch)]
    json: bool,
    /// for a collector
    #[argh(switch)]
    prometheus: bool,
    /// the IPv6 rules
    #[argh(switch)]
    ipv6: bool,
    /// end connections
    #[argh(switch)]
    drop_removed: bool,
    /// remove the rules
    #[argh(switch)]
    stop_on_exit: bool,
    /// seconds
    #[argh(option)]
    drain: Option<String>,
    /// what to do
    #[argh(positional)]
    verb: Vec<String>,
}

/// Understands the words after the program's name.
pub fn parse(words: Vec<OsString>) -> Result<Command, Error> {
    let mut given = Vec::new();
    for word in words {
        let word =
            word.into_string().map_err(|word| usage(format_args!("`{}` is not UTF-8", word.to_string_lossy())))?;
        if ["-h", "-help", "--help", "help"].contains(&word.as_str()) {
            return Ok(Command::Help);
        }
        push(&mut given, &word);
    }
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    // What argh says of wrong words is a sentence on the first line.
    let words = Words::from_args(&["paraglider"], &given).map_err(|early| {
        usage(format_args!("{}", early.output.lines().next().unwrap_or("wrong words").trim_end_matches('.')))
    })?;
    if words.version {
        return Ok(Command::Version);
    }
    if words.config.is_empty() {
        return Err(usage(format_args!("--config wants the name of a file")));
    }
    let name = match words.verb.as_slice() {
        [name] => name.to_ascii_lowercase(),
        [] => return Err(usage(format_args!("a verb is missing: {}", VERBS.join(", ")))),
        [_, more, ..] => return Err(usage(format_args!("one verb is enough, `{more}` is too much"))),
    };
    let verb = match name.as_str() {
        "start" | "reload" | "restart" => Verb::Start { drop_removed: words.drop_removed },
        "watch" => Verb::Watch { stop_on_exit: words.stop_on_exit },
        "stop" => Verb::Stop { drain: words.drain.as_deref().map(seconds).transpose()? },
        "status" => Verb::Status(match (words.json, words.prometheus) {
            (false, false) => Format::Text,
            (true, false) => Format::Json,
            (false, true) => Format::Prometheus,
            (true, true) => return Err(usage(format_args!("--json and --prometheus are two answers; ask for one"))),
        }),
        "check" => Verb::Check,
        "print" => Verb::Print { ipv6: words.ipv6 },
        other => {
            return match one_of("there is no verb", &VERBS, other) {
                Ok(_) => Ok(Command::Help),
                Err(error) => Err(error.and(HINT)),
            }
        }
    };
    for (option, given, belongs) in [
        ("--json", words.json, "status"),
        ("--prometheus", words.prometheus, "status"),
        ("--ipv6", words.ipv6, "print"),
        ("--drain", words.drain.is_some(), "stop"),
        ("--drop-removed", words.drop_removed && name != "restart", "reload"),
        ("--stop-on-exit", words.stop_on_exit, "watch"),
    ] {
        if given && name != belongs {
            return Err(usage(format_args!("{option} belongs to {belongs}")));
        }
    }
    Ok(Command::Run { verb, config: words.config, verbose: words.verbose })
}

/// Adds a word as argh knows it: the Go original's spelling of long options becomes argh's, `--option=value` two words.
fn push(words: &mut Vec<String>, word: &str) {
    let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
    let bare = name.trim_start_matches('-');
    if name.starts_with('-') && OPTIONS.contains(&bare) {
        words.push(format!("--{bare}"));
    } else if name == "-c" {
        words.push(name.to_owned());
    } else {
        // A value, a verb, or wrong as it is.
        return words.push(word.to_owned());
    }
    words.extend(value.map(str::to_owned));
}

fn seconds(text: &str) -> Result<u32, Error> {
    let seconds = number(text, u32::MAX.into()).map(|seconds| seconds as u32);
    seconds.ok_or_else(|| usage(format_args!("--drain `{}` is not a number of seconds", Shown(text))))
}

const HINT: &str = "see paraglider --help";

fn usage(what: fmt::Arguments<'_>) -> Error {
    Error::usage(what).and(HINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from).collect()).map_err(|error| error.to_string())
    }

    const START: Verb = Verb::Start { drop_removed: false };

    fn run(verb: Verb, config: &str) -> Result<Command, String> {
        Ok(Command::Run { verb, config: config.into(), verbose: false })
    }

    #[test]
    fn every_spelling_of_the_config_is_understood() {
        for line in [
            "-config x.yaml start",
            "-config=x.yaml start",
            "--config x.yaml start",
            "--config=x.yaml start",
            "-c x.yaml START",
            "Reload --config x.yaml",
            "restart -c=x.yaml",
        ] {
            assert_eq!(parsed(line), run(START, "x.yaml"), "{line}");
        }
        assert_eq!(parsed("start"), run(START, DEFAULT_CONFIG));
    }

    #[test]
    fn verbs_have_their_own_options() {
        assert_eq!(parsed("stop --drain 30"), run(Verb::Stop { drain: Some(30) }, DEFAULT_CONFIG));
        assert_eq!(parsed("status --json"), run(Verb::Status(Format::Json), DEFAULT_CONFIG));
        assert_eq!(parsed("status -prometheus"), run(Verb::Status(Format::Prometheus), DEFAULT_CONFIG));
        assert_eq!(parsed("reload --drop-removed"), run(Verb::Start { drop_removed: true }, DEFAULT_CONFIG));
        assert_eq!(parsed("watch --stop-on-exit"), run(Verb::Watch { stop_on_exit: true }, DEFAULT_CONFIG));
        assert_eq!(parsed("print --ipv6"), run(Verb::Print { ipv6: true }, DEFAULT_CONFIG));
        assert_eq!(parsed("start --help"), Ok(Command::Help));
        assert_eq!(parsed("--version"), Ok(Command::Version));
    }

    #[test]
    fn wrong_words_get_a_sentence() {
        for (line, why) in [
            ("", "a verb is missing"),
            ("strat", "did you mean `start`?"),
            ("frobnicate", "there are start, stop"),
            ("start stop", "`stop` is too much"),
            ("start --json", "--json belongs to status"),
            ("start --ipv6", "--ipv6 belongs to print"),
            ("start --drop-removed", "--drop-removed belongs to reload"),
            ("start --stop-on-exit", "--stop-on-exit belongs to watch"),
            ("status --json --prometheus", "ask for one"),
            ("start --drain 3", "--drain belongs to stop"),
            ("stop --drain x", "`x` is not a number of seconds"),
            ("stop --drain -3", "-3"),
            ("start --conf x", "--conf"),
            ("start --config", "--config"),
            ("start -x", "-x"),
            ("start -vv", "-vv"),
            ("start -config=", "--config wants the name of a file"),
        ] {
            let said = parsed(line).unwrap_err();
            assert!(said.contains(why), "{line}: {said}");
            assert!(!said.contains('\n'), "{line}: {said}");
        }
    }

    #[test]
    fn the_help_fits_a_screen() {
        assert!(HELP.lines().count() <= 30);
        assert!(HELP.lines().all(|line| line.len() <= 100));
        for verb in VERBS {
            assert!(HELP.contains(verb), "{verb}");
        }
        assert!(HELP.contains(DEFAULT_CONFIG));
    }
}
