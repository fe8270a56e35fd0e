//! When a backend is checked, and what the checks say about it. Pure: no socket, no clock. Times are in milliseconds of
//! one clock.

use crate::net::Endpoint;
use crate::service::health::Health;
use crate::service::Service;

/// In how many parts the backends of a frontend are checked: not all at once, and not each by itself, since to wake up
/// costs more than a check.
const BURSTS: u64 = 4;

/// How long a check is put off that cannot begin.
const PUT_OFF: u64 = 50;

/// What the checks of a backend have shown so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// It has failed its checks. Until it has been checked it counts as up.
    pub down: bool,
    /// A check of it has ended.
    pub checked: bool,
    /// Since when it is up or down.
    pub since: u64,
    /// Why its last bad check failed; empty if there was none.
    pub error: String,
    /// How many checks in a row spoke against the state that it is in.
    pub against: u64,
}

impl Condition {
    /// A check has ended; tells whether the backend is now up that was down, or the other way round.
    fn judge(&mut self, result: Result<(), String>, now: u64, health: &Health) -> bool {
        let good = result.is_ok();
        if let Err(why) = result {
            self.error = why;
        }
        self.checked = true;
        self.against = if good == self.down { self.against + 1 } else { 0 };
        // Hysteresis: a flapping backend stays down for at least one interval, so that rules are not rewritten at every
        // check. One that is dead is taken out without delay.
        let turns = match self.down {
            true => self.against >= health.rise && now >= self.since + health.interval,
            false => self.against >= health.fall,
        };
        if turns {
            (self.down, self.since, self.against) = (!self.down, now, 0);
        }
        turns
    }
}

/// How a backend does, for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The frontend.
    pub bind: Endpoint,
    /// The backend.
    pub backend: Endpoint,
    /// It is chosen to take connections.
    pub chosen: bool,
    /// What its checks tell; times are those of the machine's clock.
    pub condition: Condition,
    /// When its next check is due.
    pub due: u64,
}

/// What a running check has come to.
#[derive(Debug)]
pub enum Event {
    /// Nothing has come from its socket.
    Silence,
    /// Something has come, but the verdict is not clear yet.
    Progress,
    /// It has ended: good, or why not.
    Ended(Result<(), String>),
}

/// What the caller has to do for a backend.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Begin a check.
    Begin,
    /// Drop the check, which has ended.
    End {
        /// The backend is up that was down, or the other way round.
        turned: bool,
        /// It was the first one.
        first: bool,
    },
}

/// A backend that is checked. `C` is a running check.
#[derive(Debug)]
pub struct Checked<C> {
    /// What its checks tell.
    pub condition: Condition,
    /// The check that runs, if one does.
    pub check: Option<C>,
    /// When that check has failed, or when the next one begins.
    pub due: u64,
    /// Its connections were ended after it went down.
    pub forgotten: bool,
    /// When the last check began.
    begun: u64,
    /// It was recalled as down: it is checked `rise` times without a pause, since it may have recovered long ago.
    eager: bool,
}

impl<C> Checked<C> {
    /// The next step, given what has come of the running check. `room`: another check may begin now.
    pub fn step(&mut self, event: Event, health: &Health, now: u64, room: bool) -> Step {
        let progress = matches!(event, Event::Progress);
        match event {
            Event::Ended(result) => self.end(result, now, health),
            _ if self.check.is_some() => {
                // If this process or the machine stood still, a backend that has just answered gets as much time again.
                let until = self.due + if progress { health.timeout } else { 0 };
                if now < until {
                    return Step::Wait;
                }
                self.end(Err(format!("no answer within {} ms", health.timeout)), now, health)
            }
            _ if self.due > now => Step::Wait,
            _ if room => {
                (self.begun, self.due) = (now, now + health.timeout);
                Step::Begin
            }
            _ => {
                self.put_off(now);
                Step::Wait
            }
        }
    }

    fn end(&mut self, result: Result<(), String>, now: u64, health: &Health) -> Step {
        self.check = None;
        let first = !self.condition.checked;
        let good = result.is_ok();
        let turned = self.condition.judge(result, now, health);
        self.eager &= good && self.condition.down && self.condition.against < health.rise;
        self.due = if self.eager { now } else { now.max(self.begun + health.pace()) };
        if turned {
            self.forgotten = false;
        }
        Step::End { turned, first }
    }

    /// The check cannot begin now, for a reason of this host's that says nothing about the backend.
    pub fn put_off(&mut self, now: u64) {
        self.due = now + PUT_OFF;
    }

    /// This process was busy for `time` milliseconds, in which a running check could not go on: it gets them back.
    pub fn stood_still(&mut self, time: u64) {
        if self.check.is_some() {
            self.due += time;
        }
    }
}

/// The backends that are checked: for each service one for each backend, or none at all.
pub type All<C> = Vec<Vec<Checked<C>>>;

/// The backends of `services`. One that was checked in the same way `before` is kept with its running check: a reload more
/// often than `timeout` must not keep a check from its end. Of others it takes what was `seen` of them.
pub fn take<C>(before: (&[Service], All<C>), services: &[Service], seen: &[Seen], now: u64) -> All<C> {
    let (old, mut checked) = before;
    let mut all = Vec::new();
    for service in services {
        let mut of_service = Vec::new();
        if let Some(health) = &service.health {
            let same = |old: &Service| old.bind == service.bind && old.health == service.health;
            let at = old.iter().position(same);
            for (number, backend) in (0..).zip(&service.backends) {
                let due = now + health.pace() * (number % BURSTS) / BURSTS;
                let mut one = recalled(of(seen, service.bind, backend.address), due, now);
                if let Some(kept) = at.and_then(|at| {
                    let place = old.get(at)?.backends.iter().position(|known| known.address == backend.address)?;
                    checked.get_mut(at)?.get_mut(place)
                }) {
                    std::mem::swap(&mut one, kept);
                }
                one.forgotten = false;
                of_service.push(one);
            }
        }
        all.push(of_service);
    }
    all
}

fn recalled<C>(known: Option<&Seen>, due: u64, now: u64) -> Checked<C> {
    let mut condition = Condition { since: now, ..Condition::default() };
    let mut due = due;
    if let Some(known) = known {
        condition.clone_from(&known.condition);
        condition.since = now.min(known.condition.since);
        due = due.min(known.due);
        if condition.down {
            (condition.against, due) = (0, now);
        }
    }
    let eager = condition.down;
    Checked { condition, check: None, due, forgotten: false, begun: 0, eager }
}

/// The backends of a service that are down.
pub fn down<C>(service: &Service, checked: &[Checked<C>]) -> Vec<Endpoint> {
    let pairs = service.backends.iter().zip(checked);
    pairs.filter(|(_, one)| one.condition.down).map(|(backend, _)| backend.address).collect()
}

/// What is known of a backend.
pub fn of(seen: &[Seen], bind: Endpoint, backend: Endpoint) -> Option<&Seen> {
    seen.iter().find(|seen| seen.bind == bind && seen.backend == backend)
}

/// Chooses backends as the `watch` that saw them does.
pub fn recall(seen: &[Seen], services: &mut [Service]) {
    for service in services.iter_mut().filter(|service| service.health.is_some()) {
        let bind = service.bind;
        let mut down = Vec::new();
        for backend in &mut service.backends {
            if let Some(known) = of(seen, bind, backend.address) {
                backend.weight = if known.chosen { backend.nominal } else { 0 };
                if known.condition.down {
                    down.push(backend.address);
                }
            }
        }
        service.choose(&down);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The turns of a backend whose checks end like this, one each `pace`: `+` good, `-` bad.
    fn turns(checks: &str, fall: u64, rise: u64, pace: u64) -> Vec<usize> {
        let health = Health { interval: 100, timeout: 50, fall, rise, ..Health::default() };
        let mut condition = Condition::default();
        let mut turned = Vec::new();
        for (at, check) in checks.chars().enumerate() {
            let result = if check == '+' { Ok(()) } else { Err("x".to_owned()) };
            if condition.judge(result, at as u64 * pace, &health) {
                turned.push(at);
            }
        }
        turned
    }

    #[test]
    fn it_falls_after_as_many_bad_checks_and_rises_after_as_many_good_ones() {
        assert_eq!(turns("++---+-++++", 3, 2, 100), [4, 8]);
        assert_eq!(turns("--+--+--+", 3, 2, 100), [0; 0]);
        assert_eq!(turns("---+-+-+-+", 3, 2, 100), [2]);
    }

    #[test]
    fn one_that_flaps_is_not_followed_at_each_check() {
        assert_eq!(turns("-+-+-+-+-+", 1, 1, 60), [0, 3, 4, 7, 8]);
        assert_eq!(turns("-++", 1, 1, 60), [0, 2]);
    }

    const YAML: &str = "frontend: {bind: '10.0.0.1:80', health: {interval: 2s, timeout: 1s, fall: 3, rise: 2}, \
                        backends: ['10.0.1.1:80', '10.0.1.2:80']}";

    fn services(yaml: &str) -> Vec<Service> {
        crate::config::parse(yaml.as_bytes()).unwrap()
    }

    fn health() -> Box<Health> {
        services(YAML)[0].health.clone().unwrap()
    }

    fn first() -> Checked<&'static str> {
        take((&[], Vec::new()), &services(YAML), &[], 0).remove(0).remove(0)
    }

    const ENDED: Step = Step::End { turned: false, first: false };

    #[test]
    fn a_check_has_its_time_and_the_next_one_its_pace() {
        let health = health();
        let mut one = first();
        assert_eq!(one.step(Event::Silence, &health, 0, true), Step::Begin);
        one.check = Some("first");
        assert_eq!((one.due, one.condition.checked), (1000, false));
        assert_eq!(one.step(Event::Silence, &health, 999, true), Step::Wait);
        assert_eq!(one.step(Event::Progress, &health, 1999, true), Step::Wait, "it has just answered");
        assert_eq!(one.step(Event::Silence, &health, 1999, true), Step::End { turned: false, first: true });
        assert_eq!(one.condition.error, "no answer within 1000 ms");
        // In time for three of them within 6 s.
        assert_eq!((one.due, one.check), (1999, None));
        let mut one = first();
        one.step(Event::Silence, &health, 0, true);
        one.check = Some("good");
        assert_eq!(one.step(Event::Ended(Ok(())), &health, 3, true), Step::End { turned: false, first: true });
        assert_eq!(one.due, health.pace());
    }

    #[test]
    fn without_room_a_check_is_put_off_and_nothing_is_said_of_the_backend() {
        let mut one = first();
        assert_eq!(one.step(Event::Silence, &health(), 0, false), Step::Wait);
        assert_eq!((one.due, one.condition.checked), (PUT_OFF, false));
        assert_eq!(one.step(Event::Silence, &health(), PUT_OFF, true), Step::Begin);
    }

    #[test]
    fn a_check_gets_the_time_back_in_which_this_process_was_busy() {
        let health = health();
        let mut one = first();
        one.stood_still(500);
        assert_eq!(one.due, 0, "none runs");
        one.step(Event::Silence, &health, 0, true);
        one.check = Some("first");
        one.stood_still(3000);
        assert_eq!(one.step(Event::Silence, &health, 3999, true), Step::Wait);
        assert_eq!(one.step(Event::Silence, &health, 4000, true), Step::End { turned: false, first: true });
    }

    #[test]
    fn reloads_more_often_than_the_timeout_do_not_keep_a_check_from_its_end() {
        let services = services(YAML);
        let mut all = take((&[], Vec::new()), &services, &[], 0);
        let mut ends = 0;
        let mut fell = None;
        for now in (0..6500).step_by(100) {
            // An "already in force" reload each 900 ms.
            if now % 900 == 0 {
                all = take((&services, all), &services, &[], now);
            }
            match all[0][0].step(Event::Silence, &health(), now, true) {
                Step::Begin => all[0][0].check = Some("silent"),
                Step::End { turned, .. } => {
                    ends += 1;
                    fell = fell.or(turned.then_some(now));
                }
                Step::Wait => {}
            }
        }
        assert!(ends >= 3 && fell.is_some_and(|at| at <= 6000), "{ends} {fell:?}");
    }

    #[test]
    fn other_checks_begin_anew_and_what_was_seen_is_kept() {
        let old = services(YAML);
        let bind = old[0].bind;
        let mut all = take((&[], Vec::new()), &old, &[], 0);
        all[0].iter_mut().for_each(|one| one.check = Some("old"));
        let new = services(&YAML.replace("10.0.1.2", "10.0.1.3"));
        let mut all = take((&old, all), &new, &[], 5);
        assert_eq!(all[0].iter().map(|one| one.check).collect::<Vec<_>>(), [Some("old"), None]);
        let condition = Condition { down: true, checked: true, since: 1, error: "x".into(), against: 1 };
        let backend = old[0].backends[0].address;
        all[0][0].condition = condition.clone();
        let seen = [Seen { bind, backend, chosen: false, condition, due: 7 }];
        let all = take((&new, all), &services(&YAML.replace("timeout: 1s", "timeout: 500ms")), &seen, 9);
        assert!(all[0][0].check.is_none() && all[0][0].condition.down && !all[0][1].condition.down);
    }

    #[test]
    fn a_backend_recalled_as_down_is_checked_as_often_as_it_needs_at_once() {
        let services = services(YAML);
        let condition = Condition { down: true, checked: true, since: 0, error: "x".into(), against: 0 };
        let backend = services[0].backends[1].address;
        let seen = [Seen { bind: services[0].bind, backend, chosen: false, condition, due: 99_000 }];
        let now = 9000;
        let recalled = || take::<&str>((&[], Vec::new()), &services, &seen, now).remove(0).remove(1);
        let mut one = recalled();
        for ended in [ENDED, Step::End { turned: true, first: false }] {
            assert_eq!(one.step(Event::Silence, &health(), now, true), Step::Begin);
            assert_eq!(one.step(Event::Ended(Ok(())), &health(), now, true), ended);
        }
        assert_eq!((one.condition.down, one.due), (false, now + health().pace()));
        // One that is still dead is not pestered.
        let mut one = recalled();
        one.step(Event::Silence, &health(), now, true);
        assert_eq!(one.step(Event::Ended(Err("y".into())), &health(), now, true), ENDED);
        assert_eq!(one.due, now + health().pace());
        // Nor is one that has to stay down for some time yet.
        let mut one = recalled();
        one.condition.since = now;
        for _ in 0..2 {
            one.step(Event::Silence, &health(), now, true);
            one.step(Event::Ended(Ok(())), &health(), now, true);
        }
        assert!(one.condition.down && one.due == now + health().pace());
    }
}
