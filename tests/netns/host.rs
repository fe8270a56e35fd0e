//! What the host has and has not: rights, /proc, iptables itself; and what `check` says of it.

use std::fs;

use crate::engine::without_iptables;
use crate::lab::{run, serve, sh, Lab, Variant};
use crate::watching::{shares, Watch};
use crate::{on_all, on_both};

on_all!(a_good_host_passes_the_check_and_is_not_changed, |lab| {
    serve("b1", 80);
    lab.balance(&[1, 2, 3]);
    lab.with_rules_of_others();
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let state = || (lab.others(), lab.ours(), fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap());
    let before = state();
    let out = lab.ok("check");
    let rules = match lab.variant {
        Variant::Netlink => {
            ["engine: nftables, since no iptables is", "nftables: the kernel takes the rules (removed again)"]
        }
        _ => ["IPv4 filter rules: accepted one rule of each kind", "IPv4 nat rules: accepted one rule of each kind"],
    };
    for word in [
        "has 1 frontend and 3 backends",
        &format!("engine: {}, since", lab.variant.engine()),
        rules[0],
        rules[1],
        "net.ipv4.ip_forward",
        "bind 10.9.0.1:4444: the address is on this host",
        "privateip 10.2.0.1: on this host",
        "backend 10.2.0.11:80: there is a route",
        "rp_filter",
        "connection table:",
    ] {
        assert!(out.contains(word), "{word}:\n{out}");
    }
    assert!(!out.contains("error"), "{out}");
    assert_eq!(state(), before);
    // With the rules in force nothing has to be tried, so on the legacy variant no counter is reset.
    lab.ok("start");
    let before = lab.saved(true);
    let output = lab.command("-v check").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("in force already"));
    let run = String::from_utf8_lossy(&output.stderr);
    assert!(run.contains("-save") == (lab.variant != Variant::Netlink) && !run.contains("-restore"), "{run}");
    assert_eq!(lab.saved(true), before);
});

on_all!(check_finds_what_would_not_work, |lab| {
    lab.config(
        "frontend: {bind: '10.77.0.1:4444', privateip: 10.77.0.2, backends: ['10.88.0.1:80', '10.2.0.1:80', '10.2.0.11:80']}",
    );
    sh("iptables -P FORWARD DROP");
    sh("nft 'add table inet other; add chain inet other forward { type filter hook forward priority 0; policy drop; }'");
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    fs::write("/proc/sys/net/ipv4/conf/wan/rp_filter", "1").unwrap();
    // /sys shows the network in which it was mounted.
    sh("mount -t sysfs lab /sys");
    fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1").unwrap();
    let (code, out, _) = lab.paraglider("check");
    assert_eq!(code, 1, "{out}");
    for word in [
        "warning  bridge-nf-call-iptables: it is 1",
        "error    backend 10.88.0.1:80: no route to it",
        "warning  bind 10.77.0.1:4444: the address is on no interface",
        "warning  privateip 10.77.0.2: on no interface",
        "warning  backend 10.2.0.1:80: it is this host itself",
        match lab.variant {
            Variant::Netlink => {
                "error    nftables: ip filter FORWARD (priority 0): its policy drops the connections of 10.77.0.1:4444"
            }
            _ => "ok       IPv4 FORWARD policy: DROP, and our own rules let through",
        },
        "error    nftables: inet other forward (priority 0): its policy drops the connections of 10.77.0.1:4444",
        "warning  net.ipv4.ip_forward: forwarding is off; `start` switches it on",
        "ok       rp_filter: strict on wan",
    ] {
        assert!(out.contains(word), "{word}:\n{out}");
    }
    assert_eq!(lab.ours(), [""; 0]);
});

on_all!(check_knows_which_addresses_keepalived_moves, |lab| {
    let config = |privateip: &str| {
        lab.config(&format!("frontend: {{bind: '10.77.0.1:4444', {privateip} backends: ['10.2.0.11:80']}}"));
        lab.ok("check")
    };
    // Without keepalived these addresses are simply missing; with it they are on the other box now.
    assert!(config("privateip: 10.2.0.4-10.2.0.5,").contains("warning  privateip 10.2.0.4, 10.2.0.5: on no interface"));
    sh("mkdir -p /run/etc/keepalived && cp -a /etc/. /run/etc && mount --bind /run/etc /etc");
    let blocks = "virtual_ipaddress {\n 10.77.0.1/24\n}\nvirtual_ipaddress_excluded {\n 10.2.0.4/24\n 10.2.0.5/24\n}\n";
    fs::write("/etc/keepalived/keepalived.conf", format!("unicast_src_ip 10.2.0.1\n{blocks}")).unwrap();
    let out = config("privateip: 10.2.0.4-10.2.0.5,");
    assert!(out.contains("ok       bind 10.77.0.1:4444: the address is held by keepalived"), "{out}");
    assert!(out.contains("ok       privateip 10.2.0.4: held by keepalived"), "{out}");
    assert!(!out.contains("on no interface"), "{out}");
    // One that keepalived does not know is not forgiven.
    assert!(config("privateip: 10.2.0.5-10.2.0.6,").contains("warning  privateip 10.2.0.6: on no interface"));
    // The master, whose privateip is its own, and would stay.
    sh("ip addr add 10.77.0.1/24 dev wan");
    for privateip in ["privateip: 10.2.0.1,", "", "privateip: auto,"] {
        let out = config(privateip);
        let warning = "warning  privateip: keepalived moves bind but not this";
        assert!(out.contains("bind 10.77.0.1:4444: the address is on this host") && out.contains(warning), "{out}");
    }
    sh("ip addr add 10.2.0.4/24 dev lan && ip addr add 10.2.0.5/24 dev lan");
    let out = config("privateip: 10.2.0.4-10.2.0.5,");
    assert!(out.contains("ok       privateip 10.2.0.4: on this host") && !out.contains("keepalived moves"), "{out}");
    // A bind that stays is nobody's business.
    fs::write("/etc/keepalived/keepalived.conf", "virtual_ipaddress {\n 10.77.0.9/24\n}\n").unwrap();
    assert!(!config("").contains("keepalived"));
});

on_all!(the_ssh_port_that_one_came_by_is_not_taken, |lab| {
    lab.balance(&[1]);
    let with_ssh =
        |words: &str| lab.command(words).env("SSH_CONNECTION", "10.1.0.2 50000 10.9.0.1 4444").output().unwrap();
    let check = with_ssh("check");
    assert!(
        String::from_utf8_lossy(&check.stdout).contains("error    bind 10.9.0.1:4444: your SSH session comes in there")
    );
    assert_eq!(check.status.code(), Some(1));
    let start = with_ssh("start");
    assert_eq!(start.status.code(), Some(1));
    assert_eq!(lab.ours(), [""; 0]);
    // The shell that called has it, though sudo took it away.
    let shell = format!(
        "env -u SSH_CONNECTION {} -config {} start; exit $?",
        crate::lab::program().display(),
        lab.path("glider.yaml").display()
    );
    let mut below = std::process::Command::new("/bin/sh");
    let below = below.args(["-c", &shell]).env("SSH_CONNECTION", "10.1.0.2 50000 10.9.0.1 4444").output().unwrap();
    assert!(below.status.code() == Some(1) && String::from_utf8_lossy(&below.stderr).contains("your SSH session"));
    assert_eq!(lab.ours(), [""; 0]);
    // Once it is in force, it is not in the way.
    lab.ok("start");
    assert_eq!(with_ssh("start").status.code(), Some(0));
});

on_all!(a_listener_behind_the_bind_is_seen, |lab| {
    lab.balance(&[1]);
    let _listener = std::net::TcpListener::bind("10.9.0.1:4444").unwrap();
    assert!(lab.ok("check").contains("warning  bind 10.9.0.1:4444: a program on this host listens there"));
    lab.config("frontend: {bind: '10.9.0.1:4445', backends: ['10.2.0.11:80']}");
    assert!(!lab.ok("check").contains("listens there"));
});

// Of iptables' plug-ins.
on_both!(a_missing_match_is_named_with_its_remedy, |lab| {
    lab.balance(&[1, 2, 3]);
    // An empty folder in the place of iptables' own plug-ins: it knows no match by itself.
    let plugins = sh("dirname $(find /usr/lib -name libxt_statistic.so | head -1)").trim().to_owned();
    sh(&format!("mkdir /run/xtables && cp -R {plugins}/. /run/xtables/ && rm /run/xtables/libxt_statistic.so"));
    let output = lab.command("check").env("XTABLES_LIBDIR", "/run/xtables").output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}");
    let errors: Vec<&str> = out.lines().filter(|line| line.starts_with("error")).collect();
    assert!(
        errors.len() == 1 && errors[0].contains("IPv4 statistic match:") && errors[0].contains("xt_statistic"),
        "{out}"
    );
    let start = lab.command("start").env("XTABLES_LIBDIR", "/run/xtables").output().unwrap();
    let err = String::from_utf8_lossy(&start.stderr);
    assert!(
        start.status.code() == Some(1) && err.contains("statistic") && err.contains("nothing was changed"),
        "{err}"
    );
    assert_eq!(lab.ours(), [""; 0]);
});

on_both!(iptables_is_found_without_a_path, |lab| {
    lab.balance(&[1]);
    let output = lab.command("start").env_remove("PATH").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    lab.ok("stop");
    assert_eq!(lab.ours(), [""; 0]);
});

on_all!(a_read_only_proc_is_a_sentence_and_nothing_is_changed, |lab| {
    lab.balance(&[1]);
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    sh("mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys");
    let (code, _, err) = lab.paraglider("start");
    assert!(
        code == 1 && err.contains("IPv4 forwarding is off and cannot be switched on (/proc is read-only here)"),
        "{err}"
    );
    assert!(err.contains("net.ipv4.ip_forward=1"), "{err}");
    assert_eq!(lab.ours(), [""; 0]);
    let (code, out, _) = lab.paraglider("check");
    assert!(
        code == 1 && out.contains("error    net.ipv4.ip_forward: forwarding is off and cannot be switched on"),
        "{out}"
    );
});

on_all!(without_the_capability_there_is_a_sentence_with_its_name, |lab| {
    lab.balance(&[1, 2, 3]);
    let config = lab.path("glider.yaml").display().to_string();
    let program = crate::lab::program().display().to_string();
    let bare = |verb: &str| {
        let output = run("setpriv", &["--bounding-set=-all", "--inh-caps=-all", &program, "-config", &config, verb]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    for verb in ["start", "stop", "status", "reload"] {
        let (code, said) = bare(verb);
        assert!(
            code == Some(if verb == "status" { 4 } else { 1 })
                && said.contains("this needs CAP_NET_ADMIN")
                && said.contains("which root does not have here"),
            "{said}"
        );
    }
    let (code, said) = bare("check");
    assert!(code == Some(1) && said.contains("error    rules: this needs CAP_NET_ADMIN"), "{said}");
    // These need no rights.
    assert_eq!(bare("print").0, Some(0));
    lab.config("frontend: {bind: x}");
    assert_eq!(bare("start").0, Some(2));
});

on_all!(nothing_runs_after_start, |lab| {
    // Other laboratories have processes of their own; none may be added in this network.
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let running = || -> std::collections::BTreeSet<_> {
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        processes.filter(|path| fs::read_link(path.join("ns/net")).is_ok_and(|of| of == own)).collect()
    };
    lab.balance(&[1, 2, 3]);
    let before = running();
    for verb in ["start", "check", "status", "reload", "stop", "start"] {
        lab.ok(verb);
        assert_eq!(running(), before, "{verb}");
    }
    // Whatever runs would have been found.
    let _watch = Watch::begin(lab);
    assert_eq!(running().difference(&before).count(), 1);
});

// Without `-config` here: /etc has no config, and nothing has drifted because of that.
on_all!(status_of_rules_from_a_config_elsewhere, |lab| {
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    fs::rename(lab.path("glider.yaml"), lab.path("elsewhere.yaml")).unwrap();
    let missing = lab.path("glider.yaml").display().to_string();
    let (code, out, _) = lab.paraglider("status");
    let said = format!("as the last start wrote them; there is no {missing} to compare with");
    assert!(code == 0 && out.starts_with("in force") && out.contains(&said) && out.contains("10.2.0.13:80"), "{out}");
    sh(lab.loses_local_clients());
    let (code, out, _) = lab.paraglider("status --json");
    assert!(code == 1 && out.contains("drifted") && out.contains("this is the config of the last start"), "{out}");
    // A config that is there and broken is another matter.
    lab.config("frontend: 5\n");
    let (code, out, _) = lab.paraglider("status");
    assert!(code == 1 && out.contains("the config cannot be compared"), "{out}");
    fs::remove_file(lab.path("glider.yaml")).unwrap();
    lab.ok("stop");
    let (code, out, _) = lab.paraglider("status");
    assert!(code == 3 && out.starts_with("not in force") && out.contains("cannot read the config"), "{out}");
});

on_all!(status_tells_its_three_states, |lab| {
    lab.balance(&[1, 2, 3]);
    let (code, out, _) = lab.paraglider("status");
    assert!(code == 3 && out.starts_with("not in force"), "{out}");
    lab.ok("start");
    assert!(lab.ok("status").starts_with("in force"));
    lab.balance(&[1, 2]);
    let (code, out, _) = lab.paraglider("status");
    assert!(code == 1 && out.starts_with("drifted") && out.contains("10.2.0.13:80"), "{out}");
    lab.balance(&[1, 2, 3]);
    sh(lab.loses_clients());
    assert_eq!(lab.paraglider("status").0, 1);
    lab.ok("start");
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let (code, out, _) = lab.paraglider("status --json");
    assert!(code == 1 && out.contains("\"state\":\"drifted\"") && out.contains("forwarding is off"), "{out}");
    lab.ok("start");
    lab.ok("status");
});

/// Whether somebody who is not root may make namespaces here. The kernel can be told otherwise, and in a chroot it never
/// allows it. If not, it is said past the test harness, which would swallow it.
fn without_root(test: &str) -> bool {
    let mut command = std::process::Command::new("unshare");
    if nix::unistd::geteuid().is_root() {
        command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "unshare"]);
    }
    let output = command.args(["-Urn", "true"]).output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if !output.status.success() {
        use std::io::Write;
        let said = format!("skipped: {test}: no user namespaces here ({why})\n");
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
    output.status.success()
}

/// A user namespace and a network namespace made in one step, as by `unshare -Urn`: there the kernel does not tell which
/// tables the old iptables has, and the lock of xtables has to be put where one may write.
#[test]
fn without_root_in_one_step() {
    if !without_root("without_root_in_one_step") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("glider.yaml");
    fs::write(&config, "frontend: {bind: '10.9.0.1:80', backends: ['10.2.0.11:80', '10.2.0.12:80']}").unwrap();
    fs::create_dir(dir.path().join("run")).unwrap();
    for variant in [Variant::Nft, Variant::Legacy, Variant::Netlink] {
        let bin = dir.path().join(variant.engine());
        fs::create_dir(&bin).unwrap();
        if variant == Variant::Netlink {
            let text = fs::read_to_string(&config).unwrap();
            fs::write(&config, format!("engine: nftables\n{text}\n")).unwrap();
        }
        for tool in ["iptables", "iptables-save", "iptables-restore"] {
            let real = format!("/usr/sbin/{}", tool.replacen("iptables", &format!("iptables-{}", variant.infix()), 1));
            std::os::unix::fs::symlink(real, bin.join(tool)).unwrap();
        }
        let story = "set -e
            $P -c $CONFIG start; $P -c $CONFIG start; $P -c $CONFIG status
            if [ $ENGINE = nftables ]; then nft list table inet paraglider >/dev/null
            else iptables-save -t nat | grep -c -e '-A PREROUTING' | grep -x 1; fi
            $P stop; nft list tables | { ! grep -w paraglider; }
            for table in nat filter; do iptables-save -t $table | { ! grep -e PARAGLIDER -e PG-; }; done";
        let mut command = std::process::Command::new("unshare");
        // As somebody who is not root, who owns nothing here but the folder.
        if nix::unistd::geteuid().is_root() {
            sh(&format!("chown -R 65534:65534 {0} && chmod 755 {0}", dir.path().display()));
            let copy = dir.path().join("paraglider");
            fs::copy(crate::lab::program(), &copy).unwrap();
            command = std::process::Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "unshare"]).env("P", copy);
        } else {
            command.env("P", crate::lab::program());
        }
        let output = command
            .args(["-Urn", "sh", "-c", story])
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()))
            .env("CONFIG", &config)
            .env("ENGINE", variant.engine())
            .env("XTABLES_LOCKFILE", dir.path().join("run/xtables.lock"))
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains("already in force"), "{variant:?}: {said}");
    }
}

on_all!(loopback_wants_route_localnet, |lab| {
    lab.config("frontend: {bind: '127.0.0.1:4444', backends: ['10.2.0.11:80', '127.0.0.1:81']}");
    let (code, out, _) = lab.paraglider("check");
    assert!(code == 1 && out.contains("error    bind 127.0.0.1:4444: a loopback address works only with"), "{out}");
    assert!(out.contains("error    backend 127.0.0.1:81: a loopback address works only with"), "{out}");
    sh("sysctl -qw net.ipv4.conf.all.route_localnet=1");
    assert!(lab.ok("check").contains("warning  bind 127.0.0.1:4444: a loopback address serves"));
    serve("b1", 80);
    lab.config("frontend: {bind: '127.0.0.1:4444', backends: ['10.2.0.11:80']}");
    lab.ok("start");
    assert_eq!(crate::lab::ask_often("balancer", "127.0.0.1:4444", 2), crate::answers(&[("b1 10.2.0.1", 2)]));
});

/// The demo is what a visitor runs first, and not as root.
#[test]
fn the_demo_needs_no_root() {
    if !without_root("the_demo_needs_no_root") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let examples = dir.path().join("examples");
    fs::create_dir(&examples).unwrap();
    let demo = crate::lab::program().with_file_name("examples").join("demo");
    assert!(demo.exists(), "cargo build --example demo");
    fs::copy(demo, examples.join("demo")).unwrap();
    fs::copy(crate::lab::program(), dir.path().join("paraglider")).unwrap();
    sh(&format!("chmod -R a+rX {}", dir.path().display()));
    let mut command = std::process::Command::new(examples.join("demo"));
    if nix::unistd::geteuid().is_root() {
        command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(examples.join("demo"));
    }
    let output = command.output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let said = format!("{out}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && out.contains("Each backend got every third connection, and nothing is left."),
        "{said}"
    );
}

/// On iptables-legacy any change of a table resets the counters of all its rules, also those of other programs.
#[test]
fn check_does_not_restart_the_counters_of_others() {
    crate::in_lab("host::check_does_not_restart_the_counters_of_others", Variant::Legacy, |lab| {
        lab.balance(&[1, 2, 3]);
        sh("iptables -A INPUT -p udp -m limit --limit 1/hour --limit-burst 1 -j ACCEPT");
        crate::failure::wrap(lab, "restore", "echo \"$@\" >>$DIR/tried; exec $REAL \"$@\"");
        let out = lab.ok("check");
        assert!(
            out.contains("ok       IPv4 filter rules: not tried, since any change would restart the counters"),
            "{out}"
        );
        // Nothing counts in the other table.
        assert!(out.contains("ok       IPv4 nat rules: accepted one rule of each kind"), "{out}");
        assert_eq!(fs::read_to_string(lab.path("tried")).unwrap().lines().count(), 2);
    });
}

on_all!(turns_are_compared_with_the_rules_in_force, |lab| {
    for backend in ["b1", "b2", "b3"] {
        serve(backend, 80);
    }
    lab.balance(&[1, 2]);
    lab.ok("start");
    assert_eq!(shares(crate::BIND, 20).into_values().collect::<Vec<_>>(), [10, 10]);
    // The config has been edited, and not yet put in force: nobody has taken a turn from the third.
    lab.balance(&[1, 2, 3]);
    let out = lab.ok("check");
    assert!(!out.contains("more or less than its turn"), "{out}");
    lab.balance(&[1, 2]);
    // Another program writes the table before each second connection.
    for n in 0..8 {
        sh(&format!("iptables -t nat -A POSTROUTING -s 10.99.0.{n}/32 -j RETURN"));
        crate::lab::ask_often("client", crate::BIND, 1);
    }
    let out = lab.ok("check");
    assert_eq!(out.contains("more or less than its turn"), lab.variant == Variant::Legacy, "{out}");
});

on_all!(check_without_a_config_looks_at_the_host_all_the_same, |lab| {
    let (code, out, err) = lab.paraglider("check");
    assert!(code == 2 && err.is_empty(), "{err}");
    assert!(out.starts_with("error    config: ") && out.contains("write one (paraglider(8) has an example)"), "{out}");
    assert!(out.contains(&format!("engine: {}, since", lab.variant.engine())), "{out}");
    let (code, out, _) = without_iptables(lab, "check");
    assert!(code == 2 && out.contains("engine: nftables, since no iptables is installed"), "{out}");
});

on_all!(a_config_that_others_can_change_is_found, |lab| {
    lab.balance(&[1, 2, 3]);
    sh("sysctl -qw net.ipv4.ip_forward=1");
    let (dir, yaml) = (lab.path("").display().to_string(), lab.path("glider.yaml").display().to_string());
    assert!(!lab.ok("check").contains("can change"));
    for (change, undo, said) in [
        (format!("chmod 666 {yaml}"), format!("chmod 644 {yaml}"), format!("every user can change {yaml} (mode 666)")),
        (format!("chmod 777 {dir}"), format!("chmod 755 {dir}"), format!("every user can change {dir} (mode 777)")),
        (format!("chown 65534 {yaml}"), format!("chown 0 {yaml}"), format!("user 65534 can change {yaml}")),
        (format!("chown 65534 {dir}"), format!("chown 0 {dir}"), format!("user 65534 can change {dir}")),
    ] {
        if !run("sh", &["-c", &change]).status.success() {
            println!("skipped: a_config_that_others_can_change_is_found: there is only one user here");
            continue;
        }
        let out = lab.ok("check");
        assert!(out.contains(&said) && !out.lines().any(|line| line.len() > 300), "{change}: {out}");
        sh(&undo);
    }
    sh(&format!("chmod 1777 {dir}"));
    assert!(!lab.ok("check").contains("can change"), "in a sticky directory nobody can replace it");
});
