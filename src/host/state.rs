//! What is kept between two runs, in memory: a directory with the lock, the config that is meant to be in force, and what
//! `watch` knows of the backends.
//!
//! The base is /run/paraglider; below it each network namespace has a folder of its own, named by its inode, since
//! namespaces often share /run. Both belong to this user and cannot be written by others, so that no other user can put a
//! link or a FIFO there; one that the administrator puts there by mistake is refused with a sentence.

use std::fs::File;
use std::io::{self, Write};

use crate::error::{fail, plain, Error};
use crate::host::before;
use crate::sys::file::{self, exists};
use crate::sys::poll::{clock, pause};
use crate::sys::process::variable;
use crate::sys::socket;

/// How long a verb waits for another run of Paraglider, in milliseconds.
const PATIENCE: u64 = 10_000;

/// Largest file that is read, in bytes. (The file of `watch` with 1,024 backends of 64 frontends is a tenth of it.)
const MOST_BYTES: usize = 1 << 20;

/// The config that is meant to be in force; while `start` works, the next one; while `stop` works, the last one.
const MEANT_FILE: &str = "meant.yaml";
const NEXT: &str = "meant.next";
const LAST: &str = "meant.last";

/// Whose folder this is: boot and namespace, by numbers that are not used again.
const HOME: &str = "home";

/// How sentences call the config that is meant.
pub const MEANT: &str = "the config that is meant to be in force";

/// The folder of this network namespace.
#[derive(Debug)]
pub struct Folder {
    base: String,
    dir: String,
}

/// Keeps other runs of Paraglider out until it is dropped and every program started meanwhile has ended.
#[derive(Debug)]
#[allow(dead_code)]
pub struct Lock(File, Option<File>);

impl Lock {
    /// Takes the lock, or waits for it as long as a verb does.
    pub fn take() -> Result<Self, Error> {
        Folder::open()?.lock()
    }
}

impl Folder {
    /// Makes the folder, or checks that it is ours alone.
    pub fn open() -> Result<Self, Error> {
        let base = base(variable(c"XTABLES_LOCKFILE"));
        // In a directory where every user may rename everything, checking what is in it proves nothing.
        let parent = base.rsplit_once('/').map_or("/", |(parent, _)| parent);
        let every_user = libc::S_IWOTH | libc::S_ISVTX;
        if stat(&format!("{parent}/"), 0).is_ok_and(|stat| stat.st_mode & every_user == libc::S_IWOTH) {
            return fail!("{parent} can be written by every user, so {base} cannot be trusted; use another directory");
        }
        let Some(dir) = dir(&base) else {
            return fail!("the kernel does not tell which network namespace this is; mount /proc");
        };
        let folder = Folder { base, dir };
        folder.make()?;
        Ok(folder)
    }

    /// The folder as it is, if there is one; for `stop`, which works also where [`open`](Self::open) refuses it.
    pub fn as_it_is() -> Option<Self> {
        let base = base(variable(c"XTABLES_LOCKFILE"));
        let dir = dir(&base)?;
        exists(&format!("{dir}/.")).then_some(Folder { base, dir })
    }

    fn make(&self) -> Result<(), Error> {
        own_directory(&self.base)?;
        own_directory(&self.dir)
    }

    /// A file in the folder, if it is one of ours: regular, not a link, and this user's.
    pub fn file(&self, name: &str, flags: libc::c_int) -> io::Result<File> {
        own(file::open(&self.path(name), flags | libc::O_NOFOLLOW)?)
    }

    /// Where such a file is.
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// The directory of the folders; version 0.1 has files beside it (see [`before`]).
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Takes the lock, or waits for it. Two starts at once would both find nothing in force and both add their jumps.
    pub fn lock(&self) -> Result<Lock, Error> {
        self.lock_within(PATIENCE)
    }

    /// The same, with a patience in milliseconds.
    pub fn lock_within(&self, patience: u64) -> Result<Lock, Error> {
        let until = clock() + patience;
        loop {
            if let Some(lock) = self.try_lock()? {
                return Ok(lock);
            }
            if clock() > until {
                let seconds = patience / 1000;
                return fail!(
                    "another paraglider has held {} for {seconds} seconds; nothing was changed",
                    self.path("lock")
                );
            }
            pause(20);
        }
    }

    /// Takes the lock, unless another run has it.
    pub fn try_lock(&self) -> Result<Option<Lock>, Error> {
        let path = self.path("lock");
        // The programs that we start inherit the lock: if we are killed while iptables-restore still writes, the next
        // start waits until it has finished.
        let cannot = |error| Error::system(format_args!("cannot take the lock {path}: {}", plain(&error)));
        if !exists(&self.path(".")) {
            // A long-running `watch` finds that another program has removed the directory.
            self.make()?;
        }
        let file = file::open_inherited(&path, libc::O_CREAT | libc::O_RDWR | libc::O_NOFOLLOW)
            .and_then(own)
            .map_err(cannot)?;
        // "Held by another" must not be said where the kernel refuses.
        if !file::try_lock(&file, false).map_err(cannot)? {
            return Ok(None);
        }
        // If the file was deleted meanwhile, others lock a new one: try again with that.
        let inode = file::identity(&file).map_err(cannot)?;
        match self.file("lock", libc::O_RDONLY).and_then(|there| file::identity(&there)) {
            Ok(there) if there == inode => {}
            // Without a descriptor for it (EMFILE) it would look like held by another.
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(cannot(error)),
            _ => return Ok(None),
        }
        let before = before::lock(&self.base);
        if before.is_some() {
            self.move_in();
        }
        Ok(before.map(|before| Lock(file, before)))
    }

    /// Removes what was meant in another boot, where /run outlives one, or in a namespace that is gone: its inode's number
    /// is given to a later one. What is not known (no /proc, before Linux 5.14) is not compared. Under the lock.
    fn move_in(&self) {
        let here = [boot(), socket::cookie().map_or_else(|| "-".to_owned(), |cookie| cookie.to_string())];
        let there = self.file(HOME, libc::O_RDONLY).and_then(|file| file::content(file, 256)).unwrap_or_default();
        let there = String::from_utf8_lossy(&there);
        let mut words = there.split_ascii_whitespace();
        let mut same = true;
        for here in &here {
            same &= words.next().is_none_or(|there| there == here || [there, here].contains(&"-"));
        }
        if same && !there.is_empty() {
            return;
        }
        if !same {
            // HOME goes last: if we are killed before, the next run removes the rest.
            for stale in [MEANT_FILE, NEXT, LAST, HOME] {
                let _ = file::remove(&self.path(stale));
            }
        }
        let [boot, cookie] = &here;
        let written = self
            .file(HOME, libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY)
            .and_then(|mut file| file.write_all(format!("{boot} {cookie}\n").as_bytes()));
        if written.is_err() {
            let _ = file::remove(&self.path(HOME));
        }
    }

    /// The text of the config that is meant to be in force. It is empty if there was no space to write it down, and only
    /// the `watch` that put it in force knows it.
    pub fn meant(&self) -> Result<Option<Vec<u8>>, Error> {
        let text = self.file(MEANT_FILE, libc::O_RDONLY).and_then(|file| file::content(file, MOST_BYTES));
        self.unless_missing(text)
    }

    /// What changes whenever [`meant`](Self::meant) does; cheap to ask for.
    pub fn stamp(&self) -> Result<Option<[u64; 4]>, Error> {
        let stamp = self.file(MEANT_FILE, libc::O_RDONLY).and_then(|file| file::identity(&file));
        self.unless_missing(stamp)
    }

    /// Only a file that does not exist means that nothing is meant.
    fn unless_missing<T>(&self, read: io::Result<T>) -> Result<Option<T>, Error> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => fail!("cannot read {}: {}", self.path(MEANT_FILE), plain(&error)),
        }
    }

    /// Whether a `stop` was killed before its end. For the holder of the lock, which a `stop` at work would have.
    pub fn was_left_by_stop(&self) -> bool {
        exists(&self.path(LAST))
    }

    /// Writes down a config that is going to be meant as soon as [`mean`](Self::mean) is called, since that is too late
    /// to find no space.
    pub fn draft(&self, text: &[u8]) -> Result<(), Error> {
        let written = self
            .file(NEXT, libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY)
            .and_then(|mut file| file.write_all(text))
            .map_err(|error| Error::system(format_args!("cannot write {}: {}", self.path(NEXT), plain(&error))));
        if written.is_err() {
            self.discard();
        }
        written
    }

    /// The draft is now what is meant; without one, nothing is.
    pub fn mean(&self) -> Result<(), Error> {
        self.rename(NEXT, MEANT_FILE)
    }

    /// Removes a draft.
    pub fn discard(&self) {
        let _ = file::remove(&self.path(NEXT));
    }

    /// From now on nothing is meant to be in force.
    pub fn set_aside(&self) -> Result<(), Error> {
        self.rename(MEANT_FILE, LAST)
    }

    /// Undoes [`set_aside`](Self::set_aside).
    pub fn put_back(&self) -> Result<(), Error> {
        self.rename(LAST, MEANT_FILE)
    }

    /// Ends the time in which [`put_back`](Self::put_back) is possible.
    pub fn forget(&self) {
        let _ = file::remove(&self.path(LAST));
    }

    /// Renames one file over another; if the first is missing, the second is removed.
    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let to = self.path(to);
        let done = match file::rename(&self.path(from), &to) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => file::remove(&to),
            done => done,
        };
        done.map_err(|error| Error::system(format_args!("cannot change {to}: {}", plain(&error))))
    }
}

/// Tells one boot of the machine from another (proc_sys_kernel(5)); `-` without /proc.
pub fn boot() -> String {
    let mut boot = file::read("/proc/sys/kernel/random/boot_id");
    if boot.is_empty() {
        boot.push('-');
    }
    boot
}

fn own(file: File) -> io::Result<File> {
    match file::is_own_regular(&file) {
        true => Ok(file),
        false => Err(file::refusal("it is not a regular file of this user; remove it")),
    }
}

fn stat(directory: &str, flags: libc::c_int) -> io::Result<libc::stat64> {
    file::stat(&file::open_any(directory, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | flags)?)
}

/// Makes a directory, or checks that it is one which only this user can change.
fn own_directory(path: &str) -> Result<(), Error> {
    let user = file::user();
    let stat = file::make_dir(path, libc::S_IRWXU).and_then(|()| stat(path, libc::O_NOFOLLOW));
    let stat =
        stat.map_err(|error| Error::system(format_args!("cannot use the directory {path}: {}", plain(&error))))?;
    if stat.st_uid == user && stat.st_mode & (libc::S_IWGRP | libc::S_IWOTH) == 0 {
        return Ok(());
    }
    let (owner, mode) = (stat.st_uid, stat.st_mode & 0o7777);
    fail!("{path} is not for user {user} alone to write (owner {owner}, mode {mode:o}); remove it")
}

/// The folder of this network namespace.
fn dir(base: &str) -> Option<String> {
    // /proc may be missing, or be that of another PID namespace (`nsenter -n`).
    let inode = file::namespace("net").or_else(socket::namespace);
    // A kernel without CONFIG_NET_NS, as small routers have it, tells of other kinds only: there is one network.
    let inode = inode.or_else(|| exists("/proc/self/ns/.").then_some(0))?;
    Some(format!("{base}/{inode}"))
}

/// Where the folders are. The lock of xtables is where this user may write, even without root.
fn base(lock_of_xtables: Option<String>) -> String {
    let moved = lock_of_xtables.filter(|path| path.starts_with('/'));
    let parent = match moved.as_deref().and_then(|path| path.rsplit_once('/')) {
        Some((parent, _)) => parent,
        None if exists("/run/.") => "/run",
        None => "/var/run",
    };
    format!("{parent}/paraglider")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_is_beside_the_lock_of_xtables_only_where_that_is_an_absolute_path() {
        let of = |path: &str| base(Some(path.to_owned()));
        assert_eq!(of("/tmp/x/xtables.lock"), "/tmp/x/paraglider");
        assert_eq!(of("/xtables.lock"), "/paraglider");
        let usual = base(None);
        for relative in ["foo.lock", "run/foo.lock", ""] {
            assert_eq!(of(relative), usual);
        }
    }

    #[test]
    fn only_a_plain_file_of_ours_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder { base: String::new(), dir: dir.path().to_str().unwrap().to_owned() };
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in ["link", "dir", "fifo", "nothing"] {
            assert!(folder.file(name, libc::O_RDONLY).is_err(), "{name}");
        }
        std::fs::write(dir.path().join("file"), "x").unwrap();
        assert!(folder.file("file", libc::O_RDWR).is_ok());
    }

    #[test]
    fn what_is_meant_changes_in_one_step() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder { base: String::new(), dir: dir.path().to_str().unwrap().to_owned() };
        let meant = || folder.meant().unwrap().map(|text| String::from_utf8(text).unwrap());
        assert_eq!((meant(), folder.stamp().unwrap()), (None, None));
        folder.draft(b"a").unwrap();
        assert_eq!(meant(), None);
        folder.mean().unwrap();
        let first = folder.stamp().unwrap();
        folder.draft(b"b").unwrap();
        folder.discard();
        assert_eq!((meant().as_deref(), folder.stamp().unwrap()), (Some("a"), first));
        folder.draft(b"c").unwrap();
        folder.mean().unwrap();
        assert!(meant().as_deref() == Some("c") && folder.stamp().unwrap() != first);
        folder.set_aside().unwrap();
        assert_eq!(meant(), None);
        folder.put_back().unwrap();
        assert_eq!(meant().as_deref(), Some("c"));
        folder.set_aside().unwrap();
        folder.forget();
        // Without a draft nothing is meant.
        folder.mean().unwrap();
        folder.put_back().unwrap();
        assert_eq!(meant(), None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
