//! The program as a user calls it: arguments in, output and exit status out. Only verbs that do not touch the kernel run
//! here; the others run in the namespaces of `tests/netns`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod corpus;
mod layers;
mod reader;
mod words;
mod written;
mod yaml;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

fn paraglider(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_paraglider")).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn print(config: &Path) -> (i32, String, String) {
    paraglider(&["-config", config.to_str().unwrap(), "print", "--engine", "iptables"])
}

#[test]
fn each_mistake_gets_one_sentence_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("glider.yaml");
    let mut wrong = String::new();
    for corpus::Bad { name, config, said } in corpus::bad() {
        fs::write(&path, &config).unwrap();
        let (code, out, err) = print(&path);
        let place = format!("ERROR [paraglider] {}:", path.display());
        let one_line = err.lines().count() == 1 && err.starts_with(&place);
        if code != 2 || !out.is_empty() || !one_line || !err.contains(said) {
            wrong.push_str(&format!("{name}: exit status {code}\n  said     {err}  expected {said}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn unusual_but_valid_configs_mean_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("glider.yaml");
    fs::write(&path, corpus::GOOD).unwrap();
    let (_, expected, _) = print(&path);
    assert!(expected.contains("166.1.101.2"));
    for (name, config) in corpus::odd() {
        fs::write(&path, config).unwrap();
        let (code, out, err) = print(&path);
        assert_eq!(code, 0, "{name}: {err}");
        assert_eq!(out, expected, "{name}");
    }
}

#[test]
fn a_config_that_cannot_be_read_is_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.yaml");
    for (path, why) in [
        (
            missing.as_path(),
            "No such file or directory; write one (paraglider(8) has an example), or name another with --config FILE",
        ),
        (dir.path(), "Is a directory"),
    ] {
        let (code, _, err) = print(path);
        let said = format!("ERROR [paraglider] {}: cannot read the config: {why}\n", path.display());
        assert_eq!((code, err), (2, said));
    }
    // Root may read any file, but the kernel refuses this one.
    let (code, _, err) = print(Path::new("/proc/self/mem"));
    assert!(code == 2 && err.contains("cannot read the config"), "{err}");
    let unreadable = dir.path().join("unreadable.yaml");
    fs::write(&unreadable, corpus::GOOD).unwrap();
    fs::set_permissions(&unreadable, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    if !nix::unistd::geteuid().is_root() {
        let (code, _, err) = print(&unreadable);
        assert!(code == 2 && err.contains("Permission denied"), "{err}");
    }
}

#[test]
fn an_endless_config_is_refused() {
    let (code, _, err) = print(Path::new("/dev/zero"));
    assert!(code == 2 && err.contains("larger than 64 KiB"), "{err}");
}

#[test]
fn wrong_usage_ends_with_2_and_a_sentence_on_stderr() {
    for words in [
        &[][..],
        &["strat"],
        &["start", "stop"],
        &["--nonsense", "print"],
        &["print", "--config"],
        &["start", "--json"],
    ] {
        let (code, out, err) = paraglider(words);
        assert_eq!((code, out.as_str()), (2, ""), "{words:?}");
        assert!(
            err.lines().count() == 1 && (err.ends_with("; see paraglider --help\n") || err.contains("unknown")),
            "{words:?}: {err}"
        );
    }
    for (words, said) in [
        (&["start", "--stop-on-exit"][..], "--stop-on-exit belongs to watch"),
        (&["stop", "--stop-on-exit"], "--stop-on-exit belongs to watch"),
        (&["start", "--drop-removed"], "--drop-removed belongs to reload"),
        (&["watch", "--drop-removed"], "--drop-removed belongs to reload"),
        (&["check", "--prometheus"], "--prometheus belongs to status"),
        (&["status", "--json", "--prometheus"], "--json and --prometheus exclude each other"),
        (&["watch", "--drain", "3"], "--drain belongs to stop"),
        (&["wach"], "did you mean `watch`?"),
    ] {
        let (code, out, err) = paraglider(words);
        assert_eq!((code, out.as_str()), (2, ""), "{words:?}");
        assert!(err.contains(said) && err.lines().count() == 1, "{words:?}: {err}");
    }
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"st\xffart");
    let output = Command::new(env!("CARGO_BIN_EXE_paraglider")).arg(odd).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not UTF-8"));
}

#[test]
fn help_and_version_go_to_stdout() {
    let (code, out, err) = paraglider(&["--help"]);
    assert!(code == 0 && err.is_empty() && out.starts_with("Usage: paraglider [--config FILE]"));
    let (code, out, err) = paraglider(&["--version"]);
    assert_eq!((code, out, err), (0, format!("paraglider {}\n", env!("CARGO_PKG_VERSION")), String::new()));
}

#[test]
fn a_full_disk_is_a_failure() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_paraglider"))
        .arg("--help")
        .stdout(full)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
}

/// `health:` alone changes no rule; a backup has none while another backend takes connections.
#[test]
fn checks_alone_change_no_rule() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("glider.yaml");
    let printed = |config: &str| {
        fs::write(&path, config).unwrap();
        let (code, out, err) = print(&path);
        assert_eq!((code, err.as_str()), (0, ""), "{config}");
        out
    };
    let plain = printed(corpus::GOOD);
    for health in [
        "{}",
        "{type: tcp}",
        "{interval: 100ms, timeout: 50ms, fall: 1, rise: 255}",
        "{interval: 3600s, timeout: 1s, port: 65535, on_all_down: reject}",
        "{type: http, path: '/a?b=c&d', expect: 204, on_all_down: keep}",
        "{type: http, expect: 200-299}",
        "{type: http, expect: all is well}",
        "{type: dns, port: 53}",
        "{type: udp, send: 'hex:00 ff', expect: pong}",
        "{type: http, expect: \"Tom & Jerry\"}",
        "{type: http, expect: 'a *b, !c #d'}",
        "{type: http, expect: it's & that's}",
    ] {
        let config = corpus::GOOD.replace("  backends:", &format!("  health: {health}\n  backends:"));
        assert_eq!(printed(&config), plain, "{health}");
        let backup = format!("{config}    - {{address: 172.19.0.9:1, backup: true}}\n");
        assert_eq!(printed(&backup), plain, "{health} with a backup");
        assert_eq!(printed(&backup.replace("true", "false")).matches("172.19.0.9:1").count(), 1, "{health}");
    }
}

#[test]
fn print_shows_one_family_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("glider.yaml");
    let config = path.to_str().unwrap().to_owned();
    let v4 = "  - {bind: '1.2.3.4:1', backends: ['1.2.3.5:1']}\n";
    let v6 = "  - {bind: '[fd00::1]:1', backends: ['[fd00::2]:1']}\n";
    fs::write(&path, format!("frontends:\n{v4}{v6}")).unwrap();
    let (code, out, err) = print(&path);
    assert!(code == 0 && out.contains("1.2.3.5") && !out.contains("fd00") && err.contains("with --ipv6"), "{out}{err}");
    let six = ["-c", &config, "print", "--engine", "iptables", "--ipv6"];
    let (code, out, err) = paraglider(&six);
    assert!(code == 0 && out.contains("[fd00::2]:1") && !out.contains("1.2.3.5") && err.is_empty(), "{out}{err}");
    fs::write(&path, format!("frontends:\n{v6}")).unwrap();
    assert!(print(&path).1.contains("[fd00::2]:1"));
    fs::write(&path, format!("frontends:\n{v4}")).unwrap();
    assert_eq!(paraglider(&six).0, 2);
}

/// With `PATH` and the usual places, `iptables` may be anywhere; so only what does not depend on it is looked at here. The
/// rest is told in `tests/netns`.
#[test]
fn print_shows_the_rules_of_the_engine_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("glider.yaml");
    let run = |engine: &str, words: &[&str]| {
        fs::write(&path, format!("{engine}{}", corpus::GOOD)).unwrap();
        paraglider(&[&["-c", path.to_str().unwrap(), "print"], words].concat())
    };
    let (_, iptables, _) = run("", &["--engine", "iptables"]);
    let (_, nftables, _) = run("", &["--engine", "nftables"]);
    assert!(iptables.contains("*nat\n") && nftables.starts_with("table inet paraglider {\n"), "{nftables}");
    for (engine, words, printed) in [
        ("engine: iptables\n", &[][..], &iptables),
        ("engine: nftables\n", &[], &nftables),
        ("engine: nftables\n", &["-engine=iptables"], &iptables),
        ("engine: iptables\n", &["--engine", "nftables"], &nftables),
    ] {
        assert_eq!(run(engine, words), (0, printed.clone(), String::new()), "{engine}{words:?}");
    }
    for (engine, words) in [("", &["--engine", "nftables", "--ipv6"][..]), ("engine: nftables\n", &["--ipv6"])] {
        let (code, out, err) = run(engine, words);
        assert!(code == 2 && out.is_empty() && err.lines().count() == 1, "{err}");
        assert!(err.contains("--ipv6 and nftables exclude each other, since one table has both families"), "{err}");
    }
}
