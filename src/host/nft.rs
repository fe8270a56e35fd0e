//! Rules of nftables outside of iptables, as the program `nft` tells them, where it is installed.

use crate::net::Family;
use crate::sys::process;
use crate::text::value;

/// Whether a rule of theirs uses connection tracking.
pub fn uses_conntrack(family: Family) -> bool {
    let rules = process::find("nft").and_then(|nft| process::run(&nft, &["list", "ruleset"], "").ok());
    let own = if family == Family::V4 { "table ip " } else { "table ip6 " };
    let mut counts = false;
    rules.is_some_and(|rules| {
        rules.out.lines().any(|line| {
            if line.starts_with("table ") {
                counts = line.starts_with("table inet ") || line.starts_with(own);
            }
            counts
                && line
                    .split_ascii_whitespace()
                    .any(|word| ["ct", "masquerade", "snat", "dnat", "redirect"].contains(&word))
        })
    })
}

/// Tables outside of iptables with a chain at the forward hook. An ACCEPT in one base chain is no verdict for the next.
pub fn forward_hooks() -> Vec<String> {
    let chains = process::find("nft").and_then(|nft| process::run(&nft, &["list", "chains"], "").ok());
    chains.map(|chains| hooked(&chains.out)).unwrap_or_default()
}

fn hooked(chains: &str) -> Vec<String> {
    let mut table = "";
    let mut found: Vec<String> = Vec::new();
    for line in chains.lines().map(str::trim_ascii) {
        if line.starts_with("table ") {
            table = line.strip_suffix(" {").unwrap_or(line);
        } else if value(line, "hook") == Some("forward")
            && !["table ip ", "table ip6 "]
                .iter()
                .any(|family| matches!(table.strip_prefix(family), Some("filter" | "mangle" | "security")))
            && !found.iter().any(|known| known == table)
        {
            found.push(table.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_decide_too_are_found() {
        let chains = "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n\
                      table inet fw4 {\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n\
                      \tchain x {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n}\n\
                      table inet lone {\n\tchain x {\n\t}\n}\n";
        assert_eq!(hooked(chains), ["table inet fw4"]);
    }
}
