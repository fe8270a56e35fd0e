//! `glider.yaml` as written → [`Config`]. Bytes in, services or the first mistake out; the caller reads the file.

mod address;
mod character;
mod draft;
mod error;
mod expect;
mod health;
mod keys;
mod layout;
mod node;
mod plain;
mod words;

use self::draft::Draft;
pub use self::error::Mistake;
pub use self::plain::MOST_BYTES;
use crate::service::{Preference, Service};

/// What a valid config says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What is to write the rules.
    pub engine: Preference,
    /// What is balanced: at least one service, in the order of the file.
    pub services: Vec<Service>,
}

/// Reads a config, or returns the first mistake.
pub fn parse(bytes: &[u8]) -> Result<Config, Mistake> {
    let text = plain::text(bytes)?;
    let mut draft = Draft::default();
    let Err(mut error) = read(&mut draft, text) else {
        return Ok(Config { engine: draft.engine, services: draft.services });
    };
    // Read up to the value that is to blame, for its place.
    if let Some(late) = draft.late.take() {
        let mut again = Draft::default();
        again.known = Some(late);
        if let Err(there) = read(&mut again, text) {
            error = there;
        }
    }
    let (mistake, finder) = Mistake::of(text, &error);
    Err(layout::better(text, mistake, finder, &|key| keys::DOCUMENT.place_of(key)))
}

fn read(draft: &mut Draft, text: &str) -> Result<(), serde_yaml::Error> {
    keys::DOCUMENT.read(draft, serde_yaml::Deserializer::from_str(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_what_the_config_says_and_auto_without_a_word() {
        let seed = "frontend:\n  bind: 1.2.3.4:80\n  backends: ['1.2.3.5:80']\n";
        let engine = |text: &str| parse(text.as_bytes()).unwrap().engine;
        assert_eq!(engine(seed), Preference::Auto);
        for (word, wanted) in Preference::ALL {
            assert_eq!(engine(&format!("engine: {word}\n{seed}")), wanted);
            assert_eq!(engine(&format!("{seed}engine: '{word}'\n")), wanted);
        }
    }
}
