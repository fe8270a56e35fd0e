//! One table of verbs and one of options.
//!
//! The parser, `--help` and the tests of the documentation read these tables, so a verb is added in one place. An option is
//! added here and in [`Arguments`], where argh puts it.

use argh::FromArgs;

use crate::error::{Error, Exit};
use crate::text::number;
use crate::verb::status::{self, Format};
use crate::verb::{check, print, start, stop, watch};

/// The config file that is read without `--config`.
pub const DEFAULT_CONFIG: &str = "/etc/paraglider/glider.yaml";

/// A verb of the command line.
pub struct Verb {
    /// As it is typed, in lower case.
    pub word: &'static str,
    /// Its line of `--help`; empty where the line of another verb names it.
    pub help: &'static str,
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
        help: "the rules that start would put in force, for iptables-restore --noflush or for nft",
        run: |given, out| print::run(&given.config, given.engine.as_deref(), given.ipv6, out),
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
    pub short: &'static str,
    /// What its value is called; empty for an option without a value.
    pub value: &'static str,
    /// The verbs that have it, the one whose help lists it first; empty: all verbs.
    pub verbs: &'static [&'static str],
    /// Its line of `--help`; empty where the line of another option names it.
    pub help: &'static str,
}

/// All options, in the order of `--help`.
pub static OPTIONS: [Opt; 13] = [
    Opt {
        word: "--again",
        short: "",
        value: "",
        verbs: &["start", "watch"],
        help: "put back in force what the last start put there; also of watch",
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
        help: "only tell: exit status 0 if the config needs a watch, else 1",
    },
    Opt { word: "--json", short: "", value: "", verbs: &["status"], help: "as JSON" },
    Opt { word: "--prometheus", short: "", value: "", verbs: &["status"], help: "as Prometheus reads it" },
    Opt {
        word: "--engine",
        short: "",
        value: ENGINE,
        verbs: &["print"],
        help: "of iptables or nftables, instead of the engine that start would use",
    },
    Opt { word: "--ipv6", short: "", value: "", verbs: &["print"], help: "the rules for ip6tables-restore" },
    Opt { word: "--config", short: "-c", value: "FILE", verbs: &[], help: "default: /etc/paraglider/glider.yaml" },
    Opt {
        word: "--verbose",
        short: "-v",
        value: "",
        verbs: &[],
        help: "show every command that is run, and its input",
    },
    Opt { word: "--version", short: "", value: "", verbs: &[], help: "" },
    Opt { word: "--help", short: "-h", value: "", verbs: &[], help: "print this; --version the version" },
];

/// The value of an option that is a number of seconds.
pub const SECONDS: &str = "SECONDS";

/// The value of an option that is the name of an engine.
pub const ENGINE: &str = "ENGINE";

/// Options of which only one may be given.
pub const EXCLUSIVE: [(&str, &str); 3] =
    [("--json", "--prometheus"), ("--needed", "--stop-on-exit"), ("--needed", "--again")];

/// The command line as argh reads it. A field for each of [`OPTIONS`].
#[derive(Debug, PartialEq, Eq, FromArgs)]
/// Balances connections.
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
    /// the engine whose rules are printed
    #[argh(option)]
    pub engine: Option<String>,
    /// the IPv6 rules
    #[argh(switch)]
    pub ipv6: bool,
    /// the verb
    #[argh(positional)]
    pub verb: Vec<String>,
}

impl Opt {
    /// Whether it is spelt like this; the Go original has one dash where we have two.
    pub fn is(&self, name: &str) -> bool {
        name == self.word || Some(name) == self.word.strip_prefix('-') || !name.is_empty() && name == self.short
    }
}

/// Reads a number of seconds.
pub fn seconds(text: &str) -> Option<u32> {
    number(text, u32::MAX.into()).map(|seconds| seconds as u32)
}
