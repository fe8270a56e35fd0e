//! The keys of the config, except for those of `health:`, each with the function that takes its value.

use super::draft::Draft;
use super::health::HEALTH;
use super::node::{Key, Node};
use super::words;

/// The whole file.
pub(super) static DOCUMENT: Node = Node::mapping(
    "`frontend:` or `frontends:`",
    &[
        Key("frontend", FRONTEND),
        Key(
            "frontends",
            Node::list(
                "a list of frontends, each beginning with `- bind:`, or `frontend:` for a single one",
                &FRONTEND,
                Draft::end_of_frontends,
            ),
        ),
        Key("engine", Node::text("`auto`, `iptables` or `nftables`", Draft::engine)),
    ],
    Draft::end,
)
.at("at the beginning of a line, and is not indented", &words::DOCUMENT)
.with_one_of(2, "`frontend` and `frontends` exclude each other; list all of them under `frontends:`");

const FRONTEND: Node = Node::mapping(
    "one frontend with `bind:`, `privateip:` and `backends:` (several are a list under `frontends:`)",
    &[
        Key("name", Node::text("a name", Draft::name)),
        Key("bind", Node::text("one address:port (for another bind, write another frontend)", Draft::bind)),
        Key("protocol", Node::text("`tcp`, `udp` or `both`", Draft::protocol)),
        Key("privateip", Node::text("an address, a range first-last, `auto` or `none`", Draft::source)),
        Key("schedule", Node::text("`roundrobin`, `random` or `source`", Draft::schedule)),
        Key("health", HEALTH),
        Key("backends", Node::list("a list of backends, each `- address:port`", &BACKEND, Draft::end_of_backends)),
    ],
    Draft::end_of_frontend,
)
.at("under `frontend:`, in the column of its other keys", &words::FRONTEND);

const BACKEND: Node = Node::mapping(
    "one backend as address:port, or as a mapping with `address:`",
    &[
        Key("address", Node::text("address:port", Draft::address)),
        Key("weight", Node::text("a weight in 0-256", Draft::weight)),
        Key("backup", Node::text("`true` or `false`", Draft::backup)),
    ],
    Draft::end_of_backend,
)
.at("to a backend, as in `- {address: 172.19.0.2:5555, weight: 3}`", &words::BACKEND)
.or_text(Draft::plain_backend);
