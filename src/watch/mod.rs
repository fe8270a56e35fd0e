//! The one process that may stay: it checks backends, and puts back rules that others change.

pub mod checker;
pub mod claim;
mod follow;
pub mod probe;
pub mod run;
