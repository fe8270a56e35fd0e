//! Each reader gets sentences in its own form: a person, the journal, procd, any other program.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

/// `print` for iptables, which has one family at a time, warns of it.
const BOTH: &str =
    "frontends: [{bind: '10.0.0.1:80', backends: ['10.0.0.2:80']}, {bind: '[fd00::1]:80', backends: ['[fd00::2]:80']}]";

const WARNING: &str = "these are the rules for iptables-restore";

fn command(dir: &tempfile::TempDir, words: &[&str]) -> Command {
    let config = dir.path().join("glider.yaml");
    fs::write(&config, BOTH).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_paraglider"));
    command.arg("--config").arg(config).args(words).stdin(Stdio::null()).stdout(Stdio::null());
    command.env_remove("JOURNAL_STREAM").env_remove("PARAGLIDER_LOG");
    command
}

const PRINT: [&str; 3] = ["print", "--engine", "iptables"];

#[test]
fn a_program_gets_the_level_and_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let output = command(&dir, &PRINT).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with(&format!("WARN  [paraglider] {WARNING}")), "{said}");
}

#[test]
fn the_journal_gets_the_level_as_it_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    for (stream, begins) in [(0, "<4>these"), (1, "WARN  [paraglider] these")] {
        let file = File::create(&path).unwrap();
        let meta = file.metadata().unwrap();
        // Not its own stream: stderr was led elsewhere.
        let stream = format!("{}:{}", meta.dev(), meta.ino() + stream);
        assert!(command(&dir, &PRINT).env("JOURNAL_STREAM", stream).stderr(file).status().unwrap().success());
        let said = fs::read_to_string(&path).unwrap();
        assert!(said.starts_with(begins), "{said}");
    }
    let file = File::create(&path).unwrap();
    let meta = file.metadata().unwrap();
    let mut wrong = command(&dir, &["start", "stop"]);
    wrong.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino())).stderr(file).status().unwrap();
    assert!(fs::read_to_string(&path).unwrap().starts_with("<3>unexpected argument `stop`"));
}

#[test]
fn procd_gets_what_is_no_trouble_by_stdout() {
    let dir = tempfile::tempdir().unwrap();
    let mut loud = command(&dir, &["-v", "print", "--engine", "iptables"]);
    let output = loud.env("PARAGLIDER_LOG", "procd").stdout(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with(&format!("warning: {WARNING}")) && said.lines().count() == 1, "{said}");
}

#[test]
fn a_person_gets_plain_sentences() {
    let dir = tempfile::tempdir().unwrap();
    let pair = nix::pty::openpty(None, None).unwrap();
    let status = command(&dir, &PRINT).stderr(pair.slave).status().unwrap();
    assert!(status.success());
    let mut said = [0; 200];
    let length = File::from(pair.master).read(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..length]);
    assert!(said.starts_with(&format!("warning: {WARNING}")), "{said}");
}
