//! The address of an interface, for a bind that follows it.

use std::net::IpAddr;

use crate::error::{fail, plain, Error};
use crate::host::interface;
use crate::host::route::{self, Address, Routes};
use crate::net::Family;
use crate::sys::process::{self, End};
use crate::text::{part, split, Shown};

/// The address of an interface, which is one of the kernel's, or of OpenWrt's network config; or why there is none yet. An
/// error: it cannot be told now.
pub fn address(name: &str, family: Family) -> Result<Result<IpAddr, String>, Error> {
    let logical = logical(name)?;
    let device = match &logical {
        Some(Some(device)) => device.as_str(),
        Some(None) => return Ok(Err(format!("the interface {name} is down"))),
        None => name,
    };
    let mut own = match Routes::open().and_then(|mut routes| routes.addresses(family)) {
        Ok(found) => found,
        Err(error) => return fail!("the kernel does not tell the {family} addresses of {name} ({})", plain(&error)),
    };
    own.retain(|address| address.interface.name() == device);
    Ok(match choose(&own, family) {
        Some(ip) => Ok(ip),
        None if !interface::names().iter().any(|known| known == device) => {
            Err(format!("there is no interface {} (yet)", Shown(device)))
        }
        None => Err(format!("the interface {} has no {family} address (yet)", Shown(device))),
    })
}

/// The one of an interface's addresses that its name stands for: one that lasts, before one that does not; a public one,
/// before a private one; the oldest. (The kernel lists IPv4 addresses in the order in which they came, IPv6 addresses in the
/// opposite one.)
fn choose(addresses: &[Address], family: Family) -> Option<IpAddr> {
    let mut best: Option<(bool, bool, IpAddr)> = None;
    for Address { ip, doubled, second, global, .. } in addresses {
        if *doubled || !global || ip.is_loopback() {
            continue;
        }
        let (lasts, public) = (!second, route::is_public(ip));
        let better = best.is_none_or(|(best_lasts, best_public, _)| {
            let (own, best) = ((lasts, public), (best_lasts, best_public));
            own > best || own == best && family == Family::V6
        });
        if better {
            best = Some((lasts, public, *ip));
        }
    }
    best.map(|(.., ip)| ip)
}

/// UBUS_STATUS_NOT_FOUND, which `ubus` ends with.
const NOT_FOUND: End = End::Status(4);

/// The device of an interface of OpenWrt's network config, as netifd tells it; `Some(None)` while it is down. None where there
/// is no such config, or no such interface in it: many a router has an interface of the kernel's, too, that is called `wan`.
fn logical(name: &str) -> Result<Option<Option<String>>, Error> {
    let Some(ubus) = process::find("ubus") else { return Ok(None) };
    let object = format!("network.interface.{name}");
    let output = process::run(&ubus, &["-t", "3", "call", &object, "status"], "")?;
    match output.end {
        NOT_FOUND => Ok(None),
        _ if output.succeeded() => Ok(Some(l3_device(&output.out))),
        _ => fail!("netifd does not tell the state of the interface {name} (ubus: {})", output.said()),
    }
}

/// The device in the state of an interface, a JSON object. (In a text of JSON the quotes before a colon would be escaped.)
fn l3_device(state: &str) -> Option<String> {
    let (_, behind) = split(state, "\"l3_device\":")?;
    let (device, _) = part(behind.trim_ascii_start().strip_prefix('"')?, "\"")?;
    (!device.is_empty()).then(|| device.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::route::Interface;

    #[test]
    fn the_best_address_is_chosen() {
        let address = |text: &str| {
            let mut words = text.split(' ');
            let ip: IpAddr = words.next().unwrap().parse().unwrap();
            let words: Vec<&str> = words.collect();
            Address {
                ip,
                interface: Interface(1),
                length: 24,
                peer: false,
                doubled: words.contains(&"doubled"),
                second: words.contains(&"second"),
                global: !words.contains(&"link"),
            }
        };
        for (addresses, family, best) in [
            (&["10.0.0.1", "10.0.1.1"][..], Family::V4, Some("10.0.0.1")),
            (&["10.0.0.1 second", "10.0.1.1"], Family::V4, Some("10.0.1.1")),
            (&["192.168.100.2", "203.0.113.5", "10.0.0.1"], Family::V4, Some("203.0.113.5")),
            (&["169.254.0.1 link", "127.0.0.1"], Family::V4, None),
            (&["10.0.0.1 second"], Family::V4, Some("10.0.0.1")),
            (&[], Family::V4, None),
            // The oldest is the last one.
            (&["2001:db8::2", "2001:db8::1", "fd00::1", "fe80::1 link"], Family::V6, Some("2001:db8::1")),
            (&["2001:db8::2", "2001:db8::1 second", "fd00::1"], Family::V6, Some("2001:db8::2")),
            (&["2001:db8::2 doubled", "fd00::1"], Family::V6, Some("fd00::1")),
        ] {
            let all: Vec<Address> = addresses.iter().map(|text| address(text)).collect();
            assert_eq!(choose(&all, family), best.map(|ip| ip.parse().unwrap()), "{addresses:?}");
        }
    }

    #[test]
    fn the_device_is_found_in_the_state() {
        for (state, device) in [
            ("{\n\t\"up\": true,\n\t\"l3_device\": \"pppoe-wan\",\n\t\"device\": \"eth1\"\n}", Some("pppoe-wan")),
            ("{\"up\":true,\"l3_device\":\"br-lan\"}", Some("br-lan")),
            ("{\"up\":false,\"data\":{\"x\":\"\\\"l3_device\\\":\\\"eth9\\\"\"}}", None),
            ("{\"l3_device\":1}", None),
            ("{\"l3_device\":\"\"}", None),
            ("{\"l3_device\":\"eth0", None),
            ("", None),
        ] {
            assert_eq!(l3_device(state).as_deref(), device, "{state}");
        }
    }
}
