//! What is refused before the YAML library reads a config: text that is no plain list of values, and could make the
//! library follow references (anchors, aliases), convert values (tags), or take very long (deep nesting).
//!
//! The library resolves anchors and aliases without telling, so they have to be found in the text. [`Scanner`] splits it
//! into tokens as libyaml's scanner (scanner.c of libyaml 0.2.5) does, since `&` is an anchor only where a token begins.
//! `tests/cli/yaml.rs` compares the two.

use super::error::Mistake;

/// Largest config, in bytes. A thousand backends take half of it.
pub const MOST_BYTES: usize = 64 * 1024;

/// Deepest nesting of brackets; a config needs five. libyaml's time grows with the square of the depth.
const DEEPEST: usize = 16;

/// The text of a config, without a byte order mark, if it is plain enough for the YAML library.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Mistake> {
    if bytes.len() > MOST_BYTES {
        let what = format!("the config is larger than {} KiB", MOST_BYTES / 1024);
        return Err(Mistake { line: 1, column: 1, what });
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return Err(mistake(bytes, error.valid_up_to(), "this is not UTF-8 text".into())),
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some((at, c)) = text.char_indices().find(|(_, c)| is_invisible(*c)) {
        return Err(mistake(text.as_bytes(), at, format!("control character `\\u{{{:x}}}`", u32::from(c))));
    }
    let mut scanner = Scanner::of(text);
    match scanner.refused() {
        Some(what) => {
            let c = char::from(scanner.peek(0));
            // An asterisk that is followed by no name of an anchor is meant for something else.
            let star = c == '*' && (scanner.blank(1) || matches!(scanner.peek(1), b':' | b'.'));
            let what = match star {
                true if scanner.begins_line() && scanner.peek(1) == b' ' => {
                    "`*` begins no item of a list; write `- `".into()
                }
                true => "`*` stands for no address; give one (`ip address` shows those of this host)".into(),
                false => format!("`{c}` begins a YAML {what}"),
            };
            Err(mistake(scanner.text, scanner.at, what))
        }
        None => Ok(text),
    }
}

/// A scalar that goes on in another line than it begins: byte indexes of a text.
pub(super) struct Span {
    /// Where it begins.
    pub begin: usize,
    /// Where it goes on in the next line; for one in quotes its end.
    pub next: usize,
    /// It stands in quotes.
    pub quoted: bool,
}

/// All such scalars of a text. For one in quotes that are not closed, the end is that of the text.
pub(super) fn spans(text: &str) -> Vec<Span> {
    let mut scanner = Scanner::of(text);
    scanner.refused();
    scanner.spans
}

/// The line and the column, from 1, of a byte of the text.
pub(super) fn place(text: &str, at: usize) -> (usize, usize) {
    let Mistake { line, column, .. } = mistake(text.as_bytes(), at, String::new());
    (line, column)
}

/// Control characters; and what ends a line for YAML 1.1 or is skipped by libyaml, but is not seen in an editor.
fn is_invisible(c: char) -> bool {
    c.is_control() && !matches!(c, '\t' | '\r' | '\n') || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// A mistake at byte `at` of the text.
fn mistake(text: &[u8], at: usize, what: String) -> Mistake {
    let (mut line, mut column) = (1, 1);
    for c in String::from_utf8_lossy(text.get(..at).unwrap_or_default()).chars() {
        (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
    }
    Mistake { line, column, what }
}

/// Splits a text into YAML tokens. Where libyaml finds an error, what the scanner does is of no importance: the library
/// does not look at anything behind it. Columns are in bytes, from 0: what stands before a key or a continued line is
/// ASCII.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// Where the line begins.
    line: usize,
    /// How many brackets are open. In brackets, indentation has no meaning.
    depth: usize,
    /// The column of the innermost block mapping or block sequence; none at the beginning of a document.
    indent: Option<usize>,
    /// The column of the first token of this line that a `:` behind it would make a key.
    key: Option<usize>,
    /// The scalars of several lines so far.
    spans: Vec<Span>,
}

impl Scanner<'_> {
    fn of(text: &str) -> Scanner<'_> {
        Scanner { text: text.as_bytes(), at: 0, line: 0, depth: 0, indent: None, key: None, spans: Vec::new() }
    }

    /// Whether only blanks stand before this byte in its line.
    fn begins_line(&self) -> bool {
        self.text.get(self.line..self.at).unwrap_or_default().iter().all(|b| *b == b' ')
    }

    /// The byte `ahead` of the next one; 0 behind the end. (A config contains no NUL.)
    #[inline(never)] // its bounds check is longer than a call
    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Goes on by one byte.
    fn skip(&mut self) {
        let c = self.peek(0);
        self.at += 1;
        if matches!(c, b'\n' | b'\r') {
            (self.line, self.key) = (self.at, None);
        }
    }

    /// Whether the byte `ahead` is a blank, a line end or the end.
    fn blank(&self, ahead: usize) -> bool {
        matches!(self.peek(ahead), b' ' | b'\t' | b'\r' | b'\n' | 0)
    }

    fn column(&self) -> usize {
        self.at - self.line
    }

    /// Whether a line begins here with `---` or `...`, which ends a document.
    fn document_ends(&self) -> bool {
        let c = self.peek(0);
        self.column() == 0 && matches!(c, b'-' | b'.') && self.peek(1) == c && self.peek(2) == c && self.blank(3)
    }

    /// Goes to the first token that a config must not have, and returns what it begins; none if there is no such token.
    fn refused(&mut self) -> Option<&'static str> {
        loop {
            let block = self.depth == 0;
            match self.peek(0) {
                0 => return None,
                _ if self.document_ends() => {
                    self.at += 2;
                    self.indent = None;
                }
                b' ' | b'\t' | b'\r' | b'\n' | b',' => {}
                b'#' => self.comment(),
                // A directive. `%YAML` changes nothing, and `%TAG` nothing without a tag.
                b'%' if self.column() == 0 => self.comment(),
                b'&' | b'*' | b'!' => return Some("anchor, alias or tag; write the value itself, or quote it"),
                b'|' | b'>' if block => return Some("block of text; write the text on one line, in quotes"),
                b'-' | b'?' if block && self.blank(1) => (self.indent, self.key) = (Some(self.column()), None),
                b':' if block && self.blank(1) => self.indent = self.key.take().or(Some(self.column())),
                b'?' | b':' if !block => {}
                b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                c => {
                    if block {
                        self.key = self.key.or(Some(self.column()));
                    }
                    match c {
                        b'[' | b'{' if self.depth == DEEPEST => return Some("list or mapping that is nested too deep"),
                        b'[' | b'{' => self.depth += 1,
                        b'\'' | b'"' => self.quoted(c),
                        _ => {
                            self.plain();
                            continue;
                        }
                    }
                }
            }
            self.skip();
        }
    }

    /// Goes to the last byte of a line.
    fn comment(&mut self) {
        while !matches!(self.peek(1), b'\r' | b'\n' | 0) {
            self.at += 1;
        }
    }

    /// Goes to the quote that ends a quoted scalar; it may span lines. (`''` inside counts as an end and a beginning, which
    /// comes to the same.)
    fn quoted(&mut self, quote: u8) {
        let (begin, line) = (self.at, self.line);
        self.skip();
        loop {
            match self.peek(0) {
                0 => break,
                b'\\' if quote == b'"' => self.skip(),
                c if c == quote => break,
                _ => {}
            }
            self.skip();
        }
        if self.line != line {
            self.spans.push(Span { begin, next: self.at, quoted: true });
        }
    }

    /// Goes behind a scalar without quotes; it may go on in lines that are indented deeper than what it is a part of.
    fn plain(&mut self) {
        let indent = self.indent.map_or(0, |indent| indent + 1);
        let (begin, line) = (self.at, self.line);
        let mut known = false;
        while !self.document_ends() && self.peek(0) != b'#' {
            while !self.blank(0) {
                let c = self.peek(0);
                if c == b':' && self.blank(1) || self.depth > 0 && matches!(c, b',' | b'[' | b']' | b'{' | b'}') {
                    return;
                }
                self.skip();
            }
            while self.blank(0) && self.peek(0) != 0 {
                self.skip();
            }
            if self.peek(0) == 0 || self.depth == 0 && self.column() < indent {
                return;
            }
            if self.line != line && !known && self.depth == 0 && self.peek(0) != b'#' && !self.document_ends() {
                known = true;
                self.spans.push(Span { begin, next: self.at, quoted: false });
            }
        }
    }
}
