//! What the host must provide besides netfilter: rights, forwarding, a lock, addresses and routes.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::say;
use crate::service::{Endpoint, Family};

/// How long another run of Paraglider is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Capabilities by bit (linux/capability.h).
const NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
const NET_RAW: (u32, &str) = (13, "CAP_NET_RAW");

/// Fails with the name of the capability that this process lacks. The old iptables opens a raw socket on top.
pub fn may_change_rules(with_raw_socket: bool) -> Result<(), Error> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    // Without /proc nobody can tell; iptables will say it.
    let Some(effective) = effective else { return Ok(()) };
    let needed = [Some(NET_ADMIN), with_raw_socket.then_some(NET_RAW)];
    let lacks = |(bit, _): &(u32, &str)| effective & (1 << bit) == 0;
    let lacking: Vec<&str> = needed.into_iter().flatten().filter(lacks).map(|(_, name)| name).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Error::system(format!(
        "this needs {}, which this process does not have; run it as root",
        lacking.join(" and ")
    )))
}

/// Keeps other runs of Paraglider out until it is dropped and every program started meanwhile has ended.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File);

impl Lock {
    /// Takes the lock, or waits for it. Two starts at once would both find nothing in force and both add their jumps.
    pub fn take() -> Result<Self, Error> {
        let path = lock_path();
        let shown = path.display();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::system(format!("cannot open the lock {shown}: {error}")))?;
        let since = Instant::now();
        while !try_lock(&file) {
            if since.elapsed() > PATIENCE {
                let seconds = PATIENCE.as_secs();
                return Err(Error::system(format!(
                    "another paraglider has held {shown} for {seconds} seconds; nothing was changed"
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Lock(file))
    }
}

/// Beside the lock of xtables, which moves with the variable that iptables knows too.
fn lock_path() -> PathBuf {
    let xtables =
        std::env::var_os("XTABLES_LOCKFILE").map_or_else(|| PathBuf::from("/run/xtables.lock"), PathBuf::from);
    let dir = xtables.parent().filter(|dir| dir.is_dir()).unwrap_or(Path::new("/var/run"));
    dir.join("paraglider.lock")
}

#[allow(unsafe_code)]
fn try_lock(file: &File) -> bool {
    let fd = file.as_raw_fd();
    // SAFETY: `fd` is open as long as `file` is borrowed, and neither call touches memory of ours. The second lets the
    // programs that we start inherit the lock: if we are killed while iptables-restore still writes, the next start
    // waits until it has finished.
    unsafe { libc::flock(fd, libc::LOCK_EX | libc::LOCK_NB) == 0 && libc::fcntl(fd, libc::F_SETFD, 0) == 0 }
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
    family == Family::V4 || Path::new("/proc/net/if_inet6").exists()
}

/// Whether the kernel forwards.
pub fn forwards(family: Family) -> bool {
    read(forwarding_path(family)).is_some_and(|value| value != "0")
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
        let switch = OpenOptions::new().write(true).open(forwarding_path(family)).map_err(cannot_forward(family))?;
        Ok(Forwarding { family, switch })
    }

    /// Switches forwarding on, and says so.
    pub fn switch_on(mut self) -> Result<(), Error> {
        self.switch.write_all(b"1").map_err(cannot_forward(self.family))?;
        say::info!("{} forwarding was off; switched it on ({}=1)", self.family, forwarding_name(self.family));
        Ok(())
    }
}

fn cannot_forward(family: Family) -> impl FnOnce(std::io::Error) -> Error {
    move |error| {
        let name = forwarding_name(family);
        let why = match error.kind() {
            ErrorKind::ReadOnlyFilesystem => "/proc is read-only here".to_owned(),
            ErrorKind::NotFound => format!("this kernel has no {family}"),
            _ => error.to_string(),
        };
        Error::system(format!(
            "{family} forwarding is off and cannot be switched on ({why}); set {name}=1 from outside"
        ))
    }
}

/// A file's content without the blanks around it.
pub fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Whether this host has the address.
pub fn has_address(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// The address that this host would use towards `to`; no packet is sent.
pub fn route(to: Endpoint) -> std::io::Result<IpAddr> {
    let any: SocketAddr = match to.family() {
        Family::V4 => ([0, 0, 0, 0], 0).into(),
        Family::V6 => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to.socket())?;
    Ok(socket.local_addr()?.ip())
}

/// The bind through which the administrator is logged in by SSH, if it is one of `binds`: taking it would cut him off.
pub fn own_ssh(mut binds: impl Iterator<Item = Endpoint>) -> Option<Endpoint> {
    let connection = std::env::var("SSH_CONNECTION").ok().or_else(ssh_connection_of_parents)?;
    // Client address and port, server address and port (ssh(1)).
    let mut words = connection.split_whitespace().skip(2);
    let (ip, port): (IpAddr, u16) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    binds.find(|bind| bind.ip() == ip && bind.port() == port)
}

/// sudo and su take the variable away; the shell that called them still has it.
fn ssh_connection_of_parents() -> Option<String> {
    let mut process = "self".to_owned();
    // A line of ancestors is short, and this one ends.
    for _ in 0..16 {
        let status = read(format!("/proc/{process}/status"))?;
        process = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned();
        let environment = fs::read(format!("/proc/{process}/environ")).ok()?;
        let variable = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"SSH_CONNECTION="));
        if let Some(value) = variable {
            return String::from_utf8(value.to_vec()).ok();
        }
    }
    None
}
