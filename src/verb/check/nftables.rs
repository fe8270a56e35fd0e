//! What do tables of nftables outside of iptables do to what is balanced? An ACCEPT in one table is no verdict for the next.

use super::findings::Findings;
use crate::host::nft::{self, Base, Chain, Fate, Hook, Path, Sets};
use crate::host::route::{Interface, Packet, Routes};
use crate::net::Family;
use crate::service::{Service, Source};

/// Adds what is found about a family.
pub fn check(family: Family, services: &[Service], findings: &mut Findings<'_>) {
    // Without nf_tables there are no such tables.
    let chains = nft::chains(family).unwrap_or_default();
    if chains.is_empty() {
        return;
    }
    let paths = paths(family, services);
    let mut sets = Sets::default();
    for chain in &chains {
        if let Some(base) = chain.base {
            judge(chain, base, &chains, &paths, &mut sets, findings);
        }
    }
    if let Some(chain) = nft::offloads(&chains) {
        findings.ok(format_args!(
            "nftables: {chain} hands established connections to a flow table; no other rule sees them then"
        ));
    }
}

/// The ways through this host, and whether backends are to see the client's address.
fn paths(family: Family, services: &[Service]) -> Vec<(Path, bool)> {
    let mut routes = Routes::open().ok();
    let addresses = routes.as_mut().and_then(|routes| routes.addresses(family).ok()).unwrap_or_default();
    let name = |interface: Interface| {
        let name = interface.name();
        if name == "lo" {
            String::new()
        } else {
            name
        }
    };
    let mut paths = Vec::new();
    for service in services.iter().filter(|service| service.bind.family() == family) {
        let front = addresses.iter().find(|own| own.ip == service.bind.ip());
        let arrives = front.map_or_else(String::new, |own| name(own.interface));
        for backend in &service.backends {
            let to = Packet::to(backend.address.ip());
            let way = routes.as_mut().and_then(|routes| routes.way(&to).ok());
            let leaves = way.map_or_else(String::new, |way| name(way.leaves));
            let path = Path { bind: service.bind, backend: backend.address, arrives: arrives.clone(), leaves };
            paths.push((path, service.source == Source::Client));
        }
    }
    paths
}

/// Says what the first way that is hindered in a chain meets there.
fn judge(
    chain: &Chain,
    base: Base,
    chains: &[Chain],
    paths: &[(Path, bool)],
    sets: &mut Sets,
    findings: &mut Findings<'_>,
) {
    let mut sometimes = None;
    for (path, as_client) in paths {
        let Path { bind, backend, .. } = path;
        // Rules of nat at 100 and -100 race with ours; only what comes before is sure to win.
        let first = match base.hook {
            Hook::Prerouting => base.priority < -100,
            Hook::Forward => false,
            Hook::Postrouting => base.priority < 100,
        };
        let place = format!("nftables: {chain} (priority {})", base.priority);
        let rule = |handle: u64| match handle {
            0 => "its policy".to_owned(),
            handle => format!("a rule (handle {handle})"),
        };
        match chain.fate(base, chains, path, sets) {
            Fate::Through => continue,
            Fate::Sometimes(handle) => {
                sometimes = sometimes.or(Some(handle));
                continue;
            }
            Fate::Taken(_) if !first || base.hook == Hook::Postrouting && !as_client => continue,
            Fate::Taken(handle) if base.hook == Hook::Postrouting => findings.warning(format_args!(
                "{place}: {} changes the source address before our rules; so {backend} does not see clients' addresses, \
                 though privateip of {bind} is none",
                rule(handle)
            )),
            Fate::Taken(handle) => findings.error(format_args!(
                "{place}: {} takes the connections to {bind} before our rules; remove it",
                rule(handle)
            )),
            Fate::Untracked(handle) if base.hook == Hook::Prerouting => findings.error(format_args!(
                "{place}: {} switches tracking off (notrack) for {bind}, and without it nothing is balanced; remove it",
                rule(handle)
            )),
            Fate::Split(handle) if base.hook == Hook::Prerouting => findings.warning(format_args!(
                "{place}: {} tracks the connections to {bind} in a zone of their own; their answers have to be in the same one",
                rule(handle)
            )),
            Fate::Untracked(_) | Fate::Split(_) => continue,
            Fate::Dropped(_) | Fate::DroppedPerhaps(_)
                if base.hook == Hook::Forward && chain.is_filled_at_start(chains) =>
            {
                findings.ok(format_args!("{place}: the service lets through there what is balanced, from its start on"));
            }
            Fate::Dropped(handle) => findings.error(format_args!(
                "{place}: {} drops the connections of {bind} to {backend}, which no ACCEPT in iptables can overrule; {}",
                rule(handle),
                remedy(chain, base)
            )),
            Fate::DroppedPerhaps(handle) => findings.warning(format_args!(
                "{place}: {} may drop the connections of {bind} to {backend}, which no ACCEPT in iptables can overrule; {}",
                rule(handle),
                remedy(chain, base)
            )),
        }
        return;
    }
    if let Some(handle) = sometimes {
        findings.ok(format_args!("nftables: {chain}: a rule (handle {handle}) drops some packets, balanced or not"));
    }
}

/// Where connections have their new destination, one rule is for all of them.
fn remedy(chain: &Chain, base: Base) -> String {
    match base.hook {
        Hook::Prerouting => "remove it, or except them".to_owned(),
        Hook::Forward | Hook::Postrouting => format!("nft insert rule {chain} ct status dnat accept"),
    }
}
