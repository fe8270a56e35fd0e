//! Backends that a test starts, stops and puts in a mood, so that a health check has something to find. The same port
//! serves clients as [`lab::serve`](crate::lab::serve) does: to a line it answers `NAME PEER`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Result, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{mpsc, Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::lab::{inside, sh};

/// What a backend does with an HTTP request.
#[derive(Debug, Clone)]
pub enum Mood {
    /// This, and closes.
    Says(String),
    /// This a byte at a time, with a pause after each.
    Dribbles(String, Duration),
    /// This, and then a letter again and again.
    Endless(String),
    /// Nothing, but it keeps the connection.
    Mute,
    /// Each in turn, one a request.
    Alternates(Vec<Mood>),
    /// What a virtual host of this name says; all other names get a 404.
    Virtual(String, Box<Mood>),
}

impl Mood {
    /// A whole answer with a status such as `200 OK`.
    pub fn status(status: &str, body: &str) -> Self {
        let length = body.len();
        Mood::Says(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"))
    }
}

/// What all threads of a backend share.
struct State {
    name: String,
    mood: Mutex<Mood>,
    /// The requests so far, each with its headers.
    requests: Mutex<Vec<String>>,
    /// The connections that are open, by number, and how many there were.
    open: Mutex<(BTreeMap<usize, TcpStream>, usize)>,
}

/// A backend's process: it listens or it does not.
pub struct Backend {
    port: u16,
    state: Arc<State>,
    listening: Option<(TcpListener, JoinHandle<()>)>,
}

impl Backend {
    /// One in the host `b1` and so on, which listens. To HTTP it says that all is well.
    pub fn at(n: u8, port: u16) -> Self {
        let mut backend = Self::stopped(n, port);
        backend.start();
        backend
    }

    /// One that listens only once it is started.
    pub fn stopped(n: u8, port: u16) -> Self {
        let state = State {
            name: format!("b{n}"),
            mood: Mutex::new(Mood::status("200 OK", "all is well\n")),
            requests: Mutex::default(),
            open: Mutex::default(),
        };
        Backend { port, state: Arc::new(state), listening: None }
    }

    /// The three of the laboratory, at port 80.
    pub fn three() -> [Self; 3] {
        [1, 2, 3].map(|n| Self::at(n, 80))
    }

    pub fn in_mood(self, mood: Mood) -> Self {
        self.set(mood);
        self
    }

    pub fn set(&self, mood: Mood) {
        *self.state.mood.lock().unwrap() = mood;
    }

    pub fn start(&mut self) {
        let (ready, wait) = mpsc::channel();
        let (state, port) = (self.state.clone(), self.port);
        let thread = inside(&self.state.name, move || {
            // Of both families.
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
            ready.send(listener.try_clone().unwrap()).unwrap();
            while let Ok((stream, _)) = listener.accept() {
                let state = state.clone();
                thread::spawn(move || state.talk(stream));
            }
        });
        self.listening = Some((wait.recv().unwrap(), thread));
    }

    /// As if its process were killed: its port is closed from here on, its connections end.
    pub fn stop(&mut self) {
        self.close();
        for stream in self.state.open.lock().unwrap().0.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// As one does that is about to end: it takes no more connections and serves those that it has.
    pub fn close(&mut self) {
        let (listener, thread) = self.listening.take().expect("it runs");
        // Which wakes the one that waits for a connection.
        nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
        thread.join().unwrap();
        drop(listener);
    }

    /// How many connections there were: those of clients and those of checks.
    pub fn connections(&self) -> usize {
        self.state.open.lock().unwrap().1
    }

    pub fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }
}

impl State {
    fn talk(&self, stream: TcpStream) {
        let number = {
            let mut open = self.open.lock().unwrap();
            open.1 += 1;
            let number = open.1;
            open.0.insert(number, stream.try_clone().unwrap());
            number
        };
        // The other side may go at any time.
        let _ = self.answer(&stream);
        self.open.lock().unwrap().0.remove(&number);
    }

    fn answer(&self, stream: &TcpStream) -> Result<()> {
        let peer = stream.peer_addr()?.ip().to_canonical();
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 {
            if line.starts_with("GET ") {
                while !line.ends_with("\r\n\r\n") && reader.read_line(&mut line)? > 0 {}
                let number = {
                    let mut requests = self.requests.lock().unwrap();
                    requests.push(line.clone());
                    requests.len()
                };
                let mood = match self.mood.lock().unwrap().clone() {
                    Mood::Virtual(host, mood) if line.contains(&format!("\r\nHost: {host}\r\n")) => *mood,
                    Mood::Virtual(..) => Mood::status("404 Not Found", "no such site"),
                    mood => mood,
                };
                return act(&mood, number, stream);
            }
            let mut stream = stream;
            stream.write_all(format!("{} {peer}\n", self.name).as_bytes())?;
            line.clear();
        }
        Ok(())
    }
}

/// Answers the request of this number.
fn act(mood: &Mood, number: usize, mut stream: &TcpStream) -> Result<()> {
    match mood {
        Mood::Says(text) => stream.write_all(text.as_bytes()),
        Mood::Dribbles(text, pause) => {
            for byte in text.bytes() {
                stream.write_all(&[byte])?;
                thread::sleep(*pause);
            }
            Ok(())
        }
        Mood::Endless(text) => {
            stream.write_all(text.as_bytes())?;
            loop {
                stream.write_all(&[b'x'; 1024])?;
            }
        }
        Mood::Mute => loop {
            if std::io::Read::read(&mut stream, &mut [0; 64])? == 0 {
                return Ok(());
            }
        },
        // Of a backend alone.
        Mood::Virtual(_, mood) => act(mood, number, stream),
        Mood::Alternates(moods) => act(&moods[number % moods.len()], number, stream),
    }
}

/// A host that swallows all TCP, whichever way its own address is known.
pub fn silence(host: &str) {
    let rules = "add table inet silence; add chain inet silence in { type filter hook input priority 0; }; \
                 add rule inet silence in meta l4proto tcp drop";
    inside(host, move || sh(&format!("nft '{rules}'"))).join().unwrap();
}

/// The end of [`silence`].
pub fn speak(host: &str) {
    inside(host, || sh("nft delete table inet silence")).join().unwrap();
}

/// A service of the balancer itself on the bind's port, which no client of the bind may ever meet.
pub fn impostor(port: u16) {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = writeln!(&stream, "impostor 0.0.0.0");
        }
    });
}
