//! UDP, ranges of ports and lists of them.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::datagram::{self, ask_often, in_turn, since, Talker};
use crate::health::QUICK;
use crate::lab::{self, needs_ipv6, sh, Lab, Variant};
use crate::watching::{until, Watch};
use crate::{answers, on_all};

const HOSTS: [&str; 3] = ["b1", "b2", "b3"];

fn serve_all(ports: &[u16]) {
    for host in HOSTS {
        ports.iter().for_each(|port| datagram::serve(host, None, *port));
    }
}

/// A frontend over backends of the laboratory, each as written.
fn frontend(lab: &Lab, bind: &str, more: &str, backends: &str) {
    lab.config(&format!("frontend:\n  bind: '{bind}'\n{more}  backends: [{backends}]\n"));
}

const ALL: &str = "'10.2.0.11:53', '10.2.0.12:53', '10.2.0.13:53'";

on_all!(it_is_dealt_out_and_a_socket_stays, |lab| {
    serve_all(&[53]);
    frontend(lab, "10.9.0.1:5300", "  protocol: udp\n  privateip: 10.2.0.1\n", ALL);
    let (code, _, said) = lab.paraglider("start");
    assert!(code == 0 && said.contains("10.9.0.1:5300/udp is balanced over 3 backends"), "{said}");
    let fair = answers(&[("b1 10.2.0.1 53", 10), ("b2 10.2.0.1 53", 10), ("b3 10.2.0.1 53", 10)]);
    assert_eq!(ask_often("client", "10.9.0.1:5300", 30), fair);
    assert_eq!(ask_often("balancer", "10.9.0.1:5300", 30), fair);
    let status = lab.ok("status");
    assert!(status.contains("\n10.9.0.1:5300/udp (10.9.0.1-5300-udp)\n") && status.contains("20 taken"), "{status}");
    assert!(status.contains("  20 active"), "{status}");
    // TCP is none of it.
    assert_eq!(lab::ask_often("client", "10.9.0.1:5300", 1), answers(&[("ConnectionRefused", 1)]));
    let talker = Talker::begin("10.9.0.1:5300");
    sleep(Duration::from_secs(1));
    let all = talker.end();
    assert_eq!(since(&all, all[0].0, Instant::now()).0.len(), 1, "{all:?}");
    lab.is_in_force();
    let (code, check, _) = lab.paraglider("check");
    assert!(code == 0 && !check.contains("error"), "{check}");

    // Shares by weight, each schedule, and a weight of 0 for all: then the port is closed.
    let weights = "{address: '10.2.0.11:53', weight: 3}, '10.2.0.12:53'";
    frontend(lab, "10.9.0.1:5301", "  protocol: udp\n", weights);
    lab.ok("start");
    assert_eq!(ask_often("client", "10.9.0.1:5301", 8), answers(&[("b1 10.2.0.1 53", 6), ("b2 10.2.0.1 53", 2)]));
    frontend(lab, "10.9.0.1:5302", "  protocol: udp\n  schedule: source\n", ALL);
    lab.ok("start");
    lab.is_in_force();
    assert_eq!(ask_often("client", "10.9.0.1:5302", 5).len(), 1);
    frontend(lab, "10.9.0.1:5303", "  protocol: udp\n  schedule: random\n", ALL);
    lab.ok("start");
    lab.is_in_force();
    assert_eq!(ask_often("client", "10.9.0.1:5303", 60).len(), 3);
    frontend(lab, "10.9.0.1:5304", "  protocol: udp\n", "{address: '10.2.0.11:53', weight: 0}");
    lab.ok("start");
    lab.is_in_force();
    assert_eq!(ask_often("client", "10.9.0.1:5304", 1), answers(&[("ConnectionRefused", 1)]));
    // What a rule refuses on its way out is told to the program at once.
    let local = ask_often("balancer", "10.9.0.1:5304", 1).into_keys().next().unwrap();
    assert!(["ConnectionRefused", "PermissionDenied"].contains(&local.as_str()), "{local}");
    lab.ok("stop");
    assert_eq!(lab.ours(), [""; 0]);
});

on_all!(both_protocols_and_many_ports_keep_theirs, |lab| {
    serve_all(&[53, 5000, 5050, 5100]);
    for host in HOSTS {
        [53, 5000, 5050, 5100].into_iter().for_each(|port| lab::serve(host, port));
    }
    frontend(lab, "10.9.0.1:[53, 5000-5100]", "  protocol: both\n", "10.2.0.11, 10.2.0.12, 10.2.0.13");
    lab.ok("start");
    lab.is_in_force();
    for port in [53, 5000, 5050, 5100] {
        let to = format!("10.9.0.1:{port}");
        let three: Vec<String> = HOSTS.iter().map(|host| format!("{host} 10.2.0.1 {port}")).collect();
        assert_eq!(ask_often("client", &to, 3).into_keys().collect::<Vec<_>>(), three);
        assert_eq!(lab::ask_often("client", &to, 3).len(), 3);
    }
    for port in [52, 54, 4999, 5101] {
        assert_eq!(ask_often("client", &format!("10.9.0.1:{port}"), 1), answers(&[("ConnectionRefused", 1)]), "{port}");
    }
    let status = lab.ok("status");
    for name in ["10.9.0.1:[53, 5000-5100]", "10.9.0.1:[53, 5000-5100]/udp"] {
        assert!(status.contains(&format!("\n{name}")), "{status}");
    }
    assert_eq!(status.matches("4 taken").count(), 6, "{status}");
    // All go to one port.
    frontend(lab, "10.9.0.1:[53, 5000-5100]", "  protocol: both\n", ALL);
    lab.ok("start");
    lab.is_in_force();
    assert_eq!(ask_often("client", "10.9.0.1:5070", 3).into_keys().next().unwrap(), "b1 10.2.0.1 53");
    lab.ok("stop --drain 1");
    assert_eq!(lab.ours(), [""; 0]);
});

on_all!(of_ipv6_too, |lab| {
    needs_ipv6();
    serve_all(&[53, 5050]);
    frontend(lab, "[fd09::1]:[53, 5000-5100]", "  protocol: udp\n", "'[fd02::11]', '[fd02::12]', fd02::13");
    lab.ok("start");
    lab.is_in_force();
    for port in [53, 5050] {
        let three: Vec<String> = HOSTS.iter().map(|host| format!("{host} fd02::1 {port}")).collect();
        assert_eq!(ask_often("client", &format!("[fd09::1]:{port}"), 3).into_keys().collect::<Vec<_>>(), three);
    }
    assert_eq!(ask_often("client", "[fd09::1]:5101", 1), answers(&[("ConnectionRefused", 1)]));
    let talker = Talker::begin("[fd09::1]:53");
    sleep(Duration::from_millis(500));
    frontend(lab, "[fd09::1]:[53, 5000-5100]", "  protocol: udp\n", "'[fd02::13]:53'");
    let changed = Instant::now();
    lab.ok("start");
    sleep(Duration::from_millis(1000));
    let all = talker.end();
    let (who, lost) = since(&all, changed + Duration::from_millis(400), Instant::now());
    assert!(who.len() == 1 && who.contains_key("b3") && lost == 0, "{all:?}");
});

// One socket, through all that can happen to its backend: at most one datagram is lost each time.
on_all!(a_flow_goes_where_it_belongs, |lab| {
    serve_all(&[53]);
    sh("sysctl -qw net.ipv4.ip_forward=1");
    datagram::serve("balancer", Some([10, 9, 0, 1].into()), 53);
    // The kernel tracks it before there are rules.
    sh("nft 'table ip t { chain c { type filter hook prerouting priority 0; ct state new accept; }; }'");
    let talker = Talker::begin("10.9.0.1:53");
    let settle = || sleep(Duration::from_millis(700));
    settle();
    let step = |work: &dyn Fn()| {
        work();
        settle();
    };
    let udp = |backends: &str| frontend(lab, "10.9.0.1:53", "  protocol: udp\n", backends);
    step(&|| {
        udp("'10.2.0.11:53'");
        lab.ok("start");
    });
    step(&|| {
        udp("'10.2.0.12:53', '10.2.0.13:53'");
        lab.ok("start");
    });
    // It drains: the flow stays. So it does where nothing changes for it.
    step(&|| {
        udp("{address: '10.2.0.12:53', weight: 0}, '10.2.0.13:53'");
        lab.ok("reload");
    });
    step(&|| {
        udp("{address: '10.2.0.12:53', weight: 0}, '10.2.0.13:53', '10.2.0.11:53'");
        lab.ok("reload");
    });
    step(&|| {
        udp("'10.2.0.13:53'");
        lab.ok("reload");
    });
    step(&|| drop(lab.ok("stop")));
    let all = talker.end();
    let (order, lost) = in_turn(&all);
    // The second backend of two may be the first one's turn.
    assert!(
        order == ["balancer", "b1", "b2", "b3", "balancer"] || order == ["balancer", "b1", "b3", "balancer"],
        "{order:?}"
    );
    assert!(lost <= 4, "{lost} lost: {all:?}");
});

on_all!(a_verdict_of_the_watch_takes_flows_along, |lab| {
    // Checked by TCP at a port beside it.
    serve_all(&[53]);
    let [_b1, mut b2, _b3] = crate::backend::Backend::three();
    let health = format!("  protocol: udp\n  health: {{{QUICK}, port: 80}}\n");
    frontend(lab, "10.9.0.1:53", &health, "'10.2.0.12:53', '10.2.0.13:53'");
    let watch = Watch::begin(lab);
    let talker = Talker::begin("10.9.0.1:53");
    sleep(Duration::from_millis(500));
    let begin = Instant::now();
    b2.stop();
    watch.hears(begin, "10.2.0.12:53 of 10.9.0.1:53/udp is down");
    sleep(Duration::from_millis(700));
    let all = talker.end();
    let (order, lost) = in_turn(&all);
    assert!(order.ends_with(&["b3"]) && lost <= 1, "{order:?}, {lost} lost");
    // What is known of it outlives the watch.
    assert_eq!(watch.end(Signal::SIGKILL), None);
    sh(lab.loses_all());
    lab.ok("start --again");
    assert_eq!(ask_often("client", "10.9.0.1:53", 6), answers(&[("b3 10.2.0.1 53", 6)]));
    b2.start();
    let watch = Watch::with(lab, "watch --again");
    until("it is back", || lab.leads_to("10.2.0.12:53"));
    drop(watch);
});

on_all!(a_flow_stays_where_nobody_is_known_to_be_dead, |lab| {
    serve_all(&[53]);
    let [mut b1, mut b2, _b3] = crate::backend::Backend::three();
    // All are down, and new ones are refused: whom there is goes on.
    let health = format!("  protocol: udp\n  health: {{{QUICK}, port: 80, on_all_down: reject}}\n");
    frontend(lab, "10.9.0.1:53", &health, "'10.2.0.11:53', '10.2.0.12:53'");
    let watch = Watch::begin(lab);
    let talker = Talker::begin("10.9.0.1:53");
    sleep(Duration::from_millis(300));
    let begin = Instant::now();
    b1.stop();
    b2.stop();
    watch.hears(begin, "all backends are down");
    sleep(Duration::from_millis(700));
    let all = talker.end();
    let (order, lost) = in_turn(&all);
    assert!(order.len() == 1 && lost == 0, "{order:?}, {lost} lost");
    drop(watch);
    lab.ok("stop");

    // A backup that has nothing to do any more keeps what it has.
    let health = format!("  protocol: udp\n  health: {{{QUICK}, port: 80}}\n");
    frontend(lab, "10.9.0.1:5300", &health, "'10.2.0.11:53', {address: '10.2.0.13:53', backup: true}");
    let watch = Watch::begin(lab);
    let begin = Instant::now();
    watch.hears(begin, "10.2.0.11:53 of 10.9.0.1:5300/udp is down");
    until("the backup takes over", || lab.leads_to("10.2.0.13:53"));
    let talker = Talker::begin("10.9.0.1:5300");
    sleep(Duration::from_millis(300));
    b1.start();
    watch.hears(begin, "10.2.0.11:53 of 10.9.0.1:5300/udp is up");
    sleep(Duration::from_millis(700));
    let all = talker.end();
    let (order, lost) = in_turn(&all);
    assert!(order == ["b3"] && lost == 0, "{order:?}, {lost} lost");
});

on_all!(a_backend_that_drains_is_one_whatever_its_ports, |lab| {
    serve_all(&[53, 5050, 5060]);
    frontend(lab, "10.9.0.1:[53, 5000-5100]", "  protocol: udp\n", "10.2.0.11, 10.2.0.12");
    lab.ok("start");
    for port in [53, 5050, 5060] {
        assert_eq!(ask_often("client", &format!("10.9.0.1:{port}"), 2).len(), 2);
    }
    let drains = "10.2.0.11, {address: 10.2.0.12, weight: 0}";
    frontend(lab, "10.9.0.1:[53, 5000-5100]", "  protocol: udp\n", drains);
    lab.ok("reload");
    let status = lab.ok("status");
    let lines: Vec<&str> = status.lines().filter(|line| line.contains("10.2.0.12")).collect();
    assert!(lines.len() == 1 && lines[0].contains("  3 active"), "{status}");
});

on_all!(ports_that_leave_a_bind_take_their_flows_along, |lab| {
    serve_all(&[53, 105]);
    frontend(lab, "10.9.0.1:[53, 100-110]", "  protocol: udp\n", "10.2.0.11, 10.2.0.12");
    lab.ok("start");
    let (stays, goes) = (Talker::begin("10.9.0.1:53"), Talker::begin("10.9.0.1:105"));
    sleep(Duration::from_millis(400));
    frontend(lab, "10.9.0.1:[53, 54]", "  protocol: udp\n", "10.2.0.11, 10.2.0.12");
    lab.ok("reload");
    let from = Instant::now() + Duration::from_millis(150);
    sleep(Duration::from_millis(700));
    let now = Instant::now();
    let (stays, goes) = (stays.end(), goes.end());
    assert_eq!(stays.iter().filter(|(_, answer)| answer.is_none()).count(), 0, "{stays:?}");
    assert_eq!(since(&goes, from, now).0.len(), 0, "{goes:?}");
    // One that had a port of its own, and keeps the client's from now on.
    frontend(lab, "10.9.0.1:[53, 105]", "  protocol: udp\n", "'10.2.0.11:105'");
    lab.ok("reload");
    let talker = datagram::Flow::from_port(40001, "10.9.0.1:53");
    assert!(talker.ask().unwrap().ends_with(" 105"));
    frontend(lab, "10.9.0.1:[53, 105]", "  protocol: udp\n", "10.2.0.11");
    lab.ok("reload");
    assert!(talker.ask().or_else(|| talker.ask()).unwrap().ends_with(" 53"));
});

on_all!(a_flow_that_this_host_has_begun_is_balanced_from_then_on, |lab| {
    serve_all(&[53]);
    sh("nft 'table ip t { chain c { type filter hook input priority 0; ct state new accept; }; }'");
    let own = std::net::UdpSocket::bind("10.9.0.1:53").unwrap();
    let client = datagram::Flow::from_port(40000, "10.9.0.1:53");
    // The kernel knows it from now on, the other way round.
    own.send_to(b"hello", "10.1.0.2:40000").unwrap();
    client.say();
    let mut buffer = [0; 9];
    own.recv_from(&mut buffer).unwrap();
    frontend(lab, "10.9.0.1:53", "  protocol: udp\n", "'10.2.0.11:53'");
    lab.ok("start");
    let answers = [client.ask(), client.ask(), client.ask()];
    assert!(answers.iter().flatten().any(|answer| answer.starts_with("b1 ")), "{answers:?}");
});

on_all!(a_program_that_listens_at_the_bind_is_told_of, |lab| {
    datagram::serve("balancer", Some([10, 9, 0, 1].into()), 5300);
    let says = |bind: &str| {
        frontend(lab, bind, "  protocol: udp\n", "'10.2.0.11:53'");
        lab.paraglider("check").1.contains("10.9.0.1:5300/udp: a program on this host listens there")
    };
    assert!(says("10.9.0.1:5300") && says("10.9.0.1:[53, 5300]") && !says("10.9.0.1:5301"));
    lab.config("frontend: {bind: '10.9.0.1:5300', backends: ['10.2.0.11:53']}\n");
    assert!(!lab.paraglider("check").1.contains("a program on this host listens there"));
});

on_all!(what_overlaps_is_told, |lab| {
    for (other, why) in [
        ("10.9.0.1:5050", "`10.9.0.1:5050` and `10.9.0.1:5000-5100`, the bind of `a`, have ports in common"),
        ("10.9.0.1:5000-5100", "is the bind of another frontend (`a`)"),
    ] {
        lab.config(&format!(
            "frontends:\n- {{name: a, bind: '10.9.0.1:5000-5100', backends: [10.2.0.11]}}\n- {{bind: '{other}', backends: [10.2.0.12]}}\n"
        ));
        let (code, _, said) = lab.paraglider("start");
        assert!(code == 2 && said.contains(why) && said.contains("glider.yaml:3:"), "{said}");
    }
    // The other protocol is another bind.
    lab.config(
        "frontends:\n- {bind: '10.9.0.1:5000-5100', backends: [10.2.0.11]}\n\
         - {bind: '10.9.0.1:5050', protocol: udp, backends: ['10.2.0.12']}\n",
    );
    lab.ok("start");
    lab.is_in_force();
    lab.ok("stop");
});
