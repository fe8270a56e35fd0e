//! The sysctls that let the kernel forward packets.

use std::fs::File;
use std::io::{self, Write};

use crate::error::{plain, Error};
use crate::host;
use crate::host::advertised;
use crate::host::nft;
use crate::net::Family;
use crate::sys::file::{open, read};
use crate::sys::log;
use crate::text::Escaped;

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

/// Whether forwarded packets that no rule is about get through: the policies of iptables' chain are given, of which there is
/// none, and that means ACCEPT, where it has no rule of anybody; and no table of nftables drops them.
pub fn is_open(policies: &[(Family, String)], family: Family) -> bool {
    policies.iter().all(|(of, policy)| *of != family || policy == "ACCEPT") && !nft::closes(family)
}

/// What a host that forwards does where nothing drops, and what closes it: where our rules are in iptables, its policy; else
/// a rule that leaves out what is balanced, since an accept in our own table would not help.
pub fn opens(family: Family, by_iptables: bool) -> String {
    let close = match (by_iptables, family) {
        (true, Family::V4) => "iptables -P FORWARD DROP, then paraglider start",
        (true, Family::V6) => "ip6tables -P FORWARD DROP, then paraglider start",
        (false, _) => "drop in a forward chain of nftables what is not `ct status dnat`",
    };
    format!(
        "this host forwards between all its interfaces whatever no rule drops, not only what is balanced, and goes on after \
         `stop`; if it is to forward nothing else: {close}"
    )
}

/// An interface that will go on taking router advertisements.
#[derive(Debug)]
struct Keep {
    /// Of its sysctl, which is open for writing.
    name: String,
    switch: File,
}

/// A sysctl that is open for writing.
#[derive(Debug)]
pub struct Forwarding {
    family: Family,
    switch: File,
    /// IPv6: interfaces that would lose what they have from router advertisements.
    keep: Vec<Keep>,
}

impl Forwarding {
    /// Opens it. If forwarding cannot be switched on, this is where it fails: before any rule is changed.
    pub fn prepare(family: Family) -> Result<Self, Error> {
        let switch = open(path(family), libc::O_WRONLY).map_err(|error| cannot_forward(family, &error))?;
        let mut keep = Vec::new();
        if family == Family::V6 {
            for interface in advertised::endangered() {
                let sysctl = advertised::accept_ra(&interface);
                match open(&sysctl.path, libc::O_WRONLY) {
                    Ok(switch) => keep.push(Keep { name: sysctl.name, switch }),
                    Err(error) => return Err(cannot_keep(&sysctl.name, &error)),
                }
            }
        }
        Ok(Forwarding { family, switch, keep })
    }

    /// Of this family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Switches forwarding on, and says so. Interfaces that live on router advertisements go on taking them.
    pub fn switch_on(&mut self) -> Result<(), Error> {
        // Before: the kernel drops their routes when forwarding is switched on. Without forwarding 2 means the same as 1.
        let mut names = String::new();
        for one in &mut self.keep {
            let name = &one.name;
            if let Err(error) = one.switch.write_all(b"2") {
                return Err(cannot_keep(name, &error));
            }
            names.push_str(if names.is_empty() { "" } else { ", " });
            names.push_str(name);
        }
        if !names.is_empty() {
            let names = Escaped(&names);
            log::info!(
                "set to 2, so that router advertisements are heard although this host forwards from now on: {names}"
            );
        }
        if let Err(error) = self.switch.write_all(b"1") {
            return Err(cannot_forward(self.family, &error));
        }
        log::info!("{} forwarding was off; switched it on ({}=1)", self.family, name(self.family));
        Ok(())
    }
}

/// What to say if forwarding would take the host's default route away.
fn cannot_keep(name: &str, error: &io::Error) -> Error {
    let why = plain(error);
    Error::system(format_args!(
        "IPv6 forwarding is off, and switching it on would take away the routes that this host has from router \
         advertisements, since {name} cannot be written ({why}); set {name}=2 from outside"
    ))
}

/// What to say if the sysctl cannot be written.
fn cannot_forward(family: Family, error: &io::Error) -> Error {
    let missing = error.raw_os_error() == Some(libc::ENOENT);
    // Then it was not read either.
    if missing && !host::has_proc() {
        return Error::system(format_args!(
            "cannot tell whether {family} forwarding is on, or switch it on: /proc is not mounted"
        ));
    }
    let why = match error.raw_os_error() {
        Some(libc::EROFS) => "/proc is read-only here".to_owned(),
        _ if missing && !host::knows(family) => format!("this kernel has no {family}"),
        _ if missing => format!("{} does not exist", path(family)),
        _ => plain(error),
    };
    let name = name(family);
    Error::system(format_args!(
        "{family} forwarding is off and cannot be switched on ({why}); set {name}=1 from outside"
    ))
}
