//! Tables for people and a plot.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use plotters::prelude::*;

use crate::{Figures, Results, SIZES};

/// The engines: name for people, word of the cases.
const ENGINES: [(&str, &str); 3] = [("nftables", "nftables"), ("iptables-nft", "nft"), ("iptables-legacy", "legacy")];

/// Writes `target/bench/results.md`, `target/bench/cpu.svg` and the tables of `benches/README.md`.
pub fn write(results: &Results) {
    let tables = tables(results) + &counted(results);
    println!("\n{tables}");
    fs::create_dir_all("target/bench").unwrap();
    fs::write("target/bench/results.md", &tables).unwrap();
    plot(results).unwrap();
    let readme = fs::read_to_string("benches/README.md").unwrap_or_default();
    let kept = readme.split("<!-- results -->").next().unwrap_or_default();
    fs::write("benches/README.md", format!("{kept}<!-- results -->\n\n{tables}")).unwrap();
    println!("target/bench/results.md, target/bench/cpu.svg and benches/README.md are written");
}

/// The same for what is counted alone: the other tables of `benches/README.md` stay.
pub fn write_counted(results: &Results) {
    let tables = counted(results);
    println!("{tables}");
    let readme = fs::read_to_string("benches/README.md").unwrap_or_default();
    let kept = readme.split("\n### New connections, counted").next().unwrap_or_default();
    fs::write("benches/README.md", format!("{kept}{tables}")).unwrap();
}

/// Median, smallest and largest of one figure of a case.
fn spread(results: &Results, case: &str, figure: &str) -> Option<(f64, f64, f64)> {
    let rounds: &Vec<Figures> = results.get(case)?;
    let mut values: Vec<f64> = rounds.iter().filter_map(|figures| figures.get(figure).copied()).collect();
    values.sort_by(f64::total_cmp);
    Some((*values.get(values.len() / 2)?, *values.first()?, *values.last()?))
}

fn median(results: &Results, case: &str, figure: &str) -> Option<f64> {
    spread(results, case, figure).map(|(median, _, _)| median)
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.digits$}"))
}

/// What is measured with `rate`, in the order of the table: name for people, words of the case.
fn rows(results: &Results) -> Vec<(String, String)> {
    let mut rows = vec![("direct route".to_owned(), "nft rate direct 1".to_owned())];
    for (name, variant) in ENGINES {
        rows.push((format!("**floor**: one plain DNAT+SNAT, {name}"), format!("{variant} rate floor 1")));
        for (what, word) in
            [("Paraglider", "paraglider"), ("the same, fan-out 4", "fanout4"), ("linear list", "linear")]
        {
            rows.extend(SIZES.map(|n| (format!("{what}, {name}, N = {n}"), format!("{variant} rate {word} {n}"))));
        }
    }
    for (what, word) in [("nftlb", "nftlb"), ("HAProxy, tcp", "haproxy"), ("nginx stream", "nginx")] {
        rows.extend(SIZES.map(|n| (format!("{what}, N = {n}"), format!("nft rate {word} {n}"))));
    }
    rows.retain(|(_, case)| results.contains_key(case));
    rows
}

fn tables(results: &Results) -> String {
    let mut text = String::new();
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).trim().to_owned()
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, name)| name);
    let rounds = results.values().map(Vec::len).max().unwrap_or(0);
    let _ = writeln!(
        text,
        "{} processors ({cpu}), Linux {}, {}; commit {}, {}; {rounds} rounds, medians, in brackets the smallest and the largest.\n",
        std::thread::available_parallelism().map_or(0, usize::from),
        said("uname", &["-r"]),
        said("/usr/sbin/iptables-nft", &["--version"]),
        said("git", &["rev-parse", "--short", "HEAD"]),
        said("date", &["-u", "+%Y-%m-%d"]),
    );

    let _ = writeln!(text, "### New connections\n\n| | per second | × floor | CPU µs each | × direct | resident MiB |\n|---|---|---|---|---|---|");
    let direct = median(results, "nft rate direct 1", "cpu_us");
    for (name, case) in rows(results) {
        let variant = case.split(' ').next().unwrap_or_default();
        let floor = median(results, &format!("{variant} rate floor 1"), "per_second");
        let rate = spread(results, &case, "per_second");
        let cpu = median(results, &case, "cpu_us");
        let ratio = |a: Option<f64>, b: Option<f64>| number(a.zip(b).map(|(a, b)| a / b), 2);
        let resident = median(results, &case, "resident_kib").map(|kib| kib / 1024.0);
        let rates = rate.map_or("–".into(), |(median, low, high)| format!("{median:.0} [{low:.0}–{high:.0}]"));
        let _ = writeln!(
            text,
            "| {name} | {rates} | {} | {} | {} | {} |",
            ratio(rate.map(|rate| rate.0), floor),
            number(cpu, 1),
            ratio(cpu, direct),
            resident.map_or("0".into(), |mib| format!("{mib:.0}")),
        );
    }

    let _ = writeln!(text, "\n### Beside the floor\n\nBoth in the same laboratory, in turns; connections per second × floor.\n\n| | nftables | iptables-nft | iptables-legacy |\n|---|---|---|---|");
    for (name, what) in [
        ("Paraglider, N = 3", "paraglider 3"),
        ("Paraglider, N = 1024", "paraglider 1024"),
        ("the same, fan-out 4, N = 1024", "fanout4 1024"),
        ("linear list, N = 1024", "linear 1024"),
    ] {
        let cell = |variant: &str| {
            spread(results, &format!("{variant} pair {what}"), "ratio")
                .map_or("–".into(), |(median, low, high)| format!("{median:.3} [{low:.3}–{high:.3}]"))
        };
        let _ = writeln!(text, "| {name} | {} | {} | {} |", cell("nftables"), cell("nft"), cell("legacy"));
    }

    let _ = writeln!(text, "\n### Bulk\n\n| | Gbit/s | × direct | CPU ms per Gbit |\n|---|---|---|---|");
    let direct = median(results, "nft bulk direct", "gbit_per_second");
    for (name, word) in [("direct route", "direct"), ("Paraglider", "paraglider"), ("HAProxy", "haproxy")] {
        let case = format!("nft bulk {word}");
        let Some((rate, low, high)) = spread(results, &case, "gbit_per_second") else { continue };
        let ratio = number(direct.map(|direct| rate / direct), 2);
        let cpu = number(median(results, &case, "cpu_ms_per_gbit"), 1);
        let _ = writeln!(text, "| {name} | {rate:.1} [{low:.1}–{high:.1}] | {ratio} | {cpu} |");
    }

    let _ = writeln!(
        text,
        "\n### A change of the rules\n\nMilliseconds (CPU milliseconds; peak MiB of the largest process, iptables-restore among them). Bare is the same \
         text by iptables-restore, or by nft. The last column is one run of iptables for each rule, measured once.\n\n\
         | | N | start | unchanged start | reload | stop | bare | start × bare | one run per rule |\n|---|---|---|---|---|---|---|---|---|"
    );
    for (name, variant) in ENGINES {
        for n in SIZES {
            let case = format!("{variant} change {n}");
            let cell = |what: &str| {
                let of = |figure: &str| median(results, &case, &format!("{what}_{figure}"));
                let peak = of("peak_kib").map(|kib| kib / 1024.0);
                format!("{} ({}; {})", number(of("ms"), 1), number(of("cpu_ms"), 1), number(peak, 1))
            };
            let ratio = median(results, &case, "start_ms")
                .zip(median(results, &case, "bare_ms"))
                .map(|(start, bare)| start / bare);
            let original = median(results, &format!("{variant} original {n}"), "start_ms");
            let _ = writeln!(
                text,
                "| {name} | {n} | {} | {} | {} | {} | {} | {} | {} |",
                cell("start"),
                cell("unchanged"),
                cell("reload"),
                cell("stop"),
                cell("bare"),
                number(ratio, 1),
                number(original, 0)
            );
        }
    }

    let _ = writeln!(text, "\n### Growth\n\nNew connections per second to one backend while others to it are open.\n\n| open | one privateip | a range of four |\n|---|---|---|");
    for held in [0, 10_000, 60_000] {
        let cell = |privateip: &str| {
            spread(results, &format!("nft growth {held} {privateip}"), "per_second")
                .map_or("–".into(), |(median, low, high)| format!("{median:.0} [{low:.0}–{high:.0}]"))
        };
        let _ = writeln!(text, "| {held} | {} | {} |", cell("10.2.0.1"), cell("10.2.0.1-10.2.0.4"));
    }

    let _ = writeln!(text, "\n### Reloads under load\n\n| | reloads | connections | lost |\n|---|---|---|---|");
    for (name, variant) in ENGINES {
        let sum = |figure: &str| {
            let rounds = results.get(&format!("{variant} reloads")).into_iter().flatten();
            rounds.filter_map(|figures| figures.get(figure)).sum::<f64>()
        };
        let _ = writeln!(text, "| {name} | {:.0} | {:.0} | {:.0} |", sum("reloads"), sum("made"), sum("lost"));
    }
    text
}

/// What was counted on the emulated machine.
fn counted(results: &Results) -> String {
    let of = |case: &str, figure: &str| median(results, case, figure);
    let Some(direct) = of("nft counted direct 1", "instructions") else { return String::new() };
    let endpoints = of("nft counted endpoints 1", "instructions").unwrap_or_default();
    let mut text = String::from(
        "\n### New connections, counted\n\nThousands of instructions of both ends of a connection and of all between them, on Debian's kernel 6.1 for this \
         architecture.\n\n\
         | | thousand instructions | × one plain DNAT+SNAT | × direct | the way alone × direct |\n|---|---|---|---|---|\n",
    );
    let mut row = |name: &str, case: &str, plain: &str| {
        let Some((value, low, high)) = spread(results, case, "instructions") else { return };
        let beside = number(of(plain, "instructions").map(|plain| value / plain), 3);
        let way = number((value > endpoints).then(|| (value - endpoints) / (direct - endpoints)), 2);
        let [value, low, high] = [value, low, high].map(|one| one / 1e3);
        let _ = writeln!(
            text,
            "| {name} | {value:.1} [{low:.1}–{high:.1}] | {beside} | {:.3} | {way} |",
            value * 1e3 / direct
        );
    };
    row("both ends on one host", "nft counted endpoints 1", "");
    row("direct route", "nft counted direct 1", "");
    for (name, variant) in ENGINES {
        let plain = format!("{variant} counted plain 1");
        row(&format!("**one plain DNAT+SNAT**, {name}"), &plain, &plain);
        for n in SIZES {
            row(&format!("Paraglider, {name}, N = {n}"), &format!("{variant} counted paraglider {n}"), &plain);
        }
    }
    for n in SIZES {
        row(&format!("nftlb, N = {n}"), &format!("nft counted nftlb {n}"), "nftables counted plain 1");
    }
    text.push_str(
        "\n### A change of the rules, counted\n\nMillions of instructions of the program and what it runs.\n\n\
         | | N | start | unchanged start | reload | stop |\n|---|---|---|---|---|---|\n",
    );
    for (name, variant) in ENGINES {
        for n in SIZES {
            let case = format!("{variant} counted-change {n}");
            let cell = |what: &str| number(of(&case, &format!("{what}_million")), 1);
            let _ = writeln!(
                text,
                "| {name} | {n} | {} | {} | {} | {} |",
                cell("start"),
                cell("unchanged"),
                cell("reload"),
                cell("stop")
            );
        }
    }
    text
}

/// Bars: CPU time of a connection.
fn plot(results: &Results) -> Result<(), Box<dyn std::error::Error>> {
    let bars: Vec<(String, f64)> = rows(results)
        .into_iter()
        .filter_map(|(name, case)| Some((name.replace("**", ""), median(results, &case, "cpu_us")?)))
        .collect();
    let longest = bars.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    let height = 24 * i32::try_from(bars.len())? + 50;
    let area = SVGBackend::new("target/bench/cpu.svg", (900, u32::try_from(height)?)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: i32| ("sans-serif", size).into_font();
    area.draw(&Text::new("CPU time per new connection, µs: all that takes part", (10, 12), text(16)))?;
    for (at, (name, value)) in (0..).zip(&bars) {
        let top = 40 + 24 * at;
        let end = 380 + (430.0 * value / longest) as i32;
        let colour = if name.starts_with("Paraglider") { RGBColor(20, 110, 180) } else { RGBColor(170, 170, 170) };
        area.draw(&Rectangle::new([(380, top), (end, top + 18)], colour.filled()))?;
        area.draw(&Text::new(name.as_str(), (10, top + 2), text(14)))?;
        area.draw(&Text::new(format!("{value:.0}"), (end + 6, top + 2), text(14)))?;
    }
    area.present()?;
    Ok(())
}
