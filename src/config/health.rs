//! The keys of `health:`, each with the function that takes its value.

use std::fmt;
use std::net::Ipv6Addr;

use super::address;
use super::draft::{Checks, Draft};
use super::expect::{expected, payload, Expected, EXPECTED, LONGEST};
use super::node::{Key, Node};
use super::words;
use crate::error::{refuse, Error};
use crate::net::port_number;
use crate::service::health::{Health, Kind};
use crate::text::{find, is_word, number, one_of, Shown};

/// Shortest and longest interval, in milliseconds.
const INTERVALS: (u64, u64) = (100, 3_600_000);

/// The message about a check by UDP that says nothing.
const NOTHING_SENT: &str =
    "`type: udp` needs `send:`, since a service that is asked nothing says nothing; write what it \
                            answers to, as in `send: \"ping\"` or `send: \"hex:00 01 ff\"`; for DNS write `type: dns`";

const TIME: &str = "a time such as 500ms or 2s";

const CHECKS: &str = "a number of checks in 1-255";

/// `health:` of a frontend.
pub(super) const HEALTH: Node = Node::mapping(
    "a mapping such as `{type: http, path: /health}`, or `{}` for TCP checks",
    &[
        Key("type", Node::text("`tcp`, `http`, `udp` or `dns`", kind)),
        Key("interval", Node::text(TIME, interval)),
        Key("timeout", Node::text(TIME, timeout)),
        Key("fall", Node::text(CHECKS, fall)),
        Key("rise", Node::text(CHECKS, rise)),
        Key("path", Node::text("a path such as /health", path)),
        Key("host", Node::text("a name such as www.example.com", host)),
        Key("send", Node::text("a text, or bytes such as \"hex:00 01 ff\"", send)),
        Key("expect", Node::text("one status, one range of them such as 200-399, or a text of the body", expect)),
        Key("port", Node::text("a port", port)),
        Key("on_all_down", Node::text("`keep` or `reject`", on_all_down)),
    ],
    end,
)
.at("under `health:`", &words::HEALTH_KEYS);

fn kind(draft: &mut Draft, text: &str) -> Result<(), Error> {
    words::refuse_any(&words::CHECKS, "unknown value", text)?;
    draft.checks.health.kind = Kind::parse(text)?;
    draft.checks.kind_at = draft.value();
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
    special(draft, "path")
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
    special(draft, "host")
}

/// What a check by UDP sends.
fn send(draft: &mut Draft, text: &str) -> Result<(), Error> {
    draft.checks.health.send = payload("the text to send", text)?;
    special(draft, "send")
}

fn expect(draft: &mut Draft, text: &str) -> Result<(), Error> {
    text.clone_into(&mut draft.checks.expect);
    special(draft, "expect")
}

/// Such a key is of no use to all kinds of checks.
fn special(draft: &mut Draft, key: &'static str) -> Result<(), Error> {
    let at = draft.value();
    draft.checks.special.push((key, at));
    Ok(())
}

/// A key that not all kinds of checks have, at the end, when the kind is known.
fn meant(key: &str, health: &mut Health, text: &str) -> Result<(), Error> {
    match (key, health.kind) {
        ("expect", Kind::Http) => match expected(text)? {
            Expected::Statuses(low, high) => health.statuses = (low.into(), high.into()),
            Expected::Text(text) => health.text = text,
        },
        ("expect", Kind::Udp) => health.text = payload(EXPECTED, text)?,
        ("expect", _) => return refuse!("`expect` needs `type: http` or `udp`"),
        ("send", Kind::Udp) | ("path" | "host", Kind::Http) => {}
        ("send", _) => return refuse!("`send` needs `type: udp`"),
        _ => return refuse!("`{key}` needs `type: http`"),
    }
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
    let Checks { mut health, timeout, timeout_at, kind_at, expect, special } = std::mem::take(&mut draft.checks);
    let interval = health.interval;
    health.timeout = timeout.unwrap_or(health.timeout.min(interval / 2));
    let (shown, most) = (Time(health.timeout), Time(interval));
    if health.timeout > interval || health.timeout == 0 {
        let why = format_args!("a timeout of {shown} is not in 1ms-{most}, the interval");
        return draft.too_late(timeout_at, Error::usage(why));
    }
    for (key, at) in special {
        if let Err(error) = meant(key, &mut health, &expect) {
            return draft.too_late(at, error);
        }
    }
    if health.kind == Kind::Udp && health.send.is_empty() {
        return draft.too_late(kind_at, Error::usage(format_args!("{NOTHING_SENT}")));
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
    fn a_key_is_for_the_checks_that_know_what_to_do_with_it() {
        let judged = |key: &str, kind, text: &str| {
            let mut health = Health { kind, ..Health::default() };
            meant(key, &mut health, text).map(|()| (health.statuses, health.text)).map_err(|error| error.to_string())
        };
        assert_eq!(judged("expect", Kind::Http, "200"), Ok(((200, 200), Vec::new())));
        assert_eq!(judged("expect", Kind::Http, "hex:00"), Ok(((200, 399), b"hex:00".to_vec())));
        assert_eq!(judged("expect", Kind::Udp, "200"), Ok(((200, 399), b"200".to_vec())));
        assert_eq!(judged("expect", Kind::Udp, "hex:00 20"), Ok(((200, 399), vec![0, 32])));
        for (key, good) in [
            ("path", &[Kind::Http][..]),
            ("host", &[Kind::Http]),
            ("send", &[Kind::Udp]),
            ("expect", &[Kind::Http, Kind::Udp]),
        ] {
            for (_, kind) in Kind::ALL {
                let said = judged(key, kind, "x");
                assert_eq!(said.is_ok(), good.contains(&kind), "{key} {kind:?}: {said:?}");
                assert!(said.is_ok() || said.unwrap_err().starts_with(&format!("`{key}` needs `type: ")));
            }
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
        assert_eq!(taken(expect, "ready").unwrap().special, [("expect", 0)]);
        assert_eq!(taken(kind, "dns").unwrap().health.kind, Kind::Dns);
        assert_eq!(taken(send, "hex:00ff").unwrap().health.send, [0, 255]);
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
            (kind, "ntp", "write `udp`"),
            (send, "hex:0", "two digits"),
            (send, "", "1 to 256"),
            (port, "0", "1-65535"),
            (on_all_down, "drop", "allowed: keep, reject"),
        ];
        for (take, text, why) in cases {
            let said = taken(take, text).map(|_| ()).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
