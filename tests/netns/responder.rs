//! A backend's service of UDP, as its checks find it.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::inside;

/// What a service of datagrams does with each question.
#[derive(Debug, Clone)]
pub enum Mood {
    /// Answers this.
    Says(Vec<u8>),
    /// Answers with the question itself.
    Echoes,
    /// The same as a DNS server does, with this code.
    Dns(u8),
    /// The same with another identifier.
    Confused,
    /// Answers so much later.
    Late(Duration, Box<Mood>),
    /// The network loses the first question of each port.
    Loses(Box<Mood>),
    /// Nothing.
    Mute,
}

/// A question, and from where it came.
pub type Asked = (Vec<u8>, SocketAddr);

/// A backend's process that a test starts, stops and puts in a mood.
pub struct Service {
    host: String,
    at: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Service {
    /// One in the host `b1` and so on.
    pub fn at(n: u8, port: u16, mood: Mood) -> Self {
        Self::on(n, &SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port).to_string(), mood)
    }

    /// The same on one of the host's addresses.
    pub fn on(n: u8, at: &str, mood: Mood) -> Self {
        let (mood, at) = (Arc::new(Mutex::new(mood)), at.parse().unwrap());
        let mut service = Service { host: format!("b{n}"), at, mood, asked: Arc::default(), running: None };
        service.start();
        service
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn start(&mut self) {
        let (ready, wait) = mpsc::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let (mood, asked, at) = (self.mood.clone(), self.asked.clone(), self.at);
        let thread = inside(&self.host, move || {
            let socket = UdpSocket::bind(at).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 2048];
            loop {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let question = buffer[..length].to_vec();
                let first = {
                    let mut asked = asked.lock().unwrap();
                    let first = !asked.iter().any(|(_, before)| *before == from);
                    asked.push((question.clone(), from));
                    first
                };
                let (mood, socket) = (mood.lock().unwrap().clone(), socket.try_clone().unwrap());
                std::thread::spawn(move || answer(&socket, mood, question, from, first));
            }
        });
        wait.recv().unwrap();
        self.running = Some((end, thread));
    }

    /// As if its process were killed: its port is closed.
    pub fn stop(&mut self) {
        let (ended, thread) = self.running.take().expect("it runs");
        ended.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }
}

fn answer(socket: &UdpSocket, mood: Mood, mut question: Vec<u8>, from: SocketAddr, first: bool) {
    let said = match mood {
        Mood::Says(said) => said,
        Mood::Echoes => question,
        Mood::Dns(code) => {
            question[2] |= 0x80;
            question[3] = 0x80 | code;
            question
        }
        Mood::Confused => {
            question[1] = !question[1];
            question[2] |= 0x80;
            question
        }
        Mood::Late(pause, mood) => {
            std::thread::sleep(pause);
            return answer(socket, *mood, question, from, first);
        }
        Mood::Loses(mood) if !first => return answer(socket, *mood, question, from, first),
        Mood::Loses(_) | Mood::Mute => return,
    };
    // The other side may have closed its port.
    let _ = socket.send_to(&said, from);
}

/// A host that swallows all UDP; [`speak`](crate::backend::speak) ends it.
pub fn swallow(host: &str) {
    let rules = "add table inet silence; add chain inet silence in { type filter hook input priority 0; }; \
                 add rule inet silence in meta l4proto udp drop";
    inside(host, move || crate::lab::sh(&format!("nft '{rules}'"))).join().unwrap();
}
