//! What version 0.1 left beside the folders of [`state`](super::state): a lock, and the file of its `watch`. Nothing else
//! knows of them. To be deleted in 2027, with its two callers.

use std::fs::File;

use crate::sys::file;
use crate::sys::poll::clock;
use crate::sys::process;
use crate::text::number;

fn open(base: &str, what: &str) -> Option<File> {
    let file = file::open_inherited(&format!("{base}.{what}"), libc::O_RDWR | libc::O_NOFOLLOW).ok()?;
    file::is_own_regular(&file).then_some(file)
}

/// The lock of version 0.1, or `Some(None)` if its file is not there; `None` while that version holds it.
pub fn lock(base: &str) -> Option<Option<File>> {
    match open(base, "lock") {
        Some(file) => file::try_lock(&file, false).unwrap_or(true).then_some(Some(file)),
        None => Some(None),
    }
}

/// A `watch` of version 0.1, or what it left behind.
#[derive(Debug)]
pub struct Watch {
    /// It runs.
    pub runs: bool,
    /// Its process, while it runs and can be told something.
    pub process: Option<u32>,
    /// The lines of its backends, as [`claim`](crate::watch::claim) writes them.
    pub lines: String,
    /// When they were written, by [`clock`].
    pub written: u64,
}

/// Reads the file of a `watch` of version 0.1.
pub fn watch(base: &str) -> Option<Watch> {
    let file = open(base, "watch")?;
    let runs = !file::try_lock(&file, true).unwrap_or(true);
    let modified = file::identity(&file).ok()?[2];
    let text = file::content(file, 1 << 20).ok()?;
    let text = String::from_utf8(text).ok()?;
    let (first, lines) = text.strip_suffix("end\n")?.split_once('\n')?;
    let process = number(first.split_once(' ')?.0, i32::MAX as u64).map(|process| process as u32);
    // A number in a file is not to be believed without a look at the process. 0 would mean our process group, and 1 is init.
    let is_ours = |process: &u32| *process > 1 && file::read(&format!("/proc/{process}/comm")) == "paraglider";
    let age = crate::sys::poll::date().saturating_sub(modified).saturating_mul(1000);
    Some(Watch {
        runs,
        process: process.filter(|process| runs && is_ours(process)),
        lines: lines.to_owned(),
        written: clock().saturating_sub(age),
    })
}

/// Sends a `watch` of version 0.1 the signal that it expects from `start` (SIGHUP) or `stop` (SIGUSR1).
pub fn tell(base: &str, signal: libc::c_int) {
    if let Some(Watch { process: Some(process), .. }) = watch(base) {
        process::signal(process, signal);
    }
}

/// Removes the files of version 0.1 unless its `watch` is still running. For the holder of both locks.
pub fn clean(base: &str) {
    let idle = open(base, "watch").is_none_or(|file| file::try_lock(&file, false).unwrap_or(true));
    if idle {
        for what in ["watch", "lock"] {
            let _ = file::remove(&format!("{base}.{what}"));
        }
    }
}
