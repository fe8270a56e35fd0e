//! paraglider.mk, run by make: what it sets and does in either choice. A few lines stand in for Buildroot; they call the
//! steps of a package in Buildroot's order.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{sh, tool};
use crate::{read, ROOT};

/// Buildroot's side. Its profile is set, its offline build and its steps are as in its pkg-cargo.mk and pkg-generic.mk.
const BUILDROOT: &str = r#"
define sep


endef
qstrip = $(strip $(subst ",,$(1)))
INSTALL = install
KCONFIG_ENABLE_OPT = @echo $(1)
PARAGLIDER_PKGDIR = $(BR2_EXTERNAL_PARAGLIDER_PATH)/package/paraglider/
TARGET_MAKE_ENV = PATH="$(OUT)/bin:$(PATH)"
PKG_COMMON_CARGO_ENV = CARGO_HOME=$(DL_DIR)/br-cargo-home
PKG_CARGO_ENV = $(PKG_COMMON_CARGO_ENV) \
	CARGO_PROFILE_RELEASE_CODEGEN_UNITS="16" \
	CARGO_PROFILE_RELEASE_OPT_LEVEL="2" \
	CARGO_PROFILE_RELEASE_LTO="false"
TARGET_DIR = $(OUT)/target
D = $(OUT)/build/paraglider

generic-package = $(eval INFRASTRUCTURE += generic)

cargo-package = $(eval INFRASTRUCTURE += cargo)
CARGO = cd $(@D) && $(TARGET_MAKE_ENV) $(PKG_CARGO_ENV) $(PARAGLIDER_CARGO_ENV) cargo
ifneq ($(BR2_PACKAGE_PARAGLIDER_PREBUILT),y)
PARAGLIDER_BUILD_CMDS = $(CARGO) build --offline --release --locked -v
PARAGLIDER_INSTALL_TARGET_CMDS = $(CARGO) install --offline --root $(TARGET_DIR)/usr/ --bins --path ./ --no-track --force --locked
endif

include $(BR2_EXTERNAL_PARAGLIDER_PATH)/external.mk

hooks = $(foreach hook,$(PARAGLIDER_$(1)_HOOKS),$(call $(hook))$(sep))

$(D)/.rsynced:
	mkdir -p $(@D)
	$(RSYNC) -au --chmod=u=rwX,go=rX $(PARAGLIDER_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS) --exclude .git $(PARAGLIDER_SITE)/ $(@D)
	touch $@
$(D)/.built: $(D)/.rsynced
	$(call hooks,PRE_BUILD)
	$(PARAGLIDER_BUILD_CMDS)
	touch $@
$(D)/.installed: $(D)/.built
	$(PARAGLIDER_INSTALL_TARGET_CMDS)
	$(PARAGLIDER_INSTALL_INIT_SYSV)
	$(call hooks,POST_INSTALL_TARGET)

install: $(D)/.installed
linux-fixups:
	$(PARAGLIDER_LINUX_CONFIG_FIXUPS)
show-%:
	@echo '$($*)'
"#;

/// A build with the tree of a checkout.
struct Build {
    dir: tempfile::TempDir,
    checkout: PathBuf,
    settings: Vec<String>,
}

impl Build {
    fn new(checkout: &Path, settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("Makefile"), BUILDROOT).unwrap();
        // It notes what it is asked for.
        let cargo = dir.path().join("bin/cargo");
        fs::create_dir(cargo.parent().unwrap()).unwrap();
        let real = env!("CARGO");
        let log = dir.path().join("cargo.log").display().to_string();
        fs::write(&cargo, format!("#!/bin/sh\necho \"$CARGO_HOME $PWD $*\" >>{log}\nexec {real} \"$@\"\n")).unwrap();
        fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Build { dir, checkout: checkout.to_owned(), settings }
    }

    /// Has a cargo that notes the profile that it is given, and does nothing.
    fn with_idle_cargo(self) -> Self {
        let note = format!("env | grep ^CARGO_PROFILE_RELEASE_ | sort >{}/profile", self.dir.path().display());
        let cargo = self.dir.path().join("bin/cargo");
        let line = fs::read_to_string(&cargo).unwrap().replace("exec ", &format!("{note}\nexit 0 "));
        fs::write(&cargo, line).unwrap();
        self
    }

    /// What cargo was asked for, one line each.
    fn asked(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path().join("cargo.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// Whether make succeeded, and all that it said.
    fn make(&self, goal: &str) -> (bool, String) {
        // It has no network: whatever a build needs, it has, or has fetched before.
        let mut make = Command::new("unshare");
        make.args(if nix::unistd::geteuid().is_root() { ["-n", "--"] } else { ["-Ucn", "--"] });
        make.args(["make", "-f"]).arg(self.dir.path().join("Makefile")).arg(goal).args(&self.settings);
        make.arg(format!("BR2_EXTERNAL_PARAGLIDER_PATH={}/buildroot", self.checkout.display()));
        make.arg(format!("RSYNC={}", tool("rsync").display()));
        make.arg(format!("OUT={}", self.dir.path().display())).arg(format!("DL_DIR={}", downloads().display()));
        // What the test was started with is no part of it.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_") || name.starts_with("MAKE")) {
            make.env_remove(name);
        }
        for name in ["MFLAGS", "RUSTFLAGS", "RUSTC_WRAPPER"] {
            make.env_remove(name);
        }
        let output = make.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said.into_owned())
    }

    fn ok(&self, goal: &str) -> String {
        let (success, said) = self.make(goal);
        assert!(success, "{goal}\n{said}");
        said
    }

    fn show(&self, variable: &str) -> String {
        self.ok(&format!("show-{variable}")).trim().to_owned()
    }

    fn target(&self, path: &str) -> PathBuf {
        self.dir.path().join("target").join(path)
    }

    /// Everything but the program is the same in either choice.
    fn installs_what_goes_with_it(&self) {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let init = self.target("etc/init.d/S50paraglider");
        assert_eq!(fs::read(&init).unwrap(), fs::read(crate::package("S50paraglider")).unwrap());
        assert_eq!(mode(&init), 0o755);
        assert_eq!(mode(&self.target("usr/bin/paraglider")), 0o755);
        let mut config = fs::read_dir(self.target("etc/paraglider")).unwrap();
        // An active config would be balanced at boot.
        assert_eq!(config.next().unwrap().unwrap().file_name(), "glider.yaml.example");
        assert!(config.next().is_none(), "there is more in etc/paraglider");
        let example = fs::read(self.target("etc/paraglider/glider.yaml.example")).unwrap();
        assert_eq!(example, fs::read(format!("{ROOT}/man/glider.yaml")).unwrap());
    }
}

/// What was fetched once is kept, as Buildroot does; the Makefile fetches it.
fn downloads() -> PathBuf {
    Path::new(ROOT).join("target/buildroot/dl")
}

const PREBUILT: [&str; 2] =
    ["BR2_PACKAGE_PARAGLIDER_PREBUILT=y", "BR2_PACKAGE_PARAGLIDER_PREBUILT_TARGET=\"mips-unknown-linux-musl\""];

#[test]
fn each_choice_has_its_infrastructure() {
    for (settings, infrastructure) in [(&[][..], "cargo"), (&PREBUILT, "generic")] {
        let build = Build::new(Path::new(ROOT), settings);
        assert_eq!(build.show("INFRASTRUCTURE"), infrastructure);
        assert_eq!(build.show("PARAGLIDER_SITE_METHOD"), "local");
        assert_eq!(build.show("PARAGLIDER_LICENSE"), "MIT");
        assert_eq!(build.show("PARAGLIDER_VERSION"), env!("CARGO_PKG_VERSION"));
        assert_eq!(fs::canonicalize(build.show("PARAGLIDER_SITE")).unwrap(), fs::canonicalize(ROOT).unwrap());
    }
}

#[test]
fn cargo_gets_the_crates_and_the_profile() {
    let build = Build::new(Path::new(ROOT), &[]).with_idle_cargo();
    build.ok("install");
    // Before the build, the crates go where it looks for them.
    let (home, copy) = (downloads().join("br-cargo-home"), build.dir.path().join("build/paraglider"));
    let asked = build.asked();
    assert_eq!(asked[0], format!("{} {} fetch --locked", home.display(), copy.display()));
    assert!(asked[1].contains(" build --offline "), "{asked:?}");
    // The profile of Cargo.toml, as cargo spells it in its environment.
    let manifest = read(&format!("{ROOT}/Cargo.toml"));
    let ours = manifest.split("[profile.release]\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let profile = fs::read_to_string(build.dir.path().join("profile")).unwrap();
    for line in ours.lines().filter(|line| !line.starts_with("strip")) {
        let (name, value) = line.split_once(" = ").unwrap();
        let name = name.to_uppercase().replace('-', "_");
        let given = format!("CARGO_PROFILE_RELEASE_{name}={}", value.trim_matches('"'));
        assert!(profile.lines().any(|line| line == given), "no {given} in\n{profile}");
    }
    for useless in ["target", ".git", "fuzz"] {
        assert!(!copy.join(useless).exists(), "{useless} was copied");
    }
}

/// With the crates in Buildroot's place, the network is not needed. The flags of rustc tell that Buildroot's profile was
/// not taken, and that of Cargo.toml was.
#[test]
fn from_source_it_is_built_offline_and_small() {
    let build = Build::new(Path::new(ROOT), &[]);
    let said = build.ok("install");
    let flags = said.lines().find(|line| line.contains("--crate-name paraglider ") && line.contains("src/main.rs"));
    let flags = flags.unwrap_or_else(|| panic!("no rustc in\n{said}"));
    for flag in ["-C opt-level=z", "-C panic=abort", "-C lto=fat", "-C codegen-units=1 "] {
        assert!(flags.contains(flag), "no {flag} in\n{flags}");
    }
    build.installs_what_goes_with_it();
    let version = sh(&format!("{} --version", build.target("usr/bin/paraglider").display()));
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}

#[test]
fn the_prebuilt_binary_is_installed_or_named() {
    // A checkout of its own, since others may have been built in this one.
    let dir = tempfile::tempdir().unwrap();
    let checkout = dir.path().join("checkout");
    fs::create_dir(&checkout).unwrap();
    sh(&format!("cd '{ROOT}' && cp -R buildroot man Cargo.toml LICENSE {}", checkout.display()));
    let build = Build::new(&checkout, &PREBUILT);
    let (success, said) = build.make("install");
    assert!(!success, "{said}");
    assert!(said.contains("make cross TARGET=mips-unknown-linux-musl"), "{said}");
    assert!(said.contains("target/dist/mips-unknown-linux-musl/paraglider is missing"), "{said}");
    assert!(!build.target("etc/init.d").exists());

    let binary = checkout.join("target/dist/mips-unknown-linux-musl/paraglider");
    fs::create_dir_all(binary.parent().unwrap()).unwrap();
    fs::write(&binary, "MIPS").unwrap();
    build.ok("install");
    assert_eq!(fs::read_to_string(build.target("usr/bin/paraglider")).unwrap(), "MIPS");
    build.installs_what_goes_with_it();
    assert!(build.asked().is_empty(), "that needs no cargo");
}

/// The options that an engine's part of `check` knows.
fn options(engine: &str, prefixes: &[&str]) -> Vec<String> {
    let source = read(&format!("{ROOT}/src/engine/{engine}/probe.rs"));
    let quoted = source.split('"').skip(1).step_by(2);
    let is_option = |text: &&str| {
        prefixes.iter().any(|prefix| text.starts_with(prefix))
            && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    quoted.filter(is_option).map(str::to_owned).collect()
}

/// `check` knows each part of the kernel by its option; the kernel gets them all, and what they depend on.
#[test]
fn the_kernel_gets_what_check_asks_for() {
    let nftables = options("nftables", &["NF_TABLES", "NFT_"]);
    assert!(nftables.len() >= 8 && nftables.iter().any(|option| option == "NFT_NUMGEN"), "{nftables:?}");
    let iptables = options("iptables", &["IP_NF_", "IP6_NF_", "NETFILTER_"]);
    let statistic = "NETFILTER_XT_MATCH_STATISTIC";
    assert!(iptables.len() >= 12 && iptables.iter().any(|option| option == statistic), "{iptables:?}");
    // NF_CONNTRACK_PROCFS: `status` counts the connections in /proc/net/nf_conntrack. NF_CT_NETLINK: `watch` ends some.
    let conntrack = ["NF_CONNTRACK", "NF_CONNTRACK_PROCFS", "NF_CT_NETLINK"];
    let always = [&["INET", "NETFILTER", "NF_NAT", "NF_TABLES_IPV4", "NFT_REJECT"][..], &conntrack].concat();
    let legacy = ["NETFILTER_XTABLES_LEGACY", "IP_NF_IPTABLES_LEGACY", "IP6_NF_IPTABLES_LEGACY"];
    let tables = ["NETFILTER_ADVANCED", "IP_NF_IPTABLES", "IP6_NF_IPTABLES"];
    for settings in [&[][..], &PREBUILT] {
        let of = |more: &[&str]| Build::new(Path::new(ROOT), &[settings, more].concat()).ok("linux-fixups");
        let has = |enabled: &str, option: &str| enabled.lines().any(|line| line == format!("CONFIG_{option}"));
        // As the package comes, without iptables.
        let enabled = of(&[]);
        for option in nftables.iter().map(String::as_str).chain(always.iter().copied()) {
            assert!(has(&enabled, option), "no {option} in\n{enabled}");
        }
        for useless in ["XT", "IP_NF_", "IP6_NF_", "NFT_COMPAT"] {
            assert!(!enabled.contains(useless), "{useless} in\n{enabled}");
        }
        let enabled = of(&["BR2_PACKAGE_IPTABLES=y"]);
        let all = nftables.iter().chain(&iptables).map(String::as_str).chain(always.iter().chain(&legacy).copied());
        for option in all.chain(tables) {
            assert!(has(&enabled, option), "no {option} in\n{enabled}");
        }
        assert!(!enabled.contains("NFT_COMPAT"), "{enabled}");
        let enabled = of(&["BR2_PACKAGE_IPTABLES=y", "BR2_PACKAGE_IPTABLES_NFTABLES=y"]);
        for option in ["NFT_COMPAT", "NF_TABLES_IPV6", statistic] {
            assert!(has(&enabled, option), "no {option} in\n{enabled}");
        }
    }
}
