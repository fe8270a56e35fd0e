//! The one process that may stay: it checks backends, and puts back rules that others change.

mod backend;
pub mod checker;
pub mod claim;
mod datagram;
mod follow;
mod http;
mod presence;
pub mod probe;
mod round;
pub mod run;

#[cfg(test)]
mod story;
