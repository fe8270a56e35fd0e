//! Sets and maps that rules look values up in.

use super::chain::{big, Chain, INET};
use crate::net::Family;
use crate::sys::netlink::{attribute, each, find, Netlink, ELEMENTS};

/// Of linux/netfilter/nf_tables.h.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const DATA_VALUE: u16 = 1;
const INTERVAL_END: u32 = 1;
const CATCHALL: u32 = 2;

/// How many elements of a set are looked at. Those with more are of clients (bans), and of no interest here.
const MOST: usize = 10_000;

/// An element.
#[derive(Debug)]
struct Element {
    /// None: it stands for all that no other one has.
    key: Option<Vec<u8>>,
    /// From here on nothing is in the set, until the next element begins an interval.
    ends: bool,
    /// What a map has for the key.
    data: Vec<u8>,
}

/// What is known of one set.
#[derive(Debug)]
struct Set {
    family: Option<Family>,
    table: String,
    name: String,
    /// None if it could not be read.
    elements: Option<Vec<Element>>,
}

/// All sets that were looked at. Each is read once, when a value is looked up in it.
#[derive(Debug, Default)]
pub struct Sets(Vec<Set>);

impl Sets {
    /// Looks up a value in a set of the chain's table: what a map has for it (nothing, if it is a set), or `None` if it is
    /// not there. Fails if that cannot be told.
    pub(super) fn look_up(&mut self, chain: &Chain, name: &str, value: &[u8]) -> Result<Option<Vec<u8>>, ()> {
        let known = |set: &Set| set.family == chain.family && set.table == chain.table && set.name == name;
        if !self.0.iter().any(known) {
            let elements = read(chain, name);
            self.0.push(Set { family: chain.family, table: chain.table.clone(), name: name.to_owned(), elements });
        }
        let elements = self.0.iter().find(|set| known(set)).and_then(|set| set.elements.as_ref()).ok_or(())?;
        look_up(elements, value)
    }
}

fn look_up(elements: &[Element], value: &[u8]) -> Result<Option<Vec<u8>>, ()> {
    let intervals = elements.iter().any(|element| element.ends);
    let (mut last, mut others): (Option<&Element>, Option<&Element>) = (None, None);
    for element in elements {
        let Some(key) = &element.key else {
            others = Some(element);
            continue;
        };
        // A key of several values, of which only the last one is known.
        if key.len() != value.len() {
            return Err(());
        }
        let key = key.as_slice();
        let later = last.and_then(|last| last.key.as_deref()).is_none_or(|last| key >= last);
        // Where one interval ends, the next one may begin.
        let same_end = element.ends && last.is_some_and(|last| last.key.as_deref() == Some(key));
        if key == value && !intervals || intervals && key <= value && later && !same_end {
            last = Some(element);
        }
    }
    Ok(last.filter(|last| !last.ends).or(others).map(|found| found.data.clone()))
}

fn read(chain: &Chain, name: &str) -> Option<Vec<Element>> {
    let mut which = Vec::new();
    for (kind, text) in [(LIST_TABLE, chain.table.as_str()), (LIST_SET, name)] {
        attribute(&mut which, kind, &[text.as_bytes(), &[0]].concat());
    }
    let family = chain.family.map_or(INET, Family::domain);
    let mut elements = Vec::new();
    let listed = Netlink::open().ok()?.list_of(ELEMENTS, family, &which, &mut |message| {
        each(find(message, LIST_ELEMENTS).unwrap_or_default(), &mut |_, element| {
            if elements.len() <= MOST {
                let flags = big(element, ELEMENT_FLAGS).unwrap_or(0);
                let key = find(element, ELEMENT_KEY).and_then(|key| find(key, DATA_VALUE)).map(<[u8]>::to_vec);
                let key = key.filter(|_| flags & CATCHALL == 0);
                let data = find(element, ELEMENT_DATA).unwrap_or_default().to_vec();
                elements.push(Element { key, ends: flags & INTERVAL_END != 0, data });
            }
        });
    });
    (listed.is_ok() && elements.len() <= MOST).then_some(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(key: &[u8], ends: bool) -> Element {
        Element { key: Some(key.to_vec()), ends, data: vec![key[0]] }
    }

    #[test]
    fn values_are_found_alone_and_in_intervals() {
        let ports = [element(&[0, 80], false), element(&[1, 187], false)];
        assert_eq!(look_up(&ports, &[1, 187]), Ok(Some(vec![1])));
        assert_eq!(look_up(&ports, &[0, 81]), Ok(None));
        // 10-19 and 20-29, in any order.
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 2, 3, 0], [2, 1, 0, 3]] {
            let all = [(10, false), (20, true), (20, false), (30, true)];
            let intervals: Vec<Element> = order.iter().map(|n| element(&[all[*n].0], all[*n].1)).collect();
            for (value, found) in [(9, false), (10, true), (19, true), (20, true), (29, true), (30, false), (99, false)]
            {
                assert_eq!(look_up(&intervals, &[value]).unwrap().is_some(), found, "{value} {order:?}");
            }
        }
        assert_eq!(look_up(&ports, &[10, 8, 0, 11]), Err(()));
        let others = [element(&[0, 80], false), Element { key: None, ends: false, data: vec![7] }];
        assert_eq!((look_up(&others, &[0, 80]), look_up(&others, &[0, 81])), (Ok(Some(vec![0])), Ok(Some(vec![7]))));
    }
}
