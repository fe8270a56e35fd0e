//! Who gets the connections, and with which source address.

use std::fs;

use crate::lab::{ask_often, inside, serve, sh, Held, Lab, Variant};
use crate::watching::shares;
use crate::{answers, on_all, BIND};

fn three(lab: &Lab) {
    for host in ["b1", "b2", "b3"] {
        serve(host, 80);
    }
    lab.balance(&[1, 2, 3]);
}

on_all!(three_hundred_connections_are_a_hundred_each_and_come_from_privateip, |lab| {
    three(lab);
    lab.ok("start");
    let each = answers(&[("b1 10.2.0.1", 100), ("b2 10.2.0.1", 100), ("b3 10.2.0.1", 100)]);
    assert_eq!(ask_often("client", BIND, 300), each);
});

on_all!(any_three_in_a_row_are_one_each, |lab| {
    three(lab);
    lab.ok("start");
    ask_often("client", BIND, 1);
    for _ in 0..20 {
        let each = answers(&[("b1 10.2.0.1", 1), ("b2 10.2.0.1", 1), ("b3 10.2.0.1", 1)]);
        assert_eq!(ask_often("client", BIND, 3), each);
    }
});

on_all!(a_direct_connection_to_a_backend_keeps_its_source, |lab| {
    three(lab);
    sh("ip -n b1 route add default via 10.2.0.1");
    lab.ok("start");
    assert_eq!(ask_often("client", "10.2.0.11:80", 5), answers(&[("b1 10.1.0.2", 5)]));
    // From the balancer itself too: it has privateip there anyway, so bind another address.
    assert_eq!(shares(BIND, 3).len(), 3);
});

on_all!(a_client_on_the_balancer_is_served, |lab| {
    three(lab);
    lab.ok("start");
    let each = answers(&[("b1 10.2.0.1", 10), ("b2 10.2.0.1", 10), ("b3 10.2.0.1", 10)]);
    assert_eq!(ask_often("balancer", BIND, 30), each);
});

on_all!(a_backend_as_client_is_served_even_by_itself, |lab| {
    three(lab);
    sh("ip -n b1 route add 10.9.0.1 via 10.2.0.1");
    lab.ok("start");
    let each = answers(&[("b1 10.2.0.1", 10), ("b2 10.2.0.1", 10), ("b3 10.2.0.1", 10)]);
    assert_eq!(ask_often("b1", BIND, 30), each);
});

on_all!(other_ports_and_addresses_are_not_touched, |lab| {
    three(lab);
    lab.ok("start");
    assert_eq!(ask_often("client", "10.9.0.1:4445", 1), answers(&[("ConnectionRefused", 1)]));
    assert_eq!(ask_often("client", "10.1.0.1:4444", 1), answers(&[("ConnectionRefused", 1)]));
});

on_all!(a_forward_policy_of_drop_stops_others_but_not_what_is_balanced, |lab| {
    three(lab);
    sh("ip -n b1 route add default via 10.2.0.1");
    sh("iptables -P FORWARD DROP");
    if lab.variant == Variant::Netlink {
        // It does not get through there by itself, and says so.
        let (code, _, err) = lab.paraglider("start");
        assert!(code == 0 && err.contains("FORWARD"), "{code} {err}");
        let (code, out, _) = lab.paraglider("check");
        assert!(code == 1 && out.lines().any(|line| line.starts_with("error") && line.contains("FORWARD")), "{out}");
        assert_eq!(ask_often("client", BIND, 1), answers(&[("TimedOut", 1)]));
        lab.let_through();
        let out = lab.ok("check");
        assert!(!out.contains("error") && !out.contains("drops"), "{out}");
    }
    lab.ok("start");
    assert_eq!(shares(BIND, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
    assert_eq!(ask_often("client", "10.2.0.11:80", 1), answers(&[("TimedOut", 1)]));
    assert!(sh("iptables -S FORWARD").contains("-P FORWARD DROP"));
});

on_all!(forwarding_is_switched_on_where_it_is_off, |lab| {
    three(lab);
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let six = fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap();
    let (code, _, err) = lab.paraglider("start");
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("IPv4 forwarding was off"), "{err}");
    assert_eq!(shares(BIND, 3).len(), 3);
    // Nobody asked for IPv6.
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap(), six);
    let (_, _, err) = lab.paraglider("start");
    assert!(err.contains("already in force") && !err.contains("forwarding"), "{err}");
});

on_all!(ipv6_is_balanced_like_ipv4, |lab| {
    for host in ["b1", "b2", "b3"] {
        serve(host, 80);
    }
    lab.config(
        "frontend:\n  bind: '[fd09::1]:4444'\n  privateip: fd02::1\n  backends:\n    \
         - '[fd02::11]:80'\n    - '[fd02::12]:80'\n    - '[fd02::13]:80'\n",
    );
    lab.ok("start");
    let each = answers(&[("b1 fd02::1", 10), ("b2 fd02::1", 10), ("b3 fd02::1", 10)]);
    assert_eq!(ask_often("client", "[fd09::1]:4444", 30), each);
    assert_eq!(ask_often("balancer", "[fd09::1]:4444", 30), each);
    lab.is_in_force();
    lab.ok("stop");
    assert_eq!(lab.ours(), [""; 0]);
});

on_all!(both_families_in_one_config, |lab| {
    serve("b1", 80);
    serve("b2", 80);
    lab.config(
        "frontends:\n  - bind: '[fd09::1]:4444'\n    backends: ['[fd02::11]:80']\n  \
         - {name: web, bind: '10.9.0.1:4444', backends: ['10.2.0.12:80']}\n",
    );
    lab.ok("start");
    assert_eq!(ask_often("client", BIND, 2), answers(&[("b2 10.2.0.1", 2)]));
    assert_eq!(ask_often("client", "[fd09::1]:4444", 2), answers(&[("b1 fd02::1", 2)]));
    lab.config("frontends:\n  - {name: web, bind: '10.9.0.1:4444', backends: ['10.2.0.12:80']}\n");
    lab.ok("reload");
    assert!(!lab.has_rules_of_ipv6(), "{:?}", lab.ours());
});

on_all!(privateip_may_be_left_out_none_or_a_range, |lab| {
    serve("b1", 80);
    let config = |privateip| format!("frontend: {{bind: '{BIND}', {privateip} backends: ['10.2.0.11:80']}}");

    lab.config(&config(""));
    lab.ok("start");
    assert_eq!(ask_often("client", BIND, 2), answers(&[("b1 10.2.0.1", 2)]));

    sh("ip -n b1 route add default via 10.2.0.1");
    lab.config(&config("privateip: none,"));
    lab.ok("reload");
    assert_eq!(ask_often("client", BIND, 2), answers(&[("b1 10.1.0.2", 2)]));

    sh("ip addr add 10.2.0.2/24 dev lan && ip addr add 10.2.0.3/24 dev lan");
    lab.config(&config("privateip: 10.2.0.2-10.2.0.3,"));
    lab.ok("reload");
    let seen = ask_often("client", BIND, 40);
    assert!(seen.keys().all(|answer| answer == "b1 10.2.0.2" || answer == "b1 10.2.0.3"), "{seen:?}");
    lab.ok("status");
});

on_all!(status_counts_connections_taken_and_active, |lab| {
    three(lab);
    lab.ok("start");
    ask_often("client", BIND, 29);
    let held = inside("client", || Held::open(BIND.parse().unwrap()).unwrap()).join().unwrap();
    held.ask().unwrap();
    let text = lab.ok("status");
    assert!(text.starts_with(&format!("in force ({}", lab.variant.engine())), "{text}");
    let words = |host: u8| {
        let line = text.lines().find(|line| line.contains(&format!("10.2.0.1{host}:80"))).unwrap();
        line.split_whitespace().filter_map(|word| word.parse::<usize>().ok()).collect::<Vec<_>>()
    };
    assert_eq!((words(1)[0], words(2)[0], words(3)[0]), (10, 10, 10), "{text}");
    assert_eq!(words(1)[1] + words(2)[1] + words(3)[1], 1, "{text}");
    let json = lab.ok("status --json");
    assert!(
        json.starts_with(&format!("{{\"state\":\"in force\",\"reason\":null,\"engine\":\"{}", lab.variant.engine())),
        "{json}"
    );
    assert!(json.contains("{\"address\":\"10.2.0.11:80\",\"taken\":10,"), "{json}");
});

on_all!(a_hundred_backends_are_served_in_turn, |lab| {
    // One host with a hundred ports stands for a hundred backends.
    let mut list = String::new();
    for port in 8000..8100 {
        serve("b1", port);
        list.push_str(&format!("    - 10.2.0.11:{port}\n"));
    }
    lab.config(&format!("frontend:\n  bind: {BIND}\n  privateip: 10.2.0.1\n  backends:\n{list}"));
    lab.ok("start");
    assert_eq!(ask_often("client", BIND, 300), answers(&[("b1 10.2.0.1", 300)]));
    let taken: Vec<String> =
        lab.ok("status").lines().filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned)).skip(1).collect();
    assert_eq!(taken, vec!["3"; 100]);
});
