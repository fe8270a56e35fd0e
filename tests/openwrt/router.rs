//! A router: a root directory with busybox and the stand-ins, and perhaps iptables, in which the package is installed.

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::lab::{needs_ipv6, sh, tool, Lab, Variant};
use crate::{package, HERE, ROOT};

/// Where the router's nft is.
const NFT: &str = "/usr/libexec";

/// A router in a laboratory, of which it is the balancer.
pub struct Router {
    root: PathBuf,
    variant: Variant,
    syslog: Receiver<String>,
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
        let router = Router { root, variant: lab.variant, syslog };
        let root = router.root.display();
        for dir in [
            "bin",
            "sbin",
            "usr/sbin",
            "usr/bin",
            "usr/lib/opkg/info",
            "etc/init.d",
            "etc/config",
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
            ("procd", "sbin/procd"),
        ] {
            fs::copy(format!("{ROOT}/tests/openwrt/system/{file}"), router.root.join(place)).unwrap();
        }
        router.write("etc/config/firewall", "");
        router.write("etc/protocols", "tcp 6 TCP\n");
        router
    }

    /// Unpacks the package.
    fn unpack(&self) {
        let dir = tempfile::tempdir().unwrap();
        let (package, dir) = (package::ipk(HERE), dir.path());
        sh(&format!("tar -xzf '{}' -C {}", package.display(), dir.display()));
        let kept = fs::read(self.root.join("etc/paraglider/glider.yaml"));
        sh(&format!("tar -xzf {}/data.tar.gz -C {}", dir.display(), self.root.display()));
        // A conffile that was changed stays.
        if let Ok(config) = kept {
            fs::write(self.root.join("etc/paraglider/glider.yaml"), config).unwrap();
        }
        sh(&format!("mkdir {0}/control && tar -xzf {0}/control.tar.gz -C {0}/control", dir.display()));
        for file in ["postinst", "postinst-pkg", "prerm", "prerm-pkg", "postrm"] {
            let place = format!("usr/lib/opkg/info/paraglider.{file}");
            fs::copy(dir.join("control").join(file), self.root.join(place)).unwrap();
        }
    }

    /// Installs it as opkg does.
    pub fn install(&self, upgrade: bool) -> Done {
        self.unpack();
        self.script("postinst", upgrade)
    }

    /// Installs it as apk does: the package's own part of the script comes after the service has been started.
    pub fn install_by_apk(&self) {
        self.unpack();
        let own = self.root.join("usr/lib/opkg/info/paraglider.postinst-pkg");
        let later = own.with_extension("later");
        fs::rename(own, later).unwrap();
        assert_eq!(self.script("postinst", false).code, 0);
        assert_eq!(self.script("later", false).code, 0);
    }

    /// Removes the package as opkg does.
    pub fn remove(&self) {
        assert_eq!(self.script("prerm", false).code, 0);
        for file in ["init.d/paraglider", "uci-defaults/60-paraglider"] {
            let _ = fs::remove_file(self.root.join("etc").join(file));
        }
        for dir in ["usr/share/paraglider", "usr/share/nftables.d"] {
            fs::remove_dir_all(self.root.join(dir)).unwrap();
            if dir.ends_with("nftables.d") {
                fs::create_dir_all(self.root.join(dir).join("chain-pre/forward")).unwrap();
                fs::create_dir_all(self.root.join(dir).join("table-post")).unwrap();
            }
        }
        fs::remove_file(self.root.join("usr/sbin/paraglider")).unwrap();
        assert_eq!(self.script("postrm", false).code, 0);
    }

    /// Which iptables it has.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Puts firewall4 in the place of its firewall.
    pub fn with_firewall4(&self) {
        fs::copy(format!("{ROOT}/tests/openwrt/system/firewall4"), self.root.join("etc/init.d/firewall")).unwrap();
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
        fs::create_dir(image.join("lib")).unwrap();
        for file in ["lib/functions.sh", "etc/rc.common"] {
            fs::copy(self.root.join(file), image.join(file)).unwrap();
        }
        self.ok("IPKG_INSTROOT=/image /bin/sh /image/usr/lib/opkg/info/paraglider.postinst");
        image
    }

    /// Runs a maintainer script of the package.
    pub fn script(&self, name: &str, upgrade: bool) -> Done {
        let flag = if upgrade { "PKG_UPGRADE=1" } else { "" };
        self.run(&format!("{flag} PATH=$PATH:{NFT} /bin/sh /usr/lib/opkg/info/paraglider.{name}"))
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
