//! Waiting: for sockets (poll(2)), and for signals beside them (signalfd(2)).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

/// Those that `watch` answers to.
const SIGNALS: [libc::c_int; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGUSR1];

/// The signals that have come.
#[derive(Debug)]
pub struct Signals(File);

impl Signals {
    /// From now on they are no longer the end of the program.
    pub fn catch() -> io::Result<Self> {
        // SAFETY: the set is made before it is used; the descriptor is new, checked, and the File's alone.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in SIGNALS {
                libc::sigaddset(&mut set, signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            match libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                file => Ok(Signals(File::from_raw_fd(file))),
            }
        }
    }

    /// For poll(2).
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// The next one that has come, if any.
    pub fn next(&self) -> Option<libc::c_int> {
        // The number is the first word of signalfd_siginfo.
        let mut info = [0; 128];
        (&self.0).read_exact(&mut info).ok()?;
        let [a, b, c, d, ..] = info;
        Some(libc::c_int::from_ne_bytes([a, b, c, d]))
    }

    /// Whether one has come.
    pub fn any(&self) -> bool {
        let mut events = [pollfd(self.descriptor(), libc::POLLIN)];
        wait(&mut events, 0);
        events.iter().any(|event| event.revents != 0)
    }
}

/// What is waited for.
pub fn pollfd(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}

/// Waits at most so many milliseconds for one of `events`. A wait that fails is one that was short.
pub fn wait(events: &mut [libc::pollfd], most: u64) {
    let most = i32::try_from(most).unwrap_or(i32::MAX);
    // SAFETY: the kernel writes into as many entries as there are.
    unsafe { libc::poll(events.as_mut_ptr(), events.len() as libc::nfds_t, most) };
}

/// Waits so many milliseconds.
pub fn pause(milliseconds: u64) {
    wait(&mut [], milliseconds);
}

/// How many descriptors this process may have, which are from now on as many as it can get.
pub fn descriptors() -> usize {
    // Soft and hard limit; those 256 are a guess that is small enough. Not by setrlimit: musl's is 1 KiB for threads.
    let mut limit = [256_u64; 2];
    // SAFETY: the kernel writes and reads one rlimit64, which are two words of 64 bits.
    unsafe {
        let none = std::ptr::null_mut::<u64>();
        libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, none, limit.as_mut_ptr());
        limit[0] = limit[1];
        libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, limit.as_mut_ptr(), none);
    }
    usize::try_from(limit[0]).unwrap_or(usize::MAX)
}

/// Milliseconds since the machine was started. Only this clock is good for waiting: a board without a clock of its own
/// jumps by years when it learns the date.
pub fn clock() -> u64 {
    // SAFETY: `time` is ours for the time of the call, which cannot fail: the clock exists.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        time
    };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}
