//! The one error type: a sentence that says what is wrong, where, and what to do; and the exit status for it.

use std::fmt;

/// The exit status. The numbers are part of the contract of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The system refused or failed; `status`: the rules in force are not those of the config; `check`: the config would
    /// not work on this host.
    Failed = 1,
    /// Wrong usage or wrong config.
    Usage = 2,
    /// `status` only: nothing is in force (LSB Core, init script actions: 3 is "program is not running").
    NotInForce = 3,
    /// `status` only: it cannot be told (LSB: "program or service status is unknown").
    Unknown = 4,
}

/// What went wrong, as a whole sentence without a full stop. (Boxed: many functions return it, and one pointer is cheap.)
#[derive(Debug)]
pub struct Error(Box<(Exit, String)>);

impl Error {
    /// A wrong command line or a wrong config: [`Exit::Usage`].
    pub fn usage(sentence: fmt::Arguments<'_>) -> Self {
        Error(Box::new((Exit::Usage, sentence.to_string())))
    }

    /// The system refused or failed: [`Exit::Failed`].
    pub fn system(sentence: fmt::Arguments<'_>) -> Self {
        Error(Box::new((Exit::Failed, sentence.to_string())))
    }

    /// The same error once more.
    #[must_use]
    pub fn again(&self) -> Self {
        Error(self.0.clone())
    }

    /// The exit status for it.
    pub fn exit(&self) -> Exit {
        self.0 .0
    }

    /// The same error with `; more` at its end.
    #[must_use]
    pub fn and(mut self, more: &str) -> Self {
        self.0 .1.push_str("; ");
        self.0 .1.push_str(more);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0 .1)
    }
}

/// `Err` with a sentence about what the user gave.
macro_rules! refuse {
    ($($what:tt)*) => { Err($crate::error::Error::usage(format_args!($($what)*))) };
}

/// `Err` with a sentence about what the system did.
macro_rules! fail {
    ($($what:tt)*) => { Err($crate::error::Error::system(format_args!($($what)*))) };
}

pub(crate) use {fail, refuse};

/// The system's message without the error number: `No such file or directory (os error 2)` loses its brackets.
pub fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.rsplit_once('(').map_or(text.as_str(), |(sentence, _)| sentence).trim_ascii_end().to_owned()
}
