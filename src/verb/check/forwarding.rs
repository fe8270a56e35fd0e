//! Does the host forward, and what does it do to it?

use super::findings::Findings;
use crate::engine::Level;
use crate::error::plain;
use crate::host::advertised;
use crate::host::forwarding;
use crate::net::Family;
use crate::sys::file;

/// Adds what is found about a family that is balanced.
pub fn check(family: Family, findings: &mut Findings<'_>) {
    let name = forwarding::name(family);
    let forwards = forwarding::forwards(family);
    if forwards {
        findings.ok(format_args!("{name}: forwarding is on"));
    } else {
        match file::open(forwarding::path(family), libc::O_WRONLY) {
            Ok(_) => {
                let open = forwarding::is_open(&findings.forward_policies, family);
                let opens = if open {
                    format!("; then {}", forwarding::opens(family, findings.by_iptables))
                } else {
                    String::new()
                };
                findings.warning(format_args!("{name}: forwarding is off; `start` switches it on{opens}"));
            }
            Err(error) => {
                let why = plain(&error);
                let wrong = format_args!("forwarding is off and cannot be switched on ({why})");
                findings.sysctl(Level::Error, name, wrong, 1);
            }
        }
    }
    if family == Family::V4 {
    } else if forwards {
        advertised::ignored(&mut |name, gone| ignored(name, gone, findings));
    } else {
        for name in &advertised::endangered() {
            keep(name, findings);
        }
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
            let why = plain(&error);
            let wrong = format_args!(
                "it is 1 and cannot be written ({why}), and a host that forwards loses its routes from router advertisements"
            );
            findings.sysctl(Level::Error, name, wrong, 2);
        }
    }
}

/// An interface whose router advertisements a host that forwards ignores.
fn ignored(interface: &str, gone: bool, findings: &mut Findings<'_>) {
    let what = match gone {
        true => "they arrive there, and it has no IPv6 default route",
        false => "its addresses and routes from them there end with their lifetimes",
    };
    let wrong = format_args!("it is 1, and a host that forwards ignores router advertisements: {what}");
    findings.sysctl(Level::Warning, &advertised::accept_ra(interface).name, wrong, 2);
}
