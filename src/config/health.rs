//! The keys of `health:`, each with the function that takes its value.

use std::fmt;
use std::net::Ipv6Addr;

use super::address;
use super::character::Stray;
use super::draft::{Checks, Draft};
use super::expect::statuses;
use super::node::{Key, Node};
use super::words;
use crate::error::{refuse, Error};
use crate::net::port_number;
use crate::text::{find, is_word, number, one_of, part, Shown};

/// Shortest and longest interval, in milliseconds.
const INTERVALS: (u64, u64) = (100, 3_600_000);

/// Longest path or text, in bytes.
const LONGEST: usize = 256;

const TIME: &str = "a time such as 500ms or 2s";

const CHECKS: &str = "a number of checks in 1-255";

/// `health:` of a frontend.
pub(super) const HEALTH: Node = Node::mapping(
    "a mapping such as `{type: http, path: /health}`, or `{}` for TCP checks",
    &[
        Key("type", Node::text("`tcp` or `http`", kind)),
        Key("interval", Node::text(TIME, interval)),
        Key("timeout", Node::text(TIME, timeout)),
        Key("fall", Node::text(CHECKS, fall)),
        Key("rise", Node::text(CHECKS, rise)),
        Key("path", Node::text("a path such as /health", path)),
        Key("host", Node::text("a name such as www.example.com", host)),
        Key("expect", Node::text("one status, one range of them such as 200-399, or a text of the body", expect)),
        Key("port", Node::text("a port", port)),
        Key("on_all_down", Node::text("`keep` or `reject`", on_all_down)),
    ],
    end,
)
.at("under `health:`", &words::HEALTH_KEYS);

fn kind(draft: &mut Draft, text: &str) -> Result<(), Error> {
    words::refuse_any(&words::CHECKS, "unknown value", text)?;
    draft.checks.health.http = second_of(["tcp", "http"], text)?;
    Ok(())
}

fn interval(draft: &mut Draft, text: &str) -> Result<(), Error> {
    let interval = milliseconds(text)?;
    let (least, most) = INTERVALS;
    if interval < least || interval > most {
        return refuse!("an interval of {} is not in 100ms-3600s", Shown(text));
    }
    draft.checks.health.interval = interval;
    Ok(())
}

fn timeout(draft: &mut Draft, text: &str) -> Result<(), Error> {
    draft.checks.timeout = Some(milliseconds(text)?);
    draft.checks.timeout_at = draft.value();
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
    let mut good = text.starts_with('/') && text.len() <= LONGEST;
    for b in text.bytes() {
        good &= b.is_ascii_graphic();
    }
    if !good {
        return refuse!(
            "`{}` is not a path: a slash, then at most {} characters without blanks, and not the name (that is `host:`)",
            Shown(text),
            LONGEST - 1
        );
    }
    draft.checks.health.path = text.to_owned();
    needs_http(draft, "path")
}

/// What an http check sends as `Host:`.
fn host(draft: &mut Draft, text: &str) -> Result<(), Error> {
    // An IPv6 address in brackets, or labels; then perhaps a port.
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port_number(port).is_ok() => name,
        _ => text,
    };
    let labels = is_word(name, "-_.") && find(&format!(".{name}."), "..").is_none();
    let v6 = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or_default();
    if !labels && v6.parse::<Ipv6Addr>().is_err() || text.len() > LONGEST {
        let more = if text.bytes().all(|b| b < 0x80) { "" } else { "; write a name of other letters in its xn-- form" };
        return refuse!("`{}` is not a host name, as in www.example.com or www.example.com:8080{more}", Shown(text));
    }
    draft.checks.health.host = text.to_owned();
    needs_http(draft, "host")
}

/// A status, a range of them, or a text.
fn expect(draft: &mut Draft, text: &str) -> Result<(), Error> {
    let health = &mut draft.checks.health;
    if text.is_empty() || text.len() > LONGEST {
        return refuse!("the expected text must have 1 to {LONGEST} bytes");
    }
    let (low, high) = part(text, "-").unwrap_or((text, text));
    let range = (number(low, 599).unwrap_or(0), number(high, 599).unwrap_or(0));
    let meant = statuses(text).or(Stray::spoils(text).then_some((0, 0)));
    match meant {
        _ if range.0 >= 100 && range.0 <= range.1 => health.statuses = range,
        Some((0, _)) => {
            return refuse!(
                "`{}` is not a status in 100-599, nor a range of them such as 200-399, and cannot be a text of the body",
                Shown(text)
            );
        }
        Some((low, high)) => {
            let mut right = format!("{low}-{high}");
            right.truncate(if low == high { 3 } else { 7 });
            return refuse!("`{}` is not a status or one range of them; write {right}", Shown(text));
        }
        None => text.clone_into(&mut health.text),
    }
    needs_http(draft, "expect")
}

/// Such a key is of no use to a check by TCP.
fn needs_http(draft: &mut Draft, key: &'static str) -> Result<(), Error> {
    draft.checks.needs_http = Some((key, draft.value()));
    Ok(())
}

fn port(draft: &mut Draft, text: &str) -> Result<(), Error> {
    draft.checks.health.port = Some(address::port(text)?);
    Ok(())
}

fn on_all_down(draft: &mut Draft, text: &str) -> Result<(), Error> {
    draft.checks.health.reject = second_of(["keep", "reject"], text)?;
    Ok(())
}

/// The end of `health:`: what the values say together.
fn end(draft: &mut Draft) -> Result<(), Error> {
    let Checks { mut health, timeout, timeout_at, needs_http } = std::mem::take(&mut draft.checks);
    let interval = health.interval;
    health.timeout = timeout.unwrap_or(health.timeout.min(interval / 2));
    let (shown, most) = (Time(health.timeout), Time(interval));
    if health.timeout > interval || health.timeout == 0 {
        let why = format_args!("a timeout of {shown} is not in 1ms-{most}, the interval");
        return draft.too_late(timeout_at, Error::usage(why));
    }
    if let Some((key, at)) = needs_http.filter(|_| !health.http) {
        return draft.too_late(at, Error::usage(format_args!("`{key}` needs `type: http`")));
    }
    draft.frontend.health = Some(Box::new(health));
    Ok(())
}

/// A time as the config has it.
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // At most 3600000s, and 32 bits are divided faster.
        let ms = self.0 as u32;
        match ms % 1000 {
            0 if ms > 0 => write!(f, "{}s", ms / 1000),
            _ => write!(f, "{ms}ms"),
        }
    }
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
    use super::super::draft::Take;
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_nothing_that_breaks_the_request() {
        let host = |text: &str| host(&mut Draft::default(), text).map_err(|error| error.to_string());
        for text in
            ["example.com", "www.example.com:8080", "a", "192.0.2.1", "[fd00::1]:80", "[fd00::1]", "x_y-z.local"]
        {
            assert_eq!(host(text), Ok(()));
        }
        for (text, why) in [
            ("http://example.com/x", "is not a host name"),
            ("example.com/x", "is not a host name"),
            ("a b", "is not a host name"),
            ("", "is not a host name"),
            ("example..com", "is not a host name"),
            ("a\r\nX: y", "`a\\r\\nX: y`"),
            ("*.example.com", "is not a host name"),
            ("fd00::1", "is not a host name"),
            ("[fd00::x]:80", "is not a host name"),
            ("example.com:http", "is not a host name"),
            ("example.com:0", "is not a host name"),
            ("b\u{fc}ro.example", "xn--"),
            (&"a".repeat(257), "is not a host name"),
        ] {
            let said = host(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

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
        assert_eq!(taken(expect, "ready").unwrap().needs_http, Some(("expect", 0)));
        assert!(taken(on_all_down, "reject").unwrap().health.reject);
        let cases: [(Take, &str, &str); 15] = [
            (kind, "htps", "did you mean `http`?"),
            (kind, "https", "checks speak no TLS"),
            (interval, "2", "500ms or 2s"),
            (interval, "2m", "500ms or 2s"),
            (interval, "-2s", "500ms or 2s"),
            (interval, "99999999999999999999s", "500ms or 2s"),
            (fall, "0", "1-255"),
            (rise, "256", "1-255"),
            (path, "health", "slash"),
            (path, "/a b", "blanks"),
            (expect, "99", "100-599"),
            (expect, "400-200", "write 200-400"),
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
