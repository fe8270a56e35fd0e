//! Sentences for people: through `log`, under the program's name instead of the module's.

use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

pub use log::Level;
use log::{LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

use crate::sys::file;
use crate::sys::poll;
use crate::sys::spawn::variable;

/// How long stderr may refuse to take anything before a sentence is dropped, in milliseconds. A serial console of 9600
/// baud takes 256 bytes in 270 ms.
const PATIENCE: u64 = 400;

/// How many bytes are written at a time. A pipe that poll(2) calls writable takes PIPE_BUF bytes without blocking
/// (pipe(7)), and a serial line, whose buffer has 4096, takes what is left beyond 256 (n_tty.c).
const PIPE: usize = 4096;
const TERMINAL: usize = 256;

/// stderr took nothing for so long; the next sentence does not wait at all.
static STUCK: AtomicBool = AtomicBool::new(false);

/// Who reads what is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// A person.
    Terminal,
    /// systemd's journal, which takes the level from `<6>` in front (sd-daemon(3)) and knows the program.
    Journal,
    /// procd, which logs stdout at `daemon.info`, stderr at `daemon.err`, and knows the program; its service says so.
    Procd,
    /// A file, or another program.
    Other,
}

/// What the service of procd sets, to `procd`.
const FORMAT: &CStr = c"PARAGLIDER_LOG";

/// What systemd sets: the device and the inode of the stream to the journal, which our stderr may be (systemd.exec(5)).
const JOURNAL: &CStr = c"JOURNAL_STREAM";

impl Reader {
    fn of_stderr() -> Self {
        // SAFETY: no memory is touched.
        if unsafe { libc::isatty(libc::STDERR_FILENO) } == 1 {
            return Reader::Terminal;
        }
        if variable(FORMAT).is_some_and(|format| format == "procd") {
            return Reader::Procd;
        }
        let own = file::stat_of(libc::STDERR_FILENO).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
        match (own, variable(JOURNAL)) {
            (Ok(own), Some(stream)) if stream == own => Reader::Journal,
            _ => Reader::Other,
        }
    }

    /// A sentence as this reader has it.
    fn line(self, level: Level, what: &fmt::Arguments<'_>) -> String {
        match (self, level) {
            // As syslog(3) numbers them: an error is 3.
            (Reader::Journal, level) => {
                let number = match level {
                    Level::Error => 3,
                    Level::Warn => 4,
                    Level::Info => 6,
                    Level::Debug | Level::Trace => 7,
                };
                format!("<{number}>{what}\n")
            }
            (Reader::Terminal | Reader::Procd, Level::Error) => format!("error: {what}\n"),
            (Reader::Terminal | Reader::Procd, Level::Warn) => format!("warning: {what}\n"),
            (Reader::Terminal | Reader::Procd, _) => format!("{what}\n"),
            // What simple_logger makes of a record.
            (Reader::Other, _) => format!("{level:<5} [paraglider] {what}\n"),
        }
    }
}

/// Whether a service manager reads what is said. It starts the `watch` of a config that needs one.
pub fn is_of_service() -> bool {
    matches!(Reader::of_stderr(), Reader::Procd | Reader::Journal)
}

/// Sends what is said to stderr.
pub fn to_stderr(level: LevelFilter) {
    log::set_max_level(level);
    let simple = SimpleLogger::new().with_level(level);
    // It fails only if another logger was there before.
    let _ = log::set_boxed_logger(Box::new(Steady { simple, reader: Reader::of_stderr() }));
}

/// simple_logger, but it never panics and never blocks. By itself it does both, when stderr is a full disk or a pipe that
/// nobody reads; in the middle of a change, with the lock held, it may do neither. So it writes into a pipe of ours, and
/// what stderr then does not take is lost.
struct Steady {
    simple: SimpleLogger,
    reader: Reader,
}

impl Log for Steady {
    fn enabled(&self, metadata: &Metadata) -> bool {
        self.simple.enabled(metadata)
    }

    fn log(&self, record: &Record) {
        // simple_logger's own text is needed where there is no descriptor for a pipe, and for what a pipe may not hold: the
        // input of a program, which `-v` shows.
        let mut text = self.reader.line(record.level(), record.args()).into_bytes();
        if self.reader == Reader::Other && text.len() <= PIPE {
            text = diverted(&mut || self.simple.log(record)).unwrap_or(text);
        }
        let to = match (self.reader, record.level()) {
            (Reader::Procd, Level::Info | Level::Debug | Level::Trace) => libc::STDOUT_FILENO,
            _ => libc::STDERR_FILENO,
        };
        let most = if STUCK.load(Ordering::Relaxed) { 0 } else { PATIENCE };
        let written = write(to, &text, most);
        STUCK.store(written.is_err_and(|error| error.raw_os_error() == Some(libc::ETIMEDOUT)), Ordering::Relaxed);
    }

    fn flush(&self) {}
}

/// What `say` writes to stderr, at most [`PIPE`] bytes. Any pipe takes as many without blocking; more may block for ever.
fn diverted(say: &mut dyn FnMut()) -> io::Result<Vec<u8>> {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two descriptors. Those and the one of dup(2) are new, and owned by the Files alone.
    let (stderr, [mut reader, writer]) = unsafe {
        let stderr = file::owned(libc::dup(libc::STDERR_FILENO))?;
        file::checked(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC))?;
        (stderr, ends.map(|end| File::from_raw_fd(end)))
    };
    replace_stderr(&writer)?;
    say();
    replace_stderr(&stderr)?;
    // Now nobody can write, so reading does not wait.
    drop(writer);
    let mut text = Vec::new();
    file::read_on(&mut reader, &mut text)?;
    Ok(text)
}

/// Makes stderr another descriptor of an open file (dup2(2)).
fn replace_stderr(by: &File) -> io::Result<()> {
    loop {
        // SAFETY: no memory is touched. No other thread speaks meanwhile: there is none.
        match file::checked(unsafe { libc::dup2(by.as_raw_fd(), libc::STDERR_FILENO) }) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => {}
            done => return done,
        }
    }
}

/// Writes a result to stdout. Waits for a reader without a limit: a pager reads when its user does, and no lock is held.
pub fn result(text: &str) -> io::Result<()> {
    write(libc::STDOUT_FILENO, text.as_bytes(), u64::MAX)
}

/// Writes all, or fails with ETIMEDOUT when the descriptor takes nothing for `patience` milliseconds. It is not switched to
/// O_NONBLOCK for this: the other processes that have this open file would get EAGAIN.
fn write(fd: RawFd, mut bytes: &[u8], patience: u64) -> io::Result<()> {
    // SAFETY: no memory is touched.
    let most = if unsafe { libc::isatty(fd) } == 1 { TERMINAL } else { PIPE };
    let mut since = poll::clock();
    while !bytes.is_empty() {
        let mut events = [poll::pollfd(fd, libc::POLLOUT)];
        poll::wait(&mut events, patience);
        let (part, _) = bytes.split_at(bytes.len().min(most));
        if events.iter().any(|event| event.revents != 0) {
            // SAFETY: the kernel reads `part.len()` bytes.
            let written = unsafe { libc::write(fd, part.as_ptr().cast(), part.len()) };
            if let Ok(written @ 1..) = usize::try_from(written) {
                (bytes, since) = (bytes.get(written..).unwrap_or_default(), poll::clock());
                continue;
            }
            let error = io::Error::last_os_error();
            if written < 0 && !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
                return Err(error);
            }
            // Another process made it O_NONBLOCK, and has just filled it.
            poll::pause(1);
        }
        if poll::clock() - since >= patience {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
    }
    Ok(())
}

/// Says a sentence. The macros of `log` would put this code at every place.
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
