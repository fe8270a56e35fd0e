//! The expressions of a rule, as the kernel evaluates them.

use super::encode::{verdict, Writer, MAP};
use super::table::{are_intervals, backend, lowest_byte, By, Choice, Range, Rule};
use crate::net::{Family, Octets, Protocol};
use crate::service::Source;
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
/// NFT_CMP_GTE and NFT_CMP_LTE.
const AT_LEAST: u32 = 5;
const AT_MOST: u32 = 3;

/// Where the header of TCP has the flags; FIN, SYN, RST, ACK, and SYN.
const TCP_FLAGS: u32 = 13;
const FLAGS: u8 = 0x17;
const SYN: u8 = 0x02;

/// NFT_NAT_SNAT and NFT_NAT_DNAT.
const SNAT: u32 = 0;
const DNAT: u32 = 1;

/// NFT_NG_INCREMENTAL and NFT_NG_RANDOM.
const TURNS: u32 = 0;
const RANDOM: u32 = 1;

/// NFT_REJECT_TCP_RST.
const RST: u32 = 1;

/// NFT_REJECT_ICMPX_UNREACH, for both families, and NFT_REJECT_ICMPX_PORT_UNREACH; NFT_REJECT_ICMP_UNREACH and
/// ICMP_PORT_UNREACH.
const UNREACHABLE: [u32; 2] = [2, 1];
const UNREACHABLE_4: [u32; 2] = [0, 3];

/// No number: the attribute is left out.
const NONE: u32 = u32::MAX;

impl Writer<'_> {
    /// Appends the expressions of a rule whose map is written.
    pub(super) fn expressions(&mut self, rule: &Rule) {
        match rule {
            Rule::Dispatch(family, map) => {
                let (destination, length, port) = match family {
                    Family::V4 => (16, 4, PORT_4),
                    Family::V6 => (24, 16, PORT_6),
                };
                self.is_of(*family);
                self.numbers("meta", &[FIRST, PROTOCOL]);
                self.numbers("payload", &[ADDRESS, NETWORK, destination, length]);
                self.numbers("payload", &[port, TRANSPORT, 2, 2]);
                self.say("meta l4proto . ");
                self.say(word(*family));
                self.say(" daddr . th dport");
                self.look_up_in(map);
            }
            Rule::Leave(protocol, family, map) => {
                let (destination, port) = match family {
                    Family::V4 => (DESTINATION_4, NEXT_4),
                    Family::V6 => (DESTINATION_6, NEXT_6),
                };
                self.is(*protocol);
                self.connection(STATUS, BALANCED);
                self.original(destination, FIRST);
                self.original(PORT, port);
                self.say("ct status dnat ct original ");
                self.say(word(*family));
                self.say(" daddr . ct original proto-dst");
                self.look_up_in(map);
            }
            Rule::DispatchRange(range) => {
                let Range { at, ports, chain } = &**range;
                let (destination, length) = match at.family() {
                    Family::V4 => (16, 4),
                    Family::V6 => (24, 16),
                };
                self.is_of(at.family());
                self.numbers("payload", &[FIRST, NETWORK, destination, length]);
                self.compare(EQUAL, Octets::of(at.address()).as_slice());
                self.print(format_args!("{} daddr {} ", word(at.family()), at.ip()));
                self.numbers("meta", &[FIRST, PROTOCOL]);
                self.compare(EQUAL, &[at.protocol().number()]);
                self.numbers("payload", &[FIRST, TRANSPORT, 2, 2]);
                self.say(at.protocol().word());
                self.say(" dport ");
                self.within(ports);
                self.go(chain);
            }
            Rule::LeaveRange(range) => {
                let Range { at, ports, chain } = &**range;
                let destination = if at.family() == Family::V4 { DESTINATION_4 } else { DESTINATION_6 };
                self.is(at.protocol());
                self.connection(STATUS, BALANCED);
                self.original(destination, FIRST);
                self.compare(EQUAL, Octets::of(at.address()).as_slice());
                self.original(PORT, FIRST);
                self.print(format_args!("ct status dnat ct original {} daddr {} ", word(at.family()), at.ip()));
                self.say("ct original proto-dst ");
                self.within(ports);
                self.go(chain);
            }
            Rule::Choose(choice) => {
                let Choice { frontend, first, by } = &**choice;
                if *first {
                    self.is(Protocol::Tcp);
                    self.flags(EQUAL);
                }
                self.choose(frontend, by);
            }
            Rule::Deliver(protocol, counter, to) => {
                self.is(*protocol);
                self.begin("objref", &[object::COUNTER]);
                // NFTA_OBJREF_IMM_NAME.
                self.batch.text(2, counter);
                self.end();
                self.immediate(FIRST, Octets::of(to.address()).as_slice());
                let mut port = NONE;
                if to.port() != 0 {
                    port = SECOND;
                    self.immediate(SECOND, &to.port().to_be_bytes());
                }
                self.nat(DNAT, to.family(), NONE, port);
                self.print(format_args!("counter name {counter} dnat {} to {to}", word(to.family())));
            }
            Rule::From(_, Source::Addresses(first, last)) => {
                let family = Family::of(*first);
                self.immediate(FIRST, Octets::of(first).as_slice());
                self.print(format_args!("snat {} to {first}", word(family)));
                let mut register = NONE;
                if first != last {
                    register = SECOND;
                    self.immediate(SECOND, Octets::of(last).as_slice());
                    self.print(format_args!("-{last}"));
                }
                self.nat(SNAT, family, register, NONE);
            }
            Rule::From(_, Source::Masquerade) => {
                self.numbers("masq", &[]);
                self.say("masquerade");
            }
            // Its own address: no later rule changes it.
            Rule::From(family, Source::Client) => {
                self.say("snat ");
                self.say(word(*family));
                self.say(" to ");
                self.client(*family);
                self.nat(SNAT, *family, NONE, NONE);
            }
            Rule::Refuse(Protocol::Tcp) => self.reject(EQUAL),
            Rule::Refuse(Protocol::Udp) => {
                self.is(Protocol::Udp);
                self.connection(STATE, NEW);
                let [kind, code] = if self.batch.is_for_both() { UNREACHABLE } else { UNREACHABLE_4 };
                self.begin("reject", &[kind]);
                // NFTA_REJECT_ICMP_CODE.
                self.batch.bytes(2, &[code as u8]);
                self.end();
                self.say("ct state new reject");
            }
            Rule::Reset => self.reject(DIFFERENT),
        }
    }

    fn choose(&mut self, frontend: &str, by: &By) {
        match by {
            By::Only(index) => {
                self.go(&backend(frontend, *index));
                return;
            }
            By::Turns(slots) => self.number_of(slots.len() as u32, TURNS, "inc"),
            By::Random(weights) => {
                let mut sum = 0;
                for (_, weight) in weights {
                    sum += weight;
                }
                self.number_of(sum, RANDOM, "random");
                if are_intervals(weights) {
                    // From register to register, NFT_BYTEORDER_HTON, the length of all and of each.
                    self.numbers("byteorder", &[FIRST, FIRST, 1, 4, 4]);
                }
            }
            By::Source(family, _) => {
                let mask = lowest_byte(*family, u8::MAX);
                self.client(*family);
                self.mask(Octets::of(&mask).as_slice());
                self.print(format_args!(" & {mask}"));
            }
        }
        self.look_up();
    }

    /// Goes to a chain.
    fn go(&mut self, chain: &str) {
        self.begin("immediate", &[VERDICT]);
        verdict(self.batch, 2, chain);
        self.end();
        self.say("goto ");
        self.say(chain);
    }

    /// Whether a port is one of these.
    fn within(&mut self, (first, last): &(u16, u16)) {
        self.compare(AT_LEAST, &first.to_be_bytes());
        self.compare(AT_MOST, &last.to_be_bytes());
        self.print(format_args!("{first}-{last} "));
    }

    /// A number for each connection, below another one.
    fn number_of(&mut self, modulus: u32, kind: u32, word: &str) {
        self.numbers("numgen", &[FIRST, modulus, kind]);
        self.print(format_args!("numgen {word} mod {modulus}"));
    }

    /// Begins an expression: its name, and its first attributes, which are numbers.
    #[inline(never)]
    fn begin(&mut self, name: &str, numbers: &[u32]) {
        self.element = self.batch.open(ELEMENT);
        self.batch.text(expression::NAME, name);
        self.data = self.batch.open(expression::DATA);
        let mut kind = 0;
        for number in numbers {
            kind += 1;
            if *number != NONE {
                self.batch.number(kind, *number);
            }
        }
    }

    fn end(&mut self) {
        self.batch.close(self.data);
        self.batch.close(self.element);
    }

    /// An expression of numbers alone.
    #[inline(never)]
    fn numbers(&mut self, name: &str, numbers: &[u32]) {
        self.with(name, numbers, &[]);
    }

    /// An expression of numbers and, after them, data.
    #[inline(never)]
    fn with(&mut self, name: &str, numbers: &[u32], data: &[&[u8]]) {
        self.begin(name, numbers);
        let mut kind = numbers.len() as u16;
        for one in data {
            kind += 1;
            let at = self.batch.open(kind);
            self.batch.bytes(data::VALUE, one);
            self.batch.close(at);
        }
        self.end();
    }

    /// Compares the first register.
    fn compare(&mut self, how: u32, with: &[u8]) {
        self.with("cmp", &[FIRST, how], &[with]);
    }

    /// Leaves what the mask leaves.
    fn mask(&mut self, mask: &[u8]) {
        let zeros = [0; 16].get(..mask.len()).unwrap_or_default();
        self.with("bitwise", &[FIRST, FIRST, mask.len() as u32], &[mask, zeros]);
    }

    fn immediate(&mut self, to: u32, value: &[u8]) {
        self.with("immediate", &[to], &[value]);
    }

    /// Goes to the chain that the rule's own map has for a value.
    fn look_up(&mut self) {
        self.begin("lookup", &[NONE, FIRST, VERDICT, self.map]);
        self.batch.text(1, MAP);
        self.end();
        self.say_map();
    }

    /// The same of a map that has a name.
    fn look_up_in(&mut self, map: &str) {
        self.begin("lookup", &[NONE, FIRST, VERDICT]);
        self.batch.text(1, map);
        self.end();
        self.say(" vmap @");
        self.say(map);
    }

    /// New addresses from the first register, up to that in another one; a new port.
    fn nat(&mut self, kind: u32, family: Family, last: u32, port: u32) {
        self.numbers("nat", &[kind, family.domain() as u32, FIRST, last, port]);
    }

    /// Which is plain in a table of one family; `nft` 1.0.6 ends with SIGABRT where it lists one that asks all the same.
    fn is_of(&mut self, family: Family) {
        if self.batch.is_for_both() {
            self.numbers("meta", &[FIRST, FAMILY]);
            self.compare(EQUAL, &[family.domain() as u8]);
        }
    }

    fn is(&mut self, protocol: Protocol) {
        self.numbers("meta", &[FIRST, PROTOCOL]);
        self.compare(EQUAL, &[protocol.number()]);
        self.say("meta l4proto ");
        self.say(protocol.word());
        self.say(" ");
    }

    /// Whether, of its flags, a packet of TCP has just SYN.
    fn flags(&mut self, how: u32) {
        self.numbers("payload", &[FIRST, TRANSPORT, TCP_FLAGS, 1]);
        self.mask(&[FLAGS]);
        self.compare(how, &[SYN]);
        self.say("tcp flags & (fin | syn | rst | ack) ");
        self.say(if how == EQUAL { "== syn " } else { "!= syn " });
    }

    /// Whether the connection has one of these bits, which are in the order of the machine.
    fn connection(&mut self, what: u32, bits: u32) {
        self.numbers("ct", &[FIRST, what]);
        self.mask(&bits.to_ne_bytes());
        self.compare(DIFFERENT, &[0; 4]);
    }

    /// Loads something of the direction in which the connection began.
    fn original(&mut self, what: u32, to: u32) {
        self.begin("ct", &[to, what]);
        // NFTA_CT_DIRECTION.
        self.batch.bytes(3, &[ORIGINAL]);
        self.end();
    }

    /// Loads the client's address.
    fn client(&mut self, family: Family) {
        let (at, length) = match family {
            Family::V4 => (12, 4),
            Family::V6 => (8, 16),
        };
        self.is_of(family);
        self.numbers("payload", &[FIRST, NETWORK, at, length]);
        self.say(word(family));
        self.say(" saddr");
    }

    fn reject(&mut self, flags: u32) {
        self.is(Protocol::Tcp);
        self.flags(flags);
        self.connection(STATE, NEW);
        self.numbers("reject", &[RST]);
        self.say("ct state new reject with tcp reset");
    }
}

/// How `nft` calls a family.
fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
