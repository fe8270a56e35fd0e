//! Config → rules, without a kernel: the text, compared with golden files, and what the rules do, walked by the tracer.
//!
//! `UPDATE=1 cargo test --test golden` rewrites the golden files; read the difference before you commit it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod rules;
mod tracer;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use paraglider::config;
use paraglider::engine::{iptables, nftables, Plan};
use paraglider::net::Family;
use paraglider::serve;
use paraglider::service::{Service, Source};
use tracer::{End, From, Host, Tracer};

fn configs() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/configs");
    let mut found: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    found.sort();
    assert!(found.len() >= 6, "{found:?}");
    found
}

fn text(services: &[Service], family: Family) -> String {
    iptables::text(&Plan::Serve(services), family).unwrap_or_default()
}

#[test]
fn each_config_makes_the_rules_beside_it() {
    for path in configs() {
        let services = serve::load(path.to_str().unwrap()).unwrap().services;
        let made: String = Family::ALL
            .iter()
            .map(|family| (family, text(&services, *family)))
            .filter(|(_, text)| !text.is_empty())
            .map(|(family, text)| format!("# {family}\n{text}"))
            .collect();
        let beside = path.with_extension("rules");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&beside, &made).unwrap();
        }
        assert_eq!(made, fs::read_to_string(&beside).unwrap_or_default(), "{}", path.display());
    }
}

#[test]
fn each_config_makes_the_table_beside_it() {
    for path in configs() {
        let services = serve::load(path.to_str().unwrap()).unwrap().services;
        let made = nftables::text(&Plan::Serve(&services));
        let beside = path.with_extension("nft");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&beside, &made).unwrap();
        }
        assert_eq!(made, fs::read_to_string(&beside).unwrap_or_default(), "{}", path.display());
    }
}

/// The balancer of the traces: it has the addresses of the binds and one more, which MASQUERADE uses.
fn balancer(services: &[Service]) -> Host {
    let six = services.iter().any(|service| service.bind.family() == Family::V6);
    let own: IpAddr = if six { "fd02::fe" } else { "10.2.0.254" }.parse().unwrap();
    let mut addresses: Vec<IpAddr> = services.iter().map(|service| service.bind.ip()).collect();
    addresses.push(own);
    Host { addresses, outgoing: own }
}

fn seen_by_backends(source: Source, client: IpAddr, own: IpAddr) -> IpAddr {
    match source {
        Source::Addresses(first, _) => first,
        Source::Masquerade => own,
        Source::Client => client,
    }
}

#[test]
fn each_frontend_serves_each_kind_of_client_and_leaves_other_connections_alone() {
    for path in configs() {
        let services = serve::load(path.to_str().unwrap()).unwrap().services;
        for service in &services {
            let family = service.bind.family();
            // With a policy of DROP, only what our own rules accept gets through.
            let rules =
                text(&services, family).replace("*filter\n", "*filter\n:FORWARD DROP [0:0]\n:INPUT ACCEPT [0:0]\n");
            let host = balancer(&services);
            let own = host.outgoing;
            let mut tracer = Tracer::new(&rules, host);
            tracer.protocol = service.bind.protocol().word();
            let bind = service.bind.socket();
            let outside: SocketAddr =
                if family == Family::V4 { "203.0.113.9:40000" } else { "[2001:db8::9]:40000" }.parse().unwrap();
            // One without a port keeps the client's.
            let own_port = |address: SocketAddr, port: u16| {
                SocketAddr::new(address.ip(), if address.port() == 0 { port } else { address.port() })
            };
            let backend = own_port(service.backends[0].address.socket(), 99);
            let from_backend = SocketAddr::new(backend.ip(), 40000);
            let alive = service.backends.iter().filter(|backend| backend.weight > 0);
            let addresses: Vec<SocketAddr> =
                alive.map(|backend| own_port(backend.address.socket(), bind.port())).collect();

            for (origin, client) in
                [(From::Outside, outside), (From::Here, SocketAddr::new(own, 40000)), (From::Outside, from_backend)]
            {
                if addresses.is_empty() {
                    // No backend takes connections: they must not reach a service of the balancer itself.
                    assert_eq!(tracer.connect(origin, client, bind).end, End::Dropped, "{}", path.display());
                }
                for _ in 0..2 * addresses.len() {
                    let fate = tracer.connect(origin, client, bind);
                    assert_eq!(fate.end, End::Forwarded, "{}: {client} to {bind}", path.display());
                    assert!(addresses.contains(&fate.to), "{}: {client} got to {}", path.display(), fate.to);
                    assert_eq!(fate.from, seen_by_backends(service.source, client.ip(), own));
                }
            }

            // The first and the last port of each range, and none beside it.
            for (first, last) in service.ports.ranges() {
                for port in [*first, *last] {
                    let fate = tracer.connect(From::Outside, outside, SocketAddr::new(bind.ip(), port));
                    let end = if addresses.is_empty() { End::Dropped } else { End::Forwarded };
                    assert_eq!(fate.end, end, "{}: {port}", path.display());
                    let kept = service.backends.iter().any(|backend| backend.address.port() == 0);
                    assert!(!kept || fate.to.port() == port);
                }
                for port in [first.saturating_sub(1), last.saturating_add(1)] {
                    if services.iter().any(|other| other.has(&service.bind.with_port(Some(port)))) {
                        continue;
                    }
                    let other = SocketAddr::new(bind.ip(), port);
                    assert_eq!(tracer.connect(From::Outside, outside, other).to, other, "{}", path.display());
                }
            }

            // Our rules match neither another port of the bind's address nor the bind's port on another address.
            let port = SocketAddr::new(bind.ip(), 9);
            let fate = tracer.connect(From::Outside, outside, port);
            assert_eq!((fate.end, fate.to, fate.from), (End::Local, port, outside.ip()));
            let address = SocketAddr::new(own, bind.port());
            let fate = tracer.connect(From::Outside, outside, address);
            assert_eq!((fate.end, fate.to, fate.from), (End::Local, address, outside.ip()));

            // A direct connection to a backend meets only the policy, and keeps its source address.
            let fate = tracer.connect(From::Outside, outside, backend);
            assert_eq!((fate.end, fate.to), (End::Dropped, backend));
            let fate = tracer.connect(From::Here, SocketAddr::new(own, 40000), backend);
            assert_eq!((fate.end, fate.to, fate.from), (End::Forwarded, backend, own));
        }
    }
}

fn many(n: usize) -> Vec<Service> {
    let list: String = (0..n).map(|i| format!("    - 10.2.{}.{}:80\n", i / 250, i % 250 + 1)).collect();
    config::parse(format!("frontend:\n  bind: 10.9.0.1:4444\n  backends:\n{list}").as_bytes()).unwrap().services
}

/// Shares of the next `n` connections.
fn shares(tracer: &mut Tracer, n: usize, visited: &mut usize) -> BTreeMap<SocketAddr, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..n {
        let fate =
            tracer.connect(From::Outside, "203.0.113.9:40000".parse().unwrap(), "10.9.0.1:4444".parse().unwrap());
        *visited = fate.visited.max(*visited);
        *shares.entry(fate.to).or_insert(0) += 1;
    }
    shares
}

/// For every number of backends N, of any N connections in a row each backend gets one, and a connection passes few rules.
#[test]
fn round_robin_is_exact_and_passes_few_rules_for_every_number_of_backends() {
    // The longest test of this suite: on all processors.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for first in 1..=processors {
            scope.spawn(move || (first..=1024).step_by(processors).for_each(is_exact));
        }
    });
}

fn is_exact(n: usize) {
    let services = many(n);
    let mut tracer = Tracer::new(&text(&services, Family::V4), balancer(&services));
    let mut visited = 0;
    // In the middle of a cycle too.
    for offset in [0, n / 3] {
        shares(&mut tracer, offset, &mut visited);
        let shares = shares(&mut tracer, n, &mut visited);
        assert_eq!(shares.len(), n);
        assert!(shares.values().all(|times| *times == 1), "{n}: {shares:?}");
    }
    let bound = 2.0 * (n as f64).log2() + 8.0;
    assert!(visited as f64 <= bound && visited <= 30, "{n}: {visited} rules, more than {bound}");
}

fn weighted(weights: &[u16], schedule: &str) -> Vec<Service> {
    let backend = |(i, weight): (usize, &u16)| {
        format!("    - {{address: '10.2.{}.{}:80', weight: {weight}}}\n", i / 250, i % 250 + 1)
    };
    let list: String = weights.iter().enumerate().map(backend).collect();
    config::parse(format!("frontend:\n  bind: 10.9.0.1:4444\n  schedule: {schedule}\n  backends:\n{list}").as_bytes())
        .unwrap()
        .services
}

/// Of each round of connections, each backend gets exactly its weight.
#[test]
fn weighted_round_robin_is_exact() {
    let mut dice = 7_u32;
    let mut throw = |sides: u32| {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (dice >> 16) % sides
    };
    for case in 0..60 {
        let weights: Vec<u16> = match case {
            0 => vec![5, 1, 1],
            1 => vec![256, 128, 0, 64],
            2 => vec![256, 255, 254, 253],
            _ => (0..2 + throw(12)).map(|_| throw(20) as u16).chain([1]).collect(),
        };
        let services = weighted(&weights, "roundrobin");
        let divisor = (1..=256).rev().find(|n| weights.iter().all(|weight| weight % n == 0)).unwrap();
        let round = weights.iter().map(|weight| usize::from(weight / divisor)).sum();
        let mut tracer = Tracer::new(&text(&services, Family::V4), balancer(&services));
        for offset in [0, throw(50) as usize] {
            shares(&mut tracer, offset, &mut 0);
            let shares = shares(&mut tracer, round, &mut 0);
            for (index, backend) in services[0].backends.iter().enumerate() {
                let owed = usize::from(weights[index] / divisor);
                assert_eq!(shares.get(&backend.address.socket()).copied().unwrap_or(0), owed, "{weights:?}");
            }
        }
    }
}

#[test]
fn random_keeps_to_the_weights_and_passes_few_rules() {
    for weights in [vec![1, 1, 1], vec![5, 0, 1, 2], vec![1; 64]] {
        let services = weighted(&weights, "random");
        let mut tracer = Tracer::new(&text(&services, Family::V4), balancer(&services));
        let mut visited = 0;
        let all = f64::from(weights.iter().map(|weight| u32::from(*weight)).sum::<u32>());
        let made = 40_000;
        let shares = shares(&mut tracer, made, &mut visited);
        for (backend, weight) in services[0].backends.iter().zip(&weights) {
            let expected = made as f64 * f64::from(*weight) / all;
            let got = shares.get(&backend.address.socket()).copied().unwrap_or(0) as f64;
            // At most five standard deviations off; the generator's seed is fixed.
            assert!((got - expected).abs() <= 5.0 * expected.sqrt(), "{weights:?}: {got}, not {expected}");
        }
        assert!(visited <= 15, "{visited}");
    }
}

/// Each client gets the owner of its bucket, in both families.
#[test]
fn source_gives_the_same_client_the_same_backend() {
    for six in [false, true] {
        let address = |n: usize| if six { format!("[fd02::{n:x}]:80") } else { format!("10.2.0.{n}:80") };
        let list: String = (1..=5).map(|n| format!("    - {{address: '{}', weight: {n}}}\n", address(n))).collect();
        let bind = if six { "[fd09::1]:80" } else { "10.9.0.1:80" };
        let yaml = format!("frontend:\n  bind: '{bind}'\n  schedule: source\n  backends:\n{list}");
        let services = config::parse(yaml.as_bytes()).unwrap().services;
        let family = services[0].bind.family();
        let owners = paraglider::schedule::owners(&services[0].backends);
        let mut tracer = Tracer::new(&text(&services, family), balancer(&services));
        for client in 0..1024_u32 {
            let ip: IpAddr = if six {
                std::net::Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(client) << 30 | u128::from(client)).into()
            } else {
                std::net::Ipv4Addr::from(0xcb00_0000 + client).into()
            };
            for port in [1024, 40_000] {
                let fate = tracer.connect(From::Outside, SocketAddr::new(ip, port), services[0].bind.socket());
                assert_eq!(fate.to, services[0].backends[owners[client as usize % 256]].address.socket());
                assert!(fate.visited <= 2 + 9);
            }
        }
    }
}

#[test]
fn round_robin_goes_in_the_order_of_the_list() {
    for n in [2, 3, 5, 8, 17, 64] {
        let services = many(n);
        let mut tracer = Tracer::new(&text(&services, Family::V4), balancer(&services));
        for _ in 0..2 {
            for backend in &services[0].backends {
                let fate = tracer.connect(From::Outside, "203.0.113.9:1".parse().unwrap(), services[0].bind.socket());
                assert_eq!(fate.to, backend.address.socket(), "{n}");
            }
        }
    }
}

/// The README shows what `print` prints for its first config, by both engines.
#[test]
fn the_readme_shows_the_rules_of_its_sample() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let sample = readme.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let services = config::parse(sample.as_bytes()).unwrap().services;
    let mut right = readme.clone();
    for (name, rules) in
        [("print", text(&services, Family::V4)), ("print nftables", nftables::text(&Plan::Serve(&services)))]
    {
        let (before, after) = right.split_once(&format!("<!-- {name} -->\n```\n")).unwrap();
        let (_, after) = after.split_once(&format!("```\n<!-- /{name} -->")).unwrap();
        right = format!("{before}<!-- {name} -->\n```\n{rules}```\n<!-- /{name} -->{after}");
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &right).unwrap();
    }
    assert_eq!(right, fs::read_to_string(&path).unwrap());
}

/// All configs of the README are valid.
#[test]
fn the_configs_of_the_readme_are_valid() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let samples: Vec<&str> = readme.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(samples.len() >= 2);
    for sample in samples {
        config::parse(sample.as_bytes()).unwrap_or_else(|mistake| panic!("{mistake}\n{sample}"));
    }
}
