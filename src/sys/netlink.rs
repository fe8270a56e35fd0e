//! Netlink messages to netfilter and to the routes (RFC 3549; linux/netfilter/nfnetlink.h, rtnetlink(7)), for what no
//! program of the host tells.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use crate::sys::poll;
use crate::sys::socket;

/// The high byte of a message type: NFNL_SUBSYS_NFTABLES and NFNL_SUBSYS_CTNETLINK.
const NFTABLES: u16 = 10 << 8;
const CONNTRACK: u16 = 1 << 8;

/// NFT_MSG_GETGEN: the generation number of nf_tables' rules, which each change raises.
const GENERATION: u16 = NFTABLES | 16;
/// NFT_MSG_GETTABLE: tables of nf_tables.
pub const TABLES: u16 = NFTABLES | 1;
/// NFT_MSG_GETCHAIN: chains of nf_tables.
pub const CHAINS: u16 = NFTABLES | 4;
/// NFT_MSG_GETRULE: rules of nf_tables.
pub const RULES: u16 = NFTABLES | 7;
/// NFT_MSG_GETSET: sets and maps of nf_tables.
pub const SETS: u16 = NFTABLES | 10;
/// NFT_MSG_GETSETELEM: elements of a set or map of nf_tables.
pub const ELEMENTS: u16 = NFTABLES | 13;
/// NFT_MSG_GETOBJ: objects of nf_tables, such as counters.
pub const OBJECTS: u16 = NFTABLES | 19;
/// IPCTNL_MSG_CT_GET: what is known of a connection.
pub const LOOK_UP: u16 = CONNTRACK | 1;
/// IPCTNL_MSG_CT_DELETE: forget a connection.
pub const FORGET: u16 = CONNTRACK | 2;

/// RTM_GETADDR (rtnetlink(7)): addresses of this host.
pub const ADDRESSES: u16 = 22;
/// RTM_GETROUTE: the way of a packet.
pub const WAY: u16 = 26;
/// RTM_GETRULE: rules of policy routing.
pub const POLICY: u16 = 34;

/// NLM_F_REQUEST; NLM_F_ACK for a request that has no answer but success; NLM_F_DUMP for all things of a kind.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;

/// NLMSG_ERROR, which also tells of success, and NLMSG_DONE after the last part of a dump.
pub(super) const ERROR: u16 = 2;
const DONE: u16 = 3;

/// NLM_F_DUMP_INTR: something was changed while it was dumped, so the parts do not fit together.
const TORN: u16 = 0x10;

/// Bytes of nlmsghdr, which each message begins with.
const HEADER: usize = 16;

/// Bytes of nfgenmsg, which follows in messages of netfilter: family, version, resource.
const NETFILTER: usize = 4;

/// How long the kernel may take to answer, in milliseconds. It answers before write(2) returns; but an answer for which
/// it had no memory never comes.
const PATIENCE: u64 = 1000;

/// Bytes for a single answer, and for a dump, which the kernel sends in pieces of at most this size.
const MOST: usize = 8 * 1024;
const MOST_OF_DUMP: usize = 32 * 1024;

/// How often a request is sent whose answer was lost (ENOBUFS, EINTR).
const TRIES: usize = 3;

/// RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR: messages about addresses.
const OF_ADDRESSES: u32 = 0x110;

/// Tells that addresses of this host have come or gone (rtnetlink(7)).
#[derive(Debug)]
pub struct Addresses(File);

impl Addresses {
    /// From now on.
    pub fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK;
        let socket = socket::open(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE)?;
        socket::join(&socket, OF_ADDRESSES)?;
        Ok(Addresses(socket))
    }

    /// For poll(2): readable when there is something to tell.
    pub fn descriptor(&self) -> libc::c_int {
        self.0.as_raw_fd()
    }

    /// Whether any has since the last call. What was lost for want of space (ENOBUFS) counts.
    pub fn changed(&mut self) -> bool {
        let mut changed = false;
        let mut buffer = [0; 1024];
        for _ in 0..MOST_EVENTS {
            match self.0.read(&mut buffer) {
                Ok(1..) => changed = true,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                _ => break,
            }
        }
        changed
    }
}

/// How many messages are read at a time.
const MOST_EVENTS: usize = 1000;

/// A socket to netfilter or to the routes.
#[derive(Debug)]
pub struct Netlink {
    socket: File,
    /// Bytes before the attributes of an answer that are left out.
    skip: usize,
    /// Of the last request, so that a late answer to one that was repeated is not taken for the answer to the next one.
    sequence: u32,
    /// For answers. It is made with the first request.
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens one to netfilter.
    pub fn open() -> io::Result<Self> {
        Self::open_to(libc::NETLINK_NETFILTER, HEADER + NETFILTER)
    }

    /// Opens one to the routes. What it sends and returns begins with the header of its kind (rtmsg and others), which the
    /// attributes follow.
    pub fn open_route() -> io::Result<Self> {
        Self::open_to(libc::NETLINK_ROUTE, HEADER)
    }

    fn open_to(protocol: libc::c_int, skip: usize) -> io::Result<Self> {
        let socket = socket::open(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
        Ok(Netlink { socket, skip, sequence: 0, buffer: Vec::new() })
    }

    /// Sends one request about a family (AF_INET, AF_INET6, or AF_UNSPEC) and returns the attributes of its answer. An
    /// error is the kernel's, or ETIMEDOUT. A request can reach the kernel twice.
    pub fn ask(&mut self, kind: u16, family: libc::c_int, attributes: &[u8]) -> io::Result<Vec<u8>> {
        let flags = if kind == FORGET { REQUEST | ACKNOWLEDGE } else { REQUEST };
        self.gather(kind, flags, &netfilter(family), attributes)
    }

    /// The same to the routes.
    pub fn ask_route(&mut self, kind: u16, request: &[u8]) -> io::Result<Vec<u8>> {
        self.gather(kind, REQUEST, &[], request)
    }

    /// Asks for all things of a kind and a family, and calls `take` with the attributes of each. After an error not all
    /// have been taken.
    pub fn list(&mut self, kind: u16, family: libc::c_int, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.list_of(kind, family, &[], take)
    }

    /// The same of what these attributes name.
    pub fn list_of(
        &mut self,
        kind: u16,
        family: libc::c_int,
        attributes: &[u8],
        take: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        self.list_all(kind, &netfilter(family), attributes, take)
    }

    /// The same from the routes.
    pub fn list_route(&mut self, kind: u16, family: libc::c_int, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        // All kinds begin with the family; rtmsg and fib_rule_hdr have 12 bytes, ifaddrmsg has 8.
        self.list_all(kind, &[family as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], take)
    }

    /// The same as [`list_of`](Self::list_of), all of it at once; [`part`] takes it apart.
    pub fn collect(&mut self, kind: u16, family: libc::c_int, attributes: &[u8]) -> io::Result<Vec<u8>> {
        self.gather(kind, REQUEST | DUMP, &netfilter(family), attributes)
    }

    /// The same as [`list_of`](Self::list_of), but each part is taken as it comes, so that a long list is never in memory
    /// as a whole. `None` says that the list begins anew: what was taken before does not count.
    pub fn each(
        &mut self,
        kind: u16,
        family: libc::c_int,
        attributes: &[u8],
        take: &mut dyn FnMut(Option<&[u8]>),
    ) -> io::Result<()> {
        self.repeat(kind, REQUEST | DUMP, &netfilter(family), attributes, take)
    }

    /// The same as the function of this name.
    pub fn generation(&mut self) -> Option<u64> {
        // NFTA_GEN_ID, the first attribute of the answer.
        let answer = self.ask(GENERATION, libc::AF_UNSPEC, &[]).ok()?;
        Some(u32::from_be_bytes(answer.get(4..8)?.try_into().ok()?).into())
    }

    fn list_all(&mut self, kind: u16, header: &[u8], attributes: &[u8], take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let all = self.gather(kind, REQUEST | DUMP, header, attributes)?;
        let mut rest = all.as_slice();
        while let Some(attributes) = part(&mut rest) {
            take(attributes);
        }
        Ok(())
    }

    /// The attributes of an answer, or all those of a dump, as [`append`] puts them together.
    fn gather(&mut self, kind: u16, flags: u16, header: &[u8], attributes: &[u8]) -> io::Result<Vec<u8>> {
        let mut found = Vec::new();
        self.repeat(kind, flags, header, attributes, &mut |content| match content {
            None => found.clear(),
            Some(content) if flags & DUMP == DUMP => append(&mut found, content),
            Some(content) => found.extend_from_slice(content),
        })?;
        Ok(found)
    }

    fn repeat(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        attributes: &[u8],
        take: &mut dyn FnMut(Option<&[u8]>),
    ) -> io::Result<()> {
        let mut tries = 1;
        loop {
            take(None);
            match self.exchange(kind, flags, header, attributes, take) {
                Err(error) if tries < TRIES && matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EINTR)) => {
                    tries += 1;
                }
                answer => return answer,
            }
        }
    }

    /// Sends a request, and calls `take` with the attributes of the answer, or of each part of a dump.
    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        attributes: &[u8],
        take: &mut dyn FnMut(Option<&[u8]>),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let ([a, b], [c, d]) = (kind.to_ne_bytes(), flags.to_ne_bytes());
        let mut request = Vec::new();
        // The last one is the sender's port, which the kernel fills in.
        for word in
            [(HEADER + header.len() + attributes.len()) as u32, u32::from_ne_bytes([a, b, c, d]), self.sequence, 0]
        {
            request.extend_from_slice(&word.to_ne_bytes());
        }
        request.extend_from_slice(header);
        request.extend_from_slice(attributes);
        self.socket.write_all(&request)?;

        // What is written there takes memory.
        let most = if flags & DUMP == DUMP { MOST_OF_DUMP } else { MOST };
        if self.buffer.len() < most {
            self.buffer.resize(most, 0);
        }
        let mut torn = false;
        let refused = loop {
            let mut rest = receive(&mut self.socket, &mut self.buffer)?;
            let number = loop {
                let Some(message) = message(&mut rest) else {
                    break (!rest.is_empty()).then_some(libc::EMSGSIZE);
                };
                if message.sequence != self.sequence {
                    continue;
                }
                torn |= message.flags & TORN != 0;
                let content = message.bytes.get(self.skip..).unwrap_or_default();
                match message.kind {
                    DONE if torn => break Some(libc::EINTR),
                    DONE => break Some(0),
                    ERROR => break Some(message.error()),
                    _ => {
                        take(Some(content));
                        if flags & DUMP != DUMP {
                            break Some(0);
                        }
                    }
                }
            };
            if let Some(number) = number {
                break number;
            }
        };
        match refused {
            0 => Ok(()),
            number => Err(io::Error::from_raw_os_error(number)),
        }
    }
}

/// Waits for an answer of the kernel's and receives what fits of it.
#[inline(never)]
pub(super) fn receive<'a>(socket: &mut File, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut events = [poll::pollfd(socket.as_raw_fd(), libc::POLLIN)];
    poll::wait(&mut events, PATIENCE);
    if events.iter().all(|event| event.revents == 0) {
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    let length = socket.read(buffer)?;
    Ok(buffer.get(..length).unwrap_or_default())
}

/// A message of the kernel's.
pub(super) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// All of it.
    pub bytes: &'a [u8],
}

impl Message<'_> {
    /// The error number in an [`ERROR`]; 0 is success.
    pub(super) fn error(&self) -> i32 {
        word(self.bytes, HEADER).map_or(libc::EIO, |error| (error as i32).wrapping_neg())
    }
}

/// Takes the first message from the others; none if no whole one is left.
#[inline(never)]
pub(super) fn message<'a>(rest: &mut &'a [u8]) -> Option<Message<'a>> {
    // nlmsghdr: length, type and flags (16 bits each), sequence, port.
    let size = word(rest, 0)? as usize;
    let bytes = rest.get(..size)?;
    let [a, b, c, d] = word(bytes, 4)?.to_ne_bytes();
    let sequence = word(bytes, 8)?;
    // Messages begin at multiples of four bytes.
    *rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    Some(Message { kind: u16::from_ne_bytes([a, b]), flags: u16::from_ne_bytes([c, d]), sequence, bytes })
}

/// The generation of all rules of nf_tables, which each change of anybody raises.
pub fn generation() -> Option<u64> {
    Netlink::open().ok()?.generation()
}

/// nfgenmsg: family, version, resource.
fn netfilter(family: libc::c_int) -> [u8; NETFILTER] {
    [family as u8, 0, 0, 0]
}

/// Takes the attributes of the first thing from a list ([`Netlink::collect`]).
pub fn part<'a>(list: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = word(list, 0)? as usize;
    let attributes = list.get(4..length)?;
    *list = list.get(length..).unwrap_or_default();
    Some(attributes)
}

/// Appends the attributes of a thing to a list.
pub fn append(list: &mut Vec<u8>, attributes: &[u8]) {
    list.extend_from_slice(&(attributes.len() as u32 + 4).to_ne_bytes());
    list.extend_from_slice(attributes);
}

/// A word of 32 bits in the machine's byte order.
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The content of the first attribute of this kind, a C string (nf_tables has names so), without the zero at its end.
#[inline(never)]
pub fn name_of(attributes: &[u8], kind: u16) -> &[u8] {
    let name = find(attributes, kind).unwrap_or_default();
    name.strip_suffix(&[0]).unwrap_or(name)
}

/// The same, if it is there and is text.
pub fn text_of(attributes: &[u8], kind: u16) -> Option<&str> {
    let text = find(attributes, kind)?;
    std::str::from_utf8(text.strip_suffix(&[0]).unwrap_or(text)).ok()
}

/// The same of a number of 32 bits, which nf_tables has in the order of the network.
#[inline(never)]
pub fn big(attributes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find(attributes, kind)?.try_into().ok()?))
}

/// Takes the first attribute from the others: its kind and its content.
#[inline(never)]
pub fn next<'a>(attributes: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let [a, b, c, d, ..] = *attributes else { return None };
    let length = usize::from(u16::from_ne_bytes([*a, *b]));
    // The upper two bits are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
    let kind = u16::from_ne_bytes([*c, *d]) & 0x3fff;
    let content = attributes.get(4..length)?;
    *attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, content))
}

/// The content of the first attribute of this kind.
pub fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some((other, content)) = next(&mut attributes) {
        if other == kind {
            return Some(content);
        }
    }
    None
}

/// The same of the attribute `kind` in the attribute `outer`.
#[inline(never)]
pub fn find_in(attributes: &[u8], outer: u16, kind: u16) -> Option<&[u8]> {
    find(find(attributes, outer)?, kind)
}

/// Appends the header of an attribute of `length` bytes, its own four included.
pub fn header(to: &mut Vec<u8>, kind: u16, length: u16) {
    to.extend_from_slice(&length.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
}

/// Appends an attribute, padded to four bytes.
pub fn attribute(to: &mut Vec<u8>, kind: u16, content: &[u8]) {
    header(to, kind, 4 + content.len() as u16);
    to.extend_from_slice(content);
    while to.len() % 4 != 0 {
        to.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_among_others() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 1, &[7]);
        attribute(&mut bytes, 2 | 1 << 15, &[8, 9]);
        attribute(&mut bytes, 2, &[1]);
        assert_eq!((find(&bytes, 1), find(&bytes, 2), find(&bytes, 3)), (Some(&[7][..]), Some(&[8, 9][..]), None));
        assert_eq!(find_in(&bytes, 2, 3), None);
        // A length that cannot be is no endless loop.
        for length in [0, 3, 200] {
            bytes[..2].copy_from_slice(&u16::to_ne_bytes(length));
            assert!(find(&bytes, 1).is_none());
            find(&bytes, 3);
        }
    }

    /// A message as the kernel sends it.
    fn sent(kind: u16, flags: u16, sequence: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((HEADER + content.len()) as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(content);
        bytes
    }

    #[test]
    fn a_list_that_is_torn_begins_anew() {
        use std::os::unix::net::UnixDatagram;
        let (ours, kernel) = UnixDatagram::pair().unwrap();
        let ours = File::from(std::os::fd::OwnedFd::from(ours));
        let mut netlink = Netlink { socket: ours, skip: HEADER + NETFILTER, sequence: 0, buffer: Vec::new() };
        let answers = std::thread::spawn(move || {
            // The parts, the flags of each, and the error at the end.
            for (parts, flags) in [(&[1_u8, 2][..], TORN), (&[1, 2, 3], 0)] {
                let mut request = [0; 64];
                let length = kernel.recv(&mut request).unwrap();
                let sequence = word(&request, 8).unwrap();
                assert_eq!((length, &request[4..8]), (20, &sent(LOOK_UP, REQUEST | DUMP, 0, &[])[4..8]));
                for part in parts {
                    kernel.send(&sent(LOOK_UP, flags, sequence, &[0, 0, 0, 0, *part])).unwrap();
                }
                kernel.send(&sent(DONE, 0, sequence, &[0; 4])).unwrap();
            }
        });
        let mut taken = Vec::new();
        let told = netlink.each(LOOK_UP, libc::AF_UNSPEC, &[], &mut |part| match part {
            None => taken.clear(),
            Some(part) => taken.push(part.to_vec()),
        });
        answers.join().unwrap();
        told.unwrap();
        assert_eq!(taken, [[1], [2], [3]]);
    }

    #[test]
    fn attributes_are_padded() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 1, &[7]);
        assert_eq!(bytes.len(), 8);
        assert_eq!(bytes[4..], [7, 0, 0, 0]);
    }
}
