//! A number that changes with the rules, for one or two system calls, so that `watch` need not run iptables-save every few
//! seconds.

use super::names::Table;
use crate::net::Family;
use crate::sys::socket;
use crate::text::fnv1a;

/// Combines two stamps.
pub fn mix(one: u64, other: u64) -> u64 {
    fnv1a(&[one.to_ne_bytes(), other.to_ne_bytes()].concat())
}

/// A hash of ip_tables' tables without their counters.
pub fn legacy(family: Family) -> Option<u64> {
    let mut entries = Vec::new();
    for table in Table::ALL {
        read(family, table, &mut entries)?;
    }
    Some(fnv1a(&entries))
}

/// IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES (linux/netfilter_ipv4/ip_tables.h); the numbers are the same for IPv6.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;

/// Where ipt_get_entries has the size, and where its entries begin.
const SIZE: usize = 32;
const ENTRIES: usize = 40;

/// Appends the entries of a table.
fn read(family: Family, table: Table, to: &mut Vec<u8>) -> Option<()> {
    let mut info = vec![0; 84];
    name(&mut info, table);
    get(family, GET_INFO, &mut info)?;
    // ipt_getinfo ends with the size of all entries.
    let size = info.get(80..84)?;
    let mut entries = vec![0; ENTRIES + u32::from_ne_bytes(size.try_into().ok()?) as usize];
    name(&mut entries, table);
    entries.get_mut(SIZE..SIZE + 4)?.copy_from_slice(size);
    get(family, GET_ENTRIES, &mut entries)?;

    // In ipt_entry and ip6t_entry: the offset of the next one, and the two counters.
    let (next, counters) = if family == Family::V4 { (90, 96) } else { (142, 152) };
    let mut at = ENTRIES;
    while at < entries.len() {
        let entry = entries.get_mut(at..)?;
        entry.get_mut(counters..counters + 16)?.fill(0);
        let length = u16::from_ne_bytes(entry.get(next..next + 2)?.try_into().ok()?);
        at += usize::from(length.max(1));
    }
    to.append(&mut entries);
    Some(())
}

fn name(request: &mut [u8], table: Table) {
    for (to, from) in request.iter_mut().zip(table.name().bytes()) {
        *to = from;
    }
}

fn get(family: Family, what: libc::c_int, answer: &mut [u8]) -> Option<()> {
    let level = if family == Family::V4 { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 };
    let asked = socket::open(family.domain(), libc::SOCK_RAW, libc::IPPROTO_RAW).ok()?;
    socket::option(&asked, level, what, answer)
}
