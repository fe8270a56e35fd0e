//! What becomes of the rules when other units flush them, or put theirs in front of ours.

use std::fs;
use std::path::Path;

use crate::lab::{self, ask_often, Held, Lab, Variant};
use crate::machine::Machine;
use crate::unit::{config, shares, BIND};
use crate::{in_lab, unit, FIREWALLS, ROOT};

/// The other units are listed in three of ours.
#[test]
fn all_units_know_the_same() {
    let named = |name: &str, key: &str| {
        let text = unit(name);
        let lists = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let mut names: Vec<_> = lists.flat_map(|list| list.split(' ')).map(str::to_owned).collect();
        names.retain(|name| !name.contains("paraglider") && !name.contains("modprobe") && name != "network.target");
        names.sort();
        names
    };
    let wanted = FIREWALLS.map(|name| format!("{name}.service"));
    for (name, key) in [
        ("paraglider", "After"),
        ("paraglider", "ReloadPropagatedFrom"),
        ("paraglider-again", "After"),
        ("paraglider-flushed", "After"),
        ("paraglider-flushed", "PartOf"),
    ] {
        assert_eq!(named(name, key), wanted, "{name}: {key}");
    }
}

fn booted(lab: &Lab) -> Result<Machine, String> {
    let mut machine = Machine::with_package(lab)?;
    machine.ok("dpkg --no-triggers -i /var/tmp/p.deb");
    fs::write(machine.path("/etc/paraglider/glider.yaml"), config(&[1, 2])).unwrap();
    machine.boot()?;
    Ok(machine)
}

/// systemctl waits for the firewall, not for the units that follow it.
fn settle(machine: &Machine) {
    machine.ok("sleep 0.1; until [ -z \"$(systemctl list-jobs --no-legend)\" ]; do sleep 0.1; done");
}

fn flush(lab: &Lab) -> &'static str {
    match lab.variant {
        Variant::Nft => "nft flush ruleset",
        Variant::Legacy => "iptables -F; iptables -t nat -F; iptables -X; iptables -t nat -X",
        Variant::Netlink => "/opt/test/nft flush ruleset",
    }
}

/// Stand-ins of their names, which flush all rules whatever they are told. No watch runs.
mod whatever_they_do_the_rules_come_back {
    use super::*;

    #[test]
    fn nft() {
        in_lab("firewalls::whatever_they_do_the_rules_come_back::nft", Variant::Nft, story);
    }

    #[test]
    fn legacy() {
        in_lab("firewalls::whatever_they_do_the_rules_come_back::legacy", Variant::Legacy, story);
    }

    #[test]
    fn netlink() {
        in_lab("firewalls::whatever_they_do_the_rules_come_back::netlink", Variant::Netlink, story);
    }

    fn story(lab: &Lab) {
        let machine = match booted(lab) {
            Ok(machine) => machine,
            Err(why) => return println!("skipped: systemd: {why}"),
        };
        let held = lab::inside("client", || {
            let held = Held::open(BIND.parse().unwrap()).unwrap();
            let first = held.ask().unwrap();
            (held, first)
        });
        let (held, first) = held.join().unwrap();
        let unlimited = "[Unit]\nStartLimitIntervalSec=0\n";
        // So slow that without waiting for it the rules would be flushed.
        let flush = format!("/bin/sh -c 'sleep 0.2; {}'", flush(lab));
        let unit = format!(
            "{unlimited}[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={flush}\nExecReload={flush}\nExecStop={flush}\n"
        );
        // A daemon that dies and is started again by systemd.
        let daemon = format!(
            "{unlimited}[Service]\nExecStartPre={flush}\nExecStart=/bin/sleep 1000\nExecReload={flush}\nExecStopPost={flush}\n\
             Restart=on-failure\nRestartSec=100ms\n"
        );
        let own = machine.path("/etc/systemd/system");
        let is_daemon = |name: &str| ["docker", "firewalld", "libvirtd"].contains(&name);
        for name in FIREWALLS {
            let text = if is_daemon(name) { &daemon } else { &unit };
            fs::write(own.join(format!("{name}.service")), text).unwrap();
        }
        machine.ok("systemctl daemon-reload");
        let is_right = |what: &str| {
            settle(&machine);
            assert_eq!(ask_often("client", BIND, 4), shares(&[1, 2], 2), "{what}\n{}", machine.journal());
            assert_eq!(held.ask().unwrap(), first, "{what}: the connection was cut");
            machine.ok("systemctl is-active paraglider");
        };
        for name in FIREWALLS {
            // All are in the same lists: two of each kind tell for the others.
            let verbs: &[&str] = match name {
                "docker" | "firewalld" | "nftables" | "ufw" => &["start", "reload", "restart", "stop"],
                _ => &["restart", "stop"],
            };
            for verb in verbs {
                machine.ok(&format!("systemctl {verb} {name}"));
                is_right(&format!("{verb} {name}"));
            }
            if name == "docker" {
                machine.ok(&format!("systemctl start {name}"));
                is_right(&format!("start {name}"));
                machine.ok(&format!("systemctl kill -s KILL {name}; sleep 1"));
                is_right(&format!("death of {name}"));
                machine.ok(&format!("systemctl stop {name}"));
            }
        }
        // A config that has a mistake by now is no reason to leave the rules flushed.
        let yaml = machine.path("/etc/paraglider/glider.yaml");
        fs::write(&yaml, "frontend: 1\n").unwrap();
        machine.ok("systemctl start nftables");
        for verb in ["reload", "restart", "stop"] {
            machine.ok(&format!("systemctl {verb} nftables"));
            is_right(&format!("{verb} nftables"));
        }
        fs::write(&yaml, config(&[1, 2])).unwrap();
        // After a stop nothing comes back.
        machine.ok("systemctl stop paraglider");
        for verb in ["start", "reload", "restart", "stop"] {
            machine.ok(&format!("systemctl {verb} ufw"));
            settle(&machine);
            assert_eq!(lab.ours(), Vec::<String>::new(), "{verb}");
        }
        // As at boot: all are asked for, and the firewalls have not finished yet.
        machine.ok(&format!("systemctl start {} paraglider", FIREWALLS.join(" ")));
        settle(&machine);
        assert_eq!(ask_often("client", BIND, 4), shares(&[1, 2], 2), "start of all");
    }
}

/// It flushes nothing: each start puts rules before all others that drop what it does not know, as Docker 28 does.
mod docker_puts_its_rules_in_front {
    use super::*;

    #[test]
    fn nft() {
        in_lab("firewalls::docker_puts_its_rules_in_front::nft", Variant::Nft, story);
    }

    #[test]
    fn legacy() {
        in_lab("firewalls::docker_puts_its_rules_in_front::legacy", Variant::Legacy, story);
    }

    fn story(lab: &Lab) {
        let machine = match booted(lab) {
            Ok(machine) => machine,
            Err(why) => return println!("skipped: systemd: {why}"),
        };
        let before = "-D FORWARD -j DOCKER-FORWARD;-F DOCKER-FORWARD;-F DOCKER;-X DOCKER-FORWARD;-X DOCKER";
        let rules = "-P FORWARD DROP;-N DOCKER;-A DOCKER ! -i lan -o lan -j DROP;-N DOCKER-FORWARD;\
                     -A DOCKER-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT;\
                     -A DOCKER-FORWARD -j DOCKER;-I FORWARD -j DOCKER-FORWARD";
        let line = |rule: &str, prefix: &str| format!("ExecStartPre={prefix}/usr/sbin/iptables {rule}\n");
        let mut unit = "[Service]\nExecStart=/bin/sleep 1000\n".to_owned();
        before.split(';').for_each(|rule| unit.push_str(&line(rule, "-")));
        rules.split(';').for_each(|rule| unit.push_str(&line(rule, "")));
        fs::write(machine.path("/etc/systemd/system/docker.service"), unit).unwrap();
        machine.ok("systemctl daemon-reload");
        for verb in ["start", "restart", "restart"] {
            machine.ok(&format!("systemctl {verb} docker"));
            settle(&machine);
            assert_eq!(ask_often("client", BIND, 4), shares(&[1, 2], 2), "{verb}\n{}", machine.journal());
        }

        // With nftables there is no way through: it is told, by what, and the way back is a reload.
        let held = lab::inside("client", || {
            let held = Held::open(BIND.parse().unwrap()).unwrap();
            let first = held.ask().unwrap();
            (held, first)
        });
        let (held, first) = held.join().unwrap();
        let yaml = machine.path("/etc/paraglider/glider.yaml");
        fs::write(&yaml, format!("engine: nftables\n{}", config(&[1, 2]))).unwrap();
        machine.ok("systemctl reload paraglider");
        assert_eq!(ask_often("client", BIND, 1).into_keys().collect::<Vec<_>>(), ["TimedOut"]);
        // The policy comes into play where no rule drops them before.
        for by in [
            "`-A DOCKER ! -i lan -o lan -j DROP` drops balanced connections, and",
            "the policy of FORWARD is DROP, and",
        ] {
            machine.ok("systemctl reload paraglider");
            let table = format!("IPv4 filter table of {}", lab.variant.engine());
            let told = format!("{table}: {by} no rule of nftables can overrule it; write `engine: iptables`");
            let (done, said) = machine.sh("paraglider check");
            assert!(!done && said.contains(&format!("error    {told}")), "{said}");
            assert!(machine.journal().contains(&told), "{}", machine.journal());
            machine.sh("iptables -F DOCKER");
        }
        for engine in ["iptables", "nftables", "auto"] {
            fs::write(&yaml, format!("engine: {engine}\n{}", config(&[1, 2]))).unwrap();
            machine.ok("systemctl reload paraglider");
            assert_eq!(held.ask().unwrap(), first, "{engine}: the connection was cut");
        }
        assert_eq!(ask_often("client", BIND, 4), shares(&[1, 2], 2), "{}", machine.journal());
        machine.ok("paraglider check");
    }
}

/// It comes along with Docker or ufw, and goes again.
#[test]
fn iptables_is_installed_later() {
    in_lab("firewalls::iptables_is_installed_later", Variant::Netlink, |lab| {
        let machine = match booted(lab) {
            Ok(machine) => machine,
            Err(why) => return println!("skipped: systemd: {why}"),
        };
        let held = lab::inside("client", || {
            let held = Held::open(BIND.parse().unwrap()).unwrap();
            let first = held.ask().unwrap();
            (held, first)
        });
        let (held, first) = held.join().unwrap();
        let is = |engine: &str| {
            machine.ok("systemctl reload paraglider");
            let (_, said) = machine.sh("paraglider status");
            assert!(said.starts_with(&format!("in force ({engine}, ")), "{said}");
            assert_eq!(ask_often("client", BIND, 4), shares(&[1, 2], 2), "{engine}\n{}", machine.journal());
            assert_eq!(held.ask().unwrap(), first, "{engine}: the connection was cut");
        };
        let names = ["", "-save", "-restore"].map(|verb| format!("/usr/sbin/iptables{verb} /usr/sbin/ip6tables{verb}"));
        is("nftables");
        machine.ok("cp -a /opt/test/usr /");
        machine.ok(&format!("for name in {}; do ln -s /opt/test/xtables-nft-multi $name; done", names.join(" ")));
        assert!(machine.sh("paraglider status").1.contains("`paraglider start` moves them to iptables-nft"));
        is("iptables-nft");
        // Before it goes, the rules move back, as the README says.
        let yaml = machine.path("/etc/paraglider/glider.yaml");
        fs::write(&yaml, format!("engine: nftables\n{}", config(&[1, 2]))).unwrap();
        is("nftables");
        machine.ok(&format!("rm {}", names.join(" ")));
        fs::write(&yaml, config(&[1, 2])).unwrap();
        is("nftables");
        machine.ok("systemctl stop paraglider");
        assert_eq!(lab.ours(), Vec::<String>::new());
    });
}

/// The real ones, by systemctl and by their own commands.
mod real_ones {
    use super::*;

    #[test]
    fn nft() {
        in_lab("firewalls::real_ones::nft", Variant::Nft, story);
    }

    #[test]
    fn legacy() {
        in_lab("firewalls::real_ones::legacy", Variant::Legacy, story);
    }

    #[test]
    fn netlink() {
        in_lab("firewalls::real_ones::netlink", Variant::Netlink, story);
    }

    fn story(lab: &Lab) {
        let machine = match booted(lab) {
            Ok(machine) => machine,
            Err(why) => return println!("skipped: systemd: {why}"),
        };
        let is_right = |what: &str| {
            settle(&machine);
            assert_eq!(ask_often("client", BIND, 4), shares(&[1, 2], 2), "{what}\n{}", machine.journal());
        };
        is_right("boot");
        if lab.variant == Variant::Netlink {
            // A host whose firewall is nftables has nft, and the service.
            machine.ok("mv /opt/test/nft /usr/sbin");
        }
        if lab.variant != Variant::Legacy && machine.path("/lib/systemd/system/nftables.service").exists() {
            for line in [
                "systemctl start nftables",
                "systemctl reload nftables",
                "systemctl restart nftables",
                "systemctl stop nftables",
            ] {
                machine.ok(line);
                is_right(line);
            }
            if lab.variant == Variant::Netlink {
                // It is iptables' rules that netfilter-persistent saves.
                return nftables_drops(&machine, is_right);
            }
        } else if lab.variant != Variant::Legacy {
            println!("skipped: nftables.service is not installed here");
        }
        // The machine has the files of this system, and tests/setup has fetched what that lacks.
        if !machine.path("/usr/sbin/netfilter-persistent").exists() {
            let tools = Path::new(ROOT).join("target/tools/root");
            if !tools.join("usr/sbin/netfilter-persistent").exists() {
                return println!("skipped: netfilter-persistent: tests/setup could not fetch it");
            }
            let plugins = "usr/share/netfilter-persistent/plugins.d";
            let (tools, root) = (tools.display(), machine.path(""));
            let root = root.display();
            lab::sh(&format!(
                "cp {tools}/usr/sbin/netfilter-persistent {root}/usr/sbin && cp {tools}/{plugins}/* {root}/{plugins}"
            ));
            lab::sh(&format!("cp {tools}/lib/systemd/system/netfilter-persistent.service {root}/etc/systemd/system"));
        }
        // What is saved has none of our rules: so each load of it removes them.
        machine.ok(
            "mkdir -p /etc/iptables; systemctl daemon-reload; systemctl stop paraglider; netfilter-persistent save; systemctl start paraglider",
        );
        for line in [
            "systemctl start netfilter-persistent",
            "systemctl restart netfilter-persistent",
            "systemctl stop netfilter-persistent",
            "netfilter-persistent reload",
            "netfilter-persistent start",
            "netfilter-persistent flush",
        ] {
            machine.ok(line);
            is_right(line);
        }
        machine.ok("systemctl stop paraglider; netfilter-persistent reload");
        assert_eq!(lab.ours(), Vec::<String>::new());
    }

    /// What its forward chain drops, no rule in another table can let through: that is told, and what is named for it helps.
    fn nftables_drops(machine: &Machine, is_right: impl Fn(&str)) {
        let write = |rules: &str| {
            let chain = format!("type filter hook forward priority filter; policy drop;\n{rules}");
            let text = format!("flush ruleset\ntable inet filter {{\n chain forward {{\n{chain} }}\n}}\n");
            fs::write(machine.path("/etc/nftables.conf"), text).unwrap();
            machine.ok("systemctl restart nftables");
            settle(machine);
        };
        write("ct state established,related accept\n");
        assert_eq!(ask_often("client", BIND, 1).into_keys().collect::<Vec<_>>(), ["TimedOut"]);
        let told = "nftables: inet filter forward (priority 0): its policy drops the connections of 10.9.0.1:4444 to \
                    10.2.0.11:80, which no rule in another table can overrule; ";
        let journal = machine.sh("journalctl --no-pager --output=cat --unit=paraglider-again").1;
        assert!(journal.contains(told), "{journal}");
        let (code, said) = machine.sh("paraglider check");
        let remedy = said.lines().find_map(|line| line.strip_prefix("error    ")?.strip_prefix(told));
        let remedy = remedy.unwrap_or_else(|| panic!("{said}"));
        assert!(!code && remedy.starts_with("nft "), "{said}");
        // As it stands.
        machine.ok(remedy);
        is_right("the remedy");
        machine.ok("paraglider check");
        // And where it lasts.
        write("ct state established,related accept\nct status dnat accept\n");
        is_right("the remedy in nftables.conf");
        machine.ok("paraglider check");
    }
}
