//! The small static binaries of the boards (`make cross`): what they are, how large they are, and that each of them does
//! its job on its processor, which qemu plays.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

#[path = "../cli/corpus.rs"]
mod corpus;
#[path = "../netns/lab.rs"]
mod lab;
mod panics;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{sh, Lab, Variant};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What `xz -9e`, which is what squashfs makes of a file on the flash, may leave of each, in bytes.
const MOST_XZ: u64 = 232 * 1024;

/// One line of cross/targets.
struct Target {
    name: String,
    most_kib: u64,
    qemu: String,
    processor: String,
}

impl Target {
    fn all() -> Vec<Target> {
        let table = fs::read_to_string(format!("{ROOT}/cross/targets")).unwrap();
        let lines = table.lines().filter(|line| !line.starts_with('#'));
        let target = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [name, kib, qemu, processor] => Target {
                name: name.into(),
                most_kib: kib.parse().unwrap(),
                qemu: qemu.into(),
                processor: processor.into(),
            },
            _ => panic!("cross/targets: {line}"),
        };
        lines.map(target).collect()
    }

    fn binary(&self) -> PathBuf {
        let path = Path::new(ROOT).join("target/dist").join(&self.name).join("paraglider");
        assert!(path.exists(), "{} is missing: make cross", path.display());
        path
    }

    /// Its binary as a program of this machine.
    fn runnable(&self, dir: &Path) -> PathBuf {
        if self.qemu == "x86_64" && cfg!(target_arch = "x86_64") {
            return self.binary();
        }
        let path = dir.join(&self.name);
        let qemu = format!("qemu-{}-static -cpu {}", self.qemu, self.processor);
        let line = format!("#!/bin/sh\nexec {qemu} '{}' \"$@\"\n", self.binary().display());
        fs::write(&path, line).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

#[test]
fn each_is_static_and_for_its_processor() {
    for target in Target::all() {
        let said = sh(&format!("llvm-readelf-19 -h -l -A '{}'", target.binary().display()));
        let has = |words: &str| said.contains(words);
        assert!(has("EXEC (Executable file)") && !has("INTERP") && !has("DYNAMIC"), "{}: {said}", target.name);
        let stack = said.lines().find(|line| line.contains("GNU_STACK")).unwrap();
        assert!(!stack.contains("RWE"), "{}: {stack}", target.name);
        let expected: &[&str] = match target.name.as_str() {
            "aarch64-unknown-linux-musl" => &["ELF64", "little endian", "AArch64"],
            // EABI5, soft-float ABI
            "arm-unknown-linux-musleabi" => &["ELF32", "little endian", "ARM\n", "0x5000200", "ARM v6\n"],
            "armv7-unknown-linux-musleabihf" => &["ELF32", "little endian", "ARM\n", "0x5000400"],
            "mips-unknown-linux-musl" => &["ELF32", "big endian", "MIPS", "o32", "mips32r2", "Soft float"],
            "mipsel-unknown-linux-musl" => &["ELF32", "little endian", "MIPS", "o32", "mips32r2", "Soft float"],
            "x86_64-unknown-linux-musl" => &["ELF64", "little endian", "X86-64"],
            other => panic!("what is {other}?"),
        };
        for words in expected {
            assert!(has(words), "{}: no `{words}` in\n{said}", target.name);
        }
    }
}

/// Routers with VFPv3-D16 lack d16 to d31, those without an FPU lack all of them, and qemu does not tell. Looked for
/// before the symbols were taken out: those tell code from data.
#[test]
fn arm_uses_no_register_that_routers_lack() {
    for (target, lacks) in [("armv7-unknown-linux-musleabihf", 16), ("arm-unknown-linux-musleabi", 0)] {
        let file = format!("{ROOT}/target/cross/{target}/{target}/release/paraglider");
        let code = sh(&format!("llvm-objdump-19 -d --no-show-raw-insn --mattr=+neon '{file}'"));
        assert!(code.lines().count() > 10_000, "that is no whole program");
        let register = |word: &str| {
            let number = |letter| word.strip_prefix(letter)?.parse::<u8>().ok();
            number('d').is_some_and(|n| (lacks..32).contains(&n))
                || number('q').is_some_and(|n| (lacks / 2..16).contains(&n))
        };
        let operands = |line: &str| line.split('\t').skip(2).collect::<String>();
        let lacking = |line: &&str| operands(line).split(|c: char| !c.is_ascii_alphanumeric()).any(register);
        assert_eq!(code.lines().find(lacking), None, "{target}");
    }
}

#[test]
fn each_keeps_to_its_size() {
    let mut wrong = String::new();
    for target in Target::all() {
        let path = target.binary();
        let size = fs::metadata(&path).unwrap().len();
        let xz: u64 = sh(&format!("xz -9e -c '{}' | wc -c", path.display())).trim().parse().unwrap();
        println!("size  {:32} {:7} bytes ({:.0} KiB), xz {xz}", target.name, size, size as f64 / 1024.0);
        if size > target.most_kib * 1024 || xz > MOST_XZ {
            wrong.push_str(&format!("{}: {size} bytes, xz {xz}\n", target.name));
        }
    }
    assert!(wrong.is_empty(), "too large:\n{wrong}");
}

/// In another directory, with nothing built yet: the binary does not tell where it was made.
#[test]
fn the_same_source_makes_the_same_bytes_elsewhere() {
    let x86 = Target::all().into_iter().find(|target| target.qemu == "x86_64").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("some/where/else");
    fs::create_dir_all(elsewhere.join("target/cross")).unwrap();
    let to = elsewhere.display();
    sh(&format!(
        "cd '{ROOT}' && cp -r Cargo.toml Cargo.lock src cross {to} && ln -s \"$PWD/target/cross/venv\" {to}/target/cross/"
    ));
    sh(&format!("{to}/cross/build {} 2>&1", x86.name));
    let other = fs::read(elsewhere.join("target/dist").join(&x86.name).join("paraglider")).unwrap();
    assert!(other == fs::read(x86.binary()).unwrap(), "other bytes");
}

#[test]
fn an_archive_has_all_that_is_needed_and_is_always_the_same() {
    let x86 = Target::all().into_iter().find(|target| target.qemu == "x86_64").unwrap();
    let pack = || sh(&format!("SOURCE_DATE_EPOCH=1000000000 '{ROOT}/cross/archive' {}", x86.name)).trim().to_owned();
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("paraglider-{version}-{}", x86.name);
    assert_eq!(pack(), format!("target/dist/{name}.tar.gz"));
    let archive = format!("{ROOT}/target/dist/{name}.tar.gz");
    let list = sh(&format!("TZ=UTC tar --numeric-owner --full-time -tvzf '{archive}'"));
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {} {} {}", words[0], words[1], words[3], words[5..].join(" "))
    };
    let expected = [
        ("drwxr-xr-x", ""),
        ("-rw-r--r--", "LICENSE"),
        ("-rw-r--r--", "README.md"),
        ("-rw-r--r--", "glider.yaml"),
        ("-rwxr-xr-x", "paraglider"),
        ("-rw-r--r--", "paraglider.8"),
    ];
    let expected = expected.map(|(mode, file)| format!("{mode} 0/0 2001-09-09 {name}/{file}"));
    assert_eq!(list.lines().map(line).collect::<Vec<_>>(), expected);
    let once = fs::read(&archive).unwrap();
    pack();
    assert!(fs::read(&archive).unwrap() == once, "the same input made other bytes");
    sh(&format!("cd '{ROOT}/target/dist' && grep {name}.tar.gz SHA256SUMS | sha256sum -c"));
}

#[test]
fn each_balances_and_stops() {
    const VARIANTS: [Variant; 3] = [Variant::Nft, Variant::Legacy, Variant::Netlink];
    if let Ok(engine) = std::env::var("PARAGLIDER_VARIANT") {
        return balance_and_stop(&Lab::new(VARIANTS.into_iter().find(|variant| variant.engine() == engine).unwrap()));
    }
    let dir = tempfile::tempdir().unwrap();
    for target in Target::all() {
        for variant in VARIANTS {
            if variant == Variant::Netlink && target.runnable(dir.path()) != target.binary() {
                println!(
                    "skipped: {} with nftables: qemu's emulation for programs has no netlink of netfilter; \
                     tests/boards has a kernel of its own",
                    target.name
                );
                continue;
            }
            let story = ["--exact", "each_balances_and_stops", "--nocapture", "--test-threads=1"];
            let mut command = lab::entrance(&story).unwrap();
            command.env("PARAGLIDER_VARIANT", variant.engine()).env(lab::PROGRAM, target.runnable(dir.path()));
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains("1 passed"), "{} {variant:?}:\n{text}", target.name);
        }
    }
}

fn balance_and_stop(lab: &Lab) {
    for backend in ["b1", "b2", "b3"] {
        lab::serve(backend, 80);
    }
    lab.balance(&[1, 2, 3]);
    let begin = if lab.variant == Variant::Netlink { "table inet paraglider {" } else { "*nat" };
    assert!(lab.ok("print").contains(begin));
    // It makes the tables of iptables-nft, which stay.
    lab.ok("check");
    let before = lab.saved(false);
    lab.ok("start");
    let shares = lab::ask_often("client", "10.9.0.1:4444", 9);
    let fair: BTreeMap<String, usize> = (1..=3).map(|n| (format!("b{n} 10.2.0.1"), 3)).collect();
    assert_eq!(shares, fair);
    lab.is_in_force();
    assert!(lab.ok("status").contains("3 taken"));
    lab.ok("stop");
    assert_eq!(lab.saved(false), before);
    assert_eq!(lab.paraglider("status").0, 3);
}

/// `start` with three backends, its own process, seen by the programs that it runs.
#[test]
fn start_needs_little_memory() {
    const MOST_KIB: u64 = 2560;
    if cfg!(not(target_arch = "x86_64")) {
        return println!("skipped: memory: this machine does not run the x86_64 binary");
    }
    let x86 = Target::all().into_iter().find(|target| target.qemu == "x86_64").unwrap();
    let Some(mut command) = lab::entrance(&["--exact", "start_needs_little_memory", "--nocapture"]) else {
        let lab = Lab::new(Variant::Nft);
        lab.balance(&[1, 2, 3]);
        // Without any table there is nothing to list before the change.
        lab::sh("iptables -A INPUT -p udp -j ACCEPT");
        let (save, seen) = (lab.path("bin/iptables-save"), lab.path("seen"));
        fs::remove_file(&save).unwrap();
        let look = format!("grep VmHWM /proc/$PPID/status >>{}", seen.display());
        fs::write(&save, format!("#!/bin/sh\n{look}\nexec iptables-nft-save \"$@\"\n")).unwrap();
        fs::set_permissions(&save, fs::Permissions::from_mode(0o755)).unwrap();
        lab.ok("start");
        let seen = fs::read_to_string(seen).unwrap();
        let kib = |line: &str| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
        let most = seen.lines().map(kib).max().unwrap();
        assert_eq!(seen.lines().count(), 2, "before and after the change");
        println!("memory of start: {most} KiB at most");
        return assert!(most <= MOST_KIB, "{most} KiB");
    };
    let output = command.env(lab::PROGRAM, x86.binary()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    println!("{}", text.lines().find(|line| line.contains("memory of start")).unwrap());
}

/// `watch` with 64 backends and the usual interval: its own process, after all of them have been checked thrice.
#[test]
fn watch_needs_little_memory() {
    const MOST_KIB: u64 = 1280;
    const TEST: &str = "watch_needs_little_memory";
    if cfg!(not(target_arch = "x86_64")) {
        return println!("skipped: memory of watch: this machine does not run the x86_64 binary");
    }
    let x86 = Target::all().into_iter().find(|target| target.qemu == "x86_64").unwrap();
    let Some(mut command) = lab::entrance(&["--exact", TEST, "--nocapture"]) else {
        let lab = Lab::new(Variant::Nft);
        let ports = 8000..8064;
        let list: String = ports.clone().map(|port| format!("    - 10.2.0.11:{port}\n")).collect();
        ports.for_each(|port| lab::serve("b1", port));
        lab.config(&format!("frontend:\n  bind: 10.9.0.1:4444\n  health: {{}}\n  backends:\n{list}"));
        let mut watch = lab.command("watch").spawn().unwrap();
        let of = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", watch.id())).unwrap();
        std::thread::sleep(Duration::from_secs(6));
        let kib = |status: &str| {
            let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        // Time on a processor, in nanoseconds (sched-stats.rst).
        let time = |stat: &str| stat.split_whitespace().next().unwrap().parse::<f64>().unwrap();
        let before = time(&of("schedstat"));
        std::thread::sleep(Duration::from_secs(10));
        let (memory, used) = (kib(&of("status")), time(&of("schedstat")) - before);
        println!("memory of watch: {memory} KiB; it used {:.2} % of a processor", used / 1e8);
        watch.kill().unwrap();
        watch.wait().unwrap();
        return assert!(memory <= MOST_KIB, "{memory} KiB");
    };
    let output = command.env(lab::PROGRAM, x86.binary()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    println!("{}", text.lines().find(|line| line.contains("memory of watch")).unwrap());
}
