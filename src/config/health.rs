//! The keys of `health:`, each with the function that takes its value.

use super::draft::{Checks, Draft};
use super::node::{Key, Node};
use crate::error::{refuse, Error};
use crate::net::port_number;
use crate::text::{number, one_of, Shown};

/// Shortest and longest interval, in milliseconds.
const INTERVALS: (u64, u64) = (100, 3_600_000);

/// Longest path or text, in bytes.
const LONGEST: usize = 256;

const TIME: &str = "a time such as 500ms or 2s";

const CHECKS: &str = "a number of checks in 1-255";

/// `health:` of a frontend.
pub(super) const HEALTH: Node = Node::mapping(
    "a mapping such as `{type: tcp, interval: 2s}`",
    &[
        Key("type", Node::text("`tcp` or `http`", kind)),
        Key("interval", Node::text(TIME, interval)),
        Key("timeout", Node::text(TIME, timeout)),
        Key("fall", Node::text(CHECKS, fall)),
        Key("rise", Node::text(CHECKS, rise)),
        Key("path", Node::text("a path such as /health", path)),
        Key("expect", Node::text("a status, a range of them such as 200-399, or a text of the body", expect)),
        Key("port", Node::text("a port", port)),
        Key("on_all_down", Node::text("`keep` or `reject`", on_all_down)),
    ],
    end,
);

fn kind(draft: &mut Draft, text: &str) -> Result<(), Error> {
    draft.checks.health.http = second_of(["tcp", "http"], text)?;
    Ok(())
}

fn interval(draft: &mut Draft, text: &str) -> Result<(), Error> {
    draft.checks.health.interval = milliseconds(text)?;
    Ok(())
}

fn timeout(draft: &mut Draft, text: &str) -> Result<(), Error> {
    draft.checks.timeout = Some(milliseconds(text)?);
    Ok(())
}

fn fall(draft: &mut Draft, text: &str) -> Result<(), Error> {
    draft.checks.health.fall = checks(text)?;
    Ok(())
}

fn rise(draft: &mut Draft, text: &str) -> Result<(), Error> {
    draft.checks.health.rise = checks(text)?;
    Ok(())
}

fn path(draft: &mut Draft, text: &str) -> Result<(), Error> {
    if !text.starts_with('/') || text.len() > LONGEST || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return refuse!(
            "`{}` is not a path: a slash, then at most {} characters without blanks",
            Shown(text),
            LONGEST - 1
        );
    }
    draft.checks.health.path = text.to_owned();
    draft.checks.needs_http = Some("path");
    Ok(())
}

/// A status, a range of them, or a text.
fn expect(draft: &mut Draft, text: &str) -> Result<(), Error> {
    let Checks { health, needs_http, .. } = &mut draft.checks;
    *needs_http = Some("expect");
    if text.is_empty() || text.len() > LONGEST {
        return refuse!("the expected text must have 1 to {LONGEST} bytes");
    }
    if !text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        health.text = text.to_owned();
        return Ok(());
    }
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (number(low, 599), number(high, 599)) {
        (Some(low), Some(high)) if low >= 100 && low <= high => health.statuses = (low, high),
        _ => return refuse!("`{}` is not a status in 100-599, nor a range of them such as 200-399", Shown(text)),
    }
    Ok(())
}

fn port(draft: &mut Draft, text: &str) -> Result<(), Error> {
    draft.checks.health.port = Some(port_number(text)?);
    Ok(())
}

fn on_all_down(draft: &mut Draft, text: &str) -> Result<(), Error> {
    draft.checks.health.reject = second_of(["keep", "reject"], text)?;
    Ok(())
}

/// The end of `health:`: what the values say together.
fn end(draft: &mut Draft) -> Result<(), Error> {
    let Checks { mut health, timeout, needs_http } = std::mem::take(&mut draft.checks);
    let (least, most) = INTERVALS;
    if health.interval < least || health.interval > most {
        return refuse!("an interval of {} ms is not in 100ms-3600s", health.interval);
    }
    // Longer, and there would be no time for the next check before the backend has to be out.
    let half = health.interval / 2;
    health.timeout = timeout.unwrap_or(health.timeout.min(half));
    if health.timeout == 0 || health.timeout > half {
        return refuse!("a timeout of {} ms is not in 1-{half} ms, half of the interval", health.timeout);
    }
    if let Some(key) = needs_http.filter(|_| !health.http) {
        return refuse!("`{key}` needs `type: http`");
    }
    draft.frontend.health = Some(Box::new(health));
    Ok(())
}

fn second_of(words: [&str; 2], text: &str) -> Result<bool, Error> {
    one_of("unknown value", &words, text).map(|at| at == 1)
}

fn milliseconds(text: &str) -> Result<u64, Error> {
    let (digits, unit) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s').unwrap_or(""), 1000),
    };
    match number(digits, INTERVALS.1) {
        Some(number) => Ok(number * unit),
        None => refuse!("`{}` is not a time; write it as 500ms or 2s", Shown(text)),
    }
}

fn checks(text: &str) -> Result<u64, Error> {
    match number(text, 255) {
        Some(checks) if checks > 0 => Ok(checks),
        _ => refuse!("`{}` is not a number of checks in 1-255", Shown(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_judged() {
        let taken = |take: fn(&mut Draft, &str) -> Result<(), Error>, text: &str| {
            let mut draft = Draft::default();
            take(&mut draft, text).map(|()| draft.checks).map_err(|error| error.to_string())
        };
        assert_eq!(taken(interval, "500ms").unwrap().health.interval, 500);
        assert_eq!(taken(timeout, "2s").unwrap().timeout, Some(2000));
        assert_eq!(taken(expect, "200").unwrap().health.statuses, (200, 200));
        assert_eq!(taken(expect, "ready, 200-399").unwrap().health.text, "ready, 200-399");
        assert_eq!(taken(expect, "ready").unwrap().needs_http, Some("expect"));
        assert!(taken(on_all_down, "reject").unwrap().health.reject);
        let cases: [(super::super::node::Take, &str, &str); 14] = [
            (kind, "https", "did you mean `http`?"),
            (interval, "2", "500ms or 2s"),
            (interval, "2m", "500ms or 2s"),
            (interval, "-2s", "500ms or 2s"),
            (interval, "99999999999999999999s", "500ms or 2s"),
            (fall, "0", "1-255"),
            (rise, "256", "1-255"),
            (path, "health", "slash"),
            (path, "/a b", "blanks"),
            (expect, "99", "100-599"),
            (expect, "400-200", "100-599"),
            (expect, "", "1 to 256"),
            (port, "0", "1-65535"),
            (on_all_down, "drop", "allowed: keep, reject"),
        ];
        for (take, text, why) in cases {
            let said = taken(take, text).map(|_| ()).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
