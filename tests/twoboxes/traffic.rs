//! What the clients and the backends do, and what they have seen: connections that are held and never rest, and new ones
//! all the time. Each has a number of its own, by which the backends know it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::thread::{sleep, JoinHandle};
use std::time::{Duration, Instant};

use crate::lab::inside;

/// A held connection says something so often.
const RHYTHM: Duration = Duration::from_millis(50);

/// A new connection that is not there after this long is given up, and the next one is tried: so the moment from which on
/// they work again is seen, and not TCP's own repetition of the first packet after 1, 3 and 7 s.
const BRIEF: Duration = Duration::from_millis(100);

/// So much longer for each client than for the one before, or all would try again at the same time.
const STEP: Duration = Duration::from_millis(17);

/// How long an answer on a connection may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// A held connection is dead when nothing has come for so long. TCP waits longer from one repetition to the next.
const DEAD: Duration = Duration::from_secs(30);

/// How many make new connections, one after the other.
const CLIENTS: u32 = 8;

/// What a backend has seen of a connection: its number, its source address, and who the backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    pub number: usize,
    pub from: String,
    pub backend: &'static str,
}

/// A new connection that was tried, and what came of it.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub number: usize,
    pub begun: Instant,
    pub ended: Instant,
    pub result: std::result::Result<String, ErrorKind>,
}

/// A held connection, so far.
#[derive(Debug, Clone)]
pub struct Held {
    pub number: usize,
    /// Who has answered, and how often.
    pub answers: BTreeMap<String, usize>,
    pub last: Instant,
    /// The longest time between two answers, since somebody asked for it.
    pub gap: Duration,
    pub error: Option<String>,
}

#[derive(Default)]
struct Seen {
    arrivals: Mutex<Vec<Arrival>>,
    attempts: Mutex<Vec<Attempt>>,
    held: Mutex<BTreeMap<usize, Held>>,
    numbers: AtomicUsize,
    done: AtomicBool,
}

/// All of it.
pub struct Traffic {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Backends that serve at a port; no connections yet.
    pub fn new(backends: &[&'static str], port: u16) -> Self {
        let seen = Arc::new(Seen::default());
        for backend in backends {
            serve(backend, port, seen.clone());
        }
        Traffic { seen, threads: Vec::new() }
    }

    /// The client opens connections and holds them, and begins to make new ones.
    pub fn begin(&mut self, to: SocketAddr, held: usize) {
        for _ in 0..held {
            let seen = self.seen.clone();
            self.threads.push(inside("client", move || hold(to, &seen)));
        }
        for n in 0..CLIENTS {
            let seen = self.seen.clone();
            self.threads.push(inside("client", move || make(to, BRIEF + STEP * n, &seen)));
        }
    }

    /// Nobody sends any more.
    pub fn end(&mut self) {
        self.seen.done.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }

    pub fn held(&self) -> Vec<Held> {
        self.seen.held.lock().unwrap().values().cloned().collect()
    }

    /// Measures gaps from here on.
    pub fn forget_gaps(&self) {
        self.seen.held.lock().unwrap().values_mut().for_each(|held| held.gap = Duration::ZERO);
    }

    /// The new connections that were begun after `since`, in the order of their ends.
    pub fn attempts(&self, since: Instant) -> Vec<Attempt> {
        self.seen.attempts.lock().unwrap().iter().filter(|attempt| attempt.begun >= since).cloned().collect()
    }

    pub fn arrivals(&self) -> Vec<Arrival> {
        self.seen.arrivals.lock().unwrap().clone()
    }
}

/// A backend: to each line it answers with its name. The first line of a connection is noted.
fn serve(name: &'static str, port: u16, seen: Arc<Seen>) {
    let (ready, wait) = mpsc::channel();
    inside(name, move || {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            let (stream, seen) = (stream.unwrap(), seen.clone());
            std::thread::spawn(move || answer(name, stream, &seen));
        }
    });
    wait.recv().unwrap();
}

fn answer(backend: &'static str, stream: TcpStream, seen: &Seen) -> Result<()> {
    let from = stream.peer_addr()?.ip().to_string();
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    let mut known = false;
    while reader.read_line(&mut line)? > 0 {
        if !known {
            let number = line.trim().parse().map_err(|_| ErrorKind::InvalidData)?;
            seen.arrivals.lock().unwrap().push(Arrival { number, from: from.clone(), backend });
            known = true;
        }
        writeln!(&stream, "{backend}")?;
        line.clear();
    }
    Ok(())
}

/// Says one's number, and returns who has answered.
fn exchange(stream: &TcpStream, number: usize) -> Result<String> {
    let mut stream = stream;
    stream.write_all(format!("{number}\n").as_bytes())?;
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim().to_owned())
}

fn hold(to: SocketAddr, seen: &Seen) {
    let number = seen.numbers.fetch_add(1, Ordering::Relaxed);
    let open = || {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEAD))?;
        Ok::<_, std::io::Error>(stream)
    };
    let stream = open().unwrap();
    let held = Held { number, answers: BTreeMap::new(), last: Instant::now(), gap: Duration::ZERO, error: None };
    seen.held.lock().unwrap().insert(number, held);
    while !seen.done.load(Ordering::Relaxed) {
        let answer = exchange(&stream, number);
        let mut all = seen.held.lock().unwrap();
        let held = all.get_mut(&number).unwrap();
        match answer {
            Ok(backend) => {
                *held.answers.entry(backend).or_insert(0) += 1;
                held.gap = held.gap.max(held.last.elapsed());
                held.last = Instant::now();
            }
            Err(error) => {
                held.error = Some(error.to_string());
                return;
            }
        }
        drop(all);
        sleep(RHYTHM);
    }
}

fn make(to: SocketAddr, brief: Duration, seen: &Seen) {
    while !seen.done.load(Ordering::Relaxed) {
        let number = seen.numbers.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let once = || {
            let stream = TcpStream::connect_timeout(&to, brief)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            exchange(&stream, number)
        };
        let result = once().map_err(|error| error.kind());
        seen.attempts.lock().unwrap().push(Attempt { number, begun, ended: Instant::now(), result });
        sleep(Duration::from_millis(30));
    }
}
