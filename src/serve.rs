//! Puts services in force on this host: their rules, and forwarding.

use std::fmt;
use std::net::IpAddr;

use crate::config::{self, MOST_BYTES};
use crate::engine::choice;
use crate::engine::transaction::{self, Views};
use crate::engine::{Engine, InForce, Kind, Level, Plan};
use crate::error::{fail, plain, Error};
use crate::host::conntrack::{self, Connection};
use crate::host::device;
use crate::host::forwarding::{self, Forwarding};
use crate::host::nft::firewall4;
use crate::host::ssh;
use crate::host::state::Folder;
use crate::net::{Endpoint, Family, Protocol};
use crate::service::{Backend, Bind, Interface, Preference, Service};
use crate::sys::file;
use crate::sys::log;
use crate::text::Escaped;

/// A config as text and as what it means.
#[derive(Debug)]
pub struct Config {
    /// As it was written.
    pub text: Vec<u8>,
    /// What is to write the rules.
    pub engine: Preference,
    /// What is balanced.
    pub services: Vec<Service>,
    /// What cannot be balanced yet.
    pub waiting: Vec<Waiting>,
}

impl Config {
    /// Whether a bind follows an interface.
    pub fn follows(&self) -> bool {
        !self.waiting.is_empty() || self.services.iter().any(|service| service.follows.is_some())
    }
}

/// A frontend whose bind follows an interface that has no address yet.
#[derive(Debug)]
pub struct Waiting {
    /// The frontend; the address of its bind is unspecified.
    pub service: Service,
    /// What it waits for: the end of a sentence.
    pub why: String,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waits: {}", self.service.written(), self.why)
    }
}

/// Reads the config file and judges its content.
pub fn load(path: &str) -> Result<Config, Error> {
    // One byte more than allowed: a file of exactly the limit differs from a larger one, and /dev/zero ends.
    let text = file::open(path, libc::O_RDONLY).and_then(|file| file::content(file, MOST_BYTES + 1));
    let shown = Escaped(path);
    let text = text.map_err(|error| {
        let read = Error::usage(format_args!("{shown}: cannot read the config: {}", plain(&error)));
        match error.raw_os_error() {
            Some(libc::ENOENT) => {
                read.and("write one (paraglider(8) has an example), or name another with --config FILE")
            }
            _ => read,
        }
    })?;
    judged(path, text)
}

/// Judges the text of a config; `place` begins the sentence about a mistake.
pub fn judged(place: &str, text: Vec<u8>) -> Result<Config, Error> {
    let shown = Escaped(place);
    let config::Config { engine, services } =
        config::parse(&text).map_err(|mistake| Error::usage(format_args!("{shown}:{mistake}")))?;
    let (services, waiting) = placed(services)?;
    Ok(Config { text, engine, services, waiting })
}

/// Gives binds that follow interfaces the addresses that these have now.
fn placed(all: Vec<Service>) -> Result<(Vec<Service>, Vec<Waiting>), Error> {
    let mut taken = wanted(&all);
    taken.retain(|bind| !bind.at.address().is_unspecified());
    let (mut services, mut waiting) = (Vec::new(), Vec::new());
    // An interface is asked for its address once.
    let mut known: Vec<(Interface, Family, Result<IpAddr, String>)> = Vec::new();
    for mut service in all {
        let family = service.bind.family();
        let Some(follows) = &service.follows else {
            services.push(service);
            continue;
        };
        let at = known.iter().position(|(interface, of, _)| interface == follows && *of == family);
        let at = match at {
            Some(at) => at,
            None => {
                known.push((follows.clone(), family, device::address(follows.as_str(), family)?));
                known.len() - 1
            }
        };
        let mut why = String::new();
        match known.get(at).map(|(_, _, found)| found) {
            Some(Ok(ip)) => {
                let bind = Bind { at: service.bind.with_ip(*ip), ports: service.ports.clone() };
                let circle =
                    |backend: &Backend| backend.address.ip() == *ip && bind.ports.has_or_keeps(backend.address.port());
                if taken.iter().any(|other| other.meets(&bind)) {
                    why = format!("{bind} is the bind of another frontend");
                } else if let Some(backend) = service.backends.iter().find(|backend| circle(backend)) {
                    why = format!("{} is also a backend of this frontend", backend.address);
                } else {
                    service.bind = bind.at;
                    taken.push(bind);
                    services.push(service);
                    continue;
                }
            }
            Some(Err(error)) => why.clone_from(error),
            None => {}
        }
        waiting.push(Waiting { service, why });
    }
    Ok((services, waiting))
}

/// Says which frontends wait; with `again` those only that were in force.
pub fn say_who_waits(views: &Views<'_>, waiting: &[Waiting], again: bool) {
    for one in waiting {
        let was = views.iter().any(|view| view.frontends().iter().any(|known| known.name == one.service.name.as_str()));
        match was {
            true => log::warning!("{one}"),
            false if !again => log::info!("{one}"),
            false => {}
        }
    }
}

/// Puts `services` in force, given what was read; `note` then writes down that they are. Tells whether rules had to change.
/// If anything fails, the rules are as they were.
pub fn put_in_force(
    engines: &[Box<dyn Engine>],
    views: &Views<'_>,
    services: &[Service],
    note: &dyn Fn() -> Result<(), Error>,
) -> Result<bool, Error> {
    let plan = Plan::Serve(services);
    for view in views {
        for (family, why) in view.unread() {
            let said = format!("cannot read the {family} rules in force: {why}");
            if plan.has(*family) {
                return fail!("{said}");
            }
            log::warning!("{said}");
        }
    }
    keep_ssh(views, services)?;
    let mut switches = Vec::new();
    for family in Family::ALL {
        if plan.has(family) && !forwarding::forwards(family) {
            switches.push(Forwarding::prepare(family)?);
        }
    }
    // Rules first, forwarding last: a failure of the rules leaves nothing else to undo. (Going back from 1 to 0 would
    // not be going back: the kernel resets other settings of the interfaces at each change.)
    let mut last = || {
        for switch in &mut switches {
            switch.switch_on()?;
        }
        note()
    };
    // Before our rules, so that no connection meets them and a closed firewall4. Nothing else matches what is let through.
    let wanted = wanted(services);
    let opened = firewall4::let_through(&wanted, false).map_err(|error| error.and("nothing was changed"))?;
    let changed = transaction::put(engines, views, &plan, &mut last);
    if opened || !matches!(changed, Ok(false)) {
        let stay = if changed.is_ok() { wanted } else { binds(views) };
        if let Err(error) = firewall4::let_through(&stay, true) {
            log::warning!("{error}");
        }
    }
    let changed = changed?;
    end_flows(views, services);
    for switch in &switches {
        let family = switch.family();
        if views.iter().all(|view| forwarding::is_open(&view.foreign().forward_policies, family)) {
            let by_iptables = engines.first().is_some_and(|engine| engine.kind() == Kind::Iptables);
            log::warning!("{family}: {}", forwarding::opens(family, by_iptables));
        }
    }
    if !changed {
        if opened {
            log::info!("firewall4 did not let through what is balanced; now it does");
        }
        return Ok(opened);
    }
    for (at, view) in views.iter().enumerate() {
        if let (1.., false, Some(engine)) = (at, view.is_empty(), engines.get(at)) {
            log::info!("removed the rules that were left in {}", engine.name());
        }
    }
    say_who_is_dropped(views, services);
    say_who_is_left_alone(views, services);
    Ok(true)
}

/// Ends flows of UDP that the kernel would send on to where they no longer belong, as long as the client goes on: to backends
/// that are gone or down, of frontends that are gone, and those that began before there were rules. The next datagram begins
/// a new one. A backend whose weight is 0 in the config keeps its flows.
fn end_flows(views: &Views<'_>, services: &[Service]) {
    let mut all = wanted(services);
    all.extend(binds(views));
    all.retain(|bind| bind.at.protocol() == Protocol::Udp);
    if all.is_empty() {
        return;
    }
    let belongs = |flow: &Connection| {
        let Some(service) = serving(services, views, flow) else { return false };
        let is_it = |backend: &Backend| flow.is_to(&backend.address) && !is_down(service, backend);
        service.backends.iter().any(is_it)
    };
    let ended = conntrack::forget(&all, &|flow| !belongs(flow)).complete();
    let ended = ended.and_then(|_| conntrack::forget_begun_before(&wanted(services)).complete());
    if let Err(error) = ended {
        log::warning!("{error}; flows of UDP that exist stay where they are until they are silent");
    }
}

/// Whether a backend has been taken out. One that is a backup may only have nothing to do; and if nobody takes connections,
/// nobody is known to be down.
fn is_down(service: &Service, backend: &Backend) -> bool {
    let Some(chosen) = service.backends.iter().find(|backend| backend.weight > 0) else { return false };
    let idles = backend.backup && !chosen.backup;
    backend.nominal > 0 && backend.weight == 0 && !idles
}

/// The service that a connection belongs to: it has its port, or follows an interface and had the address in `views`.
pub fn serving<'a>(services: &'a [Service], views: &Views<'_>, connection: &Connection) -> Option<&'a Service> {
    let to = connection.to();
    let own = services.iter().find(|service| service.has(&to));
    own.or_else(|| {
        let mut frontends = views.iter().flat_map(|view| view.frontends());
        let old = frontends.find(|frontend| frontend.whole().has(&to))?;
        let is_it = |service: &&Service| service.follows.is_some() && service.name.as_str() == old.name;
        services.iter().find(is_it).filter(|service| service.ports.has(to.port()))
    })
}

/// Whether one of these services is there.
#[inline(never)]
fn serves(services: &[Service], bind: &Endpoint) -> bool {
    services.iter().any(|service| service.bind == *bind)
}

/// Names the frontends that were balanced and are no longer.
fn say_who_is_dropped(views: &Views<'_>, services: &[Service]) {
    let mut said = Vec::new();
    for view in views {
        for InForce { bind, name, draining, .. } in view.frontends() {
            // It has another address now.
            let moved = services.iter().any(|service| service.follows.is_some() && service.name.as_str() == name);
            if !draining && !moved && !serves(services, bind) && !said.contains(bind) {
                log::info!("{bind} is no longer balanced");
                said.push(*bind);
            }
        }
    }
}

/// Says what becomes of connections to backends that are no longer in the config.
pub fn say_who_stays(views: &Views<'_>, services: &[Service]) {
    let is_gone = |bind: Endpoint, backend: Endpoint| {
        let mut of = services.iter().filter(|service| service.bind == bind);
        of.any(|service| service.backends.iter().all(|known| !known.address.takes(&backend)))
    };
    // The kernel's list of connections can be long: it is read only if a backend was dropped. (Flows of UDP have ended.)
    let mut binds = Vec::new();
    for (bind, backends) in chosen(views) {
        if bind.protocol() == Protocol::Tcp && backends.iter().any(|backend| is_gone(bind, *backend)) {
            binds.extend(services.iter().find(|service| service.bind == bind).map(Service::whole));
        }
    }
    let mut alive = conntrack::connections(&binds).unwrap_or_default();
    alive.retain(|connection| {
        let mut of = services.iter().filter(|service| service.bind == connection.bind);
        of.any(|service| service.backends.iter().all(|known| !connection.is_to(&known.address)))
    });
    if !alive.is_empty() {
        let connections = log::count(alive.len(), "established connection");
        log::info!(
            "{connections} to backends that are no longer in the config live on; `reload --drop-removed` would end them"
        );
    }
}

/// Ends the work of a `stop` that was killed, if one was: if its rules are still in force, the config is meant again. Under
/// the lock.
pub fn heal(folder: &Folder, engines: &[Box<dyn Engine>]) -> Result<(), Error> {
    if folder.was_left_by_stop() {
        match chosen(&transaction::read(engines)?).is_empty() {
            false => folder.put_back()?,
            true => folder.forget(),
        }
    }
    Ok(())
}

/// A service's bind, and the interface that it follows.
fn shown(service: &Service) -> String {
    let bind = service.whole();
    service.follows.as_ref().map_or_else(|| bind.to_string(), |_| format!("{bind} ({})", service.written()))
}

/// Says what was put in force.
pub fn say_who_is_balanced(engines: &[Box<dyn Engine>], services: &[Service]) {
    let engine = choice::name(engines);
    for service in services {
        let chosen = service.backends.iter().filter(|backend| backend.weight > 0).count();
        let backends = log::count(chosen, "backend");
        log::info!("{} is balanced over {backends} by {engine}", shown(service));
    }
}

/// Warns about rules of others: those that drop or take balanced connections, and those that no longer see them, as far as
/// they are of this level at `least`.
pub fn say_what_others_do(views: &Views<'_>, services: &[Service], least: Level) {
    for view in views {
        for finding in view.meets(&Plan::Serve(services), true) {
            if finding.level >= least {
                log::warning!("{}", finding.text);
            }
        }
    }
}

/// The binds of all services.
pub fn wanted(services: &[Service]) -> Vec<Bind> {
    let mut binds = Vec::new();
    for service in services {
        binds.push(service.whole());
    }
    binds
}

/// The binds of all frontends in force, draining ones too.
pub fn binds(views: &Views<'_>) -> Vec<Bind> {
    let mut binds = Vec::new();
    for view in views {
        for frontend in view.frontends() {
            binds.push(frontend.whole());
        }
    }
    binds
}

/// The frontends in force that are balanced, each with its backends that get new connections.
pub fn chosen(views: &Views<'_>) -> Vec<(Endpoint, Vec<Endpoint>)> {
    let mut chosen = Vec::new();
    for view in views {
        for frontend in view.frontends() {
            if !frontend.draining {
                let mut backends = Vec::new();
                for share in &frontend.backends {
                    backends.push(share.address);
                }
                chosen.push((frontend.bind, backends));
            }
        }
    }
    chosen
}

/// Warns about connections of removed frontends: the rule that accepted them is gone.
fn say_who_is_left_alone(views: &Views<'_>, services: &[Service]) {
    let mut gone = binds(views);
    gone.retain(|bind| bind.at.protocol() == Protocol::Tcp && !wanted(services).contains(bind));
    let mut alive = conntrack::connections(&gone).unwrap_or_default();
    alive.retain(|connection| !services.iter().any(|service| service.has(&connection.to())));
    let alive = alive.len();
    if alive > 0 {
        let connections = log::count(alive, "established connection");
        log::warning!("{connections} of frontends that were removed will live only if other rules let them through");
    }
}

/// Refuses a new frontend on the address and port of the administrator's SSH session.
fn keep_ssh(views: &Views<'_>, services: &[Service]) -> Result<(), Error> {
    match ssh::session() {
        Some(bind)
            if services.iter().any(|service| service.has(&bind))
                && !binds(views).iter().any(|known| known.has(&bind)) =>
        {
            fail!(
                "bind {bind} is where your SSH session comes in, and you would not get in again; \
                 choose another port, or start it from the console or at boot"
            )
        }
        _ => Ok(()),
    }
}
