//! Addresses in the config. What is none gets the sentence that says what it looks like, and what to write instead.

use std::net::IpAddr;

use crate::error::{refuse, Error};
use crate::net::{port_number, unicast, Endpoint, Family};
use crate::service::{are_several, weight, Interface, Ports, Written};
use crate::text::{self, has, listed, part, split as split_at, until, Shown};

/// Whose address it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Bind,
    Backend,
    /// `privateip:`, without a port.
    Source,
}

/// What `bind:` says.
pub(super) struct Place {
    /// The address, unspecified if it follows an interface, and the first port.
    pub at: Endpoint,
    /// All ports.
    pub ports: Ports,
    /// The interface that it follows.
    pub follows: Option<Interface>,
}

impl Place {
    /// As it stands there.
    pub fn written(&self) -> Written<'_> {
        Written { follows: self.follows.as_ref(), at: self.at, ports: &self.ports }
    }
}

/// Names of ports that people write, and their numbers.
const PORTS: &str = "http 80 https 443 ssh 22 smtp 25 dns 53 domain 53 imap 143 imaps 993 submission 587 mysql 3306 \
                     postgres 5432 postgresql 5432 redis 6379 mqtt 1883 ldap 389 rdp 3389 http-alt 8080 amqp 5672";

/// What stands for every address.
const ANYTHING: &str = "* any all 0.0.0.0 [::] :: 0 0.0.0.0/0 INADDR_ANY";

/// Reads address:port.
pub(super) fn endpoint(text: &str, whose: Whose) -> Result<Endpoint, Error> {
    match Endpoint::parse(text) {
        Ok(endpoint) => Ok(endpoint),
        Err(error) => {
            explain(text, whose)?;
            Err(error)
        }
    }
}

/// Reads a bind: address:port or interface:port, in brackets for IPv6, with one port or several.
pub(super) fn bind(text: &str) -> Result<Place, Error> {
    let (host, behind) = split(text);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let six = bare.is_some();
    let name = bare.unwrap_or(host);
    let Some(behind) = behind.filter(|behind| !has(behind, ':') && !behind.starts_with('/')) else {
        // More colons are of an IPv6 address, and slashes of a URL.
        let at = endpoint(text, Whose::Bind)?;
        return Ok(Place { at, ports: Ports::one(at.port()), follows: None });
    };
    if let Some(follows) = Interface::parse(name) {
        let family = if six { Family::V6 } else { Family::V4 };
        let ports = ports(behind)?;
        return Ok(Place { at: Endpoint::anywhere(family, ports.first()), ports, follows: Some(follows) });
    }
    if !are_several(behind) || unicast(name).is_err() {
        let at = endpoint(text, Whose::Bind)?;
        return Ok(Place { at, ports: Ports::one(at.port()), follows: None });
    }
    let ports = ports(behind)?;
    let at = endpoint(&format!("{host}:{}", ports.first()), Whose::Bind)?;
    Ok(Place { at, ports, follows: None })
}

/// Reads the ports of a bind.
fn ports(text: &str) -> Result<Ports, Error> {
    if are_several(text) {
        return Ports::parse(text);
    }
    Ok(Ports::one(port(text)?))
}

/// Reads a backend: address:port, or the address alone of one that keeps the client's port.
pub(super) fn backend(text: &str) -> Result<Endpoint, Error> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match unicast(bare.unwrap_or(text)) {
        Ok(ip) if bare.is_none() || ip.is_ipv6() => Ok(Endpoint::anywhere(Family::of(ip), 0).with_ip(ip)),
        _ => endpoint(text, Whose::Backend),
    }
}

/// Reads a port that stands alone.
pub(super) fn port(text: &str) -> Result<u16, Error> {
    match port_number(text) {
        Ok(port) => Ok(port),
        Err(error) => {
            let mut right = String::new();
            let what = no_port("", text, &mut right);
            no(text, what, &right)?;
            Err(error)
        }
    }
}

/// Refuses a text that is no address, or no address and port, if it is of a kind that people write.
pub(super) fn explain(text: &str, whose: Whose) -> Result<(), Error> {
    let mut right = String::new();
    let what = kind(text, whose, &mut right);
    no(text, what, &right)
}

/// `text`, what is wrong with it, and what would be right. Nothing is wrong if `what` is empty.
fn no(text: &str, what: &str, right: &str) -> Result<(), Error> {
    let shown = Shown(text);
    match right {
        _ if what.is_empty() => Ok(()),
        "" => refuse!("`{shown}`{what}"),
        _ => refuse!("`{shown}`{what}; write {right}"),
    }
}

const ALONE: &str = ": only an address and a port stand here";

const ONE_PORT: &str = " is more than one port; write one";

const PORTS_OF_BIND: &str = " is no port; write one, a range as 5000-5100, or a list as [80, 443]";

const UDP: &str = ": the protocol has a key of its own in the frontend, `protocol: udp`";

const OTHER: &str = ": Paraglider balances TCP and UDP";

const RANGE: &str = " is a range of hosts; write each on a line of its own, as `- address:port`";

impl Whose {
    /// What to write instead of several.
    fn several(self) -> &'static str {
        match self {
            Whose::Bind => {
                " is more than one; a frontend has one bind: write a frontend for each, in a list under `frontends:`"
            }
            Whose::Backend => " is more than one; write each backend on a line of its own, as `- address:port`",
            Whose::Source => " is more than one; write one address, or a range of them as first-last",
        }
    }
}

/// What is wrong with a text; empty if it is of no kind that people write. `right` is what would be right, if that is known.
fn kind(text: &str, whose: Whose, right: &mut String) -> &'static str {
    // `http://…`, `tcp:192.0.2.1:80`, `//192.0.2.1:80`.
    let (scheme, rest) = part(text, ":").unwrap_or(("", text));
    let letters = is_word(scheme);
    if text.starts_with("//") || letters && (rest.starts_with('/') || fits(right, rest)) {
        if let Some(other) = other_protocol(scheme) {
            right.clear();
            return other;
        }
        if whose == Whose::Source {
            return ": only an address stands here";
        }
        let behind = if letters { rest } else { text };
        let host = until(split_at(behind, "//").map_or(behind, |(_, host)| host), "/");
        if !fits(right, host) {
            fit(right, host, if scheme == "https" { "443" } else { "80" });
        }
        return ALONE;
    }
    let several = several(text, whose, right);
    if !several.is_empty() {
        return several;
    }
    if whose == Whose::Source {
        return short_range(text, right);
    }
    if part(text, "@").is_some_and(|(_, rest)| fits(right, rest)) {
        return ALONE;
    }
    let (host, port) = split(text);
    let anything = listed(ANYTHING, host);
    if let Some(port) = port.filter(|_| anything || host.is_empty() || host.starts_with('[') || is_ip(host)) {
        match no_port(host, port, right) {
            "" => {}
            what if what == ONE_PORT && whose == Whose::Bind => return PORTS_OF_BIND,
            what => return what,
        }
    }
    if is_range(host) {
        return RANGE;
    }
    if whose == Whose::Backend {
        return match anything {
            true => " is no address of a backend; write that of one host, as in 172.19.0.2:5555",
            false => "",
        };
    }
    if anything || listed(ANYTHING, text) || host.is_empty() && port.is_some() && !is_ip(text) {
        return " stands for every address; give one of this host (`ip address` shows them)";
    }
    // More colons are of an IPv6 address.
    let name = is_word(host) && host != "localhost" && !port.is_some_and(|port| has(port, ':'));
    if name || port.is_none() && port_number(text).is_ok() {
        return ": write address:port or interface:port, of this host (`ip address` shows them)";
    }
    ""
}

/// Takes an address and a port that would be right, if they are that.
#[inline(never)]
fn fit(right: &mut String, host: &str, port: &str) -> bool {
    fits(right, &format!("{host}:{port}"))
}

/// The same for an address and a port in one text.
fn fits(right: &mut String, text: &str) -> bool {
    let fits = Endpoint::parse(text).is_ok();
    if fits {
        let quote = if text.starts_with('[') { "\"" } else { "" };
        *right = format!("{quote}{text}{quote}");
    }
    fits
}

/// What to write for another protocol than TCP.
fn other_protocol(word: &str) -> Option<&'static str> {
    match &*word.to_ascii_lowercase() {
        "udp" | "quic" | "dns" => Some(UDP),
        "sctp" | "unix" | "dccp" => Some(OTHER),
        _ => None,
    }
}

/// Whether it is a name without dots.
fn is_word(text: &str) -> bool {
    text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic) && text::is_word(text, "-_")
}

/// Several addresses in one value, or more than an address.
fn several(text: &str, whose: Whose, right: &mut String) -> &'static str {
    let (mut count, mut ips, mut ports, mut backup) = (0, 0, 0, false);
    let (mut first, mut last, mut endpoint, mut share) = ("", "", "", None);
    let mut rest = text;
    while !rest.is_empty() {
        let part = until(rest, ", \t;|");
        rest = rest.get(part.len() + 1..).unwrap_or_default();
        if part.is_empty() || part == "-" {
            continue;
        }
        count += 1;
        (first, last) = (if count == 1 { part } else { first }, part);
        let whole = Endpoint::parse(part).is_ok();
        if whole && endpoint.is_empty() {
            endpoint = part;
        } else if share.is_none() {
            share = weight(part.strip_prefix("weight=").unwrap_or(part)).ok();
        }
        backup |= part == "backup";
        ips += u32::from(whole || is_ip(part));
        ports += u32::from(port_number(part).is_ok());
    }
    if ips > 1 {
        return whose.several();
    }
    if whose == Whose::Source {
        return "";
    }
    // `192.0.2.1 80`, `192.0.2.1 :80`, and `192.0.2.1: 80` in quotes.
    let (host, port) = (first.strip_suffix(':').unwrap_or(first), last.strip_prefix(':').unwrap_or(last));
    if count == 2 && fit(right, host, port) {
        return ": a colon, without blanks, is between address and port";
    }
    if endpoint.is_empty() || endpoint == text {
        return "";
    }
    // `192.0.2.1:80,443`
    if ports + 1 == count && ports > 0 && has(text, ',') {
        return ONE_PORT;
    }
    // `172.19.0.2:5555 weight=3` of nginx, `172.19.0.2:5555 check backup` of HAProxy.
    if whose == Whose::Bind || !backup && share.is_none() {
        fits(right, endpoint);
        return ALONE;
    }
    let weight = share.filter(|_| !backup).map_or("backup: true".to_owned(), |weight| format!("weight: {weight}"));
    *right = format!("{{address: \"{endpoint}\", {weight}}}");
    ": a backend with more than its address is a mapping"
}

/// What is behind the colon is no port.
fn no_port(host: &str, port: &str, right: &mut String) -> &'static str {
    if let Some((port, rest)) = part(port, "/") {
        if let Some(other) = other_protocol(rest) {
            return other;
        }
        fit(right, host, port);
        return ": leave out what stands behind the port";
    }
    // `192.0.2.1:80:81`, `192.0.2.1:80-81`, `192.0.2.1:80..81`.
    let (first, last) = part(port, ":-.").unwrap_or((port, ""));
    let several = port_number(first).is_ok() && port_number(last.strip_prefix('.').unwrap_or(last)).is_ok();
    if several || listed("* any all", port) {
        return ONE_PORT;
    }
    let mut words = PORTS.split(' ');
    while let (Some(name), Some(number)) = (words.next(), words.next()) {
        if port.eq_ignore_ascii_case(name) && !fit(right, host, number) && host.is_empty() {
            number.clone_into(right);
        }
    }
    match is_word(port) && !has(port, '_') {
        true => ": a port is a number (/etc/services has that of a name)",
        false => "",
    }
}

/// The part before the port, and the port.
fn split(text: &str) -> (&str, Option<&str>) {
    let at = match text.strip_prefix('[') {
        Some(_) => split_at(text, "]:").map(|(host, port)| (text.get(..=host.len()).unwrap_or(host), port)),
        None => part(text, ":"),
    };
    at.map_or((text, None), |(host, port)| (host, Some(port)))
}

fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// Whether it is a range of IPv4 addresses: `10.0.0.1-10.0.0.3`, `10.0.0.1-3`, `10.0.0.[1-3]`, `10.0.0.*`.
fn is_range(text: &str) -> bool {
    let (mut dots, mut range, mut plain) = (0, false, text.starts_with(|c: char| c.is_ascii_digit()));
    for c in text.chars() {
        dots += usize::from(c == '.');
        range |= has("-*[{", c);
        plain &= c.is_ascii_digit() || has(".-*[]{}, ", c);
    }
    plain && (range && dots >= 3 || split_at(text, "..").is_some_and(|(first, _)| is_ip(first)))
}

/// `172.19.0.4-7`, `172.19.0.4..172.19.0.7`
fn short_range(text: &str, right: &mut String) -> &'static str {
    let dots = split_at(text, "..");
    let Some((first, last)) = dots.or_else(|| part(text, "-")) else { return "" };
    let (first, last) = (first.trim_ascii(), last.trim_ascii());
    let mut whole = last.to_owned();
    if dots.is_none() || !is_ip(last) {
        // Up to the last dot of the first address.
        whole.clear();
        let mut rest = first;
        while let Some((number, behind)) = part(rest, ".") {
            whole.push_str(number);
            whole.push('.');
            rest = behind;
        }
        whole.push_str(last);
    }
    if !is_ip(first) || !is_ip(&whole) {
        return "";
    }
    *right = format!("{first}-{whole}");
    ": a range has two whole addresses, with a dash between them"
}
