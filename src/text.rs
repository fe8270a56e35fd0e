//! Readers of short texts: numbers, words from a list; and text from outside as part of a message.

use std::fmt::{self, Write};

use crate::error::{refuse, Error};

/// Most characters of a value that a message repeats.
const MOST_SHOWN: usize = 60;

/// Most characters of a line that a message repeats.
const MOST_OF_LINE: usize = 200;

/// Whether `text` contains this character. (`str::contains` brings the substring search with it: 3 KiB of the binary.)
#[inline(never)] // it has many callers
pub(crate) fn has(text: &str, c: char) -> bool {
    text.chars().any(|other| other == c)
}

/// The byte index of the first `what` in `text`. (`str::find` brings 4 KiB into the binary, and is faster.)
pub(crate) fn find(text: &str, what: &str) -> Option<usize> {
    (0..text.len()).find(|at| text.get(*at..).is_some_and(|rest| rest.starts_with(what)))
}

/// What stands before and behind the first `what` in `text`.
pub(crate) fn split<'a>(text: &'a str, what: &str) -> Option<(&'a str, &'a str)> {
    let at = find(text, what)?;
    Some((text.get(..at)?, text.get(at + what.len()..)?))
}

/// Whether `part` is somewhere in `bytes`; an empty one is.
#[inline(never)]
pub(crate) fn holds(bytes: &[u8], part: &[u8]) -> bool {
    let mut rest = bytes;
    while !rest.starts_with(part) {
        match rest {
            [_, more @ ..] => rest = more,
            [] => return false,
        }
    }
    true
}

/// Whether a text is not empty, and each of its bytes is a letter, a digit, or one of these ASCII characters.
#[inline(never)] // it has many callers
pub(crate) fn is_word(text: &str, these: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || has(these, char::from(b)))
}

/// What stands before the first of these ASCII characters in `text`; all of it if there is none.
pub(crate) fn until<'a>(text: &'a str, these: &str) -> &'a str {
    let mut at = 0;
    while text.as_bytes().get(at).is_some_and(|b| !has(these, char::from(*b))) {
        at += 1;
    }
    text.get(..at).unwrap_or(text)
}

/// What stands before and behind the first of these ASCII characters in `text`.
#[inline(never)] // `str::split_once` is made anew at each place
pub(crate) fn part<'a>(text: &'a str, these: &str) -> Option<(&'a str, &'a str)> {
    let before = until(text, these);
    Some((before, text.get(before.len() + 1..)?))
}

/// Whether a word is one of some words, separated by blanks; of those, `log*` is all that begin with `log`.
pub(crate) fn listed(words: &str, word: &str) -> bool {
    for one in words.split(' ') {
        let begins = one.strip_suffix('*').is_some_and(|begin| !begin.is_empty() && word.starts_with(begin));
        if begins || one == word {
            return true;
        }
    }
    false
}

/// A number of at most `most`, in decimal digits and nothing else.
pub fn number(text: &str, most: u64) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number <= most)
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): the same value on every machine and in every version.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, hash)
}

/// The word after `option` in a line of words.
pub fn value<'a>(text: &'a str, option: &str) -> Option<&'a str> {
    let mut words = text.split(' ');
    words.find(|word| *word == option)?;
    words.next()
}

/// Text from outside as part of a message: control characters are escaped, so the message stays one line and cannot
/// drive a terminal.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(f, self.0, usize::MAX)
    }
}

/// The same, cut after this number of characters.
pub struct Cut<'a>(pub &'a str, pub usize);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(f, self.0, self.1)
    }
}

/// A value from outside as part of a message: [`Escaped`], and cut after 60 characters.
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(f, self.0, MOST_SHOWN)
    }
}

/// A line from outside as part of a message: [`Escaped`], and cut after 200 characters.
pub struct Line<'a>(pub &'a str);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(f, self.0, MOST_OF_LINE)
    }
}

fn escape(f: &mut fmt::Formatter<'_>, text: &str, most: usize) -> fmt::Result {
    for (at, c) in text.chars().enumerate() {
        if at == most {
            return f.write_char('…');
        }
        match c {
            '\\' => f.write_str("\\\\")?,
            _ => write_escaped(f, c)?,
        }
    }
    Ok(())
}

/// Writes a character, escaped if it is a control character, or one of Unicode that is not seen but can turn the direction
/// of the line or break it. (`char::escape_debug` brings 4 KiB of Unicode's tables into the binary.)
pub(crate) fn write_escaped(f: &mut fmt::Formatter<'_>, c: char) -> fmt::Result {
    match c {
        '\t' => f.write_str("\\t"),
        '\r' => f.write_str("\\r"),
        '\n' => f.write_str("\\n"),
        _ if c.is_control() || is_unseen(c) => write!(f, "\\u{{{:x}}}", u32::from(c)),
        _ => f.write_char(c),
    }
}

/// Marks of direction, line ends, spaces without width, a byte order mark.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The index of `text` in `words`. The error begins with `what` and names the nearest word, or all of them.
pub fn one_of(what: &str, words: &[&str], text: &str) -> Result<usize, Error> {
    if let Some(at) = words.iter().position(|word| *word == text) {
        return Ok(at);
    }
    match nearest(text, words) {
        Some(word) => refuse!("{what} `{}`; did you mean `{word}`?", Shown(text)),
        None => refuse!("{what} `{}`; allowed: {}", Shown(text), words.join(", ")),
    }
}

/// The candidate that a mistyped word most likely meant: one that begins with it, else one at most two edits away.
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let (mut nearest, mut least) = ("", usize::MAX);
    for candidate in candidates {
        let begins = candidate.starts_with(&word) && !word.is_empty();
        let distance = if begins { 0 } else { edits(&word, candidate) };
        if distance < least {
            (nearest, least) = (candidate, distance);
        }
    }
    (least <= 2 && least < nearest.len()).then_some(nearest)
}

/// Levenshtein distance. Both words are short: the time is the product of their lengths.
fn edits(a: &str, b: &str) -> usize {
    // The last row of the table: the distances of what was read of `a` to the beginnings of `b`, but for the empty one.
    let mut row = Vec::new();
    let mut left = 0;
    for _ in b.chars() {
        left += 1;
        row.push(left);
    }
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        left = i + 1;
        for (cell, y) in row.iter_mut().zip(b.chars()) {
            let cost = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = cost;
            left = cost;
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested_and_an_unrelated_one_is_not() {
        let keys = ["bind", "privateip", "backends"];
        assert_eq!(nearest("bnid", &keys), Some("bind"));
        assert_eq!(nearest("Bind", &keys), Some("bind"));
        assert_eq!(nearest("backend", &keys), Some("backends"));
        assert_eq!(nearest("private_ip", &keys), Some("privateip"));
        assert_eq!(nearest("timeout", &keys), None);
        assert_eq!(nearest("", &keys), None);
    }

    #[test]
    fn a_word_that_is_cut_short_beats_one_that_is_misspelt() {
        let verbs = ["start", "stop", "status", "check"];
        assert_eq!(nearest("stat", &verbs), Some("status"));
        assert_eq!(nearest("c", &verbs), Some("check"));
        assert_eq!(nearest("sart", &verbs), Some("start"));
        assert_eq!(nearest("statuses", &verbs), Some("status"));
    }

    #[test]
    fn edits_counts_insertions_deletions_and_substitutions() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("abc", ""), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
    }

    #[test]
    fn a_part_is_found_anywhere() {
        for part in ["", "a", "abab", "bab", "babc", "ababc", "c"] {
            assert!(holds(b"ababc", part.as_bytes()), "{part}");
        }
        for part in ["d", "ababcd", "aba c"] {
            assert!(!holds(b"ababc", part.as_bytes()), "{part}");
        }
        assert!(holds(b"", b"") && !holds(b"", b"a"));
    }

    #[test]
    fn numbers_are_digits_alone() {
        assert_eq!((number("0", 9), number("007", 9)), (Some(0), Some(7)));
        assert_eq!(number("18446744073709551615", u64::MAX), Some(u64::MAX));
        for text in ["18446744073709551616", "", "+1", "-1", "1 ", "a", "٣"] {
            assert_eq!(number(text, u64::MAX), None, "{text}");
        }
        assert_eq!((number("9", 9), number("10", 9)), (Some(9), None));
    }

    #[test]
    fn values_in_messages_are_escaped_and_cut() {
        assert_eq!(Shown("it's \"a\"\n\u{1b}[31m").to_string(), "it's \"a\"\\n\\u{1b}[31m");
        assert_eq!(Shown(&"é".repeat(60)).to_string(), "é".repeat(60));
        assert_eq!(Shown(&"é".repeat(61)).to_string(), format!("{}…", "é".repeat(60)));
        assert_eq!(Shown("a\u{202e}b\\\t\0").to_string(), "a\\u{202e}b\\\\\\t\\u{0}");
        assert_eq!(Escaped(&"/a\r".repeat(61)).to_string(), "/a\\r".repeat(61));
    }
}
