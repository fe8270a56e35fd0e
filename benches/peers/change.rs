//! What a change of the rules costs: time, CPU and memory, against one run of iptables for each rule.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::lab::{sh, Lab};
use crate::setup::{self, backend};
use crate::Figures;

/// Wall and CPU milliseconds, and the peak memory in KiB of the largest process among the program and its children.
#[allow(unsafe_code, clippy::zombie_processes)] // wait4 waits
fn cost(command: &mut Command) -> (f64, f64, f64) {
    let since = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id().try_into().unwrap();
    let mut status = 0;
    // SAFETY: an all-zero rusage is valid, and both pointers outlive the call.
    let mut usage: nix::libc::rusage = unsafe { std::mem::zeroed() };
    let waited = unsafe { nix::libc::wait4(pid, &mut status, 0, &mut usage) };
    let wall = since.elapsed().as_secs_f64() * 1e3;
    assert!(waited == pid && status == 0, "{command:?}: {status}");
    let ms = |time: nix::libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    (wall, ms(usage.ru_utime) + ms(usage.ru_stime), usage.ru_maxrss as f64)
}

/// start, unchanged start, reload and stop, and one bare iptables-restore of the same text.
pub fn paraglider(lab: &Lab, n: usize) -> Figures {
    sh("sysctl -qw net.ipv4.ip_forward=1");
    let mut figures = Figures::new();
    let mut note = |name: &str, (wall, cpu, peak): (f64, f64, f64)| {
        figures.insert(format!("{name}_ms"), wall);
        figures.insert(format!("{name}_cpu_ms"), cpu);
        figures.insert(format!("{name}_peak_kib"), peak);
    };
    setup::config(lab, n, "10.2.0.1");
    // Whatever the kernel does once is done.
    lab.ok("start");
    lab.ok("stop");
    note("start", cost(&mut lab.command("start")));
    note("unchanged", cost(&mut lab.command("start")));
    let other = if n < 1024 { n + 1 } else { n - 1 };
    setup::config(lab, other, "10.2.0.1");
    note("reload", cost(&mut lab.command("reload")));
    note("stop", cost(&mut lab.command("stop")));
    setup::config(lab, n, "10.2.0.1");
    std::fs::write(lab.path("rules"), lab.ok("print")).unwrap();
    let restore = format!("exec iptables-restore --noflush < {}", lab.path("rules").display());
    note("bare", cost(Command::new("/bin/sh").args(["-c", &restore])));
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
        cost(Command::new("/bin/sh").arg(lab.path("rules.sh")))
    };
    let (start, cpu, _) = rules("-A");
    let (stop, _, _) = rules("-D");
    Figures::from([("start_ms".into(), start), ("start_cpu_ms".into(), cpu), ("stop_ms".into(), stop)])
}
