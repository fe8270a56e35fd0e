//! Files, by the system calls themselves: the standard library's ways are larger, and none of them can be told not to
//! block.

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use crate::text::number;

/// The most that is read of a small file, in bytes. No file of /proc, /sys or /etc that we read is larger.
const MOST: usize = 1 << 20;

/// A sentence of ours as an [`io::Error`].
#[derive(Debug)]
struct Refusal(&'static str);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Refusal {}

/// An error with a sentence of ours. (The standard library's way, `io::Error::other` with a text, brings what escapes
/// texts for `Debug` into the binary, with 4 KiB of Unicode's tables.)
pub fn refusal(sentence: &'static str) -> io::Error {
    io::Error::other(Refusal(sentence))
}

/// Opens a file (open(2)) that is regular, or a device such as /dev/null. A FIFO is refused, since reading it would wait
/// for a writer; so is a directory (EISDIR). Programs that we start do not inherit it.
pub fn open(path: &str, flags: libc::c_int) -> io::Result<File> {
    open_inherited(path, flags | libc::O_CLOEXEC)
}

/// The same, but programs that we start inherit it.
pub fn open_inherited(path: &str, flags: libc::c_int) -> io::Result<File> {
    let file = open_any(path, flags)?;
    match stat(&file)?.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFCHR => Ok(file),
        libc::S_IFDIR => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        _ => Err(refusal("it is not a regular file")),
    }
}

/// Opens a file of any kind without waiting for anything (open(2), mode 0600 if it is created). Programs that we start
/// inherit it unless `flags` contains O_CLOEXEC.
pub fn open_any(path: &str, flags: libc::c_int) -> io::Result<File> {
    // O_NONBLOCK: opening or reading a FIFO must not wait for its other end. O_NOCTTY: a terminal that we open must not
    // become ours, or its Ctrl-C would end us.
    let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
    let mode: libc::c_uint = 0o600;
    let path = c_string(path)?;
    // SAFETY: `path` is a C string that lives until the call is over; the descriptor is new, and owned by the File alone.
    unsafe { owned(libc::open(path.as_ptr(), flags, mode)) }
}

/// The file of a new descriptor that a system call has returned; or the error, if that is -1.
///
/// # Safety
/// Nobody else owns the descriptor.
pub(super) unsafe fn owned(descriptor: libc::c_int) -> io::Result<File> {
    checked(descriptor)?;
    // SAFETY: it is open, and the caller leaves it to us.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

/// The error of a system call, if it has returned -1.
pub(super) fn checked(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A path as the kernel reads it.
#[inline(never)]
fn c_string(path: &str) -> io::Result<CString> {
    Ok(CString::new(path)?)
}

/// What a file is (fstat(2)).
pub fn stat(file: &File) -> io::Result<libc::stat64> {
    stat_of(file.as_raw_fd())
}

/// The same of a descriptor.
pub fn stat_of(descriptor: RawFd) -> io::Result<libc::stat64> {
    // Not by fstat: musl's is 1.4 KiB for times of 64 bits. The kernel's struct is the `stat64` of the C libraries' old
    // interface, which is that of the crate libc.
    #[cfg(target_pointer_width = "64")]
    let number = libc::SYS_fstat;
    #[cfg(target_pointer_width = "32")]
    let number = libc::SYS_fstat64;
    // SAFETY: all-zero bytes are a valid `stat64`, and the kernel writes one. All arguments are as wide as a register, as
    // syscall(2) needs them.
    unsafe {
        let mut stat: libc::stat64 = std::mem::zeroed();
        match libc::syscall(number, libc::c_long::from(descriptor), &raw mut stat) {
            0 => Ok(stat),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// What stays the same while the content of a file does: inode, size in bytes, and the time of the last change (s, ns).
pub fn identity(file: &File) -> io::Result<[u64; 4]> {
    let stat = stat(file)?;
    Ok([stat.st_ino as u64, stat.st_size as u64, stat.st_mtime as u64, stat.st_mtime_nsec as u64])
}

/// The user that we run as.
pub fn user() -> libc::uid_t {
    // SAFETY: no memory is touched.
    unsafe { libc::geteuid() }
}

/// Whether this is a regular file that belongs to the user that we run as. Other users' files, links' targets among
/// them, must not be believed or written to.
pub fn is_own_regular(file: &File) -> bool {
    stat(file).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG && stat.st_uid == user())
}

/// An empty file in memory (memfd_create(2)). Programs that we start do not inherit it.
pub fn memory() -> io::Result<File> {
    // SAFETY: the name is a C string; the descriptor is new, and owned by the File alone.
    unsafe { owned(libc::memfd_create(c"paraglider".as_ptr(), libc::MFD_CLOEXEC)) }
}

/// Reserves space for the first `length` bytes, so that writing them cannot fail for want of space (posix_fallocate(3)).
/// The file grows to that length. Where the file system cannot reserve (EOPNOTSUPP), nothing happens.
pub fn reserve(file: &File, length: u32) -> io::Result<()> {
    loop {
        // SAFETY: no memory is touched.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length as libc::off_t) } {
            0 | libc::EOPNOTSUPP | libc::ENOSYS => return Ok(()),
            libc::EINTR => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Makes a directory (mkdir(2)); the umask applies to `mode`. If there is something of this name already, that is no
/// error: look at what it is.
pub fn make_dir(path: &str, mode: libc::mode_t) -> io::Result<()> {
    let path = c_string(path)?;
    // SAFETY: `path` is a C string that lives until the call is over.
    match checked(unsafe { libc::mkdir(path.as_ptr(), mode) }) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        made => made,
    }
}

/// Gives a file another name, in place of the file that has it (rename(2)).
pub fn rename(from: &str, to: &str) -> io::Result<()> {
    let (from, to) = (c_string(from)?, c_string(to)?);
    // SAFETY: both are C strings that live until the call is over.
    checked(unsafe { libc::rename(from.as_ptr(), to.as_ptr()) })
}

/// Removes a file (unlink(2)). If there is none of this name, that is no error.
pub fn remove(path: &str) -> io::Result<()> {
    let path = c_string(path)?;
    // SAFETY: `path` is a C string that lives until the call is over.
    match checked(unsafe { libc::unlink(path.as_ptr()) }) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        removed => removed,
    }
}

/// The target of a symbolic link (readlink(2)); `None` if `path` is anything else.
pub fn link(path: &str) -> Option<String> {
    let path = c_string(path).ok()?;
    let mut target = vec![0; 4096];
    // SAFETY: `path` is a C string that lives until the call is over; the kernel writes at most `target.len()` bytes.
    let length = unsafe { libc::readlink(path.as_ptr(), target.as_mut_ptr().cast(), target.len()) };
    target.truncate(usize::try_from(length).ok()?);
    String::from_utf8(target).ok()
}

/// The inode number of the namespace that we are in, of the kind `net`, `pid`, … (namespaces(7)). `None` without /proc.
pub fn namespace(kind: &str) -> Option<u64> {
    // "net:[4026531840]"
    let link = link(&format!("/proc/self/ns/{kind}"))?;
    number(link.split_once('[')?.1.strip_suffix(']')?, u64::MAX)
}

/// Locks the whole file for this open file alone, or (`shared`) beside others (flock(2)); `false` if another open file
/// has the lock. It is held until all descriptors of this open file are closed, those of programs that inherited it too.
/// A kernel can lack it (ENOSYS, CONFIG_FILE_LOCKING), and so can a file system (ENOLCK, EOPNOTSUPP).
pub fn try_lock(file: &File, shared: bool) -> io::Result<bool> {
    let how = if shared { libc::LOCK_SH } else { libc::LOCK_EX };
    // SAFETY: no memory is touched.
    match checked(unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) }) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EWOULDBLOCK | libc::EINTR)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the record lock of the whole file for this process (F_SETLK, fcntl(2)); `false` if another process has it. The
/// file must be open for writing. The lock ends with the process, and already when the process closes **any** descriptor
/// of this file: open it once.
pub fn lock_record(file: &File) -> io::Result<bool> {
    match record(file, libc::F_SETLK) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The process that has the record lock of this file (F_GETLK, fcntl(2)): its number in our pid namespace, 0 if it is in
/// another one, `None` if no process but ours has the lock. The kernel tells, so no number in a file has to be believed.
pub fn lock_holder(file: &File) -> io::Result<Option<u32>> {
    let lock = record(file, libc::F_GETLK)?;
    let free = lock.l_type == libc::F_UNLCK as libc::c_short;
    Ok((!free).then(|| u32::try_from(lock.l_pid).unwrap_or(0)))
}

fn record(file: &File, command: libc::c_int) -> io::Result<libc::flock> {
    // Not by fcntl: musl's is 700 bytes for commands of all kinds.
    #[cfg(target_pointer_width = "64")]
    let number = libc::SYS_fcntl;
    #[cfg(target_pointer_width = "32")]
    let number = libc::SYS_fcntl64;
    let [fd, command] = [file.as_raw_fd(), command].map(libc::c_long::from);
    // SAFETY: all-zero bytes are a valid `flock`: of the whole file, from its beginning. The kernel reads and writes one.
    // All arguments are as wide as a register, as syscall(2) needs them.
    unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = libc::F_WRLCK as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        match libc::syscall(number, fd, command, &raw mut lock) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(lock),
        }
    }
}

/// At most `most` bytes of a file, from its current position. (The standard library's ways to read a file to its end
/// take 4 KiB of the binary.)
pub fn content(mut file: File, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < most && read_on(&mut file, &mut bytes)? {}
    bytes.truncate(most);
    Ok(bytes)
}

/// Appends what one read(2) gives, at most 4096 bytes; `false` at the end of the file.
pub fn read_on(file: &mut File, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let mut part = [0; 4096];
    loop {
        match file.read(&mut part) {
            Ok(read) => {
                bytes.extend_from_slice(part.get(..read).unwrap_or_default());
                return Ok(read > 0);
            }
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Calls `take` with each line of a file; a long file is never in memory as a whole. Lines that are not UTF-8 are left
/// out, and so is what follows the last line end.
pub fn each_line(mut file: File, take: &mut dyn FnMut(&str)) -> io::Result<()> {
    let mut bytes = Vec::new();
    while read_on(&mut file, &mut bytes)? {
        let mut rest = bytes.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, more) = rest.split_at(end + 1);
            if let Ok(line) = std::str::from_utf8(line) {
                take(line);
            }
            rest = more;
        }
        bytes = rest.to_vec();
    }
    Ok(())
}

/// A small file's content as text, without the white space around it; empty if it cannot be read. What is not UTF-8 is
/// replaced.
pub fn read(path: &str) -> String {
    let bytes = open(path, libc::O_RDONLY).and_then(|file| content(file, MOST)).unwrap_or_default();
    String::from_utf8_lossy(bytes.trim_ascii()).into_owned()
}

/// Whether there is a file of this name, of any kind.
pub fn exists(path: &str) -> bool {
    may(path, libc::F_OK)
}

/// Whether we may run this file. (A directory has the same permission bit, but it also has an entry `.`.)
pub fn is_program(path: &str) -> bool {
    may(path, libc::X_OK) && !exists(&format!("{path}/."))
}

fn may(path: &str, access: libc::c_int) -> bool {
    // SAFETY: the path is a C string that lives until the call is over.
    c_string(path).is_ok_and(|path| unsafe { libc::access(path.as_ptr(), access) } == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{symlink, MetadataExt};

    fn dir() -> (tempfile::TempDir, impl Fn(&str) -> String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap().to_owned();
        (dir, move |name: &str| format!("{path}/{name}"))
    }

    #[test]
    fn only_what_can_be_read_without_waiting_is_opened() {
        let (_dir, path) = dir();
        nix::unistd::mkfifo(path("fifo").as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        symlink(path("fifo"), path("link")).unwrap();
        for name in ["fifo", "link", "socket"] {
            for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR | libc::O_CREAT] {
                assert!(open(&path(name), flags).is_err(), "{name}");
            }
            assert_eq!(read(&path(name)), "", "{name}");
        }
        let said = |name: &str| open(&path(name), libc::O_RDONLY).unwrap_err();
        assert_eq!(said("fifo").to_string(), "it is not a regular file");
        assert_eq!(said("").raw_os_error(), Some(libc::EISDIR));
        assert_eq!(said("none").raw_os_error(), Some(libc::ENOENT));
        open("/dev/null", libc::O_RDWR).unwrap();
        assert!(open("/proc/self/status", libc::O_RDONLY).is_ok() && !read("/proc/self/status").is_empty());
        assert!(open("a\0b", libc::O_RDONLY).is_err());
    }

    #[test]
    fn a_file_of_another_user_or_kind_is_not_ours() {
        let (_dir, path) = dir();
        let own = open(&path("own"), libc::O_CREAT | libc::O_RDWR).unwrap();
        assert!(is_own_regular(&own));
        assert_eq!(stat(&own).unwrap().st_mode & 0o777, 0o600);
        assert!(!is_own_regular(&open("/dev/null", libc::O_RDONLY).unwrap()));
        assert!(!is_own_regular(&open_any(&path(""), libc::O_RDONLY).unwrap()));
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(path("own"), Some(65534), None).unwrap();
            assert!(!is_own_regular(&own));
        }
    }

    #[test]
    fn space_is_reserved_or_the_disk_is_full() {
        let (_dir, path) = dir();
        let file = open(&path("file"), libc::O_CREAT | libc::O_RDWR).unwrap();
        reserve(&file, 10_000).unwrap();
        let metadata = file.metadata().unwrap();
        assert!(metadata.size() == 10_000 && metadata.blocks() > 0, "{metadata:?}");
        // Read only: an error, and no endless loop.
        assert_eq!(
            reserve(&open(&path("file"), libc::O_RDONLY).unwrap(), 1).unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
    }

    #[test]
    fn names_come_and_go() {
        let (_dir, path) = dir();
        make_dir(&path("d"), 0o700).unwrap();
        make_dir(&path("d"), 0o700).unwrap();
        assert_eq!(std::fs::metadata(path("d")).unwrap().mode() & 0o777, 0o700);
        assert_eq!(make_dir(&path("x/y"), 0o700).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        std::fs::write(path("d/a"), "a").unwrap();
        std::fs::write(path("d/b"), "b").unwrap();
        rename(&path("d/a"), &path("d/b")).unwrap();
        assert_eq!((read(&path("d/b")).as_str(), exists(&path("d/a"))), ("a", false));
        assert!(rename(&path("d/a"), &path("d/b")).is_err());
        remove(&path("d/b")).unwrap();
        remove(&path("d/b")).unwrap();
        assert!(!exists(&path("d/b")) && remove(&path("d")).is_err());
    }

    #[test]
    fn a_lock_that_cannot_be_had_is_not_one_that_another_has() {
        let (_dir, path) = dir();
        let [one, two] = [(); 2].map(|()| open(&path("lock"), libc::O_CREAT | libc::O_RDWR).unwrap());
        assert!(try_lock(&one, false).unwrap() && !try_lock(&two, false).unwrap() && !try_lock(&two, true).unwrap());
        let name = open_any(&path("lock"), libc::O_PATH).unwrap();
        assert_eq!(try_lock(&name, false).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn the_kernel_tells_who_has_the_lock() {
        let (_dir, path) = dir();
        let path = path("lock");
        let file = open(&path, libc::O_CREAT | libc::O_RDWR).unwrap();
        assert_eq!(lock_holder(&file).unwrap(), None);
        // Another process takes the lock, tells so, and ends when its stdin does.
        let script = "import fcntl, sys\nfile = open(sys.argv[1], 'r+')\nfcntl.lockf(file, fcntl.LOCK_EX)\n\
                      print('locked', flush=True)\nsys.stdin.read()";
        let holder = std::process::Command::new("python3")
            .args(["-c", script, &path])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let Ok(mut holder) = holder else { return println!("skipped: record locks: python3 is missing") };
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut line).unwrap();
        assert_eq!(lock_holder(&file).unwrap(), Some(holder.id()));
        assert!(!lock_record(&file).unwrap());
        drop(holder.stdin.take());
        holder.wait().unwrap();
        assert_eq!(lock_holder(&file).unwrap(), None);
        assert!(lock_record(&file).unwrap());
        // Our own is not told.
        assert_eq!(lock_holder(&file).unwrap(), None);
        // Without the right to write there is no such lock.
        assert_eq!(
            lock_record(&open("/dev/null", libc::O_RDONLY).unwrap()).unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
    }

    #[test]
    fn a_namespace_has_a_number() {
        let inode = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_eq!(namespace("net"), Some(inode));
        assert_eq!(namespace("nonsense"), None);
    }
}
