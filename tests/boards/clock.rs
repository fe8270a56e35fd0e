//! A board without a clock of its own learns the date from the network, years after it has booted by its own reckoning.

use std::fs;
use std::time::{Duration, Instant};

use crate::board::{pack, root, Board, Kind, Options};
use crate::lab::{sh, Lab};
use crate::story::{answers, booted, fair, tell, CONFIG};

/// `interval` × `fall`, and what a busy machine takes for one.
const OUT: Duration = Duration::from_secs(3 + 12);

const STATUS: &str = "paraglider -config /etc/paraglider/checked.yaml status";

/// Waits until so many backends are `up` or `down` and the rules say so too, while the date jumps to and fro.
fn wait_for(board: &mut Board, words: &str, backends: usize) {
    let since = Instant::now();
    let mut year = 2000;
    while board.run(STATUS).out.matches(words).count() != backends {
        assert!(since.elapsed() < OUT, "no `{words}`:\n{}", board.ok("cat /tmp/log"));
        year = if year == 2000 { 2035 } else { 2000 };
        board.ok(&format!("date -s {year}-01-01; sleep 1"));
    }
}

fn the_date_jumps(lab: &Lab, kind: &Kind, engine: &str) {
    let root = root(lab, kind, engine);
    fs::write(root.join("etc/paraglider/glider.yaml"), CONFIG).unwrap();
    let checked = CONFIG.replace("  backends:", "  health: {interval: 1s, timeout: 500ms}\n  backends:");
    fs::write(root.join("etc/paraglider/checked.yaml"), checked).unwrap();
    let image = pack(lab, &root);
    let mut board = Board::switch_on(kind, engine, &image, &Options::default());
    booted(&mut board);
    board.begin("paraglider -config /etc/paraglider/checked.yaml watch >/tmp/log 2>&1 &");
    wait_for(&mut board, "up for", 3);
    for year in [2035, 1999, 2026] {
        board.ok(&format!("date -s {year}-06-01; sleep 2"));
    }
    assert_eq!(board.run("grep -w down /tmp/log").out, "");
    let up: Vec<u64> = board
        .ok(STATUS)
        .lines()
        .filter_map(|line| line.split_once("up for ")?.1.split(' ').next()?.parse().ok())
        .collect();
    assert!(up.len() == 3 && up.iter().all(|seconds| (5..120).contains(seconds)), "{up:?}");

    sh("ip -n b1 link set eth0 down");
    wait_for(&mut board, "down for", 1);
    let left = answers(3);
    assert!(left.len() == 2 && left["b3 10.2.0.1"] == 2, "{left:?}");
    sh("ip -n b1 link set eth0 up");
    wait_for(&mut board, "up for", 3);
    assert_eq!(answers(4), fair(1));
    println!("board: {} {engine}: backends leave and come back in time while the date jumps", kind.name);
}

#[test]
fn the_date_jumps_while_backends_are_checked() {
    tell("clock::the_date_jumps_while_backends_are_checked", "aarch64", the_date_jumps);
}

/// The same with words of 32 bits, big end first.
#[test]
fn the_date_jumps_on_mips() {
    tell("clock::the_date_jumps_on_mips", "mips", the_date_jumps);
}
