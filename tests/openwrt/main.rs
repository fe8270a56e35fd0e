//! The OpenWrt packages: what is in them, and what they do on a router. The router is a root directory of its own with
//! busybox, no iptables or the real one, and small stand-ins for what OpenWrt has around a package (`system/`).
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod adopt;
#[path = "../netns/datagram.rs"]
mod datagram;
mod interface;
#[path = "../netns/lab.rs"]
mod lab;
mod life;
mod logged;
mod package;
mod router;
mod story;
mod watch;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The architecture whose package this machine can run.
const HERE: &str = "x86_64";
