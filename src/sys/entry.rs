//! Where the C library enters the program. This is the part of the standard library's runtime that a program of one
//! thread needs; all of it (a handler for stack overflows, buffers for stdout) would take 4 KiB of the binary.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsString};
use std::os::unix::ffi::OsStringExt;

/// The words after the program's name, and what `crate::main` makes of them.
#[no_mangle]
extern "C" fn main(count: libc::c_int, words: *const *const libc::c_char) -> libc::c_int {
    open_what_is_closed();
    // A reader that has gone away shall be an error, not the end in the middle of a change.
    // SAFETY: no handler of ours is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let mut given = Vec::new();
    for at in 1..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the C library hands over `count` C strings, which live as long as the program.
        given.push(OsString::from_vec(unsafe { CStr::from_ptr(*words.add(at)) }.to_bytes().to_vec()));
    }
    crate::main(given)
}

/// Whoever started the program with stdin, stdout or stderr closed would find his words in the first file that it opens.
fn open_what_is_closed() {
    // SAFETY: the path is a C string, and no memory is touched.
    unsafe {
        loop {
            match libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) {
                libc::STDIN_FILENO | libc::STDOUT_FILENO | libc::STDERR_FILENO => {}
                file => {
                    libc::close(file);
                    return;
                }
            }
        }
    }
}
