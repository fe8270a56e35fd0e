//! Does the host forward, and what does it do to it?

use super::findings::Findings;
use crate::error::plain;
use crate::host::advertised;
use crate::host::forwarding;
use crate::host::remedy;
use crate::net::Family;
use crate::sys::file;

/// Adds what is found about a family that is balanced.
pub fn check(family: Family, findings: &mut Findings<'_>) {
    let name = forwarding::name(family);
    let off = !forwarding::forwards(family);
    if off {
        match file::open(forwarding::path(family), libc::O_WRONLY) {
            Ok(_) => {
                let open = forwarding::is_open(&findings.forward_policies, family);
                let opens = if open { format!("; then {}", forwarding::opens(family)) } else { String::new() };
                findings.warning(format_args!("{name}: forwarding is off; `start` switches it on{opens}"));
            }
            Err(error) => {
                let remedy = remedy::sysctl(findings.system, &format!("{name}=1"));
                findings.error(format_args!(
                    "{name}: forwarding is off and cannot be switched on ({}); {remedy}",
                    plain(&error)
                ));
            }
        }
    } else {
        findings.ok(format_args!("{name}: forwarding is on"));
    }
    match (family, off) {
        (Family::V4, _) => {}
        (Family::V6, true) => advertised::endangered().iter().for_each(|name| keep(name, findings)),
        (Family::V6, false) => advertised::ignored().iter().for_each(|(name, gone)| ignored(name, *gone, findings)),
    }
}

/// An interface that takes router advertisements, on a host that does not forward yet.
fn keep(interface: &str, findings: &mut Findings<'_>) {
    let sysctl = advertised::accept_ra(interface);
    let name = &sysctl.name;
    match file::open(&sysctl.path, libc::O_WRONLY) {
        Ok(_) => findings.warning(format_args!(
            "{name}: it is 1; `start` sets it to 2, since a host that forwards would ignore router advertisements"
        )),
        Err(error) => {
            let remedy = remedy::sysctl(findings.system, &format!("{name}=2"));
            findings.error(format_args!(
                "{name}: it is 1 and cannot be written ({}), and a host that forwards loses the routes that it has from \
                 router advertisements; {remedy}",
                plain(&error)
            ));
        }
    }
}

/// An interface whose router advertisements a host that forwards ignores.
fn ignored(interface: &str, gone: bool, findings: &mut Findings<'_>) {
    let name = advertised::accept_ra(interface).name;
    let remedy = remedy::sysctl(findings.system, &format!("{name}=2"));
    let what = match gone {
        true => "they arrive there, and it has no IPv6 default route",
        false => "the addresses and routes that it has from them there end with their lifetimes",
    };
    findings.warning(format_args!(
        "{name}: it is 1, and a host that forwards ignores router advertisements: {what}; {remedy}"
    ));
}
