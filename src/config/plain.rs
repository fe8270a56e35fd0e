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
    let mut scanner = Scanner { text: text.as_bytes(), at: 0, line: 0, depth: 0, indent: None, key: None };
    match scanner.refused() {
        Some(what) => {
            let c = char::from(scanner.peek(0));
            Err(mistake(scanner.text, scanner.at, format!("`{c}` begins a YAML {what}")))
        }
        None => Ok(text),
    }
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
}

impl Scanner<'_> {
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
        self.skip();
        loop {
            match self.peek(0) {
                0 => return,
                b'\\' if quote == b'"' => self.skip(),
                c if c == quote => return,
                _ => {}
            }
            self.skip();
        }
    }

    /// Goes behind a scalar without quotes; it may go on in lines that are indented deeper than what it is a part of.
    fn plain(&mut self) {
        let indent = self.indent.map_or(0, |indent| indent + 1);
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
        }
    }
}
