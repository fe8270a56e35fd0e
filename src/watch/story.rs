//! Stories of a frontend whose backends fail and return, told to the checker alone: who is out when, whose connections end,
//! and what is said.

use super::backend::Condition;
use super::checker::{recall, take, All, Event, News, Seen, Step};
use crate::service::{Backend, Service};

fn services(yaml: &str) -> Vec<Service> {
    crate::config::parse(yaml.as_bytes()).unwrap().services
}

/// What a backend does with a check that begins at this time.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    /// Passes it this much later.
    Answers(u64),
    Refuses,
    Nothing,
    /// It cannot begin: this host has no memory.
    Fails,
}
use Does::{Answers, Fails, Nothing, Refuses};

/// A frontend, and what has come of its checks so far.
struct Story {
    services: Vec<Service>,
    all: All<Does>,
    now: u64,
    /// Time, and what was new.
    news: Vec<(u64, News)>,
    /// Time, and a backend whose connections were ended.
    ended: Vec<(u64, usize)>,
    /// How many checks began of each.
    checks: Vec<usize>,
    /// How many milliseconds pass between two looks at the checks.
    tick: u64,
}

impl Story {
    fn of(health: &str, backends: &str) -> Self {
        let yaml = format!("frontend: {{bind: '10.0.0.1:80', health: {{{health}}}, backends: [{backends}]}}");
        let services = services(&yaml);
        let all = take((&[], Vec::new()), &services, &[], 0);
        let checks = vec![0; services[0].backends.len()];
        Story { services, all, now: 0, news: vec![], ended: vec![], checks, tick: 1 }
    }

    fn three(health: &str) -> Self {
        Self::of(health, "'10.0.1.1:80', '10.0.1.2:80', '10.0.1.3:80'")
    }

    /// Goes on until that time.
    fn until(&mut self, end: u64, does: impl Fn(usize, u64) -> Does) -> &mut Self {
        let health = self.services[0].health.clone().unwrap();
        while self.now < end {
            self.now += self.tick;
            let now = self.now;
            let (service, group) = (&mut self.services[0], &mut self.all[0]);
            let mut any = false;
            for at in 0..service.backends.len() {
                let one = &group.backends[at];
                let event = match one.check {
                    Some(Answers(after)) if now >= one.due - health.timeout + after => Event::Ended(Ok(())),
                    Some(Refuses) => Event::Ended(Err("refused".into())),
                    _ => Event::Silence,
                };
                match group.step(at, event, service, now, true) {
                    Step::Begin => match does(at, now) {
                        Fails => group.backends[at].put_off(now),
                        does => {
                            group.backends[at].check = Some(does);
                            self.checks[at] += 1;
                        }
                    },
                    Step::End { .. } => any = true,
                    Step::Wait => {}
                }
            }
            if any {
                let news = group.decide(service, now);
                self.news.extend(news.into_iter().map(|news| (now, news)));
                let out = group.out(service);
                service.choose(&out);
            }
            group.ask(service, now);
            let ending = group.ending(service, now);
            group.ended(service, &ending, now);
            for (at, backend) in service.backends.iter().enumerate() {
                if ending.contains(&backend.address) {
                    self.ended.push((now, at));
                }
            }
        }
        self
    }

    /// The weights in force.
    fn weights(&self) -> Vec<u16> {
        self.services[0].backends.iter().map(|backend| backend.weight).collect()
    }

    /// What was new, without times.
    fn said(&self) -> Vec<&News> {
        self.news.iter().map(|(_, news)| news).collect()
    }

    fn down(&self) -> Vec<bool> {
        self.all[0].backends.iter().map(|one| one.condition.down).collect()
    }
}

const GOOD: Does = Answers(1);

#[test]
fn a_dead_backend_among_living_ones_is_out_in_time_however_it_dies_and_whatever_is_configured() {
    for (interval, timeout, fall, answer) in [
        (2000, 1000, 3, 1),
        (2000, 1000, 2, 400),
        (2000, 1000, 1, 1),
        (2000, 1000, 1, 499),
        (2000, 100, 1, 1),
        (2000, 100, 1, 40),
        (500, 250, 2, 3),
        (100, 50, 1, 1),
        (2000, 2000, 3, 1),
        (2000, 2000, 1, 1),
        (2000, 1600, 3, 700),
    ] {
        for dead in [Refuses, Nothing] {
            for died in (0..2 * interval).step_by(interval as usize / 7 + 1) {
                let health = format!("interval: {interval}ms, timeout: {timeout}ms, fall: {fall}");
                let mut story = Story::three(&health);
                let died = died + 2 * interval;
                story.until(died + interval * fall + interval, |at, now| match at {
                    1 if now > died => dead,
                    _ => Answers(answer),
                });
                let late = if timeout * 2 > interval { interval / 2 } else { 0 };
                let case = format!("{health}: died at {died}, {:?}", story.news);
                // The last good check began, at the latest, when it died.
                let limit = died + interval * fall + late + story.tick * fall * 2;
                assert!(matches!(story.news[..], [(at, News::Down(1))] if at <= limit), "{case}: {limit}");
                assert_eq!((story.ended[0].1, story.weights()), (1, vec![1, 0, 1]), "{case}");
            }
        }
    }
}

#[test]
fn a_switch_that_restarts_takes_nothing_out_and_ends_nothing() {
    for health in ["", "interval: 500ms, fall: 2", "interval: 1s", "interval: 1s, fall: 1", "interval: 4s, rise: 1"] {
        for begin in (10_000..14_000).step_by(390) {
            let mut story = Story::three(health);
            story.tick = 10;
            let dark = begin..begin + 12_000;
            story.until(45_000, |_, now| if dark.contains(&now) { Nothing } else { GOOD });
            // With a short darkness or a long interval it was not even noticed.
            let said = story.said();
            assert!(said.is_empty() || said == [&News::Dark, &News::Light], "{health} {begin}: {:?}", story.news);
            assert!(health.contains("4s") || !said.is_empty(), "{health} {begin}");
            assert_eq!((story.ended.len(), story.weights()), (0, vec![1; 3]), "{health} {begin}");
        }
    }
}

#[test]
fn backends_that_return_one_after_another_keep_their_connections_if_they_return_in_time() {
    for health in ["interval: 500ms, fall: 2", "", "interval: 2s, fall: 3, rise: 5"] {
        let interval_fall = if health.is_empty() || health.contains("2s") { 6000 } else { 1000 };
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let mut story = Story::three(health);
            let back = |at: usize| 20_000 + order[at] * interval_fall / 3;
            story.until(60_000, |at, now| if (5000..back(at)).contains(&now) { Nothing } else { GOOD });
            assert_eq!(story.said(), [&News::Dark, &News::Light], "{health} {order:?}: {:?}", story.news);
            assert_eq!((story.ended.len(), story.weights()), (0, vec![1; 3]), "{health} {order:?}");
        }
    }
}

#[test]
fn one_that_does_not_return_is_out_a_round_after_the_first_that_does() {
    let mut story = Story::three("");
    story.until(60_000, |at, now| if now >= 5000 && (at == 2 || now < 20_000) { Refuses } else { GOOD });
    let (out, news) = story.news.pop().unwrap();
    assert_eq!((news, story.said()), (News::Down(2), vec![&News::Dark, &News::Light]));
    assert!((26_000..28_500).contains(&out), "{out}");
    assert_eq!((story.weights(), story.ended[0].1), (vec![1, 1, 0], 2));
}

#[test]
fn a_single_backend_is_never_out() {
    let mut story = Story::of("", "'10.0.1.1:80'");
    story.until(30_000, |_, now| if now < 5000 { GOOD } else { Nothing });
    assert_eq!((story.said(), story.weights(), story.down()), (vec![&News::Dark], vec![1], vec![true]));
    story.until(40_000, |_, _| GOOD);
    assert_eq!((story.said(), story.ended.len()), (vec![&News::Dark, &News::Light], 0));
}

#[test]
fn with_reject_new_connections_are_refused_and_none_ends() {
    for backends in ["'10.0.1.1:80'", "'10.0.1.1:80', '10.0.1.2:80', '10.0.1.3:80'"] {
        let mut story = Story::of("on_all_down: reject", backends);
        let all = story.weights();
        story.until(20_000, |_, now| if now < 5000 { GOOD } else { Nothing });
        assert_eq!((story.said(), story.weights()), (vec![&News::Dark], vec![0; all.len()]));
        // The first that is up again gets all, and the others are not ended when it does.
        story.until(25_000, |at, _| if at == 0 { GOOD } else { Nothing });
        assert_eq!((story.weights()[0], story.weights().iter().sum::<u16>()), (1, 1));
        story.until(40_000, |_, _| GOOD);
        assert_eq!((story.said(), story.weights()), (vec![&News::Dark, &News::Light], all));
        assert!(story.ended.is_empty());
    }
}

#[test]
fn with_reject_one_that_does_not_return_ends_later() {
    let mut story = Story::three("on_all_down: reject");
    story.until(20_000, |_, now| if now < 5000 { GOOD } else { Refuses });
    story.until(40_000, |at, _| if at == 0 { Refuses } else { GOOD });
    assert_eq!(story.said(), [&News::Dark, &News::Light, &News::Down(0)]);
    assert!(story.ended[0].0 > 24_000, "{:?}", story.ended);
    story.until(50_000, |_, _| GOOD);
    assert_eq!(story.news.pop().unwrap().1, News::Up(0));
}

#[test]
fn a_backup_is_evidence_and_one_of_weight_0_is_not() {
    let two = |other: &str| Story::of("", &format!("'10.0.1.1:80', {{address: '10.0.1.2:80', {other}}}"));
    let dead = |at: usize, now: u64| if at == 0 && now > 5000 { Nothing } else { GOOD };
    let mut story = two("backup: true");
    story.until(20_000, dead);
    assert_eq!((story.said(), story.weights()), (vec![&News::Down(0)], vec![0, 1]));
    assert_eq!(story.ended[0].1, 0);
    // And the other way round: all dark, with a backup that was never needed.
    let mut story = two("backup: true");
    story.until(20_000, |_, now| if now > 5000 { Nothing } else { GOOD });
    assert_eq!((story.said(), story.weights(), story.ended.len()), (vec![&News::Dark], vec![1, 0], 0));
    let mut story = two("weight: 0");
    story.until(20_000, dead);
    assert_eq!((story.said(), story.weights(), story.ended.len()), (vec![&News::Dark], vec![1, 0], 0));
    // One that drains is out, and keeps its connections.
    let mut story = two("weight: 0");
    story.until(20_000, |at, now| dead(1 - at, now));
    assert_eq!((story.said(), story.weights(), story.ended.len()), (vec![&News::Down(1)], vec![1, 0], 0));
}

#[test]
fn one_that_was_dead_before_stays_out_while_all_are_dark() {
    let mut story = Story::three("");
    story.until(15_000, |at, now| if at == 0 && now > 3000 { Refuses } else { GOOD });
    let ended = story.ended.len();
    story.until(40_000, |_, _| Nothing);
    assert_eq!((story.said(), story.weights()), (vec![&News::Down(0), &News::Dark], vec![0, 1, 1]));
    // Nothing is ended while all are dark, and nobody is living that could take them.
    let late = story.ended.iter().filter(|(at, _)| *at > 22_000).count();
    assert!(ended > 1 && late == 0, "{:?}", story.ended);
    // It returns, the others do not.
    story.until(70_000, |at, _| if at == 0 { GOOD } else { Nothing });
    assert_eq!(story.weights(), [1, 0, 0]);
    assert_eq!(story.said().len(), 6);
}

#[test]
fn a_flapping_backend_does_not_keep_a_dead_one_in_force() {
    for fall in [2, 3] {
        let mut story = Story::of(&format!("fall: {fall}"), "'10.0.1.1:80', '10.0.1.2:80'");
        let check = std::cell::Cell::new(0);
        story.until(60_000, |at, now| match at {
            0 if now > 5000 => Refuses,
            1 if check.replace(check.get() + 1) % 2 == 1 => Refuses,
            _ => GOOD,
        });
        // It is spared once.
        assert!(
            matches!(story.news[..], [(at, News::Down(0))] if at <= 5000 + 2 * 2000 * fall + 4000),
            "{fall}: {:?}",
            story.news
        );
    }
}

#[test]
fn connections_to_the_dead_are_ended_again_more_and_more_seldom() {
    let mut story = Story::three("");
    story.until(120_000, |at, now| if at == 0 && now > 3000 { Nothing } else { GOOD });
    let times: Vec<u64> = story.ended.iter().map(|(at, _)| (*at - story.ended[0].0) / 1000).collect();
    assert_eq!(times, [0, 2, 4, 8, 16, 32, 48, 64, 80, 96, 112]);
}

#[test]
fn what_this_host_cannot_do_says_nothing_about_backends() {
    let mut story = Story::three("interval: 500ms, fall: 2");
    let dies = |at: usize, _: u64| if at == 0 { Refuses } else { Fails };
    story.until(2000, |_, _| GOOD).until(20_000, dies);
    let group = &story.all[0];
    assert!(group.is_unable(story.services[0].health.as_ref().unwrap(), story.now));
    // One fails; whether the others live is not known.
    assert_eq!((story.said(), story.weights(), story.ended.len()), (vec![], vec![1; 3], 0));
    story.until(22_500, |at, _| if at == 0 { Refuses } else { GOOD });
    assert_eq!((story.said(), story.weights()), (vec![&News::Down(0)], vec![0, 1, 1]));
    assert!(!story.all[0].is_unable(story.services[0].health.as_ref().unwrap(), story.now));
}

#[test]
fn one_check_at_a_time_and_not_more_often_than_half_an_interval() {
    for timeout in [1000, 1500, 2000] {
        for does in [Answers(0), Answers(timeout - 1), Nothing] {
            let mut story = Story::of(&format!("fall: 1, timeout: {timeout}ms"), "'10.0.1.1:80', '10.0.1.2:80'");
            story.until(100_000, |_, _| does);
            // Each may be asked about the other now and then.
            assert!(story.checks.iter().all(|n| (45..=120).contains(n)), "{timeout}: {:?}", story.checks);
        }
    }
}

#[test]
fn reloads_more_often_than_the_timeout_do_not_keep_a_check_from_its_end() {
    let mut story = Story::of("", "'10.0.1.1:80', '10.0.1.2:80'");
    // An "already in force" reload each 900 ms.
    for now in (900..15_000).step_by(900) {
        story.until(now, |at, _| if at == 0 { Nothing } else { GOOD });
        let all = std::mem::take(&mut story.all);
        story.all = take((&story.services, all), &story.services, &[], now);
    }
    assert!(matches!(story.news[..], [(at, News::Down(0))] if at <= 6010), "{:?}", story.news);
    assert!(story.checks[0] >= 7, "{:?}", story.checks);
}

/// A reload while all are dark brings a backend that was never checked, and that is the first to pass.
#[test]
fn a_new_backend_that_passes_after_a_darkness_is_no_evidence_at_once() {
    for backends in ["'10.0.1.1:80', '10.0.1.2:80', '10.0.1.3:80'", "'10.0.1.3:80', '10.0.1.1:80', '10.0.1.2:80'"] {
        let mut story = Story::of("", "'10.0.1.1:80', '10.0.1.2:80'");
        story.until(20_000, |_, now| if now < 5000 { GOOD } else { Nothing });
        assert_eq!(story.said(), [&News::Dark]);
        let new = Story::of("", backends).services;
        let all = std::mem::take(&mut story.all);
        story.all = take((&story.services, all), &new, &[], story.now);
        (story.services, story.checks) = (new, vec![0; 3]);
        let added = usize::from(!backends.starts_with("'10.0.1.3")) * 2;
        story.until(60_000, |at, now| if at == added || now > 22_500 { GOOD } else { Nothing });
        assert_eq!((story.weights(), story.ended.len()), (vec![1; 3], 0), "{:?}", story.news);
    }
}

/// A `watch` that begins while all backends are dark, or right after that.
#[test]
fn what_is_recalled_of_a_darkness_ends_no_connection() {
    for (chosen, reject) in [(true, false), (false, true)] {
        let seen = recalled(chosen);
        let mut story = Story::of(if reject { "on_all_down: reject" } else { "" }, "'10.0.1.1:80', '10.0.1.2:80'");
        story.now = 9000;
        recall(&seen, &mut story.services);
        assert_eq!(story.weights(), if reject { [0, 0] } else { [1, 1] });
        story.all = take((&[], Vec::new()), &story.services, &seen, story.now);
        story.until(12_000, |_, _| Nothing);
        story.until(40_000, |at, now| if at == 0 && now < 14_500 { Nothing } else { GOOD });
        assert_eq!((story.weights(), story.ended.len()), (vec![1, 1], 0), "{:?}", story.news);
    }
}

#[test]
fn one_recalled_as_out_is_ended_again_once_a_check_confirms_it() {
    let mut seen = recalled(false);
    seen.remove(1);
    let mut story = Story::of("", "'10.0.1.1:80', '10.0.1.2:80'");
    recall(&seen, &mut story.services);
    story.all = take((&[], Vec::new()), &story.services, &seen, 0);
    assert_eq!(story.weights(), [0, 1]);
    story.until(3000, |at, _| if at == 0 { Nothing } else { GOOD });
    assert!(matches!(story.ended[..], [(at, 0), ..] if at < 2500), "{:?}", story.ended);
    assert!(story.said().is_empty());
    story.until(9000, |_, _| GOOD);
    assert_eq!((story.said(), story.weights()), (vec![&News::Up(0)], vec![1, 1]));
}

fn recalled(chosen: bool) -> Vec<Seen> {
    let services = Story::of("", "'10.0.1.1:80', '10.0.1.2:80'").services;
    let condition = Condition { down: true, checked: true, since: 0, error: "x".into(), against: 0 };
    let of = |backend: &Backend| Seen {
        bind: services[0].bind,
        name: String::new(),
        backend: backend.address,
        chosen,
        condition: condition.clone(),
        due: 99_000,
    };
    services[0].backends.iter().map(of).collect()
}
