//! Two boxes, a client and three backends at two switches. The boxes have the files of contrib/keepalived as they are, at
//! the places where they belong, and the addresses and interfaces that those name.

use std::fs::{self, File};
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::lab::{host, program, sh, tool, Lab, Variant};

const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/keepalived");

/// Where clients connect to.
pub const BIND: &str = "166.1.101.2";
/// What backends see.
pub const PRIVATEIP: &str = "172.19.0.4";

const CONFIG: &str = "frontend:
  bind: 166.1.101.2:4444
  privateip: 172.19.0.4
  backends:
    - 172.19.0.2:5555
    - 172.19.0.3:5555
    - 172.19.0.5:5555
";

/// How long one may wait for what comes in the end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something is so.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is() {
        assert!(since.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
}

/// The switches, and who stays there.
pub fn surroundings() {
    // An /etc of the laboratory's own, with the places for the recipe's files; a host without the packages has none.
    sh("mkdir /run/etc && { cp -a /etc/. /run/etc 2>/dev/null || :; }
        mkdir -p /run/etc/keepalived /run/etc/conntrackd && mount --bind /run/etc /etc");
    for switch in ["front", "back"] {
        sh(&format!("ip link add {switch} type bridge && ip link set {switch} up"));
    }
    for (name, switch, address) in [
        ("client", "front", "166.1.101.100/24"),
        ("b1", "back", "172.19.0.2/24"),
        ("b2", "back", "172.19.0.3/24"),
        ("b3", "back", "172.19.0.5/24"),
    ] {
        host(name);
        plug_in(name, "eth0", switch, address);
    }
}

/// A cable from a host to a switch; it is called `HOST-SWITCH` there.
fn plug_in(name: &str, interface: &str, switch: &str, address: &str) {
    sh(&format!(
        "ip link add {name}-{switch} type veth peer name {interface} netns {name}
        ip -n {name} addr add {address} dev {interface} && ip -n {name} link set {interface} up
        ip link set {name}-{switch} master {switch} up"
    ));
}

/// One of the two.
pub struct Balancer {
    pub name: String,
    number: u8,
    /// Its /etc and /run.
    dir: PathBuf,
    running: Vec<Child>,
}

impl Balancer {
    /// Box 1 or 2 with the files of the recipe, not yet switched on. `seconds` is the time between two words of VRRP.
    pub fn new(lab: &Lab, number: u8, seconds: &str) -> Self {
        let name = format!("box{number}");
        let dir = lab.path(&name);
        let balancer = Balancer { name: name.clone(), number, dir, running: Vec::new() };
        for folder in ["keepalived", "conntrackd", "run", "bin", "guard"] {
            fs::create_dir_all(balancer.dir.join(folder)).unwrap();
        }
        if lab.variant == Variant::Netlink {
            symlink(lab.path("bin/nft"), balancer.dir.join("guard/nft")).unwrap();
        }
        let recipe = |file: &str| fs::read_to_string(format!("{RECIPE}/{file}")).unwrap();
        let keepalived = recipe(&format!("{name}/keepalived.conf"));
        assert_eq!(keepalived.matches("advert_int 1 ").count() + keepalived.matches("advert_int 1\n").count(), 2);
        let keepalived = keepalived.replace("advert_int 1", &format!("advert_int {seconds}"));
        balancer.put("keepalived/keepalived.conf", &keepalived, 0o644);
        balancer.put("keepalived/two-boxes", &recipe("two-boxes"), 0o755);
        balancer.put("conntrackd/conntrackd.conf", &recipe(&format!("{name}/conntrackd.conf")), 0o644);
        balancer.put("glider.yaml", CONFIG, 0o644);
        balancer
    }

    fn put(&self, path: &str, text: &str, mode: u32) {
        let path = self.dir.join(path);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// From now on the connections get into the kernel so much later than the addresses come.
    pub fn commit_late(&self, seconds: u32) {
        let real = tool("conntrackd");
        let text = format!("#!/bin/sh\n[ \"$1\" != -c ] || sleep {seconds}\nexec '{}' \"$@\"\n", real.display());
        self.put("bin/conntrackd", &text, 0o755);
    }

    /// A command on this box: in its network, with its own /run and the recipe's files in /etc.
    fn command(&self, words: &[&str]) -> Command {
        let dir = self.dir.display();
        // What they have to say goes into their own logs, not into that of the machine.
        let mounts = format!(
            "mount --bind {dir}/run /run && mount --bind {dir}/keepalived /etc/keepalived &&
            mount --bind {dir}/conntrackd /etc/conntrackd || exit 1
            [ ! -e /dev/log ] || mount --bind /dev/null /dev/log || exit 1
            exec setpriv --pdeathsig KILL -- \"$@\""
        );
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).args(["unshare", "-m", "sh", "-c", &mounts, "sh"]);
        command.args(words).stdin(Stdio::null());
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{dir}/bin:{path}"));
        command
    }

    /// Runs a command on this box; exit status and all that it said.
    pub fn run(&self, words: &[&str]) -> (i32, String) {
        let output = self.command(words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap_or(-1), text.into_owned())
    }

    /// Runs Paraglider on this box.
    pub fn paraglider(&self, verb: &str) -> (i32, String) {
        let config = self.dir.join("glider.yaml");
        self.run(&[&program().display().to_string(), "-config", &config.display().to_string(), verb])
    }

    fn daemon(&mut self, words: &[&str]) {
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = self.command(words);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.running.push(command.spawn().unwrap());
    }

    /// It boots: a new kernel, addresses of its own, the rules, and then the two daemons.
    pub fn switch_on(&mut self) {
        let (name, number) = (self.name.clone(), self.number);
        fs::remove_dir_all(self.dir.join("run")).unwrap();
        fs::create_dir(self.dir.join("run")).unwrap();
        host(&name);
        plug_in(&name, "eth0", "front", &format!("166.1.101.1{number}/24"));
        plug_in(&name, "eth1", "back", &format!("172.19.0.1{number}/24"));
        let (code, said) = self.paraglider("start");
        assert!(code == 0 && said.contains("is balanced over 3 backends"), "{said}");
        self.daemon(&["conntrackd", "-C", "/etc/conntrackd/conntrackd.conf"]);
        // The guard of its script is the only one who needs nft, where there is no iptables.
        let dir = self.dir.display();
        let path = format!("PATH={dir}/guard:{dir}/bin:{}", std::env::var("PATH").unwrap());
        self.daemon(&["env", &path, "keepalived", "--dont-fork", "--vrrp", "--log-console", "--no-syslog"]);
        until("conntrackd runs", || self.run(&["conntrackd", "-s"]).0 == 0);
    }

    /// Somebody pulls the plug: without a word it is gone.
    pub fn pull_the_plug(&self) {
        sh(&format!("ip link del {0}-front; ip link del {0}-back", self.name));
    }

    /// What is left of a box without power.
    pub fn bury(&mut self) {
        self.kill();
        sh(&format!("ip netns del {}", self.name));
    }

    /// Somebody pulls both cables, or plugs them in again.
    pub fn cables(&self, there: bool) {
        let state = if there { "up" } else { "down" };
        sh(&format!("ip link set {0}-front {state}; ip link set {0}-back {state}", self.name));
    }

    /// Keepalived is stopped in good order, as before an upgrade, or started again.
    pub fn stop_keepalived(&mut self) {
        let keepalived = self.running.pop().unwrap();
        kill(Pid::from_raw(keepalived.id() as i32), Signal::SIGTERM).unwrap();
        // Whoever waits for its end here would miss what happens meanwhile.
        self.running.insert(0, keepalived);
    }

    /// Which of the two virtual addresses it has.
    pub fn addresses(&self) -> Vec<&'static str> {
        let all = sh(&format!("ip -n {} -4 -o addr", self.name));
        [BIND, PRIVATEIP].into_iter().filter(|address| all.contains(&format!(" {address}/"))).collect()
    }

    pub fn is_master(&self) -> bool {
        self.addresses() == [BIND, PRIVATEIP]
    }

    /// The connections that it has been told of by the other box (`-e`), or tells the other box of (`-i`).
    pub fn connections(&self, which: &str) -> Vec<String> {
        self.run(&["conntrackd", which]).1.lines().filter(|line| line.contains("src=")).map(str::to_owned).collect()
    }

    /// Ends all that runs on it: keepalived has a child, which would outlive it.
    fn kill(&mut self) {
        let all = Command::new("ip").args(["netns", "pids", &self.name]).output().map(|output| output.stdout);
        let all = String::from_utf8_lossy(&all.unwrap_or_default()).into_owned();
        for pid in all.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for mut child in self.running.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            eprintln!("{}:\n{log}", self.name);
        }
    }
}

/// Why the story cannot be told here, if so.
pub fn missing() -> Option<String> {
    let missing = ["keepalived", "conntrackd"].into_iter().find(|name| !tool(name).exists())?;
    Some(format!("{missing} is missing (tests/setup fetches it)"))
}
