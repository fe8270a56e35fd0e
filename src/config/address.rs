//! Addresses in the config. What is none gets the sentence that says what it looks like, and what to write instead.

use std::net::{IpAddr, Ipv4Addr};

use crate::error::{refuse, Error};
use crate::net::{port_number, Endpoint};
use crate::service::weight;
use crate::text::{has, split as split_at, Shown};

/// Whose address it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Bind,
    Backend,
    /// `privateip:`, without a port.
    Source,
}

/// Names of ports that people write, and their numbers.
const PORTS: &str = "http 80 https 443 ssh 22 smtp 25 dns 53 domain 53 imap 143 imaps 993 submission 587 mysql 3306 \
                     postgres 5432 postgresql 5432 redis 6379 mqtt 1883 ldap 389 rdp 3389 http-alt 8080 amqp 5672";

const NOTHING_MORE: &str = "; a TCP connection has an address and a port, and nothing more";

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

/// Reads a port that stands alone.
pub(super) fn port(text: &str) -> Result<u16, Error> {
    match port_number(text) {
        Ok(port) => Ok(port),
        Err(error) => {
            no_port(text, "", text)?;
            Err(error)
        }
    }
}

/// `text`, what is wrong with it, and what to write if that would be right.
#[inline(never)]
fn no(text: &str, what: &str, right: &str) -> Result<(), Error> {
    refuse!("`{}`{what}{}", Shown(text), Remedy(right))
}

/// The same if a part of it has only to be left out.
#[inline(never)]
fn without(text: &str, part: &str, why: &str, right: &str) -> Result<(), Error> {
    refuse!("`{}`: leave `{}` out{why}{}", Shown(text), Shown(part), Remedy(right))
}

/// Refuses a text that is no address, or no address and port, if it is of a kind that people write.
pub(super) fn explain(text: &str, whose: Whose) -> Result<(), Error> {
    scheme(text, whose)?;
    several(text, whose)?;
    if let Some((user, rest)) = text.rsplit_once('@') {
        if Endpoint::parse(rest).is_ok() {
            return without(text, text.get(..=user.len()).unwrap_or(user), "", rest);
        }
    }
    let (host, port) = split(text);
    if whose == Whose::Source {
        return short_range(text);
    }
    if let Some(port) = port {
        if is_ip(host) || host.starts_with('[') || is_anything(host) || host.is_empty() {
            no_port(text, host, port)?;
        }
    }
    if is_range(host) {
        return no(text, RANGE, "");
    }
    if whose == Whose::Bind {
        not_of_this_host(text, host, port)?;
    }
    if whose == Whose::Backend && is_anything(host) {
        return no(text, " is no address of a backend; write that of one host, as in 172.19.0.2:5555", "");
    }
    Ok(())
}

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

/// `http://…` and the like.
fn scheme(text: &str, whose: Whose) -> Result<(), Error> {
    let Some((scheme, rest)) = text.split_once(':') else { return Ok(()) };
    // `tcp:192.0.2.1:80`, `//192.0.2.1:80`.
    let bare = scheme.starts_with("//");
    let behind = if bare { text } else { rest }.trim_start_matches('/');
    let letters = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphabetic());
    let named = letters && (rest.starts_with('/') || Endpoint::parse(rest).is_ok());
    if !named && !bare {
        return Ok(());
    }
    let sign = text.get(..text.len() - behind.len()).unwrap_or(text);
    if is_other_protocol(scheme) {
        return no(text, TCP_ONLY, "");
    }
    let host = behind.split('/').next().unwrap_or(behind);
    if whose == Whose::Source {
        return without(text, sign, "; an address of this host stands here alone", "");
    }
    if Endpoint::parse(host).is_ok() {
        return without(text, sign, NOTHING_MORE, host);
    }
    let port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    without(text, sign, NOTHING_MORE, &[host, port].concat())
}

fn is_other_protocol(word: &str) -> bool {
    ["udp", "sctp", "quic", "unix"].iter().any(|other| word.eq_ignore_ascii_case(other))
}

/// Several addresses in one value, or more than an address.
fn several(text: &str, whose: Whose) -> Result<(), Error> {
    let mut parts = Vec::new();
    for part in text.split([',', ' ', '\t', ';', '|']) {
        if !part.is_empty() && part != "-" {
            parts.push(part);
        }
    }
    let (mut ips, mut ports, mut endpoint, mut share) = (0, 0, "", None);
    for part in &parts {
        let whole = Endpoint::parse(part).is_ok();
        if whole && endpoint.is_empty() {
            endpoint = part;
        } else if share.is_none() {
            share = weight(part.rsplit('=').next().unwrap_or(part)).ok();
        }
        ips += usize::from(whole || is_ip(part));
        ports += usize::from(port_number(part).is_ok());
    }
    if ips > 1 {
        return no(text, whose.several(), "");
    }
    if whose == Whose::Source {
        return Ok(());
    }
    if let [first, second] = parts.as_slice() {
        // `192.0.2.1 80`, `192.0.2.1 :80`, and `192.0.2.1: 80` in quotes.
        let joined = [first.trim_end_matches(':'), ":", second.trim_start_matches(':')].concat();
        if Endpoint::parse(&joined).is_ok() {
            return no(text, ": a colon, without blanks, is between address and port", &joined);
        }
    }
    if endpoint.is_empty() || endpoint == text {
        return Ok(());
    }
    // `192.0.2.1:80,443`
    if ports + 1 == parts.len() && ports > 0 && has(text, ',') {
        return no(text, ONE_PORT, "");
    }
    // `172.19.0.2:5555 weight=3` of nginx, `172.19.0.2:5555 check backup` of HAProxy.
    let key = match share {
        _ if whose == Whose::Bind => return no(text, ALONE, endpoint),
        _ if parts.contains(&"backup") => "backup: true".to_owned(),
        Some(weight) => format!("weight: {weight}"),
        None => return no(text, ALONE, endpoint),
    };
    refuse!(
        "`{}`: a backend with more than its address is a mapping; write {{address: \"{endpoint}\", {key}}}",
        Shown(text)
    )
}

const ALONE: &str = ": only an address and a port stand here";

const ONE_PORT: &str = " is more than one port; write one (for more of them, more frontends)";

const TCP_ONLY: &str = ": Paraglider balances TCP only";

/// What is behind the colon is no port.
fn no_port(text: &str, host: &str, port: &str) -> Result<(), Error> {
    if let Some((port, rest)) = port.split_once('/') {
        if is_other_protocol(rest) {
            return no(text, TCP_ONLY, "");
        }
        let part = text.get(text.len() - rest.len() - 1..).unwrap_or(rest);
        return without(text, part, NOTHING_MORE, &[host, ":", port].concat());
    }
    // `192.0.2.1:80:81`, `192.0.2.1:80-81`, `192.0.2.1:80..81`.
    let ends = port.split_once([':', '-', '.']).filter(|(first, _)| port_number(first).is_ok());
    if ends.is_some_and(|(_, last)| port_number(last.trim_start_matches('.')).is_ok())
        || matches!(port, "*" | "any" | "all")
    {
        return no(text, ONE_PORT, "");
    }
    let mut words = PORTS.split(' ');
    while let (Some(name), Some(number)) = (words.next(), words.next()) {
        if port.eq_ignore_ascii_case(name) {
            return refuse!("port `{}` is a name; write its number, {number}", Shown(port));
        }
    }
    let word = port.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if word && port.as_bytes().first().is_some_and(u8::is_ascii_alphabetic) {
        return no(port, " is a name; write the number of the port (/etc/services has it)", "");
    }
    Ok(())
}

/// A bind that is no address of this host.
fn not_of_this_host(text: &str, host: &str, port: Option<&str>) -> Result<(), Error> {
    if is_anything(text) || is_anything(host) || host.is_empty() && port.is_some() && !is_ip(text) {
        return no(text, " stands for every address; give one of this host (`ip address` shows them)", "");
    }
    if port.is_none() && port_number(text).is_ok() {
        return no(text, " is a port; write address:port, with an address of this host (`ip address` shows them)", "");
    }
    let name = host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let letter = host.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    // More colons are of an IPv6 address.
    if name && letter && host != "localhost" && !port.is_some_and(|port| has(port, ':')) {
        return no(
            host,
            " is a name; rules contain only addresses: give one of this host (`ip address` shows them)",
            "",
        );
    }
    Ok(())
}

/// What stands for every address.
fn is_anything(host: &str) -> bool {
    matches!(host, "*" | "any" | "all" | "0.0.0.0" | "[::]" | "::" | "0" | "0.0.0.0/0" | "INADDR_ANY")
}

/// The part before the port, and the port.
fn split(text: &str) -> (&str, Option<&str>) {
    let at = match text.strip_prefix('[') {
        Some(_) => split_at(text, "]:").map(|(host, port)| (text.get(..=host.len()).unwrap_or(host), port)),
        None => text.split_once(':'),
    };
    at.map_or((text, None), |(host, port)| (host, Some(port)))
}

fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// Whether it is a range of IPv4 addresses: `10.0.0.1-10.0.0.3`, `10.0.0.1-3`, `10.0.0.[1-3]`, `10.0.0.*`.
fn is_range(text: &str) -> bool {
    if let Some((first, last)) = text.split_once('-') {
        let digits = last.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b' ');
        if digits && first.trim_ascii().parse::<Ipv4Addr>().is_ok() {
            return true;
        }
    }
    if let Some((first, _)) = split_at(text, "..") {
        return first.parse::<Ipv4Addr>().is_ok();
    }
    let mut dots = 0;
    for b in text.bytes() {
        dots += usize::from(b == b'.');
    }
    dots == 3 && text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().any(|b| b"*[{".contains(&b))
}

/// `172.19.0.4-7`
fn short_range(text: &str) -> Result<(), Error> {
    if let Some((first, last)) = split_at(text, "..") {
        if is_ip(first) && is_ip(last) {
            return refuse!("`{}`: write {first}-{last}", Shown(text));
        }
    }
    if let Some((first, last)) = text.split_once('-').filter(|_| is_range(text)) {
        let network = first.trim_ascii().rsplit_once('.').map_or("", |(network, _)| network);
        let whole = format!("{network}.{}", last.trim_ascii());
        if is_ip(&whole) {
            return refuse!("`{}`: a range has two whole addresses; write {}-{whole}", Shown(text), first.trim_ascii());
        }
    }
    Ok(())
}

/// `; write X` if X would be right.
struct Remedy<'a>(&'a str);

impl std::fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match Endpoint::parse(self.0) {
            Ok(endpoint) if endpoint.ip().is_ipv6() => write!(f, "; write \"{endpoint}\""),
            Ok(endpoint) => write!(f, "; write {endpoint}"),
            Err(_) => Ok(()),
        }
    }
}
