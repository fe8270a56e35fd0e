//! New connections counted by instructions: an emulated machine of the host's own architecture runs this very program, and
//! each instruction moves its clock by 2 ns, however busy the host is.
//!
//! The kernel and busybox are those of tests/boards; the programs are the host's, with their libraries.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::change::Cost;
use crate::lab::{self, host, inside, program, sh, Lab, PROGRAM};
use crate::load::{connection, server};
use crate::setup::{self, balancer, BIND};
use crate::{change, Figures, Results, SIZES};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Instructions take so long there, in ns: qemu's `-icount shift=1`.
const INSTRUCTION: f64 = 2.0;

/// How often all cases are measured, in turns.
const ROUNDS: usize = 3;

/// What of the host's the machine is given. What is missing there is said before; without nftlb it is not measured.
const PROGRAMS: [&str; 11] = [
    // busybox's own shell would prefer its own `ip`.
    "/bin/sh",
    "/bin/ip",
    "/bin/mount",
    "/bin/umount",
    "/sbin/sysctl",
    "/usr/bin/sleep",
    "/usr/bin/unshare",
    "/usr/sbin/iptables-nft",
    "/usr/sbin/iptables-legacy",
    "/usr/sbin/nft",
    "/usr/sbin/nftlb",
];

/// The first program there. A cloud kernel has all that is needed, as modules.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /sbin
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
/bin/busybox --install -s /bin 2>/dev/null
ln -s /bin/modprobe /sbin/modprobe 2>/dev/null
ln -s /proc/self/fd /dev/fd
echo /sbin/modprobe >/proc/sys/kernel/modprobe
modprobe -q crc32c_generic
mount -t tmpfs tmp /tmp
/bench/peers there
echo "counted: over $?"
reboot -f
"#;

/// Boots the machine and measures there all cases that have a word in their name; or says why that cannot be.
pub fn all(word: &str) -> Result<Results, String> {
    let board = std::env::consts::ARCH;
    let table = fs::read_to_string(format!("{ROOT}/tests/boards/boards")).unwrap();
    let row = table.lines().find(|line| line.split(' ').next() == Some(board)).ok_or(format!("no board is {board}"))?;
    let machine: Vec<&str> = row.split_whitespace().skip(7).collect();
    if !Path::new("/usr/bin").join(machine[0]).exists() {
        return Err(format!("{} is missing (make boards tells of which package it is)", machine[0]));
    }
    let fetched = Command::new(format!("{ROOT}/tests/boards/fetch")).arg(board).output().unwrap();
    if !fetched.status.success() {
        return Err(String::from_utf8_lossy(&fetched.stderr).lines().last().unwrap_or_default().into());
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), board);
    let console = if board == "aarch64" { "ttyAMA0" } else { "ttyS0" };
    let mut command = Command::new(machine[0]);
    command.args(&machine[1..]).args(["-m", "768", "-accel", "tcg", "-icount", "shift=1,sleep=off"]);
    command.args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(format!("{ROOT}/target/boards/{board}/kernel")).arg("-initrd").arg(image);
    command.args(["-append", &format!("quiet loglevel=1 panic=-1 cma=0 console={console} only={word}")]);
    // It ends with this program, and after an hour.
    let mut guarded = Command::new("setpriv");
    guarded.args(["--pdeathsig", "TERM", "--", "timeout", "-k", "9", "3600"]).arg(command.get_program());
    let mut qemu = guarded.args(command.get_args()).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut results = Results::new();
    let mut said = Vec::new();
    for line in BufReader::new(qemu.stdout.take().unwrap()).lines().map_while(Result::ok) {
        match line.trim().strip_prefix("counted: ").and_then(|rest| rest.split_once(": ")) {
            Some((case, figures)) => {
                println!("counted {case}: {figures}");
                results.entry(case.to_owned()).or_default().push(parsed(figures));
            }
            None => said.push(line),
        }
    }
    let _ = qemu.wait();
    assert!(said.iter().any(|line| line.trim() == "counted: over 0"), "{}", said.join("\n"));
    Ok(results)
}

/// The root directory, packed.
fn image(dir: &Path, board: &str) -> std::path::PathBuf {
    let root = dir.join("root");
    let to = root.display();
    sh(&format!("cp -a '{ROOT}/target/boards/{board}/root' {to} && mkdir -p {to}/bench {to}/usr/sbin"));
    let this = std::env::current_exe().unwrap();
    let own = format!("cp '{}' {to}/bench/peers && cp '{}' {to}/bench/paraglider", this.display(), program().display());
    // A static binary needs none.
    let libraries = |program: &str| {
        sh(&format!(
            "for library in $(ldd '{program}' 2>/dev/null | grep -o '/[^ ]*'); do cp -L --parents --remove-destination \"$library\" {to}; done"
        ));
    };
    sh(&own);
    libraries(&this.display().to_string());
    libraries(&program().display().to_string());
    for program in PROGRAMS.into_iter().filter(|program| Path::new(program).exists()) {
        sh(&format!("mkdir -p $(dirname {to}{program}) && cp -L {program} {to}{program}"));
        libraries(program);
    }
    let of_xtables =
        "$(dirname $(readlink -f $(ldd /usr/sbin/iptables-nft | grep -o '/[^ ]*libxtables[^ ]*')))/xtables";
    sh(&format!("cp -aL --parents {of_xtables} {to}"));
    for verb in ["-save", "-restore"] {
        for variant in ["nft", "legacy"] {
            for family in ["iptables", "ip6tables"] {
                sh(&format!("cd {to}/usr/sbin && ln -sf iptables-{variant} {family}-{variant}{verb} && [ {family} = iptables ] || ln -sf iptables-{variant} {family}-{variant}"));
            }
        }
    }
    fs::write(root.join("init"), INIT).unwrap();
    let image = dir.join("image");
    sh(&format!("cd {to} && chmod +x init && find . | cpio -o -H newc -R 0:0 --quiet >{}", image.display()));
    image
}

fn parsed(figures: &str) -> Figures {
    figures
        .split(' ')
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// The cases, as words for [`crate::measure`].
fn cases() -> Vec<String> {
    let mut cases = vec!["nft counted endpoints 1".to_owned(), "nft counted direct 1".to_owned()];
    for variant in ["nftables", "nft", "legacy"] {
        cases.push(format!("{variant} counted plain 1"));
        cases.extend(SIZES.map(|n| format!("{variant} counted paraglider {n}")));
    }
    if setup::missing("nftlb").is_none() {
        cases.extend(SIZES.map(|n| format!("nft counted nftlb {n}")));
    }
    for variant in ["nftables", "nft", "legacy"] {
        cases.extend(SIZES.map(|n| format!("{variant} counted-change {n}")));
    }
    cases
}

/// On the machine: measures all cases, and tells its console.
pub fn there() {
    std::env::set_var(PROGRAM, "/bench/paraglider");
    let words = fs::read_to_string("/proc/cmdline").unwrap();
    let only = words.trim().rsplit("only=").next().unwrap().replace('_', " ");
    for _ in 0..ROUNDS {
        for case in cases().into_iter().filter(|case| case.contains(&only)) {
            let figures = crate::run(&case);
            let words: Vec<String> = figures.iter().map(|(name, value)| format!("{name}={value:.3}")).collect();
            println!("counted: {case}: {}", words.join(" "));
        }
    }
}

/// Instructions of one connection, of everything that takes part.
pub fn connections(lab: &Lab, what: &str, n: usize) -> Figures {
    // Three networks without bridges, whose instructions would be counted too.
    for (name, card) in [("client", "wan"), ("b1", "lan")] {
        host(name);
        sh(&format!("ip link add {card} type veth peer name eth0 netns {name} && ip link set {card} up"));
        sh(&format!("ip -n {name} link set eth0 up"));
    }
    sh("ip addr add 10.9.0.1/32 dev lo && ip addr add 10.1.0.1/24 dev wan && ip addr add 10.2.0.1/24 dev lan");
    sh("ip -n client addr add 10.1.0.2/24 dev eth0 && ip -n client route add default via 10.1.0.1");
    sh("ip -n b1 addr add 10.2.0.11/24 dev eth0");
    setup::network();
    balancer(lab, what, n);
    let server = server();
    let (from, to) = match what {
        "endpoints" => ("b1", format!("{}:80", setup::backend(0))),
        "direct" => ("client", format!("{}:80", setup::backend(0))),
        _ => ("client", BIND.to_owned()),
    };
    let to = to.parse().unwrap();
    let measure = move || {
        let many = |count| (0..count).for_each(|_| connection(to, &server).unwrap());
        many(200);
        let turn = |_| {
            let since = Instant::now();
            many(100);
            since.elapsed().as_nanos() as f64 / 100.0 / INSTRUCTION
        };
        let mut turns: Vec<f64> = (0..9).map(turn).collect();
        turns.sort_by(f64::total_cmp);
        BTreeMap::from([
            ("instructions".to_owned(), turns[4]),
            ("least".to_owned(), turns[0]),
            ("most".to_owned(), turns[8]),
        ])
    };
    inside(from, measure).join().unwrap()
}

/// Instructions of `start`, `start` once more, `reload` and `stop`, of the program and what it runs; and memory.
pub fn change(lab: &Lab, n: usize) -> Figures {
    let mut figures = Figures::new();
    change::each(lab, n, &mut |name, Cost { cpu, peak, .. }| {
        figures.insert(format!("{name}_million"), cpu / INSTRUCTION);
        figures.insert(format!("{name}_peak_kib"), peak);
    });
    let _ = lab::NO_IPV6;
    figures
}
