//! Paraglider turns a Linux host into a TCP load balancer with netfilter rules alone.
//!
//! The way of the data has one direction: [`cli`] → [`verb`] → [`config`] → [`service`] → [`engine`] (with [`schedule`])
//! → kernel. The modules stand in layers, lowest first; none imports from a higher one (`tests/cli/layers.rs`).
//!
//! The library is there for the program, its tests and its benches; its interface may change at any time.

pub mod error;
pub mod text;

pub mod net;

pub mod sys;

pub mod service;

pub mod schedule;

pub mod config;

pub mod host;

pub mod engine;

pub mod serve;

pub mod watch;

pub mod verb;

pub mod cli;
