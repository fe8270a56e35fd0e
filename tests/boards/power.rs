//! The power goes while `start` runs. What is on the flash must be as it was, and the next boot as any other.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::board::{pack, root, Board, Kind, Options, NFTABLES};
use crate::lab::{sh, Lab};
use crate::story::{answers, booted, fair, record, tell, CONFIG, STARTED};

/// How often, for each engine: in turns while `start` is told on the console, and while it runs at boot.
const CUTS: u32 = 20;

#[test]
fn the_power_goes_while_start_runs() {
    tell("power::the_power_goes_while_start_runs", "aarch64", cut_and_boot);
}

fn cut_and_boot(lab: &Lab, kind: &Kind, engine: &str) {
    // The file system of the flash and the scripts below need more.
    let mut kind = kind.clone();
    kind.megabytes = 128;
    let root = root(lab, &kind, engine);
    fs::write(root.join("etc/paraglider/glider.yaml"), CONFIG).unwrap();
    if engine != NFTABLES {
        tell_what_is_run(&root);
    }
    // The flash keeps /etc; the rest is in the image.
    let flash = lab.path("flash");
    let dir = lab.path("flash.d");
    sh(&format!("mkdir {0} && cp -a {1}/etc {0} && rm {1}/etc/paraglider/glider.yaml", dir.display(), root.display()));
    sh(&format!("mke2fs -q -t ext4 -E lazy_itable_init=0 -d {} {} 16M", dir.display(), flash.display()));
    let image = pack(lab, &root);
    let options = Options { flash: Some(flash), ..Options::default() };
    let switch_on = || Board::switch_on(&kind, engine, &image, &options);
    // A key that the board has made at its first boot is there too.
    let files =
        |board: &mut Board| board.ok("cd /etc; find . | sort | xargs ls -lde; find . -type f | sort | xargs sha256sum");

    // How long `start` takes, at boot and later, and how many programs it runs. The first time is slower.
    let mut board = switch_on();
    booted(&mut board);
    board.ok("/etc/init.d/paraglider stop; sync");
    board.cut();
    board = switch_on();
    let (at_boot, _) = until(&mut board, "board: service", STARTED);
    board.wait_for("board: ready");
    let kept = files(&mut board);
    board.ok("for n in 1 2; do /etc/init.d/paraglider stop; /etc/init.d/paraglider start; done");
    board.ok("/etc/init.d/paraglider stop; sync");
    let written = "awk '{ print $7 }' /sys/block/vda/stat";
    let before = board.ok(written);
    board.begin(START);
    let (later, programs) = until(&mut board, "board: now", "board: in force");
    assert_eq!(board.ok(&format!("sync; {written}")), before, "start writes to the flash");

    let mut landed = Vec::new();
    for n in 0..CUTS {
        let takes = if n % 2 == 0 {
            board.ok("/etc/init.d/paraglider stop");
            board.begin(START);
            board.wait_for("board: now");
            later
        } else {
            board.cut();
            board = switch_on();
            board.wait_for("board: service");
            at_boot
        };
        thread::sleep(takes * (2 * n + 1) / (2 * CUTS));
        let shown = board.cut();
        let over = shown.contains("board: in force") || shown.contains(STARTED);
        landed.push(if over { "over".to_owned() } else { ran(&shown).to_string() });

        board = switch_on();
        booted(&mut board);
        assert_eq!(answers(4), fair(1), "after cut {n}");
        assert_eq!(answers(16), fair(4), "after cut {n}");
        assert_eq!(files(&mut board), kept, "after cut {n}");
    }
    // A quicker start than the first is over before the last cuts.
    let over = landed.iter().filter(|place| *place == "over").count();
    assert!(over <= landed.len() / 2, "too late: {landed:?}");
    let landed = if engine == NFTABLES {
        format!("It runs no program, and was over before {over} of them")
    } else {
        format!("Of its {programs} programs `start` had begun: {}", landed.join(", "))
    };
    let line = format!(
        "{} {engine}: in force and exact after each of {CUTS} power cuts, and the flash as before. {landed} ({at_boot:.1?} at \
         boot, {later:.1?} later).",
        kind.name,
    );
    record(&format!("cuts-{}-{engine}", kind.name), &line);
}

const START: &str = "echo 'board: now'; /etc/init.d/paraglider start; echo 'board: in force'";

/// Puts a script before each program of iptables that tells the console of it.
fn tell_what_is_run(root: &Path) {
    fs::create_dir(root.join("look")).unwrap();
    for family in ["iptables", "ip6tables"] {
        for variant in ["", "-nft", "-legacy"] {
            for verb in ["", "-save", "-restore"] {
                let name = format!("{family}{variant}{verb}");
                let script =
                    format!("#!/bin/sh\necho 'board: runs {name}' >/dev/console\nexec /usr/sbin/{name} \"$@\"\n");
                let path = root.join("look").join(name);
                fs::write(&path, script).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
    }
}

/// How many programs the console tells of.
fn ran(shown: &str) -> usize {
    shown.matches("board: runs ").count()
}

/// Waits for one word and then for another; returns the time between the two, and how many programs have run in it.
fn until(board: &mut Board, from: &str, to: &str) -> (Duration, usize) {
    board.wait_for(from);
    let began = Instant::now();
    let shown = board.wait_for(to);
    (began.elapsed(), ran(&shown))
}
