//! What is told to people goes through `log` under the program's name, not under that of the module that says it.

/// A sentence about what was done.
macro_rules! info {
    ($($what:tt)*) => { log::info!(target: "paraglider", $($what)*) };
}

/// A sentence about what may surprise.
macro_rules! warning {
    ($($what:tt)*) => { log::warn!(target: "paraglider", $($what)*) };
}

/// What `-v` shows.
macro_rules! detail {
    ($($what:tt)*) => { log::debug!(target: "paraglider", $($what)*) };
}

/// `1 backend`, `2 backends`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    let ending = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{ending}")
}

pub(crate) use {detail, info, warning};
