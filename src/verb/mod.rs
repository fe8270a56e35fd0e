//! One small file per verb. Results go into `out`, which main prints; all else goes through `log`.

mod check;
mod print;
mod start;
mod status;
mod stop;

use crate::cli::Verb;
use crate::error::{Error, Exit};

/// Does it.
pub fn run(verb: Verb, config: &str, out: &mut String) -> Result<Exit, Error> {
    match verb {
        Verb::Start => start::run(config),
        Verb::Stop { drain } => stop::run(drain),
        Verb::Status { json } => status::run(config, json, out),
        Verb::Check => check::run(config, out),
        Verb::Print { ipv6 } => print::run(config, ipv6, out),
    }
}
