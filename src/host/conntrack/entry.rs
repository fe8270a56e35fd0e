//! An entry of the connection table: as a ctnetlink message and as a line of `/proc/net/nf_conntrack` have it. Pure.

use std::net::IpAddr;

use crate::net::{Endpoint, Protocol};
use crate::sys::netlink::{attribute, big, find, find_in, header};

/// Attributes of an entry (linux/netfilter/nfnetlink_conntrack.h): the client's packets, the answers, the status, what TCP
/// knows of it, and a number that no other entry has.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
pub(super) const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
pub(super) const CTA_ID: u16 = 12;

/// In a tuple: CTA_TUPLE_IP and CTA_TUPLE_PROTO. In the latter CTA_PROTO_NUM, CTA_PROTO_SRC_PORT and CTA_PROTO_DST_PORT.
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// CTA_PROTOINFO_TCP, and in it CTA_PROTOINFO_TCP_STATE.
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

/// Bits of the status (linux/netfilter/nf_conntrack_common.h): IPS_DST_NAT, the packets go elsewhere than the client sent
/// them, and IPS_OFFLOAD, a flow table forwards them, so that its TCP state is an old one.
pub(super) const DST_NAT: u32 = 1 << 5;
const OFFLOAD: u32 = 1 << 14;

/// States in which a connection can still carry data, from TCP_CONNTRACK_SYN_RECV (2) on
/// (linux/netfilter/nf_conntrack_tcp.h). In the others it has not begun or has ended.
const ALIVE: [&str; 5] = ["SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK"];
const FIRST_ALIVE: u8 = 2;

/// A connection, or a flow of datagrams, to an address and port of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// What the client connected to, with the first of its ports.
    pub bind: Endpoint,
    /// The address and port themselves.
    pub(super) to: Endpoint,
    /// Where its packets go.
    pub backend: Endpoint,
    /// It can still carry data. Of UDP nobody knows, so each one counts as long as it has an entry.
    pub(super) alive: bool,
    pub(super) client: Endpoint,
}

#[cfg(test)]
impl Connection {
    /// A living one, for tests of others.
    pub fn living(bind: Endpoint, backend: Endpoint) -> Self {
        Connection { bind, to: bind, backend, alive: true, client: bind }
    }
}

impl Connection {
    /// Where the client connected to, with the protocol.
    pub fn to(&self) -> Endpoint {
        self.to
    }

    /// Whether it goes to this backend, which may keep the client's port.
    pub fn is_to(&self, backend: &Endpoint) -> bool {
        self.backend == backend.for_client_of(self.to.port())
    }

    /// It has the port that the client has asked for.
    pub fn keeps_port(&self) -> bool {
        self.backend.port() == self.to.port()
    }

    /// Its packets go elsewhere than the client sent them. If the answers come from where it sent them, a service of that
    /// address itself gives them.
    pub fn is_balanced(&self) -> bool {
        self.backend != self.to.of_protocol(Protocol::Tcp)
    }

    /// The client's packets, as the kernel looks an entry up.
    pub(super) fn tuple(&self) -> (libc::c_int, Vec<u8>) {
        tuple((self.client.ip(), self.client.port()), self.to)
    }

    /// The number of the entry that the kernel has found, if its answers come from this backend.
    pub(super) fn id<'a>(&self, found: &'a [u8]) -> Option<&'a [u8]> {
        let (_, from, _) = ends(find(found, CTA_TUPLE_REPLY)?)?;
        find(found, CTA_ID).filter(|_| from == self.backend)
    }

    /// Reads an entry of the table as ctnetlink has it.
    pub(super) fn of_message(entry: &[u8]) -> Option<Self> {
        let (protocol, client, bind) = ends(find(entry, CTA_TUPLE_ORIG)?)?;
        let (_, backend, _) = ends(find(entry, CTA_TUPLE_REPLY)?)?;
        let alive = protocol == Protocol::Udp
            || big(entry, CTA_STATUS).unwrap_or(0) & OFFLOAD != 0
            || match find_in(entry, CTA_PROTOINFO, CTA_PROTOINFO_TCP).and_then(|tcp| find(tcp, CTA_PROTOINFO_TCP_STATE))
            {
                Some([state]) => usize::from(state.wrapping_sub(FIRST_ALIVE)) < ALIVE.len(),
                _ => false,
            };
        let to = bind.of_protocol(protocol);
        Some(Connection { bind: to, to, backend, alive, client })
    }

    /// Reads a line of the table: the addresses and ports of the client's packets come first, then those of the answers.
    pub(super) fn of_line(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        // Before it: the family and its number.
        let protocol = match words.nth(2)? {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        };
        // Then: protocol number, seconds left, state. An offloaded flow, which is alive, has only the number; UDP has no
        // state.
        let mut state = "";
        // Source, destination, and the ports of both, of each tuple.
        let (mut values, mut seen) = ([""; 8], 0);
        for word in words {
            match word.split_once('=') {
                // src, dst, sport, dport. No other key begins with these letters before all eight values are there.
                Some((key, value)) if key.starts_with(['s', 'd']) => {
                    if let Some(place) = values.get_mut(seen) {
                        *place = value;
                    }
                    seen += 1;
                }
                None if seen == 0 => state = word,
                _ => {}
            }
        }
        let [client, to, client_port, to_port, from, _, from_port, _] = values;
        let (client, bind) = (Endpoint::of(client, client_port)?, Endpoint::of(to, to_port)?);
        let backend = Endpoint::of(from, from_port)?;
        let alive = protocol == Protocol::Udp || state == "6" || ALIVE.contains(&state);
        let to = bind.of_protocol(protocol);
        Some(Connection { bind: to, to, backend, alive, client })
    }
}

/// The protocol, the source and the destination of a tuple; of other protocols than TCP and UDP nothing.
fn ends(tuple: &[u8]) -> Option<(Protocol, Endpoint, Endpoint)> {
    let (addresses, about) = (find(tuple, CTA_TUPLE_IP)?, find(tuple, CTA_TUPLE_PROTO)?);
    let protocol = match find(about, CTA_PROTO_NUM)? {
        [6] => Protocol::Tcp,
        [17] => Protocol::Udp,
        _ => return None,
    };
    let end = |at: u16, port: u16| {
        // CTA_IP_V4_SRC and _DST, CTA_IP_V6_SRC and _DST
        let address = find(addresses, at).or_else(|| find(addresses, at + 2))?;
        Endpoint::of_octets(address, u16::from_be_bytes(find(about, port)?.try_into().ok()?))
    };
    Some((protocol, end(1, CTA_PROTO_SRC_PORT)?, end(2, CTA_PROTO_DST_PORT)?))
}

/// The client's direction as netlink knows it, with the address family.
pub(super) fn tuple((client, port): (IpAddr, u16), to: Endpoint) -> (libc::c_int, Vec<u8>) {
    const NESTED: u16 = 1 << 15;
    let mut tuple = Vec::new();
    // Lengths include the headers.
    let (addresses, protocol) = if to.ip().is_ipv4() { (20, 28) } else { (44, 28) };
    header(&mut tuple, NESTED | CTA_TUPLE_ORIG, 4 + addresses + protocol);
    header(&mut tuple, NESTED | CTA_TUPLE_IP, addresses);
    for (at, ip) in [(0, client), (1, to.ip())] {
        match ip {
            IpAddr::V4(ip) => attribute(&mut tuple, 1 + at, &ip.octets()),
            IpAddr::V6(ip) => attribute(&mut tuple, 3 + at, &ip.octets()),
        }
    }
    header(&mut tuple, NESTED | CTA_TUPLE_PROTO, protocol);
    attribute(&mut tuple, CTA_PROTO_NUM, &[to.protocol().number()]);
    attribute(&mut tuple, CTA_PROTO_SRC_PORT, &port.to_be_bytes());
    attribute(&mut tuple, CTA_PROTO_DST_PORT, &to.port().to_be_bytes());
    (to.family().domain(), tuple)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel tells of an entry, as the attributes follow in a real one: both tuples, the status, what TCP knows,
    /// the number.
    fn message(client: &str, bind: &str, backend: &str, protocol: Protocol, more: (u32, Option<u8>, u8)) -> Vec<u8> {
        let [client, bind, backend] = [client, bind, backend].map(|text| Endpoint::parse(text).unwrap());
        let (status, state, id) = more;
        let (_, mut found) = tuple((client.ip(), client.port()), bind.of_protocol(protocol));
        let (_, mut reply) = tuple((backend.ip(), backend.port()), client.of_protocol(protocol));
        reply[2..4].copy_from_slice(&(CTA_TUPLE_REPLY | 1 << 15).to_ne_bytes());
        found.extend(reply);
        attribute(&mut found, CTA_STATUS, &status.to_be_bytes());
        attribute(&mut found, 7, &[0, 0, 0, 119]);
        if let Some(state) = state {
            let mut tcp = Vec::new();
            attribute(&mut tcp, CTA_PROTOINFO_TCP_STATE, &[state]);
            attribute(&mut tcp, 4, &[0x23, 0]);
            let mut about = Vec::new();
            attribute(&mut about, CTA_PROTOINFO_TCP | 1 << 15, &tcp);
            attribute(&mut found, CTA_PROTOINFO | 1 << 15, &about);
        }
        attribute(&mut found, CTA_ID, &[0, 0, 0, id]);
        found
    }

    fn shown(found: Option<Connection>) -> Option<String> {
        found.map(|Connection { bind, backend, alive, client, .. }| format!("{client} {bind} {backend} {alive}"))
    }

    #[test]
    fn a_line_has_a_bind_and_a_backend() {
        let line = "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.2 dst=166.1.101.2 sport=40000 dport=4444 \
                    src=172.19.0.2 dst=172.19.0.4 sport=5555 dport=40000 [ASSURED] mark=0 zone=0 use=2\n";
        let read = |line: &str| shown(Connection::of_line(line));
        let told = |alive| Some(format!("10.0.0.2:40000 166.1.101.2:4444 172.19.0.2:5555 {alive}"));
        assert_eq!(read(line), told(true));
        assert_eq!(read(&line.replace("ESTABLISHED", "TIME_WAIT")), told(false));
        assert_eq!(read(&line.replace("ESTABLISHED", "SYN_SENT")), told(false));
        let offloaded = line.replace("431999 ESTABLISHED ", "").replace("[ASSURED]", "[OFFLOAD]");
        assert_eq!(read(&offloaded), told(true));
        let six = "ipv6     10 tcp      6 431999 ESTABLISHED src=fd00:0000:0000:0000:0000:0000:0000:0002 \
                   dst=fd00:0000:0000:0000:0000:0000:0000:0001 sport=4 dport=80 src=fd00:0001:0000:0000:0000:0000:0000:0002 \
                   dst=fd00:0001:0000:0000:0000:0000:0000:0001 sport=8080 dport=4 [ASSURED] use=1";
        assert_eq!(read(six), Some("[fd00::2]:4 [fd00::1]:80 [fd00:1::2]:8080 true".into()));
    }

    #[test]
    fn udp_has_no_state_and_is_alive_while_it_has_a_line() {
        let line = "ipv4     2 udp      17 28 src=10.1.0.2 dst=10.9.0.1 sport=40001 dport=53 [UNREPLIED] \
                    src=10.2.0.11 dst=10.2.0.1 sport=53 dport=40001 mark=0 zone=0 use=2\n";
        let told = Some("10.1.0.2:40001 10.9.0.1:53/udp 10.2.0.11:53 true".to_owned());
        assert_eq!(shown(Connection::of_line(line)), told);
        // With nf_conntrack_acct there are counters between the tuples.
        let counted = line.replace("[UNREPLIED]", "packets=2 bytes=58").replace("mark", "packets=1 bytes=29 mark");
        assert_eq!(shown(Connection::of_line(&counted)), told);
        assert_eq!(Connection::of_line(&line.replace("udp ", "udplite ")), None);
    }

    #[test]
    fn what_is_not_balanced_is_known_and_what_is_not_readable_is_left_out() {
        let direct = "ipv4 2 tcp 6 9 ESTABLISHED src=1.1.1.1 dst=2.2.2.2 sport=1 dport=22 src=2.2.2.2 dst=1.1.1.1 sport=22 dport=1";
        for protocol in ["tcp 6 9 ESTABLISHED", "udp 17 9"] {
            let line = direct.replace("tcp 6 9 ESTABLISHED", protocol);
            let found = Connection::of_line(&line).unwrap();
            assert!(!found.is_balanced(), "{found:?}");
            // The backend's port on the same address, or its address with the same port.
            for (ip, port) in [("src=2.2.2.2 dst=1.1.1.1", "sport=23 d"), ("src=2.2.2.3 dst=1.1.1.1", "sport=22 d")] {
                let line = line.replace("src=2.2.2.2 dst=1.1.1.1", ip).replace("sport=22 d", port);
                assert!(Connection::of_line(&line).unwrap().is_balanced(), "{line}");
            }
        }
        for line in ["", "ipv4", "ipv4 2 tcp 6 1 ESTABLISHED src=x dst=y sport=1 dport=2"] {
            assert_eq!(Connection::of_line(line), None);
        }
    }

    #[test]
    fn a_message_says_what_the_line_says() {
        let read = |protocol, status, state| {
            let found = message("10.1.0.2:40001", "10.9.0.1:4444", "10.2.0.11:80", protocol, (status, state, 1));
            shown(Connection::of_message(&found))
        };
        let told = |alive| Some(format!("10.1.0.2:40001 10.9.0.1:4444 10.2.0.11:80 {alive}"));
        for state in 0..=9 {
            // SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT and LAST_ACK of NONE to SYN_SENT2
            assert_eq!(read(Protocol::Tcp, DST_NAT, Some(state)), told((2..=6).contains(&state)), "{state}");
            assert_eq!(read(Protocol::Tcp, DST_NAT | OFFLOAD, Some(state)), told(true), "{state}");
        }
        assert_eq!(read(Protocol::Tcp, DST_NAT, None), told(false));
        let udp = Some("10.1.0.2:40001 10.9.0.1:4444/udp 10.2.0.11:80 true".to_owned());
        assert_eq!(read(Protocol::Udp, DST_NAT, None), udp);
        let six = message("[fd01::2]:4", "[fd09::1]:80", "[fd02::11]:8080", Protocol::Udp, (DST_NAT, None, 1));
        assert_eq!(
            shown(Connection::of_message(&six)),
            Some("[fd01::2]:4 [fd09::1]:80/udp [fd02::11]:8080 true".into())
        );
        let direct = message("10.1.0.2:4", "10.9.0.1:53", "10.9.0.1:53", Protocol::Udp, (0, None, 1));
        assert!(!Connection::of_message(&direct).unwrap().is_balanced());
    }

    #[test]
    fn a_message_of_another_protocol_or_cut_short_is_left_out() {
        let whole = message("10.1.0.2:4", "10.9.0.1:80", "10.2.0.11:80", Protocol::Tcp, (DST_NAT, Some(3), 1));
        let mut icmp = whole.clone();
        // CTA_PROTO_NUM of the first tuple: after the headers of the tuple, the addresses and the protocol.
        assert_eq!(icmp[4 + 20 + 4 + 4], 6);
        icmp[4 + 20 + 4 + 4] = 1;
        assert_eq!(Connection::of_message(&icmp), None);
        for length in 0..whole.len() {
            // The beginning may be enough, and must not be misread.
            let found = Connection::of_message(&whole[..length]);
            assert!(found.is_none_or(|found| found.bind.port() == 80 && found.backend.port() == 80), "{length}");
        }
    }
}
