//! What is refused as YAML that is no plain config: anchors, aliases, tags and blocks of text, wherever they may hide; and
//! nothing else. libyaml, which reads the configs in the end, is the judge: a table of cases, and many texts made by a
//! generator.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

/// What libyaml finds in a text up to its end or the first error.
#[derive(Debug, Default, PartialEq)]
struct Found {
    /// An anchor, an alias or a tag: what the library would follow or convert.
    reference: bool,
    /// A block of text (`|`, `>`).
    block: bool,
    /// An error.
    error: bool,
}

fn libyaml_finds(text: &str) -> Found {
    let mut found = Found::default();
    let mut parser = MaybeUninit::<unsafe_libyaml::yaml_parser_t>::uninit();
    let mut event = MaybeUninit::<unsafe_libyaml::yaml_event_t>::uninit();
    // SAFETY: the parser is initialized before and deleted after its use, and the text outlives it. Each event that was
    // parsed is deleted; the field that is read belongs to the event's type.
    unsafe {
        let parser = parser.as_mut_ptr();
        assert!(unsafe_libyaml::yaml_parser_initialize(parser).ok);
        unsafe_libyaml::yaml_parser_set_encoding(parser, unsafe_libyaml::YAML_UTF8_ENCODING);
        unsafe_libyaml::yaml_parser_set_input_string(parser, text.as_ptr(), text.len() as u64);
        loop {
            let event = event.as_mut_ptr();
            if unsafe_libyaml::yaml_parser_parse(parser, event).fail {
                found.error = true;
                break;
            }
            let data = &(*event).data;
            let end = (*event).type_ == unsafe_libyaml::YAML_STREAM_END_EVENT;
            found.reference |= match (*event).type_ {
                unsafe_libyaml::YAML_ALIAS_EVENT => true,
                unsafe_libyaml::YAML_SCALAR_EVENT => {
                    found.block |=
                        [unsafe_libyaml::YAML_LITERAL_SCALAR_STYLE, unsafe_libyaml::YAML_FOLDED_SCALAR_STYLE]
                            .contains(&data.scalar.style);
                    !data.scalar.anchor.is_null() || !data.scalar.tag.is_null()
                }
                unsafe_libyaml::YAML_SEQUENCE_START_EVENT => {
                    !data.sequence_start.anchor.is_null() || !data.sequence_start.tag.is_null()
                }
                unsafe_libyaml::YAML_MAPPING_START_EVENT => {
                    !data.mapping_start.anchor.is_null() || !data.mapping_start.tag.is_null()
                }
                _ => false,
            };
            unsafe_libyaml::yaml_event_delete(event);
            if end {
                break;
            }
        }
        unsafe_libyaml::yaml_parser_delete(parser);
    }
    found
}

/// Whether the config is refused for its YAML, before the library has seen it.
fn refused(text: &str) -> bool {
    match paraglider::config::parse(text.as_bytes()) {
        Ok(_) => false,
        Err(mistake) => mistake.what.contains("begins a YAML"),
    }
}

/// Whether ours and libyaml agree about a text.
fn agree(text: &str) -> bool {
    let Found { reference, block, error } = libyaml_finds(text);
    match refused(text) {
        // What stands behind an error is never looked at, so it does not matter what it is taken for.
        true => reference || block || error,
        false => !reference && !block,
    }
}

#[test]
fn plain_text_is_plain_whatever_is_in_it() {
    for text in [
        "a: \"Tom & Jerry\"",
        "a: 'a *b'",
        "a: ' &b'",
        "a: \" !b\"",
        "a: it's & that's",
        "a: b & c *d !e",
        "a: b&c",
        "a: \"x\\\" &y\"",
        "a: 'x'' &y'",
        "a: \"x\n  &y\n\n  *z\"",
        "a: 'x\n\n  &y'",
        "a: b\n  &c\n  *d",
        "a:\n  b: c\n    \"d &e\n  f: \"g &h\"",
        "- a\n  &b\n- c",
        "a: b # &c *d !e \" '",
        "# &a \" '\na: b",
        "a: b#c &d",
        "[a, 'b &c', \"d, *e\", f &g]",
        "{a: 'b &c', d: e &f,\n g: h\n &i}",
        "{a:&b: c}",
        "a:&b",
        "a: http://x/?y=*z&w=!v",
        "<<: {a: b}",
        "? a\n: b &c",
        "%YAML 1.1\n---\na: b",
        "%TAG ! tag:x,2000:\n---\na: b",
        "--- a\n&b",
        "a: -&b",
        "a: >b".replace('>', "=").as_str(),
        "a: [|, b]",
        "{a: b, c: 'd'} # &e",
    ] {
        assert!(!refused(text), "{text}");
        let found = libyaml_finds(text);
        assert!(found.error || !found.reference && !found.block, "{text}: {found:?}");
    }
}

#[test]
fn references_and_blocks_are_refused_wherever_they_hide() {
    for text in [
        "&a b",
        "a: &b c",
        "a: *b",
        "a: !b c",
        "a: !!str c",
        "a: !<b> c",
        "a: ! c",
        "&a b: c",
        "*a : b",
        "- &a b",
        "- - *a",
        "-\t&a b",
        "a:\t&b c",
        "? &a b",
        "? a\n: &b c",
        "[&a b]",
        "[a,&b c]",
        "[a, *b]",
        "{a: &b c}",
        "{\"a\":&b c}",
        "{'a':*b}",
        "{a: b,&c d: e}",
        "{? &a b: c}",
        "{?&a b: c}",
        "[[a]&b c]",
        "a: \"b #c\"\nd: &e f",
        "a: 'b #c'\nd: &e f",
        "a: \"b\" #c\nd: &e f",
        "a: it's\nb: &c d\ne: it's",
        "a: b\"\nc: &d e\nf: \"",
        "a: b\n  \"c\nd: &e f\ng: \"",
        "a: b\n  'c\nd: *e\nf: '",
        "- a\n  \"b\n- &c d\n- \"",
        "a: \"b\\\\\"\nc: &d e",
        "a: \"b\\\"\"\nc: &d e",
        "a: 'b\\'\nc: &d e",
        "a: 'b'''\nc: &d e",
        "a: b\r&c d: e",
        "a: b\n...\n---\n&c d",
        "--- &a b",
        "---\n&a b",
        "%TAG ! tag:x,2000:\n---\na: !b c",
        "a: |\n  b",
        "a: >-\n  b",
        "- |2\n   b",
        "a: b\n<<: *c",
        "\u{feff}&a b",
        "\u{feff}a: &b c",
    ] {
        assert!(refused(text), "{text}");
        let text = text.trim_start_matches('\u{feff}');
        let found = libyaml_finds(text);
        assert!(found.reference || found.block || found.error, "{text}: {found:?}");
    }
}

/// Pieces that texts are made of: all that means something to YAML, and how it usually stands together.
const PIECES: [&str; 54] = [
    "a",
    "b",
    "it's",
    "1.2.3.4:80",
    "&",
    "*",
    "!",
    "&x ",
    "*x",
    "!x ",
    "!!str ",
    "\"",
    "'",
    "\\",
    "\\\"",
    "''",
    "#",
    " #",
    " ",
    "  ",
    "\t",
    "\n",
    "\n",
    "\n  ",
    "\n    ",
    "\r",
    "\r\n",
    ":",
    ": ",
    ": ",
    "- ",
    "\n- ",
    "-",
    "? ",
    "?",
    ",",
    ", ",
    "[",
    "]",
    "{",
    "}",
    "|",
    ">",
    "| \n",
    "---",
    "\n---\n",
    "\n...\n",
    "%",
    "\n%YAML 1.1\n---\n",
    "<<: ",
    "@",
    "\u{e9}",
    "a: b\n",
    "\n  c: ",
];

#[test]
fn ours_and_libyaml_agree_about_texts_of_a_generator() {
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    let mut throw = |sides: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice >> 33) as usize % sides
    };
    let (mut plain, mut with_references) = (0, 0);
    for _ in 0..300_000 {
        let length = 1 + throw(14);
        let text: String = (0..length).map(|_| PIECES[throw(PIECES.len())]).collect();
        assert!(agree(&text), "{text:?}: refused: {}; libyaml: {:?}", refused(&text), libyaml_finds(&text));
        let found = libyaml_finds(&text);
        plain += usize::from(found == Found::default());
        with_references += usize::from(found.reference);
    }
    // The generator makes enough of both.
    assert!(plain > 20_000 && with_references > 20_000, "{plain} {with_references}");
}
