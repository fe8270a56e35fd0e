//! Config.in, read by kconfig: what menuconfig offers and what comes of it. What is not offered cannot be set.

use std::fs;
use std::process::Command;

use crate::ROOT;

/// The symbols of Buildroot that Config.in speaks of, all of which a test may set.
const BUILDROOT: [&str; 16] = [
    "BR2_ARM_CPU_ARMV5",
    "BR2_ARM_CPU_ARMV6",
    "BR2_ARM_CPU_ARMV7A",
    "BR2_ARM_CPU_ARMV8A",
    "BR2_ARM_EABIHF",
    "BR2_MIPS_CPU_MIPS32",
    "BR2_MIPS_CPU_MIPS32R6",
    "BR2_PACKAGE_HOST_RUSTC",
    "BR2_PACKAGE_HOST_RUSTC_TARGET_ARCH_SUPPORTS",
    "BR2_PACKAGE_IPTABLES",
    "BR2_USE_MMU",
    "BR2_aarch64",
    "BR2_arm",
    "BR2_mips",
    "BR2_mipsel",
    "BR2_x86_64",
];

/// What kconfig makes of the settings, with paraglider switched on if it can be.
fn resolve(settings: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (stub, config) = (dir.path().join("Config.in"), dir.path().join(".config"));
    let mut text = format!("config BR2_EXTERNAL_PARAGLIDER_PATH\n\tstring\n\tdefault \"{ROOT}/buildroot\"\n\n");
    text.extend(BUILDROOT.iter().map(|symbol| format!("config {symbol}\n\tbool \"{symbol}\"\n\n")));
    text.push_str("config BR2_USE_MMU\n\tdefault y\n\n");
    text.push_str(&format!("source \"{ROOT}/buildroot/Config.in\"\n"));
    fs::write(&stub, text).unwrap();
    let mut lines = String::from("BR2_PACKAGE_PARAGLIDER=y\n");
    lines.extend(settings.iter().map(|setting| format!("{setting}\n")));
    fs::write(&config, lines).unwrap();
    let mut command = Command::new("kconfig-conf");
    command.arg("--olddefconfig").arg(&stub).env("KCONFIG_CONFIG", &config).env("CONFIG_", "");
    // It writes beside itself first.
    command.current_dir(dir.path());
    let output = command.output().expect("kconfig-conf is missing: make setup");
    let said = String::from_utf8_lossy(&output.stderr);
    let strange = said.lines().find(|line| !line.contains("trying to assign nonexistent symbol"));
    assert!(output.status.success() && strange.is_none(), "{said}");
    fs::read_to_string(config).unwrap()
}

fn sets(config: &str, line: &str) -> bool {
    config.lines().any(|set| set == line)
}

const RUST: &str = "BR2_PACKAGE_HOST_RUSTC_TARGET_ARCH_SUPPORTS=y";
const SOURCE: &str = "BR2_PACKAGE_PARAGLIDER_SOURCE=y";
const PREBUILT: &str = "BR2_PACKAGE_PARAGLIDER_PREBUILT=y";

#[test]
fn where_buildroot_has_rust_both_ways_are_offered() {
    let cpu = ["BR2_aarch64=y", RUST];
    let config = resolve(&cpu);
    for line in ["BR2_PACKAGE_PARAGLIDER=y", SOURCE, "BR2_PACKAGE_HOST_RUSTC=y"] {
        assert!(sets(&config, line), "no {line}:\n{config}");
    }
    assert!(!sets(&config, "BR2_PACKAGE_IPTABLES=y"), "iptables is not needed:\n{config}");
    assert!(!config.contains("_PREBUILT_TARGET"), "{config}");

    let config = resolve(&[cpu[0], RUST, PREBUILT]);
    assert!(sets(&config, PREBUILT) && !sets(&config, SOURCE), "{config}");
    assert!(!sets(&config, "BR2_PACKAGE_HOST_RUSTC=y"), "Rust is built for nothing:\n{config}");
    assert!(sets(&config, "BR2_PACKAGE_PARAGLIDER_PREBUILT_TARGET=\"aarch64-unknown-linux-musl\""), "{config}");

    // The preset can be changed.
    let own = "BR2_PACKAGE_PARAGLIDER_PREBUILT_TARGET=\"arm-unknown-linux-musleabi\"";
    assert!(sets(&resolve(&[cpu[0], RUST, PREBUILT, own]), own));
}

#[test]
fn on_mips_the_prebuilt_binary_is_offered() {
    for endian in ["mips", "mipsel"] {
        let config = resolve(&[&format!("BR2_{endian}=y")]);
        let target = format!("BR2_PACKAGE_PARAGLIDER_PREBUILT_TARGET=\"{endian}-unknown-linux-musl\"");
        for line in ["BR2_PACKAGE_PARAGLIDER=y", PREBUILT, &target] {
            assert!(sets(&config, line), "no {line}:\n{config}");
        }
        // And menuconfig says why there is no other way. (kconfig writes the comments that it shows.)
        assert!(config.contains("# built from source: Buildroot has no Rust for this target"), "{config}");
        assert!(!sets(&config, SOURCE) && !sets(&config, "BR2_PACKAGE_HOST_RUSTC=y"), "{config}");
    }
}

#[test]
fn where_neither_runs_menuconfig_says_so() {
    let nowhere: [&[&str]; 5] = [
        &[],
        &["BR2_mips=y", "BR2_MIPS_CPU_MIPS32=y"],
        &["BR2_mipsel=y", "BR2_MIPS_CPU_MIPS32R6=y"],
        &["BR2_arm=y", "BR2_ARM_CPU_ARMV5=y"],
        &["BR2_arm=y"],
    ];
    for cpu in nowhere {
        let config = resolve(cpu);
        assert!(!config.contains("BR2_PACKAGE_PARAGLIDER=y"), "{cpu:?}\n{config}");
        assert!(config.contains("# paraglider needs a CPU that Rust or its 'make cross' knows"), "{config}");
    }
    // A CPU without an MMU cannot fork.
    let config = resolve(&["BR2_arm=y", "BR2_ARM_CPU_ARMV7A=y", "# BR2_USE_MMU is not set"]);
    assert!(!config.contains("BR2_PACKAGE_PARAGLIDER=y"), "{config}");
    // Rust alone is enough.
    let config = resolve(&["BR2_arm=y", "BR2_ARM_CPU_ARMV5=y", RUST]);
    assert!(sets(&config, SOURCE) && !config.contains("# paraglider needs"), "{config}");
    assert!(!config.contains("_PREBUILT is not set"), "no prebuilt one runs there:\n{config}");
}

/// The preset is the binary that runs on the CPU, and one that cross/targets has.
#[test]
fn each_cpu_gets_its_own_binary() {
    let table = crate::read(&format!("{ROOT}/cross/targets"));
    let cpus: [(&[&str], &str); 9] = [
        (&["BR2_aarch64=y"], "aarch64-unknown-linux-musl"),
        (&["BR2_arm=y", "BR2_ARM_CPU_ARMV7A=y", "BR2_ARM_EABIHF=y"], "armv7-unknown-linux-musleabihf"),
        (&["BR2_arm=y", "BR2_ARM_CPU_ARMV8A=y", "BR2_ARM_EABIHF=y"], "armv7-unknown-linux-musleabihf"),
        (&["BR2_arm=y", "BR2_ARM_CPU_ARMV7A=y"], "arm-unknown-linux-musleabi"),
        (&["BR2_arm=y", "BR2_ARM_CPU_ARMV8A=y"], "arm-unknown-linux-musleabi"),
        (&["BR2_arm=y", "BR2_ARM_CPU_ARMV6=y", "BR2_ARM_EABIHF=y"], "arm-unknown-linux-musleabi"),
        (&["BR2_mips=y"], "mips-unknown-linux-musl"),
        (&["BR2_mipsel=y"], "mipsel-unknown-linux-musl"),
        (&["BR2_x86_64=y"], "x86_64-unknown-linux-musl"),
    ];
    let mut offered: Vec<&str> = Vec::new();
    for (cpu, target) in cpus {
        let config = resolve(&[cpu, &[PREBUILT]].concat());
        let line = format!("BR2_PACKAGE_PARAGLIDER_PREBUILT_TARGET=\"{target}\"");
        assert!(sets(&config, &line), "{cpu:?}: no {line}\n{config}");
        offered.push(target);
    }
    let built = table.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(' ').next());
    for target in built {
        assert!(offered.contains(&target), "make cross builds {target}, and no CPU gets it");
        offered.retain(|known| *known != target);
    }
    assert!(offered.is_empty(), "make cross does not build {offered:?}");
}
