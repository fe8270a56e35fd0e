//! Parse, log, run, exit.
#![no_main]

#[path = "sys/entry.rs"]
mod entry;

use std::ffi::OsString;

use ::log::LevelFilter;
use paraglider::cli::{self, Command};
use paraglider::error::{Error, Exit};
use paraglider::sys::log;

/// Runs the command line `words`, without the program's name; returns the exit status.
fn main(words: Vec<OsString>) -> i32 {
    let command = cli::parse(words);
    let verbose = matches!(&command, Ok(Command::Run(_, arguments)) if arguments.verbose);
    let level = if verbose { LevelFilter::Debug } else { LevelFilter::Info };
    log::to_stderr(level);

    let exit = command.and_then(run).unwrap_or_else(|error| {
        log::sentence(log::Level::Error, format_args!("{error}"));
        error.exit()
    });
    exit as i32
}

fn run(command: Command) -> Result<Exit, Error> {
    let mut out = String::new();
    let exit = match command {
        Command::Help => {
            out.push_str(&cli::help());
            Exit::Done
        }
        Command::Version => {
            out.push_str(concat!("paraglider ", env!("CARGO_PKG_VERSION"), "\n"));
            Exit::Done
        }
        Command::Run(verb, arguments) => (verb.run)(&arguments, &mut out)?,
    };
    // A closed pipe (`| head`) is not a failure; a full disk is.
    match log::result(&out) {
        Err(error) if error.raw_os_error() != Some(libc::EPIPE) => {
            Err(Error::system(format_args!("cannot write the result: {error}")))
        }
        _ => Ok(exit),
    }
}
