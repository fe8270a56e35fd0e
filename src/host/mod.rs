//! The host: what it has and allows, besides rules of netfilter.

pub mod advertised;
pub mod before;
pub mod conntrack;
pub mod device;
pub mod forwarding;
pub mod interface;
pub mod nft;
pub mod remedy;
pub mod route;
pub mod ssh;
pub mod state;

use crate::error::{fail, Error};
use crate::net::Family;
use crate::sys::{file, socket};

/// Fails with the name of the capability that this process lacks (capabilities(7)). iptables-legacy opens a raw socket
/// too.
pub fn may_change_rules(with_raw_socket: bool) -> Result<(), Error> {
    let status = file::read("/proc/self/status");
    let effective =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim_ascii(), 16).ok());
    // Without /proc iptables will have to say it.
    let Some(effective) = effective else { return Ok(()) };
    // The bits are those of linux/capability.h.
    for (bit, name, needed) in [(12, "CAP_NET_ADMIN", true), (13, "CAP_NET_RAW", with_raw_socket)] {
        if needed && effective & (1 << bit) == 0 {
            return match file::user() {
                0 => fail!("this needs {name}, which root does not have here; give it to this container or service"),
                _ => fail!("this needs {name}, which this process does not have; run it as root"),
            };
        }
    }
    Ok(())
}

/// Whether /proc is there, without which most of the host's state cannot be read.
pub fn has_proc() -> bool {
    file::exists("/proc/self/status")
}

/// Whether this kernel has the family: without it, socket(2) fails with EAFNOSUPPORT. (/proc may not be mounted.)
pub fn knows(family: Family) -> bool {
    let socket = socket::open(family.domain(), libc::SOCK_DGRAM, 0);
    socket.map_or_else(|error| error.raw_os_error() != Some(libc::EAFNOSUPPORT), |_| true)
}
