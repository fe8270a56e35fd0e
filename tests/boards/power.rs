//! The power goes while `start` runs. What is on the flash must be as it was, and the next boot as any other.

use std::fs;
use std::thread;
use std::time::Instant;

use crate::board::{pack, root, Board, Kind, Options};
use crate::lab::{sh, Lab};
use crate::story::{answers, booted, fair, tell, CONFIG};

/// How often, for each variant of iptables.
const CUTS: u32 = 10;

#[test]
fn the_power_goes_while_start_runs() {
    tell("power::the_power_goes_while_start_runs", "x86_64", cut_and_boot);
}

fn cut_and_boot(lab: &Lab, kind: &Kind, variant: &str) {
    let root = root(lab, kind);
    fs::write(root.join("etc/paraglider/glider.yaml"), CONFIG).unwrap();
    // The flash keeps /etc; the rest is in the image.
    let flash = lab.path("flash");
    let dir = lab.path("flash.d");
    sh(&format!("mkdir {0} && cp -a {1}/etc {0} && rm {1}/etc/paraglider/glider.yaml", dir.display(), root.display()));
    sh(&format!("mke2fs -q -t ext4 -d {} {} 16M", dir.display(), flash.display()));
    let image = pack(lab, &root);
    let options = Options { flash: Some(flash), ..Options::default() };
    let switch_on = || {
        let mut board = Board::switch_on(kind, variant, &image, &options);
        booted(&mut board);
        board
    };

    let start = "echo 'board: now'; /etc/init.d/paraglider start; echo 'board: in force'";
    let mut board = switch_on();
    let files = board.ok("cd /etc && find . -type f | sort | xargs sha256sum");
    board.ok("/etc/init.d/paraglider stop");
    board.begin(start);
    board.wait_for("board: now");
    let began = Instant::now();
    board.wait_for("board: in force");
    let takes = began.elapsed();

    let mut missed = 0;
    for n in 0..CUTS {
        board.ok("/etc/init.d/paraglider stop");
        board.begin(start);
        board.wait_for("board: now");
        thread::sleep(takes * (2 * n + 1) / (2 * CUTS));
        missed += u32::from(board.cut().contains("board: in force"));
        board = switch_on();
        assert_eq!(answers(4), fair(1), "after cut {n}");
        assert_eq!(answers(16), fair(4), "after cut {n}");
        assert_eq!(board.ok("cd /etc && find . -type f | sort | xargs sha256sum"), files, "after cut {n}");
    }
    // A quicker start than the first is over before the last cuts.
    assert!(missed <= CUTS / 2, "{missed} of {CUTS} cuts came too late");
    println!("board: {} {variant}: in force and exact after {CUTS} power cuts, {} of them in the middle of start ({takes:.1?})",
        kind.name, CUTS - missed);
}
