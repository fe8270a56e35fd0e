//! What an http check asks, and what its answer says of the backend. Pure.

use crate::net::Endpoint;
use crate::service::health::Health;
use crate::text::{holds, Cut};

/// How much of an answer is read, in bytes.
pub(super) const MOST_ANSWER: usize = 16 * 1024;

/// How much of the expected text a message repeats, in characters: with it, it fits into the file of the state.
pub(super) const MOST_TEXT: usize = 40;

/// The result of a check, the reason if it failed; `None` while it runs.
pub type Verdict = Option<Result<(), String>>;

/// Judges the beginning of an HTTP answer, or `all` of it.
pub(super) fn judge(answer: &[u8], all: bool, health: &Health) -> Verdict {
    // "HTTP/1.1 200 ": RFC 9112, section 4.
    const STATUS: usize = 12;
    let bad = |why: &str| Some(Err(why.to_owned()));
    let Some(line) = answer.get(..STATUS) else {
        return if all { bad("the answer is no HTTP") } else { None };
    };
    let status = match line {
        [b'H', b'T', b'T', b'P', b'/', _, b'.', _, b' ', a, b, c] if [a, b, c].iter().all(|b| b.is_ascii_digit()) => {
            [a, b, c].iter().fold(0, |status, digit| status * 10 + u64::from(**digit - b'0'))
        }
        _ => return bad("the answer is no HTTP"),
    };
    if status < health.statuses.0 || status > health.statuses.1 {
        return Some(Err(format!("status {status}")));
    }
    if health.text.is_empty() {
        return Some(Ok(()));
    }
    if body(answer).is_some_and(|body| holds(body, &health.text)) {
        return Some(Ok(()));
    }
    if all {
        let text = String::from_utf8_lossy(&health.text);
        Some(Err(format!("answered {status}, but the body lacks `{}`", Cut(&text, MOST_TEXT))))
    } else {
        None
    }
}

/// What an http check sends.
pub(super) fn request(health: &Health, to: Endpoint) -> String {
    let own = to.to_string();
    let host = if health.host.is_empty() { &own } else { &health.host };
    format!("GET {} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: paraglider\r\nConnection: close\r\n\r\n", health.path)
}

/// What follows the empty line after the headers. Some programs end lines with a bare LF (RFC 9112, section 2.2).
fn body(answer: &[u8]) -> Option<&[u8]> {
    let mut rest = answer;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        rest = rest.get(end + 1..)?;
        match rest {
            [b'\n', body @ ..] | [b'\r', b'\n', body @ ..] => return Some(body),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(answer: &str, all: bool, expect: &str) -> Verdict {
        let yaml =
            format!("{{bind: '10.0.0.1:1', backends: ['10.0.0.2:1'], health: {{type: http, expect: '{expect}'}}}}");
        let services = crate::config::parse(format!("frontend: {yaml}").as_bytes()).unwrap().services;
        judge(answer.as_bytes(), all, services[0].health.as_ref().unwrap())
    }

    #[test]
    fn a_check_asks_for_the_host_of_the_config_or_for_the_address() {
        let to = Endpoint::parse("[fd00::2]:8080").unwrap();
        let mut health = Health { path: "/x".into(), ..Health::default() };
        let asked = |health: &Health| request(health, to).split("\r\n").take(2).collect::<Vec<_>>().join("|");
        assert_eq!(asked(&health), "GET /x HTTP/1.0|Host: [fd00::2]:8080");
        health.host = "www.example.com:81".into();
        assert_eq!(asked(&health), "GET /x HTTP/1.0|Host: www.example.com:81");
        assert!(request(&health, to).ends_with("\r\n\r\n"));
    }

    #[test]
    fn an_answer_is_judged_as_soon_as_it_can_be() {
        let no = |why: &str| Some(Err(why.to_owned()));
        assert_eq!(judged("HTTP/1.1 200 OK\r\n", false, "200-399"), Some(Ok(())));
        assert_eq!(judged("HTTP/1.1 20", false, "200-399"), None);
        assert_eq!(judged("HTTP/1.1 20", true, "200-399"), no("the answer is no HTTP"));
        assert_eq!(judged("SSH-2.0-OpenSSH_9.2\r\n", false, "200-399"), no("the answer is no HTTP"));
        assert_eq!(judged("HTTP/1.0 500 Oh no\r\n", false, "200-399"), no("status 500"));
        assert_eq!(judged("HTTP/1.0 204 No Content\r\n", false, "204"), Some(Ok(())));
        assert_eq!(judged("HTTP/1.1 200 ready\r\n\r\nnot yet", false, "ready"), None);
        assert_eq!(
            judged("HTTP/1.1 200 ready\r\n\r\nnot yet", true, "ready"),
            no("answered 200, but the body lacks `ready`")
        );
        assert_eq!(
            judged("HTTP/1.1 302 Found\r\n\r\n", true, &"long ".repeat(20)),
            no("answered 302, but the body lacks `long long long long long long long long …`")
        );
        assert_eq!(judged("HTTP/1.1 200 OK\r\nx: y\r\n\r\nall is ready", false, "ready"), Some(Ok(())));
        assert_eq!(judged("HTTP/1.1 503 OK\r\n\r\nready", true, "ready"), no("status 503"));
        for head in [
            "HTTP/1.0 200 OK\n\n",
            "HTTP/1.0 200 OK\r\nx: y\n\r\n",
            "HTTP/1.0 200 OK\nx: y\r\n\n",
            "HTTP/1.0 200 OK\n\n\n",
        ] {
            assert_eq!(judged(&format!("{head}all is ready"), false, "ready"), Some(Ok(())), "{head:?}");
        }
        assert_eq!(judged("HTTP/1.0 200 OK\nx: ready\r", false, "ready"), None);
        assert_eq!(judged("", true, "200"), no("the answer is no HTTP"));
    }
}
