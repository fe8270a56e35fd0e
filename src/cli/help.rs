//! `--help`, made of the tables of verbs and options.

use super::table::{OPTIONS, VERBS};

/// What `--help` prints.
pub fn help() -> String {
    let mut out = "Usage: paraglider [--config FILE] [-v] VERB\n\n\
                   Balances TCP and UDP with rules of iptables or nftables; only `watch` stays as a process.\n\n\
                   Verbs:\n"
        .to_owned();
    for verb in VERBS.iter().filter(|verb| !verb.help.is_empty()) {
        row(&mut out, &["  ", verb.word], 11, verb.help);
        for option in OPTIONS.iter().filter(|option| option.verbs.first() == Some(&verb.word)) {
            row(&mut out, &["             ", option.word, " ", option.value], 31, option.help);
        }
    }
    out.push_str("\nOptions:\n");
    for option in OPTIONS.iter().filter(|option| option.verbs.is_empty() && !option.help.is_empty()) {
        let comma = if option.short.is_empty() { "" } else { ", " };
        row(&mut out, &["  ", option.short, comma, option.word, " ", option.value], 21, option.help);
    }
    out.push_str(
        "\nExit status: 0 done; 1 the system refused or failed; 2 wrong usage or config.\n\
         status: 0 in force, 1 not as in the config, 3 not in force, 4 cannot tell.\n\
         check: 1 it would not work. watch --needed: 1 the config needs no watch.\n",
    );
    out
}

/// A line with `help` in column `width`.
fn row(out: &mut String, name: &[&str], width: usize, help: &str) {
    let column = out.len() + width;
    for part in name {
        out.push_str(part);
    }
    while out.len() < column {
        out.push(' ');
    }
    out.push_str(help);
    out.push('\n');
}
