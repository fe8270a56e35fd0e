//! Files, by the system calls themselves.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};

/// Opens a file (open(2)). No program that we start inherits it. (The standard library's way is 1 KiB of the binary.)
pub fn open(path: &str, flags: libc::c_int) -> io::Result<File> {
    open_inherited(path, flags | libc::O_CLOEXEC)
}

/// Opens a file that the programs that we start inherit.
pub fn open_inherited(path: &str, flags: libc::c_int) -> io::Result<File> {
    let path = CString::new(path)?;
    // SAFETY: `path` is a C string that lives until the call is over; the descriptor is new, checked, and the File's.
    unsafe {
        match libc::open(path.as_ptr(), flags, 0o600) {
            -1 => Err(io::Error::last_os_error()),
            file => Ok(File::from_raw_fd(file)),
        }
    }
}

/// Where a symbolic link leads to; nothing for all else.
pub fn link(path: &str) -> Option<String> {
    let path = CString::new(path).ok()?;
    let mut target = vec![0; 4096];
    // SAFETY: `path` is a C string that lives until the call is over; the kernel writes at most as many bytes as there are.
    let length = unsafe { libc::readlink(path.as_ptr(), target.as_mut_ptr().cast(), target.len()) };
    target.truncate(usize::try_from(length).ok()?);
    String::from_utf8(target).ok()
}

/// Locks a file until it is closed, for this process alone or (`shared`) beside others, unless somebody else has it.
pub fn try_lock(file: &File, shared: bool) -> bool {
    let how = if shared { libc::LOCK_SH } else { libc::LOCK_EX };
    // SAFETY: `file` is open, and no memory of ours is touched.
    unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) == 0 }
}

/// At most so many bytes of a file, from where it stands. (The standard library's ways to read a file to its end take
/// 4 KiB of the binary.)
pub fn content(mut file: File, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < most && read_on(&mut file, &mut bytes)? {}
    bytes.truncate(most);
    Ok(bytes)
}

/// Appends what one read gives; tells whether there was anything.
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

/// Gives each line of a file to `take`; a long file is never in memory as a whole. Lines that are not UTF-8 are left out.
pub fn each_line(mut file: File, take: &mut dyn FnMut(&str)) -> io::Result<()> {
    let mut bytes = Vec::new();
    while read_on(&mut file, &mut bytes)? {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = bytes.drain(..=end).collect();
            if let Ok(line) = std::str::from_utf8(&line) {
                take(line);
            }
        }
    }
    Ok(())
}

/// A file's content as text without the blanks around it; nothing where it cannot be read.
pub fn read(path: &str) -> String {
    let bytes = open(path, libc::O_RDONLY).and_then(|file| content(file, usize::MAX)).unwrap_or_default();
    String::from_utf8_lossy(bytes.trim_ascii()).into_owned()
}

/// Whether there is a file of this name, of whatever kind.
pub fn exists(path: &str) -> bool {
    may(path, libc::F_OK)
}

/// Whether this is a file that can be run. (A directory has the same right, and an entry `.` on top.)
pub fn is_program(path: &str) -> bool {
    may(path, libc::X_OK) && !exists(&format!("{path}/."))
}

fn may(path: &str, access: libc::c_int) -> bool {
    // SAFETY: the path is a C string that lives until the call is over.
    CString::new(path).is_ok_and(|path| unsafe { libc::access(path.as_ptr(), access) } == 0)
}
