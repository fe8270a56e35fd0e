//! The Buildroot tree: that kconfig and make read it as meant, that it keeps Buildroot's style, and that its init script
//! does its job in busybox, with real iptables and real traffic.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod init;
mod kconfig;
#[path = "../netns/lab.rs"]
mod lab;
mod recipe;
mod style;

/// The checkout.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A file of the package.
fn package(name: &str) -> String {
    format!("{ROOT}/buildroot/package/paraglider/{name}")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Whether a program of this name is on PATH; says that the test is skipped if not.
fn has(program: &str, test: &str) -> bool {
    let path = std::env::var("PATH").unwrap();
    let found = path.split(':').any(|dir| std::path::Path::new(dir).join(program).exists());
    if !found {
        println!("skipped: {test}: there is no {program}; make setup");
    }
    found
}
