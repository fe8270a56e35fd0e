//! The watch that S50paraglider runs while, and only while, the config asks for health checks; once with the
//! start-stop-daemon of busybox, which Buildroot has, and once with Debian's.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::init::{install, is_fair, on_board, serve, Board, BIND};
use crate::lab::{sh, Lab};

const PATIENCE: Duration = Duration::from_secs(10);

/// A backend without a listener: if it is checked it is down; if not, it gets its share of connections.
const DEAD: &str = "10.2.0.13:81";

impl Board {
    /// Writes the config of a frontend over these backends and [`DEAD`].
    fn check(&self, backends: &[u8], checked: bool) {
        let list: String = backends.iter().map(|n| format!("    - 10.2.0.1{n}:80\n")).collect();
        let health = if checked { "  health: {interval: 200ms, timeout: 100ms, fall: 2, rise: 2}\n" } else { "" };
        let frontend = format!("frontend:\n  bind: {BIND}\n  privateip: 10.2.0.1\n");
        self.config(&format!("{frontend}{health}  backends:\n{list}    - {DEAD}\n"));
    }

    /// The processes of a program of the board's, without those that are about to become another program's.
    fn processes(&self, program: &str) -> Vec<i32> {
        let program = self.root.join(program);
        let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let runs = |n: &i32| fs::read_link(format!("/proc/{n}/exe")).is_ok_and(|exe| exe == program);
        let all: Vec<i32> = numbers.filter(runs).collect();
        let is_child = |n: &i32| {
            let status = fs::read_to_string(format!("/proc/{n}/status")).unwrap_or_default();
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
            parent.is_some_and(|parent: i32| all.contains(&parent))
        };
        all.iter().copied().filter(|n| !is_child(n)).collect()
    }

    /// The one watch that there is, which is the one in the pid file.
    fn watch(&self) -> i32 {
        let all = self.processes("usr/bin/paraglider");
        let [one] = all[..] else { panic!("{all:?}") };
        assert_eq!(fs::read_to_string("/run/paraglider.pid").unwrap().trim(), one.to_string());
        one
    }

    fn is_quiet(&self) -> bool {
        self.processes("usr/bin/paraglider").is_empty() && !Path::new("/run/paraglider.pid").exists()
    }
}

impl Drop for Board {
    /// A watch would outlive the test.
    fn drop(&mut self) {
        self.processes("usr/bin/paraglider").into_iter().for_each(|n| signal(n, Signal::SIGKILL));
    }
}

fn signal(process: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(process), signal);
}

/// Waits until something is so.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is() {
        assert!(since.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
}

fn has_dead(lab: &Lab) -> bool {
    assert!(!lab.ours().is_empty(), "the rules are gone");
    lab.leads_to(DEAD)
}

#[test]
fn it_comes_and_goes_with_the_health_block() {
    on_board("watch::it_comes_and_goes_with_the_health_block", |lab, board| {
        serve();
        let syslog = syslog(board);
        let debian = Path::new("/usr/sbin/start-stop-daemon");
        comes_and_goes(lab, board, &syslog);
        if !debian.exists() {
            return println!("skipped: Debian's start-stop-daemon is not here");
        }
        // As after a reboot: nothing is known of the backends.
        fs::remove_dir_all("/run/paraglider").unwrap();
        install(debian, &board.root.join("usr/sbin/start-stop-daemon"));
        comes_and_goes(lab, board, &syslog);
    });
}

/// What syslogd would get, at a device directory of the board's own.
fn syslog(board: &Board) -> UnixDatagram {
    let dev = board.root.join("dev");
    sh(&format!("mount -t tmpfs dev {0} && touch {0}/null && mount --bind /dev/null {0}/null", dev.display()));
    let syslog = UnixDatagram::bind(dev.join("log")).unwrap();
    syslog.set_nonblocking(true).unwrap();
    syslog
}

fn comes_and_goes(lab: &Lab, board: &Board, syslog: &UnixDatagram) {
    // Without health checks no process stays.
    board.check(&[1, 2], false);
    board.ok("start", "Starting");
    assert!(board.is_quiet() && has_dead(lab));

    board.check(&[1, 2], true);
    board.ok("reload", "Reloading");
    let first = board.watch();
    until("the watch takes the dead backend out", || !has_dead(lab));
    is_fair(&[1, 2]);
    let down = format!("{DEAD} of {BIND} is down");
    // Each line at its own level, of the facility daemon: a warning has 28, what is no trouble has 30.
    let mut log = String::new();
    until("the log tells", || {
        let mut line = [0; 4096];
        while let Ok(length) = syslog.recv(&mut line) {
            log += &(String::from_utf8_lossy(&line[..length]) + "\n");
        }
        log.contains(&down)
    });
    let has = |level: &str, text: &str| {
        log.lines().any(|line| line.starts_with(level) && line.contains(&format!(" paraglider: {text}")))
    };
    assert!(has("<28>", &down) && has("<30>", "watching the rules"), "{log}");
    assert!(!Path::new("/run/paraglider.pid.log").exists(), "the pipe needs its name no more");
    assert_eq!(board.s50("status").0, 0);

    // Another config: it stays the same process.
    board.check(&[2], true);
    for (word, begin) in [("reload", "Reloading"), ("start", "Starting"), ("restart", "Reloading")] {
        board.ok(word, begin);
        assert_eq!(board.watch(), first);
    }
    until("the dead one is out", || !has_dead(lab));
    is_fair(&[2]);

    // A broken one changes nothing.
    let rules = lab.saved(false);
    for broken in ["frontend: 1\n", "frontend:\n  health: {intervall: 2s}\n"] {
        board.config(broken);
        for word in ["reload", "start"] {
            let (code, said) = board.s50(word);
            assert!(code == 2 && said.contains(" paraglider: FAIL\n"), "{word}: {code}\n{said}");
            assert_eq!(board.watch(), first);
            assert_eq!(lab.saved(false), rules);
        }
    }

    // It is shot: the rules stay, and a start brings another one.
    board.check(&[2], true);
    signal(first, Signal::SIGKILL);
    until("it is gone", || board.processes("usr/bin/paraglider").is_empty());
    is_fair(&[2]);
    board.ok("start", "Starting");
    board.ok("start", "Starting");
    assert_ne!(board.watch(), first);
    is_fair(&[2]);

    // Without health checks it has ended when the script returns, and all backends are back.
    board.check(&[1, 2], false);
    board.ok("reload", "Reloading");
    assert!(board.is_quiet() && has_dead(lab));

    // A stop leaves neither a process nor a rule; not even one that does not listen hinders it for long.
    for deaf in [false, true] {
        board.check(&[1, 2], true);
        board.ok("start", "Starting");
        let watch = board.watch();
        if deaf {
            signal(watch, Signal::SIGSTOP);
        }
        let since = Instant::now();
        board.ok("stop", "Stopping");
        assert!(board.is_quiet() && lab.ours().is_empty(), "{:?}", lab.ours());
        assert!(since.elapsed() < Duration::from_secs(if deaf { 9 } else { 3 }), "{:?}", since.elapsed());
        board.ok("stop", "Stopping");
    }
    until("no logger is left", || board.processes("bin/busybox").is_empty());
}

#[test]
fn one_that_cannot_run_is_told() {
    on_board("watch::one_that_cannot_run_is_told", |_, board| {
        board.check(&[1], true);
        let fake = board.root.join("usr/bin/paraglider");
        fs::write(&fake, "#!/bin/sh\n[ \"$*\" != \"watch --again\" ]\n").unwrap();
        let (code, said) = board.s50("start");
        assert!(code == 1 && said.contains("paraglider watch does not run"), "{code}: {said}");
    });
}
