//! Other programs: finding one, running it, and what it said.
//!
//! The standard library's `Command` would take 25 KiB of the binary: it reads two pipes at once and needs a thread to
//! feed a third. Here all three are files in memory, so neither side waits for the other.

use std::ffi::CString;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Seek, Write as _};
use std::os::fd::RawFd;

use crate::error::{fail, plain, Error};
use crate::sys::poll::clock;
use crate::sys::signal::{self, Deaths};
pub use crate::sys::spawn::variable;
use crate::sys::{file, log, spawn};
use crate::text::write_escaped;

/// How long a program may run, in milliseconds. `iptables-restore` waits 10 s for the xtables lock; on the slowest board
/// the largest config takes it less than 10 s more.
const PATIENCE: u64 = 60_000;

/// How long a program may run on after SIGTERM or SIGINT has come, in milliseconds: a change that is under way ends.
const GRACE: u64 = 3_000;

/// How long a killed program is waited for, in milliseconds. One that the kernel holds in an uninterruptible call cannot
/// be killed until that call returns.
const BURIAL: u64 = 1_000;

/// How many characters of a program's words are shown.
const SHOWN: usize = 200;

/// Finds a program on PATH, and in the directories of system programs, which PATH may lack (a bare `su`, some cron
/// daemons).
pub fn find(name: &str) -> Option<String> {
    let mut path = variable(c"PATH").unwrap_or_default();
    path.push_str(":/usr/sbin:/sbin:/usr/local/sbin");
    for dir in path.split(':') {
        let path = format!("{dir}/{name}");
        if dir.starts_with('/') && file::is_program(&path) {
            return Some(path);
        }
    }
    None
}

/// How a program has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

/// What a program has left behind.
#[derive(Debug)]
pub struct Output {
    /// How it has ended.
    pub end: End,
    /// What it wrote to stdout.
    pub out: String,
    /// What it wrote to stderr.
    pub err: String,
}

impl Output {
    /// Whether it ended with status 0.
    pub fn succeeded(&self) -> bool {
        self.end == End::Status(0)
    }

    /// Why it failed, by its own words: stderr on one line, without control characters, of at most 200 characters.
    pub fn said(&self) -> Said<'_> {
        Said(self)
    }
}

/// See [`Output::said`].
pub struct Said<'a>(&'a Output);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Output { end, err, .. } = self.0;
        let lines = err.lines().map(str::trim_ascii).filter(|line| !line.is_empty() && !line.starts_with("Try `"));
        let mut room = SHOWN;
        for line in lines {
            if room < SHOWN {
                f.write_str("; ")?;
            }
            for c in line.chars() {
                if room == 0 {
                    return f.write_char('…');
                }
                room -= 1;
                write_escaped(f, c)?;
            }
        }
        match end {
            End::Signal(signal) if room < SHOWN => write!(f, "; ended by signal {signal}"),
            End::Signal(signal) => write!(f, "it was ended by signal {signal}"),
            End::Status(_) if room < SHOWN => Ok(()),
            End::Status(_) => f.write_str("it said nothing"),
        }
    }
}

/// A program that was started. If it is dropped before it has ended, it is killed.
#[derive(Debug)]
pub struct Child {
    path: String,
    /// When its time is over, by [`clock`].
    until: u64,
    /// 0 when it has ended and its status was read.
    process: libc::pid_t,
    out: File,
    err: File,
}

/// Starts a program with `input` on its stdin. It speaks English, whatever the user's language is, since we look for
/// words in what it says.
pub fn start(path: &str, arguments: &[&str], input: &str) -> Result<Child, Error> {
    log::detail!("run {path} {}", arguments.join(" "));
    if !input.is_empty() {
        log::detail!("with\n{input}");
    }
    started(path, arguments, input).map_err(|error| Error::system(format_args!("cannot run {path}: {}", plain(&error))))
}

fn started(path: &str, arguments: &[&str], input: &str) -> io::Result<Child> {
    let (mut stdin, out, err) = (file::memory()?, file::memory()?, file::memory()?);
    stdin.write_all(input.as_bytes())?;
    stdin.rewind()?;
    let mut words = vec![CString::new(path)?];
    for word in arguments {
        words.push(CString::new(*word)?);
    }
    let process = spawn::spawn(&words, [&stdin, &out, &err])?;
    Ok(Child { path: path.to_owned(), until: clock() + PATIENCE, process, out, err })
}

/// Starts a program and waits for its end.
pub fn run(path: &str, arguments: &[&str], input: &str) -> Result<Output, Error> {
    start(path, arguments, input)?.wait()
}

impl Child {
    /// Waits for its end, at most until 60 s after its start; then kills it, which is an error. So several that were
    /// started at once and all hang take a minute together. If [`signal::ending`] tells that we are to end, it gets 3 s
    /// more.
    pub fn wait(mut self) -> Result<Output, Error> {
        let why = match self.output() {
            Ok(Some(output)) => return Ok(output),
            Ok(None) if clock() < self.until => "killed, since we were told to end".to_owned(),
            Ok(None) => format!("killed, since it did not end within {} s", PATIENCE / 1000),
            Err(error) => plain(&error),
        };
        fail!("{}: {why}", self.path)
    }

    fn output(&mut self) -> io::Result<Option<Output>> {
        let Some(end) = self.end(self.until, signal::ending())? else { return Ok(None) };
        Ok(Some(Output { end, out: text(&mut self.out)?, err: text(&mut self.err)? }))
    }

    /// How it has ended; `None` if it has not by that time, or [`GRACE`] after `ending` became readable.
    fn end(&mut self, mut until: u64, mut ending: RawFd) -> io::Result<Option<End>> {
        let deaths = Deaths::new();
        loop {
            let mut status = 0;
            // SAFETY: the kernel writes one integer.
            match unsafe { libc::waitpid(self.process, &mut status, libc::WNOHANG) } {
                0 => {}
                -1 => match io::Error::last_os_error() {
                    error if error.raw_os_error() == Some(libc::EINTR) => {}
                    error => {
                        self.process = 0;
                        return Err(error);
                    }
                },
                _ => {
                    self.process = 0;
                    return Ok(Some(match libc::WIFSIGNALED(status) {
                        true => End::Signal(libc::WTERMSIG(status)),
                        false => End::Status(libc::WEXITSTATUS(status)),
                    }));
                }
            }
            let now = clock();
            if now >= until {
                return Ok(None);
            }
            if deaths.wait(ending, until - now) {
                ending = -1;
                until = until.min(clock() + GRACE);
            }
        }
    }
}

impl Drop for Child {
    /// Without this a zombie would be left, and a program that nobody waits for would run on.
    fn drop(&mut self) {
        if self.process > 0 {
            signal(self.process as u32, libc::SIGKILL);
            let _ = self.end(clock() + BURIAL, -1);
        }
    }
}

/// The whole file; what is not UTF-8 is replaced.
fn text(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    while file::read_on(file, &mut bytes)? {}
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Sends a signal to one process (kill(2)); if it has ended, nothing happens. 0 and what is negative as a `pid_t` would
/// be a group of processes, or all of them: then nothing happens either.
pub fn signal(process: u32, signal: libc::c_int) {
    if let Ok(process @ 1..) = libc::pid_t::try_from(process) {
        // SAFETY: no memory is touched.
        unsafe { libc::kill(process, signal) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn sh(script: &str) -> Output {
        run(&find("sh").unwrap(), &["-c", script], "").unwrap()
    }

    #[test]
    fn a_program_gets_its_input_and_leaves_its_words_and_its_status() {
        let Output { end, out, err } =
            run(&find("sh").unwrap(), &["-c", "cat; echo $0 >&2; exit 3", "a b"], "x\ny\n").unwrap();
        assert_eq!((end, out.as_str(), err.as_str()), (End::Status(3), "x\ny\n", "a b\n"));
        assert_eq!(sh("kill -9 $$").end, End::Signal(9));
        assert!(sh("exit 0").succeeded() && !sh("exit 1").succeeded());
    }

    #[test]
    fn more_words_than_a_pipe_holds_are_no_deadlock() {
        let much = "0123456789abcdef".repeat(1 << 16);
        let output = run(&find("sh").unwrap(), &["-c", "cat >&2; head -c 1000000 /dev/zero"], &much).unwrap();
        assert_eq!((output.out.len(), output.err.len()), (1_000_000, much.len()));
    }

    #[test]
    fn what_cannot_be_run_is_an_error() {
        for path in ["/nowhere", "/etc", "/etc/hostname"] {
            let error = run(path, &[], "").unwrap_err().to_string();
            assert!(error.starts_with(&format!("cannot run {path}: ")), "{error}");
        }
        assert!(run("/bin/sh", &["a\0b"], "").is_err());
        assert_eq!(find("no such program"), None);
    }

    #[test]
    fn what_a_program_said_is_one_short_line_without_control_characters() {
        let said = |end, err: &str| Output { end, out: String::new(), err: err.to_owned() }.said().to_string();
        let failed = End::Status(1);
        assert_eq!(said(failed, ""), "it said nothing");
        assert_eq!(said(failed, "can't\n\n  `x'\nTry `x -h' for more\n"), "can't; `x'");
        assert_eq!(said(failed, "\u{1b}[2J\u{202e}\t\r\u{7f}é"), "\\u{1b}[2J\\u{202e}\\t\\r\\u{7f}é");
        assert_eq!(said(failed, &"é".repeat(300)), format!("{}…", "é".repeat(200)));
        assert_eq!(said(failed, &"x\n".repeat(300)).chars().filter(|c| *c == 'x').count(), 200);
        assert_eq!(said(End::Signal(9), ""), "it was ended by signal 9");
        assert_eq!(said(End::Signal(11), "hm"), "hm; ended by signal 11");
    }

    /// The state of a process, as in /proc/PID/stat; nothing if there is none.
    fn state(process: libc::pid_t) -> Option<String> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        Some(stat.rsplit_once(") ")?.1.get(..1)?.to_owned())
    }

    #[test]
    fn a_child_that_nobody_waits_for_is_no_zombie() {
        for script in ["sleep 60", "exit 0"] {
            let child = start(&find("sh").unwrap(), &["-c", script], "").unwrap();
            let process = child.process;
            assert!(state(process).is_some());
            drop(child);
            assert_eq!(state(process), None, "{script}");
        }
    }

    #[test]
    fn a_child_is_killed_when_its_time_is_over() {
        let mut child = start(&find("sleep").unwrap(), &["60"], "").unwrap();
        let since = Instant::now();
        assert_eq!(child.end(clock() + 200, -1).unwrap(), None);
        // The clock's milliseconds are rounded down.
        assert!((199..2000).contains(&since.elapsed().as_millis()), "{:?}", since.elapsed());
        // Told to end, we leave it a moment.
        let mut child = start(&find("sleep").unwrap(), &["0.5"], "").unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(writer);
        let end = child.end(clock() + 60_000, std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(end.unwrap(), Some(End::Status(0)));
    }

    #[test]
    fn waiting_costs_no_time() {
        let program = find("true").unwrap();
        let since = Instant::now();
        for _ in 0..50 {
            run(&program, &[], "").unwrap();
        }
        // With another thread that takes SIGCHLD each of them may take 100 ms.
        assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    }

    #[test]
    fn no_number_is_a_group_of_processes() {
        // Signal 0 would do no harm if this went wrong.
        for process in [0, u32::MAX, u32::MAX - 1, 1 << 31] {
            signal(process, 0);
        }
    }
}
