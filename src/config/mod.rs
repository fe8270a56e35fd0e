//! `glider.yaml` as written → [`Service`]s. Bytes in, services or the first mistake out; the caller reads the file.

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
use crate::service::Service;

/// Reads a config: at least one service, in the order of the file, or the first mistake.
pub fn parse(bytes: &[u8]) -> Result<Vec<Service>, Mistake> {
    let text = plain::text(bytes)?;
    let mut draft = Draft::default();
    let Err(mut error) = read(&mut draft, text) else {
        return Ok(draft.services);
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
