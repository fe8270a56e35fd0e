//! Lines and words of a listing, where a quoted comment may contain blanks and line ends.

use crate::text::has;

/// How many bytes a quoted string at the beginning of `text` takes; it may contain blanks, line ends and `\"`.
fn quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Where the first `end` stands in `text` outside of quoted strings. Only values of long options are quoted (comments,
/// log prefixes); a quotation mark anywhere else, as in the name of a chain or an interface, is a letter like any other.
fn end_of(text: &str, end: char) -> usize {
    let mut at = 0;
    let mut word = 0;
    let mut value = false;
    while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
        if c == end {
            return at;
        }
        let string = if c == '"' && value && at == word { text.get(at..).and_then(quoted) } else { None };
        at += string.unwrap_or(c.len_utf8());
        if c == ' ' {
            value = text.get(word..at).is_some_and(|word| word.starts_with("--"));
            word = at;
        }
    }
    text.len()
}

/// Lines, where a line end inside a quoted comment does not count. Only rules have comments.
pub struct Lines<'a>(pub &'a str);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.0.is_empty() {
            return None;
        }
        let mut end = self.0.find('\n').unwrap_or(self.0.len());
        let mut line = self.0.get(..end)?;
        if line.starts_with(['[', '-']) && has(line, '"') {
            end = end_of(self.0, '\n');
            line = self.0.get(..end)?;
        }
        self.0 = self.0.get(end + 1..).unwrap_or_default();
        Some(line)
    }
}

/// Words, where a quoted string is one.
pub struct Words<'a>(pub &'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    // It has many callers, and inlined it is large.
    #[inline(never)]
    fn next(&mut self) -> Option<&'a str> {
        self.0 = self.0.trim_start_matches(' ');
        let string = if self.0.starts_with('"') { quoted(self.0) } else { None };
        let end = string.unwrap_or_else(|| self.0.find(' ').unwrap_or(self.0.len()));
        let word = self.0.get(..end).filter(|word| !word.is_empty());
        self.0 = self.0.get(end..).unwrap_or_default();
        word
    }
}
