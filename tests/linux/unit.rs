//! The unit: its words, its rights, and its life under a real systemd.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::lab::{self, ask_often, serve, sh, Held, Lab, Variant};
use crate::machine::Machine;
use crate::{in_lab, make, unit_says};

pub const BIND: &str = "10.9.0.1:4444";

pub fn shares(backends: &[u8], each: usize) -> BTreeMap<String, usize> {
    backends.iter().map(|n| (format!("b{n} 10.2.0.1"), each)).collect()
}

pub fn config(backends: &[u8]) -> String {
    let list: String = backends.iter().map(|n| format!("    - 10.2.0.1{n}:80\n")).collect();
    format!("frontend:\n  bind: {BIND}\n  privateip: 10.2.0.1\n  backends:\n{list}")
}

fn forwarding() -> String {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim().into()
}

#[test]
fn systemd_understands_every_word() {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        return println!("skipped: verify: there is no systemd-analyze here");
    }
    let dir = tempfile::tempdir().unwrap();
    make("install", "/usr", dir.path());
    let units = dir.path().join("usr/lib/systemd/system");
    const UNITS: [&str; 4] = ["paraglider", "paraglider-watch", "paraglider-again", "paraglider-flushed"];
    let unit_files = UNITS.map(|name| format!("{name}.service"));
    for name in &unit_files {
        // Of a root that has the program, the man page and the shell's few.
        let unit = units.join(name);
        let text = fs::read_to_string(&unit).unwrap();
        let text = text.replace("/usr/sbin/", &format!("{}/usr/sbin/", dir.path().display()));
        fs::write(&unit, text.replace("Documentation=man:paraglider(8)\n", "")).unwrap();
    }
    for name in &unit_files {
        let unit = units.join(name);
        let mut verify = Command::new("systemd-analyze");
        verify
            .args(["verify", "--recursive-errors=no"])
            .arg(&unit)
            .env("SYSTEMD_UNIT_PATH", format!("{}:", units.display()));
        let output = verify.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("paraglider"), "{name}: {said}");
        let words = ["security", "--offline=yes", "--threshold=25", "--no-pager"];
        let output = Command::new("systemd-analyze").args(words).arg(&unit).output().unwrap();
        // 25 of 100: what needs CAP_NET_ADMIN in the host's network cannot get far below.
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Without systemd: the words of the unit, with the capabilities that it leaves, on any host.
mod its_capabilities_are_enough {
    use super::*;

    #[test]
    fn nft() {
        in_lab("unit::its_capabilities_are_enough::nft", Variant::Nft, story);
    }

    #[test]
    fn legacy() {
        in_lab("unit::its_capabilities_are_enough::legacy", Variant::Legacy, story);
    }

    #[test]
    fn netlink() {
        in_lab("unit::its_capabilities_are_enough::netlink", Variant::Netlink, story);
    }

    fn story(lab: &Lab) {
        let dir = lab.path("installed");
        make("install", "/usr", &dir);
        // An /etc over this one, in this mount namespace alone.
        let etc = lab.path("etc");
        let over = |name: &str| etc.join(name).display().to_string();
        sh(&format!("mkdir -p {0}/upper {0}/work", etc.display()));
        sh(&format!(
            "mount -t tmpfs etc {0} && mkdir {0}/upper {0}/work && mount -t overlay -o \
             lowerdir=/etc,upperdir={1},workdir={2} etc /etc",
            etc.display(),
            over("upper"),
            over("work")
        ));
        fs::create_dir_all("/etc/paraglider").unwrap();
        fs::write("/etc/paraglider/glider.yaml", config(&[1, 2, 3])).unwrap();
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        for backend in ["b1", "b2", "b3"] {
            serve(backend, 80);
        }

        let [bounding] = &unit_says("CapabilityBoundingSet")[..] else { panic!("one line") };
        let set: String = bounding.split(' ').map(|name| format!(",+{}", name[4..].to_lowercase())).collect();
        let run = |words: &str| {
            let mut command = Command::new("setpriv");
            command.arg(format!("--bounding-set=-all{set}")).arg(format!("--inh-caps=-all{set}"));
            // Under root's shell, as systemd would start it: the words of the unit and nothing else.
            command.arg("--no-new-privs").args(words.replacen('/', &format!("{}/", dir.display()), 1).split(' '));
            let output = command.env_remove("SSH_CONNECTION").output().unwrap();
            assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let ours = |key: &str| unit_says(key).concat();
        run(&ours("ExecStart"));
        assert_eq!(forwarding(), "1");
        assert_eq!(ask_often("client", BIND, 9), shares(&[1, 2, 3], 3));
        fs::write("/etc/paraglider/glider.yaml", config(&[1, 2])).unwrap();
        run(&unit_says("ExecReload")[1]);
        assert_eq!(ask_often("client", BIND, 8), shares(&[1, 2], 4));
        let status = run("/usr/sbin/paraglider status");
        // The counters of nftables outlive a reload.
        let taken = if lab.variant == Variant::Netlink { "7 taken" } else { "4 taken" };
        assert!(status.contains("in force") && status.contains(taken), "{status}");
        run("/usr/sbin/paraglider check");
        run("/usr/sbin/paraglider stop");
        assert_eq!(lab.ours(), Vec::<String>::new());
    }
}

/// The package on a machine with a real systemd, from its installation into an image to its removal.
mod it_lives_with_systemd {
    use super::*;

    #[test]
    fn nft() {
        in_lab("unit::it_lives_with_systemd::nft", Variant::Nft, story);
    }

    #[test]
    fn legacy() {
        in_lab("unit::it_lives_with_systemd::legacy", Variant::Legacy, story);
    }

    #[test]
    fn netlink() {
        in_lab("unit::it_lives_with_systemd::netlink", Variant::Netlink, story);
    }

    fn story(lab: &Lab) {
        let mut machine = match Machine::with_package(lab) {
            Ok(machine) => machine,
            Err(why) => return println!("skipped: systemd: {why}"),
        };
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();

        // Into an image: nothing runs there, and nothing is started.
        machine.ok("dpkg --no-triggers -i /var/tmp/p.deb");
        let yaml = machine.path("/etc/paraglider/glider.yaml");
        assert!(!yaml.exists());
        fs::write(&yaml, config(&[1, 2, 3])).unwrap();
        assert_eq!(lab.ours(), Vec::<String>::new());

        // At boot the rules come by themselves, whatever was off.
        if let Err(why) = machine.boot() {
            return println!("skipped: systemd: {why}");
        }
        assert_eq!(machine.ok("systemctl is-active paraglider").trim(), "active", "{}", machine.journal());
        assert_eq!(forwarding(), "1");
        assert_eq!(ask_often("client", BIND, 9), shares(&[1, 2, 3], 3));
        assert!(machine.ok("paraglider status").contains(lab.variant.engine()));
        // Nothing stays that would use memory.
        assert_eq!(machine.ok("systemctl show --value --property=MainPID paraglider").trim(), "0");

        // Reload: new connections see the new config, a held one stays. A wrong config changes nothing, and is told.
        let held = lab::inside("client", || {
            let held = Held::open(BIND.parse().unwrap()).unwrap();
            let first = held.ask().unwrap();
            (held, first)
        });
        let (held, first) = held.join().unwrap();
        fs::write(&yaml, config(&[1, 2])).unwrap();
        machine.ok("systemctl reload paraglider");
        assert_eq!(ask_often("client", BIND, 8), shares(&[1, 2], 4));
        assert_eq!(held.ask().unwrap(), first);
        fs::write(&yaml, "frontend: 1\n").unwrap();
        assert!(!machine.sh("systemctl reload paraglider").0, "a wrong config was reloaded");
        assert!(machine.journal().contains("glider.yaml:1:"), "{}", machine.journal());
        assert_eq!(ask_often("client", BIND, 8), shares(&[1, 2], 4));
        fs::write(&yaml, config(&[1, 2])).unwrap();
        machine.ok("systemctl reload paraglider");

        // A restart is no gap either; a broken config fails, and changes nothing.
        machine.ok("systemctl restart paraglider");
        assert_eq!(held.ask().unwrap(), first, "cut by a restart");
        fs::write(&yaml, "frontend: 1\n").unwrap();
        assert!(!machine.sh("systemctl restart paraglider").0, "a wrong config was started");
        assert_eq!(ask_often("client", BIND, 8), shares(&[1, 2], 4));
        fs::write(&yaml, config(&[1, 2])).unwrap();
        machine.ok("systemctl start paraglider");

        // An upgrade writes no rule: the counters go on.
        let before = lab.saved(true);
        machine.ok("dpkg --no-triggers -i /var/tmp/p.deb");
        let same = |text: &str| {
            text.lines()
                .filter(|line| line.contains("DNAT") || line.contains("counter packets"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(same(&lab.saved(true)), same(&before));
        assert_eq!(ask_often("client", BIND, 8), shares(&[1, 2], 4));

        // There is no limit.
        machine.ok("for i in 1 2 3 4 5 6 7; do systemctl restart paraglider || exit 1; done");

        // What the administrator stopped is not started by an upgrade.
        machine.ok("systemctl stop paraglider");
        machine.ok("dpkg --no-triggers -i /var/tmp/p.deb");
        assert_eq!(lab.ours(), Vec::<String>::new());
        machine.ok("systemctl start paraglider");

        // Stop; and a start without a config fails, and says which file is missing.
        machine.ok("systemctl stop paraglider");
        assert_eq!(lab.ours(), Vec::<String>::new());
        fs::rename(&yaml, yaml.with_extension("old")).unwrap();
        assert!(!machine.sh("systemctl start paraglider").0, "it started without a config");
        assert!(
            machine.journal().contains("/etc/paraglider/glider.yaml: cannot read the config"),
            "{}",
            machine.journal()
        );
        assert!(machine.sh("systemctl is-failed paraglider").0);
        // Installing is no failure without one.
        let said = machine.ok("dpkg --no-triggers -i /var/tmp/p.deb");
        assert!(said.contains("write /etc/paraglider/glider.yaml"), "{said}");
        fs::rename(yaml.with_extension("old"), &yaml).unwrap();

        // What was switched off stays off.
        machine.ok("systemctl disable paraglider");
        machine.ok("dpkg --no-triggers -i /var/tmp/p.deb");
        assert!(machine.sh("systemctl is-enabled paraglider").1.contains("disabled"));
        machine.ok("systemctl enable paraglider");

        // Removal takes the rules along and leaves the config.
        machine.ok("systemctl start paraglider");
        assert_eq!(ask_often("client", BIND, 8), shares(&[1, 2], 4));
        machine.ok("dpkg --no-triggers -r paraglider");
        assert_eq!(lab.ours(), Vec::<String>::new());
        assert!(!machine.path("/usr/sbin/paraglider").exists());
        assert_eq!(fs::read_to_string(&yaml).unwrap(), config(&[1, 2]));

        // A first installation over a config starts; and rules that were started by hand are removed too.
        machine.ok("dpkg --no-triggers -i /var/tmp/p.deb");
        assert_eq!(ask_often("client", BIND, 8), shares(&[1, 2], 4));
        machine.ok("systemctl stop paraglider && paraglider start");
        machine.ok("dpkg --no-triggers -P paraglider");
        assert_eq!(lab.ours(), Vec::<String>::new());
        assert_eq!(fs::read_to_string(&yaml).unwrap(), config(&[1, 2]));
    }
}
