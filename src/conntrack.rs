//! The connections that the kernel tracks for us, from `/proc/net/nf_conntrack`.

use std::fs::File;

use crate::host;
use crate::service::Endpoint;

/// States in which a connection can still carry something (nf_conntrack_proto_tcp.c). The others have ended.
const ALIVE: [&str; 5] = ["ESTABLISHED", "SYN_RECV", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK"];

/// A connection that was balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Where the client connected to.
    pub bind: Endpoint,
    /// Who serves it.
    pub backend: Endpoint,
}

/// All living connections to `binds`; nothing where the kernel does not list them (no root, no such file).
pub fn connections(binds: &[Endpoint]) -> Option<Vec<Connection>> {
    if binds.is_empty() {
        // The table can be long.
        return Some(Vec::new());
    }
    let mut found = Vec::new();
    host::each_line(File::open("/proc/net/nf_conntrack").ok()?, &mut |line| {
        found.extend(parse(line).filter(|connection| binds.contains(&connection.bind)));
    })
    .ok()?;
    Some(found)
}

/// One line: the tuple of the client's packets first, then that of the answers.
fn parse(line: &str) -> Option<Connection> {
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == "tcp")?;
    words.find(|word| ALIVE.contains(word))?;
    let mut values = |key: &str| words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let (to, to_port) = (values("dst")?, values("dport")?);
    let (from, from_port) = (values("src")?, values("sport")?);
    let (bind, backend) = (Endpoint::of(to, to_port)?, Endpoint::of(from, from_port)?);
    // A connection to an address of ours that was not sent on is not balanced.
    (bind != backend).then_some(Connection { bind, backend })
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
        assert_eq!(parsed(&line.replace("ESTABLISHED", "TIME_WAIT")), None);
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
