//! The expressions of a rule, as the kernel evaluates them.

use super::table::{are_intervals, backend, lowest_byte, By, Choice, Rule};
use crate::net::{Family, Octets};
use crate::service::Source;
use crate::sys::batch::Batch;
use crate::sys::nftables::{data, expression, object, ELEMENT};

/// Registers of 16 bytes: the verdict, and two for values.
const VERDICT: u32 = 0;
const FIRST: u32 = 1;
const SECOND: u32 = 2;
/// The registers of 4 bytes that follow the first four bytes of [`FIRST`], for the further parts of a key: after the protocol
/// the address; after that the port, of IPv4 and of IPv6; and the port after an address of IPv4 alone, and of IPv6.
const ADDRESS: u32 = 9;
const PORT_4: u32 = 10;
const PORT_6: u32 = 13;
const NEXT_4: u32 = 9;
/// Written as the kernel shows it: a multiple of 16 bytes is the register of that size.
const NEXT_6: u32 = SECOND;

/// NFT_META_NFPROTO and NFT_META_L4PROTO.
const FAMILY: u32 = 15;
const PROTOCOL: u32 = 16;

/// NFT_CT_STATE, NFT_CT_STATUS, NFT_CT_PROTO_DST, NFT_CT_DST_IP and NFT_CT_DST_IP6; IP_CT_DIR_ORIGINAL.
const STATE: u32 = 0;
const STATUS: u32 = 2;
const PORT: u32 = 12;
const DESTINATION_4: u32 = 20;
const DESTINATION_6: u32 = 22;
const ORIGINAL: u8 = 0;

/// The bit that `ct state` has for a new connection, and IPS_DST_NAT (nf_conntrack_common.h).
const NEW: u32 = 1 << 3;
const BALANCED: u32 = 1 << 5;

/// NFT_PAYLOAD_NETWORK_HEADER and NFT_PAYLOAD_TRANSPORT_HEADER.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

/// NFT_CMP_EQ and NFT_CMP_NEQ.
const EQUAL: u32 = 0;
const DIFFERENT: u32 = 1;

/// Where the header of TCP has the flags; FIN, SYN, RST, ACK, and SYN.
const TCP_FLAGS: u32 = 13;
const FLAGS: u8 = 0x17;
const SYN: u8 = 0x02;

/// NFT_NAT_SNAT and NFT_NAT_DNAT.
const SNAT: u32 = 0;
const DNAT: u32 = 1;

/// NFT_REJECT_TCP_RST.
const RST: u32 = 1;

/// IPPROTO_TCP.
pub const TCP: u8 = 6;

/// The name of every map of ours: the kernel puts a number there, and the map goes with its rule.
pub const MAP: &str = "__map%d";

/// The verdict to go to a chain.
pub fn verdict(batch: &mut Batch, kind: u16, chain: &str) {
    let outer = batch.open(kind);
    let inner = batch.open(data::VERDICT);
    batch.number(data::CODE, data::GOTO as u32);
    batch.text(data::CHAIN, chain);
    batch.close(inner);
    batch.close(outer);
}

/// Appends the expressions of a rule whose map has this number.
pub fn write(batch: &mut Batch, rule: &Rule, map: u32) {
    Expressions { batch, map }.of(rule);
}

/// The expressions of a rule that is being written.
struct Expressions<'a> {
    batch: &'a mut Batch,
    /// The number of its map.
    map: u32,
}

impl Expressions<'_> {
    fn of(&mut self, rule: &Rule) {
        match rule {
            Rule::Dispatch(family, _) => {
                let (destination, length, port) = match family {
                    Family::V4 => (16, 4, PORT_4),
                    Family::V6 => (24, 16, PORT_6),
                };
                self.is_of(*family);
                self.meta(PROTOCOL, FIRST);
                self.payload(NETWORK, destination, length, ADDRESS);
                self.payload(TRANSPORT, 2, 2, port);
                self.look_up();
            }
            Rule::Leave(family, _) => {
                let (destination, port) = match family {
                    Family::V4 => (DESTINATION_4, NEXT_4),
                    Family::V6 => (DESTINATION_6, NEXT_6),
                };
                self.is_tcp();
                self.connection(STATUS, BALANCED);
                self.original(destination, FIRST);
                self.original(PORT, port);
                self.look_up();
            }
            Rule::Choose(Choice { frontend, first, by }) => {
                if *first {
                    self.is_tcp();
                    self.flags(EQUAL);
                }
                self.choose(frontend, by);
            }
            Rule::Deliver(counter, to) => {
                self.is_tcp();
                self.expression("objref", &|batch| {
                    // NFTA_OBJREF_IMM_TYPE and NFTA_OBJREF_IMM_NAME.
                    batch.number(1, object::COUNTER);
                    batch.text(2, counter);
                });
                self.immediate(FIRST, Octets::of(to.address()).as_slice());
                self.immediate(SECOND, &to.port().to_be_bytes());
                self.nat(DNAT, to.family(), None, Some(SECOND));
            }
            Rule::From(_, Source::Addresses(first, last)) => {
                let last = (first != last).then_some(last);
                self.immediate(FIRST, Octets::of(first).as_slice());
                if let Some(last) = last {
                    self.immediate(SECOND, Octets::of(last).as_slice());
                }
                self.nat(SNAT, Family::of(*first), last.map(|_| SECOND), None);
            }
            Rule::From(_, Source::Masquerade) => self.expression("masq", &|_| {}),
            // Its own address: no later rule changes it.
            Rule::From(family, Source::Client) => {
                self.client(*family);
                self.nat(SNAT, *family, None, None);
            }
            Rule::Refuse => self.reject(EQUAL),
            Rule::Reset => self.reject(DIFFERENT),
        }
    }

    fn choose(&mut self, frontend: &str, by: &By) {
        // NFT_NG_INCREMENTAL and NFT_NG_RANDOM.
        let (modulus, kind) = match by {
            By::Only(index) => {
                let chain = backend(frontend, *index);
                self.expression("immediate", &|batch| {
                    batch.number(1, VERDICT);
                    verdict(batch, 2, &chain);
                });
                return;
            }
            By::Source(family, _) => {
                let mask = Octets::of(&lowest_byte(*family, 255));
                self.client(*family);
                self.mask(mask.as_slice());
                self.look_up();
                return;
            }
            By::Turns(slots) => (slots.len() as u32, 0),
            By::Random(weights) => (weights.iter().map(|(_, weight)| weight).sum(), 1),
        };
        self.expression("numgen", &|batch| {
            // NFTA_NG_DREG, NFTA_NG_MODULUS, NFTA_NG_TYPE.
            batch.number(1, FIRST);
            batch.number(2, modulus);
            batch.number(3, kind);
        });
        if matches!(by, By::Random(weights) if are_intervals(weights)) {
            self.expression("byteorder", &|batch| {
                // From register to register, NFT_BYTEORDER_HTON, the length of all and of each.
                for (attribute, value) in [(1, FIRST), (2, FIRST), (3, 1), (4, 4), (5, 4)] {
                    batch.number(attribute, value);
                }
            });
        }
        self.look_up();
    }

    fn expression(&mut self, name: &str, inside: &dyn Fn(&mut Batch)) {
        let element = self.batch.open(ELEMENT);
        self.batch.text(expression::NAME, name);
        let at = self.batch.open(expression::DATA);
        inside(self.batch);
        self.batch.close(at);
        self.batch.close(element);
    }

    /// Loads something about a packet.
    fn meta(&mut self, what: u32, to: u32) {
        self.expression("meta", &|batch| {
            batch.number(1, to);
            batch.number(2, what);
        });
    }

    /// Loads bytes of a packet.
    fn payload(&mut self, header: u32, from: u32, length: u32, to: u32) {
        self.expression("payload", &|batch| {
            for (attribute, value) in [(1, to), (2, header), (3, from), (4, length)] {
                batch.number(attribute, value);
            }
        });
    }

    fn compare(&mut self, how: u32, with: &[u8]) {
        self.expression("cmp", &|batch| {
            batch.number(1, FIRST);
            batch.number(2, how);
            let at = batch.open(3);
            batch.bytes(data::VALUE, with);
            batch.close(at);
        });
    }

    /// Leaves what the mask leaves.
    fn mask(&mut self, mask: &[u8]) {
        self.expression("bitwise", &|batch| {
            for (attribute, value) in [(1, FIRST), (2, FIRST), (3, mask.len() as u32)] {
                batch.number(attribute, value);
            }
            for (attribute, value) in [(4, mask), (5, [0; 16].get(..mask.len()).unwrap_or_default())] {
                let at = batch.open(attribute);
                batch.bytes(data::VALUE, value);
                batch.close(at);
            }
        });
    }

    fn immediate(&mut self, to: u32, value: &[u8]) {
        self.expression("immediate", &|batch| {
            batch.number(1, to);
            let at = batch.open(2);
            batch.bytes(data::VALUE, value);
            batch.close(at);
        });
    }

    fn look_up(&mut self) {
        let map = self.map;
        self.expression("lookup", &|batch| {
            batch.text(1, MAP);
            batch.number(2, FIRST);
            batch.number(3, VERDICT);
            batch.number(4, map);
        });
    }

    /// New addresses from the first register, up to that in another one; a new port.
    fn nat(&mut self, kind: u32, family: Family, last: Option<u32>, port: Option<u32>) {
        self.expression("nat", &|batch| {
            batch.number(1, kind);
            batch.number(2, family.domain() as u32);
            batch.number(3, FIRST);
            for (attribute, register) in [(4, last), (5, port)] {
                if let Some(register) = register {
                    batch.number(attribute, register);
                }
            }
        });
    }

    /// Which is plain in a table of one family; `nft` 1.0.6 ends with SIGABRT where it lists one that asks all the same.
    fn is_of(&mut self, family: Family) {
        if self.batch.is_for_both() {
            self.meta(FAMILY, FIRST);
            self.compare(EQUAL, &[family.domain() as u8]);
        }
    }

    fn is_tcp(&mut self) {
        self.meta(PROTOCOL, FIRST);
        self.compare(EQUAL, &[TCP]);
    }

    /// Whether, of its flags, a packet of TCP has just SYN.
    fn flags(&mut self, how: u32) {
        self.payload(TRANSPORT, TCP_FLAGS, 1, FIRST);
        self.mask(&[FLAGS]);
        self.compare(how, &[SYN]);
    }

    /// Whether the connection has one of these bits, which are in the order of the machine.
    fn connection(&mut self, what: u32, bits: u32) {
        self.expression("ct", &|batch| {
            batch.number(1, FIRST);
            batch.number(2, what);
        });
        self.mask(&bits.to_ne_bytes());
        self.compare(DIFFERENT, &[0; 4]);
    }

    /// Loads something of the direction in which the connection began.
    fn original(&mut self, what: u32, to: u32) {
        self.expression("ct", &|batch| {
            batch.number(1, to);
            batch.number(2, what);
            batch.bytes(3, &[ORIGINAL]);
        });
    }

    /// Loads the client's address.
    fn client(&mut self, family: Family) {
        self.is_of(family);
        match family {
            Family::V4 => self.payload(NETWORK, 12, 4, FIRST),
            Family::V6 => self.payload(NETWORK, 8, 16, FIRST),
        }
    }

    fn reject(&mut self, flags: u32) {
        self.is_tcp();
        self.flags(flags);
        self.connection(STATE, NEW);
        self.expression("reject", &|batch| batch.number(1, RST));
    }
}
