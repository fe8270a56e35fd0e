//! The Debian packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{self, sh};
use crate::{binary, files, links, ROOT};

const ARCHITECTURES: [(&str, &str); 5] = [
    ("amd64", "x86_64-unknown-linux-musl"),
    ("arm64", "aarch64-unknown-linux-musl"),
    ("armel", "arm-unknown-linux-musleabi"),
    ("armhf", "armv7-unknown-linux-musleabihf"),
    ("mipsel", "mipsel-unknown-linux-musl"),
];

/// What the package puts on the disk besides [`links`]; a directory has a `/` at the end.
const CONTENT: [&str; 34] = [
    "644 /usr/lib/systemd/system/paraglider-again.service",
    "644 /usr/lib/systemd/system/paraglider-flushed.service",
    "644 /usr/lib/systemd/system/paraglider-watch.service",
    "644 /usr/lib/systemd/system/paraglider.service",
    "644 /usr/share/doc/paraglider/changelog.gz",
    "644 /usr/share/doc/paraglider/copyright",
    "644 /usr/share/doc/paraglider/examples/two-boxes/box1/conntrackd.conf",
    "644 /usr/share/doc/paraglider/examples/two-boxes/box1/keepalived.conf",
    "644 /usr/share/doc/paraglider/examples/two-boxes/box2/conntrackd.conf",
    "644 /usr/share/doc/paraglider/examples/two-boxes/box2/keepalived.conf",
    "644 /usr/share/doc/paraglider/glider.yaml",
    "644 /usr/share/man/man8/paraglider.8.gz",
    "755 /etc/",
    "755 /etc/paraglider/",
    "755 /usr/",
    "755 /usr/lib/",
    "755 /usr/lib/systemd/",
    "755 /usr/lib/systemd/system/",
    "755 /usr/sbin/",
    "755 /usr/sbin/paraglider",
    "755 /usr/share/",
    "755 /usr/share/doc/",
    "755 /usr/share/doc/paraglider/",
    "755 /usr/share/doc/paraglider/examples/",
    "755 /usr/share/doc/paraglider/examples/two-boxes/",
    "755 /usr/share/doc/paraglider/examples/two-boxes/box1/",
    "755 /usr/share/doc/paraglider/examples/two-boxes/box2/",
    "755 /usr/share/doc/paraglider/examples/two-boxes/two-boxes",
    "755 /usr/share/man/",
    "755 /usr/share/man/man8/",
    "755 /usr/share/netfilter-persistent/",
    "755 /usr/share/netfilter-persistent/plugins.d/",
    "755 /usr/share/netfilter-persistent/plugins.d/90-paraglider",
    "755 /",
];

/// Builds one, from a tree of its own, so that tests do not meet in the same one.
pub fn build(arch: &str, tree: &Path) -> PathBuf {
    let words = format!(
        "mkdir -p {tree} && (cd '{ROOT}' && cp -r contrib man cross Makefile Cargo.toml LICENSE \
         CHANGELOG.md {tree}) && mkdir -p {tree}/target/dist && cp -r '{dist}'/*-linux-* {tree}/target/dist \
         && cd {tree} && SOURCE_DATE_EPOCH=1700000000 contrib/debian/build {arch}",
        tree = tree.display(),
        dist = binary().parent().unwrap().parent().unwrap().display()
    );
    tree.join(sh(&words).trim())
}

fn have_dpkg() -> bool {
    let have = Path::new("/usr/bin/dpkg-deb").exists();
    if !have {
        println!("skipped: deb: there is no dpkg-deb here");
    }
    have
}

#[test]
fn each_has_its_fields_files_modes_and_sums() {
    if !have_dpkg() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (arch, target) in ARCHITECTURES {
        if !Path::new(ROOT).join("target/dist").join(target).join("paraglider").exists() {
            println!("skipped: deb of {arch}: make cross has not built {target}");
            continue;
        }
        let deb = build(arch, &dir.path().join("tree"));
        let deb = deb.display();
        let version = env!("CARGO_PKG_VERSION");
        assert!(deb.to_string().ends_with(&format!("/target/dist/paraglider_{version}_{arch}.deb")), "{deb}");

        let field = |name: &str| sh(&format!("dpkg-deb -f {deb} {name}")).trim_end().to_owned();
        assert_eq!(field("Package"), "paraglider");
        assert_eq!(field("Version"), version);
        assert_eq!(field("Architecture"), arch);
        // nftables of the kernel will do. What is suggested is not installed along, nor removed by `apt autoremove`, under
        // rules that an older version has put into it.
        assert_eq!(
            (field("Depends"), field("Recommends"), field("Suggests")),
            ("".into(), "kmod".into(), "iptables".into())
        );
        assert_eq!(field("Description").contains("ARMv6"), arch == "armel");
        let kib: u64 = field("Installed-Size").parse().unwrap();
        let size = fs::metadata(format!("{ROOT}/target/dist/{target}/paraglider")).unwrap().len().div_ceil(1024);
        assert!((size..size + 40).contains(&kib), "{arch}: {kib} KiB");

        // All files belong to root, even if another user builds the package.
        let listed = sh(&format!("dpkg-deb -c {deb}"));
        assert!(listed.lines().all(|line| line.contains(" root/root ")), "{listed}");
        let out = dir.path().join(arch);
        sh(&format!("dpkg-deb -R {deb} {}", out.display()));
        let mut expected: Vec<_> =
            CONTENT.iter().filter(|file| **file != "755 /").map(|&file| file.to_owned()).collect();
        expected.extend(["644 /DEBIAN/control", "644 /DEBIAN/md5sums", "755 /DEBIAN/"].map(str::to_owned));
        expected.extend(["postinst", "postrm", "prerm"].map(|name| format!("755 /DEBIAN/{name}")));
        expected.extend(links("/usr"));
        expected.sort();
        assert_eq!(files(&out), expected, "{arch}");

        // Each file but the scripts has its sum, and the sums are right.
        sh(&format!("cd {} && md5sum --quiet -c DEBIAN/md5sums", out.display()));
        let sums = fs::read_to_string(out.join("DEBIAN/md5sums")).unwrap();
        let plain = |file: &&String| !file.ends_with('/') && !file.contains("/DEBIAN/") && !file.starts_with("link");
        assert_eq!(sums.lines().count(), expected.iter().filter(plain).count());

        assert_eq!(fs::read(out.join("usr/sbin/paraglider")).unwrap(), {
            fs::read(format!("{ROOT}/target/dist/{target}/paraglider")).unwrap()
        });
        let man = sh(&format!("gzip -dc {}/usr/share/man/man8/paraglider.8.gz", out.display()));
        assert_eq!(man, fs::read_to_string(format!("{ROOT}/man/paraglider.8")).unwrap());
        // The licence is whole.
        let copyright = fs::read_to_string(out.join("usr/share/doc/paraglider/copyright")).unwrap();
        for words in ["Permission is hereby granted", "WITHOUT WARRANTY OF ANY KIND", "in the\n SOFTWARE."] {
            let words = words.strip_prefix("in the\n").unwrap_or(words);
            assert!(copyright.contains(words), "{copyright}");
        }
        let log = sh(&format!("gzip -dc {}/usr/share/doc/paraglider/changelog.gz", out.display()));
        let parsed = sh(&format!("printf '%s' '{}' | dpkg-parsechangelog -l - 2>&1 || :", log.replace('\'', "")));
        if Path::new("/usr/bin/dpkg-parsechangelog").exists() {
            assert!(parsed.contains(&format!("Version: {version}")) && !parsed.contains("warning"), "{parsed}");
        }
    }
}

#[test]
fn the_same_input_makes_the_same_bytes() {
    if !have_dpkg() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let one = build("amd64", &dir.path().join("one"));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let two = build("amd64", &dir.path().join("two/elsewhere"));
    assert_eq!(fs::read(&one).unwrap(), fs::read(two).unwrap());
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: deb of another user: this needs root");
    }
    // Any user, any umask.
    let tree = dir.path().join("one");
    let before = fs::read(&one).unwrap();
    sh(&format!(
        "cd {0} && chown -R 65534:65534 .. && setpriv --reuid=65534 --regid=65534 --clear-groups sh -c \
         'umask 077; rm -r target/debian target/dist/*.deb; SOURCE_DATE_EPOCH=1700000000 contrib/debian/build amd64'",
        tree.display()
    ));
    assert_eq!(fs::read(&one).unwrap(), before);
}

#[test]
fn an_unknown_architecture_is_refused() {
    let output = Command::new(format!("{ROOT}/contrib/debian/build")).arg("s390x").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("amd64 arm64 armel armhf mipsel"));
}

/// As tools that build images do it: no systemd runs, and nothing of this host is touched.
#[test]
fn it_goes_into_an_image_and_out_again() {
    if !have_dpkg() {
        return;
    }
    let story = ["--exact", "deb::it_goes_into_an_image_and_out_again", "--nocapture"];
    if let Some(mut command) = lab::entrance(&story) {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return text.lines().filter(|line| line.contains("skipped: ")).for_each(|line| println!("{line}"));
    }
    // As if a systemd ran here.
    sh("mount -t tmpfs run /run && mkdir -p /run/systemd/system");
    let dir = tempfile::tempdir().unwrap();
    let deb = build("amd64", &dir.path().join("tree"));
    let image = dir.path().join("image");
    sh(&format!(
        "mkdir -p {0}/var/lib/dpkg/info {0}/var/lib/dpkg/updates && touch {0}/var/lib/dpkg/status",
        image.display()
    ));
    // A package that would run something of the host's would find these instead, and tell.
    let bin = dir.path().join("bin");
    let told = dir.path().join("told");
    fs::create_dir(&bin).unwrap();
    for name in ["systemctl", "deb-systemd-invoke", "paraglider"] {
        let script = format!("#!/bin/sh\necho {name} \"$@\" >>{}\n", told.display());
        fs::write(bin.join(name), script).unwrap();
        sh(&format!("chmod 755 {}/{name}", bin.display()));
    }
    let dpkg = |words: &str| {
        let force = "--force-script-chrootless --force-depends --log=/dev/null";
        sh(&format!(
            "PATH={}:$PATH:/usr/sbin:/sbin dpkg --root={} {force} {words} 2>&1",
            bin.display(),
            image.display()
        ))
    };
    dpkg(&format!("-i {}", deb.display()));
    let wanted = ["multi-user.target.wants/paraglider", "paraglider.service.wants/paraglider-watch"]
        .map(|link| image.join(format!("etc/systemd/system/{link}.service")));
    for link in &wanted {
        assert!(fs::symlink_metadata(link).is_ok(), "{} is not switched on", link.display());
    }
    assert_eq!(sh(&format!("{}/usr/sbin/paraglider --version", image.display())).trim(), {
        format!("paraglider {}", env!("CARGO_PKG_VERSION"))
    });
    assert_eq!(dpkg("--verify paraglider"), "");
    let config = image.join("etc/paraglider/glider.yaml");
    assert!(!config.exists(), "the example must not be put in force");
    fs::write(&config, "mine").unwrap();

    // Upgrade, removal and purge leave the config; the program and the unit go.
    dpkg(&format!("-i {}", deb.display()));
    dpkg("-r paraglider");
    assert!(!image.join("usr/sbin/paraglider").exists());
    dpkg("-P paraglider");
    assert_eq!(fs::read_to_string(&config).unwrap(), "mine");
    assert!(wanted.iter().all(|link| fs::symlink_metadata(link).is_err()));
    let left: Vec<_> = files(&image).into_iter().filter(|file| file.contains("paraglider")).collect();
    assert_eq!(left, ["644 /etc/paraglider/glider.yaml", "755 /etc/paraglider/"]);
    assert!(!told.exists(), "{}", fs::read_to_string(told).unwrap());
}
