//! What the host must provide besides netfilter: rights, forwarding, a lock, addresses and routes.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd};

use crate::error::{fail, Error};
use crate::say;
use crate::service::{Endpoint, Family, Service};
use crate::signals;
use crate::socket;

/// How long another run of Paraglider is waited for, in milliseconds.
const PATIENCE: u64 = 10_000;

/// Fails with the name of the capability that this process lacks. The old iptables opens a raw socket on top.
pub fn may_change_rules(with_raw_socket: bool) -> Result<(), Error> {
    let status = read("/proc/self/status");
    let effective =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim_ascii(), 16).ok());
    // Without /proc nobody can tell; iptables will say it.
    let Some(effective) = effective else { return Ok(()) };
    // The bits are those of linux/capability.h.
    for (bit, name, needed) in [(12, "CAP_NET_ADMIN", true), (13, "CAP_NET_RAW", with_raw_socket)] {
        if needed && effective & (1 << bit) == 0 {
            return fail!("this needs {name}, which this process does not have; run it as root");
        }
    }
    Ok(())
}

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
            signals::pause(20);
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

/// Opens a file (open(2)). No program that we start inherits it. (The standard library's way is 1 KiB of the binary.)
pub fn open(path: &str, flags: libc::c_int) -> io::Result<File> {
    open_inherited(path, flags | libc::O_CLOEXEC)
}

/// Opens a file that the programs that we start inherit.
#[allow(unsafe_code)]
fn open_inherited(path: &str, flags: libc::c_int) -> io::Result<File> {
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
#[allow(unsafe_code)]
pub fn link(path: &str) -> Option<String> {
    let path = CString::new(path).ok()?;
    let mut target = vec![0; 4096];
    // SAFETY: `path` is a C string that lives until the call is over; the kernel writes at most as many bytes as there are.
    let length = unsafe { libc::readlink(path.as_ptr(), target.as_mut_ptr().cast(), target.len()) };
    target.truncate(usize::try_from(length).ok()?);
    String::from_utf8(target).ok()
}

/// Locks a file until it is closed, for this process alone or (`shared`) beside others, unless somebody else has it.
#[allow(unsafe_code)]
pub fn try_lock(file: &File, shared: bool) -> bool {
    let how = if shared { libc::LOCK_SH } else { libc::LOCK_EX };
    // SAFETY: `file` is open, and no memory of ours is touched.
    unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) == 0 }
}

/// The sysctl that lets the kernel forward.
pub fn forwarding_path(family: Family) -> &'static str {
    match family {
        Family::V4 => "/proc/sys/net/ipv4/ip_forward",
        Family::V6 => "/proc/sys/net/ipv6/conf/all/forwarding",
    }
}

/// The sysctl's usual name.
pub fn forwarding_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "net.ipv4.ip_forward",
        Family::V6 => "net.ipv6.conf.all.forwarding",
    }
}

/// Whether this kernel knows the family at all.
pub fn knows(family: Family) -> bool {
    family == Family::V4 || exists("/proc/net/if_inet6")
}

/// Whether the kernel forwards.
pub fn forwards(family: Family) -> bool {
    !["", "0"].contains(&read(forwarding_path(family)).as_str())
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
        let switch = open(forwarding_path(family), libc::O_WRONLY).map_err(cannot_forward(family))?;
        Ok(Forwarding { family, switch })
    }

    /// Switches forwarding on, and says so.
    pub fn switch_on(mut self) -> Result<(), Error> {
        self.switch.write_all(b"1").map_err(cannot_forward(self.family))?;
        say::info!("{} forwarding was off; switched it on ({}=1)", self.family, forwarding_name(self.family));
        Ok(())
    }
}

fn cannot_forward(family: Family) -> impl FnOnce(io::Error) -> Error {
    move |error| {
        let name = forwarding_name(family);
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

/// The names of the network interfaces (proc_pid_net(5)).
pub fn interfaces() -> Vec<String> {
    let table = read("/proc/net/dev");
    table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim_ascii().to_owned())).collect()
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

#[allow(unsafe_code)]
fn may(path: &str, access: libc::c_int) -> bool {
    // SAFETY: the path is a C string that lives until the call is over.
    CString::new(path).is_ok_and(|path| unsafe { libc::access(path.as_ptr(), access) } == 0)
}

/// An environment variable; what is not UTF-8 in it is replaced.
#[allow(unsafe_code)]
pub fn variable(name: &CStr) -> Option<String> {
    // SAFETY: both are C strings, and nobody changes the environment: there is one thread.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

/// Whether this host has the address.
pub fn has_address(ip: IpAddr) -> bool {
    // To a second IPv4 address of a network packets would come from the first one, unless they are told to come from the
    // second, which those of a host that does not have it cannot.
    let from = if ip.is_ipv4() { ip } else { Ipv6Addr::UNSPECIFIED.into() };
    socket::source(from, ip).is_ok_and(|source| source == ip)
}

/// The address that this host would use towards `to`; no packet is sent.
pub fn route(to: IpAddr) -> io::Result<IpAddr> {
    let any = match to {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    socket::source(any, to)
}

/// Milliseconds since the machine was started. Only this clock is good for waiting: a board without a clock of its own
/// jumps by years when it learns the date.
#[allow(unsafe_code)]
pub fn clock() -> u64 {
    // SAFETY: `time` is ours for the time of the call, which cannot fail: the clock exists.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        time
    };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// The bind through which the administrator is logged in by SSH, if it is the bind of one of `services`: taking it would
/// cut him off.
pub fn own_ssh(services: &[Service]) -> Option<Endpoint> {
    let connection = variable(c"SSH_CONNECTION").or_else(ssh_connection_of_parents)?;
    // Client address and port, server address and port (ssh(1)).
    let mut words = connection.split_ascii_whitespace().skip(2);
    let here = Endpoint::of(words.next()?, words.next()?)?;
    services.iter().map(|service| service.bind).find(|bind| *bind == here)
}

/// sudo and su take the variable away; the shell that called them still has it.
fn ssh_connection_of_parents() -> Option<String> {
    let mut process = "self".to_owned();
    // A line of ancestors is short, and this one ends.
    for _ in 0..16 {
        let status = read(&format!("/proc/{process}/status"));
        process = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim_ascii().to_owned();
        let environment = read(&format!("/proc/{process}/environ"));
        if let Some(value) = environment.split('\0').find_map(|entry| entry.strip_prefix("SSH_CONNECTION=")) {
            return Some(value.to_owned());
        }
    }
    None
}
