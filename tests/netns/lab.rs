//! A laboratory of network namespaces: a client, the balancer, three backends (and what a test adds), with addresses of
//! their own, real TCP and the machine's own iptables. Nothing of it touches the host's network.
//!
//! [`entrance`] starts this very program again inside namespaces of its own (`unshare`), where it is the balancer and may
//! do anything; without root it takes a user namespace. All goes when the program ends.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, OnceLock};
use std::thread;
use std::time::Duration;

use nix::sched::{setns, CloneFlags};

/// Set in the program that runs inside.
const INSIDE: &str = "PARAGLIDER_LAB";

/// How long one connection may take before it counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// What a laboratory's host has for Paraglider to write rules with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// iptables-nft.
    Nft,
    /// iptables-legacy.
    Legacy,
    /// The kernel alone: Paraglider finds neither iptables nor nft and writes nftables by netlink. The story has both, for
    /// the rules of others: its `iptables` is iptables-nft.
    Netlink,
}

impl Variant {
    /// How Paraglider calls the engine.
    pub fn engine(self) -> &'static str {
        match self {
            Variant::Nft => "iptables-nft",
            Variant::Legacy => "iptables-legacy",
            Variant::Netlink => "nftables",
        }
    }

    /// The part of the names of iptables' programs.
    pub fn infix(self) -> &'static str {
        match self {
            Variant::Nft | Variant::Netlink => "nft",
            Variant::Legacy => "legacy",
        }
    }

    /// The variant of iptables that the story's `iptables` is not.
    pub fn other(self) -> Self {
        match self {
            Variant::Nft | Variant::Netlink => Variant::Legacy,
            Variant::Legacy => Variant::Nft,
        }
    }
}

/// The command that runs this program again inside, with `arguments`; nothing if it is inside already.
pub fn entrance(arguments: &[&str]) -> Option<Command> {
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let mut command = unshare();
    command.arg(std::env::current_exe().unwrap()).args(arguments).env(INSIDE, "1");
    Some(command)
}

/// What runs a program in namespaces of its own.
fn unshare() -> Command {
    let mut unshare = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        // First the user namespace by itself: a network namespace that is made together with it belongs to nobody, and
        // some of its files in /proc cannot be read.
        unshare.args(["-Ur", "--", "unshare"]);
    }
    // The child dies with the parent, and so does all that it started.
    unshare.args(["-nm", "--fork", "--kill-child", "--"]);
    unshare
}

/// Why no laboratory can be made, if that is so: what a user may do differs from system to system.
pub fn forbidden() -> Option<&'static str> {
    let allowed = unshare().arg("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    match nix::unistd::geteuid().is_root() {
        _ if allowed => None,
        true => Some("this system lets not even root make namespaces (a container without CAP_SYS_ADMIN?)"),
        false => Some("this system lets only root make namespaces: run it as root, as in sudo make demo"),
    }
}

/// Said by a story that cannot go on because the host has no IPv6.
pub const NO_IPV6: &str = "skipped: no IPv6";

static IPV6: AtomicBool = AtomicBool::new(true);

/// Ends the story here where the host has no IPv6; see [`NO_IPV6`].
pub fn needs_ipv6() {
    assert!(IPV6.load(Ordering::Relaxed), "{NO_IPV6}");
}

/// A program that tests/setup has found on this host or fetched.
pub fn tool(name: &str) -> PathBuf {
    Path::new(TOOLS).join(name)
}

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/bin");

/// Names another program under test than the one that cargo has built for this machine.
pub const PROGRAM: &str = "PARAGLIDER_PROGRAM";

/// The program under test: cargo tells the tests where it is, and to the demo it is a neighbour.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os(PROGRAM) {
        return path.into();
    }
    match option_env!("CARGO_BIN_EXE_paraglider") {
        Some(path) => path.into(),
        None => std::env::current_exe().unwrap().parent().unwrap().with_file_name("paraglider"),
    }
}

/// Runs a program to its end.
pub fn run(program: impl AsRef<Path>, arguments: &[&str]) -> Output {
    let program = program.as_ref();
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()))
}

/// Programs that a story has and Paraglider has not; see [`Variant::Netlink`].
static OF_THE_STORY: OnceLock<PathBuf> = OnceLock::new();

/// A command for a line of words, with all the programs of the story.
pub fn shell(line: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).stdin(Stdio::null());
    if let Some(dir) = OF_THE_STORY.get() {
        command.env("PATH", format!("{}:{}", dir.display(), std::env::var("PATH").unwrap()));
    }
    command
}

/// Runs a line of words that must succeed; returns what it printed.
pub fn sh(line: &str) -> String {
    let output = shell(line).output().unwrap_or_else(|error| panic!("cannot run /bin/sh: {error}"));
    if !output.status.success() && line.contains(" -6 ") {
        needs_ipv6();
    }
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Does something inside another namespace of the laboratory, on a thread of its own.
pub fn inside<T: Send + 'static>(host: &str, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    let namespace = File::open(format!("/run/netns/{host}")).unwrap_or_else(|error| panic!("{host}: {error}"));
    thread::spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

/// The laboratory. The program itself is the balancer.
pub struct Lab {
    pub variant: Variant,
    dir: tempfile::TempDir,
}

impl Lab {
    /// Nothing but the programs.
    pub fn bare(variant: Variant) -> Self {
        assert!(std::env::var_os(INSIDE).is_some(), "only inside");
        let dir = tempfile::tempdir().unwrap();
        sh("mount -t tmpfs lab /run && mkdir /run/netns && ip link set lo up");
        // Stand-ins for programs lie there, and the host may have mounted its own with noexec.
        sh(&format!("mount -t tmpfs lab '{}'", dir.path().display()));
        // The variant under test is the one that `iptables` is.
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let path = format!("/usr/sbin:/usr/bin:/sbin:/bin:{TOOLS}");
        if variant == Variant::Netlink {
            hide_programs(dir.path(), &bin);
            std::env::set_var("PATH", path);
            OF_THE_STORY.set(bin).unwrap();
        } else {
            for family in ["iptables", "ip6tables"] {
                for verb in ["", "-save", "-restore"] {
                    let real = format!("/usr/sbin/{family}-{}{verb}", variant.infix());
                    assert!(Path::new(&real).exists(), "{real} is missing: apt install iptables");
                    symlink(real, bin.join(format!("{family}{verb}"))).unwrap();
                }
            }
            std::env::set_var("PATH", format!("{}:{path}", bin.display()));
        }

        let lab = Lab { variant, dir };
        // As on a router; where bridges hand packets to iptables, `check` says what that breaks.
        for file in ["iptables", "ip6tables"].map(|tool| format!("/proc/sys/net/bridge/bridge-nf-call-{tool}")) {
            if Path::new(&file).exists() {
                fs::write(file, "0").unwrap();
            }
        }
        lab
    }

    /// A client (10.1.0.2), the balancer (10.1.0.1, bind 10.9.0.1, and 10.2.0.1) and backends 10.2.0.11, .12, .13,
    /// in three networks; the same in IPv6 (fd01::2, fd01::1, fd09::1, fd02::1, fd02::11, …) where the host has it.
    pub fn new(variant: Variant) -> Self {
        let lab = Self::bare(variant);
        let probe = run("ip", &["-6", "addr", "add", "fd09::1/128", "dev", "lo", "nodad"]);
        IPV6.store(probe.status.success(), Ordering::Relaxed);
        sh("ip link add lan type bridge && ip link set lan up && ip addr add 10.2.0.1/24 dev lan");
        sh("ip addr add 10.9.0.1/32 dev lo");
        host("client");
        sh("ip link add wan type veth peer name eth0 netns client && ip link set wan up && ip addr add 10.1.0.1/24 dev wan");
        sh("ip -n client addr add 10.1.0.2/24 dev eth0 && ip -n client link set eth0 up");
        sh("ip -n client route add default via 10.1.0.1");
        six("ip -6 addr add fd02::1/64 dev lan nodad && ip -6 addr add fd01::1/64 dev wan nodad");
        six("ip -n client -6 addr add fd01::2/64 dev eth0 nodad && ip -n client -6 route add default via fd01::1");
        for n in 1..=3 {
            lab.add_backend(n);
        }
        lab
    }

    /// Backend number n: host `b1`, 10.2.0.11, fd02::11. It has no default route: only through SNAT can it answer the
    /// client, unless a test adds one.
    pub fn add_backend(&self, n: u8) {
        let name = format!("b{n}");
        host(&name);
        sh(&format!("ip link add v{n} type veth peer name eth0 netns {name} && ip link set v{n} master lan up"));
        sh(&format!("ip -n {name} addr add 10.2.0.1{n}/24 dev eth0 && ip -n {name} link set eth0 up"));
        six(&format!("ip -n {name} -6 addr add fd02::1{n}/64 dev eth0 nodad"));
    }

    /// A file of the laboratory's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the config.
    pub fn config(&self, yaml: &str) {
        if yaml.contains("[fd") {
            needs_ipv6();
        }
        fs::write(self.path("glider.yaml"), yaml).unwrap();
    }

    /// The usual config, over the given backends.
    pub fn balance(&self, backends: &[u8]) {
        let list: String = backends.iter().map(|n| format!("    - 10.2.0.1{n}:80\n")).collect();
        self.config(&format!("frontend:\n  bind: 10.9.0.1:4444\n  privateip: 10.2.0.1\n  backends:\n{list}"));
    }

    /// Puts an engine into the config, in the place of the one that is there.
    pub fn engine(&self, engine: &str) {
        let yaml = fs::read_to_string(self.path("glider.yaml")).unwrap();
        let rest = yaml
            .strip_prefix("engine: ")
            .and_then(|rest| rest.split_once('\n'))
            .map_or(yaml.as_str(), |(_, rest)| rest);
        self.config(&format!("engine: {engine}\n{rest}"));
    }

    /// A command with Paraglider and this laboratory's config.
    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new(program());
        command.arg("-config").arg(self.path("glider.yaml")).args(words.split_whitespace());
        command.env_remove("SSH_CONNECTION").stdin(Stdio::null());
        command
    }

    /// The same as on a kernel without ctnetlink (CONFIG_NF_CT_NETLINK) for as long as the file `deaf` of the laboratory
    /// exists. `None` where that cannot be done.
    pub fn deaf(&self, words: &str) -> Option<Command> {
        self.deaf_of(&self.command(words))
    }

    /// The same for any command.
    pub fn deaf_of(&self, of: &Command) -> Option<Command> {
        let script = self.path("deaf.py");
        fs::write(&script, include_str!("deaf.py")).unwrap();
        let through = |words: &[&std::ffi::OsStr]| {
            let mut command = Command::new("python3");
            command.arg(&script).arg(self.path("deaf")).args(words).stdin(Stdio::null());
            command
        };
        let tried = through(&["true".as_ref()]).stderr(Stdio::null()).status();
        if !tried.is_ok_and(|status| status.success()) {
            println!("skipped: a kernel without ctnetlink: it takes python3 and seccomp_unotify(2)");
            return None;
        }
        let mut command = through(&[of.get_program()]);
        command.args(of.get_args());
        for (name, value) in of.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Some(command)
    }

    /// Runs Paraglider; returns exit status, stdout and stderr.
    pub fn paraglider(&self, words: &str) -> (i32, String, String) {
        let output = self.command(words).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// Runs Paraglider, which must succeed.
    pub fn ok(&self, words: &str) -> String {
        let (code, out, err) = self.paraglider(words);
        assert_eq!(code, 0, "paraglider {words}\n{out}{err}");
        out
    }

    /// All rules in the kernel, without dates: of both variants of iptables and both families, and the tables of nftables
    /// that are not iptables' own; with counters if asked for.
    pub fn saved(&self, counters: bool) -> String {
        let flag = if counters { "-c" } else { "" };
        let mut all = String::new();
        for family in ["iptables", "ip6tables"] {
            for variant in [Variant::Nft, Variant::Legacy] {
                let text = sh(&format!("{family}-{}-save {flag}", variant.infix()));
                let lines = text.lines().filter(|line| !line.starts_with('#'));
                // Policies show their counters in any case.
                let lines = lines.map(|line| if counters { line } else { line.split(" [").next().unwrap() });
                all.extend(lines.map(|line| format!("{family}-{} {line}\n", variant.infix())));
            }
        }
        all.extend(nftables(&sh(&format!("nft {} list ruleset", if counters { "" } else { "-s" }))));
        all
    }

    /// Numbers of our rules in nf_tables, which are others when they have been written again (iptables-legacy has none).
    pub fn handles(&self) -> String {
        sh("nft -a -s list ruleset")
            .lines()
            .filter(|line| line.contains(" # handle "))
            .map(|line| line.trim().to_owned() + "\n")
            .collect()
    }

    /// Starts again, which must write nothing.
    pub fn is_in_force(&self) {
        let before = (self.saved(false), self.handles());
        let (code, _, err) = self.paraglider("-v start");
        assert!(code == 0 && err.contains("already in force") && !err.contains("-restore"), "{err}");
        assert_eq!((self.saved(false), self.handles()), before);
        self.ok("status");
    }

    /// The rules and policies of others, of whatever engine, with their counters.
    pub fn others(&self) -> Vec<String> {
        // Empty tables of iptables may appear; what is in them may not.
        let empty = |line: &str| {
            let unused = line.contains(" :") && (line.ends_with(" ACCEPT") || line.ends_with(" ACCEPT [0:0]"));
            !line.starts_with("nft ") && (line.contains(" *") || line.ends_with("COMMIT") || unused)
        };
        // The counters of the old variant's policies are an exception: libiptc sets them to zero at each change of the
        // table, also at a single `iptables -A` of anybody. To keep them, we would have to write others' policies.
        let policy = |line: &str| match line.split_once(" [") {
            Some((policy, _)) if line.contains("-legacy :") => policy.to_owned(),
            _ => line.to_owned(),
        };
        let is_ours = |line: &str| match line.strip_prefix("nft ") {
            Some(table) => is_our_table(table),
            None => line.contains("PARAGLIDER") && !line.contains("PARAGLIDERS") || line.contains("PG-10"),
        };
        self.saved(true).lines().map(policy).filter(|line| !is_ours(line) && !empty(line)).collect()
    }

    /// Rules of others in each table and each kind of chain, some of them with counters that are not zero: then
    /// [`others`](Self::others) are worth comparing. The client can reach b1.
    pub fn with_rules_of_others(&self) {
        // Neighbour discovery would count packets all the time.
        sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
        for line in [
            "iptables -P FORWARD DROP",
            "iptables -N DOCKER-USER",
            "iptables -A FORWARD -j DOCKER-USER",
            "iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "iptables -A FORWARD -m comment --comment 'see -j PARAGLIDERS' -j DROP",
            "iptables -t nat -N PG-admin",
            "iptables -t nat -A PREROUTING -d 10.9.0.1/32 -p tcp -m tcp --dport 22 -j PG-admin",
            "iptables -t nat -A POSTROUTING -s 10.99.0.0/16 -j MASQUERADE",
            "iptables -t mangle -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
            "ip6tables -A INPUT -p tcp -m tcp --dport 23 -j DROP",
            "nft 'add table inet own; add chain inet own in { type filter hook input priority 5; }; \
             add rule inet own in tcp dport 9 counter; add counter inet own kept'",
        ] {
            sh(line);
        }
        self.let_through();
        sh("sysctl -qw net.ipv4.ip_forward=1");
        // A direct connection, and one to the balancer itself.
        ask_often("client", "10.2.0.11:80", 1);
        ask_often("client", "10.1.0.1:9", 1);
        let others = self.others();
        assert!(others.iter().any(|line| line.contains("-A FORWARD") && !line.contains("[0:0]")), "{others:?}");
        assert!(others.iter().any(|line| line.contains("PG-admin")) && others.len() >= 10, "{others:?}");
        assert!(others.iter().any(|line| line.contains("dport 9 counter packets 1")), "{others:?}");
    }

    /// The lines of [`saved`](Self::saved) that are ours, in whatever engine.
    pub fn ours(&self) -> Vec<String> {
        let ours = |line: &&str| match line.strip_prefix("nft ") {
            Some(table) => is_our_table(table),
            None => line.contains("PARAGLIDER") || line.contains("PG-"),
        };
        self.saved(false).lines().filter(ours).map(str::to_owned).collect()
    }

    /// Whether rules of ours hand new connections to a backend.
    pub fn balances(&self) -> bool {
        self.ours().iter().any(|line| line.contains("-j DNAT") || line.contains("goto backend/"))
    }

    /// Whether rules of ours hand new connections to this backend, `10.2.0.11:80`. In nftables one that is down keeps its
    /// chain, to which no rule leads then.
    pub fn hands_to(&self, backend: &str) -> bool {
        let ours = self.ours();
        let rule = |line: &&String| line.ends_with(&format!(" dnat ip to {backend}"));
        let Some(rule) = ours.iter().find(rule) else {
            return ours.iter().any(|line| line.ends_with(&format!(" --to-destination {backend}")));
        };
        let chain = rule.split_once(" chain ").unwrap().1.split(' ').next().unwrap();
        ours.iter().any(|line| ["", ","].iter().any(|end| format!("{line} ").contains(&format!(" goto {chain}{end} "))))
    }

    /// A chain of others by which the kernel goes on translating without ours; iptables leaves its own behind.
    pub fn with_nat_of_others(&self) {
        if self.variant == Variant::Netlink {
            sh("iptables -t nat -A POSTROUTING -s 10.99.0.0/16 -j RETURN");
        }
    }

    /// Whether rules of ours hand new connections to this backend. (In nftables a chain that is there may have no turn.)
    pub fn leads_to(&self, backend: &str) -> bool {
        let ours = self.ours();
        ours.iter().filter(|line| line.contains(backend)).any(|line| match line.split_once(" chain backend/") {
            Some((_, chain)) => {
                let goto = format!("goto backend/{}", chain.split(' ').next().unwrap());
                ours.iter().any(|line| line.split([',', '}']).any(|turn| turn.trim_end().ends_with(&goto)))
            }
            None => line.contains("-j DNAT"),
        })
    }

    /// Whether a rule of ours is about IPv6.
    pub fn has_rules_of_ipv6(&self) -> bool {
        self.ours().iter().any(|line| line.starts_with("ip6tables") || line.contains(" ip6 "))
    }

    /// Lets through what is balanced, where iptables' FORWARD drops and no rule of ours can: nothing outside of iptables
    /// overrules it, so that is up to the administrator.
    pub fn let_through(&self) {
        if self.variant == Variant::Netlink {
            sh("for tool in iptables ip6tables; do $tool -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT; done");
        }
    }

    /// The command by which another program removes a rule of ours, with which connections of the balancer itself are
    /// balanced.
    pub fn loses_local_clients(&self) -> &'static str {
        match self.variant {
            Variant::Netlink => "nft flush chain inet paraglider output",
            _ => "iptables -t nat -D OUTPUT -p tcp -j PARAGLIDER",
        }
    }

    /// The command by which another program cuts all ways to our rules for connections that come in.
    pub fn loses_clients(&self) -> &'static str {
        match self.variant {
            Variant::Netlink => "nft flush chain inet paraglider prerouting",
            _ => "iptables -t nat -F PREROUTING",
        }
    }

    /// The command by which another program removes all rules.
    pub fn loses_all(&self) -> &'static str {
        match self.variant {
            Variant::Netlink => "nft flush ruleset",
            _ => "iptables -t nat -F && iptables -t nat -X && iptables -F && iptables -X",
        }
    }
}

/// Whether a line of [`nftables`], without its first word, is about a table of ours.
fn is_our_table(line: &str) -> bool {
    let table = line.strip_prefix("inet ").or_else(|| line.strip_prefix("ip ")).and_then(|name| name.split(' ').next());
    table == Some("paraglider")
}

/// A listing of nft with the table and the chain on each line, `nft inet own in: tcp dport 9 drop`, without the tables that
/// iptables-nft has made. Chains and the like are in the order of their names: the kernel shows them by age.
fn nftables(listing: &str) -> BTreeSet<String> {
    let (mut table, mut block, mut number) = (String::new(), String::new(), 0);
    let mut all = BTreeSet::new();
    for line in listing.lines() {
        let depth = line.len() - line.trim_start_matches('\t').len();
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        // Both begin before their lines, which may themselves have braces.
        match (depth, text.strip_suffix(" {")) {
            (0, Some(name)) => (table, block, number) = (name.replacen("table ", "", 1), String::new(), 0),
            (1, Some(name)) => (block, number) = (name.to_owned(), 0),
            (0 | 1, _) if text == "}" => continue,
            _ => number += 1,
        }
        let of_iptables = ["filter", "nat", "mangle", "raw", "security"];
        if of_iptables.iter().any(|name| table == format!("ip {name}") || table == format!("ip6 {name}")) {
            continue;
        }
        let place = if block.is_empty() { format!("nft {table}") } else { format!("nft {table} {block}") };
        all.insert(if number == 0 { place + "\n" } else { format!("{place} {number:04}: {text}\n") });
    }
    all
}

/// Puts iptables and nft where only the story finds them: no file on the paths of system programs is one any more.
fn hide_programs(dir: &Path, bin: &Path) {
    let hidden = dir.join("hidden");
    fs::create_dir(&hidden).unwrap();
    let is_one =
        |name: &str| name == "nft" || ["iptables", "ip6tables", "xtables-"].iter().any(|of| name.starts_with(of));
    let mut moved = BTreeMap::new();
    for folder in ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let Some(path) = is_one(&name).then(|| fs::canonicalize(entry.path()).ok()).flatten() else { continue };
            moved.entry(path).or_insert_with(Vec::new).push(name);
        }
    }
    let mut line = String::from("true");
    for (path, names) in moved {
        // They are several programs in one, which go by the name that they are called by.
        let real = hidden.join(path.file_name().unwrap());
        File::create(&real).unwrap();
        let (from, to) = (path.display(), real.display());
        line.push_str(&format!(" && mount --bind {from} {to} && mount --bind /dev/null {from}"));
        for name in names {
            // On a system whose /sbin is a link there are two of each.
            let _ = symlink(&real, bin.join(name));
        }
    }
    sh(&line);
    for family in ["iptables", "ip6tables"] {
        for verb in ["", "-save", "-restore"] {
            let nft = bin.join(format!("{family}-nft{verb}"));
            assert!(nft.exists(), "{} is missing: apt install iptables", nft.display());
            let own = bin.join(format!("{family}{verb}"));
            let _ = fs::remove_file(&own);
            symlink(fs::read_link(nft).unwrap(), own).unwrap();
        }
    }
}

impl Drop for Lab {
    /// Its directory can be removed when nothing is mounted there any more.
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--recursive", "--lazy"]).arg(self.dir.path()).status();
    }
}

/// Runs a line that concerns IPv6, where the host has it.
fn six(line: &str) {
    if IPV6.load(Ordering::Relaxed) {
        sh(line);
    }
}

/// A host: a network namespace of this name.
pub fn host(name: &str) {
    sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
    // Many short connections from few addresses: do not wait for their ports.
    inside(name, || fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0")).join().unwrap().unwrap();
}

/// A backend's service: to each line it answers `NAME PEER`, its own name and the address that it sees. It accepts
/// until the program ends.
pub fn serve(host: &'static str, port: u16) {
    let (ready, wait) = mpsc::channel();
    inside(host, move || {
        // Of both families, where the host has them.
        let both = TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port));
        let listener = both.or_else(|_| TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port))).unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || answer(host, stream));
        }
    });
    wait.recv().unwrap();
}

fn answer(name: &str, stream: TcpStream) -> std::io::Result<()> {
    let peer = stream.peer_addr()?.ip().to_canonical();
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        writeln!(&stream, "{name} {peer}")?;
        line.clear();
    }
    Ok(())
}

/// A connection that can be held.
pub struct Held(TcpStream);

impl Held {
    pub fn open(to: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Held(stream))
    }

    /// Asks once; returns the backend's name and the address it sees.
    pub fn ask(&self) -> std::io::Result<(String, IpAddr)> {
        (&self.0).write_all(b"?\n")?;
        let mut line = String::new();
        if BufReader::new(&self.0).read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let (name, peer) = line.trim().split_once(' ').ok_or(ErrorKind::InvalidData)?;
        Ok((name.to_owned(), peer.parse().map_err(|_| ErrorKind::InvalidData)?))
    }
}

/// Asks once over a connection of its own.
pub fn ask(to: SocketAddr) -> std::io::Result<(String, IpAddr)> {
    Held::open(to)?.ask()
}

/// Asks once from an address of this host's.
pub fn ask_from(from: IpAddr, to: SocketAddr) -> std::io::Result<(String, IpAddr)> {
    let stream = connect_from(SocketAddr::new(from, 0), to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Held(stream).ask()
}

/// Connects from an address and port of this host's.
pub fn connect_from(from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    connect_within(PATIENCE, from, to)
}

/// The same, with another limit.
pub fn connect_within(patience: Duration, from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    use nix::sys::socket::{bind, connect, socket, AddressFamily, SockFlag, SockType, SockaddrStorage};
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::empty(), None)?;
    // connect(2) keeps to it, too (socket(7)).
    TcpStream::set_write_timeout(&TcpStream::from(socket.try_clone()?), Some(patience))?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(from))?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(socket))
}

/// Makes `n` connections from a host, one after the other; counts who answered and what he saw. Failures count too.
pub fn ask_often(from: &str, to: &str, n: usize) -> BTreeMap<String, usize> {
    let to: SocketAddr = to.parse().unwrap();
    let work = move || {
        let mut counts = BTreeMap::new();
        for _ in 0..n {
            let answer = match ask(to) {
                Ok((name, peer)) => format!("{name} {peer}"),
                Err(error) => format!("{:?}", error.kind()),
            };
            *counts.entry(answer).or_insert(0) += 1;
        }
        counts
    };
    if from == "balancer" {
        work()
    } else {
        inside(from, work).join().unwrap()
    }
}
