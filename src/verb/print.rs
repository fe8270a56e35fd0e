//! `print`: the rules that `start` would put in force. Needs neither root nor netfilter.

use crate::engine::{iptables, Plan};
use crate::error::{Error, Exit};
use crate::net::Family;
use crate::serve;
use crate::sys::log;

/// Prints the rules of one family: IPv6 if asked for or if there is no other, else IPv4.
pub fn run(path: &str, ipv6: bool, out: &mut String) -> Result<Exit, Error> {
    let (_, services) = serve::load(path)?;
    let text = |family| iptables::text(&Plan::Serve(&services), family);
    let (v4, v6) = (text(Family::V4), text(Family::V6));
    if v4.is_some() && v6.is_some() && !ipv6 {
        log::warning!("these are the rules for iptables-restore; `print --ipv6` prints those for ip6tables-restore");
    }
    let shown = if ipv6 { v6 } else { v4.or(v6) };
    out.push_str(&shown.ok_or_else(|| Error::usage(format_args!("the config has no IPv6 frontend")))?);
    Ok(Exit::Done)
}
