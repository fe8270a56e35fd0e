//! The package on emulated boards: real kernels of every architecture, which qemu runs, between a client and backends
//! that are namespaces of this machine (`make boards`).
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod board;
mod clock;
#[path = "../netns/lab.rs"]
mod lab;
mod power;
mod stop;
mod story;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
