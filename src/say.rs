//! What is told to people goes through `log` under the program's name, not under that of the module that says it.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd};

use log::{LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

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
            let mut text = Vec::new();
            if memory.rewind().and_then(|()| memory.read_to_end(&mut text)).is_ok() {
                let _ = stderr.write_all(&text);
            }
        }
    }

    fn flush(&self) {}
}

/// Does something while stderr is a file in memory; returns the true stderr and that file.
#[allow(unsafe_code)]
fn diverted(say: impl FnOnce()) -> Option<(File, File)> {
    // SAFETY: each descriptor is new, checked, and owned by one File from then on; the name is a C string.
    let (stderr, memory) = unsafe {
        let stderr = libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, 3);
        let memory = libc::memfd_create(c"said".as_ptr(), libc::MFD_CLOEXEC);
        if stderr < 0 || memory < 0 {
            return None;
        }
        (File::from_raw_fd(stderr), File::from_raw_fd(memory))
    };
    // SAFETY: both are open. There is one thread that speaks.
    unsafe { libc::dup2(memory.as_raw_fd(), libc::STDERR_FILENO) };
    say();
    // SAFETY: as before.
    unsafe { libc::dup2(stderr.as_raw_fd(), libc::STDERR_FILENO) };
    Some((stderr, memory))
}

/// A sentence about what was done.
macro_rules! info {
    ($($what:tt)*) => { log::info!(target: "paraglider", $($what)*) };
}

/// A sentence about what may surprise.
macro_rules! warning {
    ($($what:tt)*) => { log::warn!(target: "paraglider", $($what)*) };
}

/// What `-v` shows.
macro_rules! detail {
    ($($what:tt)*) => { log::debug!(target: "paraglider", $($what)*) };
}

/// `1 backend`, `2 backends`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    let ending = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{ending}")
}

pub(crate) use {detail, info, warning};
