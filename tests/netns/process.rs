//! What the program inherits from its parent, what happens to the programs that it starts, and a stderr without a reader:
//! nothing hangs, and nothing is left behind.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::backend::Backend;
use crate::failure::wrap;
use crate::health::{checked, QUICK};
use crate::lab::{program, sh, Lab, Variant};
use crate::watching::{kept, until, Watch, BOUND};
use crate::{in_lab, on_all, on_both};

/// Takes an `iptables-*` wrapper away: the real program is there again.
fn unwrap(lab: &Lab, verb: &str) {
    wrap(lab, verb, "exec $REAL \"$@\"");
}

/// The processes that have ended and whose parent, this one, has not asked how.
fn zombies(parent: u32) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let stat = |process: &str| fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    children.split_whitespace().map(stat).filter(|stat| stat.contains(") Z ")).collect()
}

/// Waits for its end; returns the exit status, or nothing if a signal ended it.
fn ended(child: &mut Child) -> Option<i32> {
    let mut status = None;
    until("it ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap().code()
}

// The nftables engine runs no program.
on_both!(a_look_that_fails_leaves_no_zombie, |lab| {
    lab.balance(&[1, 2, 3]);
    let begin = Instant::now();
    let watch = Watch::begin(lab);
    // The first of several readings that are started at once: the others are no longer of interest.
    wrap(lab, "save", "echo >>$DIR/failed\nsleep 0.2\nexit 1");
    for look in 1..=2 {
        sh("iptables -A INPUT -p udp -j ACCEPT");
        until("a look has failed", || {
            fs::read_to_string(lab.path("failed")).unwrap_or_default().lines().count() >= look
        });
    }
    watch.hears(begin, "rules in force: it said nothing");
    let process = watch.process();
    // One that has just ended is a zombie until the watch has waited for the others; none stays one for longer than a look.
    let since = Instant::now();
    let mut lasting = zombies(process);
    while since.elapsed() < Duration::from_millis(1500) {
        std::thread::sleep(Duration::from_millis(20));
        let now = zombies(process);
        lasting.retain(|zombie| now.contains(zombie));
    }
    assert_eq!(lasting, [""; 0]);
    unwrap(lab, "save");
});

/// Each of the two programs, each while another one would be run.
#[test]
fn a_watch_whose_tool_hangs_can_be_ended() {
    in_lab("process::a_watch_whose_tool_hangs_can_be_ended", Variant::Nft, |lab| {
        lab.balance(&[1, 2, 3]);
        for verb in ["save", "restore"] {
            for signal in [Signal::SIGTERM, Signal::SIGINT] {
                let watch = Watch::begin(lab);
                let _ = fs::remove_file(lab.path("hangs"));
                wrap(lab, verb, "echo $$ >$DIR/hangs\nexec sleep 1000");
                sh("iptables -t nat -F");
                let hangs = || fs::read_to_string(lab.path("hangs")).ok()?.trim().parse::<i32>().ok();
                until("it hangs", || hangs().is_some());
                let child = hangs().unwrap();
                // A change that is under way gets a moment.
                let since = Instant::now();
                assert_eq!(watch.end(signal), Some(0), "{verb} {signal}");
                assert!((2..9).contains(&since.elapsed().as_secs()), "{verb}: {:?}", since.elapsed());
                assert!(kill(Pid::from_raw(child), None).is_err(), "{verb}: it still runs");
                unwrap(lab, verb);
                lab.ok("start");
            }
        }
    });
}

/// The watch holds the lock meanwhile. After a minute it kills the tool; here that is done for it.
#[test]
fn a_stop_beside_a_watch_whose_tool_hangs_goes_on() {
    in_lab("process::a_stop_beside_a_watch_whose_tool_hangs_goes_on", Variant::Nft, |lab| {
        lab.balance(&[1, 2, 3]);
        for verb in ["save", "restore"] {
            let watch = Watch::begin(lab);
            wrap(lab, verb, "if [ -e $DIR/hangs ]; then exec $REAL \"$@\"; fi\necho $$ >$DIR/hangs\nexec sleep 1000");
            sh("iptables -t nat -F");
            let hangs = || fs::read_to_string(lab.path("hangs")).ok()?.trim().parse::<i32>().ok();
            until("it hangs", || hangs().is_some());
            let (started, stop) = (Instant::now(), lab.command("stop").stderr(Stdio::piped()).spawn().unwrap());
            while started.elapsed() < Duration::from_secs(11) {
                std::thread::sleep(Duration::from_millis(100));
            }
            kill(Pid::from_raw(hangs().unwrap()), Signal::SIGKILL).unwrap();
            let output = stop.wait_with_output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success() && said.contains("perhaps since a program that it runs hangs"), "{said}");
            assert!(said.contains(&format!("process {}", watch.process())), "{said}");
            std::thread::sleep(Duration::from_millis(4500));
            assert_eq!(lab.ours(), [""; 0], "the watch has put them back: {}", watch.text());
            assert_eq!(watch.end(Signal::SIGTERM), Some(0));
            unwrap(lab, verb);
            fs::remove_file(lab.path("hangs")).unwrap();
        }
    });
}

#[test]
fn a_tool_that_is_slow_is_left_to_end_when_the_watch_is_told_to() {
    in_lab("process::a_tool_that_is_slow_is_left_to_end_when_the_watch_is_told_to", Variant::Nft, |lab| {
        lab.balance(&[1, 2, 3]);
        let watch = Watch::begin(lab);
        let right = lab.ours();
        wrap(lab, "restore", "echo >$DIR/slow\nsleep 1\nexec $REAL \"$@\"");
        sh("iptables -t nat -F");
        until("it writes", || lab.path("slow").exists());
        assert_eq!(watch.end(Signal::SIGTERM), Some(0));
        assert_eq!(lab.ours(), right);
    });
}

/// The watch blocks signals for itself; its children must not inherit that.
#[test]
fn a_tool_of_the_watch_hears_signals() {
    in_lab("process::a_tool_of_the_watch_hears_signals", Variant::Nft, |lab| {
        lab.balance(&[1, 2, 3]);
        let begin = Instant::now();
        let watch = Watch::begin(lab);
        wrap(lab, "save", "echo $$ >$DIR/hangs\nexec sleep 1000");
        sh("iptables -A INPUT -p udp -j ACCEPT");
        until("it hangs", || fs::read_to_string(lab.path("hangs")).is_ok_and(|text| text.ends_with('\n')));
        let child: i32 = fs::read_to_string(lab.path("hangs")).unwrap().trim().parse().unwrap();
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap();
        let signals = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        assert_eq!(signals("SigBlk:"), 0, "{status}");
        for signal in [Signal::SIGPIPE, Signal::SIGXFSZ, Signal::SIGTERM, Signal::SIGCHLD] {
            assert_eq!(signals("SigIgn:") >> (signal as u32 - 1) & 1, 0, "{signal}: {status}");
        }
        kill(Pid::from_raw(child), Signal::SIGTERM).unwrap();
        watch.hears(begin, "rules in force: it was ended by signal 15");
        unwrap(lab, "save");
    });
}

// The same.
on_both!(a_tool_that_is_killed_or_talks_nonsense_is_quoted_with_care, |lab| {
    lab.balance(&[1, 2, 3]);
    wrap(lab, "restore", "kill -9 $$");
    let (code, _, err) = lab.paraglider("start");
    assert!(
        code == 1 && err.contains("iptables-restore failed: it was ended by signal 9; nothing was changed"),
        "{err}"
    );
    wrap(lab, "restore", "printf '\\033[2J\\007\\302\\233' >&2; head -c 5000 /dev/zero | tr '\\0' x >&2; exit 1");
    let (code, _, err) = lab.paraglider("start");
    assert!(code == 1 && err.contains(r"refused: \u{1b}[2J\u{7}\u{9b}xxx") && err.contains("xxx…; "), "{err}");
    assert!(err.len() < 600 && !err.trim_end().contains(char::is_control), "{err:?}");
    assert_eq!(lab.ours(), [""; 0]);
});

#[test]
fn a_tool_that_hangs_is_killed_after_a_minute() {
    in_lab("process::a_tool_that_hangs_is_killed_after_a_minute", Variant::Nft, |lab| {
        lab.balance(&[1, 2, 3]);
        lab.ok("start");
        let before = lab.ours();
        lab.balance(&[1, 2]);
        wrap(lab, "save", "echo $$ >$DIR/hangs\nexec sleep 1000");
        let since = Instant::now();
        let (code, _, err) = lab.paraglider("start");
        assert!(code == 1 && err.contains("iptables-save: killed, since it did not end within 60 s"), "{err}");
        assert!((59..75).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
        let child: i32 = fs::read_to_string(lab.path("hangs")).unwrap().trim().parse().unwrap();
        assert!(kill(Pid::from_raw(child), None).is_err(), "it still runs");
        assert_eq!(lab.ours(), before);
    });
}

/// SIGTERM and SIGINT end the other verbs, whatever they wait for.
#[test]
fn a_start_whose_tool_hangs_can_be_ended() {
    in_lab("process::a_start_whose_tool_hangs_can_be_ended", Variant::Nft, |lab| {
        lab.balance(&[1, 2, 3]);
        sh("iptables -A INPUT -p udp -j ACCEPT");
        wrap(lab, "save", "echo >$DIR/hangs\nexec sleep 5");
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let mut start = lab.command("start").spawn().unwrap();
            until("it hangs", || lab.path("hangs").exists());
            fs::remove_file(lab.path("hangs")).unwrap();
            let since = Instant::now();
            kill(Pid::from_raw(start.id().try_into().unwrap()), signal).unwrap();
            assert_eq!(ended(&mut start), None);
            assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
        }
    });
}

/// A command whose stderr is a pipe that nobody reads and that is full already; and the pipe.
fn unheard(lab: &Lab, words: &str) -> (Command, File) {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    // Opened anew it can be non-blocking by itself.
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut filler = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    while filler.write(&[b'x'; 4096]).is_ok() {}
    let mut command = lab.command(words);
    command.stderr(writer);
    (command, reader.into())
}

/// The same for a socket, which is what journald gives to a service.
fn unheard_socket(lab: &Lab, words: &str) -> (Command, std::os::unix::net::UnixStream) {
    let (reader, mut writer) = std::os::unix::net::UnixStream::pair().unwrap();
    writer.set_nonblocking(true).unwrap();
    while writer.write(&[b'x'; 512]).is_ok() {}
    writer.set_nonblocking(false).unwrap();
    let mut command = lab.command(words);
    command.stderr(std::os::fd::OwnedFd::from(writer));
    (command, reader)
}

on_all!(stderr_that_nobody_reads_holds_nothing_up, |lab| {
    let [_b1, mut b2, _b3] = Backend::three();
    lab.config(&checked(QUICK, &[1, 2, 3]));
    for verb in ["-v start", "stop", "-v start", "-v stop --drain 1"] {
        let (mut command, reader) = unheard(lab, verb);
        let since = Instant::now();
        assert_eq!(ended(&mut command.spawn().unwrap()), Some(0), "{verb}");
        assert!(since.elapsed() < Duration::from_secs(4), "{verb}: {:?}", since.elapsed());
        drop(reader);
        let (mut command, reader) = unheard_socket(lab, verb);
        assert_eq!(ended(&mut command.spawn().unwrap()), Some(0), "{verb}");
        drop(reader);
    }
    assert_eq!(lab.ours(), [""; 0]);

    // A watch takes the dead out, and can be ended.
    let (mut command, reader) = unheard(lab, "-v watch");
    let mut watch = command.spawn().unwrap();
    drop(command);
    until("the rules are in force", || lab.paraglider("status").0 == 0);
    b2.stop();
    until("the rules follow", || !lab.hands_to("10.2.0.12:80"));
    kill(Pid::from_raw(watch.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(ended(&mut watch), Some(0));
    drop(reader);
});

/// Once the pipe is read again, the next sentence arrives.
#[test]
fn stderr_that_is_read_late_loses_what_was_said_meanwhile_and_no_more() {
    in_lab("process::stderr_that_is_read_late_loses_what_was_said_meanwhile_and_no_more", Variant::Nft, |lab| {
        let [_b1, mut b2, _b3] = Backend::three();
        lab.config(&checked(QUICK, &[1, 2, 3]));
        let (mut command, mut reader) = unheard(lab, "watch");
        let mut watch = command.spawn().unwrap();
        drop(command);
        until("the rules are in force", || lab.paraglider("status").0 == 0);
        let (say, heard) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut part) {
                let _ = say.send(String::from_utf8_lossy(&part[..length]).into_owned());
            }
        });
        thread::sleep(Duration::from_millis(300));
        b2.stop();
        let mut text = String::new();
        until("it is heard", || {
            text.extend(heard.try_iter());
            text.contains("WARN  [paraglider] 10.2.0.12:80 of 10.9.0.1:4444 is down (connection refused)\n")
        });
        assert!(!text.contains("is balanced over"), "that was said to nobody");
        watch.kill().unwrap();
        watch.wait().unwrap();
    });
}

/// Few descriptors, small files, no stdin, stdout and stderr: an error, and a sentence wherever there is a place for one.
#[test]
fn limits_of_the_shell_are_errors_with_a_sentence() {
    in_lab("process::limits_of_the_shell_are_errors_with_a_sentence", Variant::Nft, |lab| {
        lab.balance(&[1, 2, 3]);
        let limited = |limit: &str, words: &str| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", &format!("{limit}; exec \"$0\" -config \"$1\" $2")]).arg(program());
            shell.arg(lab.path("glider.yaml")).arg(words).stdin(Stdio::null());
            let output = shell.output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        // A dynamic program needs four to be loaded.
        for files in 4..=6 {
            let (code, err) = limited(&format!("ulimit -n {files}"), "start");
            assert!(
                code.is_some_and(|code| code > 0) && err.contains("Too many open files"),
                "{files}: {code:?} {err}"
            );
            assert!(err.starts_with("ERROR [paraglider] ") && err.lines().count() == 1, "{files}: {err}");
        }
        assert_eq!(lab.ours(), [""; 0]);
        let (code, err) = limited("ulimit -f 0", "-v start");
        assert!(code == Some(1) && err.contains("File too large"), "{code:?} {err}");
        assert_eq!(lab.ours(), [""; 0]);
        let (code, err) = limited("ulimit -f 1", "-v start");
        assert!(matches!(code, Some(0 | 1)) && err.contains("[paraglider] "), "{code:?} {err}");
        lab.ok("start");
        // The lock must not get the number of a closed descriptor, with /dev/null or without.
        for dev in [":", "mount -t tmpfs none /dev"] {
            let line = format!("{dev}; exec \"$0\" -config \"$1\" -v start <&- >&- 2>&-",);
            let status = Command::new("unshare")
                .args(["-m", "/bin/sh", "-c", &line])
                .arg(program())
                .arg(lab.path("glider.yaml"))
                .status();
            assert_eq!(status.unwrap().code(), Some(0), "{dev}");
            assert_eq!(fs::metadata(kept("lock")).unwrap().len(), 0, "{dev}");
        }
    });
}

/// A parent that ignores SIGCHLD, or blocks what ends a program, leaves that to its children.
#[test]
fn what_a_parent_ignores_and_blocks_is_no_harm() {
    in_lab("process::what_a_parent_ignores_and_blocks_is_no_harm", Variant::Nft, |lab| {
        lab.config(&checked(QUICK, &[1, 2, 3]));
        let _three = Backend::three();
        // By env(1) of coreutils.
        let burdened = |words: &str| {
            let mut command = Command::new("env");
            command.args(["--ignore-signal=CHLD,PIPE", "--block-signal"]).arg(program());
            command.arg("-config").arg(lab.path("glider.yaml")).args(words.split(' ')).stdin(Stdio::null());
            command
        };
        for words in ["start", "status", "reload", "stop"] {
            let output = burdened(words).output().unwrap();
            assert!(output.status.success(), "{words}: {output:?}");
        }
        // Ended by SIGTERM, though its parent had it blocked.
        wrap(lab, "save", "echo >$DIR/hangs\nexec sleep 5");
        let mut start = burdened("start").spawn().unwrap();
        until("it hangs", || lab.path("hangs").exists());
        kill(Pid::from_raw(start.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        assert_eq!(ended(&mut start), None);
        unwrap(lab, "save");
        let mut watch = burdened("watch").stderr(Stdio::null()).spawn().unwrap();
        until("the rules are in force", || lab.paraglider("status").0 == 0);
        kill(Pid::from_raw(watch.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        assert_eq!(ended(&mut watch), Some(0));
    });
}

/// A kernel without CONFIG_FILE_LOCKING, which strace plays.
#[test]
fn a_kernel_without_locks_is_told_so() {
    in_lab("process::a_kernel_without_locks_is_told_so", Variant::Nft, |lab| {
        lab.balance(&[1, 2, 3]);
        let without = |call: &str, words: &str| {
            let mut command = Command::new("strace");
            command.args(["-o", "/dev/null", "-e", &format!("trace={call}"), "-e"]);
            command
                .arg(format!("inject={call}:error=ENOSYS"))
                .arg(program())
                .arg("-config")
                .arg(lab.path("glider.yaml"));
            command.args(words.split(' ')).stdin(Stdio::null());
            let output = command.output().ok()?;
            Some((output.status.code(), String::from_utf8(output.stderr).unwrap()))
        };
        let Some((code, err)) = without("flock", "start") else {
            return println!("skipped: a_kernel_without_locks_is_told_so: there is no strace here");
        };
        let told = |err: &str| err.contains("cannot take the lock") && err.contains("Function not implemented");
        assert!(code == Some(1) && told(&err) && lab.ours().is_empty(), "{code:?} {err}");
        lab.ok("start");
        let since = Instant::now();
        let (code, err) = without("flock", "stop").unwrap();
        assert!(code == Some(0) && told(&err) && err.contains("going on without the lock"), "{code:?} {err}");
        assert!(since.elapsed() < Duration::from_secs(5));
        assert_eq!(lab.ours(), [""; 0]);
        let (code, err) = without("fcntl", "watch").unwrap();
        assert!(
            code == Some(1) && err.contains("cannot lock watch in /run: Function not implemented"),
            "{code:?} {err}"
        );
    });
}

/// What cannot be read is not taken for switched off.
#[test]
fn a_host_without_proc_is_told_so() {
    in_lab("process::a_host_without_proc_is_told_so", Variant::Nft, |lab| {
        lab.balance(&[1, 2, 3]);
        let line = "mount -t tmpfs none /proc && exec \"$0\" -config \"$1\" start";
        let mut command = Command::new("unshare");
        command.args(["-m", "/bin/sh", "-c", line]).arg(program()).arg(lab.path("glider.yaml")).stdin(Stdio::null());
        let output = command.output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{err}");
        let said = "cannot tell whether IPv4 forwarding is on, or switch it on: /proc is not mounted";
        assert!(err.contains(said), "{err}");
        assert_eq!(lab.ours(), [""; 0]);
    });
}

/// What others can put in the place of a file is looked at before it is read.
#[test]
fn a_fifo_in_the_place_of_a_file_is_refused() {
    in_lab("process::a_fifo_in_the_place_of_a_file_is_refused", Variant::Nft, |lab| {
        let _three = Backend::three();
        lab.config(&checked(QUICK, &[1, 2, 3]));
        let begin = Instant::now();
        let watch = Watch::begin(lab);
        let config = lab.path("glider.yaml");
        let fifo = || {
            fs::remove_file(&config).unwrap();
            nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).unwrap();
        };
        fifo();
        for verb in ["start", "check", "status"] {
            let (code, out, err) = lab.paraglider(verb);
            assert!(code > 0 && format!("{out}{err}").contains("it is not a regular file"), "{verb}: {out}{err}");
        }
        // With a writer it could be opened, but reading it might never end.
        let _writer = File::options().read(true).write(true).open(&config).unwrap();
        assert_eq!(lab.paraglider("start").0, 2);
        watch.signal(Signal::SIGHUP);
        watch.hears(begin, "it is not a regular file; the config from before stays in force");
        assert_eq!(watch.end(Signal::SIGTERM), Some(0));
        for name in ["lock", "watch"] {
            let path = kept(name).display().to_string();
            fs::remove_file(&config).unwrap();
            lab.config(&checked(QUICK, &[1, 2, 3]));
            fs::remove_file(&path).unwrap();
            nix::unistd::mkfifo(path.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
            let mut watch = Watch::spawn(lab, "watch");
            assert_eq!(watch.ended(), Some(1), "{name}");
            assert!(watch.text().contains("it is not a regular file"), "{}", watch.text());
            fs::remove_file(&path).unwrap();
        }
    });
}

/// No check begins for want of a descriptor under a limit that the program may raise by itself.
#[test]
fn a_small_soft_limit_of_descriptors_is_raised() {
    in_lab("process::a_small_soft_limit_of_descriptors_is_raised", Variant::Nft, |lab| {
        let [_b1, mut b2, _b3] = Backend::three();
        lab.config(&checked(QUICK, &[1, 2, 3]));
        let watch = Watch::limited(lab, "ulimit -S -n 20");
        until("the rules are in force", || lab.paraglider("status").0 == 0);
        let since = Instant::now();
        b2.stop();
        assert!(watch.hears(since, "10.2.0.12:80 of 10.9.0.1:4444 is down") < BOUND);
        // Many checks at a time need many.
        let limits = fs::read_to_string(format!("/proc/{}/limits", watch.process())).unwrap();
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let [soft, hard] = [0, 1].map(|n| files.split_whitespace().nth(n).unwrap());
        assert!(soft == hard && soft != "20", "{files}");
        assert_eq!(watch.end(Signal::SIGTERM), Some(0));
    });
}

// Of those there would be thousands with many backends.
on_all!(a_check_leaves_no_time_wait, |lab| {
    let backends = Backend::three();
    lab.config(&checked("interval: 100ms, timeout: 50ms, fall: 9", &[1, 2, 3]));
    let waiting = || {
        let text = fs::read_to_string("/proc/net/sockstat").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("TCP: ")).unwrap();
        let mut words = line.split(' ').skip_while(|word| *word != "tw");
        words.nth(1).unwrap().parse::<usize>().unwrap()
    };
    let before = waiting();
    let watch = Watch::begin(lab);
    until("there were some checks", || backends.iter().all(|backend| backend.connections() >= 10));
    assert_eq!(watch.end(Signal::SIGTERM), Some(0));
    assert_eq!(waiting(), before);
});
