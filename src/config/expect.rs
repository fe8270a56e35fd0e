//! What `expect:` must not be taken for a text of the body.

use super::character::Stray;
use crate::text::{has, number, until};

/// What other programs take for statuses: `2xx`, `200,204`, `200|302`, `>=200`, `!500`, `~ ^[23]`, `status 200`, `200 OK`.
/// As a text of the body it would take all backends out. None for a text; else the lowest and the highest status, or zeros
/// for a condition.
pub(super) fn statuses(text: &str) -> Option<(u32, u32)> {
    let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let expression = has(text, '^') || has(text, '~') || has(text, '\\') || has(text, '[') && has(text, '-');
    let (mut any, mut known, mut part, mut range) = (digits, true, String::new(), (u32::MAX, 0));
    for c in bare(text).chars() {
        if c.is_ascii_digit() || has("x*.", c) {
            any |= c.is_ascii_digit();
            part.push(c);
            continue;
        }
        match wildcard(&part) {
            _ if part.is_empty() => {}
            Some((low, high)) => range = (range.0.min(low), range.1.max(high)),
            None if expression || digits => known = false,
            None => return None,
        }
        part.clear();
        if has(", |;/-()[]", c) {
            continue;
        }
        known = false;
        // Of those that look like others, digits.
        any |= matches!(c, '\u{ff10}'..='\u{ff19}');
        if !(has("~^<>=!{}?+$\\&:", c) || Stray::is(c) || expression && c == 'd') {
            return None;
        }
    }
    any.then_some(if known && range.1 > 0 { range } else { (0, 0) })
}

/// The text without the words around a status, and with a blank behind it.
fn bare(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut rest = lower.as_str();
    for word in &["http/1.0 ", "http/1.1 ", "rstatus ", "status ", "status:", "status=", "code ", "http "] {
        rest = rest.strip_prefix(*word).unwrap_or(rest);
    }
    for reason in &[" ok", " created", " accepted", " no content", " found", " moved permanently"] {
        rest = rest.strip_suffix(*reason).unwrap_or(rest);
    }
    format!("{rest} ")
}

/// The lowest and the highest status of `204`, `2xx`, `2**`, `2..` or `2*`.
fn wildcard(part: &str) -> Option<(u32, u32)> {
    let digits = until(part, "x*.");
    let first = number(digits, 599)? as u32;
    let (low, high) = match (digits.len(), part.len()) {
        (1, 2..=3) => (first * 100, first * 100 + 99),
        (3, 3) => (first, first),
        _ => return None,
    };
    (low >= 100 && high <= 599).then_some((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_statuses_is_no_text() {
        for text in [
            "2xx",
            "2XX",
            "2**",
            "2..",
            "2*",
            "200,204",
            "200, 302",
            "200|302",
            "200 204",
            ">=200",
            "!500",
            "~ ^2",
            "^[23]",
            "~ ^[23][0-9][0-9]$",
            "2\\d\\d",
            "status 200",
            "rstatus ^2",
            "HTTP/1.1 200 OK",
            "200 OK",
            "[200,204]",
            "1xx-3xx",
            "200 - 299",
            "99",
            "1234",
            "200-",
            "200\u{2013}299",
            "\u{ff12}\u{ff10}\u{ff10}",
            "(200|301)",
        ] {
            assert!(statuses(text).is_some(), "{text}");
        }
        for text in [
            "ready",
            "all is well",
            "1.2.3",
            "127.0.0.1",
            "2 of 3 nodes",
            "v2",
            "{}",
            "[]",
            "{\"status\":\"ok\"}",
            "status: ok",
            "200 items",
            "a 200",
            "\u{4e2d}\u{6587} 200",
            "200\u{20ac}",
            "6xx",
            "601,602",
            "x",
            "...",
            "build 200",
        ] {
            assert!(statuses(text).is_none(), "{text}");
        }
        assert_eq!(statuses("2xx"), Some((200, 299)));
        assert_eq!(statuses("200, 204|301"), Some((200, 301)));
        assert_eq!((statuses("!500"), statuses("200,9xx"), statuses("200 OK")), (Some((0, 0)), None, Some((200, 200))));
        assert_eq!(statuses("[200,204]"), Some((200, 204)));
    }
}
