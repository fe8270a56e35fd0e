//! `make demo`: the whole of Paraglider on one screen, in a throw-away laboratory of network namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)]

#[allow(unused)]
mod lab;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;

use lab::{inside, Lab, Variant};

const CONNECTIONS: usize = 300;

fn main() -> ExitCode {
    if let Some(mut command) = lab::entrance(&[]) {
        let status = command.status();
        return match status {
            Ok(status) if status.success() => ExitCode::SUCCESS,
            Ok(_) => {
                if let Some(why) = lab::forbidden() {
                    eprintln!("{why}");
                }
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!("cannot run unshare (package util-linux): {error}");
                ExitCode::FAILURE
            }
        };
    }
    let lab = Lab::new(Variant::Nft);
    println!("A laboratory of network namespaces; your own network is not touched:\n");
    println!("  client 10.1.0.2 ---- 10.1.0.1 balancer 10.2.0.1 --+-- b1 10.2.0.11");
    println!("                       bind 10.9.0.1:80             +-- b2 10.2.0.12");
    println!("                                                    +-- b3 10.2.0.13\n");
    for name in ["b1", "b2", "b3"] {
        web_server(name);
    }

    lab.config(
        "frontend:\n  bind: 10.9.0.1:80\n  privateip: 10.2.0.1\n  backends:\n    \
         - 10.2.0.11:80\n    - 10.2.0.12:80\n    - 10.2.0.13:80\n",
    );
    println!("$ cat glider.yaml\n{}", fs::read_to_string(lab.path("glider.yaml")).unwrap());
    paraglider(&lab, "start");

    println!("$ {CONNECTIONS} times: GET http://10.9.0.1/ from the client");
    let answers = inside("client", || {
        let mut answers = BTreeMap::new();
        for _ in 0..CONNECTIONS {
            *answers.entry(get("10.9.0.1:80").unwrap_or_else(|error| error.to_string())).or_insert(0) += 1;
        }
        answers
    });
    let answers = answers.join().unwrap();
    for (answer, n) in &answers {
        println!("{answer}  {} {n}", "█".repeat(40 * n / CONNECTIONS));
    }
    println!();
    paraglider(&lab, "status");
    paraglider(&lab, "stop");

    let left = lab.ours();
    println!("$ iptables-save | grep -e PARAGLIDER -e PG-\n{}", left.join("\n"));
    let even = answers.len() == 3 && answers.values().all(|n| *n == CONNECTIONS / 3);
    if !even || !left.is_empty() {
        println!("This is not as it should be.");
        return ExitCode::FAILURE;
    }
    println!("Each backend got every third connection, and nothing is left.");
    ExitCode::SUCCESS
}

fn paraglider(lab: &Lab, verb: &str) {
    println!("$ paraglider -config glider.yaml {verb}");
    let status = lab.command(verb).status().unwrap();
    assert!(status.success(), "paraglider {verb}: {status}");
    println!();
}

/// A web server of a few lines: it tells its name and whom it sees.
fn web_server(name: &'static str) {
    let (ready, wait) = std::sync::mpsc::channel();
    inside(name, move || {
        let listener = TcpListener::bind("0.0.0.0:80").unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let body = format!("{name}, which sees {}", stream.peer_addr().unwrap().ip());
            // The whole request: what is left unread at the end would reset the connection.
            let request = BufReader::new(stream.try_clone().unwrap()).lines();
            request.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    wait.recv().unwrap();
}

fn get(host: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&host.parse().unwrap(), lab::PATIENCE)?;
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned())
}
