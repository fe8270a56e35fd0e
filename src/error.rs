//! The one error type: a sentence that says what, where and what to do, and the exit status that goes with it.

use std::fmt::{self, Write};

/// How the program ends. The numbers are part of the command line's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The system refused or failed; for `status`: the rules in force are not the config's.
    Failed = 1,
    /// Wrong usage or wrong config.
    Usage = 2,
    /// `status` only: nothing is in force (LSB: "program is not running").
    NotInForce = 3,
}

/// What went wrong, as a whole sentence without a full stop. (One pointer: it is handed up through many functions.)
#[derive(Debug)]
pub struct Error(Box<(Exit, String)>);

impl Error {
    /// Wrong words on the command line, or a wrong config.
    pub fn usage(sentence: fmt::Arguments<'_>) -> Self {
        Error(Box::new((Exit::Usage, sentence.to_string())))
    }

    /// The system refused or failed.
    pub fn system(sentence: fmt::Arguments<'_>) -> Self {
        Error(Box::new((Exit::Failed, sentence.to_string())))
    }

    /// The exit status that tells it to other programs.
    pub fn exit(&self) -> Exit {
        self.0 .0
    }

    /// The same error with something more to say.
    #[must_use]
    pub fn and(mut self, more: &str) -> Self {
        self.0 .1.push_str("; ");
        self.0 .1.push_str(more);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0 .1)
    }
}

/// Returns a sentence about what the user gave.
macro_rules! refuse {
    ($($what:tt)*) => { Err($crate::error::Error::usage(format_args!($($what)*))) };
}

/// Returns a sentence about what the system did.
macro_rules! fail {
    ($($what:tt)*) => { Err($crate::error::Error::system(format_args!($($what)*))) };
}

pub(crate) use {fail, refuse};

/// What the system said, without the number that means nothing to a user.
pub fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.rsplit_once('(').map_or(text.as_str(), |(sentence, _)| sentence).trim_ascii_end().to_owned()
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
