//! The command line. One table of verbs and one of options; the parser, `--help` and the tests of the documentation read
//! these tables, so a verb or an option is added in one place (and, for an option, in [`Arguments`], where argh puts it).

use std::ffi::OsString;
use std::fmt;

use argh::FromArgs;

use crate::error::{Error, Exit};
use crate::text::{nearest, number, one_of, Shown};
use crate::verb::status::{self, Format};
use crate::verb::{check, print, start, stop, watch};

/// The config file that is read without `--config`.
pub const DEFAULT_CONFIG: &str = "/etc/paraglider/glider.yaml";

/// A verb of the command line.
pub struct Verb {
    /// As it is typed, in lower case.
    pub word: &'static str,
    /// Its line of `--help`; empty where the line of another verb names it.
    help: &'static str,
    /// Carries it out; what it writes to the string goes to stdout.
    pub run: fn(&Arguments, &mut String) -> Result<Exit, Error>,
}

/// All verbs, in the order of `--help`.
pub static VERBS: [Verb; 8] = [
    Verb {
        word: "start",
        help: "put the config's rules in force; changes nothing if they already are",
        run: |given, _| start::run(&given.config, false, given.again),
    },
    Verb {
        word: "stop",
        help: "remove every rule of Paraglider; needs no config",
        run: |given, _| stop::run(given.drain.as_deref().and_then(seconds)),
    },
    Verb { word: "reload", help: "the same as start; so is restart", run: reload },
    Verb { word: "restart", help: "", run: reload },
    Verb {
        word: "watch",
        help: "start, then check the backends that have `health:`, and put back rules that others change",
        run: |given, _| match given.needed {
            true => watch::needed(&given.config),
            false => watch::run(&given.config, given.stop_on_exit, given.again),
        },
    },
    Verb {
        word: "status",
        help: "what is in force, and for each backend: connections taken, connections active, health",
        run: |given, out| {
            let format = match (given.json, given.prometheus) {
                (false, false) => Format::Text,
                (true, _) => Format::Json,
                (false, true) => Format::Prometheus,
            };
            status::run(&given.config, format, out)
        },
    },
    Verb {
        word: "check",
        help: "is the config right, and can this host run it?",
        run: |given, out| check::run(&given.config, out),
    },
    Verb {
        word: "print",
        help: "the rules that start would put in force, for iptables-restore --noflush",
        run: |given, out| print::run(&given.config, given.ipv6, out),
    },
];

fn reload(given: &Arguments, _: &mut String) -> Result<Exit, Error> {
    start::run(&given.config, given.drop_removed, false)
}

/// An option of the command line.
pub struct Opt {
    /// As it is typed, with two dashes.
    pub word: &'static str,
    /// Its short form with the dash; empty where there is none.
    short: &'static str,
    /// What its value is called; empty for an option without a value.
    pub value: &'static str,
    /// The verbs that have it, the one whose help lists it first; empty: all verbs.
    pub verbs: &'static [&'static str],
    help: &'static str,
}

/// All options, in the order of `--help`.
pub static OPTIONS: [Opt; 12] = [
    Opt {
        word: "--again",
        short: "",
        value: "",
        verbs: &["start", "watch"],
        help: "put back in force what the last start put there",
    },
    Opt {
        word: "--drain",
        short: "",
        value: SECONDS,
        verbs: &["stop"],
        help: "take no new connections, and wait for the established ones to end",
    },
    Opt {
        word: "--drop-removed",
        short: "",
        value: "",
        verbs: &["reload", "restart"],
        help: "end the connections to backends that are no longer in the config",
    },
    Opt { word: "--stop-on-exit", short: "", value: "", verbs: &["watch"], help: "remove the rules when it ends" },
    Opt {
        word: "--needed",
        short: "",
        value: "",
        verbs: &["watch"],
        help: "only tell: exit status 0 if the config has `health:`, else 1",
    },
    Opt { word: "--json", short: "", value: "", verbs: &["status"], help: "as JSON" },
    Opt { word: "--prometheus", short: "", value: "", verbs: &["status"], help: "as Prometheus reads it" },
    Opt { word: "--ipv6", short: "", value: "", verbs: &["print"], help: "the rules for ip6tables-restore" },
    Opt { word: "--config", short: "-c", value: "FILE", verbs: &[], help: "default: /etc/paraglider/glider.yaml" },
    Opt {
        word: "--verbose",
        short: "-v",
        value: "",
        verbs: &[],
        help: "show every command that is run, and its input",
    },
    Opt { word: "--version", short: "", value: "", verbs: &[], help: "print the version" },
    Opt { word: "--help", short: "-h", value: "", verbs: &[], help: "print this" },
];

/// The value of an option that is a number of seconds.
const SECONDS: &str = "SECONDS";

/// Options of which only one may be given.
const EXCLUSIVE: [(&str, &str); 2] = [("--json", "--prometheus"), ("--needed", "--stop-on-exit")];

/// The command line as argh reads it. A field for each of [`OPTIONS`].
#[derive(Debug, PartialEq, Eq, FromArgs)]
/// Balances TCP connections.
pub struct Arguments {
    /// the config file
    #[argh(option, default = "DEFAULT_CONFIG.to_owned()")]
    pub config: String,
    /// show commands and their input
    #[argh(switch)]
    pub verbose: bool,
    /// put back what the last start put in force
    #[argh(switch)]
    pub again: bool,
    /// seconds to wait for connections to end
    #[argh(option)]
    pub drain: Option<String>,
    /// end connections to removed backends
    #[argh(switch)]
    pub drop_removed: bool,
    /// remove the rules at the end
    #[argh(switch)]
    pub stop_on_exit: bool,
    /// tell whether the config needs a watch
    #[argh(switch)]
    pub needed: bool,
    /// one JSON object
    #[argh(switch)]
    pub json: bool,
    /// the text format of Prometheus
    #[argh(switch)]
    pub prometheus: bool,
    /// the IPv6 rules
    #[argh(switch)]
    pub ipv6: bool,
    /// the verb
    #[argh(positional)]
    verb: Vec<String>,
}

/// A valid command line.
pub enum Command {
    /// Print [`help`].
    Help,
    /// Print the version.
    Version,
    /// Run the verb with these arguments.
    Run(&'static Verb, Arguments),
}

/// Reads the words after the program's name. Wrong usage is an error with [`Exit::Usage`].
pub fn parse(words: Vec<OsString>) -> Result<Command, Error> {
    let mut given = Vec::new();
    for word in words {
        let word = word.into_string();
        given.push(word.map_err(|word| usage(format_args!("`{}` is not UTF-8", Shown(&word.to_string_lossy()))))?);
    }
    // Each option in the spelling that argh knows, its value behind it: `-config=FILE` becomes `--config FILE`.
    let mut plain = Vec::new();
    let mut options: Vec<&Opt> = Vec::new();
    let mut words = given.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let (name, inline) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let Some(option) = OPTIONS.iter().find(|option| option.is(name)) else {
            match word {
                "help" => return Ok(Command::Help),
                "version" => return Ok(Command::Version),
                _ if word.starts_with('-') => return Err(unknown(name)),
                _ => plain.push(word),
            }
            continue;
        };
        let Opt { word, value, .. } = option;
        plain.push(word);
        if value.is_empty() {
            match (*word, inline) {
                (_, Some(_)) => return Err(usage(format_args!("{word} takes no value"))),
                ("--help", _) => return Ok(Command::Help),
                ("--version", _) => return Ok(Command::Version),
                _ => {}
            }
        } else {
            let text = inline.or_else(|| words.next()).unwrap_or_default();
            if text.is_empty() {
                return Err(usage(format_args!("{word} needs a value: {word} {value}")));
            }
            if *value == SECONDS && seconds(text).is_none() {
                return Err(usage(format_args!("{word} `{}` is not a number of seconds", Shown(text))));
            }
            if options.iter().any(|before| before.word == *word) {
                return Err(usage(format_args!("{word} is given twice")));
            }
            plain.push(text);
        }
        options.push(option);
    }
    resolve(&plain, &options)
}

/// Finds the verb, and checks that the options fit it and each other.
fn resolve(plain: &[&str], options: &[&Opt]) -> Result<Command, Error> {
    // The words are checked already; what argh may still refuse it says on its first line.
    let mut arguments = Arguments::from_args(&["paraglider"], plain)
        .map_err(|early| usage(format_args!("{}", Shown(early.output.lines().next().unwrap_or_default()))))?;
    let words: Vec<&str> = VERBS.iter().map(|verb| verb.word).collect();
    let word = match std::mem::take(&mut arguments.verb).as_slice() {
        [word] => word.to_ascii_lowercase(),
        [] => return Err(usage(format_args!("the verb is missing: {}", words.join(", ")))),
        [_, more, ..] => return Err(usage(format_args!("unexpected argument `{}`", Shown(more)))),
    };
    let at = one_of("unknown verb", &words, &word)?;
    for Opt { word: option, verbs, .. } in options {
        if let Some(owner) = verbs.first().filter(|_| !verbs.contains(&word.as_str())) {
            return Err(usage(format_args!("{option} belongs to {owner}")));
        }
    }
    for (one, other) in EXCLUSIVE {
        if [one, other].iter().all(|word| options.iter().any(|option| option.word == *word)) {
            return Err(usage(format_args!("{one} and {other} exclude each other")));
        }
    }
    match VERBS.get(at) {
        Some(verb) => Ok(Command::Run(verb, arguments)),
        None => Ok(Command::Help),
    }
}

impl Opt {
    /// Whether it is spelt like this; the Go original has one dash where we have two.
    fn is(&self, name: &str) -> bool {
        name == self.word || Some(name) == self.word.strip_prefix('-') || !name.is_empty() && name == self.short
    }
}

fn seconds(text: &str) -> Option<u32> {
    number(text, u32::MAX.into()).map(|seconds| seconds as u32)
}

fn unknown(name: &str) -> Error {
    let words: Vec<&str> = OPTIONS.iter().map(|option| option.word).collect();
    let name = name.trim_start_matches('-');
    match nearest(&format!("--{name}"), &words).filter(|_| !name.is_empty()) {
        Some(word) => Error::usage(format_args!("unknown option `-{}`; did you mean `{word}`?", Shown(name))),
        None => usage(format_args!("unknown option `-{}`", Shown(name))),
    }
}

fn usage(what: fmt::Arguments<'_>) -> Error {
    Error::usage(what).and("see paraglider --help")
}

/// What `--help` prints.
pub fn help() -> String {
    let mut out = "Usage: paraglider [--config FILE] [-v] VERB\n\n\
                   Balances TCP connections over backends with iptables rules; only `watch` stays as a process.\n\n\
                   Verbs:\n"
        .to_owned();
    for verb in VERBS.iter().filter(|verb| !verb.help.is_empty()) {
        row(&mut out, &["  ", verb.word], 11, verb.help);
        for option in OPTIONS.iter().filter(|option| option.verbs.first() == Some(&verb.word)) {
            row(&mut out, &["             ", option.word, " ", option.value], 31, option.help);
        }
    }
    out.push_str("\nOptions:\n");
    for option in OPTIONS.iter().filter(|option| option.verbs.is_empty()) {
        let comma = if option.short.is_empty() { "" } else { ", " };
        row(&mut out, &["  ", option.short, comma, option.word, " ", option.value], 21, option.help);
    }
    out.push_str(
        "\nExit status: 0 done; 1 the system refused or failed; 2 wrong usage or config.\n\
         status: 0 in force, 1 not as in the config, 3 not in force. check: 1 it would not work.\n",
    );
    out
}

/// A line with `help` in column `width`.
fn row(out: &mut String, name: &[&str], width: usize, help: &str) {
    let mut name = name.concat();
    while name.len() < width {
        name.push(' ');
    }
    out.extend([name.as_str(), help, "\n"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verb and the arguments, or the message.
    fn parsed(line: &str) -> Result<(&'static str, Arguments), String> {
        match parse(line.split_whitespace().map(OsString::from).collect()) {
            Ok(Command::Run(verb, arguments)) => Ok((verb.word, arguments)),
            Ok(Command::Help) => Err("help".into()),
            Ok(Command::Version) => Err("version".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What is given where nothing is.
    fn nothing() -> Arguments {
        Arguments::from_args(&["paraglider"], &[]).unwrap()
    }

    #[test]
    fn every_spelling_of_the_config_is_understood() {
        for (line, verb) in [
            ("-config x.yaml start", "start"),
            ("-config=x.yaml start", "start"),
            ("--config x.yaml start", "start"),
            ("--config=x.yaml start", "start"),
            ("-c x.yaml START", "start"),
            ("Reload --config x.yaml", "reload"),
            ("restart -c=x.yaml", "restart"),
        ] {
            assert_eq!(parsed(line), Ok((verb, Arguments { config: "x.yaml".into(), ..nothing() })), "{line}");
        }
        assert_eq!(parsed("start"), Ok(("start", nothing())));
        assert_eq!(nothing().config, DEFAULT_CONFIG);
    }

    #[test]
    fn verbs_have_their_own_options() {
        for (line, verb, arguments) in [
            ("start --again", "start", Arguments { again: true, ..nothing() }),
            ("stop --drain 30", "stop", Arguments { drain: Some("30".into()), ..nothing() }),
            ("stop -drain=4294967295", "stop", Arguments { drain: Some("4294967295".into()), ..nothing() }),
            ("status --json -v", "status", Arguments { json: true, verbose: true, ..nothing() }),
            ("-v -v status", "status", Arguments { verbose: true, ..nothing() }),
            ("status -prometheus", "status", Arguments { prometheus: true, ..nothing() }),
            ("reload --drop-removed", "reload", Arguments { drop_removed: true, ..nothing() }),
            ("restart --drop-removed", "restart", Arguments { drop_removed: true, ..nothing() }),
            ("watch --stop-on-exit", "watch", Arguments { stop_on_exit: true, ..nothing() }),
            ("watch --needed", "watch", Arguments { needed: true, ..nothing() }),
            ("print --ipv6", "print", Arguments { ipv6: true, ..nothing() }),
        ] {
            assert_eq!(parsed(line), Ok((verb, arguments)), "{line}");
        }
    }

    #[test]
    fn help_and_version_are_options_and_words() {
        for line in ["help", "-h", "--help", "-help", "start --help", "a b c -h", "start help", "a b c help"] {
            assert_eq!(parsed(line), Err("help".into()), "{line}");
        }
        for line in ["version", "--version", "-version", "-v version"] {
            assert_eq!(parsed(line), Err("version".into()), "{line}");
        }
    }

    #[test]
    fn the_value_of_an_option_is_only_a_value() {
        for value in ["help", "version", "-h", "stop", "--json", "-c"] {
            let line = format!("--config {value} start");
            assert_eq!(parsed(&line), Ok(("start", Arguments { config: value.into(), ..nothing() })), "{line}");
        }
    }

    #[test]
    fn wrong_usage_gets_a_sentence() {
        for (line, why) in [
            ("", "the verb is missing: start, stop"),
            ("strat", "unknown verb `strat`; did you mean `start`?"),
            ("stat", "did you mean `status`?"),
            ("frobnicate", "unknown verb `frobnicate`; allowed: start, stop"),
            ("start stop", "unexpected argument `stop`"),
            ("start --json", "--json belongs to status"),
            ("start --ipv6", "--ipv6 belongs to print"),
            ("start --drop-removed", "--drop-removed belongs to reload"),
            ("start --stop-on-exit", "--stop-on-exit belongs to watch"),
            ("start --needed", "--needed belongs to watch"),
            ("reload --again", "--again belongs to start"),
            ("status --json --prometheus", "--json and --prometheus exclude each other"),
            ("watch --needed --stop-on-exit", "--needed and --stop-on-exit exclude each other"),
            ("start --drain 3", "--drain belongs to stop"),
            ("stop --drain x", "--drain `x` is not a number of seconds"),
            ("stop --drain -3", "`-3` is not a number of seconds"),
            ("stop --drain 4294967296", "`4294967296` is not a number of seconds"),
            ("stop --drain", "--drain needs a value: --drain SECONDS"),
            ("start --conf x", "unknown option `-conf`; did you mean `--config`?"),
            ("start --config", "--config needs a value: --config FILE"),
            ("start -config=", "--config needs a value: --config FILE"),
            ("-c a -c b start", "--config is given twice"),
            ("status --json=1", "--json takes no value"),
            ("start -x", "unknown option `-x`"),
            ("start -vv", "unknown option `-vv`"),
            ("start -", "unknown option `-`"),
        ] {
            let said = parsed(line).unwrap_err();
            assert!(said.contains(why), "{line}: {said}");
            assert!(
                !said.contains('\n') && said.ends_with("; see paraglider --help") || said.contains("unknown"),
                "{line}: {said}"
            );
        }
    }

    #[test]
    fn the_help_fits_a_screen() {
        let help = help();
        assert!(help.lines().count() <= 30, "{help}");
        assert!(help.lines().all(|line| line.len() <= 100 && line.trim_end() == line), "{help}");
        assert!(help.contains(DEFAULT_CONFIG));
    }

    /// argh's table and ours are the same, and each option belongs to a verb that there is.
    #[test]
    fn each_option_is_known_to_argh() {
        for option in &OPTIONS {
            assert!(option.verbs.iter().all(|word| VERBS.iter().any(|verb| verb.word == *word)), "{}", option.word);
            if ["--help", "--version"].contains(&option.word) {
                continue;
            }
            let words = if option.value.is_empty() { vec![option.word] } else { vec![option.word, "7"] };
            assert!(Arguments::from_args(&["paraglider"], &words).is_ok(), "{}", option.word);
        }
    }
}
