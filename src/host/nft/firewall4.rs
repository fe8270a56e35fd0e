//! firewall4 of OpenWrt. Its chain `forward` rejects what no rule of its own accepts, and an accept in another table cannot
//! overrule that. Our package adds a jump to a chain which accepts balanced connections whose bind is in one of two sets
//! (openwrt/files). The sets are filled here: `fw4 reload` keeps what is in them, `fw4 restart` makes them anew.

use std::io;
use std::net::IpAddr;

use super::chain::{Base, Chain, Hook};
use crate::error::{fail, Error};
use crate::net::{Family, Octets};
use crate::service::Bind;
use crate::sys::batch::{Batch, Refusal, Verb};
use crate::sys::file;
use crate::sys::netlink::{self, attribute, find, find_in, next, text_of, Netlink};
use crate::sys::nftables::{data, elements, expression, rule, ELEMENT, INET};

/// Its table and its chain.
const TABLE: &str = "fw4";
const CHAIN: &str = "forward";

/// The chain that our package adds.
const OURS: &str = "forward_paraglider";

/// The file with the rule that leads there.
const RULE: &str = "/usr/share/nftables.d/chain-pre/forward/60-paraglider.nft";

/// NFTA_IMMEDIATE_DATA.
const IMMEDIATE: u16 = 2;

/// How often a change is tried while firewall4 is loaded anew.
const TRIES: usize = 5;

/// The set with the binds of a family.
fn set(family: Family) -> &'static str {
    match family {
        Family::V4 => "paraglider",
        Family::V6 => "paraglider6",
    }
}

/// As the kernel has it in the set: the address, and the port, padded to four bytes.
fn key(ip: &IpAddr, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    [Octets::of(ip).as_slice(), &[high, low, 0, 0]].concat()
}

/// An element: the keys of its first port and of its last one.
type Element = (Vec<u8>, Vec<u8>);

/// The elements for the binds of a family.
fn wanted(binds: &[Bind], family: Family) -> Vec<Element> {
    let mut all: Vec<Element> = Vec::new();
    for bind in binds.iter().filter(|bind| bind.at.family() == family) {
        for (first, last) in bind.ports.ranges() {
            let ip = bind.at.address();
            let one = (key(ip, *first), key(ip, *last));
            // TCP and UDP have it in common.
            if !all.contains(&one) {
                all.push(one);
            }
        }
    }
    all
}

/// Two names that a request is about: its table, and what is in it.
fn which(kinds: [u16; 2], name: &str) -> Vec<u8> {
    let mut which = Vec::new();
    for (kind, name) in kinds.into_iter().zip([TABLE, name]) {
        attribute(&mut which, kind, &[name.as_bytes(), &[0]].concat());
    }
    which
}

/// What is in the set of a family; `None` if there is no such set.
fn read(netlink: &mut Netlink, family: Family) -> io::Result<Option<Vec<Element>>> {
    let mut keys = Vec::new();
    let which = which([elements::TABLE, elements::SET], set(family));
    let listed = netlink.list_of(netlink::ELEMENTS, INET, &which, &mut |message| {
        let mut list = find(message, elements::LIST).unwrap_or_default();
        while let Some((_, element)) = next(&mut list) {
            let key = find_in(element, elements::KEY, data::VALUE).unwrap_or_default().to_vec();
            let end = find_in(element, elements::KEY_END, data::VALUE).map_or_else(|| key.clone(), <[u8]>::to_vec);
            keys.push((key, end));
        }
    });
    match listed {
        Ok(()) => Ok(Some(keys)),
        // ENOENT, or a kernel without nf_tables.
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL | libc::EPROTONOSUPPORT) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Whether firewall4's rule finds all of these binds; also where there is no such rule.
pub fn has(binds: &[Bind]) -> bool {
    let Ok(mut netlink) = Netlink::open() else { return true };
    for family in Family::ALL {
        if let Ok(Some(keys)) = read(&mut netlink, family) {
            if wanted(binds, family).iter().any(|one| !keys.contains(one)) {
                return false;
            }
        }
    }
    true
}

/// Lets connections to these binds through firewall4, in one transaction; with `only` no others. Tells whether anything had
/// to be written. Where firewall4 has no rule of ours nothing is done.
pub fn let_through(binds: &[Bind], only: bool) -> Result<bool, Error> {
    let mut tries = 1;
    loop {
        match fill(binds, only) {
            Ok(written) => return Ok(written),
            // It has been made anew, or is being, since it was read.
            Err(why) if why.number == libc::ENOENT && tries < TRIES => tries += 1,
            Err(why) if why.number == libc::ENOENT => return Ok(false),
            Err(why) => return fail!("cannot let balanced connections through firewall4: {why}"),
        }
    }
}

fn fill(binds: &[Bind], only: bool) -> Result<bool, Refusal> {
    let Ok(mut netlink) = Netlink::open() else { return Ok(false) };
    let mut batch = Batch::of(INET, TABLE);
    for family in Family::ALL {
        let Some(there) = read(&mut netlink, family)? else { continue };
        let mut wanted = wanted(binds, family);
        if only && there.iter().any(|one| !wanted.contains(one)) {
            batch.begin(Verb::DeleteElements);
            batch.text(elements::SET, set(family));
        } else {
            wanted.retain(|one| !there.contains(one));
        }
        if !wanted.is_empty() {
            add(&mut batch, family, &wanted);
        }
    }
    let differs = !batch.is_empty();
    batch.send().map(|()| differs)
}

/// Adds elements to the set of a family.
fn add(batch: &mut Batch, family: Family, all: &[Element]) {
    batch.begin(Verb::NewElements);
    batch.text(elements::SET, set(family));
    let list = batch.open(elements::LIST);
    for (key, end) in all {
        let element = batch.open(ELEMENT);
        for (kind, value) in [(elements::KEY, key), (elements::KEY_END, end)] {
            let outer = batch.open(kind);
            batch.bytes(data::VALUE, value);
            batch.close(outer);
        }
        batch.close(element);
    }
    batch.close(list);
}

/// Whether firewall4 is in force without our rule. (The sets, and the chain, outlive a reload that has not read it.)
pub fn lacks_rule() -> bool {
    let Ok(mut netlink) = Netlink::open() else { return false };
    let (mut rules, mut ours) = (false, false);
    let which = which([rule::TABLE, rule::CHAIN], CHAIN);
    let listed = netlink.list_of(netlink::RULES, INET, &which, &mut |one| {
        rules = true;
        let mut rest = find(one, rule::EXPRESSIONS).unwrap_or_default();
        while let Some((name, content)) = expression(&mut rest) {
            let verdict = find_in(content, IMMEDIATE, data::VERDICT).unwrap_or_default();
            ours |= name == "immediate" && text_of(verdict, data::CHAIN) == Some(OURS);
        }
    });
    listed.is_ok() && rules && !ours
}

impl Chain {
    /// Whether it is the one of firewall4 in which forwarded packets need our rule.
    pub fn is_firewall4(&self, base: Base) -> bool {
        self.table == TABLE && self.family.is_none() && base.hook == Hook::Forward
    }
}

/// Why firewall4 has no rule of ours, and what to do.
pub fn remedy() -> &'static str {
    if !file::exists(RULE) {
        "the rule that lets them through is in Paraglider's package, which is not installed; install it"
    } else if is_without_includes(&file::read("/etc/config/firewall")) {
        "firewall4 does not read the rule of Paraglider's package, since auto_includes is off; \
         uci set 'firewall.@defaults[0].auto_includes=1' && uci commit firewall && service firewall reload"
    } else {
        "firewall4 has not read the rule of Paraglider's package; service firewall reload"
    }
}

/// Whether the config of firewall4 says that files of packages are not read (`parse_bool` in its fw4.uc).
fn is_without_includes(config: &str) -> bool {
    option(config, "auto_includes").is_some_and(|value| ["0", "off", "false", "no"].contains(&value))
}

/// The value of the first option of this name in a config of OpenWrt (UCI), without its quotes.
pub fn option<'a>(config: &'a str, name: &str) -> Option<&'a str> {
    let quotes = ['\'', '"'];
    for line in config.lines() {
        let mut words = line.split_ascii_whitespace();
        if let (Some("option"), Some(known), Some(value)) = (words.next(), words.next(), words.next()) {
            if known.trim_matches(quotes) == name {
                return Some(value.trim_matches(quotes));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Endpoint;

    #[test]
    fn an_element_is_the_address_and_the_padded_port() {
        let key = |bind| {
            let bind = Endpoint::parse(bind).unwrap();
            key(bind.address(), bind.port())
        };
        assert_eq!(key("10.9.0.1:4444"), [10, 9, 0, 1, 17, 92, 0, 0]);
        let six = key("[fd09::1]:80");
        assert_eq!((six.len(), &six[..2], &six[15..]), (20, &[0xfd, 9][..], &[1, 0, 80, 0, 0][..]));
    }

    #[test]
    fn only_a_false_auto_includes_keeps_the_rule_out() {
        for (config, is_off) in [
            ("", false),
            ("config defaults\n\toption input 'REJECT'\n", false),
            ("config defaults\n\toption auto_includes '0'\n", true),
            ("config defaults\n\toption auto_includes \"off\"\n", true),
            ("config defaults\n\toption 'auto_includes' 1\n", false),
        ] {
            assert_eq!(is_without_includes(config), is_off, "{config}");
        }
    }
}
