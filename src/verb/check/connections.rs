//! Can connections be tracked: room for them, and the ways to end them?

use super::findings::Findings;
use crate::host::conntrack;
use crate::host::remedy;
use crate::service::Service;
use crate::sys::file;
use crate::text::number;

/// Share of the connection table, in percent, from which on it is too full for comfort.
const FULL: u64 = 80;

/// Adds what is found about connection tracking.
pub fn check(services: &[Service], findings: &mut Findings<'_>) {
    if services.iter().any(|service| service.health.is_some()) {
        match conntrack::can_forget() {
            Ok(()) => findings.ok(format_args!("health: connections to backends that are down can be ended")),
            Err(error) => findings.warning(format_args!("health: {error}")),
        }
    }
    room(findings);
}

/// Free space in the connection table: when it is full, the kernel drops all new connections.
fn room(findings: &mut Findings<'_>) {
    let number = |name: &str| number(&file::read(&format!("/proc/sys/net/netfilter/{name}")), 1 << 40);
    let (Some(count), Some(max)) = (number("nf_conntrack_count"), number("nf_conntrack_max")) else {
        return;
    };
    // 0 is no limit (nf_conntrack-sysctl.rst).
    if max == 0 {
        findings.ok(format_args!("connection table: {count} entries, without a limit"));
        return;
    }
    let text = format!("connection table: {count} of {max} entries are taken");
    if count * 100 / max < FULL {
        findings.ok(format_args!("{text}"));
        return;
    }
    let remedy = remedy::sysctl(findings.system, &format!("net.netfilter.nf_conntrack_max={}", max * 2));
    if count >= max {
        findings.error(format_args!("{text}: it is full, and all new connections through this host fail; {remedy}"));
    } else {
        findings.warning(format_args!(
            "{text}; when it is full, all new connections through this host fail; {remedy} (300 bytes each)"
        ));
    }
}
