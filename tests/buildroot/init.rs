//! S50paraglider on a board: a root directory with nothing but busybox and the static binary of its architecture; and the
//! same with each variant of iptables.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::lab::{self, sh, tool, Held, Lab, Variant};
use crate::{package, ROOT};

pub const BIND: &str = "10.9.0.1:4444";

/// The root file system that Buildroot would make, as far as it matters here; its network is the laboratory's.
pub struct Board {
    pub root: PathBuf,
}

impl Board {
    fn new(lab: &Lab) -> Self {
        let root = lab.path("root");
        let at = |path: &str| root.join(path.trim_start_matches('/'));
        for dir in
            ["bin", "dev", "etc/init.d", "etc/paraglider", "proc", "run", "usr/bin", "usr/lib", "usr/sbin", "var"]
        {
            fs::create_dir_all(at(dir)).unwrap();
        }
        symlink("../run", at("var/run")).unwrap();
        // The mounts are seen in here only, and end with the laboratory. The libraries are for iptables.
        for dir in ["/dev", "/proc", "/run", "/usr/lib"] {
            sh(&format!("mount --rbind {dir} {}", at(dir).display()));
        }
        symlink("usr/lib", at("lib")).unwrap();
        if Path::new("/lib64").exists() {
            symlink(if Path::new("/usr/lib64").exists() { "usr/lib64" } else { "usr/lib" }, at("lib64")).unwrap();
            fs::create_dir_all(at("usr/lib64")).unwrap();
            sh(&format!("mount --rbind /lib64/ {}", at("usr/lib64").display()));
        }
        let iptables = [lab.variant, lab.variant.other()];
        for variant in if lab.variant == Variant::Netlink { &[][..] } else { &iptables } {
            let multi = format!("usr/sbin/xtables-{}-multi", variant.infix());
            fs::copy(format!("/{multi}"), at(&multi)).unwrap();
            for family in ["iptables", "ip6tables"] {
                for verb in ["", "-save", "-restore"] {
                    symlink(format!("/{multi}"), at(&format!("usr/sbin/{family}-{}{verb}", variant.infix()))).unwrap();
                    if *variant == lab.variant {
                        symlink(format!("/{multi}"), at(&format!("usr/sbin/{family}{verb}"))).unwrap();
                    }
                }
            }
        }
        install(&tool("busybox"), &at("bin/busybox"));
        let board = Board { root: root.clone() };
        board.sh("/bin/busybox", &["--install", "-s", "/bin"]);
        install(&binary(), &at("usr/bin/paraglider"));
        install(package("S50paraglider").as_ref(), &at("etc/init.d/S50paraglider"));
        board
    }

    pub fn config(&self, yaml: &str) {
        fs::write(self.root.join("etc/paraglider/glider.yaml"), yaml).unwrap();
    }

    pub fn balance(&self, backends: &[u8]) {
        let list: String = backends.iter().map(|n| format!("    - 10.2.0.1{n}:80\n")).collect();
        self.config(&format!("frontend:\n  bind: {BIND}\n  privateip: 10.2.0.1\n  backends:\n{list}"));
    }

    /// Runs a program of the board's; returns exit status and all that it said, in its order.
    fn run(&self, program: &str, words: &[&str]) -> (i32, String) {
        let mut chroot = Command::new("/usr/sbin/chroot");
        chroot.arg(&self.root).args(["/bin/busybox", "sh", "-c", "exec \"$0\" \"$@\" 2>&1", program]).args(words);
        chroot.stdin(Stdio::null());
        chroot.env_clear().env("PATH", "/sbin:/usr/sbin:/bin:/usr/bin");
        let output = chroot.output().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8(output.stdout).unwrap())
    }

    /// Runs a program of the board's, which must succeed.
    fn sh(&self, program: &str, words: &[&str]) {
        let (code, said) = self.run(program, words);
        assert_eq!(code, 0, "{program} {words:?}\n{said}");
    }

    pub fn s50(&self, word: &str) -> (i32, String) {
        self.run("/etc/init.d/S50paraglider", &[word])
    }

    /// Runs the init script, which must succeed and say OK.
    pub fn ok(&self, word: &str, begin: &str) {
        let (code, said) = self.s50(word);
        let first = said.lines().next().unwrap();
        assert!(code == 0 && first == format!("{begin} paraglider: OK"), "{word}: {code}\n{said}");
    }
}

pub fn install(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The binary that `make cross` has built for boards like this machine.
fn binary() -> PathBuf {
    let path = format!("{ROOT}/target/dist/{}-unknown-linux-musl/paraglider", std::env::consts::ARCH);
    assert!(Path::new(&path).exists(), "{path} is missing: make cross");
    path.into()
}

/// Tells the story of a test on a board in a laboratory, without iptables and with each variant of it.
pub fn on_board(name: &str, story: fn(&Lab, &Board)) {
    tell(name, &[Variant::Netlink, Variant::Nft, Variant::Legacy], story);
}

/// The same of a story that only iptables has.
fn on_board_with_iptables(name: &str, story: fn(&Lab, &Board)) {
    tell(name, &[Variant::Nft, Variant::Legacy], story);
}

fn tell(name: &str, variants: &[Variant], story: fn(&Lab, &Board)) {
    if let Ok(engine) = std::env::var("PARAGLIDER_VARIANT") {
        let lab = Lab::new(*variants.iter().find(|variant| variant.engine() == engine).unwrap());
        let board = Board::new(&lab);
        return story(&lab, &board);
    }
    for variant in variants {
        let mut command = lab::entrance(&["--exact", name, "--nocapture", "--test-threads=1"]).unwrap();
        let output = command.env("PARAGLIDER_VARIANT", variant.engine()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{variant:?}:\n{text}");
    }
}

pub fn serve() {
    for backend in ["b1", "b2", "b3"] {
        lab::serve(backend, 80);
    }
}

/// Asks so often that each of these backends has its turn three times, and sees that each has.
pub fn is_fair(backends: &[u8]) {
    let fair: BTreeMap<String, usize> = backends.iter().map(|n| (format!("b{n} 10.2.0.1"), 3)).collect();
    assert_eq!(lab::ask_often("client", BIND, 3 * backends.len()), fair);
}

#[test]
fn it_starts_and_reloads_and_stops() {
    on_board("init::it_starts_and_reloads_and_stops", |lab, board| {
        serve();
        board.balance(&[1, 2, 3]);
        let (code, said) = board.s50("status");
        assert!(code == 3 && said.contains("not in force"), "{code}: {said}");
        // It makes the tables of iptables-nft, which stay.
        board.sh("/usr/bin/paraglider", &["check"]);
        let before = lab.saved(false);

        board.ok("start", "Starting");
        is_fair(&[1, 2, 3]);
        let (code, said) = board.s50("status");
        assert!(code == 0 && said.contains("10.2.0.13:80"), "{code}: {said}");
        assert!(said.contains(lab.variant.engine()), "{said}");
        let before_second = (lab.handles(), said);
        board.ok("start", "Starting");
        assert_eq!((lab.handles(), board.s50("status").1), before_second, "a second start writes");
        assert_eq!(before_second.1.matches(" 3 taken").count(), 3, "{}", before_second.1);

        // A connection lives through the change, even to a backend that is no longer in the config.
        let held = lab::inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
        let server = held.ask().unwrap();
        for (word, backends) in [("reload", &[1, 2][..]), ("restart", &[2, 3]), ("start", &[3, 1])] {
            board.balance(backends);
            assert_eq!(board.s50("status").0, 1, "the config has changed");
            board.ok(word, if word == "start" { "Starting" } else { "Reloading" });
            is_fair(backends);
            assert_eq!(board.s50("status").0, 0);
            assert_eq!(held.ask().unwrap(), server);
        }

        for _ in 0..2 {
            board.ok("stop", "Stopping");
            assert_eq!(lab.saved(false), before);
            assert_eq!(board.s50("status").0, 3);
        }
    });
}

#[test]
fn a_broken_config_leaves_the_rules_that_work() {
    on_board("init::a_broken_config_leaves_the_rules_that_work", |lab, board| {
        serve();
        board.balance(&[1, 2, 3]);
        board.ok("start", "Starting");
        let (rules, held) = (lab.saved(false), lab::inside("client", || Held::open(BIND.parse().unwrap()).unwrap()));
        let held = held.join().unwrap();
        board.config("frontend:\n  bind: 10.9.0.1:70000\n");
        for word in ["reload", "restart", "start"] {
            let (code, said) = board.s50(word);
            let lines: Vec<&str> = said.lines().collect();
            assert!(code == 2 && lines.len() == 2 && lines[0].ends_with(" paraglider: FAIL"), "{word}: {code}\n{said}");
            assert!(lines[1].contains("/etc/paraglider/glider.yaml:2:9: ") && lines[1].contains("70000"), "{said}");
            assert_eq!(lab.saved(false), rules);
            held.ask().unwrap();
        }
        // One connection is open, and was the first of the round.
        assert_eq!(lab::ask_often("client", BIND, 9).len(), 3);
        assert!(lab::ask_often("client", BIND, 9).values().all(|n| *n == 3));
        // And it can be stopped all the same.
        board.ok("stop", "Stopping");
        assert!(lab.ours().is_empty());
    });
}

#[test]
fn without_a_config_it_says_so_in_a_line() {
    on_board("init::without_a_config_it_says_so_in_a_line", |lab, board| {
        let before = lab.saved(false);
        let (code, said) = board.s50("start");
        let lines: Vec<&str> = said.lines().collect();
        assert!(code == 2 && lines.len() == 2 && lines[0] == "Starting paraglider: FAIL", "{code}\n{said}");
        assert!(lines[1].contains("/etc/paraglider/glider.yaml: cannot read the config: No such file"), "{said}");
        // The README shows what is said.
        assert!(crate::read(&format!("{ROOT}/buildroot/README.md")).contains(said.as_str()), "{said}");
        assert_eq!(lab.saved(false), before);
        board.ok("stop", "Stopping");
    });
}

/// `S35iptables save` writes all rules into a file, ours too, and at boot it loads them before we start.
#[test]
fn it_copes_with_rules_that_were_saved() {
    on_board_with_iptables("init::it_copes_with_rules_that_were_saved", |lab, board| {
        serve();
        board.sh("/usr/sbin/iptables", &["-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP"]);
        board.balance(&[1, 2, 3]);
        let reboot = |backends: &[u8]| {
            board.sh("/bin/sh", &["-c", "iptables-save >/etc/iptables.conf"]);
            board.sh("/bin/sh", &["-c", "printf '*filter\nCOMMIT\n*nat\nCOMMIT\n' | iptables-restore"]);
            assert!(lab.ours().is_empty());
            fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
            board.sh("/bin/sh", &["-c", "iptables-restore </etc/iptables.conf"]);
            assert!(!lab.ours().is_empty());
            board.balance(backends);
            board.ok("start", "Starting");
        };
        board.ok("start", "Starting");
        reboot(&[1, 2, 3]);
        is_fair(&[1, 2, 3]);
        reboot(&[1, 3]);
        is_fair(&[1, 3]);
        for chain in ["PREROUTING", "OUTPUT", "POSTROUTING", "FORWARD"] {
            let jumps = lab.ours().iter().filter(|line| line.contains(&format!("-A {chain} "))).count();
            assert_eq!(jumps, 1, "{chain}: {:?}", lab.ours());
        }
        board.ok("stop", "Stopping");
        assert!(lab.ours().is_empty());
        assert!(lab.saved(false).contains("-s 192.0.2.1/32 -j DROP"), "another program's rule is gone");
    });
}

/// The exit status is paraglider's, whatever it is, and the only verbs are start, stop and status.
#[test]
fn the_exit_status_is_that_of_paraglider() {
    on_board("init::the_exit_status_is_that_of_paraglider", |_, board| {
        let fake = board.root.join("usr/bin/paraglider");
        fs::write(&fake, "#!/bin/sh\necho \"$*\" >>/called\nexit $((40 + ${#1}))\n").unwrap();
        for (word, called) in
            [("start", "start"), ("stop", "stop"), ("restart", "start"), ("reload", "start"), ("status", "status")]
        {
            let (code, said) = board.s50(word);
            assert_eq!(code, 40 + i32::try_from(called.len()).unwrap(), "{word}");
            assert_eq!(said.ends_with("FAIL\n"), word != "status", "{said}");
            assert_eq!(fs::read_to_string(board.root.join("called")).unwrap(), format!("{called}\n"));
            fs::remove_file(board.root.join("called")).unwrap();
        }
        for words in [&["turn"][..], &[]] {
            let (code, said) = board.run("/etc/init.d/S50paraglider", words);
            assert!(code == 1 && said.starts_with("Usage: /etc/init.d/S50paraglider {start|"), "{code}: {said}");
            assert!(!board.root.join("called").exists());
        }
    });
}
