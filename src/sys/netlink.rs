//! Netlink messages to netfilter (RFC 3549; linux/netfilter/nfnetlink.h): the little that no program can be asked for.

use std::fs::File;
use std::io::{self, Read, Write};

use crate::sys::socket;

/// How a message to nf_tables begins to be numbered (NFNL_SUBSYS_NFTABLES), and one to conntrack (NFNL_SUBSYS_CTNETLINK).
const NFTABLES: u16 = 10 << 8;
const CONNTRACK: u16 = 1 << 8;

/// NFT_MSG_GETGEN: the number of the generation of nf_tables' rules, which each change raises.
pub const GENERATION: u16 = NFTABLES | 16;
/// NFT_MSG_GETTABLE: tables of nf_tables.
pub const TABLES: u16 = NFTABLES | 1;
/// NFT_MSG_GETCHAIN: chains of nf_tables.
pub const CHAINS: u16 = NFTABLES | 4;
/// IPCTNL_MSG_CT_DELETE: forget a connection.
pub const FORGET: u16 = CONNTRACK | 2;

/// NLM_F_REQUEST, and NLM_F_ACK for what is not answered else.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;

/// NLM_F_DUMP: all there are.
const DUMP: u16 = 0x300;

/// NLMSG_ERROR, which also tells of success, and NLMSG_DONE, the end of a list.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Bytes before the attributes: nlmsghdr and nfgenmsg.
const HEADER: usize = 20;

/// A socket to netfilter.
#[derive(Debug)]
pub struct Netlink(File);

impl Netlink {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        socket::open(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER).map(Netlink)
    }

    /// Sends one request about a family (AF_INET or AF_INET6) and returns the attributes of its answer.
    pub fn ask(&mut self, kind: u16, family: libc::c_int, attributes: &[u8]) -> io::Result<Vec<u8>> {
        let flags = if kind == FORGET { REQUEST | ACKNOWLEDGE } else { REQUEST };
        let mut message = Vec::new();
        message.extend_from_slice(&((HEADER + attributes.len()) as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        // Sequence number and sender: there is one answer, and the kernel knows who asks.
        message.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, family as u8, 0, 0, 0]);
        message.extend_from_slice(attributes);
        self.0.write_all(&message)?;

        let mut answer = vec![0; 1024];
        let length = self.0.read(&mut answer)?;
        answer.truncate(length);
        let word = |at: usize| answer.get(at..at + 4)?.try_into().ok().map(i32::from_ne_bytes);
        if answer.get(4..6) == Some(&ERROR.to_ne_bytes()) {
            match word(16) {
                Some(0) => {}
                error => return Err(io::Error::from_raw_os_error(error.map_or(libc::EIO, i32::wrapping_neg))),
            }
        }
        Ok(answer.split_off(HEADER.min(answer.len())))
    }

    /// Asks for all things of a kind and a family, and gives the attributes of each to `take`.
    pub fn list(&mut self, kind: u16, family: libc::c_int, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut message = Vec::new();
        message.extend_from_slice(&(HEADER as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(REQUEST | DUMP).to_ne_bytes());
        message.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, family as u8, 0, 0, 0]);
        self.0.write_all(&message)?;
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let length = self.0.read(&mut buffer)?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some(size) = word(rest, 0).map(|size| size as usize).filter(|size| *size >= 16) {
                let Some(message) = rest.get(..size) else { return Err(libc_error(libc::EMSGSIZE)) };
                match message.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes) {
                    Some(DONE) => return Ok(()),
                    Some(ERROR) => return Err(libc_error(word(message, 16).map_or(libc::EIO, i32::wrapping_neg))),
                    _ => take(message.get(HEADER..).unwrap_or_default()),
                }
                // Messages begin at multiples of four bytes.
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// A word of 32 bits of the machine's byte order.
fn word(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..at + 4)?.try_into().ok().map(i32::from_ne_bytes)
}

fn libc_error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// The text of the attribute of this kind among `attributes`: a C string (linux/netlink.h, nlattr).
pub fn text_of(mut attributes: &[u8], kind: u16) -> Option<&str> {
    while let Some([a, b, c, d]) = attributes.get(..4) {
        let (length, is) = (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d]));
        if is == kind {
            let text = attributes.get(4..length)?;
            return std::str::from_utf8(text.strip_suffix(&[0]).unwrap_or(text)).ok();
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}

/// Appends the header of an attribute of so many bytes, of which it is the first four.
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
    fn attributes_are_padded() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 1, &[7]);
        assert_eq!(bytes.len(), 8);
        assert_eq!(bytes[4..], [7, 0, 0, 0]);
    }
}
