//! What a host has, besides rules of netfilter.

pub mod before;
pub mod conntrack;
pub mod forwarding;
pub mod nft;
pub mod remedy;
pub mod route;
pub mod ssh;
pub mod state;

use crate::error::{fail, Error};
use crate::net::Family;
use crate::sys::file::{exists, read};

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

/// The names of the network interfaces (proc_pid_net(5)).
pub fn interfaces() -> Vec<String> {
    let table = read("/proc/net/dev");
    table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim_ascii().to_owned())).collect()
}

/// Whether this kernel knows the family at all.
pub fn knows(family: Family) -> bool {
    family == Family::V4 || exists("/proc/net/if_inet6")
}
