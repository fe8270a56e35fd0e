//! What others do to our table of nf_tables: it is put right, or taken away, whatever is in it.

use crate::lab::{ask_often, serve, sh, Lab, Variant};
use crate::{answers, BIND};

fn two(lab: &Lab) {
    serve("b1", 80);
    serve("b2", 80);
    lab.balance(&[1, 2]);
    lab.ok("start");
}

/// The rules have drifted; `start` puts them right, and then both backends are served.
fn is_mended(lab: &Lab, what: &str) {
    let (code, out, _) = lab.paraglider("status");
    assert!(code == 1 && out.contains("the rules are not those of"), "{what}: {code} {out}");
    let (code, _, err) = lab.paraglider("start");
    assert!(code == 0 && !err.contains("already in force"), "{what}: {err}");
    assert_eq!(ask_often("client", BIND, 4), answers(&[("b1 10.2.0.1", 2), ("b2 10.2.0.1", 2)]), "{what}");
    lab.is_in_force();
}

#[test]
fn whatever_others_do_to_it_is_mended() {
    crate::in_lab("table::whatever_others_do_to_it_is_mended", Variant::Netlink, |lab| {
        two(lab);
        let table = "inet paraglider";
        let chain = "frontend/10.9.0.1/4444";
        for what in [
            format!("add table {table} {{ flags dormant; }}"),
            format!("flush chain {table} prerouting"),
            format!("flush chain {table} {chain}"),
            format!("flush chain {table} backend/10.9.0.1/4444/1"),
            format!("flush table {table}"),
            format!("insert rule {table} prerouting counter accept"),
            format!("add rule {table} backend/10.9.0.1/4444/0 counter"),
            format!("add chain {table} more"),
            format!("add chain {table} hooked {{ type filter hook forward priority 0; policy drop; }}"),
            format!("add counter {table} another"),
            format!("add quota {table} another {{ over 100 mbytes }}"),
            format!("chain {table} prerouting {{ policy drop; }}"),
            format!("flush chain {table} postrouting; add rule {table} postrouting meta l4proto tcp masquerade"),
            format!(
                "flush chain {table} {chain}; add rule {table} {chain} meta l4proto tcp tcp flags & (fin | syn | rst | ack) \
                 == syn numgen inc mod 2 vmap {{ 0 : goto backend/10.9.0.1/4444/0, 1 : goto backend/10.9.0.1/4444/0 }}"
            ),
            "add table ip paraglider".to_owned(),
            format!("delete table {table}; add table {table}"),
            format!("delete table {table}; add table ip paraglider"),
        ] {
            sh(&format!("nft '{what}'"));
            is_mended(lab, &what);
            // One is enough.
            assert_eq!(sh("nft list tables").matches("paraglider").count(), 1, "{what}");
        }
        sh("nft 'add table inet paraglider { flags dormant; }; add table ip paraglider'");
        lab.ok("stop");
        assert_eq!(lab.ours(), [""; 0]);
    });
}

#[test]
fn what_holds_on_to_a_chain_of_ours_is_no_hindrance() {
    crate::in_lab("table::what_holds_on_to_a_chain_of_ours_is_no_hindrance", Variant::Netlink, |lab| {
        two(lab);
        // The chain of the second backend cannot be deleted while this map leads to it.
        sh("nft 'add map inet paraglider theirs { type ipv4_addr : verdict; }; \
            add element inet paraglider theirs { 10.0.0.1 : goto backend/10.9.0.1/4444/1 }'");
        lab.balance(&[1]);
        lab.ok("reload");
        assert_eq!(ask_often("client", BIND, 2), answers(&[("b1 10.2.0.1", 2)]));
        lab.is_in_force();
        lab.ok("stop");
        assert_eq!(lab.ours(), [""; 0]);
    });
}
