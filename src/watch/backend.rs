//! When one backend is checked, and what its own checks say. Pure: no socket, no clock. Times are in milliseconds of one
//! clock.

use crate::service::health::Health;

/// How long a check is put off that cannot begin.
const PUT_OFF: u64 = 50;

/// What the checks of a backend have shown so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// It has failed its checks. Until it has been checked it counts as up. That it is down does not yet take it out: see
    /// [`Standing`].
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

/// What the checks of a backend mean beside those of the frontend's other backends: `checker` decides.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// It gets no new connections.
    pub out: bool,
    /// It failed its checks while another backend passed one: its connections are ended.
    pub dead: bool,
    /// It was said to be down, so it will be said that it is up.
    pub told: bool,
    /// Its connections are ended again at this time.
    pub end: u64,
    /// Bad checks in a row.
    pub bad: u64,
    /// A pass of another backend from this time on is evidence against this one: here it failed for the first time in a
    /// row, or was spared.
    pub first: u64,
    /// It failed together with all others, and one of them has passed a check since: it gets as much time again as a dead
    /// backend has. Only once, or another one that passes and fails by turns would keep it in force for ever.
    pub spared: bool,
    /// Another backend was asked for evidence.
    pub asked: bool,
    /// When it last passed a check.
    pub passed: Option<u64>,
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
    /// It could not go on, for a reason of this host's that says nothing about the backend.
    Lapsed,
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
    /// What they mean.
    pub standing: Standing,
    /// The check that runs, if one does.
    pub check: Option<C>,
    /// When that check has failed, or when the next one begins.
    pub due: u64,
    /// Since when no check of it could begin, for a reason of this host's.
    pub unable: Option<u64>,
    /// When the last check began.
    begun: u64,
    /// It was recalled as down: it is checked `rise` times without a pause, since it may have recovered long ago.
    eager: bool,
}

impl<C> Checked<C> {
    /// One whose first check is due then.
    pub fn new(condition: Condition, standing: Standing, due: u64) -> Self {
        let eager = condition.down;
        Checked { condition, standing, check: None, due, unable: None, begun: 0, eager }
    }

    /// The next step, given what has come of the running check. `room`: another check may begin now.
    pub fn step(&mut self, event: Event, health: &Health, now: u64, room: bool) -> Step {
        if self.check.is_some() {
            self.unable = None;
        }
        let progress = matches!(event, Event::Progress);
        match event {
            Event::Ended(result) => self.end(result, now, health),
            Event::Lapsed => {
                self.check = None;
                self.put_off(now);
                Step::Wait
            }
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
        let standing = &mut self.standing;
        if good {
            (standing.bad, standing.spared, standing.asked) = (0, false, false);
            standing.passed = Some(now);
        } else {
            if standing.bad == 0 && !standing.spared {
                // With one bad check there is no time after its end for another backend to pass one.
                standing.first = if health.fall > 1 { now } else { now.min(self.begun + health.timeout / 2) };
            }
            standing.bad += 1;
        }
        let turned = self.condition.judge(result, now, health);
        self.eager &= good && self.condition.down && self.condition.against < health.rise;
        self.due = if self.eager { now } else { now.max(self.begun + health.pace()) };
        Step::End { turned, first }
    }

    /// The check cannot begin now, for a reason of this host's that says nothing about the backend.
    pub fn put_off(&mut self, now: u64) {
        self.due = now + PUT_OFF;
        self.unable.get_or_insert(now);
    }

    /// This process was busy for `time` milliseconds, in which a running check could not go on: it gets them back.
    pub fn stood_still(&mut self, time: u64) {
        if self.check.is_some() {
            self.due += time;
        }
    }

    /// It fails or may be about to: its check is the last one that counts, and half of its time is over without an answer.
    pub fn is_suspect(&self, health: &Health, now: u64) -> bool {
        self.standing.bad > 0 || health.fall == 1 && self.check.is_some() && now >= self.begun + health.timeout / 2
    }

    /// When [`step`](Self::step) has to be called next.
    pub fn wake(&self, health: &Health) -> u64 {
        if health.fall == 1 && self.check.is_some() && !self.standing.asked {
            return self.due.min(self.begun + health.timeout / 2);
        }
        self.due
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

    fn health() -> Health {
        Health { interval: 2000, timeout: 1000, fall: 3, rise: 2, ..Health::default() }
    }

    fn first() -> Checked<&'static str> {
        Checked::new(Condition::default(), Standing::default(), 0)
    }

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
        assert_eq!((one.due, one.condition.checked, one.unable), (PUT_OFF, false, Some(0)));
        assert_eq!(one.step(Event::Silence, &health(), PUT_OFF, true), Step::Begin);
        one.check = Some("first");
        one.step(Event::Silence, &health(), PUT_OFF + 1, true);
        assert_eq!(one.unable, None);
    }

    #[test]
    fn a_check_that_this_host_broke_off_says_nothing_of_the_backend() {
        let mut one = first();
        one.step(Event::Silence, &health(), 0, true);
        one.check = Some("first");
        assert_eq!(one.step(Event::Lapsed, &health(), 7, true), Step::Wait);
        assert_eq!((one.due, one.condition.checked, one.check), (7 + PUT_OFF, false, None));
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
}
