//! Characters that look like those that a config is made of, or are not seen at all: what word processors, chat programs
//! and other keyboards write instead.

use std::fmt::{self, Write};

/// What a character is taken for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    NoBreakSpace,
    Space,
    Unseen,
    Quote,
    Dash,
    Bullet,
    Colon,
    Dot,
    Comma,
    Digit,
    /// The ASCII character of the same place, counted from U+FF01 and `!`.
    FullWidth,
}

/// What each kind is, and what to do, in the order of [`Kind`]. Behind the last one stands the ASCII character.
const KINDS: [(&str, &str); 11] = [
    ("a no-break space", "write a plain space"),
    ("a space of another width", "write a plain space"),
    ("not seen", "delete it"),
    ("a typographic quote", "write \" or '"),
    ("a typographic dash", "write -"),
    ("a bullet", "write -"),
    ("no colon", "write :"),
    ("no dot of an address", "write ."),
    ("no comma of YAML", "write ,"),
    ("no digit here", "write 0 to 9"),
    ("a full-width character", "write "),
];

/// First and last character of each range. The first range that has a character counts.
const LOOK_ALIKES: [(u16, u16, Kind); 43] = [
    (0xa0, 0xa0, Kind::NoBreakSpace),
    (0x2007, 0x2007, Kind::NoBreakSpace),
    (0x202f, 0x202f, Kind::NoBreakSpace),
    (0x1680, 0x1680, Kind::Space),
    (0x2000, 0x200a, Kind::Space),
    (0x205f, 0x205f, Kind::Space),
    (0x3000, 0x3000, Kind::Space),
    (0xad, 0xad, Kind::Unseen),
    (0x61c, 0x61c, Kind::Unseen),
    (0x180e, 0x180e, Kind::Unseen),
    (0x200b, 0x200f, Kind::Unseen),
    (0x202a, 0x202e, Kind::Unseen),
    (0x2060, 0x206f, Kind::Unseen),
    (0xfeff, 0xfeff, Kind::Unseen),
    (0xab, 0xab, Kind::Quote),
    (0xb4, 0xb4, Kind::Quote),
    (0xbb, 0xbb, Kind::Quote),
    (0x2018, 0x201f, Kind::Quote),
    (0x2032, 0x2036, Kind::Quote),
    (0x2039, 0x203a, Kind::Quote),
    (0x300c, 0x300f, Kind::Quote),
    (0x301d, 0x301f, Kind::Quote),
    (0xff02, 0xff02, Kind::Quote),
    (0xff07, 0xff07, Kind::Quote),
    (0x2010, 0x2015, Kind::Dash),
    (0x2043, 0x2043, Kind::Dash),
    (0x2212, 0x2212, Kind::Dash),
    (0xb7, 0xb7, Kind::Bullet),
    (0x2022, 0x2023, Kind::Bullet),
    (0x2219, 0x2219, Kind::Bullet),
    (0x25a0, 0x25ef, Kind::Bullet),
    (0x2d0, 0x2d0, Kind::Colon),
    (0x2236, 0x2236, Kind::Colon),
    (0xa789, 0xa789, Kind::Colon),
    (0x2024, 0x2024, Kind::Dot),
    (0x3002, 0x3002, Kind::Dot),
    (0xff61, 0xff61, Kind::Dot),
    (0x3001, 0x3001, Kind::Comma),
    (0xff64, 0xff64, Kind::Comma),
    (0x660, 0x669, Kind::Digit),
    (0x6f0, 0x6f9, Kind::Digit),
    (0x966, 0x96f, Kind::Digit),
    (0xff01, 0xff5e, Kind::FullWidth),
];

/// What a character is taken for; none if it is not.
fn kind(c: char) -> Option<Kind> {
    let code = u32::from(c);
    for (first, last, kind) in &LOOK_ALIKES {
        if u32::from(*first) <= code && code <= u32::from(*last) {
            return Some(*kind);
        }
    }
    None
}

/// The message about such a character.
#[derive(Clone, Copy)]
pub(super) struct Stray(pub char);

impl Stray {
    /// Whether the character is one.
    pub fn is(c: char) -> bool {
        kind(c).is_some()
    }

    /// The first one in a text, and its place in characters, from 0.
    pub fn find(text: &str) -> Option<(usize, Stray)> {
        for (at, c) in text.chars().enumerate() {
            if Stray::is(c) {
                return Some((at, Stray(c)));
            }
        }
        None
    }

    /// Whether a text begins or ends with a quote or a space that nobody means.
    pub fn spoils(text: &str) -> bool {
        let bad = |c: Option<char>| {
            matches!(c.and_then(kind), Some(Kind::Quote | Kind::NoBreakSpace | Kind::Space | Kind::Unseen))
        };
        bad(text.chars().next()) || bad(text.chars().next_back())
    }
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = u32::from(self.0);
        let kind = kind(self.0).unwrap_or(Kind::Unseen);
        let (what, instead) = KINDS.get(kind as usize).copied().unwrap_or_default();
        write!(f, "the character U+{code:04X} is {what}; {instead}")?;
        match kind {
            Kind::FullWidth => f.write_char(char::from(code.wrapping_sub(0xfee0) as u8)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_alikes_are_named_and_letters_are_not() {
        let said = |c: char| Stray::find(&format!("a{c}b")).map(|(at, stray)| (at, stray.to_string()));
        for (c, what) in [
            ('\u{a0}', "the character U+00A0 is a no-break space; write a plain space"),
            ('\u{3000}', "the character U+3000 is a space of another width; write a plain space"),
            ('\u{200b}', "the character U+200B is not seen; delete it"),
            ('\u{201c}', "the character U+201C is a typographic quote; write \" or '"),
            ('\u{2013}', "the character U+2013 is a typographic dash; write -"),
            ('\u{ff1a}', "the character U+FF1A is a full-width character; write :"),
            ('\u{ff18}', "the character U+FF18 is a full-width character; write 8"),
            ('\u{2022}', "the character U+2022 is a bullet; write -"),
            ('\u{663}', "the character U+0663 is no digit here; write 0 to 9"),
        ] {
            assert_eq!(said(c), Some((1, what.to_owned())));
        }
        for c in ['a', '-', '"', '\u{e9}', '\u{444}', '\u{4e2d}', '\u{1f680}'] {
            assert_eq!(said(c), None, "{c}");
        }
    }
}
