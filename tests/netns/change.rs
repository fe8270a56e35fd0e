//! Rules come, change and go: nothing is lost, nothing is left, nothing of others is touched.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::lab::{ask, ask_often, inside, serve, sh, Held, Lab, Variant};
use crate::watching::shares;
use crate::{answers, on_all, on_both, BIND};

fn serve_three() {
    for host in ["b1", "b2", "b3"] {
        serve(host, 80);
    }
}

on_all!(start_twice_writes_nothing_and_the_turn_goes_on, |lab| {
    serve_three();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    assert_eq!(ask_often("client", BIND, 1), answers(&[("b1 10.2.0.1", 1)]));
    lab.is_in_force();
    assert_eq!(ask_often("client", BIND, 1), answers(&[("b2 10.2.0.1", 1)]));
});

on_all!(a_rewrite_starts_at_another_backend, |lab| {
    serve_three();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    assert_eq!(ask_often("client", BIND, 1), answers(&[("b1 10.2.0.1", 1)]));
    // Somebody takes our rule away; it comes back, and with it all counters begin anew.
    sh(lab.loses_local_clients());
    assert_eq!(lab.paraglider("status").0, 1);
    sh(lab.loses_clients());
    lab.ok("start");
    assert_eq!(ask_often("client", BIND, 1), answers(&[("b2 10.2.0.1", 1)]));
});

on_all!(stop_needs_no_config, |lab| {
    lab.balance(&[1, 2, 3]);
    for change in ["edit", "break", "delete"] {
        lab.balance(&[1, 2, 3]);
        lab.ok("start");
        assert!(!lab.ours().is_empty());
        match change {
            "edit" => lab.config("frontend: {bind: '10.9.0.1:5555', backends: ['10.2.0.13:81']}"),
            "break" => lab.config("frontend: [\n"),
            _ => fs::remove_file(lab.path("glider.yaml")).unwrap(),
        }
        lab.ok("stop");
        assert_eq!(lab.ours(), [""; 0], "{change}");
        lab.ok("stop");
    }
});

on_all!(stop_removes_rules_of_another_version, |lab| {
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    // Chains that this version would not make, and hooks that look otherwise.
    match lab.variant {
        Variant::Netlink => sh("nft 'add chain inet paraglider forward { type filter hook forward priority 0; }; \
             add chain inet paraglider old; add rule inet paraglider forward jump old; \
             add map inet paraglider sticky { type ipv4_addr : mark; flags dynamic,timeout; timeout 30m; }'"),
        _ => sh("iptables -t nat -N PG-old/7 && iptables -t nat -A PARAGLIDER -p tcp -j PG-old/7 && \
             iptables -t nat -I PREROUTING -p tcp -m tcp --dport 1:65535 -j PARAGLIDER && iptables -A FORWARD -g PARAGLIDER-FWD"),
    };
    lab.ok("stop");
    assert_eq!(lab.ours(), [""; 0]);
});

on_all!(nothing_of_others_changes, |lab| {
    serve_three();
    lab.with_rules_of_others();
    let before = lab.others();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    assert_eq!(lab.others(), before);
    lab.balance(&[1, 2]);
    lab.ok("reload");
    assert_eq!(lab.others(), before);
    lab.ok("stop");
    assert_eq!(lab.others(), before);
});

on_all!(two_frontends_share_a_backend_and_one_leaves, |lab| {
    serve_three();
    let web =
        "  - {name: web, bind: '10.9.0.1:4444', privateip: 10.2.0.1, backends: ['10.2.0.11:80', '10.2.0.12:80']}\n";
    let api = "  - {name: api, bind: '10.9.0.1:5555', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}\n";
    lab.config(&format!("frontends:\n{web}{api}"));
    lab.ok("start");
    assert_eq!(ask_often("client", "10.9.0.1:5555", 2), answers(&[("b1 10.2.0.1", 2)]));
    lab.config(&format!("frontends:\n{web}"));
    lab.ok("reload");
    assert_eq!(ask_often("client", BIND, 10), answers(&[("b1 10.2.0.1", 5), ("b2 10.2.0.1", 5)]));
    assert_eq!(ask_often("client", "10.9.0.1:5555", 1), answers(&[("ConnectionRefused", 1)]));
    assert!(!lab.ours().iter().any(|line| line.contains("5555") || line.contains("api")));
});

on_all!(no_connection_is_lost_by_reloads, |lab| {
    serve_three();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    let to: SocketAddr = BIND.parse().unwrap();
    let held = inside("client", move || Held::open(to).unwrap()).join().unwrap();
    let at_first = held.ask().unwrap();

    // Two clients make 3,000 connections and more, until all reloads are through.
    let done = Arc::new(AtomicBool::new(false));
    let clients = [(); 2].map(|()| {
        let done = done.clone();
        inside("client", move || {
            let (mut made, mut failed) = (0, Vec::new());
            while made < 1500 || !done.load(Ordering::Relaxed) {
                made += 1;
                failed.extend(ask(to).err());
            }
            (made, failed)
        })
    });
    for n in 0..100 {
        lab.balance([&[1, 2, 3][..], &[1, 2], &[2, 3], &[3]][n % 4]);
        lab.ok("reload");
        assert_eq!(held.ask().unwrap(), at_first, "reload {n}");
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        let (made, failed) = client.join().unwrap();
        assert!(made >= 1500 && failed.is_empty(), "{} of {made} failed: {failed:?}", failed.len());
    }
    assert_eq!(held.ask().unwrap(), at_first);
});

on_all!(what_print_shows_is_what_start_makes, |lab| {
    lab.balance(&[1, 2, 3]);
    let text = lab.ok("print");
    fs::write(lab.path("rules"), &text).unwrap();
    let load = if lab.variant == Variant::Netlink { "nft -f" } else { "iptables-restore --noflush" };
    sh(&format!("{load} {}", lab.path("rules").display()));
    let (_, _, err) = lab.paraglider("start");
    assert!(err.contains("already in force"), "{err}");
    lab.ok("status");
});

// Of the two iptables; `nftables.rs` tells the same of iptables and nftables.
on_both!(rules_in_the_other_variant_are_found_and_removed, |lab| {
    serve_three();
    lab.balance(&[1, 2, 3]);
    let text = lab.ok("print").replace("10.2.0.12", "10.2.0.99");
    fs::write(lab.path("rules"), &text).unwrap();
    sh(&format!("iptables-{}-restore --noflush < {}", lab.variant.other().infix(), lab.path("rules").display()));

    let (code, out, _) = lab.paraglider("status");
    assert_eq!(code, 1, "{out}");
    lab.ok("check");
    lab.ok("start");
    assert!(lab.ours().iter().all(|line| line.contains(lab.variant.infix())), "{:?}", lab.ours());
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);

    sh(&format!("iptables-{}-restore --noflush < {}", lab.variant.other().infix(), lab.path("rules").display()));
    assert_eq!(lab.paraglider("status").0, 1);
    lab.ok("stop");
    assert_eq!(lab.ours(), [""; 0]);
});

on_all!(after_stop_a_held_connection_lives_where_another_firewall_tracks_it, |lab| {
    serve_three();
    lab.with_nat_of_others();
    sh("iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    let at_first = held.ask().unwrap();
    let (code, _, err) = lab.paraglider("stop");
    assert!(code == 0 && err.contains("1 established connection will live on"), "{err}");
    assert_eq!(held.ask().unwrap(), at_first);
    assert_eq!(ask_often("client", BIND, 1), answers(&[("ConnectionRefused", 1)]));
});

on_all!(after_stop_a_held_connection_lives_where_nftables_itself_tracks_it, |lab| {
    serve_three();
    lab.with_nat_of_others();
    sh("nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; }; add rule inet fw in ct state established accept'");
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    let at_first = held.ask().unwrap();
    // The kernel tells, not the program.
    sh("mount --bind /dev/null /usr/sbin/nft");
    let (_, _, err) = lab.paraglider("stop");
    assert!(err.contains("1 established connection will live on"), "{err}");
    assert_eq!(held.ask().unwrap(), at_first);
});

on_all!(after_stop_a_held_connection_is_cut_where_nothing_else_tracks_it, |lab| {
    serve_three();
    if lab.variant == Variant::Netlink {
        // Without a chain for nat it does not help that they are tracked.
        sh("iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    }
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    held.ask().unwrap();
    let (_, _, err) = lab.paraglider("stop");
    assert!(err.contains("1 established connection will be cut"), "{err}");
    assert!(held.ask().is_err());
});

on_all!(drain_refuses_new_connections_and_lets_the_old_ones_end, |lab| {
    serve_three();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    let at_first = held.ask().unwrap();
    let mut stop = lab.command("stop --drain 20").spawn().unwrap();
    let since = Instant::now();
    while lab.balances() {
        assert!(since.elapsed() < Duration::from_secs(5));
    }
    assert_eq!(ask_often("client", BIND, 1), answers(&[("ConnectionRefused", 1)]));
    let (code, out, _) = lab.paraglider("status");
    assert!(code == 1 && out.contains("`stop --drain` lets connections end"), "{out}");
    for _ in 0..4 {
        assert_eq!(held.ask().unwrap(), at_first);
        std::thread::sleep(Duration::from_millis(400));
    }
    assert!(stop.try_wait().unwrap().is_none(), "it waits while the connection lives");
    drop(held);
    assert!(stop.wait().unwrap().success());
    assert!(since.elapsed() < Duration::from_secs(15), "it does not wait longer than needed");
    assert_eq!(lab.ours(), [""; 0]);
});

on_all!(drain_ends_when_the_time_is_up, |lab| {
    serve_three();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    held.ask().unwrap();
    let since = Instant::now();
    let (code, _, err) = lab.paraglider("stop --drain 2");
    assert!(code == 0 && err.contains("1 established connection will be cut"), "{err}");
    assert!((2..8).contains(&since.elapsed().as_secs()));
    assert_eq!(lab.ours(), [""; 0]);
});

on_all!(a_drain_that_was_broken_off_can_be_done_again, |lab| {
    serve_three();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    let at_first = held.ask().unwrap();
    let mut stop = lab.command("stop --drain 30").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(800));
    stop.kill().unwrap();
    stop.wait().unwrap();
    let mut stop = lab.command("stop --drain 30").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    assert!(stop.try_wait().unwrap().is_none(), "it waits again");
    assert_eq!(held.ask().unwrap(), at_first);
    drop(held);
    assert!(stop.wait().unwrap().success());
    assert_eq!(lab.ours(), [""; 0]);
});

// The same.
on_both!(rules_in_the_other_variant_are_drained_too, |lab| {
    serve_three();
    lab.balance(&[1, 2, 3]);
    let text = lab.ok("print");
    fs::write(lab.path("rules"), &text).unwrap();
    sh("sysctl -qw net.ipv4.ip_forward=1");
    sh(&format!("iptables-{}-restore --noflush < {}", lab.variant.other().infix(), lab.path("rules").display()));
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    let at_first = held.ask().unwrap();
    let mut stop = lab.command("stop --drain 30").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    assert!(stop.try_wait().unwrap().is_none(), "it waits");
    assert_eq!(held.ask().unwrap(), at_first);
    drop(held);
    assert!(stop.wait().unwrap().success());
    assert_eq!(lab.ours(), [""; 0]);
});

// No rule of others can jump into a table of nftables.
on_both!(stop_removes_jumps_that_others_made_in_odd_ways, |lab| {
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    sh("iptables -I FORWARD -p udp -j ACCEPT");
    // -D by its text does not find a rule with state of its own.
    sh("iptables -I FORWARD -m recent --set --name seen -j PARAGLIDER-FWD");
    sh("iptables -A FORWARD -m comment --comment -j -j PARAGLIDER-FWD");
    sh("iptables -A FORWARD -i '\"x' -j ACCEPT");
    sh("iptables -A FORWARD -m comment --comment 'two words' -j ACCEPT");
    lab.is_in_force();
    lab.ok("stop");
    assert_eq!(lab.ours(), [""; 0]);
    assert_eq!(sh("iptables -S FORWARD").lines().count(), 4);
});

on_all!(removing_a_frontend_with_connections_is_said, |lab| {
    serve_three();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    held.ask().unwrap();
    lab.config("frontend: {bind: '10.9.0.1:5555', backends: ['10.2.0.11:80']}");
    let (code, _, err) = lab.paraglider("reload");
    assert!(
        code == 0 && err.contains("1 established connection of frontends that were removed will live only if"),
        "{err}"
    );
});

on_all!(a_start_during_a_drain_wins, |lab| {
    serve_three();
    lab.balance(&[1, 2, 3]);
    lab.ok("start");
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    held.ask().unwrap();
    let mut stop = lab.command("stop --drain 4").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1000));
    lab.ok("start");
    assert!(stop.wait().unwrap().success());
    lab.ok("status");
    assert_eq!(shares(BIND, 3).len(), 3);
});
