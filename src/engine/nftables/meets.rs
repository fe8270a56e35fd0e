//! What do tables of nftables outside of iptables do to what is balanced? An ACCEPT in one table is no verdict for the next.

use super::table::{POSTROUTING, PREROUTING};
use crate::engine::{Finding, Level};
use crate::host::nft::{self, firewall4, Base, Chain, Fate, Hook, Path, Sets};
use crate::host::route::{self, Interface, Packet, Routes};
use crate::net::{Endpoint, Family};
use crate::service::{Bind, Service, Source};
use crate::sys::process;

/// Adds what is found about a family. `written`: the rules that balance are our table; else they are in iptables.
pub fn meets(family: Family, services: &[Service], written: bool, found: &mut Vec<Finding>) {
    // What iptables has in its own tables, it tells itself, if it is there.
    let all = written && process::find("iptables").is_none();
    // Without nf_tables there are no such tables.
    let chains = nft::chains(family, all).unwrap_or_default();
    if chains.is_empty() {
        return;
    }
    let paths = paths(family, services);
    let (mut sets, mut meets) = (Sets::default(), Meets { chains: &chains, paths: &paths, written, found });
    for chain in &chains {
        if let Some(base) = chain.base {
            meets.judge(chain, base, &mut sets);
        }
    }
    if let Some(chain) = nft::offloads(&chains) {
        meets.add(
            Level::Ok,
            format_args!("{chain} hands established connections to a flow table; no other rule sees them then"),
        );
    }
}

/// Whether a chain of others drops what comes to a bind on this host, without a word: then no RST ends a connection that is
/// not known here.
pub fn is_shut(bind: Endpoint, chains: &[Chain]) -> bool {
    // Only on this host it can be dropped there.
    let Ok(addresses) = Routes::open().and_then(|mut routes| routes.addresses(bind.family())) else { return false };
    let Some(own) = route::find_address(&addresses, bind.address()) else { return false };
    // An address of the loopback interface can be reached by all others.
    let mut ways = vec![name(Some(own.interface))];
    if ways.iter().all(String::is_empty) {
        ways = addresses.iter().map(|own| name(Some(own.interface))).filter(|name| !name.is_empty()).collect();
    }
    let mut sets = Sets::default();
    let mut is_shut = |arrives: String| {
        let path = Path { bind, backend: bind, arrives, leaves: String::new() };
        // Where it may be let in, it may be for a service of this host.
        chains.iter().any(|chain| match chain.base {
            Some(base) if base.hook == Hook::Input => chain.fate(base, chains, &path, &mut sets).0 == Fate::Dropped,
            _ => false,
        })
    };
    !ways.is_empty() && ways.into_iter().all(&mut is_shut)
}

/// Chains of others, and the connections that meet them.
struct Meets<'a, 'f> {
    chains: &'a [Chain],
    /// The ways through this host, and whether backends are to see the client's address.
    paths: &'a [(Path, bool)],
    written: bool,
    found: &'f mut Vec<Finding>,
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
            let to = backend.address.for_client_of(service.bind.port());
            let path = Path { bind: service.bind, backend: to, arrives: name(front), leaves: name(way) };
            paths.push((path, service.source == Source::Client));
        }
    }
    paths
}

/// The name of an interface that other hosts are behind.
fn name(interface: Option<Interface>) -> String {
    interface.map(Interface::name).filter(|name| name != "lo").unwrap_or_default()
}

impl<'a> Meets<'a, '_> {
    fn add(&mut self, level: Level, what: std::fmt::Arguments<'_>) {
        self.found.push(Finding::new(level, format_args!("nftables: {what}")));
    }

    /// Names a rule of input that balanced connections do not meet.
    fn misses(&mut self, chain: &'a Chain, base: Base, sets: &mut Sets<'a>) {
        for (path, _) in self.paths {
            let Some(handle) = chain.misses(base, self.chains, path, sets) else { continue };
            let (port, protocol) = (path.bind.port(), path.bind.protocol().word());
            self.add(
                Level::Warning,
                format_args!(
                    "{chain} (priority {}): a rule (handle {handle}) does not apply to balanced connections, which are \
                     forwarded; write it as `meta l4proto {protocol} ct original proto-dst {port} …` into a chain of forward, or as \
                     `{protocol} dport {port} …` into one of prerouting with a priority below -101",
                    base.priority
                ),
            );
            return;
        }
    }

    /// Says what the first way that is hindered in a chain meets there.
    fn judge(&mut self, chain: &'a Chain, base: Base, sets: &mut Sets<'a>) {
        // Rules of nat at one priority race; only what comes before is sure to win.
        let (dispatch, source) = if self.written { (PREROUTING.priority, POSTROUTING.priority) } else { (-100, 100) };
        if base.hook == Hook::Input {
            return self.misses(chain, base, sets);
        }
        let (mut sometimes, mut waits) = (0, false);
        let is_firewall4 = chain.is_firewall4(base);
        let lacks_rule = is_firewall4 && firewall4::lacks_rule();
        for (path, as_client) in self.paths {
            let (fate, handle) = chain.fate(base, self.chains, path, sets);
            let (mut level, mut insert) = (Level::Error, String::new());
            let (does, so) = match (fate, base.hook) {
                (Fate::Sometimes, _) => {
                    if sometimes == 0 {
                        sometimes = handle;
                    }
                    continue;
                }
                (Fate::Taken, Hook::Prerouting) if base.priority < dispatch => {
                    ("redirects", " before our rules; remove it")
                }
                (Fate::Taken, Hook::Postrouting) if base.priority < source && *as_client => {
                    level = Level::Warning;
                    (
                        "changes the source of",
                        " before our rules: backends do not see clients, though privateip is none",
                    )
                }
                (Fate::Untracked, Hook::Prerouting) => {
                    ("switches tracking off (notrack) for", ", without which nothing is balanced; remove it")
                }
                (Fate::Split, Hook::Prerouting) => {
                    level = Level::Warning;
                    ("tracks", " in a zone of their own; their answers have to be in the same one")
                }
                (Fate::Through | Fate::Taken | Fate::Untracked | Fate::Split, _) => continue,
                // What is not yet in the set gets there at `start`; what is missing after that is told with our own rules.
                (Fate::Dropped | Fate::Refused | Fate::DroppedPerhaps, Hook::Forward)
                    if is_firewall4 && !lacks_rule && !firewall4::has(&[Bind::one(path.bind)]) =>
                {
                    waits = true;
                    continue;
                }
                (Fate::Dropped | Fate::Refused | Fate::DroppedPerhaps, hook) => {
                    let mut does = "drops";
                    if fate == Fate::DroppedPerhaps {
                        (level, does) = (Level::Warning, "may drop");
                    }
                    // Where connections have their new destination, one rule is for all of them.
                    if hook == Hook::Prerouting {
                        (does, "; remove it, or except them")
                    } else if lacks_rule {
                        insert.push_str(firewall4::remedy());
                        (does, "; ")
                    } else {
                        // Behind what bans clients before.
                        insert = match handle {
                            0 => format!("nft add rule {chain} ct status dnat accept"),
                            _ if chain.has(handle) => {
                                format!("nft insert rule {chain} position {handle} ct status dnat accept")
                            }
                            _ => format!("nft insert rule {chain} ct status dnat accept"),
                        };
                        match self.written {
                            true => (does, ", which no rule in another table can overrule; "),
                            false => (does, ", which no ACCEPT in iptables can overrule; "),
                        }
                    }
                }
            };
            let Path { bind, backend, .. } = path;
            let rule = match handle {
                0 => "its policy".to_owned(),
                handle => format!("a rule (handle {handle})"),
            };
            self.add(
                level,
                format_args!(
                    "{chain} (priority {}): {rule} {does} the connections of {bind} to {backend}{so}{insert}",
                    base.priority
                ),
            );
            return;
        }
        if waits {
            self.add(Level::Ok, format_args!("{chain}: `start` lets through there what is balanced"));
        }
        if sometimes != 0 {
            self.add(
                Level::Ok,
                format_args!("{chain}: a rule (handle {sometimes}) drops some packets, balanced or not"),
            );
        }
    }
}
