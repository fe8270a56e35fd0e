//! A change of nf_tables: several messages that the kernel takes all or none (linux/netfilter/nfnetlink.h, batches).

use std::fmt;
use std::io::{self, Write};

use crate::sys::netlink::{self, attribute, find, header, text_of, word};
use crate::sys::nftables::{expression, INET};
use crate::sys::socket;

/// NFNL_MSG_BATCH_BEGIN and NFNL_MSG_BATCH_END.
const BEGIN: u16 = 16;
const END: u16 = 17;

/// NFNL_SUBSYS_NFTABLES: whose batch it is, and the high byte of the messages in it.
const NFTABLES: u16 = 10;

/// NLM_F_REQUEST and NLM_F_ACK; NLM_F_CREATE and NLM_F_APPEND of messages that make something; NLM_F_ACK_TLVS of an answer
/// that tells more.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const TELLS_MORE: u16 = 0x200;

/// SOL_NETLINK with NETLINK_CAP_ACK and NETLINK_EXT_ACK (linux/netlink.h); NLMSGERR_ATTR_OFFS.
const NETLINK: libc::c_int = 270;
const SHORT_ANSWERS: libc::c_int = 10;
const EXTENDED: libc::c_int = 11;
const OFFSET: u16 = 2;

/// NLA_F_NESTED: attributes are inside.
pub const NESTED: u16 = 1 << 15;

/// Bytes for a rule: a batch is made of each to compare it.
const SMALL: usize = 512;

/// Bytes of nlmsghdr and nfgenmsg.
const HEADER: usize = 20;

/// What a message does to the thing that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Verb {
    /// NFT_MSG_NEWTABLE.
    NewTable = 0,
    /// NFT_MSG_DELTABLE.
    DeleteTable = 2,
    /// NFT_MSG_NEWCHAIN.
    NewChain = 3,
    /// NFT_MSG_DELCHAIN.
    DeleteChain = 5,
    /// NFT_MSG_NEWRULE.
    NewRule = 6,
    /// NFT_MSG_DELRULE: of a chain without a handle, all of its rules.
    DeleteRules = 8,
    /// NFT_MSG_NEWSET.
    NewSet = 9,
    /// NFT_MSG_DELSET.
    DeleteSet = 11,
    /// NFT_MSG_NEWSETELEM.
    NewElements = 12,
    /// NFT_MSG_DELSETELEM: without elements, all of them.
    DeleteElements = 14,
    /// NFT_MSG_NEWOBJ.
    NewObject = 18,
    /// NFT_MSG_DELOBJ.
    DeleteObject = 20,
}

impl Verb {
    /// Whether it makes something, and if that is already there, leaves it.
    fn makes(self) -> bool {
        matches!(
            self,
            Verb::NewTable | Verb::NewChain | Verb::NewRule | Verb::NewSet | Verb::NewElements | Verb::NewObject
        )
    }
}

/// Messages that are sent together.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    /// The family of the table (NFPROTO_INET and others).
    family: u8,
    /// The name of the table that it is about.
    table: &'static str,
    /// Where the last message begins.
    last: usize,
    /// How many messages there are, the beginning included.
    count: u32,
}

/// Why the kernel has refused a batch.
#[derive(Debug)]
pub struct Refusal {
    /// Its error number.
    pub number: i32,
    /// The message that it is about, from 0; none if it is about the batch as a whole.
    pub message: Option<usize>,
    /// The name of the expression in it that the kernel lacks, if it tells.
    pub expression: Option<String>,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal { number: error.raw_os_error().unwrap_or(libc::EIO), message: None, expression: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::error::plain(&io::Error::from_raw_os_error(self.number)))
    }
}

impl Batch {
    /// An empty one, about a table of a family.
    pub fn of(family: libc::c_int, table: &'static str) -> Self {
        let mut batch = Batch { bytes: Vec::with_capacity(SMALL), family: family as u8, table, last: 0, count: 0 };
        batch.message(BEGIN, 0, 0, NFTABLES);
        batch
    }

    /// Whether the table is for both families.
    pub fn is_for_both(&self) -> bool {
        libc::c_int::from(self.family) == INET
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.count <= 1
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16) {
        self.last = self.bytes.len();
        for number in [0_u32.to_ne_bytes(), both(kind, REQUEST | flags), self.count.to_ne_bytes(), [0; 4]] {
            self.bytes.extend_from_slice(&number);
        }
        let [high, low] = resource.to_be_bytes();
        self.bytes.extend_from_slice(&[family, 0, high, low]);
        self.count += 1;
        self.fit();
    }

    /// Sets the length of the last message.
    fn fit(&mut self) {
        let length = (self.bytes.len() - self.last) as u32;
        self.put(self.last, &length.to_ne_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    /// Begins the next message. Its first attribute is the name of the table, whatever it is about (NFTA_TABLE_NAME,
    /// NFTA_CHAIN_TABLE, NFTA_RULE_TABLE and so on are all 1).
    pub fn begin(&mut self, verb: Verb) {
        let flags = match verb {
            Verb::NewRule => CREATE | APPEND,
            _ if verb.makes() => CREATE,
            _ => 0,
        };
        self.message(NFTABLES << 8 | verb as u16, flags, self.family, 0);
        self.text(1, self.table);
    }

    /// Adds an attribute to the last message.
    pub fn bytes(&mut self, kind: u16, content: &[u8]) {
        attribute(&mut self.bytes, kind, content);
        self.fit();
    }

    /// The same of a number, in the order of the network.
    pub fn number(&mut self, kind: u16, number: u32) {
        self.bytes(kind, &number.to_be_bytes());
    }

    /// The same of a text, with the zero at its end.
    pub fn text(&mut self, kind: u16, text: &str) {
        self.name(kind, text.as_bytes());
    }

    /// The same, of the bytes of a text.
    pub fn name(&mut self, kind: u16, name: &[u8]) {
        header(&mut self.bytes, kind, 5 + name.len() as u16);
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        while self.bytes.len() % 4 != 0 {
            self.bytes.push(0);
        }
        self.fit();
    }

    /// Begins an attribute that has others in it; what it returns ends it ([`close`](Self::close)).
    pub fn open(&mut self, kind: u16) -> usize {
        let at = self.bytes.len();
        header(&mut self.bytes, kind | NESTED, 4);
        at
    }

    /// Ends an attribute.
    pub fn close(&mut self, at: usize) {
        let length = (self.bytes.len() - at) as u16;
        self.put(at, &length.to_ne_bytes());
        self.fit();
    }

    /// How many bytes the last message has.
    pub fn length(&self) -> usize {
        self.bytes.len() - self.last
    }

    /// The message with this number: what it does, and its attributes.
    pub fn get(&self, number: usize) -> Option<(u16, &[u8])> {
        let mut rest = self.bytes.as_slice();
        let mut left = number;
        loop {
            let length = word(rest, 0)? as usize;
            if left == 0 {
                let [low, high, ..] = word(rest, 4)?.to_ne_bytes();
                return Some((u16::from_ne_bytes([low, high]) & 0xff, rest.get(HEADER..length)?));
            }
            left -= 1;
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
    }

    /// Sends it all. The kernel has taken everything or, after an error, nothing. Only the socket's own errors, which come
    /// before the kernel has looked at it, and a lost answer (ETIMEDOUT, ENOBUFS) leave open which.
    pub fn send(&mut self) -> Result<(), Refusal> {
        if self.is_empty() {
            return Ok(());
        }
        let mut socket = socket::open(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER)?;
        let awaited = self.count - 1;
        // One answer is enough: errors come in any case.
        self.put(self.last + 6, &(self.flags() | ACKNOWLEDGE).to_ne_bytes());
        self.message(END, 0, 0, NFTABLES);
        let size = self.bytes.len() as libc::c_int;
        for (level, name, value) in [
            // What is more than the host's limit needs the right to change rules, which we have; else the kernel says so.
            (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size.saturating_mul(2)),
            (NETLINK, SHORT_ANSWERS, 1),
            (NETLINK, EXTENDED, 1),
        ] {
            socket::set_option(&socket, level, name, value);
        }
        socket.write_all(&self.bytes)?;
        let mut buffer = vec![0; 8 * 1024];
        loop {
            let mut rest = netlink::receive(&mut socket, &mut buffer)?;
            while let Some(message) = netlink::message(&mut rest) {
                if message.kind != netlink::ERROR {
                    continue;
                }
                let number = message.error();
                if number != 0 {
                    let more = message.flags & TELLS_MORE != 0;
                    let told = if more { message.bytes.get(36..).unwrap_or_default() } else { &[] };
                    return Err(self.refusal(number, message.sequence as usize, told));
                }
                if message.sequence == awaited {
                    return Ok(());
                }
            }
        }
    }

    fn flags(&self) -> u16 {
        let [_, _, c, d] = word(&self.bytes, self.last + 4).unwrap_or_default().to_ne_bytes();
        u16::from_ne_bytes([c, d])
    }

    fn refusal(&self, number: i32, message: usize, told: &[u8]) -> Refusal {
        // The offset is that of a list element, in which the name of the expression comes first, with four bytes each.
        let offset = find(told, OFFSET).and_then(|offset| word(offset, 0)).map(|offset| offset as usize);
        let name = offset.and_then(|offset| {
            let (_, attributes) = self.get(message)?;
            let inner = attributes.get(offset.checked_sub(HEADER)? + 4..)?;
            text_of(inner, expression::NAME)
        });
        let known = name.filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        Refusal { number, message: (message > 0).then_some(message), expression: known.map(str::to_owned) }
    }
}

/// Two numbers of 16 bits, one after the other.
fn both(first: u16, second: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d]
}
