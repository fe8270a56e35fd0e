//! Config → rules, without a kernel: the text itself, held against files; and what it does, walked by the tracer.
//!
//! A golden file is rewritten by `UPDATE=1 cargo test --test golden`; look at the difference before you commit it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod tracer;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use paraglider::config;
use paraglider::ruleset::{Change, Ruleset};
use paraglider::service::{Family, Service, Source};
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
    Change::of_family(&Ruleset::default(), &Ruleset::of(services), family).map(|change| change.text).unwrap_or_default()
}

#[test]
fn each_config_makes_the_rules_beside_it() {
    for path in configs() {
        let services = config::load(&path).unwrap();
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

/// The balancer of the traces: 10.2.0.1 and the binds are its own, and it masquerades with an address of its own.
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
fn each_frontend_serves_each_kind_of_client_and_touches_nobody_else() {
    for path in configs() {
        let services = config::load(&path).unwrap();
        for service in &services {
            let family = service.bind.family();
            // A policy of DROP shows what our own rules let through.
            let rules = format!(
                "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n{}",
                text(&services, family).replace("*filter\n", "*filter\n:FORWARD DROP [0:0]\n")
            );
            let host = balancer(&services);
            let own = host.outgoing;
            let mut tracer = Tracer::new(&rules, host);
            let bind = service.bind.socket();
            let outside: SocketAddr =
                if family == Family::V4 { "203.0.113.9:40000" } else { "[2001:db8::9]:40000" }.parse().unwrap();
            let backend = service.backends[0].address.socket();
            let from_backend = SocketAddr::new(backend.ip(), 40000);
            let addresses: Vec<SocketAddr> = service.backends.iter().map(|backend| backend.address.socket()).collect();

            for (origin, client) in
                [(From::Outside, outside), (From::Here, SocketAddr::new(own, 40000)), (From::Outside, from_backend)]
            {
                for _ in 0..2 * addresses.len() {
                    let fate = tracer.connect(origin, client, bind);
                    assert_eq!(fate.end, End::Forwarded, "{}: {client} to {bind}", path.display());
                    assert!(addresses.contains(&fate.to), "{}: {client} got to {}", path.display(), fate.to);
                    assert_eq!(fate.from, seen_by_backends(service.source, client.ip(), own));
                }
            }

            // An unrelated port of the bind, and an unrelated address with the bind's port: ours do not touch them.
            let port = SocketAddr::new(bind.ip(), 9);
            let fate = tracer.connect(From::Outside, outside, port);
            assert_eq!((fate.end, fate.to, fate.from), (End::Local, port, outside.ip()));
            let address = SocketAddr::new(own, bind.port());
            let fate = tracer.connect(From::Outside, outside, address);
            assert_eq!((fate.end, fate.to, fate.from), (End::Local, address, outside.ip()));

            // A direct connection to a backend is as dropped as it was, and keeps its source where it is not.
            let fate = tracer.connect(From::Outside, outside, backend);
            assert_eq!((fate.end, fate.to), (End::Dropped, backend));
            let fate = tracer.connect(From::Here, SocketAddr::new(own, 40000), backend);
            assert_eq!((fate.end, fate.to, fate.from), (End::Forwarded, backend, own));
        }
    }
}

fn many(n: usize) -> Vec<Service> {
    let list: String = (0..n).map(|i| format!("    - 10.2.{}.{}:80\n", i / 250, i % 250 + 1)).collect();
    config::parse(format!("frontend:\n  bind: 10.9.0.1:4444\n  backends:\n{list}").as_bytes()).unwrap()
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

/// For every number of backends, any N connections in a row are one for each backend, and few rules are walked.
#[test]
fn round_robin_is_exact_and_its_walk_short_for_every_number_of_backends() {
    for n in 1..=1024 {
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

/// The README shows what `print` prints for its first config.
#[test]
fn the_readme_shows_the_rules_of_its_sample() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let sample = readme.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let rules = text(&config::parse(sample.as_bytes()).unwrap(), Family::V4);
    let (before, after) = readme.split_once("<!-- print -->\n```\n").unwrap();
    let (_, after) = after.split_once("```\n<!-- /print -->").unwrap();
    let right = format!("{before}<!-- print -->\n```\n{rules}```\n<!-- /print -->{after}");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(root.join("README.md"), &right).unwrap();
    }
    assert_eq!(right, fs::read_to_string(root.join("README.md")).unwrap());
}

/// All configs of the README are right.
#[test]
fn the_configs_of_the_readme_are_right() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let samples: Vec<&str> = readme.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(samples.len() >= 2);
    for sample in samples {
        config::parse(sample.as_bytes()).unwrap_or_else(|mistake| panic!("{mistake}\n{sample}"));
    }
}
