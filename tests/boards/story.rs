//! A board's life: it boots, balances, and stops.

use std::collections::BTreeMap;

use crate::board::{make_room, pack, root, Board, Kind, Options};
use crate::lab::{self, ask_often, Lab, Variant};

const BIND: &str = "10.9.0.1:4444";

/// Runs a story in a laboratory of its own, once for each variant of iptables that the board has.
fn tell(test: &str, board: &str, story: fn(&Lab, &Kind, &str)) {
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
        return println!("skipped: {board}: {why}");
    }
    for variant in kind.variants() {
        let path = format!("story::{test}");
        let mut command = lab::entrance(&["--exact", &path, "--nocapture", "--test-threads=1"]).unwrap();
        let output = command.env("PARAGLIDER_VARIANT", variant).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{board} {variant}:\n{text}");
        for line in text.lines().filter(|line| line.starts_with("| ")) {
            println!("{line}");
        }
    }
}

/// Weights 1, 1 and 2; the backends see the board's own address.
const CONFIG: &str = "frontend:\n  bind: 10.9.0.1:4444\n  privateip: 10.2.0.1\n  backends:\n    - 10.2.0.11:80\n    \
                      - 10.2.0.12:80\n    - {address: '10.2.0.13:80', weight: 2}\n";

fn answers(n: usize) -> BTreeMap<String, usize> {
    ask_often("client", BIND, n)
}

/// What `4 * turns` connections give.
fn fair(turns: usize) -> BTreeMap<String, usize> {
    (1..=3).map(|n| (format!("b{n} 10.2.0.1"), if n == 3 { 2 * turns } else { turns })).collect()
}

fn balances_and_stops(lab: &Lab, kind: &Kind, variant: &str) {
    let root = root(lab, kind);
    std::fs::write(root.join("etc/paraglider/glider.yaml"), CONFIG).unwrap();
    let image = pack(lab, &root);
    let mut board = Board::switch_on(kind, variant, &image, &Options::default());
    let boot = board.wait_for("board: ready");
    assert!(boot.contains("board: /etc/rc.d/S21paraglider 0\n"), "{boot}");
    assert_eq!(answers(4), fair(1));
    let seconds = board.switched_on.elapsed().as_secs_f64();
    assert_eq!(answers(60), fair(15));
    let kernel = board.ok("uname -r");
    println!("{}", board.ok("free; saved; cat /tmp/before; paraglider status; time -v paraglider start; busybox --list | tr '\n' ' '"));
    println!("| {} | {variant} | {} | {} | {seconds:.1} |", kind.name, kernel.trim(), kind.megabytes);
}

#[test]
fn x86_64() {
    tell("x86_64", "x86_64", balances_and_stops);
}
