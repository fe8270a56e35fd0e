//! `privateip`: the source address that backends see.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{refuse, Error};
use crate::net::{unicast, Endpoint, Family};
use crate::text::{nearest, Shown};

/// Most addresses that a `privateip` range may name.
pub const MOST_SOURCES: usize = 256;

/// The source address that backends see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The address of the interface through which the connection leaves (`auto`, or no `privateip`).
    Masquerade,
    /// The first and the last address of a range, which may be one and the same: of one family, first ≤ last, at most
    /// [`MOST_SOURCES`] addresses.
    Addresses(IpAddr, IpAddr),
    /// The client's own (`none`): the backends must route their answers through this host.
    Client,
}

impl Source {
    /// Reads `172.19.0.4`, `172.19.0.4-172.19.0.7`, `auto` or `none`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let shown = Shown(text);
        match text {
            "auto" => return Ok(Source::Masquerade),
            "none" => return Ok(Source::Client),
            "" => return refuse!("an address, a range first-last, `auto` or `none` is missing"),
            _ => {}
        }
        // An address never contains a dash.
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (source_address(first.trim_ascii())?, source_address(last.trim_ascii())?);
        if first.is_ipv4() != last.is_ipv4() {
            return refuse!("the range `{shown}` mixes IPv4 and IPv6");
        }
        if first > last {
            return refuse!("the range `{shown}` begins with its last address; write {last}-{first}");
        }
        let mut ip = first;
        for _ in 0..MOST_SOURCES {
            if ip == last {
                return Ok(Source::Addresses(first, last));
            }
            ip = next(ip);
        }
        refuse!("the range `{shown}` has more than {MOST_SOURCES} addresses")
    }

    /// Calls `take` with each address; none for [`Source::Masquerade`] and [`Source::Client`].
    pub fn each(self, take: &mut dyn FnMut(IpAddr)) {
        let Source::Addresses(first, last) = self else { return };
        let mut ip = first;
        take(ip);
        while ip != last {
            ip = next(ip);
            take(ip);
        }
    }

    /// The family of the addresses; none for [`Source::Masquerade`] and [`Source::Client`].
    pub fn family(self) -> Option<Family> {
        match self {
            Source::Addresses(first, _) => Some(Family::of(first)),
            Source::Masquerade | Source::Client => None,
        }
    }
}

/// The address behind this one. (Of 128 bits, 32-bit processors make a lot of code.)
#[inline(never)]
fn next(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add(1)).into(),
        IpAddr::V6(v6) => {
            let mut bytes = v6.octets();
            for byte in bytes.iter_mut().rev() {
                *byte = byte.wrapping_add(1);
                if *byte != 0 {
                    break;
                }
            }
            Ipv6Addr::from(bytes).into()
        }
    }
}

fn source_address(text: &str) -> Result<IpAddr, Error> {
    if Endpoint::parse(text).is_ok() {
        return refuse!("`{}` has a port; give the address alone", Shown(text));
    }
    if let Some(word) = nearest(text, &["auto", "none"]) {
        return refuse!("unknown privateip `{}`; did you mean `{word}`?", Shown(text));
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    match unicast(bare) {
        Ok(ip) if ip.is_loopback() => {
            refuse!("`{}` is a loopback address, to which a backend cannot answer", Shown(text))
        }
        Ok(ip) => Ok(ip),
        Err(why) => refuse!("{why}; or write a range first-last, `auto` or `none`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_a_range_or_a_word() {
        let one = |text: &str| Source::Addresses(text.parse().unwrap(), text.parse().unwrap());
        assert_eq!(Source::parse("172.19.0.4").unwrap(), one("172.19.0.4"));
        assert_eq!(Source::parse("[fd00::4]").unwrap(), one("fd00::4"));
        assert_eq!(
            Source::parse("172.19.0.4-172.19.0.7").unwrap(),
            Source::Addresses("172.19.0.4".parse().unwrap(), "172.19.0.7".parse().unwrap())
        );
        let mut all = Vec::new();
        for text in ["172.19.0.254-172.19.1.1", "fd00::4", "auto", "none"] {
            Source::parse(text).unwrap().each(&mut |ip| all.push(ip.to_string()));
        }
        assert_eq!(all, ["172.19.0.254", "172.19.0.255", "172.19.1.0", "172.19.1.1", "fd00::4"]);
        assert_eq!(Source::parse("auto").unwrap(), Source::Masquerade);
        assert_eq!(Source::parse("none").unwrap(), Source::Client);
        for (text, why) in [
            ("", "missing"),
            ("172.19.0.9-172.19.0.4", "begins with its last address"),
            ("172.19.0.4-fd00::4", "mixes"),
            ("10.0.0.1-10.0.1.1", "more than 256"),
            ("172.19.0.4:80", "has a port"),
            ("web", "`auto` or `none`"),
            ("None", "did you mean `none`?"),
            ("127.0.0.1", "is a loopback address"),
            ("0.0.0.0", "unspecified address"),
        ] {
            let said = Source::parse(text).unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
