//! The packages taken apart, field by field.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::sh;
use crate::{HERE, ROOT};

/// Architecture and target, from openwrt/archs.
fn archs() -> Vec<(String, String)> {
    let table = fs::read_to_string(format!("{ROOT}/openwrt/archs")).unwrap();
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [arch, target] => (arch.to_owned(), target.to_owned()),
            _ => panic!("openwrt/archs: {line}"),
        })
        .collect()
}

/// Makes a package; returns its path.
pub fn ipk(arch: &str) -> PathBuf {
    // One at a time: several tests want it.
    let lock = format!("{ROOT}/target/openwrt.lock");
    let output = Command::new("flock").args([&lock, "openwrt/pack", "ipk", arch]).current_dir(ROOT).output().unwrap();
    assert!(output.status.success(), "{arch}: {}", String::from_utf8_lossy(&output.stderr));
    Path::new(ROOT).join(String::from_utf8(output.stdout).unwrap().trim())
}

/// Copies what [`ipk`]'s brother prepares: the files in `data`, the scripts in `control`. Only what packs them is missing here.
pub fn apk_tree(arch: &str, into: &str) {
    let lock = format!("{ROOT}/target/openwrt.lock");
    let line = format!("openwrt/pack apk {arch} >/dev/null 2>&1; cp -a target/openwrt/{arch}/apk {into}");
    let output = Command::new("flock").args([&lock, "sh", "-c", &line]).current_dir(ROOT).output().unwrap();
    assert!(output.status.success(), "{arch}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Unpacks a gzip'd tar and lists it: `MODE OWNER TIME NAME`, a line each, in the archive's order.
fn unpack(archive: &Path, into: &Path) -> Vec<String> {
    fs::create_dir_all(into).unwrap();
    sh(&format!("tar -xzf '{}' -C {}", archive.display(), into.display()));
    let list = sh(&format!("TZ=UTC tar --numeric-owner --full-time -tvzf '{}'", archive.display()));
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {} {} {}", words[0], words[1], words[3], words[5..].join(" "))
    };
    list.lines().map(line).collect()
}

const DATA: &[&str] = &[
    "drwxr-xr-x ./",
    "drwxr-xr-x ./etc/",
    "drwxr-xr-x ./etc/hotplug.d/",
    "drwxr-xr-x ./etc/hotplug.d/iface/",
    "-rw-r--r-- ./etc/hotplug.d/iface/60-paraglider",
    "drwxr-xr-x ./etc/init.d/",
    "-rwxr-xr-x ./etc/init.d/paraglider",
    "drwxr-xr-x ./etc/paraglider/",
    "-rw-r--r-- ./etc/paraglider/glider.yaml",
    "drwxr-xr-x ./etc/uci-defaults/",
    "-rwxr-xr-x ./etc/uci-defaults/60-paraglider",
    "drwxr-xr-x ./lib/",
    "drwxr-xr-x ./lib/upgrade/",
    "drwxr-xr-x ./lib/upgrade/keep.d/",
    "-rw-r--r-- ./lib/upgrade/keep.d/paraglider",
    "drwxr-xr-x ./usr/",
    "drwxr-xr-x ./usr/sbin/",
    "-rwxr-xr-x ./usr/sbin/paraglider",
    "drwxr-xr-x ./usr/share/",
    "drwxr-xr-x ./usr/share/nftables.d/",
    "drwxr-xr-x ./usr/share/nftables.d/chain-pre/",
    "drwxr-xr-x ./usr/share/nftables.d/chain-pre/forward/",
    "-rw-r--r-- ./usr/share/nftables.d/chain-pre/forward/60-paraglider.nft",
    "drwxr-xr-x ./usr/share/nftables.d/table-post/",
    "-rw-r--r-- ./usr/share/nftables.d/table-post/60-paraglider.nft",
    "drwxr-xr-x ./usr/share/paraglider/",
    "-rwxr-xr-x ./usr/share/paraglider/firewall.include",
    "-rw-r--r-- ./usr/share/paraglider/firewall.uci",
    "-rw-r--r-- ./usr/share/paraglider/rules.sh",
];

#[test]
fn an_ipk_is_what_opkg_expects() {
    let version = env!("CARGO_PKG_VERSION");
    for (arch, target) in archs() {
        let dir = tempfile::tempdir().unwrap();
        let package = ipk(&arch);
        assert_eq!(package.file_name().unwrap().to_str().unwrap(), format!("paraglider_{version}-r1_{arch}.ipk"));
        let made_by_root = |list: &[&str]| -> Vec<String> {
            list.iter()
                .map(|line| line.split_once(' ').unwrap())
                .map(|(mode, name)| format!("{mode} 0/0 1970-01-01 {name}"))
                .collect()
        };
        let outer = unpack(&package, dir.path());
        assert_eq!(
            outer,
            made_by_root(&["-rw-r--r-- ./debian-binary", "-rw-r--r-- ./data.tar.gz", "-rw-r--r-- ./control.tar.gz"])
        );
        assert_eq!(fs::read_to_string(dir.path().join("debian-binary")).unwrap(), "2.0\n");

        let (data, control) = (dir.path().join("data"), dir.path().join("control"));
        assert_eq!(unpack(&dir.path().join("data.tar.gz"), &data), made_by_root(DATA));
        let built = fs::read(format!("{ROOT}/target/dist/{target}/paraglider")).unwrap();
        assert!(fs::read(data.join("usr/sbin/paraglider")).unwrap() == built, "{arch}");

        let listed = unpack(&dir.path().join("control.tar.gz"), &control);
        let expected = [
            "drwxr-xr-x ./",
            "-rw-r--r-- ./conffiles",
            "-rw-r--r-- ./control",
            "-rwxr-xr-x ./postinst",
            "-rwxr-xr-x ./postinst-pkg",
            "-rwxr-xr-x ./postrm",
            "-rwxr-xr-x ./prerm",
        ];
        assert_eq!(listed, made_by_root(&expected));
        let size = sh(&format!("gzip -dc {} | wc -c", dir.path().join("data.tar.gz").display()));
        let fields = [
            "Package: paraglider".to_owned(),
            format!("Version: {version}-r1"),
            "Depends: kmod-nft-nat | iptables-mod-ipopt".to_owned(),
            "Source: openwrt".to_owned(),
            "License: MIT".to_owned(),
            "Section: net".to_owned(),
            "Maintainer: The Paraglider authors".to_owned(),
            format!("Architecture: {arch}"),
            format!("Installed-Size: {}", size.trim()),
            format!("Description:  {}", env!("CARGO_PKG_DESCRIPTION")),
        ];
        assert_eq!(fs::read_to_string(control.join("control")).unwrap(), fields.join("\n") + "\n");
        assert_eq!(fs::read_to_string(control.join("conffiles")).unwrap(), "/etc/paraglider/glider.yaml\n");
        assert_eq!(
            fs::read_to_string(control.join("postinst")).unwrap(),
            "#!/bin/sh\n[ \"${IPKG_NO_SCRIPT}\" = \"1\" ] && exit 0\n[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0\n\
             . ${IPKG_INSTROOT}/lib/functions.sh\ndefault_postinst $0 $@\n"
        );
        assert_eq!(
            fs::read_to_string(control.join("prerm")).unwrap(),
            "#!/bin/sh\n[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0\n. ${IPKG_INSTROOT}/lib/functions.sh\n\
             default_prerm $0 $@\n"
        );
        for own in ["postinst-pkg", "postrm"] {
            let source = fs::read(format!("{ROOT}/openwrt/files/{own}")).unwrap();
            assert_eq!(fs::read(control.join(own)).unwrap(), source, "{own}");
        }
        let once = fs::read(&package).unwrap();
        assert!(fs::read(ipk(&arch)).unwrap() == once, "{arch}: the same input made other bytes");
    }
}

#[test]
fn an_apk_is_prepared_and_handed_to_apk_mkpkg() {
    let version = env!("CARGO_PKG_VERSION");
    let pack = |path: &str| {
        let mut command = Command::new("/usr/bin/flock");
        command.args([&format!("{ROOT}/target/openwrt.lock"), "openwrt/pack", "apk", HERE]);
        command.current_dir(ROOT).env("PATH", path).output().unwrap()
    };
    // Without apk-tools nothing is made, and that is said.
    let usual = "/usr/sbin:/usr/bin:/sbin:/bin";
    if !sh("apk mkpkg --help 2>&1 || true").contains("--files") {
        let output = pack(usual);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains("apk-tools 3 (apk mkpkg) is missing"), "{said}");
    }

    let dir = tempfile::tempdir().unwrap();
    let apk = dir.path().join("apk");
    let seen = dir.path().join("seen");
    // As apk-tools 3.0 behaves: its help ends with 1, what it does not know is refused, and it writes what it was told to.
    let real = format!(
        r#"#!/bin/sh
[ "$1" = mkpkg ] || exit 1
if [ "$2" = --help ]; then
	printf '%s\n' 'Usage: apk mkpkg [<OPTIONS>...]' '  -F, --files PATH' '  -I, --info FIELD:VALUE' \
		'  -o, --output FILE' '  -s, --script TYPE:FILE'
	exit 1
fi
printf '%s\n' "$@" >{seen}
shift
named= output=
while [ $# -gt 1 ]; do
	case $1 in
	--info) case $2 in name:?*|version:?*) named=x$named ;; esac ;;
	--files) [ -d "$2" ] || exit 99 ;;
	--script) [ -f "${{2#*:}}" ] || exit 99 ;;
	--output) output=$2 ;;
	*) echo "apk: unrecognized option '$1'" >&2; exit 1 ;;
	esac
	shift 2
done
[ "$named" = xx ] && [ $# = 0 ] || exit 99
echo ADB >"$output"
"#,
        seen = seen.display()
    );
    // One that only says that it does not know the applet.
    fs::write(&apk, "#!/bin/sh\necho \"apk: 'mkpkg' is not an apk command. See 'apk --help'.\" >&2\n").unwrap();
    fs::set_permissions(&apk, fs::Permissions::from_mode(0o755)).unwrap();
    let output = pack(&format!("{}:{usual}", dir.path().display()));
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(&apk, real).unwrap();
    let fakeroot = dir.path().join("fakeroot");
    fs::write(&fakeroot, "#!/bin/sh\nexec \"$@\"\n").unwrap();
    fs::set_permissions(&fakeroot, fs::Permissions::from_mode(0o755)).unwrap();
    let output = pack(&format!("{}:{usual}", dir.path().display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let work = format!("target/openwrt/{HERE}/apk");
    let package = format!("{ROOT}/target/dist/apk/{HERE}/paraglider-{version}-r1.apk");
    assert_eq!(fs::read_to_string(package).unwrap(), "ADB\n");
    let words = fs::read_to_string(seen).unwrap();
    let mut words = words.lines();
    assert_eq!(words.next(), Some("mkpkg"));
    let mut options: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while let (Some(option), Some(value)) = (words.next(), words.next()) {
        options.entry(option.to_owned()).or_default().push(value.to_owned());
    }
    assert_eq!(
        options["--info"],
        [
            "name:paraglider".to_owned(),
            format!("version:{version}-r1"),
            format!("description:{}", env!("CARGO_PKG_DESCRIPTION")),
            format!("arch:{HERE}"),
            "license:MIT".to_owned(),
            "origin:openwrt".to_owned(),
            "maintainer:The Paraglider authors".to_owned(),
            "depends:kmod-nft-nat".to_owned(),
        ]
    );
    assert_eq!(options["--files"], [format!("{work}/data")]);
    assert_eq!(options["--output"], [format!("target/dist/apk/{HERE}/paraglider-{version}-r1.apk")]);
    let script = |kind: &str| {
        let path = format!("{work}/control/{kind}");
        assert!(options["--script"].contains(&format!("{kind}:{path}")), "{kind}");
        fs::read_to_string(format!("{ROOT}/{path}")).unwrap()
    };
    let own = |file: &str| {
        let text = fs::read_to_string(format!("{ROOT}/openwrt/files/{file}")).unwrap();
        text.strip_prefix("#!/bin/sh\n").unwrap().to_owned()
    };
    let head = "[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0\n. ${IPKG_INSTROOT}/lib/functions.sh\n\
                export root=\"${IPKG_INSTROOT}\"\nexport pkgname=\"paraglider\"\n";
    let install = format!(
        "[ \"${{IPKG_NO_SCRIPT}}\" = \"1\" ] && exit 0\n{head}add_group_and_user\ndefault_postinst\n{}",
        own("postinst-pkg")
    );
    assert_eq!(script("post-install"), format!("#!/bin/sh\n{install}"));
    assert_eq!(script("post-upgrade"), format!("#!/bin/sh\nexport PKG_UPGRADE=1\n{install}"));
    assert_eq!(script("pre-deinstall"), format!("#!/bin/sh\n{head}default_prerm\n"));
    assert_eq!(script("post-deinstall"), format!("#!/bin/sh\n{}", own("postrm")));
    assert_eq!(options["--script"].len(), 4);

    // The tree is that of the ipk, and apk's own lists.
    let tree = sh(&format!("cd '{ROOT}/{work}/data' && find . -type f | LC_ALL=C sort"));
    let files = DATA.iter().filter(|line| line.starts_with('-')).map(|line| line.split_once(' ').unwrap().1);
    let lists = ["conffiles", "conffiles_static", "list"].map(|kind| format!("./lib/apk/packages/paraglider.{kind}"));
    let mut expected: Vec<&str> = files.clone().chain(lists.iter().map(String::as_str)).collect();
    expected.sort_unstable();
    assert_eq!(tree.lines().collect::<Vec<_>>(), expected);
    let list =
        |kind: &str| fs::read_to_string(format!("{ROOT}/{work}/data/lib/apk/packages/paraglider.{kind}")).unwrap();
    assert_eq!(list("list").lines().collect::<Vec<_>>(), files.map(|file| &file[1..]).collect::<Vec<_>>());
    assert_eq!(list("conffiles"), "/etc/paraglider/glider.yaml\n");
    let sum = sh(&format!("sha256sum <'{ROOT}/openwrt/files/glider.yaml'"));
    assert_eq!(
        list("conffiles_static"),
        format!("/etc/paraglider/glider.yaml {}\n", sum.split_whitespace().next().unwrap())
    );
}

#[test]
fn a_wrong_word_is_told() {
    for (words, why) in
        [(["ipk", "sparc"], "there is no architecture sparc"), (["rpm", HERE], "there is no format rpm")]
    {
        let output = Command::new(format!("{ROOT}/openwrt/pack")).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8(output.stderr).unwrap().contains(why));
    }
}

/// The build system's way and the packer's must not drift apart.
#[test]
fn the_feed_makes_the_same_package() {
    let makefile = fs::read_to_string(format!("{ROOT}/openwrt/Makefile")).unwrap();
    assert!(makefile.contains(&format!("\nPKG_VERSION:={}\n", env!("CARGO_PKG_VERSION"))));
    assert!(makefile.contains("\nPKG_RELEASE:=1\n"));
    let depends = "+kmod-nft-nat\n";
    assert!(makefile.contains(&format!("DEPENDS:=$(RUST_ARCH_DEPENDS) {depends}")));
    let section = |name: &str| {
        let begin = format!("define Package/paraglider/{name}\n");
        let (_, rest) = makefile.split_once(&begin).unwrap_or_else(|| panic!("no {name}"));
        rest.split_once("\nendef\n").unwrap().0.to_owned() + "\n"
    };
    for (name, file) in [("postinst", "postinst-pkg"), ("postrm", "postrm")] {
        let own = fs::read_to_string(format!("{ROOT}/openwrt/files/{file}")).unwrap();
        assert_eq!(section(name).replace("$$", "$"), own);
    }
    // The feed's build adds nothing else: no script, and no file to keep that is in no list here.
    let mut defined: Vec<&str> =
        makefile.lines().filter_map(|line| line.strip_prefix("define Package/paraglider/")).collect();
    defined.sort_unstable();
    assert_eq!(defined, ["conffiles", "description", "install", "postinst", "postrm"]);
    assert_eq!(section("conffiles"), "/etc/paraglider/glider.yaml\n");
    let packer = fs::read_to_string(format!("{ROOT}/openwrt/pack")).unwrap();
    for file in fs::read_dir(format!("{ROOT}/openwrt/files")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let is_script = ["postinst-pkg", "postrm"].contains(&name.as_str());
        assert!(packer.contains(&name) && (is_script || makefile.contains(&format!("./files/{name} "))), "{name}");
    }
    let install = section("install");
    let mut installed: Vec<String> = Vec::new();
    for line in install.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mode = match words[0] {
            "$(INSTALL_BIN)" => "-rwxr-xr-x",
            "$(INSTALL_DATA)" => "-rw-r--r--",
            _ => continue,
        };
        let place = words[2].strip_prefix("$(1)").unwrap();
        installed.push(format!("{mode} .{place}"));
        let source = words[1].strip_prefix("./").map(|file| format!("{ROOT}/openwrt/{file}"));
        assert!(source.is_none_or(|file| Path::new(&file).exists()), "{line}");
    }
    installed.sort_by_key(|line| line.split_once(' ').unwrap().1.to_owned());
    let files: Vec<&str> = DATA.iter().copied().filter(|line| line.starts_with('-')).collect();
    assert_eq!(installed, files);
}

/// What a stock router's busybox lacks (its ash is checked by running the scripts in one).
#[test]
fn scripts_are_plain() {
    let files = format!("{ROOT}/openwrt/files");
    let scripts = [
        "rules.sh",
        "firewall.include",
        "firewall.uci",
        "iface.hotplug",
        "uci-defaults",
        "postinst-pkg",
        "postrm",
        "paraglider.init",
    ];
    for script in scripts {
        let text = fs::read_to_string(format!("{files}/{script}")).unwrap();
        for lacks in ["timeout", "stat", "install", "nproc", "tac"] {
            let code = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            let mut words = code.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric()));
            assert!(!words.any(|word| word == lacks), "{script}: {lacks}");
        }
    }
}
