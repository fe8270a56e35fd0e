//! What `expect:` and `send:` say: statuses, a text, or bytes; and what must not be taken for a text of the body.

use super::character::Stray;
use crate::error::{refuse, Error};
use crate::text::{has, number, part, until, Shown};

/// Longest path or text, in bytes.
pub(super) const LONGEST: usize = 256;

/// What `expect:` has, in messages.
pub(super) const EXPECTED: &str = "the expected text";

/// What an http check expects.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// A status from the first to the second one.
    Statuses(u16, u16),
    /// A text of the body.
    Text(Vec<u8>),
}

/// A status, a range of them, or a text.
pub(super) fn expected(text: &str) -> Result<Expected, Error> {
    sized(EXPECTED, text.len())?;
    let (low, high) = part(text, "-").unwrap_or((text, text));
    let (from, to) = (number(low, 599).unwrap_or(0), number(high, 599).unwrap_or(0));
    match statuses(text).or(Stray::spoils(text).then_some((0, 0))) {
        _ if from >= 100 && from <= to => Ok(Expected::Statuses(from as u16, to as u16)),
        Some((0, _)) => refuse!(
            "`{}` is not a status in 100-599, nor a range of them such as 200-399, and cannot be a text of the body",
            Shown(text)
        ),
        Some((low, high)) => {
            let mut right = format!("{low}-{high}");
            right.truncate(if low == high { 3 } else { 7 });
            refuse!("`{}` is not a status or one range of them; write {right}", Shown(text))
        }
        None => Ok(Expected::Text(text.as_bytes().to_vec())),
    }
}

/// The content of a datagram: a text as it is, or bytes as `hex:00 01 ff`.
pub(super) fn payload(what: &str, text: &str) -> Result<Vec<u8>, Error> {
    const HEX: &str = "write two digits for each byte, as in \"hex:00 01 ff\"";
    let Some(digits) = text.strip_prefix("hex:") else {
        sized(what, text.len())?;
        let mut before = ' ';
        for c in text.chars() {
            // A backslash that is still there is none of YAML's.
            if before == '\\' && has("nrtx0", c) {
                return refuse!(
                    "`{}`: `\\{c}` is no escape here but two characters; write the text in double quotes, or \
                     \"hex:5c ...\" if it is meant",
                    Shown(text)
                );
            }
            before = c;
        }
        if text.starts_with("0x") {
            return refuse!("`{}`: bytes begin with `hex:`; {HEX}", Shown(text));
        }
        return Ok(text.as_bytes().to_vec());
    };
    let (mut bytes, mut high) = (Vec::new(), None);
    for b in digits.bytes() {
        let digit = match b {
            b'0'..=b'9' => b - b'0',
            b'a'..=b'f' => b - b'a' + 10,
            b'A'..=b'F' => b - b'A' + 10,
            b' ' if high.is_none() => continue,
            _ => return refuse!("`{}` is not bytes in hex; {HEX}", Shown(text)),
        };
        match high.take() {
            Some(high) => bytes.push(high << 4 | digit),
            None => high = Some(digit),
        }
    }
    if high.is_some() {
        return refuse!("`{}` is not bytes in hex; {HEX}", Shown(text));
    }
    sized(what, bytes.len())?;
    Ok(bytes)
}

fn sized(what: &str, bytes: usize) -> Result<(), Error> {
    match bytes {
        1..=LONGEST => Ok(()),
        _ => refuse!("{what} must have 1 to {LONGEST} bytes"),
    }
}

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
    fn bytes_are_a_text_or_digits() {
        let payload = |text: &str| payload("it", text).map_err(|error| error.to_string());
        assert_eq!(payload("hex:00 01 fF"), Ok(vec![0, 1, 255]));
        assert_eq!(payload("hex:0001ff "), Ok(vec![0, 1, 255]));
        assert_eq!(payload(&format!("hex:{}", "ab ".repeat(256))), Ok(vec![0xab; 256]));
        assert_eq!(payload("\u{0}ping\r\n\u{e9}"), Ok(b"\0ping\r\n\xc3\xa9".to_vec()));
        assert_eq!(payload("a\\b"), Ok(b"a\\b".to_vec()));
        for (text, why) in [
            ("", "1 to 256"),
            ("hex:", "1 to 256"),
            (&"a".repeat(257), "1 to 256"),
            (&format!("hex:{}", "ab".repeat(257)), "1 to 256"),
            ("hex:0", "is not bytes in hex; write two digits"),
            ("hex:0 1", "is not bytes in hex"),
            ("hex:0x00", "is not bytes in hex"),
            ("hex:gg", "is not bytes in hex"),
            ("0x00ff", "begin with `hex:`"),
            ("ping\\n", "in double quotes"),
            ("\\x00", "in double quotes"),
        ] {
            let said = payload(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn an_http_check_expects_statuses_or_a_text() {
        let expected = |text: &str| expected(text).map_err(|error| error.to_string());
        assert_eq!(expected("200"), Ok(Expected::Statuses(200, 200)));
        assert_eq!(expected("ready, 200-399"), Ok(Expected::Text(b"ready, 200-399".to_vec())));
        for (text, why) in
            [("99", "100-599"), ("400-200", "write 200-400"), ("", "1 to 256"), (&"a".repeat(257), "256")]
        {
            let said = expected(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

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
