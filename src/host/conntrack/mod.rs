//! Connections and flows of datagrams that the kernel tracks for us: listed and ended by netlink.

mod entry;

use std::io;
use std::net::IpAddr;
use std::sync::Mutex;

pub use self::entry::Connection;
use self::entry::{tuple, CTA_ID, CTA_STATUS, DST_NAT};
use crate::error::{fail, plain, Error};
use crate::net::{Endpoint, Protocol};
use crate::service::Bind;
use crate::sys::file;
use crate::sys::log::{self, count};
use crate::sys::netlink::{attribute, Netlink, FORGET, LOOK_UP};

/// The same table for kernels without CONFIG_NF_CT_NETLINK. Others lack this file (CONFIG_NF_CONNTRACK_PROCFS).
const TABLE: &str = "/proc/net/nf_conntrack";

/// All living connections and flows to `binds` that are balanced; `None` if the kernel does not list them (not root, or it
/// has neither way).
pub fn connections(binds: &[Bind]) -> Option<Vec<Connection>> {
    let mut found = list(binds, true).ok()?;
    found.retain(|connection| connection.alive);
    Some(found)
}

/// Flows of datagrams to those of `binds` that are UDP, or from there, which are not balanced: they began before our rules were
/// there, and rules for NAT see only the first packet of a flow.
pub fn begun_before(binds: &[Bind]) -> io::Result<Vec<Connection>> {
    let mut udp = Vec::new();
    for bind in binds {
        if bind.at.protocol() == Protocol::Udp {
            udp.push(bind.clone());
        }
    }
    list(&udp, false)
}

/// All entries to `binds` in any state: those that are `balanced`, or those that are not. None is kept in memory but these,
/// since the table can be long.
fn list(binds: &[Bind], balanced: bool) -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    if binds.is_empty() {
        return Ok(found);
    }
    let take = |mut one: Connection, found: &mut Vec<Connection>| {
        if one.is_balanced() == balanced {
            // Of a flow that this host has begun from there, what comes back is not balanced either.
            let own = one.client.of_protocol(one.to.protocol());
            if let Some(bind) = binds.iter().find(|bind| bind.has(&one.to) || !balanced && bind.has(&own)) {
                one.bind = bind.at;
                found.push(one);
            }
        }
    };
    // Kernels that know it send only entries with this bit; older ones send all.
    let mut about = Vec::new();
    if balanced {
        attribute(&mut about, CTA_STATUS, &DST_NAT.to_be_bytes());
    }
    let told = Netlink::open().and_then(|mut netlink| {
        netlink.each(LOOK_UP, libc::AF_UNSPEC, &about, &mut |entry| match entry.map(Connection::of_message) {
            None => found.clear(),
            Some(Some(one)) => take(one, &mut found),
            Some(None) => {}
        })
    });
    let Err(refused) = told else { return Ok(found) };
    found.clear();
    let read = file::open(TABLE, libc::O_RDONLY).and_then(|table| {
        file::each_line(table, &mut |line| {
            if let Some(one) = Connection::of_line(line) {
                take(one, &mut found);
            }
        })
    });
    match read {
        Ok(()) => Ok(found),
        Err(_) => Err(refused),
    }
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
/// packet; of UDP, the next datagram goes where a new one would. An error does not keep the other connections from being
/// ended.
pub fn forget(binds: &[Bind], whose: &dyn Fn(&Connection) -> bool) -> Forgotten {
    forget_all(list(binds, true), whose)
}

/// Ends the flows that [`begun_before`] finds: the next datagram of each is balanced.
pub fn forget_begun_before(binds: &[Bind]) -> Forgotten {
    forget_all(begun_before(binds), &|_| true)
}

fn forget_all(found: io::Result<Vec<Connection>>, whose: &dyn Fn(&Connection) -> bool) -> Forgotten {
    let failed = |error| Forgotten { error: Some(cannot(error)), ..Forgotten::default() };
    let mut found = match found {
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
    // An address for documentation (RFC 5737), from itself to itself.
    let nobody = Endpoint::parse("192.0.2.1:1")?;
    let connection = Connection { bind: nobody, to: nobody, backend: nobody, alive: false, client: nobody };
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
        "cannot end connections to backends that are gone ({}); the kernel needs CONFIG_NF_CT_NETLINK (OpenWrt: \
         kmod-nf-conntrack-netlink)",
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
        let (family, mut about) = self.tuple();
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netlink::find;

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
        Connection { bind, to: bind, backend: Endpoint::parse(backend).unwrap(), alive: true, client }
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
}
