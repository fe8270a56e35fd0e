//! What do tables of nftables outside of iptables do to what is balanced? An ACCEPT in one table is no verdict for the next.

use super::findings::Findings;
use crate::engine::Level;
use crate::host::nft::{self, Base, Chain, Fate, Hook, Path, Sets};
use crate::host::route::{self, Interface, Packet, Routes};
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
    let mut paths = Vec::new();
    let Ok(mut routes) = Routes::open() else { return paths };
    let addresses = routes.addresses(family).unwrap_or_default();
    for service in services.iter().filter(|service| service.bind.family() == family) {
        let front = route::find_address(&addresses, service.bind.address()).map(|own| own.interface);
        for backend in &service.backends {
            let way = routes.way(&Packet::to(backend.address.address())).ok().map(|way| way.leaves);
            let path = Path { bind: service.bind, backend: backend.address, arrives: name(front), leaves: name(way) };
            paths.push((path, service.source == Source::Client));
        }
    }
    paths
}

/// The name of an interface that other hosts are behind.
fn name(interface: Option<Interface>) -> String {
    interface.map(Interface::name).filter(|name| name != "lo").unwrap_or_default()
}

/// Says what the first way that is hindered in a chain meets there.
fn judge<'a>(
    chain: &'a Chain,
    base: Base,
    chains: &'a [Chain],
    paths: &[(Path, bool)],
    sets: &mut Sets<'a>,
    findings: &mut Findings<'_>,
) {
    let mut sometimes = 0;
    for (path, as_client) in paths {
        let (fate, handle) = chain.fate(base, chains, path, sets);
        let (mut level, mut insert) = (Level::Error, String::new());
        let (does, so) = match (fate, base.hook) {
            (Fate::Sometimes, _) => {
                if sometimes == 0 {
                    sometimes = handle;
                }
                continue;
            }
            // Rules of nat at 100 and -100 race with ours; only what comes before is sure to win.
            (Fate::Taken, Hook::Prerouting) if base.priority < -100 => ("redirects", " before our rules; remove it"),
            (Fate::Taken, Hook::Postrouting) if base.priority < 100 && *as_client => {
                level = Level::Warning;
                ("changes the source of", " before our rules: backends do not see clients, though privateip is none")
            }
            (Fate::Untracked, Hook::Prerouting) => {
                ("switches tracking off (notrack) for", ", without which nothing is balanced; remove it")
            }
            (Fate::Split, Hook::Prerouting) => {
                level = Level::Warning;
                ("tracks", " in a zone of their own; their answers have to be in the same one")
            }
            (Fate::Through | Fate::Taken | Fate::Untracked | Fate::Split, _) => continue,
            (Fate::Dropped | Fate::DroppedPerhaps, Hook::Forward) if chain.is_filled_at_start(chains) => {
                findings.ok(format_args!(
                    "nftables: {chain}: the service lets through there what is balanced, from its start on"
                ));
                return;
            }
            (Fate::Dropped | Fate::DroppedPerhaps, hook) => {
                let mut does = "drops";
                if fate == Fate::DroppedPerhaps {
                    (level, does) = (Level::Warning, "may drop");
                }
                // Where connections have their new destination, one rule is for all of them.
                if hook == Hook::Prerouting {
                    (does, "; remove it, or except them")
                } else {
                    insert = format!("nft insert rule {chain} ct status dnat accept");
                    (does, ", which no ACCEPT in iptables can overrule; ")
                }
            }
        };
        let Path { bind, backend, .. } = path;
        let rule = match handle {
            0 => "its policy".to_owned(),
            handle => format!("a rule (handle {handle})"),
        };
        findings.add(
            level,
            format_args!(
                "nftables: {chain} (priority {}): {rule} {does} the connections of {bind} to {backend}{so}{insert}",
                base.priority
            ),
        );
        return;
    }
    if sometimes != 0 {
        findings.ok(format_args!("nftables: {chain}: a rule (handle {sometimes}) drops some packets, balanced or not"));
    }
}
