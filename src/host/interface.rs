//! The network interfaces of this host, and their sysctls.

use crate::net::Family;
use crate::sys::file;
use crate::text::{has, Escaped};

/// The names of all interfaces (proc_pid_net(5)).
pub fn names() -> Vec<String> {
    let table = file::read("/proc/net/dev");
    let mut names = Vec::new();
    for line in table.lines() {
        if let Some((name, _)) = line.split_once(':') {
            names.push(name.trim_ascii().to_owned());
        }
    }
    names
}

/// Whether it is a bridge. (/sys shows the network in which it was mounted.)
pub fn is_bridge(name: &str) -> bool {
    file::exists(&format!("/sys/class/net/{name}/bridge"))
}

/// A sysctl of one interface; `default` stands for those that come later.
#[derive(Debug, Clone)]
pub struct Sysctl {
    /// Its file.
    pub path: String,
    /// Its name, as sysctl(8) takes it.
    pub name: String,
}

impl Sysctl {
    /// Of this interface.
    pub fn of(family: Family, interface: &str, key: &str) -> Self {
        let version = if family == Family::V4 { "ipv4" } else { "ipv6" };
        // Where the interface's name has dots, slashes separate the parts (sysctl(8)).
        let dot = if has(interface, '.') { '/' } else { '.' };
        Sysctl {
            path: format!("/proc/sys/net/{version}/conf/{interface}/{key}"),
            name: format!("net{dot}{version}{dot}conf{dot}{}{dot}{key}", Escaped(interface)),
        }
    }

    /// Its value; empty if it cannot be read.
    pub fn value(&self) -> String {
        file::read(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_is_named_so_that_sysctl_finds_it() {
        let name = |interface: &str| Sysctl::of(Family::V6, interface, "accept_ra").name;
        assert_eq!(name("wan"), "net.ipv6.conf.wan.accept_ra");
        assert_eq!(name("eth0.100"), "net/ipv6/conf/eth0.100/accept_ra");
        assert_eq!(name("a\u{1b}"), "net.ipv6.conf.a\\u{1b}.accept_ra");
    }
}
