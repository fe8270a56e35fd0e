//! A board's life: it boots, balances, and stops, and is measured.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::panic::{self, AssertUnwindSafe};

use crate::board::{make_room, pack, root, Board, Kind, Options, NFTABLES};
use crate::lab::{self, ask_often, inside, sh, Held, Lab, Variant};
use crate::stop::{over_ssh, ssh_key, Established};
use crate::ROOT;

pub const BIND: &str = "10.9.0.1:4444";

/// The same in IPv6.
const BIND6: &str = "[fd09::1]:4444";

/// What the console shows when the service has started at boot, with its exit status.
pub const STARTED: &str = "board: /etc/rc.d/S21paraglider";

/// Runs a story in a laboratory of its own, once for each engine that the board is tried with.
pub fn tell(test: &str, board: &str, story: fn(&Lab, &Kind, &str)) {
    let kind = Kind::named(board);
    if let Ok(engine) = std::env::var("PARAGLIDER_ENGINE") {
        let lab = Lab::new(Variant::Nft);
        for backend in ["b1", "b2", "b3"] {
            lab::serve(backend, 80);
        }
        make_room();
        return story(&lab, &kind, &engine);
    }
    if let Err(why) = kind.fetch() {
        return println!("skipped: {test}: {why}");
    }
    for engine in &kind.engines {
        let mut command = lab::entrance(&["--exact", test, "--nocapture", "--test-threads=1"]).unwrap();
        let output = command.env("PARAGLIDER_ENGINE", engine).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{board} {engine}:\n{text}");
        for (_, line) in text.lines().filter_map(|line| line.split_once("board: ")) {
            println!("{line}");
        }
    }
}

/// Weights 1, 1 and 2; the backends see the board's own address.
pub const CONFIG: &str =
    "frontend:\n  bind: 10.9.0.1:4444\n  privateip: 10.2.0.1\n  backends:\n    - 10.2.0.11:80\n    \
                          - 10.2.0.12:80\n    - {address: '10.2.0.13:80', weight: 2}\n";

/// The same for both families.
const BOTH: &str = "frontends:\n\
    - bind: 10.9.0.1:4444\n  privateip: 10.2.0.1\n\
    \x20 backends: [10.2.0.11:80, 10.2.0.12:80, {address: '10.2.0.13:80', weight: 2}]\n\
    - bind: '[fd09::1]:4444'\n  privateip: 'fd02::1'\n\
    \x20 backends: ['[fd02::11]:80', '[fd02::12]:80', {address: '[fd02::13]:80', weight: 2}]\n";

/// Without one of the backends, and each with the weight 1.
const FEWER: &str = "frontends:\n\
    - bind: 10.9.0.1:4444\n  privateip: 10.2.0.1\n  backends: [10.2.0.12:80, 10.2.0.13:80]\n\
    - bind: '[fd09::1]:4444'\n  privateip: 'fd02::1'\n  backends: ['[fd02::12]:80', '[fd02::13]:80']\n";

pub fn answers(n: usize) -> BTreeMap<String, usize> {
    ask_often("client", BIND, n)
}

/// What `4 * turns` connections give.
pub fn fair(turns: usize) -> BTreeMap<String, usize> {
    fair_to("10.2.0.1", turns)
}

fn fair_to(seen: &str, turns: usize) -> BTreeMap<String, usize> {
    (1..=3).map(|n| (format!("b{n} {seen}"), if n == 3 { 2 * turns } else { turns })).collect()
}

/// Waits until a board has booted, and its service with it.
pub fn booted(board: &mut Board) {
    let boot = board.wait_for(STARTED);
    assert!(boot.ends_with(&format!("{STARTED} 0\n")), "{boot}");
    board.wait_for("board: ready");
}

fn balances_and_stops(lab: &Lab, kind: &Kind, engine: &str) {
    let root = root(lab, kind, engine);
    fs::write(root.join("etc/paraglider/glider.yaml"), if engine == NFTABLES { BOTH } else { CONFIG }).unwrap();
    ssh_key(lab, &root);
    let image = pack(lab, &root);
    let options = Options { counts_instructions: true, ..Options::default() };
    let mut board = Board::switch_on(kind, engine, &image, &options);
    booted(&mut board);
    let first = answers(4);
    let seconds = board.switched_on.elapsed().as_secs_f64();
    assert_eq!(first, fair(1));
    let others = answers(60);
    assert_eq!(others, fair(15));
    let spread: Vec<String> = first.iter().map(|(who, n)| (n + others[who]).to_string()).collect();
    let status = board.ok("/etc/init.d/paraglider status");
    assert!(status.contains(engine) && status.contains("32 taken"), "{status}");
    if engine == NFTABLES {
        changes(kind, &mut board);
    }

    if kind.has_ssh() {
        // Without iptables nothing but our own rules tracks connections here.
        let established = if engine == NFTABLES { Established::AreCut } else { Established::Live };
        // If its network stands still, which happens to emulated cards, the console still tells what the board does.
        let stopped = panic::catch_unwind(AssertUnwindSafe(|| over_ssh(lab, established)));
        if let Err(why) = stopped {
            println!("{}", board.run("ps; saved; ip -s link; cat /proc/interrupts /proc/loadavg").out);
            panic::resume_unwind(why);
        }
    } else {
        board.ok("/etc/init.d/paraglider stop");
    }
    is_clean(&mut board, engine);
    let needs = measure(&mut board, kind, engine);
    board.ok("/etc/init.d/paraglider stop");
    is_clean(&mut board, engine);

    let kernel = board.ok("uname -r");
    let row = format!(
        "| {} | {} | {} | {engine} | {seconds:.1} | {} | {needs} | {} |",
        kind.name,
        kernel.trim(),
        kind.megabytes,
        spread.join(", "),
        if kind.has_ssh() { "SSH" } else { "console" },
    );
    record(&format!("row-{}-{engine}", kind.name), &row);
}

/// The other family, changes of the config under a held connection, and a drain.
fn changes(kind: &Kind, board: &mut Board) {
    assert_eq!(answers6(board, 32), fair_to("fd02::1", 8));
    // Rules of ours keep modules busy, which is what `is_clean` looks at.
    if kind.has_modules() {
        let busy = board.ok("saved");
        assert!(["nft_chain_nat", "nft_ct", "nft_nat", "nft_numgen"].iter().all(|one| busy.contains(one)), "{busy}");
    }
    let unchanged = board.ok("paraglider start");
    assert!(unchanged.contains("already in force"), "{unchanged}");
    assert_eq!(answers(4), fair(1));

    let held = hold(4);
    board.ok(&format!("cp {FILE} /tmp/kept; cat >{FILE} <<'END'\n{FEWER}END"));
    board.ok("/etc/init.d/paraglider reload");
    let even = |seen: &str, n: usize| BTreeMap::from([(format!("b2 {seen}"), n), (format!("b3 {seen}"), n)]);
    assert_eq!((answers(20), answers6(board, 20)), (even("10.2.0.1", 10), even("fd02::1", 10)));
    // What they have taken before counts on.
    let status = board.ok("/etc/init.d/paraglider status");
    assert!(status.contains(" 28 taken ") && status.contains(" 46 taken "), "{status}");
    live(&held);
    board.ok(&format!("cp /tmp/kept {FILE}; /etc/init.d/paraglider reload"));
    assert_eq!((answers(8), answers6(board, 8)), (fair(2), fair_to("fd02::1", 2)));

    board.begin("paraglider stop --drain 60; echo \"board: drained $?\"");
    board.wait_for("no new connections are taken");
    assert_eq!(answers(1), refused());
    live(&held);
    drop(held);
    let drained = board.wait_for("board: drained");
    assert!(drained.ends_with("drained 0\n"), "{drained}");
    is_clean(board, NFTABLES);
    board.ok("/etc/init.d/paraglider start");
    assert_eq!((answers(4), answers6(board, 4)), (fair(1), fair_to("fd02::1", 1)));
}

/// The answers over IPv6. If some do not come, the console tells what the board does; see [`over_ssh`].
fn answers6(board: &mut Board, n: usize) -> BTreeMap<String, usize> {
    let got = ask_often("client", BIND6, n);
    if got.contains_key("TimedOut") {
        println!("{}", board.run("cat /proc/net/nf_conntrack; ip -6 neigh; ip -s link; cat /proc/interrupts").out);
        println!("{}", sh("for host in client b1 b2 b3; do echo $host; ip -n $host -6 neigh; done"));
    }
    got
}

const FILE: &str = "/etc/paraglider/glider.yaml";

/// Connections of the client's, each with its partner.
fn hold(n: usize) -> Vec<(Held, (String, IpAddr))> {
    let hold = move || {
        let held = (0..n).map(|_| Held::open(BIND.parse().unwrap()).unwrap());
        held.map(|one| (one.ask().map(|partner| (one, partner))).unwrap()).collect()
    };
    inside("client", hold).join().unwrap()
}

fn live(held: &[(Held, (String, IpAddr))]) {
    for (one, partner) in held {
        assert_eq!(&one.ask().expect("an established connection lives"), partner);
    }
}

/// Says it, and keeps it for tests/boards/table.
pub fn record(name: &str, line: &str) {
    println!("board: {line}");
    let seen = format!("{ROOT}/target/boards/seen");
    fs::create_dir_all(&seen).unwrap();
    fs::write(format!("{seen}/{name}"), format!("{line}\n")).unwrap();
}

/// Nothing of ours is there, all else is as it was at boot, and new connections are refused.
fn is_clean(board: &mut Board, engine: &str) {
    board.ok("saved | diff /tmp/before -");
    assert_eq!(board.run("/etc/init.d/paraglider status").code, 3);
    assert_eq!(answers(1), refused());
    if engine == NFTABLES {
        assert_eq!(ask_often("client", BIND6, 1), refused());
    }
}

fn refused() -> BTreeMap<String, usize> {
    BTreeMap::from([("ConnectionRefused".to_owned(), 1)])
}

/// What `start` needs: its own peak memory, that of the largest process it runs, both in KiB, and millions of
/// instructions of the whole board.
fn measure(board: &mut Board, kind: &Kind, engine: &str) -> String {
    let number = |text: &str| text.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).max().unwrap();
    let memory = if engine == NFTABLES {
        // What it says at the end meets a full pipe, where it waits for a moment. The first lines are of the shell.
        let own = board.ok("mkfifo /tmp/full; exec 3<>/tmp/full; dd if=/dev/zero bs=4096 count=16 2>/dev/null >&3\n\
             paraglider start 2>&3 &\n\
             while grep VmHWM /proc/$!/status; do :; done; exec 3<&-; wait $!");
        let own = own.lines().rfind(|line| line.starts_with("VmHWM")).unwrap_or_else(|| panic!("{own}"));
        format!("{} | –", number(own))
    } else {
        board.ok("mkdir -p /tmp/look; cat >/tmp/look/iptables-save <<'END'\n\
             #!/bin/sh\n\
             grep VmHWM /proc/$PPID/status >>/tmp/look/own\n\
             exec /usr/sbin/iptables-save \"$@\"\n\
             END\n\
             chmod +x /tmp/look/iptables-save");
        let largest = board.ok("PATH=/tmp/look:$PATH time -v paraglider start");
        let largest = number(largest.lines().find(|line| line.contains("Maximum resident")).unwrap());
        format!("{} | {largest}", number(&board.ok("cat /tmp/look/own")))
    };
    if !kind.can_count() {
        return format!("{memory} | –");
    }
    board.ok("/etc/init.d/paraglider stop");
    // The clock once more before `start`, since to read it takes its time too.
    let clock = "adjtimex | awk '/tv_sec/ { s = $2 } /tv_usec/ { printf \"%d%06d\\n\", s, $2 }'";
    let times = board.ok(&format!("{clock}; {clock}; paraglider start 2>/dev/null; {clock}"));
    let times: Vec<u64> = times.lines().map(|line| line.trim().parse().unwrap()).collect();
    let microseconds = (times[2] - times[1]) - (times[1] - times[0]);
    format!("{memory} | {:.1}", microseconds as f64 * 500.0 / 1e6)
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
fn x86_64_5_10() {
    tell("story::x86_64_5_10", "x86_64-5.10", balances_and_stops);
}

#[test]
fn aarch64_5_10() {
    tell("story::aarch64_5_10", "aarch64-5.10", balances_and_stops);
}

#[test]
fn armv7_5_10() {
    tell("story::armv7_5_10", "armv7-5.10", balances_and_stops);
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
