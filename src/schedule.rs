//! Who gets the next connection, as chains of choices. Pure: it knows neither addresses nor rule text.
//!
//! Round robin the usual way is a list, `every N`, `every N-1`, … `every 2`, rest: half of it is walked for each new
//! connection. Here a chain holds [`FAN_OUT`] shares: rules take the first ones away to chains of their own, and the
//! last one goes on in the same chain, so that the walk grows with log N. What does not divide evenly is taken out
//! first, one slot a rule.
//!
//! Why it is exact: a chain of n slots that is given n connections in a row gives each slot one, whatever its counters
//! stand at. `every n` takes exactly one of any n; what remains is divided evenly, `every k` takes exactly one of any
//! k; so each share of s slots is given s connections, and so on down. The order is that of the slots, from the first.

/// Into how many shares a chain is divided.
pub const FAN_OUT: usize = 2;

/// The longest plain list at the end of a chain: up to here a list is walked as fast as a division.
const LONGEST_LIST: usize = 4;

/// What a connection has to be for a choice to take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Any.
    Always,
    /// The first, and then each n-th that comes to this choice. At least 2.
    Every(usize),
}

/// Where a choice sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// To the backend of this index.
    Backend(usize),
    /// To the chain of this index.
    Chain(usize),
}

/// One rule of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The condition.
    pub when: When,
    /// The consequence.
    pub then: Then,
}

/// Chains of choices, tried in turn; the first chain is the entrance. The last choice of a chain is [`When::Always`].
pub type Schedule = Vec<Vec<Choice>>;

/// Exact round robin over `slots` (indices of backends; a weighted one has several), in their order.
pub fn round_robin(slots: &[usize], fan_out: usize) -> Schedule {
    let mut chains = Vec::new();
    divide(slots, fan_out.max(2), &mut chains);
    chains
}

/// Adds the chain of `slots`, and those below it; tells its index.
fn divide(slots: &[usize], fan_out: usize, chains: &mut Schedule) -> usize {
    let own = chains.len();
    chains.push(Vec::new());
    let mut choices = Vec::new();
    let mut rest = slots.to_vec();
    while rest.len() > LONGEST_LIST.max(fan_out) {
        let odd: Vec<usize> = rest.drain(..rest.len() % fan_out).collect();
        take_out(&odd, rest.len(), &mut choices);
        // Dealt out in turn, so that the shares, each taken from in turn, keep the order of the slots.
        for share in 0..fan_out - 1 {
            let dealt: Vec<usize> = rest.iter().skip(share).step_by(fan_out).copied().collect();
            let chain = divide(&dealt, fan_out, chains);
            choices.push(Choice { when: When::Every(fan_out - share), then: Then::Chain(chain) });
        }
        rest = rest.iter().skip(fan_out - 1).step_by(fan_out).copied().collect();
    }
    take_out(&rest, 0, &mut choices);
    if let Some(chain) = chains.get_mut(own) {
        *chain = choices;
    }
    own
}

/// A plain list: each of `slots` gets one of every `slots.len() + more` connections.
fn take_out(slots: &[usize], more: usize, choices: &mut Vec<Choice>) {
    for (taken, slot) in slots.iter().enumerate() {
        let when = match slots.len() + more - taken {
            1 => When::Always,
            n => When::Every(n),
        };
        choices.push(Choice { when, then: Then::Backend(*slot) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(n: usize) -> Vec<usize> {
        (0..n).collect()
    }

    #[test]
    fn three_backends_are_a_plain_list() {
        let choice = |when, backend| Choice { when, then: Then::Backend(backend) };
        let expected = vec![vec![choice(When::Every(3), 0), choice(When::Every(2), 1), choice(When::Always, 2)]];
        assert_eq!(round_robin(&list(3), FAN_OUT), expected);
    }

    #[test]
    fn one_backend_gets_all() {
        assert_eq!(round_robin(&[0], FAN_OUT), vec![vec![Choice { when: When::Always, then: Then::Backend(0) }]]);
    }

    #[test]
    fn every_chain_ends_in_an_unconditional_choice_and_is_entered_once() {
        for fan_out in [2, 4] {
            for n in 1..=1024 {
                let schedule = round_robin(&list(n), fan_out);
                let mut entered = vec![0; schedule.len()];
                for chain in &schedule {
                    assert_eq!(chain.last().unwrap().when, When::Always, "{n} by {fan_out}");
                    for choice in chain {
                        if let Then::Chain(chain) = choice.then {
                            entered[chain] += 1;
                        }
                    }
                }
                assert_eq!(entered[0], 0);
                assert!(entered[1..].iter().all(|times| *times == 1), "{n} by {fan_out}");
            }
        }
    }

    #[test]
    fn chains_fit_the_three_digits_of_their_names() {
        for fan_out in [2, 4] {
            assert!((1..=1024).all(|n| round_robin(&list(n), fan_out).len() <= 0xfff));
        }
    }
}
