//! What the checks of all backends of a frontend mean together: which of them get new connections, and whose connections
//! end. Pure: no socket, no clock. Times are in milliseconds of one clock.
//!
//! A check that fails tells of the backend or of the way to it. What tells them apart is another backend: **one is dead only
//! if it fails `fall` checks in a row and another backend of the frontend passes one between the first and the last of
//! them.** Only then it is taken out, and its connections end; they have somewhere to go. If all backends fail, the way is
//! in doubt (a switch restarts, a rule stops the checks, a link is down), so all that were in force stay in force and no
//! connection ends. When one of them then passes a check, the others have `interval` × `fall` to follow, since they may be
//! up a moment later.
//!
//! - A backend of weight 0 is no evidence against others, since no connection could go to it. A backup is.
//! - With a single backend nothing is ever taken out.
//! - With `on_all_down: reject` new connections are refused while all are down, and then go only to those that are up; no
//!   connection ends before the rule above says so.
//! - To lose no time, the first bad check of a backend brings the next check of another one forward.

pub use super::backend::{Checked, Condition, Event, Standing, Step};
use crate::net::Endpoint;
use crate::service::health::Health;
use crate::service::{Backend, Service};

/// In how many parts the backends of a frontend are checked: not all at once, and not each by itself, since to wake up
/// costs more than a check.
const BURSTS: u64 = 4;

/// How soon, and how late at most, connections to a dead backend are ended again: conntrackd may have brought some in.
const END_AGAIN: (u64, u64) = (2000, 16_000);

/// How a backend does, for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The frontend.
    pub bind: Endpoint,
    /// Its name, if it is known by that; else empty.
    pub name: String,
    /// The backend.
    pub backend: Endpoint,
    /// It is chosen to take connections.
    pub chosen: bool,
    /// What its checks tell; times are those of the machine's clock.
    pub condition: Condition,
    /// When its next check is due.
    pub due: u64,
}

impl Seen {
    /// It was taken out. One that is down and chosen is in force because all were down.
    fn is_out(&self) -> bool {
        self.condition.down && !self.chosen
    }
}

/// The backends of a frontend that are checked, in the order of its config; none if it has no `health:`.
#[derive(Debug)]
pub struct Group<C> {
    /// One for each backend.
    pub backends: Vec<Checked<C>>,
    /// All are down.
    pub dark: bool,
    /// It was said that checks cannot begin.
    pub unable: bool,
    /// One may have failed more checks than it takes, without evidence against it.
    overdue: bool,
}

impl<C> Default for Group<C> {
    fn default() -> Self {
        Group { backends: Vec::new(), dark: false, unable: false, overdue: true }
    }
}

/// The backends that are checked, for each service.
pub type All<C> = Vec<Group<C>>;

/// What has come of checks, to be said.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// The backend at this place is down.
    Down(usize),
    /// The backend at this place is up.
    Up(usize),
    /// All are down.
    Dark,
    /// No longer all are down.
    Light,
}

/// Whether connections can go to the backend if it is up.
fn takes(backend: &Backend) -> bool {
    backend.nominal > 0
}

impl<C> Group<C> {
    /// The backends that can take connections, with their places.
    fn takers<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = (usize, &'a Checked<C>)> {
        let pairs = service.backends.iter().zip(&self.backends).enumerate();
        pairs.filter(|(_, (backend, _))| takes(backend)).map(|(at, (_, one))| (at, one))
    }

    /// [`Checked::step`] of the backend at this place.
    pub fn step(&mut self, at: usize, event: Event, service: &Service, now: u64, room: bool) -> Step {
        let (Some(health), Some(one)) = (&service.health, self.backends.get(at)) else { return Step::Wait };
        let failed = one.standing.bad > 0;
        let passes = matches!(event, Event::Ended(Ok(()))) && service.backends.get(at).is_some_and(takes);
        if passes && (failed || self.overdue) {
            let last = self.takers(service).map(|(_, one)| one.standing.passed).max().flatten();
            for (_, one) in self.backends.iter_mut().enumerate().filter(|(other, _)| *other != at) {
                let standing = &mut one.standing;
                // No other has passed a check since it failed first: this pass is the end of a darkness.
                let dark = standing.bad > 0 && Some(standing.first) > last && (failed || standing.bad > health.fall);
                if dark && !standing.dead && !standing.spared {
                    (standing.first, standing.spared) = (now + 1, true);
                }
            }
        }
        self.backends.get_mut(at).map_or(Step::Wait, |one| one.step(event, health, now, room))
    }

    /// Decides which backends are out, after checks have ended. Tells what is new.
    pub fn decide(&mut self, service: &Service, now: u64) -> Vec<News> {
        let mut news = Vec::new();
        let Some(health) = &service.health else { return news };
        // The last pass of any backend, and of any but that one.
        let (mut last, mut before, mut lives, mut any) = ((usize::MAX, None), None, false, false);
        for (at, one) in self.takers(service) {
            any = true;
            lives |= !one.condition.down;
            if one.standing.passed > last.1 {
                (last, before) = ((at, one.standing.passed), last.1);
            } else {
                before = before.max(one.standing.passed);
            }
        }
        self.overdue = false;
        for (at, Checked { condition, standing, .. }) in self.backends.iter_mut().enumerate() {
            if !condition.down {
                if standing.told {
                    news.push(News::Up(at));
                }
                (standing.out, standing.dead, standing.told) = (false, false, false);
                continue;
            }
            let evidence = if last.0 == at { before } else { last.1 };
            let spared = standing.spared && now < standing.first + health.interval * health.fall;
            let failed = standing.bad >= health.fall && !spared && evidence >= Some(standing.first);
            if failed && lives && !standing.dead {
                if !standing.told {
                    news.push(News::Down(at));
                }
                (standing.out, standing.dead, standing.told, standing.end) = (true, true, true, now);
            }
            self.overdue |= standing.bad > health.fall && !standing.dead;
        }
        let dark = any && !lives;
        if dark != self.dark {
            news.push(if dark { News::Dark } else { News::Light });
            for one in self.backends.iter_mut().filter(|_| dark && health.reject) {
                one.standing.out = true;
            }
        }
        self.dark = dark;
        news
    }

    /// Brings the check of another backend forward for each that fails: what it shows decides about that one.
    pub fn ask(&mut self, service: &Service, now: u64) {
        let Some(health) = &service.health else { return };
        for at in 0..self.backends.len() {
            let Some(one) = self.backends.get_mut(at) else { return };
            if one.standing.asked || !one.is_suspect(health, now) {
                continue;
            }
            one.standing.asked = true;
            // One on another host says more.
            let ip = |at: usize| service.backends.get(at).map(|backend| backend.address.ip());
            let (mut chosen, mut running) = (None, false);
            for (other, one) in self.takers(service) {
                if other != at && !one.condition.down && one.standing.bad == 0 {
                    running |= one.check.is_some();
                    if chosen.is_none_or(|chosen| ip(chosen) == ip(at)) {
                        chosen = Some(other);
                    }
                }
            }
            if let Some(one) = chosen.filter(|_| !running).and_then(|chosen| self.backends.get_mut(chosen)) {
                one.due = one.due.min(now);
            }
        }
    }

    /// The backends that are out.
    pub fn out(&self, service: &Service) -> Vec<Endpoint> {
        let pairs = service.backends.iter().zip(&self.backends);
        pairs.filter(|(_, one)| one.standing.out).map(|(backend, _)| backend.address).collect()
    }

    /// The backends whose connections are to be ended now: the dead, while another one lives. A backend that drains keeps
    /// its connections: it may have stopped listening, and serve them to their end.
    pub fn ending(&self, service: &Service, now: u64) -> Vec<Endpoint> {
        let mut ending = Vec::new();
        for (backend, one) in service.backends.iter().zip(&self.backends) {
            let due = one.standing.dead && one.condition.down && now >= one.standing.end;
            if due && !self.dark && takes(backend) && backend.weight == 0 {
                ending.push(backend.address);
            }
        }
        ending
    }

    /// The connections to `ending` have been ended.
    pub fn ended(&mut self, service: &Service, ending: &[Endpoint], now: u64) {
        for (backend, Checked { condition, standing, .. }) in service.backends.iter().zip(&mut self.backends) {
            if ending.contains(&backend.address) {
                let (soon, late) = END_AGAIN;
                standing.end = now + now.saturating_sub(condition.since).clamp(soon, late);
            }
        }
    }

    /// Whether no check of a backend could begin for longer than an interval.
    pub fn is_unable(&self, health: &Health, now: u64) -> bool {
        self.backends.iter().any(|one| one.unable.is_some_and(|since| now >= since + health.interval.max(1000)))
    }
}

/// The backends of `services`. One that was checked in the same way `before` is kept with its running check: a reload more
/// often than `timeout` must not keep a check from its end. Of others it takes what was `seen` of them.
pub fn take<C>(before: (&[Service], All<C>), services: &[Service], seen: &[Seen], now: u64) -> All<C> {
    let (old, mut checked) = before;
    let mut all = Vec::new();
    for service in services {
        let mut group = Group::default();
        if let Some(health) = &service.health {
            let at = old.iter().position(|old| service.was(old));
            if let Some(kept) = at.and_then(|at| checked.get(at)) {
                (group.dark, group.unable) = (kept.dark, kept.unable);
            }
            let at = at.filter(|at| old.get(*at).is_some_and(|old| old.health == service.health));
            for (number, backend) in (0..).zip(&service.backends) {
                let due = now + health.pace() * (number % BURSTS) / BURSTS;
                let mut one = recalled(of(seen, service.bind, backend.address), health, due, now);
                if let Some(kept) = at.and_then(|at| {
                    let place = old.get(at)?.backends.iter().position(|known| known.address == backend.address)?;
                    checked.get_mut(at)?.backends.get_mut(place)
                }) {
                    std::mem::swap(&mut one, kept);
                }
                one.standing.end = now;
                group.backends.push(one);
            }
        }
        all.push(group);
    }
    all
}

fn recalled<C>(known: Option<&Seen>, health: &Health, due: u64, now: u64) -> Checked<C> {
    let mut condition = Condition { since: now, ..Condition::default() };
    let (mut due, mut standing) = (due, Standing::default());
    if let Some(known) = known {
        condition.clone_from(&known.condition);
        condition.since = now.min(known.condition.since);
        due = due.min(known.due);
        if condition.down {
            (condition.against, due) = (0, now);
        }
        if known.is_out() {
            // It stays out. Its connections end once another bad check confirms it, and a good one of another backend.
            (standing.out, standing.told, standing.bad, standing.first) = (true, true, health.fall - 1, now);
        }
    }
    Checked::new(condition, standing, due)
}

/// What is known of a backend.
pub fn of(seen: &[Seen], bind: Endpoint, backend: Endpoint) -> Option<&Seen> {
    seen.iter().find(|seen| seen.bind == bind && seen.backend == backend)
}

/// Gives what was seen of frontends that are not known by their bind the bind of now.
pub fn follow(seen: &mut [Seen], services: &[Service]) {
    for service in services {
        let Some(name) = service.known_as() else { continue };
        for one in seen.iter_mut().filter(|one| one.name == name) {
            one.bind = service.bind;
        }
    }
}

/// Chooses backends as the `watch` that saw them does.
pub fn recall(seen: &[Seen], services: &mut [Service]) {
    for service in services.iter_mut().filter(|service| service.health.is_some()) {
        let bind = service.bind;
        let mut out = Vec::new();
        for backend in &mut service.backends {
            if let Some(known) = of(seen, bind, backend.address) {
                backend.weight = if known.chosen { backend.nominal } else { 0 };
                if known.is_out() {
                    out.push(backend.address);
                }
            }
        }
        service.choose(&out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(yaml: &str) -> Vec<Service> {
        crate::config::parse(yaml.as_bytes()).unwrap().services
    }

    const YAML: &str = "frontend: {bind: '10.0.0.1:80', health: {interval: 2s, timeout: 1s, fall: 3, rise: 2}, \
                        backends: ['10.0.1.1:80', '10.0.1.2:80']}";

    #[test]
    fn other_checks_begin_anew_and_what_was_seen_is_kept() {
        let old = services(YAML);
        let bind = old[0].bind;
        let mut all = take((&[], Vec::new()), &old, &[], 0);
        all[0].backends.iter_mut().for_each(|one| one.check = Some("old"));
        let new = services(&YAML.replace("10.0.1.2", "10.0.1.3"));
        let mut all = take((&old, all), &new, &[], 5);
        assert_eq!(all[0].backends.iter().map(|one| one.check).collect::<Vec<_>>(), [Some("old"), None]);
        let condition = Condition { down: true, checked: true, since: 1, error: "x".into(), against: 1 };
        let backend = old[0].backends[0].address;
        all[0].backends[0].condition = condition.clone();
        let seen = [Seen { bind, name: String::new(), backend, chosen: false, condition, due: 7 }];
        let all = take((&new, all), &services(&YAML.replace("timeout: 1s", "timeout: 500ms")), &seen, 9);
        let [one, other] = &all[0].backends[..] else { panic!() };
        assert!(one.check.is_none() && one.condition.down && one.standing.out && !other.condition.down);
    }

    /// Both backends, known as out.
    fn known() -> (Vec<Service>, Vec<Seen>) {
        let services = services(YAML);
        let condition = Condition { down: true, checked: true, since: 0, error: "x".into(), against: 0 };
        let of = |backend: &Backend| Seen {
            bind: services[0].bind,
            name: String::new(),
            backend: backend.address,
            chosen: false,
            condition: condition.clone(),
            due: 99_000,
        };
        let seen = services[0].backends.iter().map(of).collect();
        (services, seen)
    }

    #[test]
    fn a_backend_recalled_as_down_is_checked_as_often_as_it_needs_at_once() {
        let (services, mut seen) = known();
        seen.remove(0);
        let now = 9000;
        let health = services[0].health.clone().unwrap();
        let recalled = || take::<&str>((&[], Vec::new()), &services, &seen, now).remove(0).backends.remove(1);
        let ended = |turned| Step::End { turned, first: false };
        let mut one = recalled();
        for turned in [false, true] {
            assert_eq!(one.step(Event::Silence, &health, now, true), Step::Begin);
            assert_eq!(one.step(Event::Ended(Ok(())), &health, now, true), ended(turned));
        }
        assert_eq!((one.condition.down, one.due), (false, now + health.pace()));
        // One that is still dead is not pestered.
        let mut one = recalled();
        one.step(Event::Silence, &health, now, true);
        assert_eq!(one.step(Event::Ended(Err("y".into())), &health, now, true), ended(false));
        assert_eq!(one.due, now + health.pace());
        // Nor is one that has to stay down for some time yet.
        let mut one = recalled();
        one.condition.since = now;
        for _ in 0..2 {
            one.step(Event::Silence, &health, now, true);
            one.step(Event::Ended(Ok(())), &health, now, true);
        }
        assert!(one.condition.down && one.due == now + health.pace());
    }
}
