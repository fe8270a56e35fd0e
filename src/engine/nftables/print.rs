//! Our table as `nft` reads it.

use std::fmt;

use super::encode::text;
use super::table::{Base, Chain, Rule, Table, TABLE};

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for counter in &self.counters {
            writeln!(f, "\tcounter {counter} {{\n\t}}")?;
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
