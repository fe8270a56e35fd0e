//! What the kernel has of our table.

use std::io;

use super::table::TABLE;
use crate::net::Family;
use crate::sys::netlink::{self, append, big, find, part, text_of, Netlink};
use crate::sys::nftables::{chain, elements, set, table, INET};

/// How often our table is read while others change theirs.
const TRIES: usize = 5;

/// Our table as lists of its things ([`part`]); all empty if there is none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The family of the table; none if there is no table.
    pub family: Option<libc::c_int>,
    /// The table is not as we make it: it has a flag, such as `dormant`, with which the kernel asks none of its chains; or there
    /// is one of the other family too.
    pub is_odd: bool,
    pub chains: Vec<u8>,
    pub rules: Vec<u8>,
    pub counters: Vec<u8>,
    pub maps: Vec<u8>,
    /// The elements of the maps.
    pub elements: Vec<u8>,
}

/// What a request is about: our table (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE and so on are all 1), and what it is
/// that has this name in it.
fn of_ours(kind: u16, name: &[u8]) -> Vec<u8> {
    let mut attributes = Vec::new();
    netlink::attribute(&mut attributes, table::NAME, &[TABLE.as_bytes(), &[0]].concat());
    if !name.is_empty() {
        netlink::attribute(&mut attributes, kind, name);
    }
    attributes
}

impl Seen {
    /// Reads the table. An error means that it may be there, unseen.
    pub fn read() -> io::Result<Self> {
        let mut netlink = match Netlink::open() {
            Ok(netlink) => netlink,
            // This kernel has no nf_tables.
            Err(error) if lacks_nftables(&error) => return Ok(Seen::default()),
            Err(error) => return Err(error),
        };
        let mut left = TRIES;
        loop {
            let before = netlink.generation();
            left -= 1;
            // Between the requests another program may change or remove what we read.
            match Self::once(&mut netlink) {
                Ok(seen) if left == 0 || before == netlink.generation() => return Ok(seen),
                Err(error) if left == 0 => return Err(error),
                _ => {}
            }
        }
    }

    fn once(netlink: &mut Netlink) -> io::Result<Self> {
        let mut seen = Seen::default();
        let ours = of_ours(0, &[]);
        for family in [INET, Family::V4.domain()] {
            match netlink.ask(netlink::TABLES, family, &ours) {
                Ok(known) => {
                    seen.is_odd |= seen.family.is_some() || big(&known, table::FLAGS).is_some_and(|flags| flags != 0);
                    seen.family = seen.family.or(Some(family));
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) || lacks_nftables(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let Some(family) = seen.family else { return Ok(seen) };
        // Older kernels list the chains of all tables.
        netlink.list_of(netlink::CHAINS, family, &ours, &mut |attributes| {
            if text_of(attributes, chain::TABLE) == Some(TABLE) {
                append(&mut seen.chains, attributes);
            }
        })?;
        for (list, of) in
            [(&mut seen.rules, netlink::RULES), (&mut seen.counters, netlink::OBJECTS), (&mut seen.maps, netlink::SETS)]
        {
            *list = netlink.collect(of, family, &ours)?;
        }
        let mut rest = seen.maps.as_slice();
        while let Some(map) = part(&mut rest) {
            let which = of_ours(elements::SET, find(map, set::NAME).unwrap_or_default());
            seen.elements.extend(netlink.collect(netlink::ELEMENTS, family, &which)?);
        }
        Ok(seen)
    }
}

/// Whether an error says that the kernel has no nf_tables, or not for this family.
fn lacks_nftables(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL))
}
