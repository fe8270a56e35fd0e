//! Matches and targets of iptables in rules of nf_tables, where iptables-nft has written them: the kernel hands out the name
//! and the very structure that iptables has filled in (linux/netfilter/xt_*.h).

use super::fate::{Fate, Match, TRACKING};
use crate::sys::netlink::{big, find, text_of};

/// NFTA_MATCH_NAME and NFTA_TARGET_NAME, then the revision and the structure.
const NAME: u16 = 1;
const REVISION: u16 = 2;
const INFO: u16 = 3;

/// Where struct xt_conntrack_mtinfo3 has what is to be looked at, and what is inverted; and the mask of states.
const FLAGS: usize = 146;
const INVERTED: usize = 148;
const STATES: usize = 150;

/// XT_CONNTRACK_STATE, XT_CONNTRACK_DIRECTION and XT_CONNTRACK_STATE_ALIAS.
const STATE: u16 = 1 << 0;
const DIRECTION: u16 = 1 << 12;
const ALIAS: u16 = 1 << 13;

/// XT_CONNTRACK_STATE_BIT(IP_CT_NEW) and XT_CONNTRACK_STATE_DNAT.
const NEW: u16 = 1 << 3;
const DNAT: u16 = 1 << 7;

/// The name of a match or target.
pub(super) fn name(data: &[u8]) -> &str {
    text_of(data, NAME).unwrap_or_default()
}

/// A number of two bytes, in the order of this host.
fn short(info: &[u8], at: usize) -> u16 {
    match info.get(at..) {
        Some([a, b, ..]) => u16::from_ne_bytes([*a, *b]),
        _ => 0,
    }
}

/// Whether the first packet of a balanced connection matches in a chain of this priority. `delivered`: it has its new destination there.
pub(super) fn matches(data: &[u8], priority: i32, delivered: bool) -> Match {
    let info = find(data, INFO).unwrap_or_default();
    match (name(data), big(data, REVISION)) {
        ("comment", _) => Match::Yes,
        ("conntrack", Some(2 | 3)) => {
            let (flags, inverted) = (short(info, FLAGS), short(info, INVERTED));
            let is = NEW | if delivered { DNAT } else { 0 };
            let state = (short(info, STATES) & is != 0) != (inverted & STATE != 0);
            // This is the original direction; inverted it is the other.
            let no = flags & STATE != 0 && priority > TRACKING && !state || flags & inverted & DIRECTION != 0;
            match flags & !(STATE | DIRECTION | ALIAS) {
                _ if no => Match::No,
                0 if flags != 0 && priority > TRACKING => Match::Yes,
                _ => Match::Unknown,
            }
        }
        _ => Match::Unknown,
    }
}

/// What a target does with what it gets, if it ends the way through a chain.
pub(super) fn target(data: &[u8]) -> Option<Fate> {
    let info = find(data, INFO).unwrap_or_default();
    match name(data) {
        "REJECT" => Some(Fate::Refused),
        "DNAT" | "REDIRECT" | "SNAT" | "MASQUERADE" | "NETMAP" => Some(Fate::Taken),
        // struct xt_ct_target_info: XT_CT_NOTRACK, and the zone.
        "CT" if short(info, 0) & 1 != 0 => Some(Fate::Untracked),
        "CT" if short(info, 2) != 0 => Some(Fate::Split),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netlink::attribute;

    /// A match or target as the kernel sends it.
    fn sent(name: &[u8], revision: u32, info: &[u8]) -> Vec<u8> {
        let mut data = Vec::new();
        attribute(&mut data, NAME, name);
        attribute(&mut data, REVISION, &revision.to_be_bytes());
        attribute(&mut data, INFO, info);
        data
    }

    fn conntrack(flags: u16, inverted: u16, states: u16) -> Vec<u8> {
        let mut info = [0; 168];
        for (at, number) in [(FLAGS, flags), (INVERTED, inverted), (STATES, states)] {
            info[at..at + 2].copy_from_slice(&number.to_ne_bytes());
        }
        sent(b"conntrack\0", 3, &info)
    }

    #[test]
    fn states_are_those_of_a_new_connection() {
        let forward = |data: &[u8]| matches(data, 0, true);
        let established = (1 << 1) | (1 << 2);
        for (flags, inverted, states, expected) in [
            (STATE, 0, established, Match::No),
            (STATE | ALIAS, 0, established, Match::No),
            (STATE, STATE, established, Match::Yes),
            (STATE, 0, established | NEW, Match::Yes),
            (STATE, 0, DNAT, Match::Yes),
            (STATE, STATE, DNAT, Match::No),
            (DIRECTION, 0, 0, Match::Yes),
            (DIRECTION, DIRECTION, 0, Match::No),
            // With a port of the original direction, say.
            (STATE | 1 << 11, 0, DNAT, Match::Unknown),
            (STATE | 1 << 11, 0, established, Match::No),
            (0, 0, 0, Match::Unknown),
        ] {
            assert_eq!(forward(&conntrack(flags, inverted, states)), expected, "{flags} {inverted} {states}");
        }
        // Before it has its new destination, and before it is tracked.
        assert_eq!(matches(&conntrack(STATE, 0, DNAT), 0, false), Match::No);
        assert_eq!(matches(&conntrack(STATE, 0, established), -300, true), Match::Unknown);
        // Another revision has another structure; a short one has nothing that matches.
        assert_eq!(forward(&sent(b"conntrack\0", 1, &[0; 168])), Match::Unknown);
        for length in 0..152 {
            assert_ne!(forward(&sent(b"conntrack\0", 3, &[0xff; 168][..length])), Match::Yes, "{length}");
        }
        assert_eq!(forward(&sent(b"comment\0", 0, &[])), Match::Yes);
        assert_eq!(forward(&sent(b"limit\0", 0, &[])), Match::Unknown);
    }

    #[test]
    fn targets_are_told_by_their_names() {
        for (name, info, expected) in [
            (&b"REJECT\0"[..], &[0; 4][..], Some(Fate::Refused)),
            (b"MASQUERADE\0", &[], Some(Fate::Taken)),
            (b"TCPMSS\0", &[0xff, 0xff], None),
            (b"CT\0", &[0xff, 0xff, 0, 0], Some(Fate::Untracked)),
            (b"CT\0", &[0, 0, 5, 5], Some(Fate::Split)),
            (b"CT\0", &[0, 0, 0, 0], None),
            (b"CT\0", &[0], None),
            (b"", &[], None),
        ] {
            assert_eq!(target(&sent(name, 0, info)), expected, "{name:?}");
        }
    }
}
