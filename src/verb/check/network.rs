//! Do packets find their way: forwarding, addresses, routes, and room for the connections?

use super::findings::Findings;
use super::{addresses, connections, forwarding, offload, routes};
use crate::error::plain;
use crate::host::ssh;
use crate::net::Family;
use crate::service::Service;

/// Adds what is found.
pub fn check(services: &[Service], findings: &mut Findings<'_>) {
    for family in Family::ALL {
        if has(services, family) {
            forwarding::check(family, findings);
        }
    }
    addresses::check(services, findings);
    if let Some(bind) = ssh::session().filter(|bind| services.iter().any(|service| service.bind == *bind)) {
        findings.error(format_args!(
            "bind {bind}: your SSH session comes in there, and you would not get in again; choose another port"
        ));
    }
    for family in Family::ALL {
        if has(services, family) {
            if let Err(error) = routes::check(family, services, findings) {
                let why = plain(&error);
                findings.warning(format_args!("routes: the kernel does not tell the {family} ones ({why})"));
            }
        }
    }
    connections::check(services, findings);
    offload::check(findings);
}

#[inline(never)]
fn has(services: &[Service], family: Family) -> bool {
    services.iter().any(|service| service.bind.family() == family)
}
