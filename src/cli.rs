//! The command line: from the arguments to a verb of the table and its options.

mod help;
mod table;

use std::ffi::OsString;
use std::fmt;

use argh::FromArgs;

pub use self::help::help;
use self::table::{seconds, ENGINE, EXCLUSIVE, SECONDS};
pub use self::table::{Arguments, Opt, Verb, DEFAULT_CONFIG, OPTIONS, VERBS};
use crate::error::Error;
use crate::text::{nearest, one_of, Shown};

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
            if *value == ENGINE {
                one_of("unknown engine", &["iptables", "nftables"], text)?;
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

fn unknown(name: &str) -> Error {
    let words: Vec<&str> = OPTIONS.iter().map(|option| option.word).collect();
    let shown = Shown(name);
    let bare = name.trim_start_matches('-');
    match nearest(&format!("--{bare}"), &words).filter(|_| !bare.is_empty()) {
        Some(word) => Error::usage(format_args!("unknown option `{shown}`; did you mean `{word}`?")),
        None => usage(format_args!("unknown option `{shown}`")),
    }
}

fn usage(what: fmt::Arguments<'_>) -> Error {
    Error::usage(what).and("see paraglider --help")
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
            ("watch --again --stop-on-exit", "watch", Arguments { again: true, stop_on_exit: true, ..nothing() }),
            ("watch --needed", "watch", Arguments { needed: true, ..nothing() }),
            ("print --ipv6", "print", Arguments { ipv6: true, ..nothing() }),
            ("print --engine nftables", "print", Arguments { engine: Some("nftables".into()), ..nothing() }),
            (
                "print -engine=iptables --ipv6",
                "print",
                Arguments { engine: Some("iptables".into()), ipv6: true, ..nothing() },
            ),
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
            ("start --engine nftables", "--engine belongs to print"),
            ("print --engine", "--engine needs a value: --engine ENGINE"),
            ("print --engine nft", "unknown engine `nft`; did you mean `nftables`?"),
            ("print --engine auto", "unknown engine `auto`; allowed: iptables, nftables"),
            ("print --engine iptables-nft", "unknown engine `iptables-nft`; allowed: iptables, nftables"),
            ("print --engine iptables --engine nftables", "--engine is given twice"),
            ("start --drop-removed", "--drop-removed belongs to reload"),
            ("start --stop-on-exit", "--stop-on-exit belongs to watch"),
            ("start --needed", "--needed belongs to watch"),
            ("reload --again", "--again belongs to start"),
            ("status --json --prometheus", "--json and --prometheus exclude each other"),
            ("watch --needed --stop-on-exit", "--needed and --stop-on-exit exclude each other"),
            ("watch --again --needed", "--needed and --again exclude each other"),
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
