//! Waiting (poll(2)), the clock for it, and how many descriptors there may be.

use std::os::fd::RawFd;
use std::ptr;

/// An entry for [`wait`].
pub fn pollfd(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}

/// Waits for one of `events`, at most `most` milliseconds. A failed poll (EINTR, ENOMEM) is treated as an early wake-up
/// without events.
pub fn wait(events: &mut [libc::pollfd], most: u64) {
    let most = i32::try_from(most).unwrap_or(i32::MAX);
    // SAFETY: the kernel writes into `events.len()` entries.
    unsafe { libc::poll(events.as_mut_ptr(), events.len() as libc::nfds_t, most) };
}

/// Waits this many milliseconds.
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

/// clock_gettime(2) with 64 bits for the seconds. It has the same number on all machines of 32 bits, but MIPS counts from
/// 4000 (syscall(2)); the crate libc does not name it.
#[cfg(target_pointer_width = "64")]
const CLOCK_GETTIME: libc::c_long = libc::SYS_clock_gettime;
#[cfg(target_pointer_width = "32")]
const CLOCK_GETTIME: libc::c_long = 403 + if cfg!(target_arch = "mips") { 4000 } else { 0 };

/// Milliseconds since the machine was started (CLOCK_MONOTONIC). The clock of the day is no good for waiting: on a board
/// without a battery it jumps by years when the board learns the date.
pub fn clock() -> u64 {
    let (seconds, nanoseconds) = now(libc::CLOCK_MONOTONIC);
    seconds * 1000 + u64::from(nanoseconds / 1_000_000)
}

/// Seconds since 1970, as files are dated; it may jump.
pub fn date() -> u64 {
    now(libc::CLOCK_REALTIME).0
}

/// Seconds and nanoseconds.
fn now(clock: libc::clockid_t) -> (u64, u32) {
    let clock = libc::c_long::from(clock);
    let mut long = [0_u64; 2];
    // Not by clock_gettime: musl's is 1.6 KiB, since it looks for a faster way than a system call.
    // SAFETY: the kernel writes two words of 64 bits. All arguments are as wide as a register, as syscall(2) needs them.
    if unsafe { libc::syscall(CLOCK_GETTIME, clock, long.as_mut_ptr()) } == 0 {
        let [seconds, nanoseconds] = long;
        return (seconds, nanoseconds as u32);
    }
    // Before Linux 5.1, machines of 32 bits have only this. It is unsigned here, so it lasts until 2106.
    let mut short = [0 as libc::c_ulong; 2];
    // SAFETY: the kernel writes two words; as above.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, short.as_mut_ptr()) };
    let [seconds, nanoseconds] = short.map(u64::from);
    (seconds, nanoseconds as u32)
}
