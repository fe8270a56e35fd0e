//! `stop` in the middle of traffic, over SSH, as an administrator does it: the branch that he sits on is not sawn off.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::lab::{ask, inside, sh, Held, Lab};
use crate::story::BIND;

/// How long the board may take to answer a line over SSH, whose cryptography is slow on it.
const PATIENCE: Duration = Duration::from_secs(90);

/// Lets the laboratory's administrator into a board.
pub fn ssh_key(lab: &Lab, root: &Path) {
    let key = lab.path("key");
    sh(&format!("ssh-keygen -q -t ed25519 -N '' -f {}", key.display()));
    fs::copy(key.with_extension("pub"), root.join("root/.ssh/authorized_keys")).unwrap();
}

/// A shell of the board's, at the client.
struct Session {
    ssh: Child,
    keys: ChildStdin,
    screen: Receiver<String>,
}

impl Session {
    fn open(lab: &Lab) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", "client", "ssh", "-F", "/dev/null", "-T", "-o", "BatchMode=yes"]);
        command.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]);
        command.args(["-o", "ConnectTimeout=60", "-i"]).arg(lab.path("key")).args(["root@10.1.0.1", "sh"]);
        let mut ssh = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(ssh.stdout.take().unwrap()).lines();
        let (send, screen) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| send.send(line)));
        let keys = ssh.stdin.take().unwrap();
        Session { ssh, keys, screen }
    }

    /// Types a line; returns the line that it prints.
    fn ask(&mut self, line: &str) -> String {
        writeln!(self.keys, "{line}").unwrap();
        self.screen.recv_timeout(PATIENCE).unwrap_or_else(|why| panic!("SSH: {line}: {why}"))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

/// What becomes of established connections.
#[derive(PartialEq)]
pub enum Established {
    Live,
    AreCut,
}

/// Stops the service while connections are held and others come one after the other.
pub fn over_ssh(lab: &Lab, established: Established) {
    let to: SocketAddr = BIND.parse().unwrap();
    let mut session = Session::open(lab);
    assert_eq!(session.ask("echo here"), "here");

    let held: Vec<Held> = inside("client", move || (0..8).map(|_| Held::open(to).unwrap()).collect()).join().unwrap();
    let partners: Vec<_> = held.iter().map(|one| one.ask().unwrap()).collect();
    let enough = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&enough);
    let traffic = inside("client", move || {
        let mut answers = Vec::new();
        while !seen.load(Ordering::Relaxed) {
            answers.push(ask(to).map_err(|error| error.kind()));
            // A pause, or those that are refused would keep the board busy.
            thread::sleep(Duration::from_millis(20));
        }
        answers
    });
    thread::sleep(Duration::from_millis(500));
    assert_eq!(session.ask("/etc/init.d/paraglider stop >/tmp/stop 2>&1; echo $?"), "0");
    let said = if established == Established::Live { "will live on" } else { "will be cut" };
    assert_eq!(session.ask(&format!("grep -c 'established connections {said}' /tmp/stop")), "1");
    assert_eq!(session.ask("echo still here"), "still here");
    thread::sleep(Duration::from_millis(500));
    enough.store(true, Ordering::Relaxed);

    for (one, partner) in held.iter().zip(&partners) {
        match established {
            Established::Live => assert_eq!(&one.ask().expect("an established connection lives"), partner),
            // Told at once, not by a limit of time.
            Established::AreCut => assert_eq!(one.ask().unwrap_err().kind(), ErrorKind::ConnectionReset),
        }
    }
    let answers = traffic.join().unwrap();
    let last = answers.iter().rposition(Result::is_ok).expect("nothing was balanced before the stop");
    let (before, after) = answers.split_at(last + 1);
    assert!(before.iter().all(Result::is_ok), "{before:?}");
    // Where connections are cut, one may have been waiting for its answer, which goes nowhere.
    let cut = usize::from(established == Established::AreCut && after.len() > 1);
    let refused = |answer: &Result<_, ErrorKind>| *answer == Err(ErrorKind::ConnectionRefused);
    assert!(!after.is_empty() && after.iter().skip(cut).all(refused), "{after:?}");
}
