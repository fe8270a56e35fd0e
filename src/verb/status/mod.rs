//! `status`: what is in force, read from the kernel and compared with the config.

use std::path::Path;

mod format;
mod report;

pub use self::format::Format;
use self::report::Report;
use crate::engine::transaction::{self, Views};
use crate::engine::{choice, Engine, InForce, Level, Plan};
use crate::error::{Error, Exit};
use crate::host::conntrack;
use crate::host::forwarding;
use crate::host::nft::firewall4;
use crate::host::remedy;
use crate::host::route;
use crate::host::state::Folder;
use crate::net::Family;
use crate::serve;
use crate::service::{Preference, Service};
use crate::sys::log;
use crate::sys::poll::clock;
use crate::text::Escaped;
use crate::watch::checker;
use crate::watch::claim::Known;

/// Tells what is in force.
pub fn run(path: &str, format: Format, out: &mut String) -> Result<Exit, Error> {
    tell(path, format, out).or_else(|error| {
        log::sentence(log::Level::Error, format_args!("{error}"));
        Ok(Exit::Unknown)
    })
}

fn tell(path: &str, format: Format, out: &mut String) -> Result<Exit, Error> {
    // The lock keeps rules and the states of `watch` consistent. Without it the status is reported all the same.
    let folder = Folder::open();
    let lock = folder.as_ref().map(Folder::lock);
    let mut known = folder.as_ref().map(Known::of).unwrap_or_default();
    let (loaded, other) = match serve::load(path) {
        // Rules of a config elsewhere: `start` keeps a copy of it.
        Err(error) if !Path::new(path).exists() => (last_start(folder.as_ref().ok()).ok_or(error), true),
        loaded => (loaded, false),
    };
    let preference = loaded.as_ref().map_or(Preference::Auto, |config| config.engine);
    let engines = choice::find(preference)?;
    let views = transaction::read(&engines)?;
    drop(lock);
    let (services, waiting) =
        loaded.as_ref().map_or((&[][..], &[][..]), |config| (config.services.as_slice(), config.waiting.as_slice()));
    checker::follow(&mut known.seen, services);
    let binds = serve::binds(&views);
    let seen = if known.watch.is_some() { known.seen.as_slice() } else { &[] };
    let connections = conntrack::connections(&binds);
    let in_force = views.iter().flat_map(|view| view.frontends());
    let mut frontends = report::frontends(in_force, connections.as_deref(), seen, clock());

    let nothing = views.iter().all(|view| view.is_empty());
    let unread = views.iter().flat_map(|view| view.unread()).next();
    // Nothing can be in force while all wait.
    let all_wait = services.is_empty() && folder.as_ref().is_ok_and(|folder| matches!(folder.stamp(), Ok(Some(_))));
    report::missing(&mut frontends, services, &route::has_address);
    let (exit, why) = match &loaded {
        _ if nothing && unread.is_some() => (Exit::Unknown, unread.map(cannot_read)),
        Err(error) if nothing => (Exit::NotInForce, Some(error.to_string())),
        Err(error) => (Exit::Failed, Some(format!("the config cannot be compared: {error}"))),
        Ok(_) if nothing && !all_wait => (Exit::NotInForce, None),
        Ok(serve::Config { services, .. }) => {
            let mut services = services.clone();
            checker::recall(&known.believed(&services, &serve::chosen(&views)), &mut services);
            let shown = Escaped(path);
            match drift(path, &services, &engines, &views) {
                Some(why) if other => {
                    (Exit::Failed, Some(format!("{why} (there is no {shown}; this is the config of the last start)")))
                }
                Some(why) => (Exit::Failed, Some(why)),
                None => {
                    let elsewhere = || format!("as the last start wrote them; there is no {shown} to compare with");
                    let note = if other { Some(elsewhere()) } else { unchecked(&services, &known) };
                    (Exit::Done, dropped(&services, &views).or(note))
                }
            }
        }
    };
    let (engine, chosen) = (choice::name(&engines), choice::reason(preference));
    let why = why.as_deref();
    format.write(out, &Report { exit, why, engine, chosen, frontends: &frontends, waiting });
    Ok(exit)
}

/// What the last `start` put in force.
fn last_start(folder: Option<&Folder>) -> Option<serve::Config> {
    let text = folder?.meant().ok()??;
    serve::judged("the config of the last start", text).ok()
}

fn cannot_read((family, why): &(Family, Error)) -> String {
    format!("cannot read the {family} rules: {why}")
}

/// Why the states of the backends may be out of date, if they may.
fn unchecked(services: &[Service], known: &Known) -> Option<String> {
    let checked = services.iter().any(|service| service.health.is_some());
    match (known.who(), known.silence()) {
        (None, _) if checked => {
            let remedy = remedy::service().map_or_else(String::new, |command| format!("; `{command}` starts one"));
            Some(format!("the backends are not checked, since no `paraglider watch` runs{remedy}"))
        }
        (Some(who), Some(seconds)) => Some(format!("the watch ({who}) has not written for {seconds} s")),
        _ => None,
    }
}

/// Which rule of others drops or takes the connections, if there is one.
fn dropped(services: &[Service], views: &Views<'_>) -> Option<String> {
    let mut found = views.iter().flat_map(|view| view.meets(&Plan::Serve(services), false));
    found.find(|finding| finding.level == Level::Error).map(|finding| finding.text)
}

/// Why the rules in force are not those of the config, or do not work; `None` if they are and do.
fn drift(path: &str, services: &[Service], engines: &[Box<dyn Engine>], views: &Views<'_>) -> Option<String> {
    let (plan, start) = (Plan::Serve(services), remedy::start());
    let (first, others) = views.split_first()?;
    let left = others.iter().zip(engines.iter().skip(1)).find(|(view, _)| !view.is_empty());
    if let Some(unread) = views.iter().flat_map(|view| view.unread()).next() {
        Some(cannot_read(unread))
    } else if let Some((_, engine)) = left {
        let name = engine.name();
        Some(match first.is_empty() {
            true => format!("the rules are in {name}; `{start}` moves them to {}", choice::name(engines)),
            false => format!("rules of ours are left in {name} too; `{start}` removes them"),
        })
    } else if !first.frontends().is_empty() && first.frontends().iter().all(|frontend| frontend.draining) {
        Some(format!("`stop --drain` lets connections end, or was broken off; `{start}` or `stop` puts it right"))
    } else if first.differs(&plan) {
        let rules = || match moved(services, first.frontends()) {
            Some(moved) => format!("{moved}; `{start}` puts it right"),
            None => format!("the rules are not those of {}; `{start}` puts them right", Escaped(path)),
        };
        Some(dropped(services, views).unwrap_or_else(rules))
    } else if !firewall4::has(&serve::binds(views)) {
        Some(format!("firewall4 does not let through what is balanced; `{start}` puts it right"))
    } else {
        let shut = Family::ALL.into_iter().find(|family| plan.has(*family) && !forwarding::forwards(*family))?;
        Some(format!("{shut} forwarding is off, so nothing gets through; `{start}` switches it on"))
    }
}

/// The first bind whose interface has another address by now.
fn moved(services: &[Service], in_force: &[InForce]) -> Option<String> {
    for service in services.iter().filter(|service| service.follows.is_some()) {
        let known = in_force.iter().find(|known| known.name == service.name.as_str());
        if let Some(known) = known.filter(|known| known.bind != service.bind) {
            return Some(format!("{} is {} now, and the rules have {}", service.written(), service.bind, known.bind));
        }
    }
    None
}
