//! The life of the package on a router, with each variant of iptables and without any.

use std::net::SocketAddr;

use crate::datagram;
use crate::lab::{self, ask_often, inside, sh, Held, Lab, Variant};
use crate::router::{By, Router};

/// Facility daemon with the levels err, warning and info, as syslog(3) writes them.
pub const ERROR: &str = "<27>";
pub const WARNING: &str = "<28>";
pub const INFO: &str = "<30>";

const BIND: &str = "10.9.0.1:4444";

/// What routers have to write rules with.
const VARIANTS: [Variant; 3] = [Variant::Netlink, Variant::Nft, Variant::Legacy];

/// Runs the story of a test in a laboratory of its own, once for each of them.
pub fn tell(test: &str, story: fn(&Lab, &Router)) {
    if let Ok(variant) = std::env::var("PARAGLIDER_VARIANT") {
        let lab = Lab::new(*VARIANTS.iter().find(|known| known.engine() == variant).unwrap());
        for backend in ["b1", "b2", "b3"] {
            lab::serve(backend, 80);
        }
        // A client in LAN needs a way to the bind.
        sh("ip -n b3 route add 10.9.0.1 via 10.2.0.1");
        return story(&lab, &Router::new(&lab));
    }
    if !cfg!(target_arch = "x86_64") {
        return println!("skipped: {test}: this machine does not run the x86_64 binary");
    }
    for variant in VARIANTS {
        let mut command = lab::entrance(&["--exact", test, "--nocapture", "--test-threads=1"]).unwrap();
        let output = command.env("PARAGLIDER_VARIANT", variant.engine()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if text.contains(lab::NO_IPV6) {
            println!("skipped: {test}: no IPv6");
            continue;
        }
        assert!(output.status.success() && text.contains("1 passed"), "{variant:?}:\n{text}");
    }
}

/// The backends that answer `n` connections from a host, each with its count.
pub fn answers(from: &str, n: usize) -> Vec<(String, usize)> {
    ask_often(from, BIND, n).into_iter().collect()
}

pub fn fair(backends: &[u8], each: usize) -> Vec<(String, usize)> {
    backends.iter().map(|n| (format!("b{n} 10.2.0.1"), each)).collect()
}

#[test]
fn it_is_installed_and_says_what_it_needs() {
    tell("story::it_is_installed_and_says_what_it_needs", |lab, router| {
        router.ok("/etc/init.d/firewall start");
        let installed = router.install();
        assert_eq!(installed.code, 0, "{}", installed.err);
        assert!(router.exists("etc/rc.d/S21paraglider") && router.exists("etc/rc.d/K79paraglider"));
        assert!(router.is_executable("etc/init.d/paraglider"));
        assert_eq!(router.ok("uci -q get firewall.paraglider.path").trim(), "/usr/share/paraglider/firewall.include");

        // The config that comes with it balances nothing. One line says what to do, at each start and at boot.
        let line = "/etc/paraglider/glider.yaml has no frontend yet: write one, then /etc/init.d/paraglider start";
        let log = |router: &Router| router.log();
        let told = log(router);
        assert!(told.starts_with(INFO) && told.trim_end().ends_with(&format!(" paraglider: {line}")), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        router.boot();
        let told = log(router);
        assert!(told.starts_with(INFO) && told.contains(line) && told.lines().count() == 1, "{told}");
        let start = router.service("start");
        assert_eq!((start.code, start.err.trim()), (6, line));
        assert!(!router.exists("tmp/run/paraglider.yaml"));
        assert_eq!(router.service("status").code, 3);
        assert_ne!(router.service("running").code, 0);
        assert!(lab.ours().is_empty());
    });
}

#[test]
fn it_lives_through_what_happens_to_a_router() {
    tell("story::it_lives_through_what_happens_to_a_router", |lab, router| {
        router.ok("/etc/init.d/firewall start");
        router.install();
        router.balance(&[1, 2, 3]);
        let flash = router.flash();

        router.log();

        // Boot, before any interface has an address.
        sh("ip addr del 10.9.0.1/32 dev lo && ip addr del 10.1.0.1/24 dev wan && ip addr del 10.2.0.1/24 dev lan");
        router.boot();
        sh("ip addr add 10.9.0.1/32 dev lo && ip addr add 10.1.0.1/24 dev wan && ip addr add 10.2.0.1/24 dev lan");
        assert!(router.log().starts_with(INFO));

        // From WAN and from LAN.
        assert_eq!(answers("client", 9), fair(&[1, 2, 3], 3));
        assert_eq!(answers("b3", 9), fair(&[1, 2, 3], 3));
        let status = router.service("status");
        assert!(status.code == 0 && status.out.contains("6 taken"), "{}", status.out);
        assert_eq!(router.service("running").code, 0);

        // Again, and four at once: nothing changes.
        let rules = lab.saved(false);
        let many: Vec<_> = (0..4).map(|_| router.begin("/etc/init.d/paraglider start")).collect();
        for mut one in many {
            assert!(one.wait().unwrap().success());
        }
        assert_eq!(lab.saved(false), rules);
        assert!(router.service("restart").err.contains("already in force"), "no stop in between");
        assert_eq!(answers("client", 3), fair(&[1, 2, 3], 1), "the turn goes on");

        // Another config.
        router.balance(&[1, 2]);
        assert_eq!(router.service("reload").code, 0);
        assert_eq!(answers("client", 8), fair(&[1, 2], 4));
        let rules = lab.saved(false);

        // A broken one: it is told, and the rules stay; also where the firewall loads anew, and where it removes ours.
        router.write("etc/paraglider/glider.yaml", "frontend:\n  bnid: 10.9.0.1:4444\n");
        router.log();
        for word in ["reload", "start", "restart"] {
            let broken = router.service(word);
            assert!(broken.code == 2 && broken.err.contains("did you mean `bind`?"), "{word}: {}", broken.err);
        }
        let log = router.log();
        assert!(log.starts_with(ERROR) && log.contains("/etc/paraglider/glider.yaml:2:3: unknown key"), "{log}");
        assert_eq!(lab.saved(false), rules);
        assert_eq!(answers("client", 4), fair(&[1, 2], 2));
        let firewall = router.variant() != Variant::Legacy;
        for words in if firewall { &["reload", "restart", "stop", "start"][..] } else { &["restart"] } {
            let done = router.run(&format!("/etc/init.d/firewall {words}"));
            assert_eq!(done.code, 0, "firewall {words}: {}", done.err);
            if *words == "stop" {
                assert!(lab.ours().is_empty(), "that was to remove ours");
            } else {
                assert_eq!(answers("client", 4), fair(&[1, 2], 2), "firewall {words}");
            }
        }
        router.balance(&[1, 2]);
        assert_eq!(router.service("status").code, 0);
        assert_eq!(router.flash(), flash, "nothing is written there");

        // Stop, over SSH: the session lives, and nothing of ours is left.
        let ssh = ssh_session();
        let stop = router.service("stop");
        assert_eq!(stop.code, 0, "{}", stop.err);
        ssh.ask().expect("the session lives");
        assert!(lab.ours().is_empty(), "{:?}", lab.ours());
        assert_eq!(let_through(), "");
        assert_eq!(router.service("status").code, 3);
        assert_eq!(router.service("stop").code, 0, "again");
        // It is meant to be off: the firewall does not bring it back.
        router.ok(if firewall { "/etc/init.d/firewall reload" } else { "/etc/init.d/firewall restart" });
        assert!(lab.ours().is_empty());
        assert!(answers("client", 1)[0].0.contains("Refused"), "{:?}", answers("client", 1));
    });
}

/// What firewall4 lets through for us; nothing where it has no sets of ours.
fn let_through() -> String {
    let list = sh("nft list sets 2>/dev/null || true");
    list.lines().filter_map(|line| line.trim().strip_prefix("elements = ")).collect::<Vec<_>>().join(" ")
}

/// The same, where it is more than a line.
fn let_through_all() -> String {
    let list = sh("nft list set inet fw4 paraglider");
    list.split_once("elements = ")
        .map_or_else(String::new, |(_, rest)| rest.split_once('}').unwrap().0.to_owned() + "}")
}

/// Whether firewall4 has anything of ours.
fn knows_us() -> bool {
    sh("nft list table inet fw4 2>/dev/null || true").contains("paraglider")
}

/// A connection of the client's to a service of the router itself.
fn ssh_session() -> Held {
    let listener = std::net::TcpListener::bind("10.1.0.1:22").unwrap();
    std::thread::spawn(move || {
        use std::io::{BufRead, BufReader, Write};
        let stream = listener.accept().unwrap().0;
        for _ in BufReader::new(stream.try_clone().unwrap()).lines() {
            writeln!(&stream, "router 10.1.0.2").unwrap();
        }
    });
    let to: SocketAddr = "10.1.0.1:22".parse().unwrap();
    let session = inside("client", move || Held::open(to).unwrap()).join().unwrap();
    session.ask().unwrap();
    session
}

#[test]
fn firewall4_lets_through_what_is_balanced_and_nothing_else() {
    tell("story::firewall4_lets_through_what_is_balanced_and_nothing_else", |_, router| {
        // iptables-zz-legacy can be beside firewall4 too.
        router.with_firewall4();
        router.ok("/etc/init.d/firewall start");
        router.install();
        router.write(
            "etc/paraglider/glider.yaml",
            "frontends:\n\
             \x20 - {bind: '10.9.0.1:4444', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}\n\
             \x20 - {bind: '[fd09::1]:4445', privateip: 'fd02::1', backends: ['[fd02::12]:80']}\n",
        );
        let start = router.service("start");
        assert_eq!(start.code, 0, "{}", start.err);
        let both = "{ 10.9.0.1 . 4444 } { fd09::1 . 4445 }";
        assert_eq!(let_through(), both);
        assert_eq!(answers("client", 2), fair(&[1], 2));
        let six = ask_often("client", "[fd09::1]:4445", 2);
        assert_eq!(six.into_iter().collect::<Vec<_>>(), [("b2 fd02::1".to_owned(), 2)]);
        // What is not balanced stays out: straight to a backend.
        let straight = ask_often("client", "10.2.0.11:80", 1);
        assert!(straight.keys().all(|answer| !answer.starts_with('b')), "{straight:?}");
        // Without them WAN is refused and LAN is not: this is what they are for.
        sh("nft flush set inet fw4 paraglider");
        assert!(!answers("client", 1)[0].0.starts_with('b'));
        assert_eq!(answers("b3", 1), fair(&[1], 1));
        assert_eq!(router.service("status").code, 1);
        router.ok("/etc/init.d/paraglider start");
        assert_eq!(answers("client", 1), fair(&[1], 1));
        // Whatever happens to firewall4.
        for words in ["reload", "restart", "reload", "stop", "start"] {
            router.ok(&format!("/etc/init.d/firewall {words}"));
            if words != "stop" {
                assert_eq!((let_through().as_str(), answers("client", 1)), (both, fair(&[1], 1)), "{words}");
            }
        }
        router.ok("/etc/init.d/firewall stop && /etc/init.d/paraglider start");
        assert_eq!(answers("client", 1), fair(&[1], 1), "firewall4 is not there");
        assert_eq!(router.service("status").code, 0);
    });
}

/// UDP and ranges of ports get through firewall4 too, and what is beside them does not.
#[test]
fn firewall4_lets_through_udp_and_ranges_of_ports() {
    tell("story::firewall4_lets_through_udp_and_ranges_of_ports", |_, router| {
        router.with_firewall4();
        router.ok("/etc/init.d/firewall start");
        router.install();
        for host in ["b1", "b2"] {
            [53, 5050, 5101].into_iter().for_each(|port| datagram::serve(host, None, port));
        }
        router.write(
            "etc/paraglider/glider.yaml",
            "frontend: {bind: '10.9.0.1:[53, 80, 5000-5100]', protocol: both, privateip: 10.2.0.1, \
             backends: [10.2.0.11, 10.2.0.12]}\n",
        );
        router.ok("/etc/init.d/paraglider start");
        let ports = "{ 10.9.0.1 . 53, 10.9.0.1 . 80, 10.9.0.1 . 5000-5100 }";
        let words =
            |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace(" }", "}").replace("}", " }");
        for firewall in ["", "reload", "restart"] {
            if !firewall.is_empty() {
                router.ok(&format!("/etc/init.d/firewall {firewall}"));
            }
            assert_eq!(words(&let_through_all()), ports, "{firewall}");
            for port in [53, 5050] {
                let two = datagram::ask_often("client", &format!("10.9.0.1:{port}"), 2);
                assert_eq!(
                    two.keys().map(|answer| &answer[..2]).collect::<Vec<_>>(),
                    ["b1", "b2"],
                    "{firewall} {port}"
                );
            }
            let web = ask_often("client", "10.9.0.1:80", 2);
            assert_eq!(web.into_iter().collect::<Vec<_>>(), fair(&[1, 2], 1));
            assert!(!datagram::ask_often("client", "10.9.0.1:5101", 1).keys().any(|answer| answer.starts_with('b')));
            assert_eq!(router.service("status").code, 0);
        }
        router.ok("/etc/init.d/paraglider stop");
        assert_eq!(let_through(), "");
    });
}

/// Clients from WAN while firewall4 is loaded anew: none is refused.
#[test]
fn a_reload_of_firewall4_refuses_nobody() {
    tell("story::a_reload_of_firewall4_refuses_nobody", |_, router| {
        router.with_firewall4();
        router.ok("/etc/init.d/firewall start");
        router.install();
        router.balance(&[1, 2]);
        router.ok("/etc/init.d/paraglider start");
        let clients = std::thread::spawn(|| {
            let mut all = Vec::new();
            let since = std::time::Instant::now();
            while since.elapsed() < std::time::Duration::from_secs(4) {
                all.extend(answers("client", 20));
            }
            all
        });
        let mut reloads = 0;
        while !clients.is_finished() {
            router.ok("/etc/init.d/firewall reload");
            reloads += 1;
        }
        let all = clients.join().unwrap();
        let well: usize = all.iter().filter(|(who, _)| who.starts_with('b')).map(|(_, n)| n).sum();
        let ill: Vec<_> = all.iter().filter(|(who, _)| !who.starts_with('b')).collect();
        assert!(reloads > 5 && ill.is_empty() && well > 100, "{reloads} reloads, {well} answers, and {ill:?}");
    });
}

/// Without a reload of the firewall by hand, clients from WAN are balanced, whichever package manager comes.
#[test]
fn removed_and_installed_again_it_lets_wan_through() {
    tell("story::removed_and_installed_again_it_lets_wan_through", |_, router| {
        router.with_firewall4();
        router.ok("/etc/init.d/firewall start");
        router.install();
        router.balance(&[1, 2]);
        router.ok("/etc/init.d/paraglider start");
        assert_eq!(answers("client", 2), fair(&[1, 2], 1));
        let mut before = By::Opkg;
        for by in [By::Opkg, By::Apk] {
            // With a set that a killed removal has left.
            for left in [false, true] {
                router.remove_by(before);
                before = by;
                assert!(!knows_us());
                if left {
                    sh("nft 'add set inet fw4 paraglider { type ipv4_addr . inet_service; flags interval; }'");
                }
                assert_eq!(router.install_by(by).code, 0);
                assert_eq!(answers("client", 2), fair(&[1, 2], 1), "{by:?}, a set was left: {left}");
                let status = router.service("status");
                assert!(status.code == 0 && !status.out.contains("firewall4"), "{}", status.out);
            }
            // The old files are replaced while it runs.
            assert_eq!(router.upgrade(by).code, 0);
            assert_eq!(answers("client", 2), fair(&[1, 2], 1));
        }
    });
}

/// Up to 0.1 the package had a chain in firewall4 that the service filled.
#[test]
fn the_chain_of_earlier_builds_goes() {
    tell("story::the_chain_of_earlier_builds_goes", |_, router| {
        router.with_firewall4();
        router.install();
        router.balance(&[1]);
        router.write("usr/share/nftables.d/table-post/60-paraglider.nft", "chain paraglider {\n}\n");
        router.write("usr/share/nftables.d/chain-pre/forward/60-paraglider.nft", "jump paraglider\n");
        router.ok("/etc/init.d/firewall start");
        assert!(sh("nft list table inet fw4").contains("jump paraglider"));
        assert_eq!(router.upgrade(By::Opkg).code, 0);
        assert!(!sh("nft list table inet fw4").contains("chain paraglider {"));
        assert_eq!(answers("client", 1), fair(&[1], 1));
    });
}

/// The remedy is named that helps.
#[test]
fn a_firewall4_that_does_not_read_our_rule_is_named() {
    tell("story::a_firewall4_that_does_not_read_our_rule_is_named", |_, router| {
        router.with_firewall4();
        router.write("etc/config/firewall", "config defaults\n\toption auto_includes '0'\n");
        router.ok("/etc/init.d/firewall start");
        router.install();
        // A bind whose interface tells where clients come from.
        let bind = "10.1.0.1:4444";
        let yaml = format!("frontend: {{bind: '{bind}', privateip: 10.2.0.1, backends: ['10.2.0.11:80']}}\n");
        router.write("etc/paraglider/glider.yaml", &yaml);
        let client = || ask_often("client", bind, 1).into_iter().collect::<Vec<_>>();
        let says = |why: &str| {
            let start = router.run("/etc/init.d/paraglider start");
            assert!(start.code == 0 && start.err.contains(why), "{}", start.err);
            let status = router.service("status");
            assert!(status.out.contains(why), "{}", status.out);
            let check = router.run("paraglider check");
            assert!(check.code == 1 && check.out.contains(why), "{}", check.out);
            assert!(!client()[0].0.starts_with('b'));
        };
        let set = "uci set 'firewall.@defaults[0].auto_includes=1' && uci commit firewall && service firewall reload";
        says(&format!("firewall4 does not read the rule of Paraglider's package, since auto_includes is off; {set}"));
        router.write("etc/config/firewall", "config defaults\n");
        says("firewall4 has not read the rule of Paraglider's package; service firewall reload");
        router.ok("/etc/init.d/firewall reload && /etc/init.d/paraglider start");
        assert_eq!(client(), fair(&[1], 1));
        router.ok("paraglider check");
    });
}

#[test]
fn an_upgrade_is_not_noticed_and_a_removal_leaves_nothing() {
    tell("story::an_upgrade_is_not_noticed_and_a_removal_leaves_nothing", |lab, router| {
        router.ok("/etc/init.d/firewall start");
        let clean = lab.saved(false);
        router.install();
        router.balance(&[1, 2]);
        router.ok("/etc/init.d/paraglider start");
        let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
        held.ask().unwrap();
        let rules = lab.saved(false);

        router.begin_upgrade();
        assert!(lab.ours().len() > 5, "an upgrade stops nothing");
        assert_eq!(router.end_upgrade().code, 0);
        held.ask().expect("a held connection lives on");
        assert_eq!(lab.saved(false), rules);
        assert!(router.exists("etc/rc.d/S21paraglider"));
        assert_eq!(answers("client", 2), fair(&[1, 2], 1));

        router.remove();
        assert!(!router.exists("etc/rc.d/S21paraglider") && !router.exists("tmp/run/paraglider.yaml"));
        assert!(router.exists("etc/paraglider/glider.yaml"), "the config stays");
        assert_ne!(router.run("uci -q get firewall.paraglider").code, 0);
        assert!(lab.ours().is_empty());
        assert!(!knows_us());
        if lab.variant == Variant::Legacy {
            assert_eq!(lab.saved(false), clean);
        }
    });
}

/// An image that is built has the links, and nothing was started on the machine that builds it.
#[test]
fn an_image_gets_the_links_alone() {
    tell("story::an_image_gets_the_links_alone", |lab, router| {
        let before = lab.saved(false);
        let image = router.image();
        assert!(image.join("etc/rc.d/S21paraglider").symlink_metadata().is_ok());
        assert!(image.join("etc/uci-defaults/60-paraglider").exists(), "that is for the first boot");
        assert_eq!(lab.saved(false), before);
        assert_eq!(router.log(), "");
    });
}
