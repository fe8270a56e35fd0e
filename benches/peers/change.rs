//! What a change of the rules costs: time, CPU and memory, against one run of iptables for each rule.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::lab::{self, sh, Lab, Variant};
use crate::setup::{self, backend};
use crate::Figures;

/// What a run of a program costs.
pub struct Cost {
    /// Milliseconds.
    pub wall: f64,
    /// Milliseconds of the program and its children.
    pub cpu: f64,
    /// KiB, of the largest process among the program and its children.
    pub peak: f64,
}

/// Runs a command that must succeed. `alone`: it runs no programs, so its peak is its own. The kernel's record of the
/// largest process begins with this bench, from which it was forked, and that is larger than Paraglider is.
#[allow(unsafe_code, clippy::zombie_processes)] // wait4 waits
fn cost(command: &mut Command, alone: bool) -> Cost {
    use nix::libc::{self, ptrace};
    let since = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let traced = || match unsafe { ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    if alone {
        // SAFETY: one system call, between fork and exec.
        unsafe { command.pre_exec(traced) };
    }
    let pid = command.spawn().unwrap().id().try_into().unwrap();
    let (mut status, mut own) = (0, None);
    // SAFETY: an all-zero rusage is valid, all pointers outlive the calls, and ptrace is told of a child of ours.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        assert_eq!(unsafe { libc::wait4(pid, &mut status, 0, &mut usage) }, pid, "{command:?}");
        if !libc::WIFSTOPPED(status) {
            break;
        }
        let mut signal = libc::WSTOPSIG(status);
        if signal == libc::SIGTRAP {
            // It has just become the program, or is about to end and still has its memory.
            own = peak(pid);
            unsafe { ptrace(libc::PTRACE_SETOPTIONS, pid, 0, libc::PTRACE_O_TRACEEXIT) };
            signal = 0;
        }
        unsafe { ptrace(libc::PTRACE_CONT, pid, 0, signal) };
    }
    let wall = since.elapsed().as_secs_f64() * 1e3;
    assert_eq!(status, 0, "{command:?}");
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    Cost { wall, cpu: ms(usage.ru_utime) + ms(usage.ru_stime), peak: own.unwrap_or(usage.ru_maxrss as f64) }
}

/// Peak resident memory of a process, in KiB.
fn peak(pid: i32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Tells of start, unchanged start, reload and stop.
pub fn each(lab: &Lab, n: usize, note: &mut dyn FnMut(&str, Cost)) {
    sh("sysctl -qw net.ipv4.ip_forward=1");
    setup::config(lab, n, "10.2.0.1");
    // Whatever the kernel does once is done.
    lab.ok("start");
    lab.ok("stop");
    let mut note = |name, words| note(name, cost(&mut lab.command(words), lab.variant == Variant::Netlink));
    note("start", "start");
    note("unchanged", "start");
    let other = if n < 1024 { n + 1 } else { n - 1 };
    setup::config(lab, other, "10.2.0.1");
    note("reload", "reload");
    note("stop", "stop");
}

/// [`each`], and the same text by iptables-restore or nft alone.
pub fn paraglider(lab: &Lab, n: usize) -> Figures {
    let mut figures = Figures::new();
    let mut note = |name: &str, Cost { wall, cpu, peak }: Cost| {
        figures.insert(format!("{name}_ms"), wall);
        figures.insert(format!("{name}_cpu_ms"), cpu);
        figures.insert(format!("{name}_peak_kib"), peak);
    };
    each(lab, n, &mut note);
    setup::config(lab, n, "10.2.0.1");
    std::fs::write(lab.path("rules"), lab.ok("print")).unwrap();
    let program = if lab.variant == Variant::Netlink { "nft -f -" } else { "iptables-restore --noflush" };
    note("bare", cost(&mut lab::shell(&format!("exec {program} < {}", lab.path("rules").display())), false));
    figures
}

/// As the original does: a run of iptables for each DNAT rule and each SNAT rule, and again to take them away.
pub fn one_run_per_rule(lab: &Lab, n: usize) -> Figures {
    let _ = lab;
    let rules = |flag: &str| {
        let mut lines = String::new();
        for i in 0..n {
            let every = match n - i {
                1 => String::new(),
                rest => format!("-m statistic --mode nth --every {rest} --packet 0 "),
            };
            lines.push_str(&format!(
                "iptables -t nat {flag} PREROUTING -p tcp -d 10.9.0.1 --dport 4444 {every}-j DNAT --to-destination {0}:80\n\
                 iptables -t nat {flag} POSTROUTING -p tcp -d {0} --dport 80 -j SNAT --to-source 10.2.0.1\n",
                backend(i)
            ));
        }
        std::fs::write(lab.path("rules.sh"), format!("set -e\n{lines}")).unwrap();
        cost(Command::new("/bin/sh").arg(lab.path("rules.sh")), false)
    };
    let (start, stop) = (rules("-A"), rules("-D"));
    Figures::from([("start_ms".into(), start.wall), ("start_cpu_ms".into(), start.cpu), ("stop_ms".into(), stop.wall)])
}
