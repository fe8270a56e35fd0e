//! Mistakes in the layout of a config: indentation, blanks, colons, dashes, quotes. What is read of such a text is not what
//! its author sees, so the error is about something else, or in a later line. Here the text around it is looked at once more.

use std::fmt;

use super::character::Stray;
use super::error::{Finder, Mistake};
use super::plain::{place, spans, Span};
use crate::net::Endpoint;
use crate::text::{has, split, Shown};

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
    let lines = lines(text);
    // The lines up to the mistake, and the one behind it.
    let mut next = 0;
    for line in &lines {
        next += usize::from(line.number <= mistake.line);
    }
    let here = offset(text, mistake.line, mistake.column);
    let ours = finder == Finder::Ours;
    let look = Look { text, lines, next, spans: spans(text), places, ours, here, found: &mistake };
    let mut better = Mistake { line: 0, column: 0, what: String::new() };
    let told = look.of_character(&mut better)
        || look.not_closed(&mut better)
        || look.shape(&mut better)
        || look.continued(&mut better)
        || look.spaced(&mut better)
        || look.look_alike(&mut better)
        || look.unaligned(&mut better)
        || look.not_indented(&mut better)
        || look.plainly(&mut better);
    match told {
        true => better,
        false => mistake,
    }
}

/// The byte index of a place in the text.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let mut at = (1, 1);
    for (index, c) in text.char_indices() {
        if at.0 == line && (at.1 == column || c == '\n') {
            return index;
        }
        at = if c == '\n' { (at.0 + 1, 1) } else { (at.0, at.1 + 1) };
    }
    text.len()
}

/// Tells of a mistake at this place.
#[inline(never)]
fn tell(better: &mut Mistake, line: usize, column: usize, what: fmt::Arguments<'_>) -> bool {
    *better = Mistake { line, column, what: what.to_string() };
    true
}

/// Tells of a line that begins in another column than the one above to which it belongs.
#[inline(never)]
fn tell_column(better: &mut Mistake, line: &Line<'_>, above: usize, column: usize) -> bool {
    let what = format_args!(
        "this line is indented otherwise than line {above}; what belongs together begins in the same column, there in \
         column {column}"
    );
    tell(better, line.number, line.indent + 1, what)
}

/// Tells of a character that looks like another one, if the text begins with it.
#[inline(never)]
fn tell_stray(better: &mut Mistake, line: usize, column: usize, text: &str) -> bool {
    match Stray::find(text) {
        Some((0, stray)) => tell(better, line, column, format_args!("{stray}")),
        _ => false,
    }
}

/// A text around a mistake. Each function looks for a mistake of one kind, and returns whether it told of one.
struct Look<'a> {
    text: &'a str,
    lines: Vec<Line<'a>>,
    /// The index of the first line behind the mistake.
    next: usize,
    spans: Vec<Span>,
    places: Places<'a>,
    /// Our own functions found the mistake.
    ours: bool,
    /// The byte index of the mistake.
    here: usize,
    found: &'a Mistake,
}

impl Look<'_> {
    fn is_key(&self, word: &str) -> bool {
        (self.places)(word).is_some()
    }

    /// Some lines back from the one behind the mistake.
    fn line(&self, back: usize) -> Option<&Line<'_>> {
        self.lines.get(self.next.wrapping_sub(back))
    }

    /// The byte index of the end of the line of this byte.
    fn line_end(&self, mut at: usize) -> usize {
        while self.text.as_bytes().get(at).is_some_and(|b| *b != b'\n') {
            at += 1;
        }
        at
    }

    /// The place of the character that the message is about, if it is about one.
    fn of_character(&self, better: &mut Mistake) -> bool {
        let (mut line, mut column) = (self.found.line, self.found.column);
        for c in self.text.get(self.here..).unwrap_or_default().chars() {
            if Stray::is(c) && Stray(c).to_string() == self.found.what {
                return tell(better, line, column, format_args!("{}", self.found.what));
            }
            (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        false
    }

    /// A quote that is not closed in its line, so that it takes up what follows.
    fn not_closed(&self, better: &mut Mistake) -> bool {
        for span in &self.spans {
            let near = match self.ours {
                true => span.begin == self.here,
                // In the line of its end, or in the next one.
                false => span.begin <= self.here && self.here <= self.line_end(self.line_end(span.next) + 1),
            };
            if span.quoted && near {
                let (line, column) = place(self.text, span.begin);
                return tell(
                    better,
                    line,
                    column,
                    format_args!("the quote that begins here is not closed in this line"),
                );
            }
        }
        false
    }

    /// A key or a dash that YAML does not take for one, since a blank or a colon is missing.
    fn shape(&self, better: &mut Mistake) -> bool {
        for (at, line) in self.lines.iter().enumerate() {
            if at > self.next {
                break;
            }
            let (rest, before) = line.behind_dashes();
            let (key, column) = (word(rest), before + 1);
            if let Some(behind) = rest.strip_prefix('-') {
                if tell_stray(better, line.number, column + 1, behind) {
                    return true;
                }
                if !matches!(behind.bytes().next(), None | Some(b'-' | b' ')) {
                    return tell(
                        better,
                        line.number,
                        column,
                        format_args!("a blank is missing after the dash: write `- `"),
                    );
                }
            }
            if !self.is_key(key) {
                continue;
            }
            let behind = rest.get(key.len()..).unwrap_or_default();
            let value = behind.trim_ascii_start();
            let wrong = match value.bytes().next() {
                Some(b':') => {
                    let value = value.get(1..).unwrap_or_default();
                    // What stands before it is ASCII.
                    if tell_stray(better, line.number, column + rest.len() - value.len(), value) {
                        return true;
                    }
                    !matches!(value.bytes().next(), None | Some(b' ' | b'\t'))
                }
                Some(b'=') | None => true,
                Some(_) => behind.starts_with(' '),
            };
            if wrong {
                return tell(better, line.number, column, format_args!("write a colon and a blank after `{key}`"));
            }
        }
        false
    }

    /// A value that goes on in the next line, which is indented further.
    fn continued(&self, better: &mut Mistake) -> bool {
        let end = self.line_end(self.here);
        let mut last = None;
        for span in &self.spans {
            let near = if self.ours { span.begin == self.here } else { span.next <= end };
            if near && !span.quoted {
                last = Some((place(self.text, span.begin), place(self.text, span.next).0));
            }
        }
        let Some((begin, second)) = last else { return false };
        let (mut above, mut below) = (None, None);
        for line in &self.lines {
            if line.number == begin.0 {
                above = Some(line);
            }
            if line.number == second {
                below = Some(line);
            }
        }
        let (Some(above), Some(below)) = (above, below) else { return false };
        let (value, before) = above.behind_dashes();
        let key = word(below.rest);
        let item = above.rest.starts_with("- ");
        let is_key = self.is_key(key) && below.rest.as_bytes().get(key.len()) == Some(&b':');
        if item && below.rest.starts_with("- ") {
            return tell_column(better, below, above.number, above.indent + 1);
        }
        if item && is_key && !self.is_key(word(value)) {
            return is_a_mapping(better, below, key, value);
        }
        // If it is no value that is meant, what was found instead of a mapping or a list says more.
        (is_key || begin.1 != before + 1) && tell_column(better, below, above.number, before + 1)
    }

    /// `192.0.2.1: 80`: an address and its port with a blank behind the colon.
    fn spaced(&self, better: &mut Mistake) -> bool {
        let value = self.text.get(self.here..self.line_end(self.here)).unwrap_or_default();
        let Some((address, port)) = split(value, ": ").filter(|_| self.ours) else { return false };
        let whole = [address.trim_ascii_end(), ":", word(port.trim_ascii_start())].concat();
        Endpoint::parse(&whole).is_ok()
            && tell(
                better,
                self.found.line,
                self.found.column,
                format_args!("a blank stands between address and port; write {whole}"),
            )
    }

    /// A character that looks like another one: for the library's errors in the line or before it; for ours at the
    /// beginning of the next line, where it is taken for a part of a key or a value.
    fn look_alike(&self, better: &mut Mistake) -> bool {
        let backs: [usize; 2] = if self.ours { [0, 0] } else { [2, 1] };
        for back in backs {
            let Some(line) = self.line(back) else { continue };
            let Some((at, stray)) = Stray::find(line.rest) else { continue };
            // Only dashes and blanks stand before it.
            let mut leads = true;
            for c in line.rest.chars().take(at) {
                leads &= has("- ", c);
            }
            if leads || !self.ours {
                return tell(better, line.number, line.indent + at + 1, format_args!("{stray}"));
            }
        }
        false
    }

    /// A line that begins in a column in which nothing above begins that it could belong to.
    fn unaligned(&self, better: &mut Mistake) -> bool {
        let mut missing = !self.ours;
        for what in &["`bind` is missing", "`backends` is missing", "this backend has no", "there is no frontend"] {
            missing |= self.found.what.starts_with(*what);
        }
        if !missing {
            return false;
        }
        // Columns in which something began, and the last line that did.
        let mut open: Vec<(usize, usize)> = Vec::new();
        let mut brackets = 0;
        for line in &self.lines {
            let inside = brackets > 0;
            for b in line.rest.bytes() {
                brackets += i32::from(matches!(b, b'[' | b'{')) - i32::from(matches!(b, b']' | b'}'));
            }
            if inside {
                continue;
            }
            let mut above = None;
            while let Some(last) = open.pop() {
                if last.0 < line.indent {
                    open.push(last);
                    break;
                }
                above = Some(last);
                if last.0 == line.indent {
                    break;
                }
            }
            if let Some((column, number)) = above {
                if column != line.indent {
                    return tell_column(better, line, number, column + 1);
                }
            }
            open.push((line.indent, line.number));
            let (_, behind) = line.behind_dashes();
            if behind > line.indent {
                open.push((behind, line.number));
            }
        }
        false
    }

    /// A key under which nothing stands, since what follows is not indented.
    fn not_indented(&self, better: &mut Mistake) -> bool {
        let (Some(line), Some(after)) = (self.line(1), self.line(0)) else { return false };
        let Some(key) = line.behind_dashes().0.strip_suffix(':') else { return false };
        let below = word(after.rest);
        let (Some(place), Some(above)) = ((self.places)(below), (self.places)(key)) else { return false };
        if after.indent > line.indent || above == place {
            return false;
        }
        let what = format_args!("`{below}` belongs {place}: indent this line further than line {}", line.number);
        tell(better, after.number, after.indent + 1, what)
    }

    /// A mistake that only the library found.
    fn plainly(&self, better: &mut Mistake) -> bool {
        let Some(mut line) = self.line(1).filter(|_| !self.ours) else { return false };
        let mut said = self.found.what.as_str();
        let key = word(line.rest);
        if said == NO_KEY && line.rest.starts_with("- ") {
            said = DASH_AMONG_KEYS;
        } else if said == NO_COLON {
            // The library noticed it at the next line, or at the end.
            let mut back = 1;
            while let Some(other) = self.line(back) {
                line = other;
                if !has(line.rest, ':') || line.number < self.found.line {
                    break;
                }
                back += 1;
            }
        } else if said == NO_DASH && self.is_key(key) {
            let Some(above) = self.line(2) else { return false };
            let (value, column) = above.behind_dashes();
            return match above.rest.starts_with("- ") && !self.is_key(word(value)) {
                true => is_a_mapping(better, line, key, value),
                false => tell_column(better, line, above.number, column + 1),
            };
        }
        for (library, its_place, what) in &PLAINLY {
            if *library == said {
                let (line, column) = match its_place {
                    true => (self.found.line, self.found.column),
                    false => (line.number, line.indent + 1),
                };
                return tell(better, line, column, format_args!("{what}"));
            }
        }
        false
    }
}

/// Tells of a key below a backend that is an address alone.
fn is_a_mapping(better: &mut Mistake, line: &Line<'_>, key: &str, address: &str) -> bool {
    let (address, rest) = (Shown(address), Shown(line.rest));
    let what =
        format_args!("a backend with `{key}` is a mapping: write `- {{address: {address}, {rest}}}` in one line");
    tell(better, line.number, line.indent + 1, what)
}

/// The library's words in ours, and whether its place is right; else the mistake is at the beginning of the line.
const PLAINLY: [(&str, bool, &str); 10] = [
    (NO_DASH, false, "each item of a list begins with `- `, in the same column"),
    (
        "mapping values are not allowed in this context",
        true,
        "a second colon with a blank behind it in one value; write address:port without a blank, and each key on a line of \
         its own",
    ),
    (NO_COLON, false, "this line is no `key: value`, and no item of a list, which begins with `- `"),
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
    (NO_KEY, true, "this is no key like those above it; an odd quote, or another column"),
];

const BRACKET: &str = "a quote or a bracket is not closed, or a comma is missing";

/// "did not find expected key" in a line that begins with a dash.
const DASH_AMONG_KEYS: &str = "-";

const NO_DASH: &str = "did not find expected '-' indicator";

const NO_COLON: &str = "could not find expected ':'";

const NO_KEY: &str = "did not find expected key";
