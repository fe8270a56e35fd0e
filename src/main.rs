//! Parse, log, run, exit.

use std::io::Write;
use std::process::ExitCode;

use log::LevelFilter;
use paraglider::cli::{self, Command};
use paraglider::error::{Error, Exit};
use paraglider::verb;

fn main() -> ExitCode {
    let command = cli::parse(std::env::args_os().skip(1));
    let verbose = matches!(command, Ok(Command::Run { verbose: true, .. }));
    let level = if verbose { LevelFilter::Debug } else { LevelFilter::Info };
    paraglider::say::to_stderr(level);

    let exit = command.and_then(run).unwrap_or_else(|error| {
        log::error!(target: "paraglider", "{error}");
        error.exit
    });
    ExitCode::from(exit as u8)
}

fn run(command: Command) -> Result<Exit, Error> {
    let mut out = String::new();
    let exit = match command {
        Command::Help => {
            out.push_str(cli::HELP);
            Exit::Done
        }
        Command::Version => {
            out.push_str(concat!("paraglider ", env!("CARGO_PKG_VERSION"), "\n"));
            Exit::Done
        }
        Command::Run { verb, config, .. } => verb::run(verb, &config, &mut out)?,
    };
    // A reader that has gone away, as `head` does, is no failure; a full disk is.
    match std::io::stdout().write_all(out.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::system(format!("cannot write the result: {error}")))
        }
        _ => Ok(exit),
    }
}
