//! Signals: which of them may end us, and descriptors that tell of them (signalfd(2)).

use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::sys::{file, poll};

/// The signals that [`Signals`] tells of.
const CAUGHT: [libc::c_int; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGUSR1];

/// Those of them that ask the program to end.
const ENDING: [libc::c_int; 2] = [libc::SIGINT, libc::SIGTERM];

/// Signals that we ignore, and the programs that we start do not. SIGPIPE: a closed pipe must be an EPIPE error, not
/// kill us halfway through a change. SIGXFSZ: so must a file that would grow over the limit of `ulimit -f`.
pub(super) const IGNORED: [libc::c_int; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

/// The descriptor of [`ending`].
static INTERRUPTION: AtomicI32 = AtomicI32::new(-1);

/// Undoes what our parent may have left to us, for the entrance of the program. With SIGCHLD ignored, waitpid(2) would
/// not tell how a child has ended (ECHILD); with SIGTERM blocked, nothing but SIGKILL would end us.
pub fn reset() {
    // SAFETY: no handler is installed; the set is made by sigemptyset before it is used.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        for signal in IGNORED {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &set(&[]), ptr::null_mut());
    }
}

/// A set of signals.
pub(super) fn set(signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: sigemptyset makes the set before it is used.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        set
    }
}

/// Blocks signals for good; a descriptor that is readable while one of them is pending.
fn pending(signals: &[libc::c_int]) -> io::Result<File> {
    let set = set(signals);
    // SAFETY: the kernel reads the set; the descriptor is new, and owned by the File alone.
    unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut());
        file::owned(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))
    }
}

/// Takes the next pending signal from such a descriptor.
fn take(mut from: &File) -> Option<libc::c_int> {
    // signalfd_siginfo begins with the number.
    let mut info = [0; 128];
    let read = from.read(&mut info).ok()?;
    let [a, b, c, d, ..] = info;
    (read == info.len()).then_some(libc::c_int::from_ne_bytes([a, b, c, d]))
}

/// Signals that are caught: SIGHUP, SIGINT, SIGTERM and SIGUSR1.
#[derive(Debug)]
pub struct Signals(File);

impl Signals {
    /// From here on they do not end the program but are told of. Once in a program.
    pub fn catch() -> io::Result<Self> {
        let caught = pending(&CAUGHT)?;
        // It stays open for as long as the program runs.
        INTERRUPTION.store(pending(&ENDING)?.into_raw_fd(), Ordering::Relaxed);
        Ok(Signals(caught))
    }

    /// For poll(2): readable while a signal is pending.
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Takes the next pending signal, if there is one.
    pub fn next(&self) -> Option<libc::c_int> {
        take(&self.0)
    }

    /// Whether a signal is pending.
    pub fn any(&self) -> bool {
        let mut events = [poll::pollfd(self.descriptor(), libc::POLLIN)];
        poll::wait(&mut events, 0);
        events.iter().any(|event| event.revents != 0)
    }
}

/// For poll(2): readable while SIGINT or SIGTERM is pending, which stays so until [`Signals::next`] has taken it.
/// Whatever waits long polls it too. -1, which poll(2) ignores, while these signals end the program by themselves.
pub fn ending() -> RawFd {
    INTERRUPTION.load(Ordering::Relaxed)
}

/// Tells that a child has ended.
pub(super) struct Deaths(Option<File>);

impl Deaths {
    /// From here on they are told of; children that ended before are not.
    pub(super) fn new() -> Self {
        // A kernel can lack it (CONFIG_SIGNALFD).
        Deaths(pending(&[libc::SIGCHLD]).ok())
    }

    /// Waits for a child's end, at most `most` milliseconds, or for `other` to be readable, which it returns.
    pub(super) fn wait(&self, other: RawFd, most: u64) -> bool {
        // No death is missed by a program of one thread; of more, as in tests, another thread may take the signal. So
        // the caller looks for itself from time to time.
        let most = most.min(if self.0.is_some() { 100 } else { 5 });
        let deaths = self.0.as_ref().map_or(-1, File::as_raw_fd);
        let mut events = [poll::pollfd(deaths, libc::POLLIN), poll::pollfd(other, libc::POLLIN)];
        poll::wait(&mut events, most);
        let [death, other] = events;
        if death.revents != 0 {
            // One signal can stand for several children.
            self.0.as_ref().and_then(take);
        }
        other.revents != 0
    }
}
