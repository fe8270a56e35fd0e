//! The Buildroot tree: that kconfig and make read it as meant, that it keeps Buildroot's style, and that its init script
//! does its job in busybox, with real iptables and real traffic. `make test-buildroot` leaves out, and says so, what the
//! machine does not allow.
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
mod watch;

/// The checkout.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A file of the package.
fn package(name: &str) -> String {
    format!("{ROOT}/buildroot/package/paraglider/{name}")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}
