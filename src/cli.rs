//! The command line. One table of verbs and one of options; the parser, `--help` and the tests of the documentation read
//! these tables, so a verb or an option is added in one place (and, for an option, in [`Arguments`], where argh puts it).

use std::ffi::OsString;
use std::fmt::{self, Write};

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
        run: |given, _| stop::run(given.drain),
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
    /// As it is typed, without dashes.
    pub word: &'static str,
    /// Its short form without the dash; empty where there is none.
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
        word: "again",
        short: "",
        value: "",
        verbs: &["start", "watch"],
        help: "put back in force what the last start put there",
    },
    Opt {
        word: "drain",
        short: "",
        value: SECONDS,
        verbs: &["stop"],
        help: "take no new connections, and wait for the established ones to end",
    },
    Opt {
        word: "drop-removed",
        short: "",
        value: "",
        verbs: &["reload", "restart"],
        help: "end the connections to backends that are no longer in the config",
    },
    Opt { word: "stop-on-exit", short: "", value: "", verbs: &["watch"], help: "remove the rules when it ends" },
    Opt {
        word: "needed",
        short: "",
        value: "",
        verbs: &["watch"],
        help: "only tell: exit status 0 if the config has `health:`, else 1",
    },
    Opt { word: "json", short: "", value: "", verbs: &["status"], help: "as JSON" },
    Opt { word: "prometheus", short: "", value: "", verbs: &["status"], help: "as Prometheus reads it" },
    Opt { word: "ipv6", short: "", value: "", verbs: &["print"], help: "the rules for ip6tables-restore" },
    Opt { word: "config", short: "c", value: "FILE", verbs: &[], help: "default: /etc/paraglider/glider.yaml" },
    Opt { word: "verbose", short: "v", value: "", verbs: &[], help: "show every command that is run, and its input" },
    Opt { word: "version", short: "", value: "", verbs: &[], help: "print the version" },
    Opt { word: "help", short: "h", value: "", verbs: &[], help: "print this" },
];

/// The value of an option that is a number of seconds.
const SECONDS: &str = "SECONDS";

/// Options of which only one may be given.
const EXCLUSIVE: [(&str, &str); 2] = [("json", "prometheus"), ("needed", "stop-on-exit")];

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
    pub drain: Option<u32>,
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
    let mut plain = Vec::new();
    let mut given: Vec<&Opt> = Vec::new();
    // The first error; `--help` behind it still prints the help.
    let mut wrong = None;
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let word = utf8(word)?;
        let (name, inline) = word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
        let known = option(name);
        match known.map_or(word.as_str(), |option| option.word) {
            "help" => return Ok(Command::Help),
            "version" => return Ok(Command::Version),
            _ => {}
        }
        let Some(option) = known else {
            if word.starts_with('-') {
                wrong.get_or_insert_with(|| unknown(name));
            } else {
                plain.push(word);
            }
            continue;
        };
        // One spelling of each option, its value behind it as a word: `-config=FILE` becomes `--config FILE`.
        plain.push(format!("--{}", option.word));
        if option.value.is_empty() {
            if inline.is_some() {
                wrong.get_or_insert_with(|| usage(format_args!("--{} takes no value", option.word)));
            }
        } else {
            let value = match inline {
                Some(value) => value.to_owned(),
                None => words.next().map_or(Ok(String::new()), utf8)?,
            };
            if let Err(error) = option.judge(&value, &given) {
                wrong.get_or_insert(error);
            }
            plain.push(value);
        }
        given.push(option);
    }
    match wrong {
        Some(error) => Err(error),
        None => resolve(&plain, &given),
    }
}

/// Finds the verb, and checks that the options fit it and each other.
fn resolve(plain: &[String], given: &[&Opt]) -> Result<Command, Error> {
    let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
    // The words are checked already; what argh may still refuse it says on its first line.
    let mut arguments = Arguments::from_args(&["paraglider"], &plain).map_err(|early| {
        usage(format_args!("{}", Shown(early.output.lines().next().unwrap_or_default().trim_end_matches('.'))))
    })?;
    let words = VERBS.each_ref().map(|verb| verb.word);
    let word = match std::mem::take(&mut arguments.verb).as_slice() {
        [word] => word.to_ascii_lowercase(),
        [] => return Err(usage(format_args!("the verb is missing: {}", words.join(", ")))),
        [_, more, ..] => return Err(usage(format_args!("unexpected argument `{}`", Shown(more)))),
    };
    let at = one_of("unknown verb", &words, &word).map_err(hinted)?;
    for option in given {
        if let Some(owner) = option.verbs.first().filter(|_| !option.verbs.contains(&word.as_str())) {
            return Err(usage(format_args!("--{} belongs to {owner}", option.word)));
        }
    }
    for (one, other) in EXCLUSIVE {
        let has = |word: &str| given.iter().any(|option| option.word == word);
        if has(one) && has(other) {
            return Err(usage(format_args!("--{one} and --{other} exclude each other")));
        }
    }
    match VERBS.get(at) {
        Some(verb) => Ok(Command::Run(verb, arguments)),
        None => Ok(Command::Help),
    }
}

/// The option that is spelt like this: `--word`, `-word` (as the Go original has it), or its short form.
fn option(name: &str) -> Option<&'static Opt> {
    let short = name.strip_prefix('-')?;
    let word = short.strip_prefix('-').unwrap_or(short);
    OPTIONS.iter().find(|option| option.word == word || !short.is_empty() && option.short == short)
}

impl Opt {
    /// Whether this can be its value, behind the options that were given before.
    fn judge(&self, value: &str, before: &[&Opt]) -> Result<(), Error> {
        let word = self.word;
        if value.is_empty() {
            return Err(usage(format_args!("--{word} needs a value: --{word} {}", self.value)));
        }
        if before.iter().any(|option| option.word == word) {
            return Err(usage(format_args!("--{word} is given twice")));
        }
        if self.value == SECONDS && number(value, u32::MAX.into()).is_none() {
            return Err(usage(format_args!("--{word} `{}` is not a number of seconds", Shown(value))));
        }
        Ok(())
    }
}

fn unknown(name: &str) -> Error {
    let shown = Shown(name);
    match nearest(name.trim_start_matches('-'), &OPTIONS.each_ref().map(|option| option.word)) {
        Some(word) => usage(format_args!("unknown option `{shown}`; did you mean `--{word}`?")),
        None => usage(format_args!("unknown option `{shown}`")),
    }
}

fn utf8(word: OsString) -> Result<String, Error> {
    word.into_string().map_err(|word| usage(format_args!("`{}` is not UTF-8", Shown(&word.to_string_lossy()))))
}

const HINT: &str = "see paraglider --help";

fn usage(what: fmt::Arguments<'_>) -> Error {
    hinted(Error::usage(what))
}

/// Says where the usage is explained, unless there is a suggestion already.
fn hinted(error: Error) -> Error {
    if error.to_string().ends_with('?') {
        return error;
    }
    error.and(HINT)
}

/// What `--help` prints.
pub fn help() -> String {
    let mut out = "Usage: paraglider [--config FILE] [-v] VERB\n\n\
                   Balances TCP connections over backends with iptables rules; only `watch` stays as a process.\n\n\
                   Verbs:\n"
        .to_owned();
    for Verb { word, help, .. } in VERBS.iter().filter(|verb| !verb.help.is_empty()) {
        let _ = writeln!(out, "  {word:8} {help}");
        for Opt { word, value, help, .. } in OPTIONS.iter().filter(|option| option.verbs.first() == Some(word)) {
            let spelling = format!("--{word} {value}");
            let _ = writeln!(out, "             {spelling:17} {help}");
        }
    }
    out.push_str("\nOptions:\n");
    for Opt { word, short, value, help, .. } in OPTIONS.iter().filter(|option| option.verbs.is_empty()) {
        let (dash, comma) = if short.is_empty() { ("", "") } else { ("-", ", ") };
        let spelling = format!("{dash}{short}{comma}--{word} {value}");
        let _ = writeln!(out, "  {spelling:18} {help}");
    }
    out.push_str(
        "\nExit status: 0 done; 1 the system refused or failed; 2 wrong usage or config.\n\
         status: 0 in force, 1 not as in the config, 3 not in force. check: 1 it would not work.\n",
    );
    out
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
            ("stop --drain 30", "stop", Arguments { drain: Some(30), ..nothing() }),
            ("stop -drain=4294967295", "stop", Arguments { drain: Some(u32::MAX), ..nothing() }),
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
        for line in ["help", "-h", "--help", "-help", "start --help", "--nonsense -h", "start help", "a b c help"] {
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
            ("start --conf x", "unknown option `--conf`; did you mean `--config`?"),
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
                !said.contains('\n') && said.ends_with("; see paraglider --help") != said.ends_with('?'),
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
            if ["help", "version"].contains(&option.word) {
                continue;
            }
            let name = format!("--{}", option.word);
            let words = if option.value.is_empty() { vec![name.as_str()] } else { vec![name.as_str(), "7"] };
            assert!(Arguments::from_args(&["paraglider"], &words).is_ok(), "{name}");
        }
    }
}
