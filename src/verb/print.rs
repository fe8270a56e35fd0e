//! `print`: the rules that `start` would put in force. Needs neither root nor netfilter.

use crate::engine::{choice, iptables, nftables, Plan};
use crate::error::{fail, refuse, Error, Exit};
use crate::net::Family;
use crate::serve::{self, Config};
use crate::service::Preference;
use crate::sys::log;

/// Prints the rules of the engine that is asked for; else of the one that `start` would write on this host. Those of
/// iptables are of one family: IPv6 if asked for or if there is no other, else IPv4.
pub fn run(path: &str, engine: Option<&str>, ipv6: bool, out: &mut String) -> Result<Exit, Error> {
    let Config { engine: configured, services, waiting, .. } = serve::load(path)?;
    for one in &waiting {
        log::warning!("{one}");
    }
    if services.is_empty() {
        return fail!("there are no rules yet: no frontend has an address");
    }
    let preference = engine.map_or(Ok(configured), Preference::parse)?;
    let plan = Plan::Serve(&services);
    if choice::is_nftables(preference) {
        if ipv6 {
            return refuse!(
                "--ipv6 and nftables exclude each other, since one table has both families; leave it out, or add `--engine \
                 iptables`"
            );
        }
        out.push_str(&nftables::text(&plan));
        return Ok(Exit::Done);
    }
    let text = |family| iptables::text(&plan, family);
    let (v4, v6) = (text(Family::V4), text(Family::V6));
    if v4.is_some() && v6.is_some() && !ipv6 {
        log::warning!("these are the rules for iptables-restore; with --ipv6, those for ip6tables-restore are printed");
    }
    let shown = if ipv6 { v6 } else { v4.or(v6) };
    out.push_str(&shown.ok_or_else(|| Error::usage(format_args!("the config has no IPv6 frontend")))?);
    Ok(Exit::Done)
}
