//! Where the C library enters the program. Of the standard library's runtime a program of one thread needs only this; all
//! of it (a handler for stack overflows, buffers for stdout) would take 4 KiB of the binary.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsString};
use std::os::unix::ffi::OsStringExt;

use paraglider::sys::signal;

/// Calls `crate::main` with the arguments, without the program's name.
#[no_mangle]
extern "C" fn main(count: libc::c_int, words: *const *const libc::c_char) -> libc::c_int {
    open_what_is_closed();
    signal::reset();
    let mut given = Vec::new();
    for at in 1..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the C library hands over `count` C strings, which live as long as the program.
        given.push(OsString::from_vec(unsafe { CStr::from_ptr(*words.add(at)) }.to_bytes().to_vec()));
    }
    crate::main(given)
}

/// If we are started with fd 0, 1 or 2 closed, the first file that we open would get that number and receive our output.
fn open_what_is_closed() {
    // Where there is no /dev/null, a directory will do: writing to it is an error.
    for (path, how) in [(c"/dev/null", libc::O_RDWR), (c"/", libc::O_RDONLY)] {
        loop {
            // SAFETY: the path is a C string, and no other memory is touched.
            match unsafe { libc::open(path.as_ptr(), how) } {
                -1 => break,
                libc::STDIN_FILENO | libc::STDOUT_FILENO | libc::STDERR_FILENO => {}
                file => {
                    // SAFETY: nobody else knows this descriptor.
                    unsafe { libc::close(file) };
                    return;
                }
            }
        }
    }
}

/// exit(3), in place of musl's, which would bring its buffered files into the binary to flush them: 1.3 KiB. Nothing here
/// uses those, or atexit(3).
#[cfg(target_env = "musl")]
#[no_mangle]
extern "C" fn exit(status: libc::c_int) -> ! {
    // SAFETY: no memory is touched.
    unsafe { libc::_exit(status) }
}

/// sysconf(3), in place of musl's, which knows a hundred values: 1.4 KiB. Only malloc(3) calls it, for the size of a page.
#[cfg(target_env = "musl")]
#[no_mangle]
extern "C" fn sysconf(name: libc::c_int) -> libc::c_long {
    match name {
        // SAFETY: no memory is touched.
        libc::_SC_PAGESIZE => unsafe { libc::getauxval(libc::AT_PAGESZ) as libc::c_long },
        // That there is no such value.
        _ => -1,
    }
}
