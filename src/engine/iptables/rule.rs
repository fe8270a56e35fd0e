//! One rule: conditions and a target, which print themselves as iptables does; and readers of such a text.

use std::fmt;
use std::net::IpAddr;

use super::names::frontend_of;
use crate::net::{Endpoint, Family};
use crate::text::value;

/// One condition of a rule.
#[derive(Debug, Clone, Copy)]
pub enum Match {
    /// To this address and port.
    To(Endpoint),
    /// The first, and then each n-th packet that comes to this rule.
    Every(usize),
    /// The first packet of a connection to this address and port.
    FirstTo(Endpoint),
    /// At random, with this probability in units of 2⁻³¹.
    Random(u32),
    /// A bit of the source address is set.
    SourceBit(Family, u8),
    /// Begins a connection that was balanced for this bind.
    Balanced(Endpoint),
    /// Belongs to such a connection, in either direction, or is an ICMP error about it.
    About(Endpoint),
    /// To this address and port, of a connection that is not known and does not begin here.
    Stray(Endpoint),
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::To(to) => {
                let bits = if to.ip().is_ipv4() { 32 } else { 128 };
                write!(f, "-d {}/{bits} -p tcp -m tcp --dport {}", to.ip(), to.port())
            }
            Match::FirstTo(to) => write!(f, "{} --tcp-flags FIN,SYN,RST,ACK SYN", Match::To(*to)),
            Match::Random(p) => {
                write!(f, "-p tcp -m statistic --mode random --probability {}", Probability(*p))
            }
            Match::SourceBit(Family::V4, bit) => {
                let mask = std::net::Ipv4Addr::from(1_u32 << bit);
                write!(f, "-s {mask}/{mask} -p tcp")
            }
            Match::SourceBit(Family::V6, bit) => {
                let mask = std::net::Ipv6Addr::from(1_u128 << bit);
                write!(f, "-s {mask}/{mask} -p tcp")
            }
            Match::Stray(to) => {
                write!(f, "{} ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW", Match::To(*to))
            }
            Match::Every(n) => write!(f, "-p tcp -m statistic --mode nth --every {n} --packet 0"),
            Match::Balanced(bind) => {
                let (ip, port) = (bind.ip(), bind.port());
                write!(f, "-p tcp -m conntrack --ctstate DNAT --ctorigdst {ip} --ctorigdstport {port}")
            }
            Match::About(bind) => {
                let (ip, port) = (bind.ip(), bind.port());
                write!(f, "-m conntrack --ctstate DNAT --ctproto 6 --ctorigdst {ip} --ctorigdstport {port}")
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
    /// Refuses it with an RST, as a closed port does.
    Reject,
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
            Target::Reject => f.write_str("-j REJECT --reject-with tcp-reset"),
        }
    }
}

/// A rule's text as in `-A CHAIN text`. Without a match it takes every TCP packet.
pub fn rule(condition: Option<Match>, target: &Target) -> Rule {
    let text = match condition {
        Some(condition) => format!("{condition} {target}"),
        None => format!("-p tcp {target}"),
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
    Endpoint::parse(value(&rule.text, "--to-destination")?).ok()
}

/// The bind of a rule in [`FORWARD`].
pub fn let_through(rule: &Rule) -> Option<Endpoint> {
    Endpoint::of(value(&rule.text, "--ctorigdst")?, value(&rule.text, "--ctorigdstport")?)
}

/// The bind and the frontend's name, of a rule in [`DISPATCH`].
pub fn dispatched(rule: &Rule) -> Option<(Endpoint, &str)> {
    let (ip, _) = value(&rule.text, "-d")?.split_once('/')?;
    let bind = Endpoint::of(ip, value(&rule.text, "--dport")?)?;
    Some((bind, frontend_of(value(&rule.text, "-j")?)?))
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
            let rule =
                rule(Some(Match::To(bind)), &Target::Jump(super::super::names::chain_name(&Name::of_bind(bind), 0)));
            assert_eq!(dispatched(&rule), Some((bind, Name::of_bind(bind).as_str())));
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
