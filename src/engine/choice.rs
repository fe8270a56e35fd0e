//! Which engines this host has.

use super::{iptables, Engine};
use crate::error::Error;

/// The engines of this host; the first one is to be written. Fails where there is none, or where this process may not
/// change rules.
pub fn find() -> Result<Vec<Box<dyn Engine>>, Error> {
    let [main, other] = iptables::find()?;
    Ok(vec![Box::new(main), Box::new(other)])
}
