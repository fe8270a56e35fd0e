//! A board: a real kernel in qemu, whose two network cards hang in the laboratory, and whose console is at hand.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::lab::{sh, Lab};
use crate::ROOT;

/// How long a board may take for anything; machines that run tests are slow and busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the other ends of its network cards come from.
const TUN: &str = "/dev/net/tun";

/// The engine that needs no iptables.
pub const NFTABLES: &str = "nftables";

/// One line of tests/boards/boards.
#[derive(Clone)]
pub struct Kind {
    pub name: String,
    pub megabytes: u32,
    pub engines: Vec<String>,
    package: String,
    card: String,
    machine: String,
    /// Where its kernel and root directory are kept: at the first board that has the same.
    kept: PathBuf,
}

impl Kind {
    pub fn all() -> Vec<Self> {
        let table = fs::read_to_string(format!("{ROOT}/tests/boards/boards")).unwrap();
        let rows: Vec<Vec<&str>> =
            table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_whitespace().collect()).collect();
        let kind = |words: &Vec<&str>| {
            let first = rows.iter().find(|other| other[4..6] == words[4..6]).unwrap();
            Kind {
                name: words[0].into(),
                megabytes: words[1].parse().unwrap(),
                engines: words[2].split(',').map(str::to_owned).collect(),
                package: words[3].into(),
                card: words[6].into(),
                machine: words[7..].join(" "),
                kept: Path::new(ROOT).join("target/boards").join(first[0]),
            }
        };
        rows.iter().map(kind).collect()
    }

    pub fn named(name: &str) -> Self {
        Self::all().into_iter().find(|kind| kind.name == name).unwrap()
    }

    /// Gets its kernel and root directory; or says why it cannot be had here.
    pub fn fetch(&self) -> Result<(), String> {
        let qemu = self.machine.split(' ').next().unwrap();
        if !Command::new(qemu).arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
            return Err(format!("{qemu} is missing"));
        }
        File::options().read(true).write(true).open(TUN).map_err(|error| format!("{TUN}: {error}"))?;
        let limit = std::env::var("PARAGLIDER_FETCH_SECONDS").unwrap_or_else(|_| "3600".into());
        let fetch = format!("{ROOT}/tests/boards/fetch");
        // It ends with this program.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--", "timeout", "-k", "9", &limit, &fetch, &self.name]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => Ok(()),
            Some(3) => Err(said.lines().last().unwrap_or_default().into()),
            Some(124 | 137) => Err(format!("its kernel and programs cannot be had within {limit} seconds")),
            _ => panic!("fetch {}:\n{said}", self.name),
        }
    }

    /// Whether its clock can count instructions. With qemu's `-icount` a MIPS board counted something else each time, and
    /// once its network stood still.
    pub fn can_count(&self) -> bool {
        !self.name.starts_with("mips")
    }

    pub fn has_modules(&self) -> bool {
        self.kept.join("root/lib/modules").exists()
    }

    pub fn has_ssh(&self) -> bool {
        self.kept.join("root/usr/sbin/dropbear").exists()
    }
}

/// What a board is given beside its own: none of it has to be thought of.
#[derive(Default)]
pub struct Options {
    /// A file system for /etc that outlives the power.
    pub flash: Option<PathBuf>,
    /// Its clock counts instructions, 2 ns each, while it works; where [`Kind::can_count`] says so.
    pub counts_instructions: bool,
}

/// What came of a line on the console.
pub struct Done {
    pub code: i32,
    pub out: String,
}

/// A board under power.
pub struct Board {
    qemu: Child,
    keys: ChildStdin,
    screen: Receiver<Vec<u8>>,
    /// All that was shown so far and not taken.
    shown: String,
    pub switched_on: Instant,
}

/// The board's root directory: what is kept of it, our package's own files, and the stand-ins for what OpenWrt has around
/// a package; iptables and its firewall only where they are the engine. Returns the directory.
pub fn root(lab: &Lab, kind: &Kind, engine: &str) -> PathBuf {
    let root = lab.path("root");
    let dir = root.display();
    sh(&format!("rm -rf {dir} && cp -a {}/root {dir}", kind.kept.display()));
    sh(&format!("cd '{ROOT}' && openwrt/pack ipk {} >&2", kind.package));
    sh(&format!("cp -a '{ROOT}/target/openwrt/{}/ipk/data/.' {dir}", kind.package));
    sh(&format!("mkdir -p {dir}/etc/config {dir}/sbin {dir}/lib {dir}/root/.ssh"));
    sh(&format!("mkdir -p {dir}/bin {dir}/usr/bin"));
    for (file, place) in [
        ("boards/init", "init"),
        ("openwrt/system/rc.common", "etc/rc.common"),
        ("openwrt/system/functions.sh", "lib/functions.sh"),
        ("openwrt/system/uci", "sbin/uci"),
        ("openwrt/system/ubus", "bin/ubus"),
        ("openwrt/system/procd", "sbin/procd"),
        ("openwrt/system/jsonfilter", "usr/bin/jsonfilter"),
    ] {
        fs::copy(format!("{ROOT}/tests/{file}"), root.join(place)).unwrap();
    }
    if engine != NFTABLES {
        sh(&format!("cp -a {}/iptables/. {dir}", kind.kept.display()));
        fs::copy(format!("{ROOT}/tests/openwrt/system/firewall3"), root.join("etc/init.d/firewall")).unwrap();
    }
    let write = |file: &str, text: &str| fs::write(root.join(file), text).unwrap();
    write("etc/config/firewall", "");
    write("etc/protocols", "tcp 6 TCP\n");
    write("etc/passwd", "root::0:0:root:/root:/bin/sh\n");
    write("etc/shells", "/bin/sh\n");
    // As the installation into an image does.
    sh(&format!("IPKG_INSTROOT={dir} sh {dir}/etc/rc.common {dir}/etc/init.d/paraglider enable"));
    root
}

/// Packs a root directory for the kernel.
pub fn pack(lab: &Lab, root: &Path) -> PathBuf {
    let image = lab.path("initramfs");
    let (root, out) = (root.display(), image.display());
    sh(&format!("cd {root} && find . | cpio -o -H newc -R 0:0 --quiet | gzip -6 >{out}"));
    image
}

impl Board {
    /// Switches it on. The laboratory must have the bridges `outside` and `lan`.
    pub fn switch_on(kind: &Kind, engine: &str, image: &Path, options: &Options) -> Self {
        // In a root file system of that type the image may fill more than half of the memory.
        let mut words = format!("quiet loglevel=1 panic=-1 cma=0 rootfstype=ramfs engine={engine}");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(kind.machine.split(' '));
        command.args(["-accel", "tcg", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        command.arg("-m").arg(kind.megabytes.to_string());
        for (bridge, number) in [("outside", 1), ("lan", 2)] {
            let tap = format!("tap{number}");
            // The kernel lets go of it a moment after a board that was switched off has ended.
            sh(&format!(
                "ip link del {tap} 2>/dev/null; ip tuntap add {tap} mode tap && ip link set {tap} master {bridge} up"
            ));
            command.arg("-netdev").arg(format!("tap,id={tap},ifname={tap},script=no,downscript=no"));
            command.arg("-device").arg(format!("{},netdev={tap},mac=02:00:00:00:00:0{number}", kind.card));
        }
        if let Some(flash) = &options.flash {
            words.push_str(" flash=vda");
            command.arg("-drive").arg(format!("file={},format=raw,if=virtio,cache=writeback", flash.display()));
        }
        if options.counts_instructions && kind.can_count() {
            command.args(["-icount", "shift=1"]);
        }
        words.push_str(if kind.machine.contains("arm") || kind.machine.contains("aarch64") {
            " console=ttyAMA0"
        } else {
            " console=ttyS0"
        });
        command.arg("-kernel").arg(kind.kept.join("kernel")).arg("-initrd").arg(image).args(["-append", &words]);
        let mut qemu = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let switched_on = Instant::now();
        let (send, screen) = mpsc::channel();
        let pipes: [Box<dyn Read + Send>; 2] =
            [Box::new(qemu.stdout.take().unwrap()), Box::new(qemu.stderr.take().unwrap())];
        for mut pipe in pipes {
            let send = send.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = pipe.read(&mut bytes) {
                    if send.send(bytes[..count].to_vec()).is_err() {
                        break;
                    }
                }
            });
        }
        let keys = qemu.stdin.take().unwrap();
        Board { qemu, keys, screen, shown: String::new(), switched_on }
    }

    /// Waits until the console shows some words; returns all up to the end of their line.
    pub fn wait_for(&mut self, words: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown.find(words) {
                if let Some(end) = self.shown[at..].find('\n') {
                    return self.shown.drain(..=at + end).collect();
                }
            }
            // Not every machine ends then.
            assert!(!self.shown.contains("Kernel panic"), "{}", self.shown);
            match self.screen.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes).replace('\r', "")),
                Err(why) => panic!("no `{words}` on the console ({why}); it shows:\n{}", self.shown),
            }
        }
    }

    /// Types a line, and does not wait.
    pub fn begin(&mut self, line: &str) {
        writeln!(self.keys, "{line}").unwrap();
    }

    /// Runs a line on the console.
    pub fn run(&mut self, line: &str) -> Done {
        self.begin(&format!("{{ {line}\n}} 2>&1; echo \"board: done $?\""));
        let mut out = self.wait_for("board: done ");
        let at = out.find("board: done ").unwrap();
        let code = out[at..].trim().rsplit(' ').next().unwrap().parse().unwrap();
        out.truncate(at);
        Done { code, out }
    }

    /// Runs a line that must succeed.
    pub fn ok(&mut self, line: &str) -> String {
        let Done { code, out } = self.run(line);
        assert_eq!(code, 0, "{line}\n{out}");
        out
    }

    /// Takes its power away; returns what the console has shown meanwhile.
    pub fn cut(mut self) -> String {
        self.off();
        let rest: Vec<u8> = self.screen.iter().flatten().collect();
        self.shown.clone() + &String::from_utf8_lossy(&rest)
    }

    fn off(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.off();
    }
}

/// Takes the balancing from the laboratory's own program: the client and the backends hang on bridges, where a board
/// may take its place.
pub fn make_room() {
    sh("ip addr flush dev lan && ip addr flush dev wan && ip addr flush dev lo scope global");
    sh("ip link add outside type bridge && ip link set outside up && ip link set wan master outside");
}
