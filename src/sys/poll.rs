//! Waiting (poll(2)), the clock for it, and how many descriptors there may be.

use std::os::fd::RawFd;
use std::ptr;

/// An entry for [`wait`].
pub fn pollfd(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}

/// Waits for one of `events`, at most so many milliseconds. A failed poll (EINTR, ENOMEM) is treated as an early wake-up
/// without events.
pub fn wait(events: &mut [libc::pollfd], most: u64) {
    let most = i32::try_from(most).unwrap_or(i32::MAX);
    // SAFETY: the kernel writes into `events.len()` entries.
    unsafe { libc::poll(events.as_mut_ptr(), events.len() as libc::nfds_t, most) };
}

/// Waits so many milliseconds.
pub fn pause(milliseconds: u64) {
    wait(&mut [], milliseconds);
}

/// Raises the soft limit of open descriptors to the hard one; returns that limit, or 256 if the kernel does not tell it.
pub fn descriptors() -> usize {
    // Soft and hard limit. Not by setrlimit: musl's is 1 KiB for threads.
    let mut limit = [256_u64; 2];
    let [us, what] = [0, libc::RLIMIT_NOFILE as libc::c_long];
    // SAFETY: the kernel writes and reads one rlimit64, which are two words of 64 bits. All arguments are as wide as a
    // register, as syscall(2) needs them.
    unsafe {
        let none = ptr::null_mut::<u64>();
        libc::syscall(libc::SYS_prlimit64, us, what, none, limit.as_mut_ptr());
        limit[0] = limit[1];
        libc::syscall(libc::SYS_prlimit64, us, what, limit.as_mut_ptr(), none);
    }
    usize::try_from(limit[0]).unwrap_or(usize::MAX)
}

/// Milliseconds since the machine was started (CLOCK_MONOTONIC). The clock of the day is no good for waiting: on a board
/// without a battery it jumps by years when the board learns the date.
pub fn clock() -> u64 {
    let time = now(libc::CLOCK_MONOTONIC);
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// Seconds since 1970, as files are dated; it may jump.
pub fn date() -> u64 {
    u64::try_from(now(libc::CLOCK_REALTIME).tv_sec).unwrap_or(0)
}

fn now(clock: libc::clockid_t) -> libc::timespec {
    // SAFETY: all-zero bytes are a valid `timespec`, and the kernel writes one. The call cannot fail: the clocks exist.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(clock, &mut time);
        time
    }
}
