//! Something fails: the host is as it was before, or the next start puts it right.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::lab::{run, serve, sh, Lab, Variant};
use crate::watching::{kept, shares};
use crate::{on_all, on_both, BIND};

/// Puts a script in the place of `iptables-restore`; `$REAL` is the true one.
pub fn wrap_restore(lab: &Lab, script: &str) {
    wrap(lab, "restore", script);
}

/// The same for `iptables-save` too.
pub fn wrap(lab: &Lab, verb: &str, script: &str) {
    assert_ne!(lab.variant, Variant::Netlink, "no program is called there");
    let path = lab.path(&format!("bin/iptables-{verb}"));
    fs::remove_file(&path).unwrap();
    let real = format!("/usr/sbin/iptables-{}-{verb}", lab.variant.infix());
    fs::write(&path, format!("#!/bin/sh\nREAL={real}\nDIR={}\n{script}\n", lab.path("").display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Each table is a transaction of its own; here what is between two of them lasts long enough to be seen. In nftables there
/// is nothing between: all that is ours is one table.
pub fn pause_between_tables(lab: &Lab) {
    if lab.variant == Variant::Netlink {
        return;
    }
    wrap_restore(
        lab,
        "text= pause=0\nwhile IFS= read -r line; do text=\"$text$line\n\"\n\
         case $line in COMMIT) sleep $pause; printf %s \"$text\" | $REAL \"$@\" || exit; text= pause=0.3;; esac; done",
    );
}

/// The real program, given a text into whose section of that table a rule comes that it cannot take. Once.
fn break_once(lab: &Lab, table: &str) {
    fs::write(lab.path("break"), "").unwrap();
    wrap_restore(
        lab,
        &format!(
            "if [ -e $DIR/break ]; then rm $DIR/break\n\
             awk '/^\\*/ {{ t = $1 }} /^COMMIT/ && t == \"*{table}\" {{ print \"-A PARAGLIDER -j NO-SUCH-CHAIN\" }} {{ print }}' \
             | $REAL \"$@\"; exit $?\nfi\nexec $REAL \"$@\""
        ),
    );
}

// Of two tables that are written one after the other; those of nftables are one transaction.
on_both!(a_bad_filter_section_leaves_nat_untouched, |lab| {
    lab.balance(&[1, 2, 3]);
    break_once(lab, "filter");
    let (code, _, err) = lab.paraglider("start");
    assert!(code == 1 && err.contains("iptables-restore refused") && err.contains("nothing was changed"), "{err}");
    assert_eq!(lab.ours(), [""; 0]);
});

on_both!(a_bad_nat_section_takes_filter_back, |lab| {
    lab.balance(&[1, 2, 3]);
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    break_once(lab, "nat");
    let (code, _, err) = lab.paraglider("start");
    assert!(code == 1 && err.contains("NO-SUCH-CHAIN") && err.contains("nothing was changed"), "{err}");
    assert_eq!(lab.ours(), [""; 0]);
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "0\n");
    lab.ok("start");
    lab.ok("status");
});

on_both!(a_failed_reload_leaves_the_old_rules, |lab| {
    serve("b1", 80);
    lab.config("frontends:\n  - {name: a, bind: '10.9.0.1:4444', backends: ['10.2.0.11:80']}\n");
    lab.ok("start");
    let before = lab.saved(false);
    lab.config(
        "frontends:\n  - {name: b, bind: '10.9.0.1:5555', backends: ['10.2.0.12:80']}\n  \
         - {name: c, bind: '10.9.0.1:6666', privateip: none, backends: ['10.2.0.12:80', '10.2.0.13:80']}\n",
    );
    for table in ["filter", "nat"] {
        break_once(lab, table);
        assert_eq!(lab.paraglider("reload").0, 1);
        assert_eq!(lab.saved(false), before, "{table}");
    }
    assert_eq!(shares(BIND, 2), [("b1".to_owned(), 2)].into());
});

// Each family has a program of its own; a table of nftables has both.
on_both!(a_failing_ipv6_part_takes_the_ipv4_part_back, |lab| {
    lab.config(
        "frontends:\n  - {bind: '10.9.0.1:4444', backends: ['10.2.0.11:80']}\n  \
         - {bind: '[fd09::1]:4444', backends: ['[fd02::11]:80']}\n",
    );
    fs::remove_file(lab.path("bin/ip6tables-restore")).unwrap();
    fs::write(lab.path("bin/ip6tables-restore"), "#!/bin/sh\ncat >/dev/null\necho no IPv6 today >&2\nexit 1\n")
        .unwrap();
    sh(&format!("chmod +x {}", lab.path("bin/ip6tables-restore").display()));
    let (code, _, err) = lab.paraglider("start");
    assert!(
        code == 1 && err.contains("ip6tables-restore refused: no IPv6 today; ") && err.contains("nothing was changed"),
        "{err}"
    );
    assert_eq!(lab.ours(), [""; 0]);
});

/// A switch that can be opened and then not be moved, when the rules are written already.
fn jam_forwarding() -> bool {
    // hugetlbfs knows no write(2).
    let mounted = run("mount", &["-t", "hugetlbfs", "none", "/mnt"]).status.success();
    if mounted {
        sh("touch /mnt/switch && mount --bind /mnt/switch /proc/sys/net/ipv4/ip_forward");
    } else {
        println!("skipped: a switch of forwarding that cannot be moved: no hugetlbfs here");
    }
    mounted
}

on_all!(forwarding_that_cannot_be_switched_on_takes_the_rules_back, |lab| {
    lab.balance(&[1, 2]);
    lab.ok("start");
    let before = lab.saved(false);
    if !jam_forwarding() {
        return;
    }
    let refused = || {
        let (code, _, err) = lab.paraglider("start");
        assert!(code == 1 && err.contains("IPv4 forwarding is off and cannot be switched on"), "{err}");
        err
    };
    lab.balance(&[1, 2, 3]);
    assert!(refused().contains("; nothing was changed"));
    assert_eq!(lab.saved(false), before);
    lab.ok("stop");
    assert!(refused().contains("; nothing was changed"));
    assert_eq!(lab.ours(), [""; 0]);
    // What is meant has not changed either.
    lab.ok("start --again");
    assert_eq!(lab.ours(), [""; 0]);
});

on_all!(a_broken_config_leaves_the_rules_in_force, |lab| {
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    let before = lab.saved(false);
    for broken in ["", "frontend: [", "frontend: {bind: '10.9.0.1:70000', backends: ['10.2.0.11:80']}"] {
        lab.config(broken);
        for verb in ["start", "reload", "restart", "check", "print"] {
            let (code, _, err) = lab.paraglider(verb);
            assert!(code == 2 && err.contains("glider.yaml:1:"), "{verb} {broken:?}: {err}");
        }
        assert_eq!(lab.paraglider("status").0, 1);
    }
    assert_eq!(lab.saved(false), before);
});

on_all!(killed_at_any_point_the_next_start_is_right, |lab| {
    for host in ["b1", "b2", "b3"] {
        serve(host, 80);
    }
    lab.balance(&[1, 2, 3]);
    let since = Instant::now();
    lab.ok("start");
    let whole = since.elapsed();
    let right = lab.ours();
    lab.ok("stop");
    for n in 0..40u32 {
        let mut start = lab.command("start").spawn().unwrap();
        std::thread::sleep(whole * n / 32);
        kill(Pid::from_raw(start.id().try_into().unwrap()), Signal::SIGKILL).unwrap();
        start.wait().unwrap();
        lab.ok("start");
        assert_eq!(lab.ours().len(), right.len(), "killed after {n}/32: {:?}", lab.ours());
        lab.ok("status");
        if n % 2 == 0 {
            lab.ok("stop");
            assert_eq!(lab.ours(), [""; 0]);
        }
    }
    lab.ok("start");
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
});

// A program outlives the one that called it; the nftables engine calls none.
on_both!(killed_while_iptables_writes_the_next_start_waits_for_it, |lab| {
    lab.balance(&[1, 2, 3]);
    // Slow, and it outlives the one who called it.
    wrap_restore(lab, "echo >>$DIR/called\n[ $(wc -l <$DIR/called) = 1 ] && sleep 2\nexec $REAL \"$@\"");
    let mut start = lab.command("start").spawn().unwrap();
    let since = Instant::now();
    while !lab.path("called").exists() {
        assert!(since.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(10));
    }
    kill(Pid::from_raw(start.id().try_into().unwrap()), Signal::SIGKILL).unwrap();
    start.wait().unwrap();
    lab.ok("start");
    assert!(since.elapsed() > Duration::from_millis(1900), "it did not wait");
    let jumps = lab.ours().iter().filter(|line| line.contains("-A PREROUTING")).count();
    assert_eq!(jumps, 1, "{:?}", lab.ours());
    lab.ok("status");
});

on_all!(four_starts_at_once_are_one, |lab| {
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    let right = lab.ours();
    for _ in 0..5 {
        lab.ok("stop");
        let starts = [(); 4].map(|()| lab.command("start").spawn().unwrap());
        for mut start in starts {
            assert!(start.wait().unwrap().success());
        }
        assert_eq!(lab.ours(), right);
    }
});

on_all!(another_paraglider_is_waited_for_ten_seconds, |lab| {
    lab.balance(&[1, 2, 3]);
    // The folder is there after any run.
    assert_eq!(lab.paraglider("status").0, 3);
    let path = kept("lock");
    let holder = std::process::Command::new("flock").arg("--no-fork").arg(&path).args(["sleep", "30"]).spawn();
    let mut other = holder.unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let since = Instant::now();
    let (code, _, err) = lab.paraglider("start");
    assert!(
        code == 1 && err.contains(&format!("another paraglider has held {} for 10 seconds", path.display())),
        "{err}"
    );
    assert!((9..14).contains(&since.elapsed().as_secs()));
    assert_eq!(lab.ours(), [""; 0]);
    other.kill().unwrap();
    other.wait().unwrap();
});

/// Only the old iptables has this lock.
#[test]
fn a_held_xtables_lock_is_waited_for_and_then_named() {
    crate::in_lab("failure::a_held_xtables_lock_is_waited_for_and_then_named", Variant::Legacy, |lab| {
        lab.balance(&[1, 2, 3]);
        let hold = |seconds: &str| {
            let mut holder = std::process::Command::new("flock");
            let holder = holder.args(["--no-fork", "/run/xtables.lock", "sleep", seconds]).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(300));
            holder
        };
        // Long: an error after 10 s, and nothing is changed.
        let mut holder = hold("40");
        let since = Instant::now();
        let (code, _, err) = lab.paraglider("start");
        assert!(code == 1 && err.contains("another program has held the xtables lock for 10 seconds"), "{err}");
        assert!((9..25).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!(lab.ours(), [""; 0]);
        // Short: it waits.
        let mut holder = hold("2");
        lab.ok("start");
        holder.wait().unwrap();
        lab.ok("status");
    });
}

/// What the command line's tests cannot try, because a `start` that took a bad config would change their host.
#[test]
fn no_bad_config_touches_a_rule() {
    crate::in_lab("failure::no_bad_config_touches_a_rule", Variant::Nft, |lab| {
        lab.balance(&[1, 2, 3]);
        lab.ok("start");
        let before = lab.saved(false);
        for crate::corpus::Bad { name, config, said } in crate::corpus::bad() {
            fs::write(lab.path("glider.yaml"), config).unwrap();
            for verb in ["start", "reload", "check"] {
                let (code, _, err) = lab.paraglider(verb);
                assert!(code == 2 && err.contains(said), "{name}: {verb}: {code} {err}");
            }
        }
        assert_eq!(lab.saved(false), before);
    });
}

on_all!(a_reader_of_stderr_that_goes_away_does_not_stop_a_change_midway, |lab| {
    lab.balance(&[1, 2, 3]);
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(lab.command("start").stderr(full()).status().unwrap().code(), Some(0));
    lab.ok("status");
    assert_eq!(lab.command("-v stop --drain 1").stderr(full()).status().unwrap().code(), Some(0));
    assert_eq!(lab.ours(), [""; 0]);
    // A pipe that nobody reads.
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    assert_eq!(lab.command("start").stderr(writer).status().unwrap().code(), Some(0));
    lab.ok("status");
});

/// Rules that only `nft` can show make iptables-save print nothing of the whole table, and end with 0.
#[test]
fn a_table_that_iptables_cannot_show_is_an_error() {
    crate::in_lab("failure::a_table_that_iptables_cannot_show_is_an_error", Variant::Nft, |lab| {
        lab.balance(&[1, 2, 3]);
        sh("iptables -t nat -A PREROUTING -s 10.99.0.0/16 -j RETURN");
        sh("nft add rule ip nat PREROUTING fib daddr type local tcp dport 9 counter");
        let (code, _, err) = lab.paraglider("start");
        assert!(code == 1 && err.contains("table nat (IPv4) has rules that iptables cannot show"), "{err}");
        let (code, out, _) = lab.paraglider("status");
        assert!(code == 4 && out.starts_with("unknown") && out.contains("table nat (IPv4)"), "{out}");
        let (code, out, _) = lab.paraglider("check");
        assert!(code == 1 && out.contains("IPv4 rules: cannot be read: table nat (IPv4) has rules"), "{out}");
        // The kernel tells the names of all chains: none of them is ours.
        let (code, _, err) = lab.paraglider("stop");
        assert!(code == 0 && err.contains("nothing of Paraglider is in force"), "{err}");
        assert!(!sh("nft list ruleset").contains("PARAGLIDER"));
    });
}

/// iptables can delete its own rules in such a table.
#[test]
fn stop_removes_ours_from_a_table_that_iptables_cannot_show() {
    crate::in_lab("failure::stop_removes_ours_from_a_table_that_iptables_cannot_show", Variant::Nft, |lab| {
        lab.config(
            "frontends:\n  - {bind: '10.9.0.1:4444', backends: ['10.2.0.11:80', '10.2.0.12:80']}\n  \
             - {name: second, bind: '10.9.0.1:5555', backends: ['10.2.0.11:80']}\n",
        );
        lab.ok("start");
        sh("nft add rule ip nat PREROUTING fib daddr type local tcp dport 9 counter");
        sh("nft add rule ip nat POSTROUTING ip saddr 10.99.0.0/16 masquerade");
        let (code, _, err) = lab.paraglider("stop");
        assert_eq!(code, 0, "{err}");
        let left = sh("nft list ruleset");
        assert!(!left.contains("PARAGLIDER") && !left.contains("PG-"), "{left}");
        assert!(left.contains("tcp dport 9 counter") && left.contains("10.99.0.0/16"), "{left}");
    });
}

// There is one nftables.
on_both!(iptables_and_ip6tables_may_be_of_different_variants, |lab| {
    for verb in ["", "-save", "-restore"] {
        let path = lab.path(&format!("bin/ip6tables{verb}"));
        fs::remove_file(&path).unwrap();
        let real = format!("/usr/sbin/ip6tables-{}{verb}", lab.variant.other().infix());
        std::os::unix::fs::symlink(real, path).unwrap();
    }
    lab.config(
        "frontends:\n  - {bind: '10.9.0.1:4444', backends: ['10.2.0.11:80']}\n  \
         - {bind: '[fd09::1]:4444', backends: ['[fd02::11]:80']}\n",
    );
    lab.ok("start");
    let other = format!("ip6tables-{} ", lab.variant.other().infix());
    assert!(lab.ours().iter().any(|line| line.starts_with(&other)), "{:?}", lab.ours());
    lab.is_in_force();
    lab.ok("stop");
    assert_eq!(lab.ours(), [""; 0]);
});

// Of iptables-save, which the nftables engine does not call.
on_both!(what_cannot_be_read_is_not_taken_for_nothing, |lab| {
    lab.config(
        "frontends:\n  - {bind: '10.9.0.1:4444', backends: ['10.2.0.11:80']}\n  \
         - {bind: '[fd09::1]:4444', backends: ['[fd02::11]:80']}\n",
    );
    lab.ok("start");
    let right = lab.ours();
    let save = lab.path("bin/ip6tables-save");
    fs::remove_file(&save).unwrap();
    fs::write(&save, "#!/bin/sh\necho no IPv6 today >&2\nexit 1\n").unwrap();
    sh(&format!("chmod +x {}", save.display()));
    let (code, _, err) = lab.paraglider("start");
    assert!(code == 1 && err.contains("cannot read the IPv6 rules in force: no IPv6 today"), "{err}");
    assert_eq!(lab.ours(), right);
    assert_eq!(lab.paraglider("status").0, 1);
    let (code, _, err) = lab.paraglider("stop");
    if lab.variant == Variant::Nft {
        // What iptables does not list is found by the names of its chains.
        assert!(code == 0 && lab.ours().is_empty(), "{err}{:?}", lab.ours());
        return;
    }
    // What can be seen goes; but it is no success.
    assert!(
        code == 1 && err.contains("cannot read the IPv6 rules of iptables-legacy, so some of Paraglider may be left"),
        "{err}"
    );
    assert!(lab.ours().iter().all(|line| line.starts_with("ip6tables")) && !lab.ours().is_empty(), "{:?}", lab.ours());
});

// What iptables-restore refuses.
on_both!(left_over_rules_that_cannot_be_removed_undo_the_start, |lab| {
    lab.balance(&[1, 2, 3]);
    let text = lab.ok("print");
    fs::write(lab.path("rules"), &text).unwrap();
    let other = lab.variant.other().infix();
    sh(&format!("iptables-{other}-restore --noflush < {}", lab.path("rules").display()));
    let before = lab.ours();
    sh(&format!("ln -s /bin/false {}", lab.path(&format!("bin/iptables-{other}-restore")).display()));
    let (code, _, err) = lab.paraglider("start");
    assert!(code == 1 && err.contains("nothing was changed"), "{err}");
    assert_eq!(lab.ours(), before);
});

// Of two programs, one of which fails; the table of nftables goes as a whole.
on_both!(stop_goes_on_after_an_error_and_tells_all, |lab| {
    lab.config(
        "frontends:\n  - {bind: '10.9.0.1:4444', backends: ['10.2.0.11:80']}\n  \
         - {bind: '[fd09::1]:4444', backends: ['[fd02::11]:80']}\n",
    );
    let break_one = |family: &str| {
        let path = lab.path(&format!("bin/{family}-restore"));
        let real = fs::read_link(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, format!("#!/bin/sh\ncat >/dev/null\necho no {family} today >&2\nexit 1\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (path, real)
    };
    let mend = |(path, real)| {
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(real, &path).unwrap();
    };
    // The family that is removed first, and the last one.
    for family in ["iptables", "ip6tables"] {
        lab.ok("start");
        let broken = break_one(family);
        let (code, _, err) = lab.paraglider("stop");
        assert!(code == 1 && err.contains(&format!("{family}-restore refused: no {family} today")), "{err}");
        assert!(err.contains("removed all other rules of Paraglider"), "{err}");
        let left = lab.ours();
        assert!(left.iter().all(|line| line.starts_with(&format!("{family}-"))) && !left.is_empty(), "{left:?}");
        // What is left goes as soon as it can.
        mend(broken);
        lab.ok("stop");
        assert_eq!(lab.ours(), [""; 0], "{family}");
    }
    lab.ok("start");
    let before = lab.ours();
    let broken = ["iptables", "ip6tables"].map(break_one);
    let (code, _, err) = lab.paraglider("stop");
    let told = ["no iptables today", "no ip6tables today", "nothing was removed"];
    assert!(code == 1 && told.iter().all(|why| err.contains(why)), "{err}");
    assert_eq!(lab.ours(), before);
    broken.into_iter().for_each(mend);
    lab.ok("stop");
    assert_eq!(lab.ours(), [""; 0]);
});

// The same of two tables.
on_both!(stop_removes_one_table_where_the_other_is_stuck, |lab| {
    lab.balance(&[1, 2, 3]);
    for (stuck, left, gone) in [("nat", "PG-", "PARAGLIDER-FWD"), ("filter", "PARAGLIDER-FWD", "PG-")] {
        lab.ok("start");
        wrap_restore(
            lab,
            &format!(
                "cat >$DIR/text; if grep -q '^.{stuck}$' $DIR/text; then echo it is stuck >&2; exit 1; fi\n\
                 exec $REAL \"$@\" <$DIR/text"
            ),
        );
        let (code, _, err) = lab.paraglider("stop");
        assert!(code == 1 && err.contains("iptables-restore refused: it is stuck"), "{err}");
        let ours = lab.ours();
        assert!(ours.iter().any(|line| line.contains(left)), "{stuck}: {ours:?}");
        assert!(!ours.iter().any(|line| line.contains(gone)), "{stuck}: {ours:?}");
        wrap_restore(lab, "exec $REAL \"$@\"");
        lab.ok("stop");
        assert_eq!(lab.ours(), [""; 0], "{stuck}");
    }
});

// Of iptables-save, which the nftables engine does not call.
on_both!(a_list_that_is_not_whole_is_not_believed, |lab| {
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    let right = lab.saved(false);
    for (script, said) in [
        ("exit 0", "lacks table"),
        ("echo garbage", "lacks table"),
        ("$REAL \"$@\" | awk '/^\\*nat/ { gone = 1 } !gone { print } /^COMMIT/ { gone = 0 }'", "lacks table nat"),
        ("$REAL \"$@\" | head -c 500", "ends in the middle of table"),
        (
            "$REAL \"$@\" | awk '/^\\*nat/ { nat = 1 } nat { twice = twice \"\\n\" $0 } { print } END { print twice }'",
            "has table nat twice",
        ),
    ] {
        wrap(lab, "save", script);
        let (code, _, err) = lab.paraglider("start");
        assert!(
            code == 1 && err.contains("cannot read the IPv4 rules in force") && err.contains(said),
            "{script}: {err}"
        );
        let (code, out, _) = lab.paraglider("status");
        assert!(matches!(code, 1 | 4) && out.contains(said), "{script}: {out}");
        assert_eq!(lab.saved(false), right, "{script}");
    }
    // The kernel tells what nft's variant has; for the old one nothing does.
    let (code, _, err) = lab.paraglider("stop");
    match lab.variant {
        Variant::Nft => assert!(code == 0 && lab.ours().is_empty(), "{err}{:?}", lab.ours()),
        _ => assert!(code == 1 && err.contains("may be left there"), "{err}"),
    }
});

/// The listing is whole, but it says nothing of ours. The kernel knows better.
#[test]
fn a_list_that_hides_ours_is_not_believed() {
    crate::in_lab("failure::a_list_that_hides_ours_is_not_believed", Variant::Nft, |lab| {
        lab.balance(&[1, 2, 3]);
        lab.ok("start");
        let right = lab.saved(false);
        for (script, said) in [
            ("$REAL \"$@\" | grep -v -e PARAGLIDER -e PG-", "lacks chain P"),
            ("$REAL \"$@\" | awk '/^\\*/ { nat = /nat/ } !nat || !/PARAGLIDER|PG-/ { print }'", "lacks chain P"),
        ] {
            wrap(lab, "save", script);
            let (code, _, err) = lab.paraglider("start");
            assert!(code == 1 && err.contains(said), "{script}: {err}");
            assert!(matches!(lab.paraglider("status").0, 1 | 4), "{script}");
            assert_eq!(lab.saved(false), right, "{script}");
        }
        // It removes what the kernel names, or says that it cannot.
        let (code, _, err) = lab.paraglider("stop");
        assert!(code == 0 && lab.ours().is_empty(), "{err}{:?}", lab.ours());
    });
}

// The same.
on_both!(rules_that_cannot_be_read_back_are_taken_back, |lab| {
    lab.balance(&[1, 2]);
    lab.ok("start");
    let before = lab.saved(false);
    lab.balance(&[1, 2, 3]);
    // It breaks as soon as something was written.
    wrap(lab, "save", "[ -e $DIR/written ] && exit 1; exec $REAL \"$@\"");
    wrap(lab, "restore", "touch $DIR/written; exec $REAL \"$@\"");
    let (code, _, err) = lab.paraglider("start");
    assert!(code == 1 && err.contains("cannot be read back") && err.contains("nothing was changed"), "{err}");
    assert_eq!(lab.saved(false), before);
});
