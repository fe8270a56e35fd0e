//! Configs as people write them: written.txt has the inputs, and the sentence that each of them gets.

use std::fmt::Write;
use std::fs;

use crate::corpus::GOOD;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/written.txt");

/// `\n`, `\u{a0}` and so on as what they stand for; `~` guards a blank at an end.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.strip_prefix('~').unwrap_or(text);
    rest = rest.strip_suffix('~').unwrap_or(rest);
    while let Some((before, escape)) = rest.split_once('\\') {
        plain.push_str(before);
        let (c, behind) = match escape.strip_prefix("u{") {
            Some(code) => {
                let (code, behind) = code.split_once('}').unwrap();
                (char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap(), behind)
            }
            None => (
                match &escape[..1] {
                    "n" => '\n',
                    "t" => '\t',
                    other => other.chars().next().unwrap(),
                },
                &escape[1..],
            ),
        };
        plain.push(c);
        rest = behind;
    }
    plain + rest
}

/// The other way round.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            ' '..='~' => escaped.push(c),
            _ => write!(escaped, "\\u{{{:x}}}", u32::from(c)).unwrap(),
        }
    }
    escaped
}

/// The config of an input in one of the sections.
fn config(section: &str, input: &str) -> String {
    match section {
        "[bind]" => GOOD.replace("166.1.101.2:4444", input),
        "[backend]" => GOOD.replace("172.19.0.3:5555", input),
        "[key]" => GOOD.replace("privateip: 172.19.0.4", input),
        "[health]" => GOOD.replace("privateip: 172.19.0.4", &format!("health: {{{input}}}")),
        "[engine]" => format!("{GOOD}engine: {input}\n"),
        "[whole]" => input.to_owned(),
        other => panic!("{other}"),
    }
}

#[test]
fn what_people_write_gets_the_sentence_that_helps() {
    let text = fs::read_to_string(FILE).unwrap();
    let (mut section, mut input, mut now, mut count) = ("", None, String::new(), 0);
    for line in text.lines() {
        match (input.take(), line) {
            (None, "") => now.push('\n'),
            (None, comment) if comment.starts_with('#') => writeln!(now, "{line}").unwrap(),
            (None, name) if name.starts_with('[') => {
                section = name;
                writeln!(now, "{line}").unwrap();
            }
            (None, written) => input = Some(written),
            (Some(written), _) => {
                let config = config(section, &plain(written));
                let said = match paraglider::config::parse(config.as_bytes()) {
                    Ok(_) => "accepted".to_owned(),
                    Err(mistake) => escaped(&mistake.to_string()),
                };
                writeln!(now, "{written}\n    {said}").unwrap();
                count += 1;
            }
        }
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(FILE, &now).unwrap();
    }
    let differ = |(was, is): (&str, &str)| (was != is).then(|| format!("{was}\n{is}\n"));
    let wrong: String = text.lines().zip(now.lines()).filter_map(differ).collect();
    assert!(wrong.is_empty() && now == text, "expected, and said:\n{wrong}");
    assert!(count > 200, "only {count}");
}

/// Nothing that looks like a mistake, and is none.
#[test]
fn what_is_unusual_and_right_is_accepted() {
    for (section, input) in [
        ("[bind]", "166.1.101.2:4444 # for \u{201c}everybody\u{201d}, http://example.com"),
        ("[bind]", "'166.1.101.2:4444'"),
        ("[key]", "privateip: none # \u{2013} no SNAT\u{a0}"),
        ("[key]", "privateip: 172.19.0.4 - 172.19.0.7"),
        ("[key]", "privateip : 172.19.0.4"),
        ("[key]", "\"privateip\": 172.19.0.4"),
        ("[health]", "type: http, host: www.example.com"),
        ("[health]", "type: http, host: 'www.example.com:8080'"),
        ("[health]", "type: http, host: '[fd00::1]:80', path: /"),
        ("[health]", "interval: 2s, timeout: 2s"),
        ("[health]", "timeout: 100ms, interval: 100ms"),
        ("[health]", "type: http, expect: it\u{2019}s ready"),
        ("[health]", "type: http, expect: '\u{5065}\u{5eb7}: 100%'"),
        ("[health]", "type: http, expect: 1.2.3"),
        ("[health]", "type: http, expect: 2 of 3 nodes"),
        ("[health]", "type: http, expect: '{\"status\":\"ok\"}'"),
        ("[health]", "type: http, expect: bind:80 is up"),
        ("[key]", "health:\n    type: http\n    expect: all\n      is\n      well"),
        ("[key]", "health:\n    type: http\n    expect: 'all\n      is\n      well'"),
        ("[key]", "health:\n    {type: http,\n    expect: well}"),
        ("[backend]", "{address: 172.19.0.3:5555,\n       weight: 3}"),
        ("[backend]", "address: 172.19.0.3:5555\n      weight: 3"),
        ("[whole]", "{\"frontend\":{\"bind\":\"1.2.3.4:80\",\"backends\":[\"1.2.3.5:80\"]}}"),
        ("[whole]", "frontend:\n bind: 1.2.3.4:80\n backends:\n - 1.2.3.5:80\n"),
    ] {
        let config = config(section, input);
        if let Err(mistake) = paraglider::config::parse(config.as_bytes()) {
            panic!("{config}\n{mistake}");
        }
    }
}

/// Pieces that turn one mistake into another.
const PIECES: [&str; 40] = [
    "\u{201c}",
    "\u{a0}",
    "\u{ff1a}",
    "\u{2013}",
    "\u{200b}",
    "\u{e9}",
    "'",
    "\"",
    "\n",
    "\n  ",
    "\n    ",
    "\n      - ",
    "- ",
    "-",
    ": ",
    ":",
    "=",
    ",",
    ";",
    " ",
    "\t",
    "*",
    "[",
    "]",
    "{",
    "}",
    "#",
    " #",
    "/",
    "//",
    "..",
    "@",
    "%",
    "0",
    "80",
    "udp",
    "weight",
    "bind",
    "|",
    "\r\n",
];

/// Whatever is written, the answer is one line at a place that the text has.
#[test]
fn a_mistake_within_a_mistake_gets_one_line_at_a_place_of_the_text() {
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    let mut throw = |sides: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice >> 33) as usize % sides
    };
    let text = fs::read_to_string(FILE).unwrap();
    let mut section = "";
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', ' '])) {
        if line.starts_with('[') {
            section = line;
            continue;
        }
        for _ in 0..30 {
            let mut config: Vec<char> = config(section, &plain(line)).chars().collect();
            for _ in 0..=throw(3) {
                let at = throw(config.len() + 1);
                let cut = throw(4).min(config.len() - at);
                config.splice(at..at + cut, PIECES[throw(PIECES.len())].chars());
            }
            let config: String = config.into_iter().collect();
            let Err(mistake) = paraglider::config::parse(config.as_bytes()) else { continue };
            // The end of the text may count as a line.
            let lines = config.split(['\n', '\r']).count() + 1;
            assert!((1..=lines).contains(&mistake.line) && mistake.column >= 1, "{config:?}: {mistake}");
            assert!(!mistake.what.chars().any(char::is_control) && mistake.what.len() < 600, "{config:?}: {mistake}");
        }
    }
}
