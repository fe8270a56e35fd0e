//! One rule: conditions and a target, which print themselves as iptables does; and readers of such a text.

use std::fmt;
use std::net::IpAddr;

use super::names::frontend_of;
use crate::net::{port_number, Endpoint, Family, Protocol};
use crate::service::Bind;
use crate::text::value;

/// Some of the ports of a bind, one next to the other.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// Its address and protocol.
    pub at: Endpoint,
    /// The first port.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

impl Range {
    /// Those of a bind.
    pub fn all(bind: &Bind) -> Vec<Range> {
        let mut all = Vec::new();
        for (first, last) in bind.ports.ranges() {
            all.push(Range { at: bind.at, first: *first, last: *last });
        }
        all
    }
}

/// As iptables writes ports.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { first, last, .. } = self;
        match first == last {
            true => write!(f, "{first}"),
            false => write!(f, "{first}:{last}"),
        }
    }
}

/// One condition of a rule.
#[derive(Debug, Clone, Copy)]
pub enum Match {
    /// To these ports.
    To(Range),
    /// The first, and then each n-th packet that comes to this rule.
    Every(usize),
    /// The first packet of a connection to these ports.
    FirstTo(Range),
    /// At random, with this probability in units of 2⁻³¹.
    Random(u32),
    /// A bit of the source address is set.
    SourceBit(Family, u8),
    /// Begins a connection that was balanced for these ports.
    Balanced(Range),
    /// Belongs to such a connection, in either direction, or is an ICMP error about it.
    About(Range),
    /// To these ports, of a connection that is not known; of TCP, it does not begin here; of UDP, it does.
    Stray(Range),
}

/// Of packets of a protocol.
struct Of(Protocol, Match);

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Of(protocol, condition) = self;
        let name = protocol.word();
        match condition {
            Match::To(to) | Match::FirstTo(to) | Match::Stray(to) => {
                let bits = if to.at.ip().is_ipv4() { 32 } else { 128 };
                write!(f, "-d {}/{bits} -p {name} -m {name} --dport {to}", to.at.ip())?;
                match (condition, protocol) {
                    (Match::FirstTo(_), Protocol::Tcp) => f.write_str(" --tcp-flags FIN,SYN,RST,ACK SYN"),
                    (Match::Stray(_), Protocol::Tcp) => {
                        f.write_str(" ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW")
                    }
                    (Match::Stray(_), Protocol::Udp) => f.write_str(" -m conntrack --ctstate NEW"),
                    _ => Ok(()),
                }
            }
            Match::Random(p) => {
                write!(f, "-p {name} -m statistic --mode random --probability {}", Probability(*p))
            }
            Match::SourceBit(Family::V4, bit) => {
                let mask = std::net::Ipv4Addr::from(1_u32 << bit);
                write!(f, "-s {mask}/{mask} -p {name}")
            }
            Match::SourceBit(Family::V6, bit) => {
                let mask = std::net::Ipv6Addr::from(1_u128 << bit);
                write!(f, "-s {mask}/{mask} -p {name}")
            }
            Match::Every(n) => write!(f, "-p {name} -m statistic --mode nth --every {n} --packet 0"),
            Match::Balanced(to) => {
                let ip = to.at.ip();
                write!(f, "-p {name} -m conntrack --ctstate DNAT --ctorigdst {ip} --ctorigdstport {to}")
            }
            Match::About(to) => {
                let (ip, number) = (to.at.ip(), protocol.number());
                write!(f, "-m conntrack --ctstate DNAT --ctproto {number} --ctorigdst {ip} --ctorigdstport {to}")
            }
        }
    }
}

/// A probability in units of 2⁻³¹, as the kernel keeps it, in the 11 decimals that iptables prints and reads.
struct Probability(u32);

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // p / 2³¹ × 10¹¹ = p × 5¹¹ / 2²⁰, without floating point: routers have none. Rounded half to even, as printf does.
        let scaled = u64::from(self.0) * 48_828_125;
        let (whole, rest, half) = (scaled >> 20, scaled & 0xf_ffff, 0x8_0000);
        let up = rest > half || rest == half && whole & 1 == 1;
        write!(f, "0.{:011}", whole + u64::from(up))
    }
}

/// What a rule does with what it matches.
#[derive(Debug, Clone)]
pub enum Target {
    /// Goes to a chain of ours.
    Jump(String),
    /// Sends it to a backend.
    Dnat(Endpoint),
    /// Gives it one of the source addresses first to last.
    Snat(IpAddr, IpAddr),
    /// Gives it the address of the interface that it leaves by.
    Masquerade,
    /// Lets it through.
    Accept,
    /// Refuses it as a closed port does.
    Reject(Protocol, Family),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Jump(chain) => write!(f, "-j {chain}"),
            Target::Dnat(backend) => write!(f, "-j DNAT --to-destination {backend}"),
            Target::Snat(first, last) if first == last => write!(f, "-j SNAT --to-source {first}"),
            Target::Snat(first, last) => write!(f, "-j SNAT --to-source {first}-{last}"),
            Target::Masquerade => f.write_str("-j MASQUERADE"),
            Target::Accept => f.write_str("-j ACCEPT"),
            Target::Reject(protocol, family) => {
                f.write_str("-j REJECT --reject-with ")?;
                f.write_str(match (protocol, family) {
                    (Protocol::Tcp, _) => "tcp-reset",
                    (Protocol::Udp, Family::V4) => "icmp-port-unreachable",
                    (Protocol::Udp, Family::V6) => "icmp6-port-unreachable",
                })
            }
        }
    }
}

/// A rule's text as in `-A CHAIN text`. Without a match it takes every packet of the protocol.
pub fn rule(protocol: Protocol, condition: Option<Match>, target: &Target) -> Rule {
    let text = match condition {
        Some(condition) => format!("{} {target}", Of(protocol, condition)),
        None => format!("-p {} {target}", protocol.word()),
    };
    Rule { text, packets: 0 }
}

/// A rule as it stands in a chain.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// Without `-A CHAIN`.
    pub text: String,
    /// How many packets it has matched; in the nat table these are connections. Ignored by comparisons.
    pub packets: u64,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// The chain or target that a rule ends in without any option: a jump to a chain always does.
pub fn enters(rule: &str) -> Option<&str> {
    let (before, chain) = rule.rsplit_once(' ').unwrap_or(("", rule));
    let flag = before.rsplit_once(' ').map_or(before, |(_, flag)| flag);
    (flag == "-j" || flag == "-g").then_some(chain)
}

/// A probability in units of 2⁻³¹, rounded.
pub fn share(parts: u32, of: u32) -> u32 {
    let scaled = (u64::from(parts) << 31) + u64::from(of / 2);
    u32::try_from(scaled / u64::from(of.max(1))).unwrap_or(1 << 31)
}

/// The backend that a DNAT rule of ours sends to.
pub fn destination(rule: &Rule) -> Option<Endpoint> {
    let to = value(&rule.text, "--to-destination")?;
    match to.parse() {
        Ok(ip) => Some(Endpoint::anywhere(Family::of(ip), 0).with_ip(ip)),
        Err(_) => Endpoint::parse(to).ok(),
    }
}

/// Some ports of a bind: its address, what iptables says of the ports, and the protocol.
fn range(ip: &str, ports: &str, protocol: &str) -> Option<Range> {
    let protocol = match protocol {
        "tcp" | "6" => Protocol::Tcp,
        "udp" | "17" => Protocol::Udp,
        _ => return None,
    };
    let (first, last) = ports.split_once(':').unwrap_or((ports, ports));
    let at = Endpoint::of(ip, first)?.of_protocol(protocol);
    Some(Range { at, first: at.port(), last: port_number(last).ok()? })
}

/// The ports that a rule in [`FORWARD`] is about.
pub fn let_through(rule: &Rule) -> Option<Range> {
    let text = &rule.text;
    let protocol = value(text, "--ctproto").or_else(|| value(text, "-p"))?;
    range(value(text, "--ctorigdst")?, value(text, "--ctorigdstport")?, protocol)
}

/// The ports of a rule in [`DISPATCH`], and the frontend's name.
pub fn dispatched(rule: &Rule) -> Option<(Range, &str)> {
    let text = &rule.text;
    let (ip, _) = value(text, "-d")?.split_once('/')?;
    let range = range(ip, value(text, "--dport")?, value(text, "-p")?)?;
    Some((range, frontend_of(value(text, "-j")?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Name;

    #[test]
    fn a_rule_enters_a_chain_only_with_its_last_words() {
        assert_eq!(enters("-p tcp -j PARAGLIDER"), Some("PARAGLIDER"));
        assert_eq!(enters("-j PARAGLIDER"), Some("PARAGLIDER"));
        assert_eq!(enters("-g PARAGLIDER"), Some("PARAGLIDER"));
        assert_eq!(enters("-m comment --comment -j -j ACCEPT"), Some("ACCEPT"));
        for none in ["", "-j", "PARAGLIDER", "-m comment --comment PARAGLIDER", "-j PARAGLIDER -x"] {
            assert_eq!(enters(none), None, "{none}");
        }
    }

    #[test]
    fn a_dispatch_rule_can_be_read_back() {
        for bind in ["10.0.0.1:80", "[fd00::1]:80"] {
            let bind = Endpoint::parse(bind).unwrap();
            let to = Range { at: bind, first: bind.port(), last: bind.port() + 7 };
            let target = Target::Jump(super::super::names::chain_name(&Name::of_bind(bind), 0));
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let rule = rule(protocol, Some(Match::To(to)), &target);
                let (there, name) = dispatched(&rule).unwrap();
                assert_eq!((there.at, there.first, there.last), (bind.of_protocol(protocol), to.first, to.last));
                assert_eq!(name, Name::of_bind(bind).as_str());
            }
        }
    }

    #[test]
    fn probabilities_are_written_as_iptables_prints_them() {
        for p in [1_u32, 2, 3, 715_827_883, 1 << 30, 1 << 29, 8192, (1 << 31) - 1, 1_431_655_765, 12_345_678] {
            let printed = format!("{:.11}", f64::from(p) / f64::from(1_u32 << 31));
            assert_eq!(Probability(p).to_string(), printed);
            let read: f64 = printed.parse().unwrap();
            assert_eq!((read * f64::from(1_u32 << 31)).round() as u32, p, "reading it gives the same");
        }
        assert_eq!(share(1, 2), 1 << 30);
        assert_eq!(share(1, 3), 715_827_883);
    }
}
