//! Connections and bytes through the laboratory.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::{self, inside, Lab};
use crate::setup::{self, balancer, BIND};
use crate::Figures;

/// How long connections are made before it counts, and while it counts.
const WARM: Duration = Duration::from_millis(300);
const TIME: Duration = Duration::from_millis(1000);

/// As many as there are processors, so that all are busy.
const CLIENTS: usize = 2;

fn figures<const N: usize>(of: [(&str, f64); N]) -> Figures {
    of.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// One connection, both ends of it: connect, a line there, a line back, reset. One thread is client and server, so that
/// nothing is measured of the scheduler. (It may get the other thread's connection, and the other one its own.)
pub fn connection(to: SocketAddr, server: &TcpListener) -> std::io::Result<()> {
    // Closing resets it: no port has to wait.
    let reset = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    let mut client = TcpStream::connect(to)?;
    setsockopt(&client, sockopt::Linger, &reset)?;
    client.write_all(b"?\n")?;
    let (mut served, _) = server.accept()?;
    setsockopt(&served, sockopt::Linger, &reset)?;
    served.read_exact(&mut [0; 2])?;
    served.write_all(b"!\n")?;
    client.read_exact(&mut [0; 2])
}

/// Listens on port 80 of all addresses of `b1`.
pub fn server() -> Arc<TcpListener> {
    let listen = || {
        let listener = TcpListener::bind("0.0.0.0:80").unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096).unwrap()).unwrap();
        // A connection that got lost on the way must not stop the bench.
        let patience = nix::sys::time::TimeVal::new(5, 0);
        setsockopt(&listener, sockopt::ReceiveTimeout, &patience).unwrap();
        Arc::new(listener)
    };
    inside("b1", listen).join().unwrap()
}

/// Ticks (10 ms) that the machine's processors were busy.
fn busy() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let ticks: Vec<f64> =
        stat.lines().next().unwrap().split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // All but idle, iowait, and the guests' time, which is in user time already (proc_stat(5)).
    ticks.iter().take(8).sum::<f64>() - ticks[3] - ticks[4]
}

/// Clients that make connections until they are told to stop; counts of made and failed ones.
struct Clients {
    made: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Clients {
    fn start(to: SocketAddr, server: &Arc<TcpListener>) -> Self {
        let (made, failed, stop) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let client = |_| {
            let (made, failed, stop, server) = (made.clone(), failed.clone(), stop.clone(), server.clone());
            inside("client", move || {
                while !stop.load(Ordering::Relaxed) {
                    let counter = if connection(to, &server).is_ok() { &made } else { &failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Clients { made, failed, stop, threads }
    }

    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.failed.load(Ordering::Relaxed)
    }
}

/// Connections per second with CLIENTS clients, and the CPU time of all that takes part.
fn measure(to: SocketAddr, server: &Arc<TcpListener>) -> Figures {
    let clients = Clients::start(to, server);
    thread::sleep(WARM);
    let (made, ticks, since) = (clients.made.load(Ordering::Relaxed), busy(), Instant::now());
    thread::sleep(TIME);
    let (made, ticks, seconds) =
        (clients.made.load(Ordering::Relaxed) - made, busy() - ticks, since.elapsed().as_secs_f64());
    let failed = clients.stop();
    figures([
        ("per_second", made as f64 / seconds),
        ("cpu_us", ticks * 10_000.0 / made.max(1) as f64),
        ("failed", failed as f64),
    ])
}

/// New connections through `what` over `n` backends.
pub fn rate(lab: &Lab, what: &str, n: usize) -> Figures {
    setup::network();
    setup::conntrack();
    let server = server();
    let daemon = balancer(lab, what, n);
    let to = if what == "direct" { format!("{}:80", setup::backend(0)) } else { BIND.to_owned() };
    let mut result = measure(to.parse().unwrap(), &server);
    if let Some(mut daemon) = daemon {
        result.insert("resident_kib".into(), setup::resident(daemon.id()));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
    result
}

/// Bytes over one held connection.
pub fn bulk(lab: &Lab, what: &str) -> Figures {
    setup::network();
    let mut server = Command::new("ip");
    let server = server.args(["netns", "exec", "b1", "iperf3", "-s", "-p", "80"]).stdout(std::process::Stdio::null());
    let mut server = server.spawn().unwrap();
    thread::sleep(Duration::from_millis(300));
    let daemon = balancer(lab, what, 1);
    let (host, port) = if what == "direct" {
        (setup::backend(0), "80".to_owned())
    } else {
        ("10.9.0.1".to_owned(), "4444".to_owned())
    };
    let ticks = busy();
    let text = lab::sh(&format!("ip netns exec client iperf3 -c {host} -p {port} -t 3 -J"));
    let ticks = busy() - ticks;
    let received = text.rsplit("\"sum_received\"").next().unwrap_or_default();
    let rate = received
        .split("\"bits_per_second\":")
        .nth(1)
        .and_then(|rest| rest.split([',', '}']).next()?.trim().parse::<f64>().ok());
    let gbit = rate.unwrap_or_else(|| panic!("{text}")) / 1e9;
    let _ = server.kill();
    let _ = server.wait();
    if let Some(mut daemon) = daemon {
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
    figures([("gbit_per_second", gbit), ("cpu_ms_per_gbit", ticks * 10.0 / (gbit * 3.0))])
}

/// New connections while `held` others to the same backend are open.
pub fn growth(lab: &Lab, held: usize, privateip: &str) -> Figures {
    setup::network();
    setup::conntrack();
    lab::sh("for n in 2 3 4; do ip addr add 10.2.0.$n/24 dev lan; done");
    // Each of the client's addresses has ports of its own.
    lab::sh("for n in 3 4 5 6; do ip -n client addr add 10.1.0.$n/24 dev eth0; done");
    setup::config(lab, 1, privateip);
    lab.ok("start");
    let server = server();
    let to: SocketAddr = BIND.parse().unwrap();
    let listener = server.clone();
    let hold_all = move || {
        for n in 0..held {
            let from = format!("10.1.0.{}:{}", 3 + n % 4, 1100 + n / 4).parse().unwrap();
            hold(from, to, &listener).unwrap_or_else(|error| panic!("{n} of {held}: {error}"));
        }
    };
    inside("client", hold_all).join().unwrap();
    measure(to, &server)
}

/// A connection that stays in the kernel's table without costing two open files: both ends are closed without a word
/// (a socket under repair sends nothing, tcp(7)).
fn hold(from: SocketAddr, to: SocketAddr, server: &TcpListener) -> std::io::Result<()> {
    let client = lab::connect_from(from, to)?;
    let (served, _) = server.accept()?;
    setsockopt(&client, sockopt::TcpRepair, &1)?;
    setsockopt(&served, sockopt::TcpRepair, &1)?;
    Ok(())
}

/// `what` over `n` backends beside the floor, in the same laboratory, in turns of a tenth of a second: what is noise hits
/// both. Figures: the medians of the turns' ratios.
pub fn pair(lab: &Lab, what: &str, n: usize) -> Figures {
    setup::network();
    setup::conntrack();
    let server = server();
    balancer(lab, what, n);
    setup::second_floor(lab);
    let to = [BIND, setup::SECOND].map(|to| to.parse::<SocketAddr>().unwrap());
    let turn = |to| {
        let clients = Clients::start(to, &server);
        thread::sleep(Duration::from_millis(20));
        let (made, ticks) = (clients.made.load(Ordering::Relaxed), Instant::now());
        thread::sleep(Duration::from_millis(120));
        let rate = (clients.made.load(Ordering::Relaxed) - made) as f64 / ticks.elapsed().as_secs_f64();
        clients.stop();
        rate
    };
    let mut ratios: Vec<f64> = (0..15).map(|_| turn(to[0]) / turn(to[1])).collect();
    ratios.sort_by(f64::total_cmp);
    figures([("ratio", ratios[ratios.len() / 2])])
}

/// Connections lost while the backends change twenty times a second.
pub fn reloads(lab: &Lab) -> Figures {
    setup::network();
    setup::conntrack();
    let server = server();
    setup::config(lab, 3, "10.2.0.1");
    lab.ok("start");
    let clients = Clients::start(BIND.parse().unwrap(), &server);
    let since = Instant::now();
    let mut reloads = 0;
    while since.elapsed() < Duration::from_secs(4) {
        reloads += 1;
        setup::config(lab, 3 + reloads % 2, "10.2.0.1");
        lab.ok("reload");
        thread::sleep(Duration::from_millis(30));
    }
    let made = clients.made.load(Ordering::Relaxed);
    let lost = clients.stop();
    figures([("reloads", reloads as f64), ("made", made as f64), ("lost", lost as f64)])
}
