//! The engine that writes with `iptables-restore`, whichever variant `iptables` is.

pub mod change;
pub mod rule;
pub mod ruleset;
mod save;
mod stamp;
pub mod tool;
