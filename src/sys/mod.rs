//! System calls: the only place with `unsafe`.
#![allow(unsafe_code)]

pub mod batch;
pub mod file;
pub mod log;
pub mod netlink;
pub mod nftables;
pub mod poll;
pub mod process;
pub mod rights;
pub mod signal;
pub mod socket;
mod spawn;
