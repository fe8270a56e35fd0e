//! Our table as `nft` reads it.

use std::fmt;

use super::encode::text;
use super::table::{Base, Chain, Map, Rule, Table, TABLE};
use crate::net::Family;

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for counter in &self.counters {
            writeln!(f, "\tcounter {counter} {{\n\t}}")?;
        }
        for Map { name, family, has_protocol, binds } in &self.maps {
            let (of, before) = if *has_protocol { ("inet_proto . ", "tcp . ") } else { ("", "") };
            let address = if *family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" };
            write!(f, "\tmap {name} {{\n\t\ttype {of}{address} . inet_service : verdict\n\t\telements = {{")?;
            for (at, (bind, chain)) in binds.iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                write!(f, "{comma}\n\t\t\t{before}{} . {} : goto {chain}", bind.ip(), bind.port())?;
            }
            f.write_str("\n\t\t}\n\t}\n")?;
        }
        for Chain { name, base, rules } in &self.chains {
            writeln!(f, "\tchain {name} {{")?;
            if let Some(Base { name, kind, priority, .. }) = base {
                writeln!(f, "\t\ttype {kind} hook {name} priority {priority}; policy accept;")?;
            }
            for rule in rules {
                writeln!(f, "\t\t{rule}")?;
            }
            f.write_str("\t}\n")?;
        }
        f.write_str("}\n")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text(self))
    }
}
