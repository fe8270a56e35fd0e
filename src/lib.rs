//! Paraglider turns a Linux host into a TCP load balancer with netfilter rules alone.
//!
//! The way of the data has one direction: [`cli`] → [`verb`] → [`config`] → [`service`] → [`ruleset`] (with
//! [`schedule`]) → [`engine`] → kernel. All left of the engine is pure.
//!
//! The library is there for the program, its tests and its benches; its interface may change at any time.

pub mod cli;
pub mod config;
pub mod conntrack;
pub mod engine;
pub mod error;
pub mod health;
pub mod host;
pub mod netlink;
pub mod program;
pub mod remedy;
pub mod ruleset;
pub mod say;
pub mod schedule;
pub mod service;
pub mod signals;
pub mod socket;
pub mod verb;
pub mod watched;
