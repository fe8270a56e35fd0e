//! Starting a program (posix_spawn(3)), and the environment.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::ptr;

use crate::sys::signal;

/// An environment variable; what is not UTF-8 in it is replaced.
pub fn variable(name: &CStr) -> Option<String> {
    // SAFETY: both are C strings, and nobody changes the environment: there is one thread.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

/// Our environment with LC_ALL=C before it: the first entry of a name is the one that counts (getenv(3)). It ends with a
/// null.
fn environment() -> Vec<*mut libc::c_char> {
    extern "C" {
        /// environ(7)
        static environ: *const *mut libc::c_char;
    }
    let mut environment = vec![c"LC_ALL=C".as_ptr().cast_mut()];
    // SAFETY: `environ` is null (after clearenv(3)) or a list of C strings that ends with a null; nobody else changes it:
    // there is one thread.
    unsafe {
        let mut next = environ;
        while !next.is_null() && !(*next).is_null() {
            environment.push(*next);
            next = next.add(1);
        }
    }
    environment.push(ptr::null_mut());
    environment
}

/// Starts `words` (the first is the path) with these three files as stdin, stdout and stderr; returns its process number.
/// It has no signal blocked or ignored because of us: we block what signalfd(2) tells of, and a program that inherits
/// that could not be ended by SIGTERM or Ctrl-C.
pub(super) fn spawn(words: &[CString], files: [&File; 3]) -> io::Result<libc::pid_t> {
    let path = words.first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut pointers: Vec<*mut libc::c_char> = words.iter().map(|word| word.as_ptr().cast_mut()).collect();
    pointers.push(ptr::null_mut());
    let environment = environment();
    let flags = (libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF) as libc::c_short;
    let mut process = 0;
    // SAFETY: `pointers` and `environment` are lists of C strings that end with a null, live until the call is over and
    // are not written to; `actions` and `attributes` are made by their init functions before they are used, and freed
    // after. (Neither init function can fail: they only fill in a struct.)
    let error = unsafe {
        let mut actions = mem::zeroed();
        let mut attributes = mem::zeroed();
        libc::posix_spawn_file_actions_init(&mut actions);
        libc::posix_spawnattr_init(&mut attributes);
        libc::posix_spawnattr_setsigmask(&mut attributes, &signal::set(&[]));
        libc::posix_spawnattr_setsigdefault(&mut attributes, &signal::set(&signal::IGNORED));
        libc::posix_spawnattr_setflags(&mut attributes, flags);
        let mut error = 0;
        for (number, file) in (0..).zip(files) {
            if error == 0 {
                error = libc::posix_spawn_file_actions_adddup2(&mut actions, file.as_raw_fd(), number);
            }
        }
        if error == 0 {
            error = libc::posix_spawn(
                &mut process,
                path.as_ptr(),
                &actions,
                &attributes,
                pointers.as_ptr(),
                environment.as_ptr(),
            );
        }
        libc::posix_spawnattr_destroy(&mut attributes);
        libc::posix_spawn_file_actions_destroy(&mut actions);
        error
    };
    match error {
        0 => Ok(process),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
