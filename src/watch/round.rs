//! A round of `watch`: goes on with the checks, says what has come of them, and ends connections to the dead.

use super::run::Watch;
use crate::error::plain;
use crate::host::conntrack;
use crate::net::Endpoint;
use crate::service::health::Health;
use crate::service::Service;
use crate::sys::log;
use crate::sys::poll::clock;
use crate::watch::checker::{Event, Group, News, Step};
use crate::watch::probe::{is_ours, Probe};

impl Watch<'_> {
    /// Begins the checks that are due, and goes on with those that run. `events` are theirs, after those of signals and
    /// addresses.
    pub(super) fn check(&mut self, events: &[libc::pollfd], now: u64) {
        let backends = self.checked.iter().flat_map(|group| &group.backends);
        let mut running = backends.filter(|one| one.check.is_some()).count();
        let mut events = events.iter().skip(2);
        for (service, group) in self.services.iter_mut().zip(&mut self.checked) {
            let Some(health) = &service.health else { continue };
            let (mut ended, mut any_turned, mut why) = (false, false, String::new());
            for (at, backend) in service.backends.iter().enumerate() {
                let to = backend.address.with_port(health.port);
                let mut event = Event::Silence;
                if let Some(check) = group.backends.get_mut(at).and_then(|one| one.check.as_mut()) {
                    let any = events.next().is_some_and(|event| event.revents != 0);
                    event = check.go_on(health, any, now);
                }
                let mut step = group.step(at, event, service, now, running < self.most);
                if step == Step::Begin {
                    let begun = Probe::begin(to, health, now);
                    let Some(one) = group.backends.get_mut(at) else { continue };
                    match begun {
                        Ok(check) => {
                            one.check = Some(check);
                            running += 1;
                        }
                        Err(error) if is_ours(&error) => {
                            one.put_off(now);
                            why = plain(&error);
                        }
                        Err(error) => {
                            let event = Event::Ended(Err(plain(&error).to_ascii_lowercase()));
                            step = group.step(at, event, service, now, true);
                        }
                    }
                }
                if let Step::End { turned, first } = step {
                    self.untold |= first || turned;
                    (ended, any_turned) = (true, any_turned || turned);
                }
            }
            if ended {
                let news = group.decide(service, now);
                for one in &news {
                    say(one, service, health, group);
                }
                if any_turned || !news.is_empty() {
                    let out = group.out(service);
                    service.choose(&out);
                    (self.pending, self.look) = (true, 0);
                }
            }
            group.ask(service, now);
            say_whether_able(service, group, &why, now);
        }
    }

    /// Ends the connections to backends that are dead, again and again while they are. What fails is tried again at the
    /// next look, and keeps nothing else from being done.
    pub(super) fn forget(&mut self) {
        let (now, mut binds, mut gone) = (clock(), Vec::new(), Vec::new());
        for (service, group) in self.services.iter().zip(&self.checked) {
            let ending = group.ending(service, now);
            if !ending.is_empty() {
                binds.push(service.whole());
            }
            gone.push(ending);
        }
        if binds.is_empty() {
            return;
        }
        let services = &self.services;
        let whose = |connection: &conntrack::Connection| {
            let mut pairs = services.iter().zip(&gone);
            let dead = |gone: &[Endpoint]| gone.iter().any(|gone| connection.is_to(gone));
            pairs.any(|(service, gone)| service.bind == connection.bind && dead(gone))
        };
        match conntrack::forget(&binds, &whose).complete() {
            Err(error) => return self.cannot_end(&error),
            Ok(0) => {}
            Ok(_) => self.could_end(),
        }
        for ((service, group), gone) in self.services.iter().zip(&mut self.checked).zip(&gone) {
            group.ended(service, gone, now);
        }
    }
}

fn say<C>(news: &News, service: &Service, health: &Health, group: &Group<C>) {
    let bind = service.bind;
    let (News::Down(at) | News::Up(at)) = *news else {
        let last = service.backends.iter().zip(&group.backends).max_by_key(|(_, one)| one.condition.since);
        match (news, last) {
            (News::Dark, Some((backend, one))) => {
                let what = match health.reject {
                    true => "new connections are refused",
                    false => "the rules stay as they are",
                };
                log::warning!(
                    "{bind}: all backends are down, the last one {} ({}); that may be the way to them: {what}, and no \
                     connection is ended",
                    backend.address,
                    one.condition.error
                );
            }
            _ => log::info!("{bind}: no longer all backends are down"),
        }
        return;
    };
    if let Some((backend, one)) = service.backends.get(at).zip(group.backends.get(at)) {
        match news {
            News::Down(_) => log::warning!("{} of {bind} is down ({})", backend.address, one.condition.error),
            _ => log::info!("{} of {bind} is up", backend.address),
        }
    }
}

/// Says once that checks cannot begin, and once that they can.
fn say_whether_able<C>(service: &Service, group: &mut Group<C>, why: &str, now: u64) {
    let Some(health) = &service.health else { return };
    if group.unable {
        if group.backends.iter().all(|one| one.unable.is_none()) {
            group.unable = false;
            log::info!("{}: checks begin again", service.bind);
        }
    } else if group.is_unable(health, now) {
        group.unable = true;
        let why = if why.is_empty() { "the limit of open files lets no more run at a time" } else { why };
        log::warning!("{}: checks cannot begin ({why}); backends that are not checked stay as they are", service.bind);
    }
}
