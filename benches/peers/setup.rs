//! What is measured, set up in the laboratory: our rules, others' rules, and others' programs with configs of ours.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use paraglider::schedule::{divide_evenly, Then, When};

use crate::lab::{sh, Lab, Variant};

/// Where clients connect to.
pub const BIND: &str = "10.9.0.1:4444";

/// Where the floor is when it is measured beside something else.
pub const SECOND: &str = "10.9.0.1:4445";

/// The address of backend number `n`: all of them are one host, which has the whole network.
pub fn backend(n: usize) -> String {
    format!("10.3.{}.{}", n / 250, n % 250 + 1)
}

/// The package of a peer that is not installed.
pub fn missing(what: &str) -> Option<&'static str> {
    let (programs, package): (&[&str], _) = match what {
        "nftlb" => (&["/usr/sbin/nftlb"], "nftlb"),
        "haproxy" => (&["/usr/sbin/haproxy"], "haproxy"),
        "nginx" => (&["/usr/sbin/nginx", "/usr/lib/nginx/modules/ngx_stream_module.so"], "nginx libnginx-mod-stream"),
        "iperf3" => (&["/usr/bin/iperf3"], "iperf3"),
        _ => (&[], ""),
    };
    programs.iter().any(|path| !Path::new(path).exists()).then_some(package)
}

/// Makes host `b1` own the backends' network, and the kernel ready for very many short connections.
pub fn network() {
    sh("ip -n b1 route add local 10.3.0.0/16 dev lo && ip route add 10.3.0.0/16 via 10.2.0.11");
    sh("ip -n b1 route add default via 10.2.0.1 && sysctl -qw net.ipv4.ip_forward=1");
    for host in ["client", "b1"] {
        sh(&format!("ip netns exec {host} sysctl -qw net.ipv4.tcp_syn_retries=3 net.ipv4.ip_local_port_range='1025 65000' net.core.somaxconn=8192"));
    }
    // A proxy's own sockets are here.
    sh("sysctl -qw net.ipv4.tcp_max_tw_buckets=0 net.ipv4.ip_local_port_range='1025 65000' net.core.somaxconn=8192");
}

/// Room for the connections, and no waiting for the closed ones: else a long run measures the full table.
pub fn conntrack() {
    sh("sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_close=1 net.netfilter.nf_conntrack_tcp_timeout_time_wait=1");
    // The limit belongs to the whole machine and can be set only from its own network.
}

/// Sets up what is to be measured; a program that has to run meanwhile is returned.
pub fn balancer(lab: &Lab, what: &str, n: usize) -> Option<Child> {
    match what {
        "direct" | "endpoints" => None,
        "plain" => {
            plain(lab);
            None
        }
        "floor" if lab.variant == Variant::Netlink => {
            load(lab, &nft_floor("floor", BIND));
            None
        }
        "floor" => {
            restore(lab, &format!("{}-A PG-x/0 -p tcp -j DNAT --to-destination {}:80\nCOMMIT\n", frame(), backend(0)));
            None
        }
        "paraglider" => {
            config(lab, n, "10.2.0.1");
            lab.ok("start");
            None
        }
        "linear" => {
            let every = |i: usize| match n - i {
                1 => String::new(),
                rest => format!("-m statistic --mode nth --every {rest} --packet 0 "),
            };
            let rule = |i| format!("-A PG-x/0 -p tcp {}-j DNAT --to-destination {}:80\n", every(i), backend(i));
            restore(lab, &format!("{}{}COMMIT\n", frame(), (0..n).map(rule).collect::<String>()));
            None
        }
        "fanout4" => {
            restore(lab, &tree(n, 4));
            None
        }
        "nftlb" => {
            let one =
                |i| format!("{{\"name\":\"b{i}\",\"ip-addr\":\"{}\",\"port\":\"80\",\"state\":\"up\"}}", backend(i));
            let list = (0..n).map(one).collect::<Vec<_>>().join(",");
            let farm = "\"name\":\"lb\",\"family\":\"ipv4\",\"virtual-addr\":\"10.9.0.1\",\"virtual-ports\":\"4444\",\
                        \"source-addr\":\"10.2.0.1\",\"mode\":\"snat\",\"protocol\":\"tcp\",\"scheduler\":\"rr\",\"state\":\"up\"";
            fs::write(lab.path("nftlb.json"), format!("{{\"farms\":[{{{farm},\"backends\":[{list}]}}]}}")).unwrap();
            sh(&format!("nftlb -e -c {}", lab.path("nftlb.json").display()));
            None
        }
        "haproxy" => {
            let servers: String = (0..n).map(|i| format!("  server b{i} {}:80\n", backend(i))).collect();
            let text = format!(
                "global\n  maxconn 5000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
                 listen lb\n  bind {BIND}\n  balance roundrobin\n{servers}"
            );
            fs::write(lab.path("haproxy.cfg"), text).unwrap();
            Some(daemon("haproxy", &["-db", "-f", lab.path("haproxy.cfg").to_str().unwrap()]))
        }
        "nginx" => {
            let servers: String = (0..n).map(|i| format!("    server {}:80;\n", backend(i))).collect();
            let text = format!(
                "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nuser root;\ndaemon off;\npid {0}/nginx.pid;\n\
                 error_log /dev/null;\nworker_processes 2;\n\nevents {{ worker_connections 8000; }}\n\
                 stream {{\n  upstream lb {{\n{servers}  }}\n  server {{ listen {BIND}; proxy_pass lb; }}\n}}\n",
                lab.path("").display()
            );
            fs::write(lab.path("nginx.conf"), text).unwrap();
            Some(daemon("nginx", &["-c", lab.path("nginx.conf").to_str().unwrap()]))
        }
        other => panic!("{other}"),
    }
}

/// Paraglider's config over the first `n` backends.
pub fn config(lab: &Lab, n: usize, privateip: &str) {
    let list: String = (0..n).map(|i| format!("    - {}:80\n", backend(i))).collect();
    lab.config(&format!("frontend:\n  bind: {BIND}\n  privateip: {privateip}\n  backends:\n{list}"));
}

#[allow(clippy::zombie_processes)] // whoever has the Child waits
fn daemon(program: &str, arguments: &[&str]) -> Child {
    let child =
        Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
    for _ in 0..200 {
        // Looked up, not tried: a connection would get through to the server.
        if fs::read_to_string("/proc/net/tcp").unwrap().contains("0100090A:115C 00000000:0000 0A") {
            return child;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{program} does not listen");
}

/// Everything but the schedule, as Paraglider has it: so only the schedules differ.
fn frame() -> String {
    "*nat\n:PG - [0:0]\n:PG-x/0 - [0:0]\n:PG-SNAT - [0:0]\n-A PREROUTING -p tcp -j PG\n-A POSTROUTING -p tcp -j PG-SNAT\n\
     -A PG -d 10.9.0.1/32 -p tcp -m tcp --dport 4444 -j PG-x/0\n\
     -A PG-SNAT -p tcp -m conntrack --ctstate DNAT --ctorigdst 10.9.0.1 --ctorigdstport 4444 -j SNAT --to-source 10.2.0.1\n"
        .to_owned()
}

/// One DNAT and one SNAT, as one would type them: not a rule more.
fn plain(lab: &Lab) {
    let backend = backend(0);
    if lab.variant == Variant::Netlink {
        load(
            lab,
            &format!(
                "table ip plain {{\n\
                 chain pre {{ type nat hook prerouting priority dstnat; ip daddr 10.9.0.1 tcp dport 4444 dnat to {backend}:80; }}\n\
                 chain post {{ type nat hook postrouting priority srcnat; ip daddr {backend} tcp dport 80 snat to 10.2.0.1; }}\n}}\n"
            ),
        );
    } else {
        restore(
            lab,
            &format!(
                "*nat\n-A PREROUTING -d 10.9.0.1/32 -p tcp -m tcp --dport 4444 -j DNAT --to-destination {backend}:80\n\
                 -A POSTROUTING -d {backend}/32 -p tcp -m tcp --dport 80 -j SNAT --to-source 10.2.0.1\nCOMMIT\n"
            ),
        );
    }
}

/// One plain DNAT and SNAT in nftables, dispatched as Paraglider does: so only the schedules differ.
fn nft_floor(table: &str, bind: &str) -> String {
    let (address, port) = bind.split_once(':').unwrap();
    format!(
        "table inet {table} {{\n\
         chain one {{ meta l4proto tcp dnat ip to {0}:80; }}\n\
         chain pre {{ type nat hook prerouting priority -101; meta l4proto . ip daddr . th dport vmap {{ tcp . {address} . {port} : goto one }}; }}\n\
         chain post {{ type nat hook postrouting priority 99; meta nfproto ipv4 meta l4proto tcp ct status dnat \
         ct original ip daddr {address} ct original proto-dst {port} snat ip to 10.2.0.1; }}\n}}\n",
        backend(0)
    )
}

/// One plain DNAT and SNAT on [`SECOND`], dispatched in the same way.
pub fn second_floor(lab: &Lab) {
    if lab.variant == Variant::Netlink {
        return load(lab, &nft_floor("second", SECOND));
    }
    restore(
        lab,
        &format!(
            "*nat\n:F - [0:0]\n:F0 - [0:0]\n:F-SNAT - [0:0]\n-I PREROUTING -p tcp -j F\n-I POSTROUTING -p tcp -j F-SNAT\n\
             -A F -d 10.9.0.1/32 -p tcp -m tcp --dport 4445 -j F0\n-A F0 -p tcp -j DNAT --to-destination {}:80\n\
             -A F-SNAT -p tcp -m conntrack --ctstate DNAT --ctorigdst 10.9.0.1 --ctorigdstport 4445 -j SNAT --to-source 10.2.0.1\nCOMMIT\n",
            backend(0)
        ),
    );
}

/// Paraglider's own tree, with another fan-out.
fn tree(n: usize, fan_out: usize) -> String {
    let slots: Vec<usize> = (0..n).collect();
    let schedule = divide_evenly(&slots, fan_out);
    let mut text = frame();
    text.extend((1..schedule.len()).map(|node| format!(":PG-x/{node:x} - [0:0]\n")));
    for (node, choices) in schedule.iter().enumerate() {
        for choice in choices {
            let every = match choice.when {
                When::Every(n) => format!("-m statistic --mode nth --every {n} --packet 0 "),
                _ => String::new(),
            };
            let target = match choice.then {
                Then::Backend(i) => format!("DNAT --to-destination {}:80", backend(i)),
                Then::Chain(node) => format!("PG-x/{node:x}"),
            };
            text.push_str(&format!("-A PG-x/{node:x} -p tcp {every}-j {target}\n"));
        }
    }
    // Chains have to be declared before they are jumped to: iptables-restore reads the declarations first by itself.
    let (declared, rules): (Vec<&str>, Vec<&str>) = text.lines().skip(1).partition(|line| line.starts_with(':'));
    format!("*nat\n{}\n{}\nCOMMIT\n", declared.join("\n"), rules.join("\n"))
}

/// Feeds iptables-restore.
pub fn restore(lab: &Lab, text: &str) {
    fs::write(lab.path("rules"), text).unwrap();
    sh(&format!("iptables-restore --noflush < {}", lab.path("rules").display()));
}

/// Feeds nft.
fn load(lab: &Lab, text: &str) {
    fs::write(lab.path("rules"), text).unwrap();
    sh(&format!("nft -f {}", lab.path("rules").display()));
}

/// Resident memory of a process and its children, in KiB.
pub fn resident(pid: u32) -> f64 {
    let own = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0)
    };
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    own(pid) + children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(own).sum::<f64>()
}
