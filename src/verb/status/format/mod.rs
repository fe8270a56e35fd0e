//! A report, written: for people, as JSON, and as Prometheus reads it.

mod json;
mod prometheus;
mod text;

use super::report::Report;

/// How `status` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// Prometheus' text format.
    Prometheus,
}

impl Format {
    /// Appends the report.
    pub fn write(self, out: &mut String, report: &Report<'_>) {
        match self {
            Format::Text => text::write(out, report),
            Format::Json => json::write(out, report),
            Format::Prometheus => prometheus::write(out, report),
        }
    }
}

/// Reports as they come out of what the kernel and `watch` tell, each in all formats, byte for byte as in
/// tests/status. `UPDATE=1 cargo test --lib status` rewrites those files; read the difference before you commit it.
#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::engine::{InForce, Share};
    use crate::error::Exit;
    use crate::host::conntrack::Connection;
    use crate::net::Endpoint;
    use crate::serve::Waiting;
    use crate::verb::status::report::{self, FrontendStatus};
    use crate::watch::checker::{Condition, Seen};

    fn at(text: &str) -> Endpoint {
        Endpoint::parse(text).unwrap()
    }

    /// A frontend in force; `backends`: the address of each and its connections taken.
    fn balanced(name: &str, bind: &str, backends: &[(&str, u64)]) -> InForce {
        let share = |(address, taken): &(&str, u64)| Share { address: at(address), taken: *taken, slots: 1 };
        let backends = backends.iter().map(share).collect();
        let ports = crate::service::Ports::one(at(bind).port());
        InForce { name: name.to_owned(), bind: at(bind), ports, draining: false, exact: true, backends }
    }

    /// What `watch` has seen of a backend: `since` is in milliseconds; an `error` alone does not mean that it is down.
    fn seen(bind: &str, backend: &str, down: bool, since: u64, error: &str) -> Seen {
        let condition = Condition { down, checked: true, since, error: error.to_owned(), against: 0 };
        Seen { bind: at(bind), name: String::new(), backend: at(backend), chosen: !down, condition, due: 0 }
    }

    /// Two frontends, one without a name of its own and one in IPv6, with backends that are up, down and not checked, and
    /// a third frontend that drains. A name and an error are as bad as text can be.
    fn frontends(counted: bool) -> Vec<FrontendStatus> {
        let (web, web6, old) = ("166.1.101.2:80", "[2001:db8::2]:443", "166.1.101.2:8080");
        let in_force = [
            balanced(web, web, &[("172.19.0.2:8080", 12), ("172.19.0.13:8080", 4_294_967_296)]),
            // No config has such a name, but a chain that another program made may.
            balanced("web \"6\\", web6, &[("[fd00::2]:8443", 0), ("[fd00::ffff:3]:8443", 7)]),
            InForce { draining: true, ..balanced(old, old, &[]) },
        ];
        let connections = [
            (web, "172.19.0.2:8080"),
            (web, "172.19.0.2:8080"),
            // It gets no new ones any more.
            (web, "172.19.0.9:8080"),
            (web6, "[fd00::2]:8443"),
            (old, "172.19.0.2:8081"),
        ]
        .map(|(bind, backend)| Connection::living(at(bind), at(backend)));
        let bad = "status 500 \"a \\ b\"\n\u{1b}[2J\u{7f}\u{9b}\u{e9}";
        let unknown = Seen { condition: Condition::default(), ..seen(web, "172.19.0.13:8080", false, 0, "") };
        let seen = [
            seen(web, "172.19.0.2:8080", false, 1_000, ""),
            unknown,
            // Known only from its checks: neither in the rules, nor with a connection.
            seen(web, "172.19.0.7:8080", true, 100_999, "connection refused"),
            seen(web6, "[fd00::2]:8443", false, 101_000, "no answer within 1000 ms"),
            seen(web6, "[fd00::ffff:3]:8443", true, 94_000, bad),
        ];
        let mut all = report::frontends(in_force.iter(), counted.then_some(&connections[..]), &seen, 101_000);
        let yaml = b"frontend: {bind: '166.1.101.2:80', privateip: 172.19.0.4-172.19.0.5, backends: ['172.19.0.2:80']}";
        let services = crate::config::parse(yaml).unwrap().services;
        let here = ["166.1.101.2", "172.19.0.5"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap());
        report::missing(&mut all, &services, &|ip| counted && here.contains(&ip));
        all[1].follows = counted.then(|| "pppoe-wan".to_owned());
        all
    }

    /// A name, a state, why it is not simply in force, and the frontends.
    fn reports() -> [(&'static str, Exit, Option<&'static str>, Vec<FrontendStatus>); 5] {
        let drifted = "the rules are not those of /etc/\\u{1b}a\"b.yaml; `paraglider start` puts them right";
        [
            ("in-force", Exit::Done, None, frontends(true)),
            ("unchecked", Exit::Done, Some("the watch (process 7) has not written for 11 s"), vec![]),
            ("drifted", Exit::Failed, Some(drifted), frontends(false)),
            ("not-in-force", Exit::NotInForce, None, vec![]),
            ("unknown", Exit::Unknown, Some("cannot read the IPv4 rules: it said nothing"), vec![]),
        ]
    }

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/status").join(name)
    }

    #[test]
    fn each_report_is_written_as_in_its_file() {
        let mut compared = 0;
        let yaml = b"frontend: {bind: 'wan:443', backends: ['172.19.0.2:80']}";
        let service = crate::config::parse(yaml).unwrap().services.remove(0);
        let why = "the interface \"wan\" is down".to_owned();
        let some = [Waiting { service, why }];
        for (name, exit, why, frontends) in reports() {
            let waiting = if name == "in-force" { &some[..] } else { &[] };
            let chosen = "since iptables is installed";
            let report = Report { exit, why, engine: "iptables-nft", chosen, frontends: &frontends, waiting };
            for (format, extension) in [(Format::Text, "txt"), (Format::Json, "json"), (Format::Prometheus, "prom")] {
                let mut out = String::new();
                format.write(&mut out, &report);
                let path = file(&format!("{name}.{extension}"));
                if std::env::var_os("UPDATE").is_some() {
                    fs::write(&path, &out).unwrap();
                }
                assert_eq!(out, fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
                compared += 1;
            }
        }
        // A file to which no report belongs any more would be compared with nothing.
        assert_eq!(fs::read_dir(file("")).unwrap().count(), compared);
    }

    #[test]
    fn no_text_drives_a_terminal_or_breaks_a_line() {
        for (name, ..) in reports() {
            for extension in ["txt", "json", "prom"] {
                let text = fs::read_to_string(file(&format!("{name}.{extension}"))).unwrap();
                assert!(
                    text.ends_with('\n') && !text.replace('\n', "").contains(char::is_control),
                    "{name}.{extension}"
                );
            }
            assert_eq!(fs::read_to_string(file(&format!("{name}.json"))).unwrap().lines().count(), 1, "{name}");
        }
    }

    /// Another parser finds in the JSON what went into it.
    #[test]
    fn the_json_is_json() {
        for (name, exit, why, frontends) in reports() {
            let text = fs::read_to_string(file(&format!("{name}.json"))).unwrap();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            let state = match exit {
                Exit::Done => "in force",
                Exit::NotInForce => "not in force",
                Exit::Unknown => "unknown",
                _ => "drifted",
            };
            assert_eq!((&json["state"], &json["engine"]), (&state.into(), &"iptables-nft".into()), "{name}");
            assert_eq!(json["reason"].as_str(), why, "{name}");
            let told = json["frontends"].as_array().unwrap();
            assert_eq!(told.len(), frontends.len(), "{name}");
            for (told, frontend) in told.iter().zip(&frontends) {
                assert_eq!(told["name"].as_str(), Some(frontend.name.as_str()));
                assert_eq!(told["bind"].as_str(), Some(frontend.bind.to_string().as_str()));
                let absent: Vec<String> = frontend.absent.iter().map(ToString::to_string).collect();
                assert_eq!(told["absent"], serde_json::json!(absent));
                let told = told["backends"].as_array().unwrap();
                assert_eq!(told.len(), frontend.backends.len());
                for (told, backend) in told.iter().zip(&frontend.backends) {
                    assert_eq!(told["address"].as_str(), Some(backend.address.to_string().as_str()));
                    assert_eq!(told["taken"].as_u64(), Some(backend.taken));
                    assert_eq!(told["active"].as_u64(), backend.active.map(|active| active as u64));
                    let health = backend.health.as_ref();
                    let state = health.map_or("unchecked", |health| if health.up { "up" } else { "down" });
                    assert_eq!(told["state"].as_str(), Some(state));
                    assert_eq!(told["since"].as_u64(), health.map(|health| health.since));
                    let error = health.map(|health| health.error.as_str()).filter(|error| !error.is_empty());
                    assert_eq!(told["error"].as_str(), error);
                }
            }
        }
    }

    #[test]
    fn the_readme_shows_json_with_these_keys() {
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let readme = include_str!("../../../../README.md").split_once("```json\n").unwrap().1;
        let (shown, told) = (readme.lines().next().unwrap(), fs::read_to_string(file("in-force.json")).unwrap());
        let (shown, told) = (parse(shown), parse(&told));
        for place in ["", "/frontends/0", "/frontends/0/backends/0"] {
            let keys = |json: &serde_json::Value| -> Vec<String> {
                json.pointer(place).unwrap().as_object().unwrap().keys().cloned().collect()
            };
            assert_eq!(keys(&shown), keys(&told), "{place}");
        }
    }

    #[test]
    fn prometheus_can_read_the_metrics() {
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/promtool");
        let found =
            [own, "/usr/bin/promtool", "/usr/local/bin/promtool"].into_iter().find(|path| Path::new(path).exists());
        let Some(promtool) = found else {
            println!("skipped: the metrics as Prometheus reads them: promtool is missing (tests/promtool fetches it)");
            return;
        };
        for (name, ..) in reports() {
            let mut check = Command::new(promtool);
            check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut check = check.spawn().unwrap();
            let text = fs::read(file(&format!("{name}.prom"))).unwrap();
            check.stdin.take().unwrap().write_all(&text).unwrap();
            let output = check.wait_with_output().unwrap();
            assert!(
                output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
                "{name}: {output:?}"
            );
        }
    }
}
