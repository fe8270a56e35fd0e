//! One change at a time.

use std::fs::File;

use crate::error::{fail, Error};
use crate::sys::file::{exists, open_inherited, try_lock};
use crate::sys::poll::{clock, pause};
use crate::sys::process::variable;

/// How long another run of Paraglider is waited for, in milliseconds.
const PATIENCE: u64 = 10_000;

/// Keeps other runs of Paraglider out until it is dropped and every program started meanwhile has ended.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File);

impl Lock {
    /// Takes the lock, or waits for it. Two starts at once would both find nothing in force and both add their jumps.
    pub fn take() -> Result<Self, Error> {
        let path = run_file("paraglider.lock");
        // The programs that we start inherit the lock: if we are killed while iptables-restore still writes, the next
        // start waits until it has finished.
        let file = open_inherited(&path, libc::O_CREAT | libc::O_WRONLY)
            .map_err(|error| Error::system(format_args!("cannot open the lock {path}: {error}")))?;
        let until = clock() + PATIENCE;
        while !try_lock(&file, false) {
            if clock() > until {
                let seconds = PATIENCE / 1000;
                return fail!("another paraglider has held {path} for {seconds} seconds; nothing was changed");
            }
            pause(20);
        }
        Ok(Lock(file))
    }
}

/// A file of ours beside the lock of xtables, which moves with the variable that iptables knows too.
pub fn run_file(name: &str) -> String {
    let xtables = variable(c"XTABLES_LOCKFILE").unwrap_or_else(|| "/run/xtables.lock".to_owned());
    let dir = xtables.rsplit_once('/').map_or("", |(dir, _)| dir);
    let dir = if exists(&format!("{dir}/.")) { dir } else { "/var/run" };
    format!("{dir}/{name}")
}
