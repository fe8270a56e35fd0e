//! `make install` and `make uninstall`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{binary, files, links, make, ROOT};

const INSTALLED: [&str; 7] = [
    "644 /lib/systemd/system/paraglider-again.service",
    "644 /lib/systemd/system/paraglider-flushed.service",
    "644 /lib/systemd/system/paraglider-watch.service",
    "644 /lib/systemd/system/paraglider.service",
    "644 /share/doc/paraglider/glider.yaml",
    "644 /share/man/man8/paraglider.8",
    "755 /sbin/paraglider",
];

fn below(dir: &Path, prefix: &str) -> Vec<String> {
    let mut found = files(&dir.join(prefix.trim_start_matches('/')));
    found.retain(|file| !file.ends_with('/'));
    found
}

#[test]
fn it_puts_its_files_into_their_places_and_uninstall_takes_them_out() {
    for prefix in ["/usr/local", "/usr", "/opt/paraglider"] {
        let dir = tempfile::tempdir().unwrap();
        make("install", prefix, dir.path());
        let mut expected: Vec<_> = INSTALLED.map(str::to_owned).into();
        expected.extend(links("").into_iter().filter(|link| !link.ends_with('/')));
        expected.sort();
        assert_eq!(below(dir.path(), prefix), expected, "{prefix}");
        // Nothing beside the prefix; the config least of all: the example must not be put in force.
        assert_eq!(files(dir.path()).iter().filter(|file| !file.ends_with('/')).count(), expected.len());
        assert!(files(dir.path()).iter().all(|file| !file.ends_with('/') || file.starts_with("755 ")));

        let at = |name: &str| dir.path().join(prefix.trim_start_matches('/')).join(name);
        assert_eq!(fs::read(at("sbin/paraglider")).unwrap(), fs::read(binary()).unwrap());
        let unit = fs::read_to_string(at("lib/systemd/system/paraglider.service")).unwrap();
        for verb in ["start\n", "reload\n", "stop ;;"] {
            assert!(unit.contains(&format!("{prefix}/sbin/paraglider {verb}")), "{unit}");
        }
        assert!(prefix == "/usr" || !unit.contains("/usr/sbin/"), "{unit}");
        let unit = fs::read_to_string(at("lib/systemd/system/paraglider-watch.service")).unwrap();
        assert!(unit.contains(&format!("ExecStart={prefix}/sbin/paraglider watch --again\n")), "{unit}");

        // What is not ours stays: the config, and another program's file beside ours.
        let config = dir.path().join("etc/paraglider/glider.yaml");
        fs::create_dir_all(config.parent().unwrap()).unwrap();
        fs::write(&config, "mine").unwrap();
        fs::write(at("share/doc/notes"), "mine").unwrap();
        make("uninstall", prefix, dir.path());
        assert_eq!(below(dir.path(), prefix), ["644 /share/doc/notes"]);
        assert_eq!(fs::read_to_string(config).unwrap(), "mine");
        assert!(!at("share/doc/paraglider").exists() && !at("lib/systemd/system/ufw.service.wants").exists());
        // Twice is fine.
        make("uninstall", prefix, dir.path());
    }
}

/// With root's strict umask others must be able to read it all the same.
#[test]
fn a_strict_umask_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let line = format!(
        "umask 077; make -C '{ROOT}' install DESTDIR={}/x BINARY='{}'",
        dir.path().display(),
        binary().display()
    );
    crate::lab::sh(&line);
    let found = files(dir.path());
    let open = |file: &&String| ["755 ", "644 ", "link "].iter().any(|mode| file.starts_with(mode));
    let shut: Vec<_> = found.iter().filter(|file| !open(file)).collect();
    assert!(shut.is_empty(), "{shut:?}");
}

#[test]
fn it_does_not_build_as_root() {
    let dir = tempfile::tempdir().unwrap();
    let mut make = Command::new("make");
    let output = make.args(["-C", ROOT, "install", "BINARY=/nowhere"]).arg(format!("DESTDIR={}", dir.path().display()));
    let output = output.output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere is missing: run make first"));
    assert!(files(dir.path()).is_empty());
}
