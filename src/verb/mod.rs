//! One small file per verb. Results go into `out`, which main prints; all else goes through `log`.

mod check;
mod print;
mod start;
pub mod status;
mod stop;
mod watch;

use crate::cli::Verb;
use crate::error::{Error, Exit};

/// Does it.
pub fn run(verb: Verb, config: &str, out: &mut String) -> Result<Exit, Error> {
    match verb {
        Verb::Start { drop_removed } => start::run(config, false, drop_removed),
        Verb::Watch { stop_on_exit } => watch::run(config, false, stop_on_exit),
        Verb::Stop { drain } => stop::run(drain),
        Verb::Status(format) => status::run(config, format, out),
        Verb::Check => check::run(config, out),
        Verb::Print { ipv6 } => print::run(config, ipv6, out),
    }
}
