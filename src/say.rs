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

pub(crate) use {detail, info, warning};
