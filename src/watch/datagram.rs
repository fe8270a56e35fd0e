//! What a check by UDP sends, and what the answer says of the backend. Pure.

use super::http::{Verdict, MOST_TEXT};
use crate::service::health::{Health, Kind};
use crate::text::{holds, Cut};

/// What the check of this number sends.
pub(super) fn question(health: &Health, number: u16) -> Vec<u8> {
    if health.kind != Kind::Dns {
        return health.send.clone();
    }
    let [high, low] = number.to_be_bytes();
    // RFC 1035, section 4.1: the identifier, RD, one question; the root, NS (2), IN (1).
    vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1]
}

/// Judges what came back to the check of this number; `None` if that is no answer to it.
pub(super) fn judge(answer: &[u8], number: u16, health: &Health) -> Verdict {
    if health.kind != Kind::Dns {
        if holds(answer, &health.text) {
            return Some(Ok(()));
        }
        let text = String::from_utf8_lossy(&health.text);
        return Some(Err(format!("the answer lacks `{}`", Cut(&text, MOST_TEXT))));
    }
    // A header has 12 bytes. Any answer is one, also REFUSED or SERVFAIL: the server lives, and clients are told.
    match answer {
        [high, low, flags, rest @ ..] if rest.len() >= 9 => match u16::from_be_bytes([*high, *low]) == number {
            // QR
            true if flags & 0x80 != 0 => Some(Ok(())),
            true => Some(Err("the answer is no DNS".to_owned())),
            // To an earlier check, from the same port.
            false => None,
        },
        _ => Some(Err("the answer is no DNS".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_asks_for_the_root_and_takes_its_own_answer_alone() {
        let health = Health { kind: Kind::Dns, ..Health::default() };
        let asked = question(&health, 0x1234);
        // As dig sends it: dig +noedns +noad . NS
        assert_eq!(asked, *b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01");
        let mut answer = asked.clone();
        assert_eq!(judge(&answer, 0x1234, &health), Some(Err("the answer is no DNS".into())), "an echo");
        // QR, and each of the codes from NOERROR to NOTZONE.
        answer[2] |= 0x80;
        for code in 0..=10 {
            answer[3] = code;
            assert_eq!(judge(&answer, 0x1234, &health), Some(Ok(())), "{code}");
        }
        assert_eq!(judge(&answer, 0x1235, &health), None, "late, to an earlier check");
        assert_eq!(judge(&answer[..12], 0x1234, &health), Some(Ok(())));
        for length in 0..12 {
            assert!(judge(&answer[..length], 0x1234, &health).is_some_and(|verdict| verdict.is_err()), "{length}");
        }
    }

    #[test]
    fn udp_sends_what_the_config_says_and_takes_what_it_expects() {
        let health =
            |text: &[u8]| Health { kind: Kind::Udp, send: vec![0, 255], text: text.to_vec(), ..Health::default() };
        assert_eq!(question(&health(b""), 7), [0, 255]);
        // Without `expect:`, anything; also nothing.
        assert_eq!((judge(b"x", 7, &health(b"")), judge(b"", 7, &health(b""))), (Some(Ok(())), Some(Ok(()))));
        assert_eq!(judge(b"all is well", 7, &health(b"well")), Some(Ok(())));
        assert_eq!(judge(b"all is wel", 7, &health(b"well")), Some(Err("the answer lacks `well`".into())));
        assert_eq!(judge(b"", 7, &health(b"\0\xff")), Some(Err("the answer lacks `\\u{0}\u{fffd}`".into())));
    }
}
