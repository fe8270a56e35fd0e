//! Could firewall4 take established connections off the rules?

use super::findings::Findings;
use crate::host::nft::firewall4;
use crate::host::remedy::System;
use crate::sys::file;

/// Says how established connections cost less on OpenWrt: with firewall4's flow table, whose connections pass neither rules nor
/// routes, a balanced one costs no more than one that is only routed.
pub fn check(findings: &mut Findings<'_>) {
    let openwrt = matches!(findings.system, System::Opkg | System::OpenWrtApk);
    // firewall3 has another one, of iptables' own.
    if openwrt && file::exists("/sbin/fw4") && !is_on(&file::read("/etc/config/firewall")) {
        findings.ok(format_args!(
            "flow offloading is off; established connections cost least with it: uci set \
             firewall.@defaults[0].flow_offloading=1 && uci commit firewall && service firewall restart"
        ));
    }
}

/// Whether the text of /etc/config/firewall has the option on.
fn is_on(config: &str) -> bool {
    let on = ["1", "on", "true", "yes", "enabled"];
    firewall4::option(config, "flow_offloading").is_some_and(|value| on.contains(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_found_however_it_is_written() {
        let config =
            |line: &str| format!("config defaults\n\toption input 'REJECT'\n{line}\nconfig zone\n\toption name lan\n");
        for (line, on) in [
            ("\toption flow_offloading '1'", true),
            ("option 'flow_offloading' \"1\"", true),
            ("\toption flow_offloading on", true),
            ("\toption flow_offloading '0'", false),
            ("\toption flow_offloading_hw '1'", false),
            ("#\toption flow_offloading '1'", false),
            ("\toption flow_offloading", false),
            ("", false),
        ] {
            assert_eq!(is_on(&config(line)), on, "{line}");
        }
    }
}
