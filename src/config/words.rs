//! Keys as other load balancers name them, and as people guess them: what there is instead.

use crate::error::{refuse, Error};
use crate::text::{has, listed, Shown};

/// Words for one thing, as [`listed`] takes them, in lower case without `-` and `_`; and what to say about them.
pub(super) struct Stranger(&'static str, &'static str);

/// Refuses a word that is one of these; the error begins with `what`.
#[inline(never)]
pub(super) fn refuse_any(strangers: &[Stranger], what: &str, word: &str) -> Result<(), Error> {
    let plain = plain(word);
    for Stranger(words, instead) in strangers {
        if listed(words, &plain) {
            return refuse!("{what} `{}`; {instead}", Shown(word));
        }
    }
    Ok(())
}

/// A word as the tables have it: lower case, without what joins its parts.
pub(super) fn plain(word: &str) -> String {
    let mut plain = String::new();
    for c in word.chars() {
        if !has("-_. ", c) {
            plain.push(c.to_ascii_lowercase());
        }
    }
    plain
}

const TCP: &str =
    "`protocol:` of a frontend is `tcp`, `udp` or `both`, whatever a connection carries; leave this key out";

const FILTER: &str = "Paraglider lets every client in; to keep some out, drop them before it, by the bind's port: \
                      iptables -t raw -A PREROUTING -s NETWORK -p tcp --dport PORT -j DROP";

const TIMES: &str = "connections pass through the kernel alone, and there is no such time; leave this key out";

const TLS: &str = "Paraglider does not look into connections, so TLS is up to the backends; leave this key out";

const SEEN: &str = "backends see the client's own address with `privateip: none`";

const HEALTH: &str = "checks of all backends of a frontend are `health:`, beside `bind:`, as in `health: {type: http}`";

const SCHEDULE: &str = "how connections are spread is `schedule:` of a frontend: roundrobin, random or source";

const STICKY: &str = "the same client always gets the same backend with `schedule: source` of a frontend";

const NO_PROCESS: &str =
    "Paraglider is no process that connections pass through, and has nothing like it; leave this key out";

const BACKENDS: &str = "write `backends:` under `frontend:`, and each as `- address:port`";

/// Beside any key.
pub(super) static EVERYWHERE: [Stranger; 9] = [
    Stranger("proto* mode transport network udp tcp http* websocket", TCP),
    Stranger(
        "allow* deny* acl* whitelist* blacklist block* ban filter firewall sourceranges limit* max* fullconn connlimit \
         connectionlimit rate* minconn synflood ddos",
        FILTER,
    ),
    Stranger(
        "timeouts timeoutconnect timeoutclient timeoutserver connecttimeout clienttimeout servertimeout idletimeout \
         proxytimeout proxyconnecttimeout keepalive* tcpkeepalive slowstart",
        TIMES,
    ),
    Stranger(
        "ssl* tls* cert* crt key sni alpn https acme letsencrypt verify ca cafile",
        TLS,
    ),
    Stranger("proxyprotocol sendproxy* acceptproxy forwardfor xforwardedfor realip transparent", SEEN),
    Stranger(
        "balanc* algo* lb* policy scheduler method strategy distribution loadbalanc*",
        SCHEDULE,
    ),
    Stranger(
        "stick* persist* affinity session* cookie iphash sourcehash hash*",
        STICKY,
    ),
    Stranger(
        "global defaults daemon user group log* stats metrics admin api worker* processes threads nb* option* tuning \
         buffer* redispatch",
        NO_PROCESS,
    ),
    Stranger("defaultbackend usebackend include import template extends", BACKENDS),
];

/// Beside `frontend:`.
pub(super) static DOCUMENT: [Stranger; 3] = [
    Stranger(
        "driver netfilter iptables nftables nft firewallbackend firewallengine",
        "what writes the rules is `engine: iptables`, `nftables` or `auto`",
    ),
    Stranger(
        "service* server* virtual* listen* entrypoint* stream http tcp events app* config paraglider proxy proxies vhost \
         routers site",
        "begin with `frontend:`, and below it, indented, `bind:` and `backends:`",
    ),
    Stranger("backend upstream* pool* target* realserver* hosts nodes", BACKENDS),
];

/// Beside `bind:`.
pub(super) static FRONTEND: [Stranger; 9] = [
    Stranger(
        "host hostname",
        "what clients connect to is `bind: address:port`; the name that http checks ask for is `host:` under `health:`",
    ),
    Stranger(
        "listen listener listenon vip virtual* address addr ip publicip external* from on frontendip entrypoint servername \
         url local",
        "what clients connect to is `bind: address:port`, an address of this host",
    ),
    Stranger(
        "port* listenport bindport",
        "the port is a part of `bind: address:port`, and one frontend has one port",
    ),
    Stranger(
        "interface* iface dev device nic",
        "rules contain only addresses: write that of the interface into `bind: address:port`",
    ),
    Stranger(
        "server servers upstream* target* member* pool realserver* node* endpoint* dest* to forward forwardto origin* \
         worker workers hosts peers",
        "write `backends:`, and below it each as `- address:port`",
    ),
    Stranger(
        "check* healthcheck* monitor* probe* livenessprobe readinessprobe httpcheck httpchk tcpcheck optionhttpchk",
        HEALTH,
    ),
    Stranger(
        "snat masq* nat* source* src usesrc bindout outbound localaddress privateips privateaddress internalip lanip",
        "the address that backends see is `privateip:`; the same backend for the same client is `schedule: source`",
    ),
    Stranger("weights", "a weight belongs to a backend, as in `- {address: 172.19.0.2:5555, weight: 3}`"),
    Stranger("enabled disabled active state", "to take a frontend out, delete it, or write `#` before its lines"),
];

/// Beside `address:`.
pub(super) static BACKEND: [Stranger; 5] = [
    Stranger(
        "ip addr host hostname server target url endpoint node dest destination to port ports ipaddress",
        "a backend is `address: address:port`, both in one value",
    ),
    Stranger("check* healthcheck probe monitor inter fall rise interval timeout", HEALTH),
    Stranger("name id label hostlabel comment desc*", "a backend has no name of its own; write it behind a `#`"),
    Stranger(
        "disabled enabled down drain* maint* state active online",
        "`weight: 0` takes a backend out: it gets no new connections and keeps those that it has",
    ),
    Stranger(
        "priority prio order standby spare failover fallback",
        "a backend for the time when all others are down has `backup: true`",
    ),
];

/// Beside `interval:`.
pub(super) static HEALTH_KEYS: [Stranger; 10] = [
    Stranger(
        "proto* mode kind scheme check http tcp udp dns httpcheck tcpcheck",
        "the kind of a check is `type: tcp`, `http`, `udp` or `dns`",
    ),
    Stranger(
        "ssl tls https verify sni method",
        "an http check is a GET without TLS; where that does not do, write `type: tcp`",
    ),
    Stranger("inter period* every delay frequency checkinterval", "the time between two checks is `interval: 2s`"),
    Stranger(
        "retr* attempts failure* fails maxfail* unhealthy* falls",
        "how many bad checks take a backend out is `fall: 3`",
    ),
    Stranger("healthy* success* passes rises", "how many good checks bring a backend back is `rise: 2`"),
    Stranger("url* uri endpoint request get location", "what an http check asks for is `path: /health`"),
    Stranger(
        "sends* payload data question query ask datagram packet message",
        "what a udp check sends is `send: \"ping\"`; a dns check asks for the name servers of the root",
    ),
    Stranger(
        "status* code* match expect* body string contains response ok text",
        "what a good answer has is `expect:`: a status, a range such as 200-399, or a text of the body",
    ),
    Stranger(
        "host* vhost virtualhost servername domain header* httpheaders",
        "the name that an http check asks for is `host: www.example.com`; other headers cannot be set",
    ),
    Stranger("failtimeout timeout* checktimeout", "how long an answer may take is `timeout: 1s`"),
];

/// Values of `schedule:` elsewhere.
pub(super) static SCHEDULES: [Stranger; 3] = [
    Stranger(
        "rr wrr swrr staticrr weighted* leasttime first",
        "write `roundrobin`; it takes the weights of the backends",
    ),
    Stranger(
        "sh iphash sourceip sourcehash stick* persist* maglev mh dh ringhash hash* consistent* uri url",
        "write `source`: the same client gets the same backend",
    ),
    Stranger(
        "least* lc wlc sed nq p2c ewma",
        "nothing counts the connections of a backend; `roundrobin` and `random` spread them by weight",
    ),
];

/// Values of `engine:` that people guess.
pub(super) static ENGINES: [Stranger; 4] = [
    Stranger(
        "iptablesnft iptableslegacy iptablesrestore ip6tables* xtables* legacy",
        "write `iptables`: its variant is that of the `iptables` which this host runs",
    ),
    Stranger("nft* netlink inet fw4 firewall4", "write `nftables`"),
    Stranger("netfilter kernel linux default any", "write `auto`: iptables where it is installed, else nftables"),
    Stranger(
        "ipvs lvs ebpf xdp bpf tc pf ipfw ipset ufw firewalld ferm shorewall haproxy nginx proxy userspace",
        "Paraglider writes rules of `iptables` or `nftables`; `auto` is for the one that this host has",
    ),
];

/// Values of `protocol:` elsewhere.
pub(super) static PROTOCOLS: [Stranger; 4] = [
    Stranger(
        "http* https tls ssl grpc websocket smtp imap mysql redis",
        "write `tcp`: what is in a connection passes unseen",
    ),
    Stranger(
        "dns quic syslog ntp rtp sip wireguard* openvpn dtls tftp snmp radius",
        "write `udp`, or `both` for TCP and UDP",
    ),
    Stranger("sctp dccp icmp gre esp ip", "Paraglider balances `tcp` and `udp`"),
    Stranger("tcpudp udptcp tcp+udp any all tcp,udp", "write `both`"),
];

/// Values of `type:` of a check elsewhere.
pub(super) static CHECKS: [Stranger; 3] = [
    Stranger("https ssl* tls", "checks speak no TLS; write `tcp`, or `http` and a `port:` that answers without TLS"),
    Stranger(
        "ping icmp arp script exec command external mysql* pgsql redis ldap smtp ssh grpc",
        "write `tcp`: a backend that takes connections is up",
    ),
    Stranger(
        "datagram ntp snmp sip stun radius syslog tftp",
        "write `udp`, and in `send:` what such a service answers to",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// `listen_on`, `Listen-On` and `listenOn` are one word; no word is in a table twice.
    #[test]
    fn words_are_found_however_they_are_joined_and_stand_once() {
        for key in ["listenon", "listen_on", "Listen-On", "listenOn"] {
            assert!(refuse_any(&FRONTEND, "unknown key", key).is_err(), "{key}");
        }
        assert!(refuse_any(&FRONTEND, "unknown key", "bnid").is_ok());
        assert!(refuse_any(&FRONTEND, "unknown key", "").is_ok());
        let tables: [&[Stranger]; 9] =
            [&EVERYWHERE, &DOCUMENT, &FRONTEND, &BACKEND, &HEALTH_KEYS, &SCHEDULES, &CHECKS, &ENGINES, &PROTOCOLS];
        for table in tables {
            let words: Vec<&str> = table.iter().flat_map(|Stranger(words, _)| words.split(' ')).collect();
            for (at, word) in words.iter().enumerate() {
                assert_eq!(plain(word), *word);
                assert!(!words[..at].contains(word), "{word} is there twice");
            }
        }
    }
}
