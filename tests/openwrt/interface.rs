//! A bind that follows an interface of the network config, whose events netifd hands to scripts.

use crate::lab::{ask_often, inside, sh, Held};
use crate::logged::logged;
use crate::router::Router;
use crate::story::{tell, ERROR, INFO, WARNING};

/// `uplink` is how the network config calls the device wan.
fn follows(router: &Router, backends: &str) {
    let yaml = format!("frontend: {{bind: 'uplink:4444', privateip: 10.2.0.1, backends: [{backends}]}}\n");
    router.write("etc/paraglider/glider.yaml", &yaml);
}

/// An event of `uplink`; what of it is in the log, with the levels.
fn event(router: &Router, action: &str) -> Vec<(String, String)> {
    let done = router.run(&format!("ACTION={action} INTERFACE=uplink DEVICE=wan /sbin/hotplug-call iface"));
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "", ""), "{action}");
    logged(router)
}

/// Whether clients in WAN and in LAN are balanced at an address.
fn is_balanced(address: &str) -> bool {
    let bind = format!("{address}:4444");
    let from = |host: &str| ask_often(host, &bind, 2).into_iter().collect::<Vec<_>>();
    let all = ["b1 10.2.0.1", "b2 10.2.0.1"].map(|who| (who.to_owned(), 1));
    let (wan, lan) = (from("client"), from("b3"));
    assert_eq!(wan == all, lan == all, "{wan:?} and {lan:?}");
    wan == all
}

#[test]
fn it_follows_its_interface_through_all_events() {
    tell("interface::it_follows_its_interface_through_all_events", |lab, router| {
        sh("ip -n b3 route add 10.1.0.0/24 via 10.2.0.1");
        let flash = || router.flash();
        router.ok("/etc/init.d/firewall start");
        router.install();
        follows(router, "'10.2.0.11:80', '10.2.0.12:80'");
        let written = flash();
        // At boot the interface has no address yet: that is said once, and is no trouble.
        sh("ip addr del 10.1.0.1/24 dev wan");
        router.log();
        router.boot();
        let waits = "uplink:4444 waits: the interface uplink is down".to_owned();
        assert_eq!(logged(router), [(INFO.to_owned(), waits.clone())]);
        assert!(lab.ours().is_empty() && router.processes().is_empty());
        assert_eq!(event(router, "ifdown"), []);

        // It comes, and comes again with the same address.
        sh("ip addr add 10.1.0.1/24 dev wan && ip -n client route replace default via 10.1.0.1");
        let said = event(router, "ifup");
        assert!(said.iter().any(|(_, text)| text.contains("10.1.0.1:4444 (uplink:4444) is balanced")), "{said:?}");
        assert!(said.iter().all(|(level, _)| level == INFO), "{said:?}");
        assert!(is_balanced("10.1.0.1"));
        assert_eq!(event(router, "ifup"), []);
        assert_eq!(router.service("status").code, 0);

        // Another address, while the config is being edited: it is not asked. The connections to the old one live on.
        let held = inside("client", || Held::open("10.1.0.1:4444".parse().unwrap()).unwrap()).join().unwrap();
        held.ask().unwrap();
        for half in ["frontend: {bind: 'uplink:4444', backends: ['10.2.0.1", "# nothing\n"] {
            router.write("etc/paraglider/glider.yaml", half);
            let (old, new) = if half.starts_with('#') { ("9", "8") } else { ("1", "9") };
            sh(&format!("ip addr add 10.1.0.{new}/24 dev wan"));
            held.ask().unwrap();
            sh(&format!("ip addr del 10.1.0.{old}/24 dev wan && ip addr replace 10.1.0.{new}/24 dev wan"));
            sh(&format!("ip -n client route replace default via 10.1.0.{new}"));
            let said = event(router, "ifupdate");
            let told = format!("10.1.0.{new}:4444 (uplink:4444) is balanced");
            assert!(said.iter().any(|(_, text)| text.contains(&told)), "{said:?}");
            assert!(said.iter().all(|(level, _)| level != ERROR), "{said:?}");
            assert!(is_balanced(&format!("10.1.0.{new}")));
        }
        held.ask().expect("a held connection lives on");

        // It goes: told once. What else happens to interfaces is no matter.
        sh("ip addr del 10.1.0.8/24 dev wan");
        assert_eq!(event(router, "ifup-failed"), []);
        let said = event(router, "ifdown");
        assert!(said.contains(&(WARNING.to_owned(), waits)), "{said:?}");
        assert_eq!(event(router, "ifdown"), []);
        assert!(lab.ours().is_empty(), "{:?}", lab.ours());
        sh("ip addr add 10.1.0.1/24 dev wan && ip -n client route replace default via 10.1.0.1");
        event(router, "ifup");
        assert!(is_balanced("10.1.0.1"));
        for word in ["reload", "restart"] {
            router.ok(&format!("/etc/init.d/firewall {word}"));
            assert!(is_balanced("10.1.0.1"), "firewall {word}");
        }
        assert_eq!(flash(), written, "nothing is written there");

        // netifd does not answer: that is no other interface, as the kernel's own of the same name, and nothing changes.
        sh("ip link add uplink type bridge && ip link set uplink up && ip addr add 10.9.0.99/32 dev uplink");
        router.ok("mv /bin/ubus /bin/ubus.away");
        router.write("bin/ubus", "#!/bin/sh\necho 'Command failed: Request timed out' >&2\nexit 7\n");
        router.ok("chmod 755 /bin/ubus");
        let said = event(router, "ifdown");
        let why = "netifd does not tell the state of the interface uplink (ubus: Command failed: Request timed out)";
        assert!(said.iter().any(|(level, text)| level == ERROR && text.contains(why)), "{said:?}");
        assert!(is_balanced("10.1.0.1"));
        router.ok("mv /bin/ubus.away /bin/ubus");
        sh("ip link del uplink");

        // After a stop nothing is meant; and after a removal nobody is there.
        router.log();
        follows(router, "'10.2.0.11:80'");
        router.ok("/etc/init.d/paraglider stop");
        logged(router);
        assert_eq!(event(router, "ifup"), []);
        assert!(lab.ours().is_empty());
        router.remove();
        router.log();
        assert_eq!(event(router, "ifup"), []);
    });
}
