//! What is told to people goes through `log` under the program's name, not under that of the module that says it.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

pub use log::Level;
use log::{LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

use crate::sys::process::memory;

/// Sends what is said to stderr.
pub fn to_stderr(level: LevelFilter) {
    log::set_max_level(level);
    // It fails only if another logger was there before.
    let _ = log::set_boxed_logger(Box::new(Steady(SimpleLogger::new().with_level(level))));
}

/// simple_logger, which panics when stderr cannot be written, because the disk is full or the reader has gone away. That
/// must not happen between two steps of a change; so it writes into memory, and what then cannot be written is lost.
struct Steady(SimpleLogger);

impl Log for Steady {
    fn enabled(&self, metadata: &Metadata) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record) {
        if let Some((mut stderr, mut memory)) = diverted(|| self.0.log(record)) {
            let text = memory.rewind().and_then(|()| crate::sys::file::content(memory, usize::MAX));
            let _ = text.and_then(|text| stderr.write_all(&text));
        }
    }

    fn flush(&self) {}
}

/// Does something while stderr is a file in memory; returns the true stderr and that file.
fn diverted(say: impl FnOnce()) -> Option<(File, File)> {
    let memory = memory().ok()?;
    let stderr = duplicate(libc::STDERR_FILENO).ok()?;
    // SAFETY: both are open. There is one thread that speaks.
    unsafe { libc::dup2(memory.as_raw_fd(), libc::STDERR_FILENO) };
    say();
    // SAFETY: as before.
    unsafe { libc::dup2(stderr.as_raw_fd(), libc::STDERR_FILENO) };
    Some((stderr, memory))
}

/// Another descriptor for an open file.
fn duplicate(fd: RawFd) -> io::Result<File> {
    // SAFETY: no memory is touched; the descriptor is new, checked, and the File's alone.
    unsafe {
        match libc::dup(fd) {
            -1 => Err(io::Error::last_os_error()),
            new => Ok(File::from_raw_fd(new)),
        }
    }
}

/// Writes a result to stdout. (The standard library's way has a buffer that ends with each line, and 1 KiB of the binary.)
pub fn result(text: &str) -> io::Result<()> {
    duplicate(libc::STDOUT_FILENO)?.write_all(text.as_bytes())
}

/// Says a sentence. The macros of `log` would write this out at every place.
pub fn sentence(level: Level, what: fmt::Arguments<'_>) {
    log::log!(target: "paraglider", level, "{what}");
}

/// A sentence about what was done.
macro_rules! info {
    ($($what:tt)*) => { $crate::sys::log::sentence($crate::sys::log::Level::Info, format_args!($($what)*)) };
}

/// A sentence about what may surprise.
macro_rules! warning {
    ($($what:tt)*) => { $crate::sys::log::sentence($crate::sys::log::Level::Warn, format_args!($($what)*)) };
}

/// What `-v` shows.
macro_rules! detail {
    ($($what:tt)*) => { $crate::sys::log::sentence($crate::sys::log::Level::Debug, format_args!($($what)*)) };
}

/// `1 backend`, `2 backends`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    let ending = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{ending}")
}

pub(crate) use {detail, info, warning};
