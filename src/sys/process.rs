//! Other programs: finding one, running it, and what it said.
//!
//! The standard library's `Command` would take 25 KiB of the binary for what this does: it reads two pipes at once and
//! needs a thread to feed a third. Here all three ends are files in memory, so nobody waits for anybody.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;

use crate::sys::file;
use crate::sys::log;

/// Finds a program on PATH, and where system programs are when PATH does not say so (a bare `su`, some cron daemons).
pub fn find(name: &str) -> Option<String> {
    let path = variable(c"PATH").unwrap_or_default();
    for dir in path.split(':').chain(["/usr/sbin", "/sbin", "/usr/local/sbin"]) {
        let path = format!("{dir}/{name}");
        if dir.starts_with('/') && file::is_program(&path) {
            return Some(path);
        }
    }
    None
}

/// What a program has left behind.
#[derive(Debug)]
pub struct Output {
    /// The exit status; nothing if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub out: String,
    /// What it wrote to stderr.
    pub err: String,
}

/// A program that was started.
#[derive(Debug)]
pub struct Running {
    process: libc::pid_t,
    out: File,
    err: File,
}

/// Starts a program with `input` on its stdin. It speaks English, whatever the user speaks: its words are looked into.
pub fn start(path: &str, arguments: &[&str], input: &str) -> io::Result<Running> {
    log::detail!("run {path} {}", arguments.join(" "));
    if !input.is_empty() {
        log::detail!("with\n{input}");
    }
    let (mut stdin, out, err) = (memory()?, memory()?, memory()?);
    stdin.write_all(input.as_bytes())?;
    stdin.rewind()?;
    let mut words = vec![CString::new(path)?];
    for word in arguments {
        words.push(CString::new(*word)?);
    }
    let process = spawn(&words, [&stdin, &out, &err])?;
    Ok(Running { process, out, err })
}

/// Starts a program and waits for its end.
pub fn run(path: &str, arguments: &[&str], input: &str) -> io::Result<Output> {
    start(path, arguments, input)?.wait()
}

impl Running {
    /// Waits for its end.
    pub fn wait(self) -> io::Result<Output> {
        let mut status = 0;
        // SAFETY: `status` is ours for the time of the call.
        while unsafe { libc::waitpid(self.process, &mut status, 0) } < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINTR) {
                return Err(error);
            }
        }
        let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
        Ok(Output { code, out: text(self.out)?, err: text(self.err)? })
    }
}

/// From the beginning to the end; what is not UTF-8 is replaced.
fn text(mut file: File) -> io::Result<String> {
    file.rewind()?;
    let bytes = file::content(file, usize::MAX)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// An empty file in memory; no program that we start inherits it.
pub fn memory() -> io::Result<File> {
    // SAFETY: the name is a C string; the descriptor is new, checked, and owned by the File alone.
    unsafe {
        match libc::memfd_create(c"paraglider".as_ptr(), libc::MFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            memory => Ok(File::from_raw_fd(memory)),
        }
    }
}

/// Starts `words` (the first is the path) with these three files as stdin, stdout and stderr.
fn spawn(words: &[CString], files: [&File; 3]) -> io::Result<libc::pid_t> {
    extern "C" {
        /// environ(7)
        static environ: *const *mut libc::c_char;
    }
    let path = words.first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut pointers: Vec<*mut libc::c_char> = words.iter().map(|word| word.as_ptr().cast_mut()).collect();
    pointers.push(ptr::null_mut());
    // The first of a name is the one that counts (getenv(3)).
    let mut environment = vec![c"LC_ALL=C".as_ptr().cast_mut()];
    let mut process = 0;
    // SAFETY: `environ`, `pointers` and `environment` are lists of C strings that end with a null, live until the call is
    // over and are not written to; `actions` is made before it is used and freed after; nobody else changes the
    // environment: there is one thread.
    let error = unsafe {
        let mut next = environ;
        while !(*next).is_null() {
            environment.push(*next);
            next = next.add(1);
        }
        environment.push(ptr::null_mut());
        let mut actions = std::mem::zeroed();
        let mut error = libc::posix_spawn_file_actions_init(&mut actions);
        for (number, file) in (0..).zip(files) {
            if error == 0 {
                error = libc::posix_spawn_file_actions_adddup2(&mut actions, file.as_raw_fd(), number);
            }
        }
        if error == 0 {
            error = libc::posix_spawn(
                &mut process,
                path.as_ptr(),
                &actions,
                ptr::null(),
                pointers.as_ptr(),
                environment.as_ptr(),
            );
        }
        libc::posix_spawn_file_actions_destroy(&mut actions);
        error
    };
    match error {
        0 => Ok(process),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Sends a signal to a process (kill(2)); if it has ended, nothing happens.
pub fn signal(process: u32, signal: libc::c_int) {
    // SAFETY: no memory is touched.
    unsafe { libc::kill(process as libc::pid_t, signal) };
}

/// An environment variable; what is not UTF-8 in it is replaced.
pub fn variable(name: &CStr) -> Option<String> {
    // SAFETY: both are C strings, and nobody changes the environment: there is one thread.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gets_its_input_and_leaves_its_words_and_its_status() {
        let sh = find("sh").unwrap();
        let Output { code, out, err } = run(&sh, &["-c", "cat; echo $0 >&2; exit 3", "a b"], "x\ny\n").unwrap();
        assert_eq!((code, out.as_str(), err.as_str()), (Some(3), "x\ny\n", "a b\n"));
        assert_eq!(run(&sh, &["-c", "kill -9 $$"], "").unwrap().code, None);
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
            assert!(run(path, &[], "").is_err(), "{path}");
        }
        assert!(run("/bin/sh", &["a\0b"], "").is_err());
        assert_eq!(find("no such program"), None);
    }
}
