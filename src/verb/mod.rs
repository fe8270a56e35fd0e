//! One file per verb. A verb writes its result into `out`, which `main` prints; everything else goes through `log`.

pub mod check;
pub mod print;
pub mod start;
pub mod status;
pub mod stop;
pub mod watch;
