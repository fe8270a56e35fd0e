//! A `paraglider watch` that runs beside the story, and clients that ask all the time.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::failure::wrap;
use crate::lab::{ask, inside, program, sh, shell, Lab, Variant};

/// How long anything may take on a machine that has much else to do. What is promised to be quicker is measured.
pub const BOUND: Duration = Duration::from_secs(12);

/// What a measured time may be longer than promised: processes start, two cores have much to do.
pub const SLACK: Duration = Duration::from_millis(900);

/// Waits until something is so; returns how long it took.
pub fn until(what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let since = Instant::now();
    while !so() {
        assert!(since.elapsed() < BOUND, "not within {BOUND:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
    since.elapsed()
}

/// Runs Paraglider with another config than the laboratory's.
pub fn by(lab: &Lab, config: &Path, words: &str) -> Output {
    let mut command = Command::new(program());
    command.arg("-config").arg(config).args(words.split(' ')).stdin(Stdio::null());
    command.current_dir(lab.path("")).output().unwrap()
}

/// A file of the state that is kept between two runs, for this network namespace.
pub fn kept(name: &str) -> PathBuf {
    let inode = fs::metadata("/proc/self/ns/net").unwrap().ino();
    PathBuf::from(format!("/run/paraglider/{inode}/{name}"))
}

/// A line of the log, and when it was read.
type Line = (Instant, String);

/// A watch. It is killed with its story.
pub struct Watch {
    child: Child,
    log: Arc<Mutex<Vec<Line>>>,
    reader: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts one and waits until the rules are in force.
    pub fn begin(lab: &Lab) -> Self {
        Self::with(lab, "watch")
    }

    /// The same with other words.
    pub fn with(lab: &Lab, words: &str) -> Self {
        let mut watch = Self::spawn(lab, words);
        until("the watch puts the rules in force", || {
            assert!(watch.lives(), "it ended: {}", watch.text());
            watch.log.lock().unwrap().iter().any(|(_, line)| line.contains("watching the rules"))
        });
        lab.ok("status");
        watch
    }

    /// Starts one, whatever comes of it.
    pub fn spawn(lab: &Lab, words: &str) -> Self {
        Self::of(lab.command(words))
    }

    /// Starts one by a shell that first sets a limit.
    pub fn limited(lab: &Lab, limit: &str) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("{limit}; exec \"$@\""), "sh"]).arg(program());
        shell.arg("-config").arg(lab.path("glider.yaml")).arg("watch").stdin(Stdio::null());
        Self::of(shell)
    }

    /// Starts one by a command of its own.
    pub fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = log.clone();
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push((Instant::now(), line));
            }
        });
        Watch { child, log, reader: Some(reader) }
    }

    /// Whether it has not ended.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// The whole log.
    pub fn text(&self) -> String {
        self.log.lock().unwrap().iter().map(|(_, line)| format!("{line}\n")).collect()
    }

    /// The lines since then with these words.
    pub fn lines(&self, since: Instant, words: &str) -> Vec<Line> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|(at, line)| *at >= since && line.contains(words)).cloned().collect()
    }

    /// Waits for a line with these words; returns how long after `since` it came.
    pub fn hears(&self, since: Instant, words: &str) -> Duration {
        loop {
            if let Some((at, _)) = self.lines(since, words).first() {
                return *at - since;
            }
            assert!(since.elapsed() < BOUND, "no `{words}` within {BOUND:?}:\n{}", self.text());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The same for `BACKEND of BIND is up` or `is down`: waits until the rules have followed as well.
    pub fn turns(&self, lab: &Lab, since: Instant, words: &str) -> Duration {
        self.turns_by(lab, &lab.path("glider.yaml"), since, words)
    }

    /// The same by another config than the laboratory's.
    pub fn turns_by(&self, lab: &Lab, config: &Path, since: Instant, words: &str) -> Duration {
        let took = self.hears(since, words);
        let mut said = words.split(' ');
        let mut word = |n| said.nth(n).unwrap_or_else(|| panic!("{words}"));
        let (backend, bind, state) = (word(0), word(1), word(1));
        let line = format!("{bind} {backend} {state} ");
        until(&line, || fs::read_to_string(kept("watch")).is_ok_and(|text| text.contains(&line)));
        // Another one may turn meanwhile.
        until("the rules are right", || by(lab, config, "status").status.success());
        took
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for its end; returns the exit status, or nothing if a signal ended it.
    pub fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        until("the watch ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.reader.take().unwrap().join().unwrap();
        status.unwrap().code()
    }

    /// Ends it with a signal.
    pub fn end(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.ended()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the watch said:\n{}", self.text());
        }
    }
}

/// Counts how often Paraglider writes rules.
pub struct Writes {
    log: PathBuf,
    monitor: Option<Child>,
}

impl Writes {
    pub fn begin(lab: &Lab) -> Self {
        let log = lab.path("writes");
        if lab.variant != Variant::Netlink {
            wrap(lab, "restore", "echo '(paraglider)' >>$DIR/writes\nexec $REAL \"$@\"");
            return Writes { log, monitor: None };
        }
        let mut monitor = shell("exec nft monitor");
        let monitor = monitor.stdout(fs::File::create(&log).unwrap()).spawn().unwrap();
        let writes = Writes { log, monitor: Some(monitor) };
        until("the monitor hears", || {
            sh("nft 'add table inet heard; delete table inet heard'");
            fs::read_to_string(&writes.log).unwrap().contains("heard")
        });
        writes
    }

    pub fn number(&self) -> usize {
        if self.monitor.is_some() {
            thread::sleep(Duration::from_millis(50));
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.ends_with("(paraglider)")).count()
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        if let Some(monitor) = &mut self.monitor {
            let _ = monitor.kill();
            let _ = monitor.wait();
        }
    }
}

/// What came of one connection.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub begun: Instant,
    pub ended: Instant,
    /// Who answered.
    pub answer: Result<String, ErrorKind>,
}

/// Clients that ask all the time, each time over a connection of its own.
pub struct Clients {
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Attempt>>>,
}

impl Clients {
    /// `number` clients in a host, each of which asks once in every `pace`.
    pub fn begin(from: &str, to: &str, number: usize, pace: Duration) -> Self {
        let to: SocketAddr = to.parse().unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let done = done.clone();
            let work = move || ask_all_the_time(to, pace, &done);
            if from == "balancer" {
                thread::spawn(work)
            } else {
                inside(from, work)
            }
        };
        let threads = (0..number).map(client).collect();
        Clients { done, threads }
    }

    /// They stop; returns all that came of it.
    pub fn end(self) -> Vec<Attempt> {
        self.done.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

fn ask_all_the_time(to: SocketAddr, pace: Duration, done: &AtomicBool) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = ask(to).map(|(name, _)| name).map_err(|error| error.kind());
        attempts.push(Attempt { begun, ended: Instant::now(), answer });
        thread::sleep(pace.saturating_sub(begun.elapsed()));
    }
    attempts
}

/// Those that failed.
pub fn failed(attempts: &[Attempt]) -> Vec<&Attempt> {
    attempts.iter().filter(|attempt| attempt.answer.is_err()).collect()
}

/// What `status --json` says of a backend: `"address":…` up to the end of it.
pub fn told<'a>(json: &'a str, address: &str) -> &'a str {
    let begin = format!("{{\"address\":\"{address}\"");
    let (_, rest) = json.split_once(&begin).unwrap_or_else(|| panic!("{address} is not in {json}"));
    rest.split('}').next().unwrap()
}

/// How often each has answered of `n` connections from the client, which must all succeed.
pub fn shares(to: &str, n: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for (answer, n) in crate::lab::ask_often("client", to, n) {
        let (name, _) = answer.split_once(' ').unwrap_or_else(|| panic!("{n} of the connections: {answer}"));
        *shares.entry(name.to_owned()).or_insert(0) += n;
    }
    shares
}
