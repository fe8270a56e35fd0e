//! The sysctls that let the kernel forward packets.

use std::fs::File;
use std::io::{self, Write};

use crate::error::{plain, Error};
use crate::host;
use crate::net::Family;
use crate::sys::file::{open, read};
use crate::sys::log;

/// The file of the sysctl.
pub fn path(family: Family) -> &'static str {
    match family {
        Family::V4 => "/proc/sys/net/ipv4/ip_forward",
        Family::V6 => "/proc/sys/net/ipv6/conf/all/forwarding",
    }
}

/// The name of the sysctl, as sysctl(8) has it.
pub fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "net.ipv4.ip_forward",
        Family::V6 => "net.ipv6.conf.all.forwarding",
    }
}

/// Whether the kernel forwards. `false` also if that cannot be read.
pub fn forwards(family: Family) -> bool {
    !["", "0"].contains(&read(path(family)).as_str())
}

/// A sysctl that is open for writing.
#[derive(Debug)]
pub struct Forwarding {
    family: Family,
    switch: File,
}

impl Forwarding {
    /// Opens it. If forwarding cannot be switched on, this is where it fails: before any rule is changed.
    pub fn prepare(family: Family) -> Result<Self, Error> {
        let switch = open(path(family), libc::O_WRONLY).map_err(cannot_forward(family))?;
        Ok(Forwarding { family, switch })
    }

    /// Switches forwarding on, and says so.
    pub fn switch_on(&mut self) -> Result<(), Error> {
        self.switch.write_all(b"1").map_err(cannot_forward(self.family))?;
        log::info!("{} forwarding was off; switched it on ({}=1)", self.family, name(self.family));
        Ok(())
    }
}

/// What to say if the sysctl cannot be written.
fn cannot_forward(family: Family) -> impl FnOnce(io::Error) -> Error {
    move |error| {
        let name = name(family);
        let why = match error.raw_os_error() {
            Some(libc::EROFS) => "/proc is read-only here".to_owned(),
            // Then it was not read either.
            Some(libc::ENOENT) if !host::has_proc() => {
                return Error::system(format_args!(
                    "cannot tell whether {family} forwarding is on, or switch it on: /proc is not mounted"
                ));
            }
            Some(libc::ENOENT) if !host::knows(family) => format!("this kernel has no {family}"),
            Some(libc::ENOENT) => format!("{} does not exist", path(family)),
            _ => plain(&error),
        };
        Error::system(format_args!(
            "{family} forwarding is off and cannot be switched on ({why}); set {name}=1 from outside"
        ))
    }
}
