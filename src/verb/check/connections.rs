//! Can connections be tracked: room for them, and the ways to end them?

use super::findings::Findings;
use crate::engine::Level;
use crate::host::conntrack;
use crate::host::remedy;
use crate::service::Service;
use crate::sys::file;
use crate::text::number;

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
    let number = |path| number(&file::read(path), u32::MAX.into()).map(|number| number as u32);
    let count = number("/proc/sys/net/netfilter/nf_conntrack_count");
    let (Some(count), Some(max)) = (count, number("/proc/sys/net/netfilter/nf_conntrack_max")) else { return };
    // 0 is no limit (nf_conntrack-sysctl.rst).
    if max == 0 {
        findings.ok(format_args!("connection table: {count} entries, without a limit"));
        return;
    }
    let (level, so) = match count {
        _ if count >= max => (Level::Error, ": it is full, and"),
        // Four fifths are too full for comfort.
        _ if count >= max - max / 5 => (Level::Warning, "; when it is full,"),
        _ => {
            findings.ok(format_args!("connection table: {count} of {max} entries are taken"));
            return;
        }
    };
    let remedy = remedy::sysctl(findings.system, "net.netfilter.nf_conntrack_max", u64::from(max) * 2);
    findings.add(
        level,
        format_args!(
            "connection table: {count} of {max} entries are taken{so} all new connections through this host fail; {remedy}              (300 bytes each)"
        ),
    );
}
