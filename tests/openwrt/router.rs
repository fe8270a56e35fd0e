//! A router: a root directory with busybox and the stand-ins, and perhaps iptables, in which the package is installed.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::lab::{needs_ipv6, sh, tool, Lab, Variant};
use crate::{package, HERE, ROOT};

/// Where the router's nft is.
const NFT: &str = "/usr/libexec";

const CONFIG: &str = "etc/paraglider/glider.yaml";

/// Where the maintainer scripts of opkg are, and those of apk (which keeps them in an archive).
const INFO: &str = "usr/lib/opkg/info";
const APK: &str = "usr/lib/apk";

/// A router in a laboratory, of which it is the balancer.
pub struct Router {
    root: PathBuf,
    variant: Variant,
    syslog: Receiver<String>,
    /// How often it was replaced by a newer one.
    versions: Cell<usize>,
}

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Opkg,
    Apk,
}

/// What came of a command on the router.
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Router {
    /// A router without the package. Its firewall is firewall4, but with iptables-legacy firewall3. With
    /// [`Variant::Netlink`] it is as OpenWrt comes: there is no iptables.
    pub fn new(lab: &Lab) -> Self {
        let root = lab.path("router");
        fs::create_dir_all(root.join("dev")).unwrap();
        let socket = UnixDatagram::bind(root.join("dev/log")).unwrap();
        let (send, syslog) = mpsc::channel();
        // Read all the time: the kernel keeps ten lines, and then a writer blocks.
        thread::spawn(move || {
            let mut line = [0; 4096];
            while let Ok(length) = socket.recv(&mut line) {
                let _ = send.send(String::from_utf8_lossy(&line[..length]).into_owned());
            }
        });
        let router = Router { root, variant: lab.variant, syslog, versions: Cell::new(0) };
        let root = router.root.display();
        for dir in [
            "bin",
            "sbin",
            "usr/sbin",
            "usr/bin",
            "usr/lib/opkg/info",
            "usr/lib/apk",
            "etc/init.d",
            "etc/config",
            "etc/hotplug.d/iface",
            "lib",
            "tmp/run",
            "proc",
            "dev",
        ] {
            fs::create_dir_all(router.root.join(dir)).unwrap();
        }
        symlink("tmp", router.root.join("var")).unwrap();
        sh(&format!("mount --rbind /proc {root}/proc && touch {root}/dev/null"));
        sh(&format!("mount --bind /dev/null {root}/dev/null && ln -s /proc/self/fd/2 {root}/dev/stderr"));

        // All that a router's busybox has, and nothing that it lacks.
        let busybox = router.root.join("bin/busybox");
        fs::copy(tool("busybox"), &busybox).unwrap_or_else(|error| panic!("{error}: run tests/setup"));
        for applet in sh(&format!("{} --list", busybox.display())).lines() {
            if !["busybox", "timeout", "stat", "install", "nproc", "tac"].contains(&applet) {
                symlink("busybox", router.root.join("bin").join(applet)).unwrap();
            }
        }
        // The real programs with their libraries, at the places that they know. (Debian's busybox has no flock.)
        let mut programs = String::from("/usr/bin/flock");
        if router.variant != Variant::Netlink {
            let modules = "$(find /usr/lib -path '*/xtables/*.so')";
            programs += &format!(" /usr/sbin/xtables-nft-multi /usr/sbin/xtables-legacy-multi {modules}");
        }
        let libraries = |of: &str| format!("$(ldd {of} | grep -o '/[^ :]*' | sort -u)");
        sh(&format!("cp -L --parents {programs} {} {root}", libraries(&programs)));
        // nft is for firewall4 and the maintainer scripts: a service does not find it.
        let nft = "$(command -v nft)";
        sh(&format!("cp -L --parents {} {root} && mkdir {root}{NFT} && cp -L {nft} {root}{NFT}/nft", libraries(nft)));
        for family in ["iptables", "ip6tables"] {
            for verb in ["", "-save", "-restore"] {
                for (infix, variant) in [("", router.variant), ("-nft", Variant::Nft), ("-legacy", Variant::Legacy)] {
                    let link = router.root.join(format!("usr/sbin/{family}{infix}{verb}"));
                    if router.variant != Variant::Netlink {
                        symlink(format!("xtables-{}-multi", variant.infix()), link).unwrap();
                    }
                }
            }
        }
        let firewall = if router.variant == Variant::Legacy { "firewall3" } else { "firewall4" };
        for (file, place) in [
            ("rc.common", "etc/rc.common"),
            ("functions.sh", "lib/functions.sh"),
            (firewall, "etc/init.d/firewall"),
            ("uci", "sbin/uci"),
            ("ubus", "bin/ubus"),
            ("jsonfilter", "usr/bin/jsonfilter"),
            ("procd", "sbin/procd"),
            ("hotplug-call", "sbin/hotplug-call"),
            ("firewall.hotplug", "etc/hotplug.d/iface/20-firewall"),
        ] {
            fs::copy(format!("{ROOT}/tests/openwrt/system/{file}"), router.root.join(place)).unwrap();
        }
        symlink("../etc/init.d/firewall", router.root.join("sbin/fw3")).unwrap();
        if router.variant != Variant::Legacy {
            router.with_firewall4();
        }
        router.write("etc/config/firewall", "");
        router.write("etc/os-release", "NAME=\"OpenWrt\"\nID=\"openwrt\"\nID_LIKE=\"lede openwrt\"\n");
        router.write("etc/protocols", "tcp 6 TCP\n");
        router
    }

    /// Unpacks the package.
    fn unpack(&self, by: By) {
        let dir = tempfile::tempdir().unwrap();
        let (dir, root) = (dir.path().display(), self.root.display());
        let kept = fs::read(self.root.join(CONFIG));
        let scripts = match by {
            By::Opkg => {
                let package = package::ipk(HERE);
                sh(&format!("tar -xzf '{}' -C {dir} && mkdir {dir}/control", package.display()));
                sh(&format!("tar -xzf {dir}/data.tar.gz -C {root} && tar -xzf {dir}/control.tar.gz -C {dir}/control"));
                let info = self.root.join(INFO);
                sh(&format!(
                    "tar -tzf {dir}/data.tar.gz | sed -n 's,^\\./\\(.*[^/]\\)$,/\\1,p' >{}/paraglider.list",
                    info.display()
                ));
                info
            }
            By::Apk => {
                package::apk_tree(HERE, &format!("{dir}/apk"));
                sh(&format!(
                    "cp -a --remove-destination {dir}/apk/data/. {root} && mv {dir}/apk/control {dir}/control"
                ));
                self.root.join(APK)
            }
        };
        for script in fs::read_dir(format!("{dir}/control")).unwrap().map(|entry| entry.unwrap()) {
            let name = format!("paraglider.{}", script.file_name().to_string_lossy());
            fs::copy(script.path(), scripts.join(name)).unwrap();
        }
        // A conffile that was changed stays.
        if let Ok(config) = kept {
            fs::write(self.root.join(CONFIG), config).unwrap();
        }
    }

    /// Removes the files of the package, but not the config.
    fn remove_files(&self, by: By) {
        let list = match by {
            By::Opkg => format!("{INFO}/paraglider.list"),
            By::Apk => "lib/apk/packages/paraglider.list".to_owned(),
        };
        for file in fs::read_to_string(self.root.join(list)).unwrap().lines() {
            if !file.ends_with(CONFIG) {
                let _ = fs::remove_file(self.root.join(&file[1..]));
            }
        }
    }

    /// Installs it as opkg does.
    pub fn install(&self) -> Done {
        self.install_by(By::Opkg)
    }

    /// Installs it.
    pub fn install_by(&self, by: By) -> Done {
        self.unpack(by);
        match by {
            By::Opkg => self.script("postinst", false),
            By::Apk => self.apk_script("post-install"),
        }
    }

    /// Puts it in the place of the one that is installed: what opkg does before that, which has the old one ended.
    pub fn begin_upgrade(&self) {
        assert_eq!(self.script("prerm", true).code, 0);
        assert_eq!(self.script("postrm", true).code, 0);
        self.remove_files(By::Opkg);
    }

    /// And what opkg does after that.
    pub fn end_upgrade(&self) -> Done {
        self.unpack(By::Opkg);
        self.is_newer();
        self.script("postinst", true)
    }

    /// Makes another program of the one that has been unpacked.
    fn is_newer(&self) {
        let times = self.versions.get() + 1;
        self.versions.set(times);
        let program = self.root.join("usr/sbin/paraglider");
        sh(&format!("printf %{times}s >>{}", program.display()));
    }

    /// Puts it in the place of the one that is installed. apk has nothing to say to the old one.
    pub fn upgrade(&self, by: By) -> Done {
        if by == By::Opkg {
            self.begin_upgrade();
            return self.end_upgrade();
        }
        self.unpack(by);
        self.is_newer();
        self.apk_script("post-upgrade")
    }

    /// Removes it as opkg does.
    pub fn remove(&self) {
        self.remove_by(By::Opkg);
    }

    /// Removes it.
    pub fn remove_by(&self, by: By) {
        let run = |opkg, apk| match by {
            By::Opkg => self.script(opkg, false),
            By::Apk => self.apk_script(apk),
        };
        let before = run("prerm", "pre-deinstall");
        assert_eq!(before.code, 0, "{}", before.err);
        self.remove_files(by);
        let after = run("postrm", "post-deinstall");
        assert_eq!(after.code, 0, "{}", after.err);
        let lists = "lib/apk/packages";
        sh(&format!("cd {} && rm -f {INFO}/paraglider.* {APK}/paraglider.* {lists}/paraglider.*", self.root.display()));
    }

    /// Which iptables it has.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Puts firewall4 in the place of its firewall.
    pub fn with_firewall4(&self) {
        fs::copy(format!("{ROOT}/tests/openwrt/system/firewall4"), self.root.join("etc/init.d/firewall")).unwrap();
        let _ = symlink("../etc/init.d/firewall", self.root.join("sbin/fw4"));
    }

    /// Installs into the root of an image, as a build system does; the router itself is the machine that builds.
    pub fn image(&self) -> PathBuf {
        let image = self.root.join("image");
        fs::create_dir(&image).unwrap();
        let dir = tempfile::tempdir().unwrap();
        sh(&format!("tar -xzf '{}' -C {}", package::ipk(HERE).display(), dir.path().display()));
        sh(&format!("tar -xzf {}/data.tar.gz -C {}", dir.path().display(), image.display()));
        let info = image.join("usr/lib/opkg/info");
        sh(&format!("mkdir -p {0} && tar -xzf {1}/control.tar.gz -C {0}", info.display(), dir.path().display()));
        for file in ["postinst", "postinst-pkg"] {
            fs::rename(info.join(file), info.join(format!("paraglider.{file}"))).unwrap();
        }
        fs::write(info.join("paraglider.list"), "/etc/init.d/paraglider\n/etc/uci-defaults/60-paraglider\n").unwrap();
        for file in ["lib/functions.sh", "etc/rc.common"] {
            fs::copy(self.root.join(file), image.join(file)).unwrap();
        }
        self.ok("IPKG_INSTROOT=/image /bin/sh /image/usr/lib/opkg/info/paraglider.postinst");
        image
    }

    /// What a sysupgrade to an image without the package leaves of it, after the reboot that it ends with.
    pub fn sysupgrade_without_it(&self) {
        let root = self.root.display();
        let kept = sh(&format!("cat {root}/lib/upgrade/keep.d/*"));
        for file in kept.lines() {
            sh(&format!("cd {root} && mkdir -p kept && cp -a --parents .{file} kept"));
        }
        self.remove_files(By::Opkg);
        sh(&format!("cd {root} && cp -a kept/. . && rm -rf kept {INFO}/* etc/rc.d tmp/run/* && nft flush ruleset"));
        if self.variant == Variant::Legacy {
            sh("iptables-legacy -F && iptables-legacy -t nat -F");
        }
    }

    /// Runs a maintainer script of the package as opkg does.
    pub fn script(&self, name: &str, upgrade: bool) -> Done {
        let flag = u8::from(upgrade);
        self.run(&format!("PKG_UPGRADE={flag} PATH=$PATH:{NFT} /bin/sh /{INFO}/paraglider.{name}"))
    }

    /// The same as apk does.
    fn apk_script(&self, name: &str) -> Done {
        self.run(&format!("PATH=$PATH:{NFT} /bin/sh /{APK}/paraglider.{name}"))
    }

    /// Boots it: all that the init scripts print is in the log.
    pub fn boot(&self) {
        self.ok("/sbin/procd boot");
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("/usr/sbin/chroot");
        command.arg(&self.root).args(["/bin/ash", "-c", line]).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("XTABLES_LOCKFILE", "/var/run/xtables.lock");
        command
    }

    /// Runs a line on the router.
    pub fn run(&self, line: &str) -> Done {
        let Output { status, stdout, stderr } = self.command(line).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
    }

    /// Starts a line on the router.
    pub fn begin(&self, line: &str) -> Child {
        self.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Runs a line that must succeed.
    pub fn ok(&self, line: &str) -> String {
        let Done { code, out, err } = self.run(line);
        assert_eq!(code, 0, "{line}\n{out}{err}");
        out
    }

    /// `/etc/init.d/paraglider WORD`
    pub fn service(&self, word: &str) -> Done {
        self.run(&format!("/etc/init.d/paraglider {word}"))
    }

    pub fn write(&self, file: &str, text: &str) {
        if text.contains("[fd") {
            needs_ipv6();
        }
        fs::write(self.root.join(file), text).unwrap();
    }

    /// Writes the config of a frontend over these backends.
    pub fn balance(&self, backends: &[u8]) {
        let list: String = backends.iter().map(|n| format!("    - 10.2.0.1{n}:80\n")).collect();
        let yaml = format!("frontend:\n  bind: 10.9.0.1:4444\n  privateip: 10.2.0.1\n  backends:\n{list}");
        self.write("etc/paraglider/glider.yaml", &yaml);
    }

    /// The processes of Paraglider's program, without children that have not yet executed another program.
    pub fn processes(&self) -> Vec<u32> {
        let program = self.root.join("usr/sbin/paraglider");
        let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let runs = |n: &u32| {
            // The kernel adds ` (deleted)` to the name of one that was replaced meanwhile.
            let exe = fs::read_link(format!("/proc/{n}/exe")).unwrap_or_default();
            exe.to_string_lossy().starts_with(&*program.to_string_lossy())
        };
        let all: Vec<u32> = numbers.filter(runs).collect();
        let is_child = |n: &u32| {
            let status = fs::read_to_string(format!("/proc/{n}/status")).unwrap_or_default();
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
            parent.is_some_and(|parent: u32| all.contains(&parent))
        };
        all.iter().copied().filter(|n| !is_child(n)).collect()
    }

    /// Waits until exactly `processes` processes of the program run; at most 15 s.
    pub fn settles(&self, processes: usize) {
        let since = Instant::now();
        while self.processes().len() != processes {
            assert!(since.elapsed() < Duration::from_secs(15), "{:?}", self.processes());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the log has got since it was last asked for; each line begins with its priority.
    pub fn log(&self) -> String {
        // What is before it in the queue has been read when this empty line comes out.
        UnixDatagram::unbound().unwrap().send_to(b"", self.root.join("dev/log")).unwrap();
        self.syslog.iter().take_while(|line| !line.is_empty()).map(|line| line + "\n").collect()
    }

    /// All that is on the flash, without the config: each file with its content.
    pub fn flash(&self) -> String {
        sh(&format!(
            "cd {} && find etc usr bin sbin lib -type f ! -name glider.yaml | sort | xargs sha256sum",
            self.root.display()
        ))
    }

    pub fn exists(&self, file: &str) -> bool {
        self.root.join(file).symlink_metadata().is_ok()
    }

    /// Whether a file can be run by its owner.
    pub fn is_executable(&self, file: &str) -> bool {
        Path::metadata(&self.root.join(file)).is_ok_and(|file| file.permissions().mode() & 0o100 != 0)
    }
}

impl Drop for Router {
    /// What procd keeps running would outlive the test.
    fn drop(&mut self) {
        let keeper = fs::read_to_string(self.root.join("tmp/run/procd-paraglider/keeper")).unwrap_or_default();
        let numbers = self.processes().into_iter().chain(keeper.trim().parse());
        for number in numbers.filter_map(|number| i32::try_from(number).ok()) {
            let _ = kill(Pid::from_raw(number), Signal::SIGKILL);
        }
    }
}
