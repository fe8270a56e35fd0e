//! The connections that the kernel tracks for us: read from `/proc/net/nf_conntrack`, ended by netlink.

use std::io;
use std::net::IpAddr;

use crate::error::{plain, Error};
use crate::net::Endpoint;
use crate::sys::file;
use crate::sys::netlink::{attribute, header, Netlink, FORGET};

/// States in which a connection can still carry something (nf_conntrack_proto_tcp.c). The others have ended.
const ALIVE: [&str; 5] = ["ESTABLISHED", "SYN_RECV", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK"];

const TABLE: &str = "/proc/net/nf_conntrack";

/// A connection that was balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Where the client connected to.
    pub bind: Endpoint,
    /// Who serves it.
    pub backend: Endpoint,
    /// It can still carry something.
    alive: bool,
    client: Endpoint,
}

/// All living connections to `binds`; nothing where the kernel does not list them (no root, no such file).
pub fn connections(binds: &[Endpoint]) -> Option<Vec<Connection>> {
    let mut found = list(binds).ok()?;
    found.retain(|connection| connection.alive);
    Some(found)
}

fn list(binds: &[Endpoint]) -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    // The table can be long.
    if !binds.is_empty() {
        file::each_line(file::open(TABLE, libc::O_RDONLY)?, &mut |line| {
            found.extend(parse(line).filter(|connection| binds.contains(&connection.bind)));
        })?;
    }
    Ok(found)
}

/// Ends connections to `binds`, whatever their state: the kernel forgets where they went. A client that still waits for
/// its first answer gets another backend at its next try; one that was served gets an RST at its next packet.
pub fn forget(binds: &[Endpoint], whose: &dyn Fn(&Connection) -> bool) -> Result<usize, Error> {
    let mut found = list(binds).map_err(cannot)?;
    found.retain(whose);
    end(&found).map_err(cannot)
}

/// Whether [`forget`] can do anything on this host: asks for the end of a connection that cannot be.
pub fn can_forget() -> Result<(), Error> {
    file::open(TABLE, libc::O_RDONLY).map_err(cannot)?;
    // Of those for documentation (RFC 5737), and to itself.
    let nobody = Endpoint::parse("192.0.2.1:1")?;
    end(&[Connection { bind: nobody, backend: nobody, alive: false, client: nobody }]).map(|_| ()).map_err(cannot)
}

fn cannot(error: io::Error) -> Error {
    Error::system(format_args!(
        "cannot end connections to backends that are gone ({}); the kernel needs CONFIG_NF_CT_NETLINK and {TABLE} \
         (OpenWrt: kmod-nf-conntrack-netlink)",
        plain(&error)
    ))
}

fn end(connections: &[Connection]) -> io::Result<usize> {
    let mut ended = 0;
    if !connections.is_empty() {
        let mut netlink = Netlink::open()?;
        for connection in connections {
            let (family, tuple) = connection.tuple();
            match netlink.ask(FORGET, family, &tuple) {
                Ok(_) => ended += 1,
                // It has ended by itself.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ended)
}

impl Connection {
    /// The client's direction as netlink knows it (linux/netfilter/nfnetlink_conntrack.h), with the address family.
    fn tuple(&self) -> (libc::c_int, Vec<u8>) {
        const NESTED: u16 = 1 << 15;
        let Connection { client, bind, .. } = self;
        let mut tuple = Vec::new();
        // CTA_TUPLE_ORIG of CTA_TUPLE_IP and CTA_TUPLE_PROTO, each with its length, header and all.
        let (addresses, protocol) = if bind.ip().is_ipv4() { (20, 28) } else { (44, 28) };
        header(&mut tuple, NESTED | 1, 4 + addresses + protocol);
        header(&mut tuple, NESTED | 1, addresses);
        for (at, ip) in [(0, client.ip()), (1, bind.ip())] {
            match ip {
                // CTA_IP_V4_SRC and _DST, CTA_IP_V6_SRC and _DST
                IpAddr::V4(ip) => attribute(&mut tuple, 1 + at, &ip.octets()),
                IpAddr::V6(ip) => attribute(&mut tuple, 3 + at, &ip.octets()),
            }
        }
        header(&mut tuple, NESTED | 2, protocol);
        // CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT
        attribute(&mut tuple, 1, &[libc::IPPROTO_TCP as u8]);
        attribute(&mut tuple, 2, &client.port().to_be_bytes());
        attribute(&mut tuple, 3, &bind.port().to_be_bytes());
        (bind.family().domain(), tuple)
    }
}

/// One line: the tuple of the client's packets first, then that of the answers.
fn parse(line: &str) -> Option<Connection> {
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == "tcp")?;
    // Its number, the seconds that are left, its state. Of an offloaded flow, which lives, only the number is told.
    let mut state = "";
    // Source, destination, and the ports of both, of each tuple.
    let (mut values, mut seen) = ([""; 8], 0);
    for word in words {
        match word.split_once('=') {
            // No other key begins like them; what comes after them is not asked for.
            Some((key, value)) if key.starts_with(['s', 'd']) => {
                values.iter_mut().skip(seen).take(1).for_each(|place| *place = value);
                seen += 1;
            }
            None if seen == 0 => state = word,
            _ => {}
        }
    }
    let [client, to, client_port, to_port, from, _, from_port, _] = values;
    let (client, bind) = (Endpoint::of(client, client_port)?, Endpoint::of(to, to_port)?);
    let backend = Endpoint::of(from, from_port)?;
    // A connection to an address of ours that was not sent on is not balanced.
    (bind != backend).then_some(Connection { bind, backend, alive: state == "6" || ALIVE.contains(&state), client })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<(String, String)> {
        parse(line).map(|found| (found.bind.to_string(), found.backend.to_string()))
    }

    #[test]
    fn a_balanced_connection_has_a_bind_and_a_backend() {
        let line = "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.2 dst=166.1.101.2 sport=40000 dport=4444 \
                    src=172.19.0.2 dst=172.19.0.4 sport=5555 dport=40000 [ASSURED] mark=0 zone=0 use=2\n";
        assert_eq!(parsed(line), Some(("166.1.101.2:4444".into(), "172.19.0.2:5555".into())));
        assert!(parse(line).unwrap().alive && !parse(&line.replace("ESTABLISHED", "TIME_WAIT")).unwrap().alive);
        let offloaded = line.replace("431999 ESTABLISHED ", "").replace("[ASSURED]", "[OFFLOAD]");
        assert!(parse(&offloaded).unwrap().alive);
        assert_eq!(parsed(&line.replace("tcp ", "udp ")), None);
        let six = "ipv6     10 tcp      6 431999 ESTABLISHED src=fd00:0000:0000:0000:0000:0000:0000:0002 \
                   dst=fd00:0000:0000:0000:0000:0000:0000:0001 sport=4 dport=80 src=fd00:0001:0000:0000:0000:0000:0000:0002 \
                   dst=fd00:0001:0000:0000:0000:0000:0000:0001 sport=8080 dport=4 [ASSURED] use=1";
        assert_eq!(parsed(six), Some(("[fd00::1]:80".into(), "[fd00:1::2]:8080".into())));
    }

    #[test]
    fn what_is_not_balanced_or_not_readable_is_left_out() {
        let direct = "ipv4 2 tcp 6 9 ESTABLISHED src=1.1.1.1 dst=2.2.2.2 sport=1 dport=22 src=2.2.2.2 dst=1.1.1.1 sport=22 dport=1";
        for line in ["", "ipv4", "ipv4 2 tcp 6 1 ESTABLISHED src=x dst=y sport=1 dport=2", direct] {
            assert_eq!(parsed(line), None);
        }
    }
}
