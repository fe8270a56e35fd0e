//! Mistakes: what is refused before YAML is read, and what the YAML library refuses, as sentences with a place.

use std::fmt;

use super::MOST_BYTES;
use crate::text::has;

/// A mistake in the config, with the place where it stands.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The bad value and what is allowed.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.what)
    }
}

/// The text of a config, if it is plain enough to be read as YAML.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Mistake> {
    if bytes.len() > MOST_BYTES {
        return Err(Mistake {
            line: 1,
            column: 1,
            what: format!("the config is larger than {} KiB", MOST_BYTES / 1024),
        });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let (line, column) = place(&String::from_utf8_lossy(good));
        Mistake { line, column, what: "this is not UTF-8 text".into() }
    })?;
    if let Some((before, c)) =
        text.char_indices().find(|(_, c)| c.is_control() && !matches!(c, '\t' | '\r' | '\n' | '\u{85}'))
    {
        let (line, column) = place(text.get(..before).unwrap_or_default());
        return Err(Mistake { line, column, what: format!("control character `\\u{{{:x}}}`", u32::from(c)) });
    }
    if let Some((before, what)) = too_clever(text) {
        let (line, column) = place(before);
        return Err(Mistake { line, column, what });
    }
    Ok(text)
}

/// Line and column of the character after `before`.
fn place(before: &str) -> (usize, usize) {
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

/// Finds what a config has no use for: an anchor, alias or tag, which the YAML library follows silently, or brackets
/// nested so deep that it becomes slow. Tells the text before it and the sentence.
fn too_clever(text: &str) -> Option<(&str, String)> {
    // What stood before: a sign has a meaning only where a value can begin.
    let mut last = '\n';
    let mut comment = false;
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        let begins = matches!(last, ' ' | '\t' | '[' | '{' | ',' | ':') || ends_line(last);
        let found = match c {
            _ if ends_line(c) => {
                comment = false;
                None
            }
            _ if comment => None,
            '#' if begins => {
                comment = true;
                None
            }
            '&' | '*' | '!' if begins => {
                Some(format!("`{c}` begins a YAML anchor, alias or tag; a config has none, so write the value itself"))
            }
            '[' | '{' => {
                depth += 1;
                (depth > DEEPEST).then(|| "brackets are nested too deep".to_owned())
            }
            ']' | '}' => {
                depth = depth.saturating_sub(1);
                None
            }
            _ => None,
        };
        if let Some(what) = found {
            return Some((text.get(..at)?, what));
        }
        last = c;
    }
    None
}

/// Each of them ends a line for YAML, and a comment with it.
fn ends_line(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// How deep brackets may be nested; a config needs five.
const DEEPEST: usize = 16;

/// Marks the beginning of a sentence of ours inside one of the library's. No config can contain it unescaped.
pub(super) const OWN: char = '\u{1}';

/// What the library says of a value of another kind.
const INVALID: &str = "invalid type: ";

/// Where `what` stands in `text` for the first time. (The standard library's way is 4 KiB of the binary, and faster.)
fn find(text: &str, what: &str) -> Option<usize> {
    (0..text.len()).find(|at| text.get(*at..).is_some_and(|rest| rest.starts_with(what)))
}

impl Mistake {
    /// The library's error as a sentence of ours.
    pub(super) fn of(text: &str, error: &serde_yaml::Error) -> Mistake {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let mut what = error.to_string();
        if let Some(at) = find(&what, &format!(" at line {line} column {column}")) {
            what.truncate(at);
        }
        // Where the library puts the way to the value in front ("frontend.bind: "), line and column say it better.
        if let Some((_, own)) = what.split_once(OWN) {
            what = own.to_owned();
        } else if let Some(found) = find(&what, INVALID).and_then(|at| what.get(at + INVALID.len()..)) {
            // In a YAML writer's words instead of the library's.
            let words = [("sequence,", "a list,"), ("map,", "a mapping,"), ("unit value,", "nothing,")];
            let known = words.iter().find_map(|(word, plain)| Some(format!("{plain}{}", found.strip_prefix(word)?)));
            what = format!("found {}", known.unwrap_or_else(|| found.to_owned()));
        }
        let source = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        if what.starts_with("deserializing from YAML containing more than one document") {
            what =
                "the config has more than one document (`---`); put all frontends into one, under `frontends:`".into();
        } else if source.starts_with([' ', '\t']) && source.trim_start_matches(' ').starts_with('\t') {
            what = "a tab indents this line; YAML wants spaces".into();
        } else if (what.starts_with("found a list") || what.starts_with("did not find"))
            && source.split_once('[').is_some_and(|(_, after)| has(after.split(']').next().unwrap_or(""), ':'))
        {
            what.push_str("; an IPv6 address in brackets wants quotes, as in \"[2001:db8::1]:80\"");
        }
        Mistake { line, column, what }
    }
}
