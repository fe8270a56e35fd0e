//! The Makefile and tests/setup on hosts that are not as they should be. Stand-ins on PATH play those hosts; nothing is
//! installed or downloaded.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A checkout with blanks in its path, and stand-ins before everything else on PATH.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Host { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(host.checkout().join("tests")).unwrap();
        fs::create_dir(host.dir.path().join("bin")).unwrap();
        for file in ["Makefile", "tests/setup", "contrib", "cross"] {
            if file.starts_with("tests") || file == "Makefile" {
                fs::copy(format!("{ROOT}/{file}"), host.checkout().join(file)).unwrap();
            } else {
                symlink(format!("{ROOT}/{file}"), host.checkout().join(file)).unwrap();
            }
        }
        // Each of these would change the real host.
        host.has("apt-get", "echo \"apt-get $*\" >>\"$0.called\"; exit 1");
        host.has("cargo", "echo \"cargo 1.99.0\"");
        host
    }

    fn checkout(&self) -> PathBuf {
        self.dir.path().join("a checkout")
    }

    fn has(&self, program: &str, script: &str) {
        let path = self.dir.path().join("bin").join(program);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn is_a_users(&self) {
        self.has("id", "echo 1000");
    }

    /// What apt-get was asked for.
    fn apt_get(&self) -> String {
        fs::read_to_string(self.dir.path().join("bin/apt-get.called")).unwrap_or_default()
    }

    /// Whether a line of words succeeded, and all that it said.
    fn run(&self, line: &str) -> (bool, String) {
        let path = format!("{}/bin:/usr/sbin:/usr/bin:/sbin:/bin", self.dir.path().display());
        let mut sh = Command::new("sh");
        sh.args(["-c", &format!("exec 2>&1; {line}")]).current_dir(self.checkout()).env("PATH", path);
        // What the test was started with is no part of it.
        for name in ["CARGO_TARGET_DIR", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "READY", "SUDO_UID", "SUDO_GID"] {
            sh.env_remove(name);
        }
        let output = sh.output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }
}

#[test]
fn help_is_the_first_comment() {
    let (ok, said) = Host::new().run("make help");
    assert!(ok && said.contains("\nmake quick   ") && said.ends_with("cargo-fuzz)\n"), "{said}");
}

#[test]
fn a_package_for_no_architecture_is_refused_before_anything_is_done() {
    let host = Host::new();
    // Only shown: nothing may be left to run.
    let (ok, said) = host.run("make -n deb ARCH=riscv64");
    assert!(!ok && said.contains("there are: amd64 arm64") && !said.contains("cross/build"), "{said}");
    for (arch, target) in [("x86_64", "x86_64-unknown-linux-musl"), ("aarch64", "aarch64-unknown-linux-musl")] {
        let (ok, said) = host.run(&format!("make -n deb ARCH={arch}"));
        assert!(ok && said.contains(&format!("printf '%s\\n' {target} |")), "{said}");
    }
}

#[test]
fn a_user_without_a_new_rust_is_told_where_it_is() {
    let host = Host::new();
    host.is_a_users();
    host.has("cargo", "echo 'cargo 1.65.0'");
    for (apt_cache, remedy) in [
        // Debian 12.
        ("case $* in *cargo-web) ;; *) echo '  Candidate: 0.66.0+ds1-1' ;; esac", "apt install cargo-web rustc-web;"),
        // Debian 13.
        ("case $* in *cargo-web) exit 1 ;; *) echo '  Candidate: 1.85.0+dfsg3-1' ;; esac", "apt install cargo;"),
        // Ubuntu 24.04.
        ("case $* in *cargo-web) exit 1 ;; *) echo '  Candidate: 1.75.0+dfsg0' ;; esac", "install it with rustup"),
    ] {
        host.has("apt-cache", apt_cache);
        let (ok, said) = host.run("make");
        assert!(!ok && said.contains("1.85 or newer is needed; here is: cargo 1.65.0"), "{said}");
        assert!(said.contains(remedy), "{said}");
    }
    assert_eq!(host.apt_get(), "", "a user installs nothing");
}

#[test]
fn where_cargo_builds_elsewhere_install_says_how_to_go_on() {
    let (ok, said) = Host::new().run("make install DESTDIR=nowhere");
    assert!(!ok && said.contains("run make first, without sudo, or say BINARY=…"), "{said}");
}

#[test]
fn what_sudo_builds_does_not_stand_in_the_users_way() {
    let host = Host::new();
    host.has("cargo", "[ \"$1\" = --version ] && echo 'cargo 1.99.0' || echo \"builds in $CARGO_TARGET_DIR\"");
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: sudo: this needs root");
    }
    let (ok, said) = host.run("SUDO_UID=65534 SUDO_GID=65534 make demo");
    let target = host.checkout().join("target");
    assert!(ok && said.contains(&format!("builds in {}/root\n", target.display())), "{said}");
    assert_eq!(fs::metadata(target).unwrap().uid(), 65534);
    assert!(host.run("make demo").1.contains("builds in \n"));
}

#[test]
fn the_demo_says_why_it_cannot_be_shown() {
    let host = Host::new();
    host.has("unshare", "exit 1");
    let demo = format!("cd '{ROOT}' && '{}' run --locked --quiet --example demo", env!("CARGO"));
    let (ok, said) = host.run(&demo);
    let why =
        if nix::unistd::geteuid().is_root() { "lets not even root make namespaces" } else { "as in sudo make demo" };
    assert!(!ok && said.contains(why), "{said}");
}

/// The OpenWrt stories run it in a root directory without libraries.
#[test]
fn a_dynamic_busybox_is_left_alone_and_a_static_one_fetched() {
    let host = Host::new();
    // Any program that has a loader.
    let dynamic = host.dir.path().join("bin/busybox");
    fs::copy("/bin/true", &dynamic).unwrap();
    host.has(
        "apt-get",
        "echo \"apt-get $*\" >>\"$0.called\"
        case $* in
        *--download-only*) touch \"$(sed -n 's/^Dir::Cache \"\\(.*\\)\";/\\1/p' \"$APT_CONFIG\")/archives/x.deb\" ;;
        *update*) ;;
        *) exit 1 ;;
        esac",
    );
    host.has(
        "dpkg-deb",
        "mkdir -p \"$3/bin\" && printf '#!/bin/sh\\n' >\"$3/bin/busybox\" && chmod 755 \"$3/bin/busybox\"",
    );
    for program in ["rsync", "keepalived", "conntrackd", "netfilter-persistent", "dnsmasq", "dig"] {
        host.has(program, "");
    }
    let tools = host.checkout().join("target/tools");
    let busybox = || fs::read_link(tools.join("bin/busybox")).unwrap();
    let (ok, said) = host.run("tests/setup");
    assert!(ok && said.contains("fetching: busybox"), "{said}");
    assert_eq!(busybox(), tools.join("root/bin/busybox"));
    assert!(host.apt_get().lines().all(|line| line.contains("update") || line.contains("--download-only")), "{said}");
    assert_eq!(host.run("tests/setup"), (true, String::new()), "the second time there is nothing to do");

    // A host that has a static one.
    let real = Path::new(ROOT).join("target/tools/bin/busybox");
    if !real.exists() {
        return println!("skipped: a host's static busybox: tests/setup has not found or fetched one");
    }
    fs::copy(real, &dynamic).unwrap();
    assert_eq!(host.run("tests/setup"), (true, String::new()));
    assert_eq!(busybox(), dynamic);
}

#[test]
fn a_temporary_directory_without_programs_is_named() {
    let host = Host::new();
    let user = if nix::unistd::geteuid().is_root() { "-m" } else { "-mUr" };
    let line = "mount -t tmpfs -o noexec tmp /mnt && TMPDIR=/mnt exec tests/setup";
    let (ok, said) = host.run(&format!("unshare {user} sh -c '{line}'"));
    assert!(!ok && said.contains("no program can be run in /mnt (mounted noexec?): set TMPDIR"), "{said}");
}

/// A suite that fails does not keep the others from running, nor the last line from telling.
#[test]
fn the_test_run_ends_with_what_failed_and_what_was_skipped() {
    let host = Host::new();
    fs::copy(format!("{ROOT}/tests/all"), host.checkout().join("tests/all")).unwrap();
    fs::remove_file(host.checkout().join("cross")).unwrap();
    fs::create_dir(host.checkout().join("cross")).unwrap();
    for quiet in ["cross/setup", "tests/promtool"] {
        symlink("/bin/true", host.checkout().join(quiet)).unwrap();
    }
    host.has(
        "cargo",
        "case $* in
        *--no-run*) ;;
        *golden*) echo 'test one ... skipped: golden: why'; echo 'test result: FAILED. 1 passed; 2 failed;'; exit 101 ;;
        *) echo 'test result: ok. 2 passed; 0 failed;' ;;
        esac",
    );
    host.has("make", "case $* in *clippy) exit 1 ;; *board) echo 'skipped: board: why' ;; esac");
    let (ok, said) = host.run("MAKE=make tests/all");
    // Golden's two, and clippy, which is no test; demo, lib, cli, make and netns have two each.
    assert!(!ok && said.ends_with("\n11 passed, 3 failed, 2 skipped\n"), "{said}");
    assert!(said.contains("\nskipped: board: why\nskipped: golden: why\n"), "{said}");
    host.has("cargo", "");
    host.has("make", "");
    assert!(host.run("MAKE=make tests/all").0);
}
