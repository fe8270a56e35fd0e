//! Another program flushes all rules again and again, while ours are put in force or removed.

use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use crate::lab::{shell, Lab, Variant};
use crate::on_all;

/// Flushes each 20 ms, until it is dropped.
struct Storm(Child);

impl Storm {
    fn begin(lab: &Lab) -> Self {
        let flush = match lab.variant {
            Variant::Nft | Variant::Netlink => "nft flush ruleset",
            // The old variant's chains have to be emptied one table after the other.
            Variant::Legacy => "iptables -w -t nat -F; iptables -w -F; iptables -w -t nat -X; iptables -w -X",
        };
        let line = format!("while :; do {flush}; sleep 0.02; done >/dev/null 2>&1");
        Storm(shell(&line).spawn().unwrap())
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        sleep(Duration::from_millis(100));
    }
}

on_all!(a_storm_of_flushes_is_outlived, |lab| {
    let mut failed = Vec::new();
    let storm = Storm::begin(lab);
    let mut tell = |words: &str| {
        let (code, _, err) = lab.paraglider(&format!("-v {words}"));
        if code != 0 {
            failed.push(format!("{words}: {err}"));
        }
    };
    for _ in 0..7 {
        lab.balance(&[1, 2, 3]);
        tell("start");
        lab.balance(&[1, 2]);
        tell("reload");
        tell("stop");
    }
    drop(storm);
    // A few may meet flushes at each of their tries, on a busy machine.
    assert!(failed.len() <= 3, "{} of 21 failed:\n{}", failed.len(), failed.join(""));
    lab.ok("start");
    lab.is_in_force();
    lab.ok("stop");
    assert_eq!(lab.ours(), [""; 0]);
});
