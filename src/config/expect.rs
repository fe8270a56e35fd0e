//! What `expect:` must not be taken for a text of the body.

use super::character::Stray;
use crate::text::{has, number};

/// Whether a text is what other programs take for statuses: `2xx`, `200,204`, `200|302`, `>=200`, `!500`, `~ ^[23]`,
/// `status 200`, `200 OK`. As a text of the body it would take all backends out.
pub(super) fn is_meant_as_status(text: &str) -> bool {
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        return true;
    }
    let lower = text.to_ascii_lowercase();
    let rest = bare(&lower);
    let expression = has(rest, '^') || has(rest, '~') || has(rest, '\\') || has(rest, '[') && has(rest, '-');
    let (mut any, mut part) = (false, String::new());
    for c in rest.chars().chain([' ']) {
        if c.is_ascii_digit() || has("x*.", c) {
            part.push(c);
        } else if has(",;|/ -~^<>=!()[]{}?+$\\&:", c) || expression && c == 'd' || Stray::is(c) {
            if !part.is_empty() && !expression && wildcard(&part).is_none() {
                return false;
            }
            // Of those that look like others, digits.
            any |= matches!(c, '\u{ff10}'..='\u{ff19}') || part.bytes().any(|b| b.is_ascii_digit());
            part.clear();
        } else {
            return false;
        }
    }
    any
}

/// The text without the words around a status.
fn bare(text: &str) -> &str {
    let mut rest = text;
    for word in ["http/1.0 ", "http/1.1 ", "rstatus ", "status ", "status:", "status=", "code ", "http "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    for reason in [" ok", " created", " accepted", " no content", " found", " moved permanently"] {
        rest = rest.strip_suffix(reason).unwrap_or(rest);
    }
    rest
}

/// The lowest and the highest status of `204`, `2xx`, `2**`, `2..` or `2*`.
fn wildcard(part: &str) -> Option<(u64, u64)> {
    let digits = part.trim_end_matches(['x', '*', '.']);
    let (low, high) = match (digits.len(), part.len()) {
        (1, 2..=3) => (number(digits, 5)? * 100, number(digits, 5)? * 100 + 99),
        (3, 3) => (number(digits, 599)?, number(digits, 599)?),
        _ => return None,
    };
    (low >= 100).then_some((low, high))
}

/// The lowest and the highest status of a list such as `200,204` or `2xx, 301`; none for a condition.
pub(super) fn statuses(text: &str) -> Option<(u64, u64)> {
    let mut range = (u64::MAX, 0);
    let lower = text.to_ascii_lowercase();
    for part in bare(&lower).split([',', ' ', '|', ';', '/', '-', '(', ')', '[', ']']).filter(|part| !part.is_empty()) {
        let (low, high) = wildcard(part)?;
        range = (range.0.min(low), range.1.max(high));
    }
    Some(range).filter(|(low, high)| low <= high)
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
            assert!(is_meant_as_status(text), "{text}");
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
            assert!(!is_meant_as_status(text), "{text}");
        }
        assert_eq!(statuses("2xx"), Some((200, 299)));
        assert_eq!(statuses("200, 204|301"), Some((200, 301)));
        assert_eq!((statuses("!500"), statuses("200,9xx"), statuses("200 OK")), (None, None, Some((200, 200))));
        assert_eq!(statuses("[200,204]"), Some((200, 204)));
    }
}
