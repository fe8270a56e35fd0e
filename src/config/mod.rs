//! `glider.yaml` as written → [`Service`]s. Bytes in, services or the first mistake out; the caller reads the file.

mod draft;
mod error;
mod health;
mod keys;
mod node;
mod plain;

pub use self::error::Mistake;
pub use self::plain::MOST_BYTES;
use crate::service::Service;

/// Reads a config: at least one service, in the order of the file, or the first mistake.
pub fn parse(bytes: &[u8]) -> Result<Vec<Service>, Mistake> {
    let text = plain::text(bytes)?;
    let mut draft = draft::Draft::default();
    match keys::DOCUMENT.read(&mut draft, serde_yaml::Deserializer::from_str(text)) {
        Ok(()) => Ok(draft.services),
        Err(error) => Err(Mistake::of(text, &error)),
    }
}
