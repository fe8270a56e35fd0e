//! Small readers of text.

use std::fmt::{self, Write};

use crate::error::{refuse, Error};

/// Whether `text` has this character. (`str::contains` brings the search for any text with it: 3 KiB of the binary.)
pub(crate) fn has(text: &str, c: char) -> bool {
    text.chars().any(|other| other == c)
}

/// A number of at most `most`, in decimal digits and nothing else.
pub fn number(text: &str, most: u64) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number <= most)
}

/// FNV-1a, 64 bits: keeps the endpoints of one config apart, the same way on every machine and in every version.
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

/// A user's text inside a sentence of ours: one line, whatever is in it.
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().flat_map(char::escape_debug).try_for_each(|c| f.write_char(c))
    }
}

/// Which of `words` this text is. `what` begins the sentence that is said if it is none.
pub fn one_of(what: &str, words: &[&str], text: &str) -> Result<usize, Error> {
    if let Some(at) = words.iter().position(|word| *word == text) {
        return Ok(at);
    }
    match nearest(text, words) {
        Some(word) => refuse!("{what} `{}`; did you mean `{word}`?", Shown(text)),
        None => refuse!("{what} `{}`; there are {}", Shown(text), words.join(", ")),
    }
}

/// The candidate that a mistyped word most likely meant: at most two letters away.
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    candidates
        .iter()
        .map(|candidate| (edits(&word, candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 2 && *distance < candidate.len())
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance; both words are short.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let cost = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = cost;
            left = cost;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested_and_a_stranger_is_not() {
        let keys = ["bind", "privateip", "backends"];
        assert_eq!(nearest("bnid", &keys), Some("bind"));
        assert_eq!(nearest("Bind", &keys), Some("bind"));
        assert_eq!(nearest("backend", &keys), Some("backends"));
        assert_eq!(nearest("private_ip", &keys), Some("privateip"));
        assert_eq!(nearest("timeout", &keys), None);
        assert_eq!(nearest("", &keys), None);
    }

    #[test]
    fn edits_counts_insertions_deletions_and_exchanges() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("abc", ""), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
