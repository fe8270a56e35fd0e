//! Mistakes in the layout of a config: indentation, blanks, colons, dashes, quotes. What is read of such a text is not what
//! its author sees, so the error is about something else, or in a later line. Here the text around it is looked at once more.

use super::character::Stray;
use super::error::{Finder, Mistake};
use super::plain::{place, spans};
use crate::net::Endpoint;
use crate::text::{has, Shown};

/// Where a key belongs; none for a word that is no key.
type Places<'a> = &'a dyn Fn(&str) -> Option<&'static str>;

/// A line with something in it.
struct Line<'a> {
    /// From 1.
    number: usize,
    /// How many spaces stand before it.
    indent: usize,
    /// What stands in it, without a comment.
    rest: &'a str,
}

impl<'a> Line<'a> {
    /// What stands behind its dashes, and how many characters before that.
    fn behind_dashes(&self) -> (&'a str, usize) {
        let mut rest = self.rest;
        while let Some(behind) = rest.strip_prefix("- ") {
            rest = behind.trim_ascii_start();
        }
        (rest, self.indent + self.rest.len() - rest.len())
    }
}

/// The word that a text begins with.
fn word(text: &str) -> &str {
    let end = text.bytes().position(|b| !(b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
    text.get(..end.unwrap_or(text.len())).unwrap_or(text)
}

/// The lines that are not empty.
fn lines(text: &str) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    for (at, line) in text.split('\n').enumerate() {
        let mut rest = line.trim_start_matches(' ');
        let indent = line.len() - rest.len();
        let mut before = b' ';
        for (at, b) in rest.bytes().enumerate() {
            if b == b'#' && (before == b' ' || before == b'\t') {
                rest = rest.get(..at).unwrap_or(rest);
                break;
            }
            before = b;
        }
        rest = rest.trim_ascii_end();
        if !rest.is_empty() && rest != "---" {
            lines.push(Line { number: at + 1, indent, rest });
        }
    }
    lines
}

/// The mistake in the layout that led to this one; or this one.
pub(super) fn better(text: &str, mistake: Mistake, finder: Finder, places: Places<'_>) -> Mistake {
    if let Some(at) = of_character(text, &mistake) {
        return Mistake { line: at.0, column: at.1, ..mistake };
    }
    let lines = lines(text);
    // The lines up to the mistake, and the one behind it.
    let next = lines.iter().position(|line| line.number > mistake.line).unwrap_or(lines.len());
    let (before, after) = (lines.get(..next).unwrap_or_default(), lines.get(next));
    None.or_else(|| not_closed(text, &mistake, finder))
        .or_else(|| shape(lines.get(..=next).unwrap_or(&lines), places))
        .or_else(|| continued(text, &lines, &mistake, finder, places))
        .or_else(|| spaced(text, &mistake, finder))
        .or_else(|| look_alike(before, after, finder))
        .or_else(|| unaligned(&lines, &mistake, finder))
        .or_else(|| not_indented(before.last(), after, places))
        .or_else(|| plainly(before, &mistake, finder, places))
        .unwrap_or(mistake)
}

/// The place of the character that the message is about, if it is about one.
fn of_character(text: &str, mistake: &Mistake) -> Option<(usize, usize)> {
    if !has(&mistake.what, '(') && !mistake.what.starts_with("the character U+") {
        return None;
    }
    let mut from = mistake.column.saturating_sub(1);
    for (at, line) in text.split('\n').enumerate().skip(mistake.line.saturating_sub(1)) {
        for (column, c) in line.chars().enumerate().skip(from) {
            if Stray::is(c) && Stray(c).to_string() == mistake.what {
                return Some((at + 1, column + 1));
            }
        }
        from = 0;
    }
    None
}

/// The byte index of a place in the text.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let mut at = 0;
    for (number, content) in text.split('\n').enumerate() {
        if number + 1 == line {
            let before =
                content.char_indices().nth(column.saturating_sub(1)).map_or(content.len(), |(before, _)| before);
            return at + before;
        }
        at += content.len() + 1;
    }
    text.len()
}

/// The byte index of the end of the line of this byte.
fn line_end(text: &str, at: usize) -> usize {
    let rest = text.as_bytes().get(at..).unwrap_or_default();
    at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
}

/// A quote that is not closed in its line, so that it takes up what follows.
fn not_closed(text: &str, mistake: &Mistake, finder: Finder) -> Option<Mistake> {
    let here = offset(text, mistake.line, mistake.column);
    for span in spans(text).iter().filter(|span| span.quoted && span.begin <= here) {
        let blamed = match finder {
            Finder::Ours => here == span.begin,
            // In the line of its end, or in the next one.
            Finder::Library => here <= line_end(text, line_end(text, span.next) + 1),
        };
        if blamed {
            let (line, column) = place(text, span.begin);
            let what = "the quote that begins here is not closed in this line".into();
            return Some(Mistake { line, column, what });
        }
    }
    None
}

/// A key or a dash that YAML does not take for one, since a blank or a colon is missing.
fn shape(lines: &[Line<'_>], places: Places<'_>) -> Option<Mistake> {
    for line in lines {
        let (rest, before) = line.behind_dashes();
        let (key, column) = (word(rest), before + 1);
        let mistake = |column: usize, what: String| Some(Mistake { line: line.number, column, what });
        if let Some(behind) = rest.strip_prefix('-') {
            if let Some((0, stray)) = Stray::find(behind) {
                return mistake(column + 1, stray.to_string());
            }
            if !behind.is_empty() && !behind.starts_with(['-', ' ']) {
                return mistake(column, "a blank is missing after the dash: write `- `".into());
            }
        }
        let Some(behind) = rest.get(key.len()..).filter(|_| places(key).is_some()) else { continue };
        match behind.trim_ascii_start().bytes().next() {
            Some(b':') => {
                let value = behind.trim_ascii_start().get(1..).unwrap_or_default();
                if let Some((0, stray)) = Stray::find(value) {
                    let column = column + rest.chars().count() - value.chars().count();
                    return mistake(column, stray.to_string());
                }
                if !value.is_empty() && !value.starts_with([' ', '\t']) {
                    return mistake(column, format!("a blank is missing after `{key}:`"));
                }
            }
            Some(b'=') => return mistake(column, format!("write `{key}:` and a blank, not `{key}=`")),
            Some(_) if !behind.starts_with(' ') => {}
            _ => return mistake(column, format!("a colon is missing after `{key}`")),
        }
    }
    None
}

/// A value that goes on in the next line, which is indented further.
fn continued(text: &str, lines: &[Line<'_>], mistake: &Mistake, finder: Finder, places: Places<'_>) -> Option<Mistake> {
    let here = offset(text, mistake.line, mistake.column);
    let end = line_end(text, here);
    let spans = spans(text);
    let span = spans.iter().rfind(|span| {
        !span.quoted
            && match finder {
                Finder::Ours => span.begin == here,
                Finder::Library => span.next <= end,
            }
    })?;
    let (begin, (line, column)) = (place(text, span.begin), place(text, span.next));
    let first = lines.iter().find(|line| line.number == begin.0)?;
    let second = lines.iter().find(|other| other.number == line)?;
    let (value, before) = first.behind_dashes();
    let key = word(second.rest);
    let is_key = places(key).is_some() && second.rest.get(key.len()..).is_some_and(|rest| rest.starts_with(':'));
    let number = first.number;
    let what = if second.rest.starts_with("- ") && first.rest.starts_with("- ") {
        let column = first.indent + 1;
        format!("this dash does not stand under the one of line {number}, in column {column}, and begins no item of the list")
    } else if is_key && first.rest.starts_with("- ") && places(word(value)).is_none() {
        is_a_mapping(key, value, second.rest)
    } else if is_key {
        let column = before + 1;
        format!("`{key}` is indented further than line {number}, so it is no key; let it begin in column {column}")
    } else if begin.1 == before + 1 {
        // It is no value that is meant; what was found instead of a mapping or a list says more.
        return None;
    } else {
        format!("this line is indented further than line {number}, and goes on with its value")
    };
    Some(Mistake { line, column, what })
}

/// `192.0.2.1: 80`: an address and its port with a blank behind the colon.
fn spaced(text: &str, mistake: &Mistake, finder: Finder) -> Option<Mistake> {
    let line = text.split('\n').nth(mistake.line.saturating_sub(1))?;
    let value = line.get(mistake.column.saturating_sub(1)..)?;
    let (address, port) = value.split_once(':').filter(|_| finder == Finder::Ours)?;
    let port = word(port.strip_prefix(' ')?.trim_ascii_start());
    let whole = format!("{}:{port}", address.trim_ascii_end());
    Endpoint::parse(&whole).ok()?;
    let what = format!("a blank stands between address and port; write {whole}");
    Some(Mistake { what, ..*mistake })
}

/// A character that looks like another one: for the library's errors in the line or before it; for ours at the beginning of
/// the next line, where it is taken for a part of a key or a value.
fn look_alike(before: &[Line<'_>], after: Option<&Line<'_>>, finder: Finder) -> Option<Mistake> {
    let stray = |line: &Line<'_>| {
        let (at, stray) = Stray::find(line.rest)?;
        Some(Mistake { line: line.number, column: line.indent + at + 1, what: stray.to_string() })
    };
    if finder == Finder::Library {
        let near = before.get(before.len().saturating_sub(2)..).unwrap_or_default();
        return near.iter().find_map(stray);
    }
    let line = after?;
    let (at, _) = Stray::find(line.rest)?;
    let leads = line.rest.chars().take(at).all(|c| has("- ", c));
    if leads {
        stray(line)
    } else {
        None
    }
}

/// A line that begins in a column in which nothing above begins that it could belong to.
fn unaligned(lines: &[Line<'_>], mistake: &Mistake, finder: Finder) -> Option<Mistake> {
    let missing = ["`bind` is missing", "`backends` is missing", "this backend has no"];
    if finder == Finder::Ours && !missing.iter().any(|what| mistake.what.starts_with(what)) {
        return None;
    }
    // Columns in which something began, and the last line that did.
    let mut open: Vec<(usize, usize)> = Vec::new();
    let mut brackets = 0;
    for line in lines {
        let inside = brackets > 0;
        for b in line.rest.bytes() {
            match b {
                b'[' | b'{' => brackets += 1,
                b']' | b'}' => brackets -= 1,
                _ => {}
            }
        }
        if inside {
            continue;
        }
        let mut above = None;
        while open.last().is_some_and(|(column, _)| *column > line.indent) {
            above = open.pop();
        }
        let known = open.last().is_some_and(|(column, _)| *column == line.indent);
        if let (Some((column, number)), false) = (above, known) {
            let what = format!(
                "this line is indented otherwise than line {number}; what belongs together begins in the same column, \
                 there in column {}",
                column + 1
            );
            return Some(Mistake { line: line.number, column: line.indent + 1, what });
        }
        if known {
            open.pop();
        }
        open.push((line.indent, line.number));
        let (_, behind) = line.behind_dashes();
        if behind > line.indent {
            open.push((behind, line.number));
        }
    }
    None
}

/// A key under which nothing stands, since what follows is not indented.
fn not_indented(line: Option<&Line<'_>>, after: Option<&Line<'_>>, places: Places<'_>) -> Option<Mistake> {
    let (line, after) = (line?, after?);
    let key = line.behind_dashes().0.strip_suffix(':')?;
    let below = word(after.rest);
    let place = places(below)?;
    if after.indent > line.indent || places(key)? == place {
        return None;
    }
    let what = format!("`{below}` belongs {place}: indent this line further than line {}", line.number);
    Some(Mistake { line: after.number, column: after.indent + 1, what })
}

/// The library's words in ours, and whether its place is right; else the mistake is at the beginning of the line.
const PLAINLY: [(&str, bool, &str); 10] = [
    ("did not find expected '-' indicator", false, "each item of a list begins with `- `, in the same column"),
    (
        "mapping values are not allowed in this context",
        true,
        "a second colon with a blank behind it in one value; write address:port without a blank, and each key on a line of \
         its own",
    ),
    ("could not find expected ':'", false, "this line is no `key: value`, and no item of a list, which begins with `- `"),
    (
        "block sequence entries are not allowed in this context",
        true,
        "a dash begins an item of a list, on a line of its own; leave it out of a value",
    ),
    (
        "found character that cannot start any token",
        true,
        "no value begins with this character; leave it out, or put the value in quotes",
    ),
    ("did not find expected ',' or ']'", true, BRACKET),
    ("did not find expected ',' or '}'", true, BRACKET),
    ("found unexpected end of stream", true, BRACKET),
    (DASH_AMONG_KEYS, false, "this dash stands in the column of keys; put it under the other dashes, or leave it out"),
    ("did not find expected key", true, "this is no key like those above it; an odd quote, or another column"),
];

const BRACKET: &str = "a quote or a bracket is not closed, or a comma is missing";

/// "did not find expected key" in a line that begins with a dash.
const DASH_AMONG_KEYS: &str = "-";

/// A mistake that only the library found.
fn plainly(before: &[Line<'_>], mistake: &Mistake, finder: Finder, places: Places<'_>) -> Option<Mistake> {
    let mut line = before.last().filter(|_| finder == Finder::Library)?;
    let mut said = mistake.what.as_str();
    let key = word(line.rest);
    if said == "did not find expected key" && line.rest.starts_with("- ") {
        said = DASH_AMONG_KEYS;
    } else if said == "could not find expected ':'" {
        // The library noticed it at the next line, or at the end.
        line = before.iter().rfind(|line| !has(line.rest, ':') || line.number < mistake.line)?;
    } else if said == "did not find expected '-' indicator" && places(key).is_some() {
        let above = before.get(before.len().wrapping_sub(2))?;
        let (value, column) = above.behind_dashes();
        let what = if above.rest.starts_with("- ") && places(word(value)).is_none() {
            is_a_mapping(key, value, line.rest)
        } else {
            format!("`{key}` is no item of the list; for the item above, let it begin in column {}", column + 1)
        };
        return Some(Mistake { line: line.number, column: line.indent + 1, what });
    }
    let (_, its_place, what) = PLAINLY.iter().find(|(library, ..)| *library == said)?;
    let what = (*what).to_owned();
    Some(match its_place {
        true => Mistake { what, ..*mistake },
        false => Mistake { line: line.number, column: line.indent + 1, what },
    })
}

/// The message about a key below a backend that is an address alone.
fn is_a_mapping(key: &str, address: &str, rest: &str) -> String {
    let (address, rest) = (Shown(address), Shown(rest));
    format!("a backend with `{key}` is a mapping: write `- {{address: {address}, {rest}}}` in one line")
}
