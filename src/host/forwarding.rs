//! The switches that let the kernel forward.

use std::fs::File;
use std::io::{self, Write};

use crate::error::Error;
use crate::net::Family;
use crate::sys::file::{open, read};
use crate::sys::log;

/// The sysctl that lets the kernel forward.
pub fn path(family: Family) -> &'static str {
    match family {
        Family::V4 => "/proc/sys/net/ipv4/ip_forward",
        Family::V6 => "/proc/sys/net/ipv6/conf/all/forwarding",
    }
}

/// The sysctl's usual name.
pub fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "net.ipv4.ip_forward",
        Family::V6 => "net.ipv6.conf.all.forwarding",
    }
}

/// Whether the kernel forwards.
pub fn forwards(family: Family) -> bool {
    !["", "0"].contains(&read(path(family)).as_str())
}

/// A switch that can be thrown.
#[derive(Debug)]
pub struct Forwarding {
    family: Family,
    switch: File,
}

impl Forwarding {
    /// Fails, before anything is changed, where forwarding could not be switched on.
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

fn cannot_forward(family: Family) -> impl FnOnce(io::Error) -> Error {
    move |error| {
        let name = name(family);
        let why = match error.raw_os_error() {
            Some(libc::EROFS) => "/proc is read-only here".to_owned(),
            Some(libc::ENOENT) => format!("this kernel has no {family}"),
            _ => error.to_string(),
        };
        Error::system(format_args!(
            "{family} forwarding is off and cannot be switched on ({why}); set {name}=1 from outside"
        ))
    }
}
