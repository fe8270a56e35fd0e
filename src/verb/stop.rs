//! `stop`: removes all our rules. They are found by name in the kernel; no config is needed.

use crate::engine::transaction;
use crate::engine::{choice, Engine, Kind, View};
use crate::error::{Error, Exit};
use crate::host::before;
use crate::host::conntrack::{self, Connection};
use crate::host::forwarding;
use crate::host::nft::{self, firewall4};
use crate::host::state::{Folder, Lock};
use crate::net::{Family, Protocol};
use crate::serve;
use crate::service::Bind;
use crate::sys::log;
use crate::sys::poll::{self, clock};
use crate::watch::claim::Known;

/// How often the connections are counted while they drain, in milliseconds.
const LOOK: u64 = 500;

/// How long a program that hangs can keep the lock, and some more, in milliseconds.
const HUNG: u64 = 65_000;

/// What was read of each engine, or why it could not be read.
type Looked<'a> = Vec<Result<Box<dyn View + 'a>, Error>>;

/// Removes all; with `drain` only after connections had that many seconds to end.
pub fn run(drain: Option<u32>) -> Result<Exit, Error> {
    let engines = choice::all()?;
    let (folder, lock) = begin()?;
    let Some(seconds) = drain else {
        return remove(&engines, folder.as_ref());
    };
    let views = transaction::read(&engines)?;
    if let Err(error) = transaction::drain(&engines, &views) {
        still_meant(folder.as_ref(), true);
        return Err(error);
    }
    let binds = serve::binds(&views);
    if binds.is_empty() {
        return remove(&engines, folder.as_ref());
    }
    still_meant(folder.as_ref(), false);
    // Release the lock while waiting, so that a `start` can interrupt the drain.
    drop(lock);
    wait(&binds, seconds);
    let _lock = folder.as_ref().map(patiently).transpose()?;
    if !serve::chosen(&transaction::read(&engines)?).is_empty() {
        log::warning!("Paraglider was started while connections drained; its rules stay");
        return Ok(Exit::Done);
    }
    remove(&engines, None)
}

/// Takes the lock; from then on nothing is meant to be in force, so that no `watch` puts back what is removed. `stop` works
/// also where neither can be had, as in a read-only /run.
fn begin() -> Result<(Option<Folder>, Option<Lock>), Error> {
    let folder = match Folder::open() {
        Ok(folder) => folder,
        Err(error) => {
            log::warning!("{error}; going on without the lock");
            Folder::as_it_is().iter().for_each(without_lock);
            return Ok((None, None));
        }
    };
    let lock = match folder.try_lock() {
        Ok(Some(lock)) => Some(lock),
        Ok(None) => Some(patiently(&folder)?),
        Err(error) => {
            log::warning!("{error}; going on without the lock");
            without_lock(&folder);
            return Ok((None, None));
        }
    };
    tell(&folder, false);
    Ok((Some(folder), lock))
}

/// Takes the lock, or waits for it longer than other verbs do: a program of iptables that hangs is killed after a minute,
/// and until then the verb that started it has the lock.
fn patiently(folder: &Folder) -> Result<Lock, Error> {
    folder.lock().or_else(|_| {
        let who = Known::of(folder).who().map_or_else(String::new, |who| format!(" (`paraglider watch` runs, {who})"));
        log::warning!(
            "another paraglider{who} has held the lock for 10 s, perhaps since a program that it runs hangs; waiting at \
             most {} s more",
            HUNG / 1000
        );
        folder.lock_within(HUNG)
    })
}

/// Without the lock a `watch` could take a config that is set aside for one that a killed `stop` has left.
fn without_lock(folder: &Folder) {
    tell(folder, true);
}

/// From now on nothing is meant to be in force; a running `watch` is told. With `for_good` nothing is set aside that could be
/// put back.
fn tell(folder: &Folder, for_good: bool) {
    let known = Known::of(folder);
    if let Err(error) = folder.set_aside() {
        let who = known.who().map_or_else(String::new, |who| {
            format!("; `paraglider watch` ({who}) will put the rules back: end it, then stop again")
        });
        log::warning!("{error}{who}");
    }
    // Before the watch looks.
    if for_good {
        folder.forget();
    }
    known.wake();
    before::tell(folder.base(), libc::SIGUSR1);
    if known.watch.is_none() {
        before::clean(folder.base());
    }
}

/// Ends the time in which the config can be put back that was meant; if nothing could be removed, it is meant again, and a
/// `watch` goes on.
fn still_meant(folder: Option<&Folder>, all_is_left: bool) {
    match folder {
        Some(folder) if all_is_left => folder.put_back().unwrap_or_else(|error| log::warning!("{error}")),
        Some(folder) => folder.forget(),
        None => {}
    }
}

fn wait(binds: &[Bind], seconds: u32) {
    let until = clock() + u64::from(seconds) * 1000;
    log::info!("no new connections are taken; waiting at most {seconds} s for the old ones");
    while clock() < until {
        // If connections cannot be counted, wait the whole time.
        if conntrack::connections(binds).is_some_and(|left| left.is_empty()) {
            return;
        }
        poll::pause(LOOK.min(until.saturating_sub(clock())));
    }
}

fn remove(engines: &[Box<dyn Engine>], folder: Option<&Folder>) -> Result<Exit, Error> {
    let looked: Looked<'_> = engines.iter().map(|engine| transaction::look(engine.as_ref())).collect();
    let (mut nothing, mut binds, mut balanced, mut tracking) = (true, Vec::new(), 0, Vec::new());
    let (mut policies, mut leaves_nat) = (Vec::new(), true);
    for (engine, view) in engines.iter().zip(&looked) {
        let Ok(view) = view else { continue };
        leaves_nat &= engine.kind() == Kind::Iptables || view.is_empty();
        nothing &= view.is_empty();
        tracking.extend_from_slice(&view.foreign().tracking);
        policies.extend_from_slice(&view.foreign().forward_policies);
        for frontend in view.frontends() {
            binds.push(frontend.whole());
            balanced += usize::from(!frontend.draining);
        }
    }
    let alive = conntrack::connections(&binds);
    let failed = transaction::remove(engines, &looked);
    for error in &failed {
        log::sentence(log::Level::Error, format_args!("{error}"));
    }
    // What is established needs nothing of ours in firewall4.
    let closed = if failed.is_empty() { firewall4::let_through(&[], true) } else { Ok(false) };
    if let Err(error) = &closed {
        log::sentence(log::Level::Error, format_args!("{error}"));
    }
    let left = || transaction::read(engines).map_or(balanced, |now| serve::chosen(&now).len());
    let all_is_left = !failed.is_empty() && left() >= balanced;
    still_meant(folder, all_is_left);
    match failed.is_empty() {
        true if nothing => log::info!("nothing of Paraglider is in force"),
        true => log::info!("removed all rules of Paraglider"),
        false if all_is_left => log::warning!("nothing was removed"),
        false => log::warning!("removed all other rules of Paraglider"),
    }
    // Established connections survive only if other rules keep the kernel tracking that family, and translating: iptables
    // leaves its chains for nat behind.
    let is_tcp = |one: &Connection, family| one.bind.family() == family && one.bind.protocol() == Protocol::Tcp;
    let tracks = |family| tracking.contains(&family) || nft::uses_conntrack(family);
    let translates = |family| leaves_nat || nft::translates(family);
    let gone = failed.is_empty();
    let mut cut = Vec::new();
    for family in Family::ALL {
        if !binds.iter().any(|bind| bind.at.family() == family) {
            continue;
        }
        let lost = match (tracks(family), translates(family)) {
            (true, true) => "",
            (true, false) => "translates",
            (false, _) => "tracks",
        };
        cut.extend(binds.iter().filter(|bind| !lost.is_empty() && gone && bind.at.family() == family).cloned());
        let alive = alive.as_ref().map(|alive| alive.iter().filter(|one| is_tcp(one, family)).count());
        let connections = match alive {
            Some(0) => continue,
            Some(n) => log::count(n, "established connection"),
            None => format!("established {family} connections, if there are any,"),
        };
        if lost.is_empty() {
            log::info!("{connections} will live on: other rules of this host track connections");
        } else {
            log::warning!("{connections} will be cut: nothing else on this host {lost} connections");
        }
    }
    // Other programs may need it by now, so it stays; where others' packets are dropped anyway it opens nothing.
    for family in Family::ALL {
        let ours = binds.iter().any(|bind| bind.at.family() == family);
        if ours && forwarding::is_open(&policies, family) && forwarding::forwards(family) {
            log::info!("{family} forwarding stays on ({}=1), for all packets", forwarding::name(family));
        }
    }
    forget(&cut);
    // A client that goes on would keep its flow of UDP alive for ever.
    binds.retain(|bind| gone && bind.at.protocol() == Protocol::Udp && !cut.contains(bind));
    if let Err(error) = conntrack::forget(&binds, &|_| true).complete() {
        log::warning!("{error}; flows of UDP that exist stay where they are until they are silent");
    }
    Ok(if gone && closed.is_ok() { Exit::Done } else { Exit::Failed })
}

/// Lets the kernel forget the connections to `binds`, which nothing tracks any more. It would keep them for up to 5 days,
/// and after the next start a client with the same address and port would get the backend of then, which may be gone.
fn forget(binds: &[Bind]) {
    if let Err(error) = conntrack::forget(binds, &|_| true).complete() {
        log::warning!("{error}; a client that comes from the same address and port within 5 days gets its old backend");
    }
}
