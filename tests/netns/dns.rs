//! Real DNS servers behind a frontend of both protocols, asked by dig.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::lab::{inside, tool, Lab, Variant};
use crate::on_all;

const RELOADS: usize = 50;
const QUESTIONS: usize = 3000;

/// Servers that end with the story.
struct Servers(Vec<Child>);

impl Servers {
    /// On each of the three backends; asked for `who.test` they tell their name.
    fn begin() -> Self {
        let one = |host: &&str| {
            let words = [
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--user=root",
                "--pid-file",
                "--log-facility=/dev/null",
            ];
            let mut command = Command::new("ip");
            command.args(["netns", "exec", host]).arg(tool("dnsmasq")).args(words);
            command.arg(format!("--txt-record=who.test,{host}")).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        Servers(["b1", "b2", "b3"].iter().map(one).collect())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.0 {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Asks the questions of a file; returns how many got an answer.
fn dig(file: &Path, more: &'static str) -> usize {
    let file = file.to_owned();
    let asked = inside("client", move || {
        let mut command = Command::new(tool("dig"));
        command.args(["@10.9.0.1", "+short", "+tries=1", "+time=1", more, "-f"]).arg(&file);
        command.env("HOME", "/nonexistent").output().unwrap()
    });
    let said = String::from_utf8(asked.join().unwrap().stdout).unwrap();
    said.lines().filter(|line| line.starts_with("\"b")).count()
}

on_all!(a_resolver_that_is_reloaded_answers, |lab| {
    if !["dnsmasq", "dig"].into_iter().all(|name| tool(name).exists()) {
        println!("skipped: a_resolver_that_is_reloaded_answers: dnsmasq or dig cannot be fetched");
        return;
    }
    let _servers = Servers::begin();
    let write = |backends: &[u8]| {
        let list: Vec<String> = backends.iter().map(|n| format!("'10.2.0.1{n}:53'")).collect();
        let list = list.join(", ");
        lab.config(&format!(
            "frontend: {{bind: '10.9.0.1:53', protocol: both, privateip: 10.2.0.1, backends: [{list}]}}\n"
        ));
    };
    write(&[1, 2, 3]);
    lab.ok("start");
    let (few, many) = (lab.path("few"), lab.path("many"));
    fs::write(&few, "who.test TXT\n".repeat(30)).unwrap();
    fs::write(&many, "who.test TXT\n".repeat(QUESTIONS)).unwrap();
    crate::watching::until("all servers answer", || dig(&few, "+notcp") == 30);
    assert_eq!(dig(&few, "+tcp"), 30);
    let done = AtomicBool::new(false);
    let (asked, answered) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut asked, mut answered) = (0, 0);
            while asked < QUESTIONS || !done.load(Ordering::Relaxed) {
                answered += dig(&many, "+notcp");
                asked += QUESTIONS;
            }
            (asked, answered)
        });
        for turn in 0..RELOADS {
            write(if turn % 2 == 0 { &[1, 2] } else { &[1, 2, 3] });
            lab.ok("reload");
        }
        done.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    });
    println!("{answered} of {asked} questions were answered during {RELOADS} reloads");
    // Only a question that was on its way to the backend that went.
    assert!(asked - answered <= RELOADS / 2, "{answered} of {asked}");
});
