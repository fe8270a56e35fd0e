//! The unit of the watch: beside a real systemd, it runs while, and only while, the config asks for health checks.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::lab::{ask_often, Lab, Variant};
use crate::machine::Machine;
use crate::unit::{config, shares, BIND};
use crate::{in_lab, unit};

const PATIENCE: Duration = Duration::from_secs(15);

/// A backend without a listener: if it is checked it is down; if not, it gets its share of connections.
const DEAD: &str = "10.2.0.13:81";

/// All write rules and nothing else.
#[test]
fn its_sandbox_is_that_of_the_other_units() {
    let sandbox = |name: &str| {
        let text = unit(name);
        let (_, rest) = text.split_once("# Rules need CAP_NET_ADMIN").unwrap();
        rest.split_once("[Install]").map_or(rest, |(sandbox, _)| sandbox).trim_end().to_owned()
    };
    let first = sandbox("paraglider")
        .replace("# AF_UNIX: to ask systemd whether this is a restart.\n", "")
        .replace(" AF_UNIX", "");
    for other in ["watch", "again", "flushed"] {
        assert_eq!(sandbox(&format!("paraglider-{other}")), first, "{other}");
    }
}

#[test]
fn nft() {
    in_lab("watch::nft", Variant::Nft, story);
}

#[test]
fn legacy() {
    in_lab("watch::legacy", Variant::Legacy, story);
}

#[test]
fn netlink() {
    in_lab("watch::netlink", Variant::Netlink, story);
}

fn checked(backends: &[u8]) -> String {
    let health = "  health: {interval: 200ms, timeout: 100ms, fall: 2, rise: 2}\n";
    config(backends).replace("  backends:\n", &format!("{health}  backends:\n    - {DEAD}\n"))
}

fn unchecked(backends: &[u8]) -> String {
    config(backends).replace("  backends:\n", &format!("  backends:\n    - {DEAD}\n"))
}

/// Waits until something is so.
fn until(machine: &Machine, what: &str, is: impl Fn() -> bool) {
    let since = Instant::now();
    while !is() {
        let journal = || machine.sh("journalctl --no-pager --lines=40").1;
        assert!(since.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}\n{}", journal());
        sleep(Duration::from_millis(50));
    }
}

/// The watches that systemd has started, without the programs that they are about to start, and without those that only
/// ask whether a watch is needed.
fn processes(machine: &Machine) -> Vec<String> {
    machine.sh("pgrep -P 1 -f 'paraglider watch --again$'").1.split_whitespace().map(str::to_owned).collect()
}

/// Whether connections go to [`DEAD`].
fn has_dead(lab: &Lab) -> bool {
    let ours = lab.ours();
    assert!(!ours.is_empty(), "the rules are gone");
    let Some(rule) = ours.iter().find(|rule| rule.ends_with(&format!(" {DEAD}"))) else { return false };
    if lab.variant != Variant::Netlink {
        return true;
    }
    // There the chain of a backend stays, and no rule leads to it.
    let (_, chain) = rule.split_once(" chain ").unwrap();
    let goto = format!("goto {}", chain.split(' ').next().unwrap());
    ours.iter().any(|rule| rule.split([',', '}']).any(|way| way.trim_end().ends_with(&goto)))
}

/// Waits until a watch runs and has taken [`DEAD`] out of the rules; returns its number.
fn is_at_work(lab: &Lab, machine: &Machine) -> String {
    until(machine, "the watch takes the dead backend out", || processes(machine).len() == 1 && !has_dead(lab));
    let (active, said) = machine.sh("systemctl status --no-pager --lines=20 paraglider-watch");
    assert!(active, "{said}");
    processes(machine).concat()
}

/// Waits until there is none.
fn is_away(machine: &Machine) {
    until(machine, "the watch ends", || processes(machine).is_empty());
    until(machine, "that is no failure", || machine.sh("systemctl is-active paraglider-watch").1.trim() == "inactive");
}

fn story(lab: &Lab) {
    let mut machine = match Machine::with_package(lab) {
        Ok(machine) => machine,
        Err(why) => return println!("skipped: systemd: {why}"),
    };
    machine.ok("dpkg --no-triggers -i /var/tmp/p.deb");
    let yaml = machine.path("/etc/paraglider/glider.yaml");
    let write = |text: &str| fs::write(&yaml, text).unwrap();

    // It comes at boot.
    write(&checked(&[1, 2]));
    if let Err(why) = machine.boot() {
        return println!("skipped: systemd: {why}");
    }
    let machine = machine;
    let first = is_at_work(lab, &machine);
    assert_eq!(ask_often("client", BIND, 8), shares(&[1, 2], 4));
    let journal = || machine.sh("journalctl --no-pager --output=cat --unit=paraglider-watch").1;
    until(&machine, "the journal tells", || journal().contains(&format!("{DEAD} of {BIND} is down")));

    // A reload gives it the new config; a broken one changes nothing.
    write(&checked(&[2]));
    machine.ok("systemctl reload paraglider");
    until(&machine, "the dead one is out again", || !has_dead(lab));
    assert_eq!(ask_often("client", BIND, 4), shares(&[2], 4));
    let rules = lab.saved(false);
    for broken in ["frontend: 1\n", "frontend:\n  health: {intervall: 2s}\n"] {
        write(broken);
        assert!(!machine.sh("systemctl reload paraglider").0, "a wrong config was reloaded");
        assert_eq!(lab.saved(false), rules);
    }
    assert_eq!(is_at_work(lab, &machine), first);

    // It is shot, and comes back; the rules are in force meanwhile.
    write(&checked(&[2]));
    machine.ok(&format!("kill -9 {first}"));
    assert_eq!(ask_often("client", BIND, 4), shares(&[2], 4));
    until(&machine, "systemd starts another one", || matches!(&processes(&machine)[..], [one] if *one != first));
    is_at_work(lab, &machine);

    // Without health checks it ends, and the rules stay, with all backends.
    write(&unchecked(&[2]));
    machine.ok("systemctl reload paraglider");
    is_away(&machine);
    until(&machine, "all backends are back", || has_dead(lab));
    // And does not come with a restart.
    machine.ok("systemctl restart paraglider");
    is_away(&machine);
    assert!(has_dead(lab));

    // It comes with a reload, unless it was switched off.
    write(&checked(&[1, 2]));
    machine.ok("systemctl disable paraglider-watch && systemctl reload paraglider");
    is_away(&machine);
    machine.ok("systemctl enable paraglider-watch && systemctl reload paraglider");
    let old = is_at_work(lab, &machine);

    // An upgrade puts the new version in its place.
    machine.ok("dpkg --no-triggers -i /var/tmp/p.deb");
    until(&machine, "the new one runs", || matches!(&processes(&machine)[..], [one] if *one != old));
    is_at_work(lab, &machine);
    machine.ok("systemctl restart paraglider");
    is_at_work(lab, &machine);

    // Neither a process nor a rule is left by a stop; nor by a removal.
    machine.ok("systemctl stop paraglider");
    assert!(processes(&machine).is_empty() && lab.ours().is_empty(), "{:?}", lab.ours());
    machine.ok("systemctl start paraglider");
    is_at_work(lab, &machine);
    machine.ok("dpkg --no-triggers -P paraglider");
    assert!(processes(&machine).is_empty() && lab.ours().is_empty(), "{:?}", lab.ours());
}
