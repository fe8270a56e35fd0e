//! What `make install` and `make deb` give: the right files and nothing else, and a unit that does its job under a real
//! systemd, or at least with the rights that it leaves.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

#[path = "../netns/lab.rs"]
mod lab;

mod deb;
mod firewalls;
mod install;
mod machine;
mod unit;
mod watch;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use lab::Variant;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The static binary of this machine, which all of these install.
fn binary() -> PathBuf {
    let path = Path::new(ROOT).join("target/dist/x86_64-unknown-linux-musl/paraglider");
    assert!(path.exists(), "{} is missing: make cross TARGET=x86_64-unknown-linux-musl", path.display());
    path
}

/// `make install` and the like.
fn make(goal: &str, prefix: &str, dir: &Path) -> String {
    let words = format!("make -C '{ROOT}' {goal} PREFIX={prefix} DESTDIR={}", dir.display());
    lab::sh(&format!("{words} BINARY='{}'", binary().display()))
}

/// All below a directory: `755 /usr/sbin/paraglider`, directories as `/usr/`, symbolic links as `link /usr/x`.
fn files(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    collect(dir, dir, &mut all);
    all.sort();
    all
}

fn collect(top: &Path, dir: &Path, all: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(top).unwrap().display().to_string();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_symlink() {
            all.push(format!("link /{name}"));
        } else if meta.is_dir() {
            all.push(format!("{:o} /{name}/", meta.permissions().mode() & 0o7777));
            collect(top, &path, all);
        } else {
            all.push(format!("{:o} /{name}", meta.permissions().mode() & 0o7777));
        }
    }
}

/// A unit, as it is in the repository.
fn unit(name: &str) -> String {
    fs::read_to_string(format!("{ROOT}/contrib/systemd/{name}.service")).unwrap()
}

/// The units that flush rules or put theirs in front of ours.
const FIREWALLS: [&str; 10] = [
    "docker",
    "ferm",
    "firewalld",
    "ip6tables",
    "iptables",
    "libvirtd",
    "netfilter-persistent",
    "nftables",
    "shorewall",
    "ufw",
];

/// What makes each of them take our rules along, and the directories of that, below a prefix.
fn links(prefix: &str) -> Vec<String> {
    let of = |name: &&str| {
        let dir = format!("{prefix}/lib/systemd/system/{name}.service.wants");
        [format!("link {dir}/paraglider-again.service"), format!("755 {dir}/")]
    };
    FIREWALLS.iter().flat_map(of).collect()
}

/// The values of a key of the unit that puts the rules in force.
fn unit_says(key: &str) -> Vec<String> {
    let unit = unit("paraglider");
    let value = |line: &str| Some(line.strip_prefix(key)?.strip_prefix('=')?.to_owned());
    unit.lines().filter_map(value).collect()
}

/// Tells a story in a laboratory of its own; it is known by the name of its test.
fn in_lab(test: &str, variant: Variant, story: fn(&lab::Lab)) {
    let Some(mut command) = lab::entrance(&["--exact", test, "--nocapture", "--test-threads=1"]) else {
        return story(&lab::Lab::new(variant));
    };
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    text.lines().filter(|line| line.contains("skipped: ")).for_each(|line| println!("{line}"));
}
