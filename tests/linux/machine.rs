//! A machine of one's own, with systemd as process 1; see the script beside. Its network is the laboratory's balancer.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::lab::{run, serve, Lab, Variant};
use crate::{deb, ROOT};

const PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// How long systemd may take to boot.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Machine {
    dir: PathBuf,
    running: Option<Child>,
}

impl Machine {
    /// The files of this system, iptables being of the laboratory's variant, or not installed; or why that cannot be had
    /// here.
    pub fn new(lab: &Lab) -> Result<Self, String> {
        if fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().nth(2) != Some("4294967295"))
        {
            return Err("a systemd of one's own needs root".into());
        }
        for file in ["/lib/systemd/systemd", "/usr/bin/dpkg", "/usr/bin/deb-systemd-helper"] {
            fs::metadata(file).map_err(|_| format!("{file} is missing"))?;
        }
        let dir = lab.path("machine");
        let variant = if lab.variant == Variant::Netlink { "none" } else { lab.variant.infix() };
        let output = run(script(), &["prepare", &dir.display().to_string(), variant]);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().into());
        }
        Ok(Machine { dir, running: None })
    }

    /// The same with our package in /var/tmp/p.deb, and backends that serve.
    pub fn with_package(lab: &Lab) -> Result<Self, String> {
        let machine = Self::new(lab)?;
        let package = deb::build("amd64", &lab.path("tree"));
        fs::copy(package, machine.path("/var/tmp/p.deb")).unwrap();
        for backend in ["b1", "b2", "b3"] {
            serve(backend, 80);
        }
        Ok(machine)
    }

    /// A file of the machine's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join("root").join(name.trim_start_matches('/'))
    }

    /// Boots, and waits until all is up; or why systemd cannot even be begun here.
    pub fn boot(&mut self) -> Result<(), String> {
        let log = self.dir.join("console");
        let console = fs::File::create(&log).unwrap();
        let mut command = Command::new(script());
        command.arg("boot").arg(&self.dir).stdin(Stdio::null());
        command.stdout(console.try_clone().unwrap()).stderr(console);
        let mut child = command.spawn().unwrap();
        let since = Instant::now();
        let said = || fs::read_to_string(&log).unwrap();
        while !self.dir.join("booting").exists() {
            if child.try_wait().unwrap().is_some() {
                return Err(said().trim().into());
            }
            sleep(Duration::from_millis(20));
        }
        self.running = Some(child);
        while !self.path("/run/systemd/private").exists() {
            assert!(since.elapsed() < PATIENCE, "systemd does not come up:\n{}", said());
            sleep(Duration::from_millis(50));
        }
        // Its answer says whether a unit has failed, which is not what is asked here.
        self.sh("timeout 60 systemctl is-system-running --wait");
        Ok(())
    }

    /// A line of words on the machine: whether it succeeded, and what it said.
    pub fn sh(&self, line: &str) -> (bool, String) {
        let output = match &self.running {
            Some(child) => {
                let children = format!("/proc/{0}/task/{0}/children", child.id());
                let first = fs::read_to_string(children).unwrap().split_whitespace().next().unwrap().to_owned();
                let words =
                    ["-t", &first, "-m", "-p", "-C", "-i", "-u", "-r", "-w", "env", "-i", PATH, "sh", "-c", line];
                run("/usr/bin/nsenter", &words)
            }
            None => {
                let root = self.dir.join("root").display().to_string();
                run("/usr/sbin/chroot", &[&root, "env", "-i", PATH, "sh", "-c", line])
            }
        };
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text.into_owned())
    }

    /// The same, which must succeed.
    pub fn ok(&self, line: &str) -> String {
        let (done, text) = self.sh(line);
        assert!(done, "{line}\n{text}\n{}", self.journal());
        text
    }

    /// What the unit said.
    pub fn journal(&self) -> String {
        self.sh("journalctl --no-pager --output=cat --unit=paraglider").1
    }

    /// A power failure: nothing is stopped in order.
    pub fn power_off(&mut self) {
        let Some(mut child) = self.running.take() else { return };
        let _ = child.kill();
        let _ = child.wait();
        let _ = fs::remove_file(self.dir.join("booting"));
        // The groups are empty as soon as the kernel has buried all processes.
        let group = self.dir.join(format!("cgroup/paraglider-machine-{}", child.id()));
        let since = Instant::now();
        while group.exists() && since.elapsed() < Duration::from_secs(5) {
            run("/usr/bin/find", &[&group.display().to_string(), "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
            sleep(Duration::from_millis(50));
        }
        run("/usr/bin/umount", &[&self.dir.join("cgroup").display().to_string()]);
        // What was in memory is gone, and so are the rules.
        run("/usr/bin/umount", &[&self.path("/run").display().to_string()]);
        run("/usr/bin/mount", &["-t", "tmpfs", "run", &self.path("/run").display().to_string()]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off();
        // Otherwise removing the directory would go through all files of this system.
        run("/usr/bin/umount", &["--recursive", "--lazy", &self.dir.display().to_string()]);
    }
}

fn script() -> String {
    format!("{ROOT}/tests/linux/machine")
}
