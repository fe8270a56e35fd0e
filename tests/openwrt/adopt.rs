//! The commands of the init script besides those of every service.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::lab::sh;
use crate::router::Router;
use crate::story::{answers, fair, tell, ERROR};

const FILE: &str = "etc/paraglider/glider.yaml";
const NEW: &str = "tmp/run/paraglider.new";

fn yaml(backends: &str, more: &str) -> String {
    format!("# by hand\nfrontend: {{bind: '10.9.0.1:4444', privateip: 10.2.0.1, backends: [{backends}]{more}}}\n")
}

const ONE: &str = "'10.2.0.11:80'";
const TWO: &str = "'10.2.0.12:80'";
const CHECKED: &str = ", health: {interval: 1s}";

#[test]
fn an_edit_is_adopted_only_if_it_works() {
    tell("adopt::an_edit_is_adopted_only_if_it_works", |lab, router| {
        let file = || router.ok(&format!("cat /{FILE}"));
        router.ok("/etc/init.d/firewall start");
        router.install();
        router.write(FILE, &yaml(ONE, ""));
        router.ok("/etc/init.d/paraglider start");
        let path = lab.path("router").join(FILE);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();

        // In force, and then in the file, with the mode that it had. The watch comes and goes as with a reload.
        for (text, watches) in [(yaml(TWO, CHECKED), 1), (yaml(TWO, ""), 0)] {
            router.write(NEW, &text);
            let done = router.service("adopt");
            assert_eq!(done.code, 0, "{}", done.err);
            assert_eq!(answers("client", 2), fair(&[2], 2));
            assert_eq!(file(), text);
            assert!(!router.exists(NEW) && !router.exists(&format!("{FILE}.new")));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            router.settles(watches);
        }
        assert_eq!(router.service("status").code, 0);

        // A wrong one, or none: nothing has changed, and it is still there to be mended.
        let rules = lab.saved(false);
        router.log();
        for (text, code, why) in [
            ("frontend:\n  bnid: 1\n", 2, "/var/run/paraglider.new:2:3: unknown key"),
            ("# nothing\n", 6, "/var/run/paraglider.new has no frontend"),
        ] {
            router.write(NEW, text);
            let done = router.service("adopt");
            assert!(done.code == code && done.err.contains(why), "{}: {}", done.code, done.err);
            assert_eq!((file(), lab.saved(false)), (yaml(TWO, ""), rules.clone()));
            assert_eq!(router.ok(&format!("cat /{NEW}")), text);
        }
        assert!(router.log().lines().any(|line| line.starts_with(ERROR) && line.contains("paraglider.new:2:3")));
        router.ok(&format!("rm /{NEW}"));
        let done = router.service("adopt");
        assert!(done.code == 2 && done.err.contains("/var/run/paraglider.new"), "{}", done.err);
        assert_eq!((file(), lab.saved(false)), (yaml(TWO, ""), rules));

        // The file may be a link; its place stays one.
        sh(&format!("cd {} && mv {FILE} tmp/there && ln -s /tmp/there {FILE}", lab.path("router").display()));
        router.write(NEW, &yaml(ONE, ""));
        assert_eq!(router.service("adopt").code, 0);
        assert_eq!((file(), router.ok("readlink /etc/paraglider/glider.yaml")), (yaml(ONE, ""), "/tmp/there\n".into()));
    });
}

/// The new config is in force, and that it is not on the flash is said.
#[test]
fn a_full_flash_loses_nothing() {
    tell("adopt::a_full_flash_loses_nothing", |lab, router| {
        router.ok("/etc/init.d/firewall start");
        router.install();
        let flash = lab.path("router/etc/paraglider");
        // There is space for a copy of the old one, but not for the new one.
        sh(&format!("mount -t tmpfs -o size=12k none {}", flash.display()));
        router.write(FILE, &yaml(ONE, ""));
        router.ok("/etc/init.d/paraglider start");
        fs::write(flash.join("filled"), [0; 4096]).unwrap();
        let long = yaml(TWO, "") + &"# a remark\n".repeat(500);
        router.write(NEW, &long);
        router.log();
        let done = router.service("adopt");
        let why = "/var/run/paraglider.new is in force, but cannot be written to /etc/paraglider/glider.yaml";
        assert!(done.code == 1 && done.err.contains(&format!("error: {why}")), "{}: {}", done.code, done.err);
        assert!(router.log().lines().any(|line| line.starts_with(ERROR) && line.contains(why)));
        assert_eq!(answers("client", 2), fair(&[2], 2));
        assert_eq!(router.ok(&format!("cat /{FILE}")), yaml(ONE, ""));
        assert_eq!(router.ok(&format!("cat /{NEW}")), long);
        assert!(!router.exists(&format!("{FILE}.new")));
        // With space again.
        fs::remove_file(flash.join("filled")).unwrap();
        sh(&format!("mount -o remount,size=64k {}", flash.display()));
        assert_eq!(router.service("adopt").code, 0);
        assert_eq!(router.ok(&format!("cat /{FILE}")), long);
    });
}

#[test]
fn more_can_be_asked_for() {
    tell("adopt::more_can_be_asked_for", |_, router| {
        router.ok("/etc/init.d/firewall start");
        router.install();
        let help = router.service("").out;
        for word in ["\tcheck  ", "\tprint  ", "\tadopt  "] {
            assert!(help.contains(word), "{help}");
        }
        let data = |router: &Router| {
            let info = router.service("info");
            assert_eq!((info.code, info.err.as_str()), (0, ""));
            info.out.split_whitespace().collect::<String>()
        };
        let nothing = data(router);
        assert!(nothing.contains(r#""state":"notinforce""#) && nothing.contains(r#""frontends":[]"#), "{nothing}");
        let list = "frontends:\n\
                    \x20 - {name: web, bind: '10.9.0.1:4444', privateip: 10.2.0.1, backends: ['10.2.0.11:80', '10.2.0.12:80']}\n\
                    \x20 - {bind: '10.9.0.1:4445', privateip: 10.2.0.1, health: {interval: 1s}, backends: ['10.2.0.13:80']}\n";
        router.write(FILE, list);
        let print = router.service("print");
        assert!(print.code == 0 && print.out.contains("10.2.0.12"), "{}", print.err);
        assert!(router.ok("/etc/init.d/paraglider print --engine nftables").contains("table inet paraglider"));
        router.ok("/etc/init.d/paraglider check");
        router.write("tmp/wrong.yaml", "frontend: 1\n");
        assert_eq!(router.run("/etc/init.d/paraglider check --config /tmp/wrong.yaml").code, 2);
        router.ok("/etc/init.d/paraglider start");
        router.settles(1);
        let all = data(router);
        let engine = router.variant().engine();
        for part in [
            r#""state":"inforce""#,
            &format!(r#""engine":"{engine}""#),
            r#"{"name":"web","bind":"10.9.0.1:4444","backends":["10.2.0.11:80","10.2.0.12:80"]}"#,
            r#""bind":"10.9.0.1:4445","backends":["10.2.0.13:80"]}]}"#,
            r#""instances":{"watch":{"running":true}}"#,
        ] {
            assert!(all.contains(part), "{part} is not in {all}");
        }
        router.ok("/etc/init.d/paraglider stop");
        assert_eq!(data(router), "{}");
    });
}
