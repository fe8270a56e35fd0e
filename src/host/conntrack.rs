//! Connections that the kernel tracks for us: read from `/proc/net/nf_conntrack`, ended by netlink.

use std::io;
use std::net::IpAddr;
use std::sync::Mutex;

use crate::error::{fail, plain, Error};
use crate::net::Endpoint;
use crate::sys::file;
use crate::sys::log::{self, count};
use crate::sys::netlink::{attribute, find, header, Netlink, FORGET, LOOK_UP};

/// States in which a connection can still carry data (nf_conntrack_proto_tcp.c). In the others it has ended.
const ALIVE: [&str; 5] = ["ESTABLISHED", "SYN_RECV", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK"];

const TABLE: &str = "/proc/net/nf_conntrack";

/// The attribute with the number of an entry, which no other entry has (linux/netfilter/nfnetlink_conntrack.h).
const CTA_ID: u16 = 12;

/// A connection that was balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Where the client connected to.
    pub bind: Endpoint,
    /// Where its packets go.
    pub backend: Endpoint,
    /// It can still carry data.
    alive: bool,
    client: Endpoint,
}

#[cfg(test)]
impl Connection {
    /// A living one, for tests of others.
    pub fn living(bind: Endpoint, backend: Endpoint) -> Self {
        Connection { bind, backend, alive: true, client: bind }
    }
}

/// All living connections to `binds`; `None` if the kernel does not list them (not root, no CONFIG_NF_CONNTRACK_PROCFS).
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
            if let Some(connection) = parse(line) {
                if binds.contains(&connection.bind) {
                    found.push(connection);
                }
            }
        })?;
    }
    Ok(found)
}

/// What became of connections that were to end.
#[derive(Debug, Default)]
pub struct Forgotten {
    /// So many have ended.
    pub ended: usize,
    /// So many have not, and can be tried again.
    pub left: usize,
    /// The first error; `None` if all that are left are offloaded to a flow table (EBUSY before Linux 6.4), which ends
    /// by itself.
    pub error: Option<Error>,
}

impl Forgotten {
    /// How many have ended; an error if there are any left.
    pub fn complete(self) -> Result<usize, Error> {
        let Forgotten { ended, left, error } = self;
        match error {
            Some(error) => Err(error),
            None if left == 0 => Ok(ended),
            None => fail!(
                "{} cannot be ended while a flow table forwards them (this kernel refuses it); try again later",
                count(left, "connection")
            ),
        }
    }
}

/// Ends connections to `binds` that `whose` chooses, in any state: the kernel forgets where they went. A client that
/// still waits for its first answer gets another backend at its next try; one that was served gets an RST at its next
/// packet. An error does not keep the other connections from being ended.
pub fn forget(binds: &[Endpoint], whose: &dyn Fn(&Connection) -> bool) -> Forgotten {
    let failed = |error| Forgotten { error: Some(cannot(error)), ..Forgotten::default() };
    let mut found = match list(binds) {
        Ok(found) => found,
        Err(error) => return failed(error),
    };
    found.retain(whose);
    if found.is_empty() {
        return Forgotten::default();
    }
    match Netlink::open() {
        Ok(mut netlink) => end_all(&found, &mut |kind, family, about| netlink.ask(kind, family, about)),
        Err(error) => Forgotten { left: found.len(), ..failed(error) },
    }
}

/// Whether [`forget`] can do anything on this host: looks up a connection that cannot exist.
pub fn can_forget() -> Result<(), Error> {
    file::open(TABLE, libc::O_RDONLY).map_err(cannot)?;
    // An address for documentation (RFC 5737), from itself to itself.
    let nobody = Endpoint::parse("192.0.2.1:1")?;
    let connection = Connection { bind: nobody, backend: nobody, alive: false, client: nobody };
    let mut netlink = Netlink::open().map_err(cannot)?;
    end_all(&[connection], &mut |kind, family, about| netlink.ask(kind, family, about)).complete().map(|_| ())
}

/// For [`forget_own`]: the socket, and whether the kernel has refused.
static OWN: Mutex<(Option<Netlink>, bool)> = Mutex::new((None, false));

/// Forgets a connection of this host itself, from `from` to `to`. Where the kernel cannot (it lacks CONFIG_NF_CT_NETLINK),
/// it is not asked again: each time it might look for a module, by a program.
pub fn forget_own(from: (IpAddr, u16), to: Endpoint) {
    let Ok(mut own) = OWN.lock() else { return };
    let (netlink, refused) = &mut *own;
    if *refused {
        return;
    }
    let (family, about) = tuple(from, to);
    let open = match netlink.take() {
        Some(open) => Ok(open),
        None => Netlink::open(),
    };
    let done = open.and_then(|mut open| {
        let done = open.ask(FORGET, family, &about);
        *netlink = Some(open);
        done
    });
    if let Err(error) = done {
        match error.raw_os_error() {
            // It is not tracked.
            Some(libc::ENOENT) => {}
            Some(libc::ENOMEM | libc::ENOBUFS | libc::ENFILE | libc::EMFILE | libc::ETIMEDOUT | libc::EBUSY) => {
                *netlink = None
            }
            _ => {
                *refused = true;
                log::detail!("the entries of health checks stay in the connection table: {}", plain(&error));
            }
        }
    }
}

fn cannot(error: io::Error) -> Error {
    Error::system(format_args!(
        "cannot end connections to backends that are gone ({}); the kernel needs CONFIG_NF_CT_NETLINK and {TABLE} \
         (OpenWrt: kmod-nf-conntrack-netlink)",
        plain(&error)
    ))
}

/// Asks the kernel: [`Netlink::ask`].
type Ask<'a> = dyn FnMut(u16, libc::c_int, &[u8]) -> io::Result<Vec<u8>> + 'a;

fn end_all(connections: &[Connection], ask: &mut Ask) -> Forgotten {
    let mut done = Forgotten::default();
    for (at, connection) in connections.iter().enumerate() {
        let failed = match connection.end(ask) {
            Ok(ended) => {
                done.ended += usize::from(ended);
                continue;
            }
            Err(error) => error,
        };
        done.left += 1;
        if failed.raw_os_error() == Some(libc::EBUSY) {
            continue;
        }
        let silent = failed.raw_os_error() == Some(libc::ETIMEDOUT);
        if done.error.is_none() {
            done.error = Some(cannot(failed));
        }
        // Each of the others could take as long to fail.
        if silent {
            done.left += connections.len() - at - 1;
            break;
        }
    }
    done
}

impl Connection {
    /// Ends it; `false` if it has ended by itself. The table was read a while ago: by now a new connection of the same
    /// client may have the same addresses and ports, and go to another backend. So the kernel is asked where it goes
    /// now, and to forget it only while it is still the same entry.
    fn end(&self, ask: &mut Ask) -> io::Result<bool> {
        let (family, mut about) = tuple((self.client.ip(), self.client.port()), self.bind);
        let done = ask(LOOK_UP, family, &about).and_then(|found| {
            let Some(id) = self.id(&found) else { return Ok(false) };
            attribute(&mut about, CTA_ID, id);
            ask(FORGET, family, &about).map(|_| true)
        });
        match done {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            done => done,
        }
    }

    /// The number of the entry that the kernel has found (CTA_ID), if its answers come from this backend.
    fn id<'a>(&self, found: &'a [u8]) -> Option<&'a [u8]> {
        // CTA_TUPLE_REPLY, and in it CTA_TUPLE_IP and CTA_TUPLE_PROTO
        let answers = find(found, 2)?;
        let (addresses, ports) = (find(answers, 1)?, find(answers, 2)?);
        let from = match self.backend.ip() {
            IpAddr::V4(ip) => find(addresses, 1)? == ip.octets(),
            IpAddr::V6(ip) => find(addresses, 3)? == ip.octets(),
        };
        let same = from && find(ports, 2)? == self.backend.port().to_be_bytes();
        find(found, CTA_ID).filter(|_| same)
    }
}

/// The client's direction as netlink knows it (linux/netfilter/nfnetlink_conntrack.h), with the address family.
fn tuple((client, port): (IpAddr, u16), to: Endpoint) -> (libc::c_int, Vec<u8>) {
    const NESTED: u16 = 1 << 15;
    let mut tuple = Vec::new();
    // CTA_TUPLE_ORIG with CTA_TUPLE_IP and CTA_TUPLE_PROTO; lengths include the headers.
    let (addresses, protocol) = if to.ip().is_ipv4() { (20, 28) } else { (44, 28) };
    header(&mut tuple, NESTED | 1, 4 + addresses + protocol);
    header(&mut tuple, NESTED | 1, addresses);
    for (at, ip) in [(0, client), (1, to.ip())] {
        match ip {
            // CTA_IP_V4_SRC and _DST, CTA_IP_V6_SRC and _DST
            IpAddr::V4(ip) => attribute(&mut tuple, 1 + at, &ip.octets()),
            IpAddr::V6(ip) => attribute(&mut tuple, 3 + at, &ip.octets()),
        }
    }
    header(&mut tuple, NESTED | 2, protocol);
    // CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT
    attribute(&mut tuple, 1, &[libc::IPPROTO_TCP as u8]);
    attribute(&mut tuple, 2, &port.to_be_bytes());
    attribute(&mut tuple, 3, &to.port().to_be_bytes());
    (to.family().domain(), tuple)
}

/// Reads a line of the table: the addresses and ports of the client's packets come first, then those of the answers.
fn parse(line: &str) -> Option<Connection> {
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == "tcp")?;
    // Before them: protocol number, seconds left, state. An offloaded flow, which is alive, has only the number.
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
    // If the answers come from where the client connected to, its destination was not changed: not balanced.
    (bind != backend).then_some(Connection { bind, backend, alive: state == "6" || ALIVE.contains(&state), client })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<(String, String)> {
        parse(line).map(|found| (found.bind.to_string(), found.backend.to_string()))
    }

    /// What the kernel answers to [`LOOK_UP`] for a connection to this backend.
    fn entry(backend: &str, id: u8) -> Vec<u8> {
        let backend = Endpoint::parse(backend).unwrap();
        // As a request has them, with the backend in the place of the client; CTA_TUPLE_ORIG becomes CTA_TUPLE_REPLY.
        let (_, mut found) = tuple((backend.ip(), backend.port()), backend);
        found[2..4].copy_from_slice(&(2_u16 | 1 << 15).to_ne_bytes());
        attribute(&mut found, CTA_ID, &[0, 0, 0, id]);
        found
    }

    fn to(backend: &str, client: &str) -> Connection {
        let (bind, client) = (Endpoint::parse("10.0.0.1:80").unwrap(), Endpoint::parse(client).unwrap());
        Connection { bind, backend: Endpoint::parse(backend).unwrap(), alive: true, client }
    }

    #[test]
    fn only_the_entry_that_was_meant_is_ended() {
        let connection = to("10.0.1.1:8080", "10.1.0.1:1");
        let mut forgotten = Vec::new();
        let mut end = |found: Vec<u8>| {
            end_all(&[connection], &mut |kind, _, about| {
                if kind == FORGET {
                    forgotten.push(find(about, CTA_ID).map(<[u8]>::to_vec));
                }
                Ok(found.clone())
            })
            .ended
        };
        assert_eq!(end(entry("10.0.1.1:8080", 7)), 1);
        // The client has come back with the same port, and another backend or a part of its port serves it.
        assert_eq!(
            end(entry("10.0.1.2:8080", 8)) + end(entry("10.0.1.1:8081", 8)) + end(entry("[fd00::1]:8080", 8)),
            0
        );
        assert_eq!(end(Vec::new()), 0);
        assert_eq!(forgotten, [Some(vec![0, 0, 0, 7])]);
    }

    #[test]
    fn one_error_does_not_end_the_round() {
        let connections =
            ["10.1.0.1:1", "10.1.0.1:2", "10.1.0.1:3", "10.1.0.1:4"].map(|client| to("10.0.1.1:80", client));
        let round = |failures: &[libc::c_int]| {
            let mut failures = failures.iter();
            let done = end_all(&connections, &mut |kind, _, _| match kind {
                FORGET => match failures.next() {
                    Some(0) | None => Ok(Vec::new()),
                    Some(error) => Err(io::Error::from_raw_os_error(*error)),
                },
                _ => Ok(entry("10.0.1.1:80", 1)),
            });
            (done.ended, done.left, done.error.map(|error| error.to_string()))
        };
        assert_eq!(round(&[]), (4, 0, None));
        assert_eq!(round(&[0, libc::ENOENT, 0, 0]), (3, 0, None));
        assert_eq!(round(&[libc::EBUSY, 0, libc::EBUSY, 0]), (2, 2, None));
        let (ended, left, error) = round(&[libc::EBUSY, libc::ENOMEM, libc::EPERM, 0]);
        assert!(
            ended == 1 && left == 3 && error.as_ref().is_some_and(|error| error.contains("Cannot allocate memory")),
            "{error:?}"
        );
        // The kernel is silent: the others would be as slow.
        let (ended, left, error) = round(&[0, libc::ETIMEDOUT, 0, 0]);
        assert!(ended == 1 && left == 3 && error.is_some());
        let busy = Forgotten { ended: 1, left: 2, error: None }.complete().unwrap_err().to_string();
        assert!(busy.starts_with("2 connections cannot be ended while a flow table forwards them"), "{busy}");
        assert_eq!(Forgotten { ended: 1, left: 0, error: None }.complete().unwrap(), 1);
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
