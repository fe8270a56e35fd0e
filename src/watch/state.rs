//! Whether a backend is up or down, given how its checks end. Pure.

use crate::service::health::Health;

/// What the checks of a backend have told so far. Times are in milliseconds of one clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// It has failed its checks.
    pub down: bool,
    /// Since when it is up or down.
    pub since: u64,
    /// Why its last bad check failed; empty if there was none.
    pub error: String,
    /// How many checks in a row spoke against the state that it is in.
    pub against: u64,
}

impl State {
    /// A check has ended; tells whether the backend is now up that was down, or the other way round.
    pub fn judge(&mut self, result: Result<(), String>, now: u64, health: &Health) -> bool {
        let good = result.is_ok();
        if let Err(why) = result {
            self.error = why;
        }
        self.against = if good == self.down { self.against + 1 } else { 0 };
        // Whoever comes and goes with each check shall not have the rules written each time; one that is down is never
        // waited for.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The turns of a backend whose checks end like this, one each `pace`: `+` good, `-` bad.
    fn turns(checks: &str, fall: u64, rise: u64, pace: u64) -> Vec<usize> {
        let health = Health { interval: 100, timeout: 50, fall, rise, ..Health::default() };
        let mut state = State::default();
        let mut turned = Vec::new();
        for (at, check) in checks.chars().enumerate() {
            let result = if check == '+' { Ok(()) } else { Err("x".to_owned()) };
            if state.judge(result, at as u64 * pace, &health) {
                turned.push(at);
            }
        }
        turned
    }

    #[test]
    fn it_falls_after_as_many_bad_checks_and_rises_after_as_many_good_ones() {
        assert_eq!(turns("++---+-++++", 3, 2, 100), [4, 8]);
        assert_eq!(turns("--+--+--+", 3, 2, 100), []);
        assert_eq!(turns("---+-+-+-+", 3, 2, 100), [2]);
    }

    #[test]
    fn one_that_flaps_is_not_followed_at_each_check() {
        assert_eq!(turns("-+-+-+-+-+", 1, 1, 60), [0, 3, 4, 7, 8]);
        assert_eq!(turns("-++", 1, 1, 60), [0, 2]);
    }
}
