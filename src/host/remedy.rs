//! How to get what is missing, by the commands of this system.

use crate::sys::file;

/// The kind of system: how something is installed on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// OpenWrt up to 24.10.
    Opkg,
    /// OpenWrt from 25.12 on.
    OpenWrtApk,
    /// Alpine.
    AlpineApk,
    /// Debian, Ubuntu and their derivatives.
    Apt,
    /// Buildroot: nothing can be installed, the image has to be built again.
    Buildroot,
    /// Any other.
    Other,
}

impl System {
    /// The system that we run on.
    pub fn here() -> Self {
        Self::of(&file::read("/etc/os-release"), file::exists)
    }

    /// Whether its service puts rules in force anew whenever an interface gets another address.
    pub fn follows_interfaces(self) -> bool {
        matches!(self, System::Opkg | System::OpenWrtApk)
    }

    /// How to install a package of OpenWrt.
    fn package(self, name: &str) -> String {
        let get = if self == System::Opkg { "opkg update && opkg install" } else { "apk update && apk add" };
        format!("{get} {name}")
    }

    fn of(os_release: &str, exists: fn(&str) -> bool) -> Self {
        let mut system = System::Other;
        for line in os_release.lines() {
            let Some((key, words)) = line.split_once('=') else { continue };
            if key != "ID" && key != "ID_LIKE" {
                continue;
            }
            for word in words.split(['"', ' ']) {
                system = match word {
                    "openwrt" => System::Opkg,
                    "debian" | "ubuntu" => System::Apt,
                    "alpine" => System::AlpineApk,
                    "buildroot" => System::Buildroot,
                    _ => continue,
                };
            }
        }
        if exists("/etc/openwrt_release") {
            system = System::Opkg;
        }
        if system == System::Opkg && (exists("/usr/bin/apk") || exists("/sbin/apk")) {
            system = System::OpenWrtApk;
        }
        system
    }
}

/// Services whose command also starts or ends the watch.
const SERVICES: [&str; 2] = ["/etc/init.d/paraglider", "/etc/init.d/S50paraglider"];

/// The command of this host's service that puts the config in force, if there is one.
pub fn service() -> Option<String> {
    let service = SERVICES.into_iter().find(|service| file::exists(service))?;
    Some(format!("{service} reload"))
}

/// What puts the config in force on this host.
pub fn start() -> String {
    service().unwrap_or_else(|| "paraglider start".to_owned())
}

/// A part of the kernel or of iptables that Paraglider needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Its name in our messages.
    pub what: &'static str,
    /// OpenWrt's package.
    pub openwrt: &'static str,
    /// The kernel option without `CONFIG_`, for iptables-legacy and for what both variants use.
    pub option: &'static str,
    /// The kernel module of that option.
    pub module: &'static str,
}

impl Need {
    /// How to get it on `system`.
    pub fn remedy(&self, system: System) -> String {
        let Need { openwrt, option, module, .. } = self;
        match system {
            System::Opkg | System::OpenWrtApk => system.package(openwrt),
            System::AlpineApk | System::Apt | System::Other => {
                format!("modprobe {module}, or a kernel with CONFIG_{option}=y; in a container, load it on the host")
            }
            System::Buildroot => format!("set CONFIG_{option}=y in the kernel's configuration (make linux-menuconfig)"),
        }
    }
}

/// How to get the iptables programs.
pub fn iptables(system: System) -> String {
    let packages = "iptables iptables-mod-ipopt kmod-ipt-nat kmod-ipt-conntrack";
    let get = match system {
        System::Opkg | System::OpenWrtApk => return system.package(packages),
        System::AlpineApk => "apk add iptables",
        System::Apt => "apt install iptables",
        System::Buildroot => "set BR2_PACKAGE_IPTABLES=y and build the image again",
        System::Other => "install the package that contains iptables and iptables-restore",
    };
    get.to_owned()
}

/// How to set a sysctl now and at every boot.
pub fn sysctl(system: System, name: &str, value: u64) -> String {
    let (set, too) = match system {
        System::Opkg | System::OpenWrtApk => ("echo ", " >>/etc/sysctl.conf && service sysctl restart"),
        _ => ("sysctl -w ", ", and a file in /etc/sysctl.d for the next boot"),
    };
    format!("{set}{name}={value}{too}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_told_apart() {
        let nothing = |_: &str| false;
        let apk = |path: &str| path == "/usr/bin/apk";
        assert_eq!(System::of("ID=debian\n", nothing), System::Apt);
        assert_eq!(System::of("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", nothing), System::Apt);
        assert_eq!(System::of("ID=\"openwrt\"\n", nothing), System::Opkg);
        assert_eq!(System::of("", |path| path == "/etc/openwrt_release"), System::Opkg);
        assert_eq!(System::of("ID=openwrt\n", apk), System::OpenWrtApk);
        assert_eq!(System::of("ID=alpine\n", apk), System::AlpineApk);
        assert_eq!(System::of("NAME=Buildroot\nID=buildroot\n", nothing), System::Buildroot);
        assert_eq!(System::of("", nothing), System::Other);
    }

    #[test]
    fn each_system_gets_its_own_remedy() {
        let need = Need {
            what: "x",
            openwrt: "iptables-mod-ipopt",
            option: "NETFILTER_XT_MATCH_STATISTIC",
            module: "xt_statistic",
        };
        for (system, word) in [
            (System::Opkg, "opkg install iptables-mod-ipopt"),
            (System::OpenWrtApk, "apk add iptables-mod-ipopt"),
            (System::Apt, "modprobe xt_statistic"),
            (System::Buildroot, "CONFIG_NETFILTER_XT_MATCH_STATISTIC=y"),
        ] {
            assert!(need.remedy(system).contains(word));
        }
        assert!(iptables(System::Buildroot).contains("BR2_PACKAGE_IPTABLES"));
    }
}
