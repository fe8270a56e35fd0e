//! A panic in the small binary is a mute SIGILL. This walks every verb with every config, and with a host that fails in
//! every way that is easily had, and finds no program that ended by a signal.

use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::corpus;
use crate::lab::{self, Lab, Variant};
use crate::{Target, ROOT};

const VERBS: [&[&str]; 14] = [
    &["print"],
    &["print", "--ipv6"],
    &["check"],
    &["-v", "start"],
    &["reload"],
    &["status"],
    &["status", "--json"],
    &["stop", "--drain", "0"],
    &["stop"],
    &["--help"],
    &["--version"],
    &[],
    &["frobnicate", "\u{1f441}"],
    &["stop", "--drain", "99999999999999999999"],
];

#[test]
fn nothing_makes_it_panic() {
    let x86 = Target::all().into_iter().find(|target| target.qemu == "x86_64").unwrap();
    let story = ["--exact", "panics::nothing_makes_it_panic", "--nocapture"];
    let Some(mut command) = lab::entrance(&story) else { return walk(&Lab::new(Variant::Nft)) };
    if cfg!(not(target_arch = "x86_64")) {
        return println!("skipped: panics: this machine does not run the x86_64 binary");
    }
    let output = command.env(lab::PROGRAM, x86.binary()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    println!("{}", text.lines().find(|line| line.contains("runs without a panic")).unwrap());
}

fn walk(lab: &Lab) {
    let mut runs = 0;
    let mut go = |what: &str, command: &mut Command| {
        let status = command.stdin(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.signal(), None, "{what}: {command:?}");
        runs += 1;
        status.code().unwrap()
    };
    let path = lab.path("glider.yaml");
    let command = |words: &[&str]| {
        let mut command = Command::new(lab::program());
        command.arg("-config").arg(&path).args(words).env_remove("SSH_CONNECTION").stdout(Stdio::null());
        command
    };

    for corpus::Bad { name, config, .. } in corpus::bad() {
        fs::write(&path, config).unwrap();
        for verb in VERBS {
            let code = go(name, &mut command(verb));
            let must_fail = verb.iter().any(|word| ["print", "check", "start", "reload", "status"].contains(word));
            assert!(!must_fail || code != 0, "{name} {verb:?}");
        }
    }
    let golden = fs::read_dir(format!("{ROOT}/tests/golden/configs")).unwrap().map(|entry| entry.unwrap().path());
    let golden = golden.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    let golden = golden.map(|path| (path.display().to_string(), fs::read(path).unwrap()));
    let odd = corpus::odd().into_iter().map(|(name, config)| (name.to_string(), config));
    for (name, config) in golden.chain(odd) {
        fs::write(&path, config).unwrap();
        for verb in VERBS {
            go(&name, &mut command(verb));
        }
    }

    fs::write(&path, corpus::GOOD).unwrap();
    for words in [&b"st\xffart"[..], b"--config=\xff", b"-config", b"--", b"-", b"=", b"--=", b"-c=", b"--drain"] {
        go("odd words", Command::new(lab::program()).arg(std::ffi::OsStr::from_bytes(words)));
    }
    for verb in VERBS {
        let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
        go("full stdout", command(verb).stdout(full()));
        let mut no_stderr = command(verb);
        let status = no_stderr.stderr(full()).status().unwrap();
        assert_eq!(status.signal(), None, "full stderr: {verb:?}");
        for limits in ["ulimit -n 3", "ulimit -n 6", "ulimit -v 1500", "exec >&- 2>&-", "unset PATH"] {
            let line = format!("{limits}; \"$@\"; [ $? -lt 128 ]");
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", &line, "sh"]).arg(lab::program()).arg("-config").arg(&path).args(verb);
            let output = shell.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
            // Without memory Rust aborts, which is no panic and cannot be helped: 134.
            assert!(output.success() || limits.contains("-v"), "{limits}: {verb:?}");
        }
    }

    // Programs in the place of iptables that do anything but their job.
    let bin = lab.path("odd");
    fs::create_dir(&bin).unwrap();
    let garbage = bin.join("garbage");
    fs::write(&garbage, (0..4096_u32).map(|n| ((n * n) >> 5) as u8).collect::<Vec<_>>()).unwrap();
    for body in [
        "exit 0",
        "exit 1",
        "kill -9 $$",
        "cat \"$GARBAGE\"",
        "cat \"$GARBAGE\" >&2; exit 1",
        "printf '*nat\\n:PG-x/0 - [0:0]\\n[9:9] -A PG-x/0\\n[x:y] -A PREROUTING -j PG-x/0\\n*filter\\n:'",
        "echo 'line 18446744073709551616 failed' >&2; exit 2",
        "echo 'line 0 failed' >&2; exit 4",
        "yes '[1:1] -A FORWARD -j PARAGLIDER-FWD' | head -n 3000",
    ] {
        for name in ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "nft"] {
            let script = bin.join(name);
            fs::write(&script, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for verb in VERBS {
            let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
            go(body, command(verb).env("PATH", path).env("GARBAGE", &garbage));
        }
    }
    File::create(bin.join("iptables")).unwrap();
    go("no program", command(&["start"]).env("PATH", Path::new("relative")));
    println!("{runs} runs without a panic");
}
