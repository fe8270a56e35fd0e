//! Configs with a mistake, each with the message it must get.
#![allow(dead_code)]

/// A config and a part of the message: `LINE:COLUMN: what`.
pub struct Bad {
    pub name: &'static str,
    pub config: Vec<u8>,
    pub said: &'static str,
}

/// The valid config that the others are made of.
pub const GOOD: &str = "\
frontend:
  bind: 166.1.101.2:4444
  privateip: 172.19.0.4
  backends:
    - 172.19.0.2:5555
    - 172.19.0.3:5555
";

/// [`GOOD`] with one line changed.
fn with(line: &str, by: &str) -> Vec<u8> {
    assert!(GOOD.contains(line), "{line}");
    GOOD.replacen(line, by, 1).into_bytes()
}

pub fn bad() -> Vec<Bad> {
    let bad = |name, config, said| Bad { name, config, said };
    let text = |text: &str| text.as_bytes().to_vec();
    let bind = |value: &str| with("166.1.101.2:4444", value);
    let second = |value: &str| with("172.19.0.3:5555", value);
    let last = |line: &str| with("    - 172.19.0.3:5555\n", line);
    let checked = |health: &str| with("  privateip: 172.19.0.4", &format!("  health: {{{health}}}"));
    let bomb: String = (1..10).fold("a0: &a0 [x]\n".to_owned(), |text, n| {
        format!("{text}a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(", "))
    });
    vec![
        bad("empty", text(""), "1:1: there is no frontend; begin with `frontend:` or `frontends:`"),
        bad("only comments", text("# nothing\n# here\n"), "3:1: there is no frontend"),
        bad("not YAML", text("frontend: }\n"), "1:11: did not find expected node content"),
        bad("binary", vec![0x7f, b'E', b'L', b'F', 0, 1, 2], "1:1: control character `\\u{7f}`"),
        bad("not UTF-8", with("166", "\u{e9}").iter().map(|b| if *b == 0xc3 { 0xff } else { *b }).collect(), "2:9: this is not UTF-8 text"),
        bad("NUL", bind("166.1.101.2\0:4444"), "2:20: control character `\\u{0}`"),
        bad("a list", text("- 172.19.0.2:5555\n"), "1:1: found a list, expected `frontend:` or `frontends:`"),
        bad("a word", text("start\n"), "1:1: found `start`, expected `frontend:`"),
        bad("a tab", last("\t- 172.19.0.3:5555\n"), "6:1: a tab indents this line; YAML allows only spaces"),
        bad("two documents", text(&format!("{GOOD}---\n{GOOD}")), "1:1: the config has more than one document"),
        bad("larger than allowed", vec![b'#'; 1_000_000], "1:1: the config is larger than 64 KiB"),
        bad("alias bomb", bomb.into_bytes(), "1:5: `&` begins a YAML anchor"),
        bad("an anchor behind a number sign in quotes", with("  privateip: 172.19.0.4", "  name: \"a #b\"\n  privateip: &a 172.19.0.4"), "4:14: `&` begins a YAML anchor"),
        bad("an alias behind a quote in a word", with("  privateip: 172.19.0.4", "  name: it's\n  privateip: *a # it's"), "4:14: `*` begins a YAML anchor"),
        bad("block of text", with("  privateip: 172.19.0.4", "  name: |\n    &a"), "3:9: `|` begins a YAML block of text; write the text on one line, in quotes"),
        bad("byte order mark in the middle", text(&format!("{GOOD}\u{feff}frontends: []\n")), "7:1: control character `\\u{feff}`"),
        bad(
            "a private key",
            text(&format!("-----BEGIN PRIVATE KEY-----{}\n", "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC".repeat(99))),
            "1:1: found `-----BEGIN PRIVATE KEY-----MIIEvQIBADANBgkqhkiG9w0BAQEFAASCM…`, expected `frontend:` or `frontends:`\n",
        ),
        bad(
            "a shadow file",
            text(&format!("root:$y$j9T${}:0:99999: x\n", "abcdefgh".repeat(99))),
            "1:1: unknown key `root:$y$j9T$abcdefghabcdefghabcdefghabcdefghabcdefghabcdefgh…`; allowed: frontend, frontends, engine\n",
        ),
        bad("a huge number", text("frontends: 1e308\n"), "1:12: found a number, expected a list of frontends, each beginning with `- bind:`, or `frontend:` for a single one\n"),
        bad("anchor", second("&a 172.19.0.3:5555"), "6:7: `&` begins a YAML anchor"),
        bad("alias", second("*a"), "6:7: `*` begins a YAML anchor"),
        bad("tag", second("!!str x"), "6:7: `!` begins a YAML anchor"),
        bad("unknown key", with("  bind:", "  bnid:"), "2:3: unknown key `bnid`; did you mean `bind`?"),
        bad("unknown top key", with("frontend:", "frontned:"), "1:1: unknown key `frontned`; did you mean `frontend`?"),
        bad("unrelated key", with("  privateip: 172.19.0.4", "  colour: 3"), "3:3: unknown key `colour`; allowed: name, bind, protocol, privateip, schedule, health, backends"),
        bad("duplicate key", with("  privateip: 172.19.0.4", "  bind: 166.1.101.3:4444"), "3:3: `bind` is there twice"),
        bad("duplicate frontend", text(&format!("{GOOD}{GOOD}")), "7:1: `frontend` is there twice"),
        bad("both keys", text(&format!("{GOOD}frontends: []\n")), "`frontend` and `frontends` exclude each other"),
        bad("no bind", with("  bind: 166.1.101.2:4444\n", ""), "`bind` is missing"),
        bad("no backends", text("frontend:\n  bind: 166.1.101.2:4444\n"), "`backends` is missing"),
        bad("empty backends", text("frontend:\n  bind: 1.2.3.4:1\n  backends: []\n"), "3:13: the list of backends is empty"),
        bad("backends is no list", text("frontend:\n  bind: 1.2.3.4:1\n  backends: 5\n"), "3:13: found a number, expected a list of backends"),
        bad("no frontends", text("frontends: []\n"), "1:12: the list of frontends is empty"),
        bad("a frontend is no mapping", text("frontends: [a]\n"), "1:13: found `a`, expected one frontend"),
        bad("empty bind", bind(""), "2:8: `` has no port; write address:port"),
        bad("port 0", bind("166.1.101.2:0"), "2:9: port 0 is not in 1-65535"),
        bad("port 70000", second("172.19.0.3:70000"), "6:7: port 70000 is not in 1-65535"),
        bad("port of a bind missing", with("166.1.101.2:4444", "166.1.101.2"), "2:9: `166.1.101.2` has no port; write address:port"),
        bad("ports backwards", with("166.1.101.2:4444", "166.1.101.2:90-80"), "2:9: the range `90-80` begins with its last port"),
        bad("port twice", with("166.1.101.2:4444", "\"166.1.101.2:[80, 70-90]\""), "has port 80 twice"),
        bad("unknown protocol", with("  privateip: 172.19.0.4", "  protocol: upd"), "3:13: unknown protocol `upd`; did you mean `udp`?"),
        bad("protocol of another program", with("  privateip: 172.19.0.4", "  protocol: http"), "write `tcp`"),
        bad("a backend twice, once without its port", text("frontend: {bind: '1.2.3.4:53', backends: ['1.2.3.5:53', 1.2.3.5]}\n"), "1:57: `1.2.3.5:53` is already a backend of this frontend"),
        bad("the same before the bind", text("frontend: {backends: ['1.2.3.5:53', 1.2.3.5], bind: '1.2.3.4:53'}\n"), "`1.2.3.5:53` is twice among the backends, once without its port"),
        bad("a backend that is another frontend's bind", text("frontends:\n- {bind: '1.2.3.4:53', backends: ['1.2.3.5:53']}\n- {bind: '1.2.3.6:53', backends: ['1.2.3.4:53']}\n"), "a backend of `1.2.3.6:53` or of `1.2.3.4:53` is the bind of the other"),
        bad("a bind that is another frontend's backend", text("frontends:\n- {bind: '1.2.3.6:53', backends: ['1.2.3.4:55']}\n- {bind: '1.2.3.4:50-60', backends: ['1.2.3.7:53']}\n"), "3:10: a backend of `1.2.3.4:50-60` or of `1.2.3.6:53` is the bind of the other"),
        bad("checks need a port", text("frontend: {bind: '1.2.3.4:80-90', health: {}, backends: [1.2.3.5]}\n"), "so `health:` needs `port:`"),
        bad("port is a word", second("172.19.0.3:ht_tp"), "6:7: port `ht_tp` is not a number in 1-65535"),
        bad("a backend is a number", second("5555"), "6:7: found a number, expected one backend as address:port"),
        bad("a backend is nothing", second(""), "6:6: this backend has no `address:`"),
        bad("backends are nothing", text("frontend:\n  bind: 1.2.3.4:1\n  backends:\n"), "3:12: the list of backends is empty"),
        bad("a frontend is nothing", text("frontend:\n"), "1:10: `bind` is missing"),
        bad("health is nothing", with("  privateip: 172.19.0.4", "  health:"), "3:10: found nothing, expected a mapping"),
        bad("256.1.1.1", second("256.1.1.1:80"), "6:7: `256.1.1.1` is not an IPv4 address"),
        bad("leading zeros", second("172.019.0.3:5555"), "6:7: `172.019.0.3` has a leading zero"),
        bad("port with a leading zero", second("172.19.0.3:0080"), "6:7: port 0080 has a leading zero"),
        bad("host name", second("web.example:80"), "6:7: `web.example` is a name; rules contain only addresses"),
        bad("unspecified", bind("0.0.0.0:80"), "2:9: `0.0.0.0:80` stands for every address; give one of this host"),
        bad("multicast", bind("224.0.0.1:80"), "2:9: `224.0.0.1` is a multicast address"),
        bad("bare IPv6", bind("\"fd00::1:80\""), "2:9: `fd00::1:80`: an IPv6 address needs brackets"),
        bad("unquoted IPv6", bind("[fd00::1]:80"), "2:9: found a list, expected one address:port (for another bind, write another frontend); an IPv6 address in brackets needs quotes"),
        bad("mixed families", second("\"[fd00::1]:80\""), "6:7: `[fd00::1]:80` is IPv6, but bind `166.1.101.2:4444` is IPv4"),
        bad("privateip of the other family", with("172.19.0.4", "fd00::1"), "3:14: `fd00::1` is IPv6, but bind `166.1.101.2:4444` is IPv4"),
        bad("privateip with a port", with("172.19.0.4", "172.19.0.4:80"), "3:14: `172.19.0.4:80` has a port; give the address alone"),
        bad("privateip empty", with(" 172.19.0.4", ""), "3:13: an address, a range first-last, `auto` or `none` is missing"),
        bad("privateip with its last address first", with("172.19.0.4", "172.19.0.4-172.19.0.1"), "3:14: the range `172.19.0.4-172.19.0.1` begins with its last address; write 172.19.0.1-172.19.0.4"),
        bad("duplicate backend", second("172.19.0.2:5555"), "6:7: `172.19.0.2:5555` is already a backend of this frontend; use weight"),
        bad("backend is its own bind", second("166.1.101.2:4444"), "6:7: `166.1.101.2:4444` is also the bind of this frontend"),
        bad("name with a newline", with("  bind:", "  name: \"a\\nb\"\n  bind:"), "2:9: name `a\\nb` is not 1 to 21 letters"),
        bad("name with shell characters", with("  bind:", "  name: $(reboot);\n  bind:"), "2:9: name `$(reboot);` is not 1 to 21 letters"),
        bad("name too long", with("  bind:", "  name: abcdefghijklmnopqrstuvwxyz\n  bind:"), "2:9: name `abcdefghijklmnopqrstuvwxyz` is not 1 to 21"),
        bad("bind with shell characters", bind("$(reboot):80"), "2:9: `$(reboot)` is not an IP address"),
        bad("newline in an address", bind("\"1.2.3.4\\n-j ACCEPT:80\""), "is not an IP address"),
        bad(
            "one bind twice",
            text("frontends:\n  - {bind: '1.2.3.4:1', backends: ['1.2.3.5:1']}\n  - {name: b, bind: '1.2.3.4:1', backends: ['1.2.3.5:1']}\n"),
            "3:21: `1.2.3.4:1` is the bind of another frontend",
        ),
        bad(
            "one name twice",
            text("frontends:\n  - {name: a, bind: '1.2.3.4:1', backends: ['1.2.3.5:1']}\n  - {name: a, bind: '1.2.3.4:2', backends: ['1.2.3.5:1']}\n"),
            "3:12: the name `a` is taken by another frontend",
        ),
        bad("unknown key of a backend", second("{address: \"172.19.0.3:1\", wait: 3}"), "6:33: unknown key `wait`; allowed: address, weight, backup"),
        bad("backend without address", second("{}"), "6:7: this backend has no `address:`"),
        bad(
            "too many backends",
            text(&format!(
                "frontend:\n  bind: 1.2.3.4:1\n  backends:\n{}",
                (0..1025).map(|n| format!("    - 10.0.0.1:{}\n", n + 1)).collect::<String>()
            )),
            "1028:7: `10.0.0.1:1025` is one backend too many; a frontend has at most 1024",
        ),
        bad("weight too large", second("{address: \"172.19.0.3:1\", weight: 257}"), "weight `257` is not in 0-256"),
        bad("weight below zero", second("{weight: -1, address: \"172.19.0.3:1\"}"), "6:16: weight `-1` is not in 0-256"),
        bad("weight is a word", second("{address: \"172.19.0.3:1\", weight: much}"), "weight `much` is not in 0-256"),
        bad("weight with a leading zero", second("{address: \"172.19.0.3:1\", weight: 010}"), "weight `010` is not in 0-256"),
        bad("weight without address", second("{weight: 3}"), "6:7: this backend has no `address:`"),
        bad("unknown schedule", with("  bind:", "  schedule: roundrobbin\n  bind:"), "2:13: unknown schedule `roundrobbin`; did you mean `roundrobin`?"),
        bad("unrelated schedule", with("  bind:", "  schedule: clockwise\n  bind:"), "2:13: unknown schedule `clockwise`; allowed: roundrobin, random, source"),
        bad(
            "too many slots",
            text("frontend:\n  bind: 1.2.3.4:1\n  backends:\n    - {address: '1.2.3.5:1', weight: 255}\n    - {address: '1.2.3.6:1', weight: 256}\n    \
                  - {address: '1.2.3.7:1', weight: 253}\n    - {address: '1.2.3.8:1', weight: 254}\n    - {address: '1.2.3.9:1', weight: 251}\n"),
            "the weights, divided by their greatest common divisor, add up to 1269, and 1024 is the most",
        ),
        bad(
            "more backends than buckets",
            text(&format!(
                "frontend:\n  bind: 1.2.3.4:1\n  schedule: source\n  backends:\n{}",
                (0..257).map(|n| format!("    - 10.0.0.1:{}\n", n + 1)).collect::<String>()
            )),
            "`schedule: source` has 256 buckets for clients, fewer than these 257 backends",
        ),
        bad("health is a word", with("  privateip: 172.19.0.4", "  health: http"), "3:11: found `http`, expected a mapping"),
        bad("unknown key of health", checked("intervall: 2s"), "3:12: unknown key `intervall`; did you mean `interval`?"),
        bad("unrelated key of health", checked("colour: 3"), "3:12: unknown key `colour`; allowed: type, interval, timeout, fall, rise, path, host, send, expect, port, on_all_down"),
        bad("key of health twice", checked("fall: 2, fall: 3"), "`fall` is there twice"),
        bad("unknown type of check", checked("type: htpt"), "3:18: unknown value `htpt`; did you mean `http`?"),
        bad("unrelated type of check", checked("type: magic"), "3:18: unknown value `magic`; allowed: tcp, http"),
        bad("interval without a unit", checked("interval: 2"), "3:22: `2` is not a time; write it as 500ms or 2s"),
        bad("interval in minutes", checked("interval: 2m"), "3:22: `2m` is not a time"),
        bad("interval of nothing", checked("interval: 0s"), "3:22: an interval of 0s is not in 100ms-3600s"),
        bad("interval too short", checked("interval: 99ms"), "3:22: an interval of 99ms is not in 100ms-3600s"),
        bad("interval too long", checked("interval: 3601s"), "3:22: an interval of 3601s is not in 100ms-3600s"),
        bad("interval beyond numbers", checked("interval: 99999999999999999999s"), "3:22: `99999999999999999999s` is not a time"),
        bad("interval is a word", checked("interval: often"), "3:22: `often` is not a time"),
        bad("interval below zero", checked("interval: -1s"), "3:22: `-1s` is not a time"),
        bad("timeout without a unit", checked("timeout: 1"), "3:21: `1` is not a time"),
        bad("timeout of nothing", checked("timeout: 0ms"), "3:21: a timeout of 0ms is not in 1ms-2s, the interval"),
        bad("timeout longer than the interval", checked("timeout: 1001ms, interval: 1s"), "3:21: a timeout of 1001ms is not in 1ms-1s, the interval"),
        bad("timeout longer than the default interval", checked("timeout: 3s"), "3:21: a timeout of 3s is not in 1ms-2s, the interval"),
        bad("fall 0", checked("fall: 0"), "3:18: `0` is not a number of checks in 1-255"),
        bad("fall 256", checked("fall: 256"), "3:18: `256` is not a number of checks in 1-255"),
        bad("rise is a word", checked("rise: once"), "3:18: `once` is not a number of checks in 1-255"),
        bad("path without a slash", checked("type: http, path: health"), "3:30: `health` is not a path: a slash, then at most 255 characters without blanks"),
        bad("path with a space", checked("type: http, path: '/a b'"), "3:30: `/a b` is not a path"),
        bad("path with a line end", checked("type: http, path: \"/a\\r\\nHost: x\""), "3:30: `/a\\r\\nHost: x` is not a path"),
        bad("path with tcp", checked("path: /health"), "3:18: `path` needs `type: http`"),
        bad("expect with tcp", checked("type: tcp, expect: 200"), "3:31: `expect` needs `type: http`"),
        bad("expect no status", checked("type: http, expect: 99"), "3:32: `99` is not a status in 100-599"),
        bad("expect with its highest status first", checked("type: http, expect: 700-200"), "3:32: `700-200` is not a status in 100-599, nor a range of them"),
        bad("expect nothing", checked("type: http, expect: ''"), "3:32: the expected text must have 1 to 256 bytes"),
        bad("check of port 0", checked("port: 0"), "3:18: port 0 is not in 1-65535"),
        bad("check of a port that is a word", checked("port: ht_tp"), "3:18: port `ht_tp` is not a number in 1-65535"),
        bad("unknown on_all_down", checked("on_all_down: x"), "3:25: unknown value `x`; allowed: keep, reject"),
        bad("backup maybe", second("{address: \"172.19.0.3:1\", backup: maybe}"), "6:41: unknown value `maybe`; allowed: false, true"),
        bad("backup without health", second("{address: \"172.19.0.3:1\", backup: true}"), "6:41: `172.19.0.3:1` is a backup, but without `health:` in this frontend nothing detects that the others are down"),
        bad("unknown engine", with("frontend:", "engine: iptabels\nfrontend:"), "1:9: unknown engine `iptabels`; did you mean `iptables`?"),
        bad("unrelated engine", with("frontend:", "engine: steam\nfrontend:"), "1:9: unknown engine `steam`; allowed: auto, iptables, nftables"),
        bad("engine is nothing", text(&format!("{GOOD}engine:\n")), "7:8: unknown engine ``; allowed: auto, iptables, nftables"),
        bad("engine is a list", text(&format!("{GOOD}engine: [nftables]\n")), "7:9: found a list, expected `auto`, `iptables` or `nftables`"),
        bad("engine twice", text(&format!("engine: auto\n{GOOD}engine: nftables\n")), "8:1: `engine` is there twice\n"),
        bad("engine inside a frontend", with("  privateip: 172.19.0.4", "  engine: nftables"), "3:3: `engine` belongs at the beginning of a line, and is not indented"),
        bad("engine of a backend", second("{address: \"172.19.0.3:1\", engine: nftables}"), "6:33: `engine` belongs at the beginning of a line"),
        bad("engine alone", text("engine: nftables\n"), "1:1: there is no frontend; begin with `frontend:` or `frontends:`"),
        bad("both keys, and an engine", text(&format!("{GOOD}engine: auto\nfrontends: []\n")), "8:1: `frontend` and `frontends` exclude each other"),
        bad("a frontend twice, and an engine", text(&format!("{GOOD}engine: auto\n{GOOD}")), "8:1: `frontend` is there twice; list all frontends under one `frontends:`"),
        bad("very deep", vec![b'['; 5000], "1:17: `[` begins a YAML list or mapping that is nested too deep"),
        bad("a line end that editors do not show", text("# x\u{2028}frontend: &a\n"), "1:4: control character `\\u{2028}`"),
        bad("an anchor behind odd line ends", text("# x\rfrontend: &a\r  bind: 1.2.3.4:1\r"), "`&` begins a YAML anchor"),
        bad("terminal codes in a value", bind("\"\\e[31m%:80\""), "2:9: `\\u{1b}[31m%` has a zone"),
        bad("a line end in a value", bind("\"1.2.3.4/\\nINFO fine:80\""), "2:9: `1.2.3.4/\\nINFO fine` is a network"),
    ]
}

/// Unusual but valid: each means the same as [`GOOD`].
pub fn odd() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("as it is", GOOD.into()),
        ("CRLF", GOOD.replace('\n', "\r\n").into()),
        ("BOM", format!("\u{feff}{GOOD}").into()),
        ("comments", GOOD.replace("4444\n", "4444 # don't & never *\n").into()),
        ("document marks", format!("---\n{GOOD}...\n").into()),
        ("quotes", GOOD.replace("172.19.0.4", "'172.19.0.4'").replace("172.19.0.2:5555", "\"172.19.0.2:5555\"").into()),
        ("flow", "{frontend: {bind: '166.1.101.2:4444', privateip: 172.19.0.4, backends: ['172.19.0.2:5555', '172.19.0.3:5555']}}".into()),
        ("no last line end", GOOD.trim_end().into()),
        ("order of keys", "frontend:\n  backends: ['172.19.0.2:5555', {address: '172.19.0.3:5555'}]\n  privateip: 172.19.0.4\n  bind: 166.1.101.2:4444\n".into()),
        ("an engine before it", format!("engine: auto\n{GOOD}").into()),
        ("another engine, though print is asked for this one", format!("engine: nftables\n{GOOD}").into()),
        ("an engine behind it", format!("{GOOD}engine: \"auto\"\n").into()),
        ("a list of one", "frontends:\n- bind: 166.1.101.2:4444\n  privateip: 172.19.0.4\n  backends:\n  - 172.19.0.2:5555\n  - 172.19.0.3:5555\n".into()),
    ]
}
