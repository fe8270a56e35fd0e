//! A board's life: it boots, balances, and stops, and is measured.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{self, AssertUnwindSafe};

use crate::board::{make_room, pack, root, Board, Kind, Options};
use crate::lab::{self, ask_often, Lab, Variant};
use crate::stop::{over_ssh, ssh_key};
use crate::ROOT;

pub const BIND: &str = "10.9.0.1:4444";

/// What the console shows when the service has started at boot, with its exit status.
pub const STARTED: &str = "board: /etc/rc.d/S21paraglider";

/// Runs a story in a laboratory of its own, once for each variant of iptables that the board has.
pub fn tell(test: &str, board: &str, story: fn(&Lab, &Kind, &str)) {
    let kind = Kind::named(board);
    if let Ok(variant) = std::env::var("PARAGLIDER_VARIANT") {
        let lab = Lab::new(Variant::Nft);
        for backend in ["b1", "b2", "b3"] {
            lab::serve(backend, 80);
        }
        make_room();
        return story(&lab, &kind, &variant);
    }
    if let Err(why) = kind.fetch() {
        return println!("skipped: {test}: {why}");
    }
    for variant in kind.variants() {
        let mut command = lab::entrance(&["--exact", test, "--nocapture", "--test-threads=1"]).unwrap();
        let output = command.env("PARAGLIDER_VARIANT", variant).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{board} {variant}:\n{text}");
        for (_, line) in text.lines().filter_map(|line| line.split_once("board: ")) {
            println!("{line}");
        }
    }
}

/// Weights 1, 1 and 2; the backends see the board's own address.
pub const CONFIG: &str =
    "frontend:\n  bind: 10.9.0.1:4444\n  privateip: 10.2.0.1\n  backends:\n    - 10.2.0.11:80\n    \
                          - 10.2.0.12:80\n    - {address: '10.2.0.13:80', weight: 2}\n";

pub fn answers(n: usize) -> BTreeMap<String, usize> {
    ask_often("client", BIND, n)
}

/// What `4 * turns` connections give.
pub fn fair(turns: usize) -> BTreeMap<String, usize> {
    (1..=3).map(|n| (format!("b{n} 10.2.0.1"), if n == 3 { 2 * turns } else { turns })).collect()
}

/// Waits until a board has booted, and its service with it.
pub fn booted(board: &mut Board) {
    let boot = board.wait_for(STARTED);
    assert!(boot.ends_with(&format!("{STARTED} 0\n")), "{boot}");
    board.wait_for("board: ready");
}

fn balances_and_stops(lab: &Lab, kind: &Kind, variant: &str) {
    let root = root(lab, kind);
    fs::write(root.join("etc/paraglider/glider.yaml"), CONFIG).unwrap();
    ssh_key(lab, &root);
    let image = pack(lab, &root);
    let options = Options { counts_instructions: true, ..Options::default() };
    let mut board = Board::switch_on(kind, variant, &image, &options);
    booted(&mut board);
    let first = answers(4);
    let seconds = board.switched_on.elapsed().as_secs_f64();
    assert_eq!(first, fair(1));
    let others = answers(60);
    assert_eq!(others, fair(15));
    let spread: Vec<String> = first.iter().map(|(who, n)| (n + others[who]).to_string()).collect();
    let status = board.ok("/etc/init.d/paraglider status");
    assert!(status.contains(&format!("iptables-{variant}")) && status.contains("32 taken"), "{status}");

    if kind.has_ssh() {
        // If its network stands still, which happens to emulated cards, the console still tells what the board does.
        let stopped = panic::catch_unwind(AssertUnwindSafe(|| over_ssh(lab)));
        if let Err(why) = stopped {
            println!("{}", board.run("ps; saved; ip -s link; cat /proc/interrupts /proc/loadavg").out);
            panic::resume_unwind(why);
        }
    } else {
        board.ok("/etc/init.d/paraglider stop");
    }
    is_clean(&mut board);
    let needs = measure(&mut board, kind);
    board.ok("/etc/init.d/paraglider stop");
    is_clean(&mut board);

    let kernel = board.ok("uname -r");
    let row = format!(
        "| {} | {} | {} | {variant} | {seconds:.1} | {} | {needs} | {} |",
        kind.name,
        kernel.trim(),
        kind.megabytes,
        spread.join(", "),
        if kind.has_ssh() { "SSH" } else { "console" },
    );
    record(&format!("row-{}-{variant}", kind.name), &row);
}

/// Says it, and keeps it for tests/boards/table.
pub fn record(name: &str, line: &str) {
    println!("board: {line}");
    let seen = format!("{ROOT}/target/boards/seen");
    fs::create_dir_all(&seen).unwrap();
    fs::write(format!("{seen}/{name}"), format!("{line}\n")).unwrap();
}

/// Nothing of ours is there, all else is as it was at boot, and new connections are refused.
fn is_clean(board: &mut Board) {
    board.ok("saved | diff /tmp/before -");
    assert_eq!(board.run("/etc/init.d/paraglider status").code, 3);
    assert_eq!(answers(1), BTreeMap::from([("ConnectionRefused".to_owned(), 1)]));
}

/// What `start` needs: its own peak memory, that of the largest process it runs, both in KiB, and millions of
/// instructions of the whole board.
fn measure(board: &mut Board, kind: &Kind) -> String {
    board.ok("mkdir -p /tmp/look; cat >/tmp/look/iptables-save <<'END'\n\
         #!/bin/sh\n\
         grep VmHWM /proc/$PPID/status >>/tmp/look/own\n\
         exec /usr/sbin/iptables-save \"$@\"\n\
         END\n\
         chmod +x /tmp/look/iptables-save");
    let number = |text: &str| text.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).max().unwrap();
    let largest = board.ok("PATH=/tmp/look:$PATH time -v paraglider start");
    let largest = number(largest.lines().find(|line| line.contains("Maximum resident")).unwrap());
    let own = number(&board.ok("cat /tmp/look/own"));
    if !kind.can_count() {
        return format!("{own} | {largest} | –");
    }
    board.ok("/etc/init.d/paraglider stop");
    // The clock once more before `start`, since to read it takes its time too.
    let clock = "adjtimex | awk '/tv_sec/ { s = $2 } /tv_usec/ { printf \"%d%06d\\n\", s, $2 }'";
    let times = board.ok(&format!("{clock}; {clock}; paraglider start 2>/dev/null; {clock}"));
    let times: Vec<u64> = times.lines().map(|line| line.trim().parse().unwrap()).collect();
    let microseconds = (times[2] - times[1]) - (times[1] - times[0]);
    format!("{own} | {largest} | {:.1}", microseconds as f64 * 500.0 / 1e6)
}

#[test]
fn x86_64() {
    tell("story::x86_64", "x86_64", balances_and_stops);
}

#[test]
fn aarch64() {
    tell("story::aarch64", "aarch64", balances_and_stops);
}

#[test]
fn armv7() {
    tell("story::armv7", "armv7", balances_and_stops);
}

#[test]
fn mipsel() {
    tell("story::mipsel", "mipsel", balances_and_stops);
}

#[test]
fn mips() {
    tell("story::mips", "mips", balances_and_stops);
}

#[test]
fn mips_16() {
    tell("story::mips_16", "mips-16", balances_and_stops);
}
