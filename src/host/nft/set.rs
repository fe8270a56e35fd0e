//! Sets and maps that rules look values up in.

use super::chain::Chain;
use crate::net::Family;
use crate::sys::netlink::{attribute, big, find, find_in, next, Netlink, ELEMENTS};
use crate::sys::nftables::{data, elements, INET};

/// How many bytes of a set are looked at: some thousand elements. Those with more are of clients (bans), and of no interest
/// here.
const MOST: usize = 512 * 1024;

/// An element.
#[derive(Clone, Copy)]
struct Element<'a> {
    key: &'a [u8],
    /// From here on nothing is in the set, until the next element begins an interval.
    ends: bool,
    /// What a map has for the key.
    data: &'a [u8],
}

/// What is known of one set.
#[derive(Debug)]
struct Set<'a> {
    /// A chain in its table.
    of: &'a Chain,
    name: &'a str,
    /// The elements, as the kernel has them.
    elements: Vec<u8>,
    /// All of them could be read.
    known: bool,
}

/// All sets that were looked at. Each is read once, when a value is looked up in it.
#[derive(Debug, Default)]
pub struct Sets<'a>(Vec<Set<'a>>);

impl<'a> Sets<'a> {
    /// Looks up in a set of the chain's table what begins with a key: what a map has for it (nothing, if it is a set), or
    /// `None` if it is not there. Fails if that cannot be told.
    pub(super) fn look_up(&mut self, chain: &'a Chain, name: &'a str, value: &[u8]) -> Result<Option<&[u8]>, ()> {
        let mut at = 0;
        while self.0.get(at).is_some_and(|set| set.name != name || !set.of.is_beside(chain)) {
            at += 1;
        }
        if at == self.0.len() {
            let mut set = Set { of: chain, name, elements: Vec::new(), known: false };
            set.read();
            self.0.push(set);
        }
        match self.0.get(at) {
            Some(set) if set.known => look_up(&set.elements, value),
            _ => Err(()),
        }
    }
}

fn look_up<'a>(mut elements: &'a [u8], value: &[u8]) -> Result<Option<&'a [u8]>, ()> {
    let (mut last, mut others, mut intervals): (Option<Element>, _, _) = (None, None, false);
    while let Some((_, element)) = next(&mut elements) {
        let flags = big(element, elements::FLAGS).unwrap_or(0);
        let data = find(element, elements::DATA).unwrap_or_default();
        let key = find_in(element, elements::KEY, data::VALUE).unwrap_or_default();
        let ends = flags & elements::INTERVAL_END != 0;
        if flags & elements::CATCH_ALL != 0 {
            others = Some(data);
            continue;
        }
        // A key of several values, of which only the first ones are known; or one whose values are intervals.
        let Some(value) = value.get(..key.len()) else { return Err(()) };
        if find_in(element, elements::KEY_END, data::VALUE).is_some_and(|end| end != key) {
            return Err(());
        }
        intervals |= ends;
        // The last one at or before the value. Where one interval ends, the next one may begin.
        if key <= value && last.is_none_or(|last| key > last.key || key == last.key && !ends) {
            last = Some(Element { key, ends, data });
        }
    }
    Ok(match last {
        Some(last) if !last.ends && (intervals || value.starts_with(last.key)) => Some(last.data),
        _ => others,
    })
}

impl Set<'_> {
    fn read(&mut self) {
        let mut which = Vec::new();
        attribute(&mut which, elements::TABLE, &[self.of.table.as_bytes(), &[0]].concat());
        attribute(&mut which, elements::SET, &[self.name.as_bytes(), &[0]].concat());
        let family = self.of.family.map_or(INET, Family::domain);
        let Ok(mut netlink) = Netlink::open() else { return };
        let listed = netlink.list_of(ELEMENTS, family, &which, &mut |message| {
            self.elements.extend_from_slice(find(message, elements::LIST).unwrap_or_default());
        });
        self.known = listed.is_ok() && self.elements.len() <= MOST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel has it; with its first byte as data. A key of nothing stands for all others.
    fn element(key: &[u8], ends: bool) -> Vec<u8> {
        let (mut inner, mut outer, mut all) = (Vec::new(), Vec::new(), Vec::new());
        let flags = if key.is_empty() { elements::CATCH_ALL } else { u32::from(ends) };
        attribute(&mut inner, data::VALUE, key);
        attribute(&mut outer, elements::KEY, &inner);
        attribute(&mut outer, elements::DATA, &[key.first().copied().unwrap_or(7)]);
        attribute(&mut outer, elements::FLAGS, &flags.to_be_bytes());
        attribute(&mut all, 1, &outer);
        all
    }

    #[test]
    fn values_are_found_alone_and_in_intervals() {
        let ports = [element(&[0, 80], false), element(&[1, 187], false)].concat();
        assert_eq!(look_up(&ports, &[1, 187]), Ok(Some(&[1][..])));
        assert_eq!(look_up(&ports, &[0, 81]), Ok(None));
        // 10-19 and 20-29, in any order.
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 2, 3, 0], [2, 1, 0, 3]] {
            let all = [(10, false), (20, true), (20, false), (30, true)];
            let intervals: Vec<u8> = order.iter().flat_map(|n| element(&[all[*n].0], all[*n].1)).collect();
            for (value, found) in [(9, false), (10, true), (19, true), (20, true), (29, true), (30, false), (99, false)]
            {
                assert_eq!(look_up(&intervals, &[value]).unwrap().is_some(), found, "{value} {order:?}");
            }
        }
        // Padded to a word, as in a register; and a key of which only the first value is known.
        assert_eq!(look_up(&ports, &[1, 187, 0, 0]), Ok(Some(&[1][..])));
        assert_eq!(look_up(&element(&[10, 9, 0, 1, 0, 80, 0, 0], false), &[10, 9, 0, 1]), Err(()));
        let others = [element(&[0, 80], false), element(&[], false)].concat();
        let found = (look_up(&others, &[0, 80]), look_up(&others, &[0, 81]));
        assert_eq!(found, (Ok(Some(&[0][..])), Ok(Some(&[7][..]))));
    }
}
