//! The engine that lets iptables write: the plain `iptables` of this host, or the variant that it is not.

pub mod change;
pub mod names;
mod others;
mod probe;
mod render;
mod rule;
pub mod ruleset;
mod save;
mod stamp;
mod tool;
mod words;

use std::cell::RefCell;
use std::net::IpAddr;

use self::change::Change;
use self::names::{hook_of, is_ours, Table, HOOKS};
use self::others::meets::{Home, Meets, Ours};
use self::others::place::{Places, Traffic};
use self::others::Others;
use self::ruleset::Ruleset;
use self::save::Listing;
use self::tool::{main_variant, missing, Tools, Variant};
use super::{Engine, Finding, Foreign, InForce, Kind, Plan, View};
use crate::error::{fail, Error};
use crate::host;
use crate::host::route::{self, Interface, Packet, Routes};
use crate::net::{Endpoint, Family, Protocol};
use crate::service::{Service, Source};
use crate::sys::file;
use crate::sys::log;
use crate::sys::netlink::{self, Netlink};
use crate::sys::nftables::chain;

/// The iptables of this host, or the other variant of each family.
#[derive(Debug)]
pub struct Iptables {
    /// In the order of [`Family::ALL`]. Debian's alternatives of `iptables` and `ip6tables` are set one by one, so the
    /// variants of the families may differ.
    tools: [Tools; 2],
    /// Where our rules are to be.
    home: Home,
}

/// The plain iptables of this host, which is to be written or not, and the variant that it is not, where rules may be left
/// over. Fails where there is no iptables, or where this process may not change rules.
pub fn find(is_written: bool) -> Result<[Iptables; 2], Error> {
    let v4 = main_variant(Family::V4)?.ok_or_else(none)?;
    let v6 = main_variant(Family::V6)?.unwrap_or(v4);
    log::detail!("iptables is {}, ip6tables is {}", v4.name(), v6.name());
    host::may_change_rules(v4 == Variant::Legacy || v6 == Variant::Legacy)?;
    let engine = |main, home, v4, v6| Iptables {
        tools: [Tools { family: Family::V4, variant: v4, main }, Tools { family: Family::V6, variant: v6, main }],
        home,
    };
    let (here, there) = if is_written { (Home::Here, Home::Variant) } else { (Home::Nftables, Home::Nftables) };
    Ok([engine(true, here, v4, v6), engine(false, there, v4.other(), v6.other())])
}

/// iptables-nft on a host without iptables, which may have been removed before our rules were. The kernel tells whether any
/// are left; it does not for iptables-legacy.
pub fn gone() -> Iptables {
    let tools = |family| Tools { family, variant: Variant::Nft, main: false };
    Iptables { tools: Family::ALL.map(tools), home: Home::Nftables }
}

/// There is no iptables, though the config asks for it.
pub fn none() -> Error {
    missing("iptables").and("`engine: nftables` needs none")
}

/// Whether there is an iptables at all.
pub fn is_installed() -> bool {
    crate::sys::process::find("iptables").is_some()
}

/// The rules of a plan for one family, as `iptables-restore --noflush` reads them; `None` where there are none.
pub fn text(plan: &Plan<'_>, family: Family) -> Option<String> {
    let wanted = wanted(plan, &Ruleset::default(), &Others::default(), &[]);
    Change::of_family(&Ruleset::default(), &wanted, family).map(|change| change.text)
}

/// The rules of a plan, given those in force, those of others, and the families in which every change resets all counters.
fn wanted(plan: &Plan<'_>, in_force: &Ruleset, others: &Others, all_restart: &[Family]) -> Ruleset {
    match plan {
        Plan::Serve(services) => {
            let places = Places::among(others, &|family, protocol| traffic(services, family, protocol));
            Ruleset::following(services, in_force, &places, all_restart)
        }
        // The jumps stay where they are.
        Plan::Drain(binds) => Ruleset::draining(binds, in_force, &Places::default()),
        Plan::Nothing => Ruleset::default(),
    }
}

/// What is to be balanced of one family and protocol.
fn traffic(services: &[Service], family: Family, protocol: Protocol) -> Traffic {
    let mut traffic = Traffic { protocol, ..Traffic::default() };
    let is_of = |service: &&Service| service.bind.family() == family && service.bind.protocol() == protocol;
    for service in services.iter().filter(is_of) {
        for (first, last) in service.ports.ranges() {
            for port in [Some(*first), Some(*last).filter(|last| last != first)].into_iter().flatten() {
                traffic.binds.push(service.bind.with_port(Some(port)));
            }
        }
        for backend in &service.backends {
            traffic.backends.push(backend.address);
        }
    }
    if let Ok(mut routes) = Routes::open() {
        traffic.interfaces = interfaces(&mut routes, &traffic.backends);
        traffic.front = front(&mut routes, family, &traffic);
    }
    traffic
}

/// The interfaces behind which these hosts are, without those of hosts to which there is no way now; `None` if none is
/// known.
fn interfaces(routes: &mut Routes, backends: &[Endpoint]) -> Option<Vec<String>> {
    let mut found = Vec::new();
    for backend in backends {
        match routes.way(&Packet::to(backend.address())) {
            Ok(way) if !found.contains(&way.leaves) => found.push(way.leaves),
            _ => {}
        }
    }
    let mut names: Vec<String> = found.into_iter().map(Interface::name).collect();
    names.retain(|name| !name.is_empty());
    (!names.is_empty()).then_some(names)
}

/// The interfaces by which clients come, most likely: those that have the binds; where that is the loopback interface, or
/// none, the one of the default route; without one, all that have addresses, but for those of the backends.
fn front(routes: &mut Routes, family: Family, traffic: &Traffic) -> Vec<String> {
    let addresses = routes.addresses(family).unwrap_or_default();
    let mut found: Vec<String> = Vec::new();
    let mut add = |name: String| {
        if name != "lo" && !name.is_empty() && !found.contains(&name) {
            found.push(name);
        }
    };
    for bind in &traffic.binds {
        match route::find_address(&addresses, bind.address()).map(|own| own.interface.name()) {
            Some(name) if name != "lo" => add(name),
            _ => match routes.way(&Packet::to(route::far(family))) {
                Ok(way) => add(way.leaves.name()),
                Err(_) => {
                    for own in addresses.iter().filter(|own| !is_of_link(&own.ip)) {
                        let (name, backends) =
                            (own.interface.name(), traffic.interfaces.as_deref().unwrap_or_default());
                        if !backends.contains(&name) {
                            add(name);
                        }
                    }
                }
            },
        }
    }
    found
}

/// An address that each interface has by itself.
fn is_of_link(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

impl Iptables {
    fn tools(&self, family: Family) -> &Tools {
        let [v4, v6] = &self.tools;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    fn is(&self, family: Family, variant: Variant) -> bool {
        self.tools(family).variant == variant
    }

    /// The families in which every change resets the counters of the `nth` match: ip_tables replaces whole tables
    /// (xt_statistic.c).
    fn all_restart(&self) -> Vec<Family> {
        Family::ALL.into_iter().filter(|family| self.is(*family, Variant::Legacy)).collect()
    }

    /// Reads our rules and the facts about others'.
    fn look(&self) -> Look<'_> {
        let mut look = Look {
            engine: self,
            list: Listing::default(),
            frontends: Vec::new(),
            unread: Vec::new(),
            tried: RefCell::default(),
        };
        // All programs at once: on a slow board most of the time goes into starting them.
        let mut started = Vec::new();
        for tools in &self.tools {
            match (kernel_tables(tools), tools.variant) {
                (Some(known), _) if !known.any => {}
                // The kernel tells whether any of ours are there, so only then the program is missed.
                (Some(_), Variant::Nft) if tools.find("save").is_none() => {
                    let left = Table::ALL.into_iter().any(|table| match chains(tools.family, table) {
                        Ok(chains) => !chains.is_empty(),
                        Err(_) => true,
                    });
                    if left {
                        let why = Error::system(format_args!(
                            "rules of ours are left in {}, whose programs are gone; install iptables, and they will be removed",
                            tools.variant.name()
                        ));
                        look.unread.push((tools.family, why));
                    }
                }
                (Some(known), _) => started.push((tools, known.ours, tools.list(None))),
                // A variant without its own program has never been used on this host.
                (None, Variant::Nft) if (!tools.main || tools.family == Family::V6) && tools.find("save").is_none() => {
                }
                (None, Variant::Nft) => started.push((tools, Vec::new(), tools.list(None))),
                // ip_tables hides the names of its tables; those that we use can still be asked for.
                (None, Variant::Legacy) if tools.main => {
                    for table in Table::ALL {
                        started.push((tools, vec![table], tools.list(Some(table))));
                    }
                }
                (None, Variant::Legacy) => {}
            }
        }
        for (Tools { family, main, variant }, expected, child) in started {
            let read = child.and_then(|child| {
                let output = child.wait()?;
                if !output.succeeded() {
                    return fail!("{}", output.said());
                }
                save::read(&output.out, *family, &expected, &mut look.list)?;
                // Only nf_tables tells the names of chains.
                if *variant == Variant::Nft {
                    save::hides_nothing(*family, &look.list)?;
                }
                Ok(())
            });
            match read {
                Ok(()) => {}
                // A kernel without the family or the interface has no rules there. Nor are any of ours where there are none
                // of the tables that we use, and none are to be.
                Err(why) if expected.is_empty() && (!main || self.home != Home::Here || !host::knows(*family)) => {
                    log::detail!("not read: {why}");
                }
                Err(why) => look.unread.push((*family, why)),
            }
        }
        look.frontends = look.list.ours.frontends();
        look
    }
}

/// What the kernel has of one variant and family in this network namespace.
#[derive(Default)]
struct KernelTables {
    /// There are tables.
    any: bool,
    /// Those of them that we use.
    ours: Vec<Table>,
}

/// `None` if the kernel has no nf_tables, or the names of ip_tables' tables cannot be read: there is no /proc, or the
/// namespace was made together with its user namespace.
fn kernel_tables(tools: &Tools) -> Option<KernelTables> {
    let mut known = KernelTables::default();
    let mut take = |name: &str| {
        known.any = true;
        known.ours.extend(Table::ALL.into_iter().find(|table| table.name() == name));
    };
    if tools.variant == Variant::Nft {
        // NFTA_TABLE_NAME
        let mut each = |table: &[u8]| netlink::text_of(table, 1).into_iter().for_each(&mut take);
        Netlink::open().and_then(|mut netlink| netlink.list(netlink::TABLES, tools.family.domain(), &mut each)).ok()?;
        return Some(known);
    }
    let path = match tools.family {
        Family::V4 => "/proc/net/ip_tables_names",
        Family::V6 => "/proc/net/ip6_tables_names",
    };
    if file::exists(path) || !host::has_proc() {
        let names = file::open(path, libc::O_RDONLY).ok()?;
        file::each_line(names, &mut |line| take(line.trim_ascii_end())).ok()?;
    }
    Some(known)
}

/// Our chains in a table of nf_tables, as the kernel tells them.
fn chains(family: Family, table: Table) -> Result<Vec<String>, Error> {
    let mut chains: Vec<String> = Vec::new();
    let listed = Netlink::open().and_then(|mut netlink| {
        netlink.list(netlink::CHAINS, family.domain(), &mut |chain| {
            if netlink::text_of(chain, chain::TABLE) == Some(table.name()) {
                chains.extend(
                    netlink::text_of(chain, chain::NAME).filter(|name| is_ours(table, name)).map(str::to_owned),
                );
            }
        })
    });
    listed.map_err(|error| Error::system(format_args!("{error}")))?;
    Ok(chains)
}

impl Engine for Iptables {
    fn kind(&self) -> Kind {
        Kind::Iptables
    }

    fn name(&self) -> &'static str {
        self.tools(Family::V4).variant.name()
    }

    fn read(&self) -> Result<Box<dyn View + '_>, Error> {
        Ok(Box::new(self.look()))
    }

    fn stamp(&self) -> Option<u64> {
        let mut both = 0;
        for tools in &self.tools {
            let stamp = match tools.variant {
                Variant::Nft => netlink::generation()?,
                // Asking ip_tables for a table creates it.
                Variant::Legacy if kernel_tables(tools).is_some_and(|known| !known.any) => 0,
                Variant::Legacy => stamp::legacy(tools.family)?,
            };
            both = stamp::mix(both, stamp);
        }
        Some(both)
    }

    fn any_change_restarts_turns(&self) -> bool {
        !self.all_restart().is_empty()
    }
}

/// What was read of both families.
struct Look<'a> {
    engine: &'a Iptables,
    list: Listing,
    frontends: Vec<InForce>,
    unread: Vec<(Family, Error)>,
    /// The last rules that `replace` has tried to write.
    tried: RefCell<Option<Ruleset>>,
}

impl Look<'_> {
    /// The change of a family that a plan needs.
    fn change(&self, wanted: &Ruleset, family: Family) -> Option<Change> {
        Change::of_family(&self.list.ours, wanted, family)
    }

    fn wanted(&self, plan: &Plan<'_>) -> Ruleset {
        wanted(plan, &self.list.ours, &self.list.others, &self.engine.all_restart())
    }

    /// Goes to `wanted`, family by family; tells whether anything had to be written.
    fn write(&self, wanted: &Ruleset) -> Result<bool, Error> {
        let mut written = false;
        for family in Family::ALL {
            if let Some(change) = self.change(wanted, family) {
                self.engine.tools(family).restore(&change.text)?;
                written = true;
            }
        }
        Ok(written)
    }

    /// Removes our rules from a table that iptables cannot list: chains by their names, which the kernel tells, and jumps by
    /// their text.
    fn clear_unseen(&self, family: Family, table: Table) -> Result<(), Error> {
        let tools = self.engine.tools(family);
        let chains = chains(family, table)?;
        if chains.is_empty() {
            return Ok(());
        }
        let run = |lines: &str| tools.restore(&format!("*{}\n{lines}COMMIT\n", table.name()));
        for hook in HOOKS.iter().filter(|hook| hook.table == table) {
            // Fails if there is none left. There is more than one only if a change was interrupted.
            for rule in [hook.rule(), hook.older()] {
                let remove = format!("-D {} {rule}\n", hook.chain);
                (0..8).take_while(|_| run(&remove).is_ok()).count();
            }
        }
        let mut lines = String::new();
        chains.iter().for_each(|chain| lines.push_str(&format!(":{chain} - [0:0]\n")));
        chains.iter().for_each(|chain| lines.push_str(&format!("-X {chain}\n")));
        run(&lines)
    }
}

impl View for Look<'_> {
    fn frontends(&self) -> &[InForce] {
        &self.frontends
    }

    fn is_empty(&self) -> bool {
        self.list.ours.is_empty()
    }

    fn foreign(&self) -> &Foreign {
        &self.list.foreign
    }

    fn unread(&self) -> &[(Family, Error)] {
        &self.unread
    }

    fn differs(&self, plan: &Plan<'_>) -> bool {
        let wanted = self.wanted(plan);
        Family::ALL.into_iter().any(|family| self.change(&wanted, family).is_some())
    }

    fn replace(&self, plan: &Plan<'_>) -> Result<bool, Error> {
        let wanted = self.wanted(plan);
        let written = self.write(&wanted);
        *self.tried.borrow_mut() = Some(wanted);
        written
    }

    fn restore(&self) -> Result<(), Error> {
        let now = self.engine.look();
        let tried = self.tried.borrow();
        for family in Family::ALL {
            let is_unread = |look: &Look<'_>| look.unread.iter().any(|(of, _)| *of == family);
            if is_unread(self) {
                continue;
            }
            // If the rules can no longer be read, assume those that we tried to write. If that had failed, iptables
            // refuses the way back, which is reported.
            let there = if is_unread(&now) { tried.as_ref().unwrap_or(&self.list.ours) } else { &now.list.ours };
            if let Some(change) = Change::of_family(there, &self.list.ours, family) {
                self.engine.tools(family).restore(&change.text)?;
            }
        }
        Ok(())
    }

    fn clear(&self) -> Vec<Error> {
        let mut failed = Vec::new();
        for family in Family::ALL {
            if let Some((_, why)) = self.unread.iter().find(|(of, _)| *of == family) {
                // Only nf_tables tells the names of chains.
                let named = self.engine.is(family, Variant::Nft);
                let stuck = |table: &&Table| !named || self.clear_unseen(family, **table).is_err();
                // nat first, so that no connection is sent to a backend without the rule that lets it through; and both,
                // whatever becomes of the first.
                if Table::ALL.iter().rev().filter(stuck).count() > 0 {
                    failed.push(Error::system(format_args!(
                        "cannot read the {family} rules of {}, so some of Paraglider may be left there: {why}",
                        self.engine.name()
                    )));
                }
                continue;
            }
            let Some(change) = self.change(&Ruleset::default(), family) else { continue };
            let tools = self.engine.tools(family);
            let Err(error) = tools.restore(&change.text) else { continue };
            // Remove the tables one by one: only one of them may be the cause.
            let each = |table: &Table| Change::of_table(&self.list.ours, &Ruleset::default(), family, *table);
            let gone = Table::ALL.iter().rev().filter_map(each).filter(|text| tools.restore(text).is_ok()).count();
            log::detail!("{gone} tables of {family} were removed one by one");
            failed.push(error);
        }
        failed
    }

    fn meets(&self, plan: &Plan<'_>, written: bool) -> Vec<Finding> {
        let (Plan::Serve(services), mut found) = (plan, Vec::new()) else { return Vec::new() };
        // What follows asks for a way to each backend.
        if self.list.others.is_empty() {
            return found;
        }
        let later = self.wanted(plan);
        let both = [Protocol::Tcp, Protocol::Udp];
        for (family, protocol) in Family::ALL.into_iter().flat_map(|family| both.map(|protocol| (family, protocol))) {
            let mine = |service: &&Service| service.bind.family() == family && service.bind.protocol() == protocol;
            if !services.iter().any(|service| mine(&service)) {
                continue;
            }
            let tools = self.engine.tools(family);
            let before = |table, chain| {
                let at = |rules: &Ruleset| {
                    let jumps = rules.table(family, table).jumps.iter();
                    jumps
                        .filter(|jump| jump.chain == chain && hook_of(table, chain, &jump.rule.text).is_some())
                        .map(|jump| jump.after)
                        .max()
                };
                let now = if written { None } else { at(&self.list.ours) };
                now.or_else(|| at(&later)).unwrap_or(0)
            };
            let mut meets = Meets {
                others: &self.list.others,
                family,
                traffic: &traffic(services, family, protocol),
                shows_clients: services.iter().filter(mine).any(|service| service.source == Source::Client),
                variant: tools.variant.name(),
                plain: tools.main,
                home: self.engine.home,
                ours: Ours {
                    forward: before(Table::Filter, "FORWARD"),
                    dispatch: before(Table::Nat, "PREROUTING"),
                    snat: before(Table::Nat, "POSTROUTING"),
                },
                found: &mut found,
            };
            meets.find();
        }
        found
    }

    fn lacks(&self, plan: &Plan<'_>) -> Vec<Finding> {
        probe::lacks(&self.engine.tools, &self.list, &wanted(plan, &Ruleset::default(), &self.list.others, &[]))
    }
}
