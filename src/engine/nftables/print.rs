//! Our table as `nft` reads it.

use std::fmt;

use super::encode::text;
use super::table::{Base, Chain, Map, Rule, Table, TABLE};
use crate::net::Family;

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = ["table inet ", TABLE, " {\n"].concat();
        let mut add = |parts: &[&str]| table.push_str(&parts.concat());
        for counter in &self.counters {
            add(&["\tcounter ", counter, " {\n\t}\n"]);
        }
        for Map { name, family, has_protocol, binds } in &self.maps {
            let of = if *has_protocol { "inet_proto . " } else { "" };
            let address = if *family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" };
            add(&["\tmap ", name, " {\n\t\ttype ", of, address, " . inet_service : verdict\n\t\telements = {"]);
            let mut comma = "";
            for (bind, chain) in binds {
                let (ip, port) = (bind.ip().to_string(), bind.port().to_string());
                let (protocol, dot) = if *has_protocol { (bind.protocol().word(), " . ") } else { ("", "") };
                add(&[comma, "\n\t\t\t", protocol, dot, &ip, " . ", &port, " : goto ", chain]);
                comma = ",";
            }
            add(&["\n\t\t}\n\t}\n"]);
        }
        for Chain { name, base, rules } in &self.chains {
            add(&["\tchain ", name, " {\n"]);
            if let Some(Base { name, kind, priority, .. }) = base {
                let priority = priority.to_string();
                add(&["\t\ttype ", kind, " hook ", name, " priority ", &priority, "; policy accept;\n"]);
            }
            for rule in rules {
                add(&["\t\t", &text(rule), "\n"]);
            }
            add(&["\t}\n"]);
        }
        table.push_str("}\n");
        f.write_str(&table)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text(self))
    }
}
