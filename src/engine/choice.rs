//! Which engines this host has.

use super::iptables;
use super::nftables::Nftables;
use super::Engine;
use crate::error::Error;

/// The places in the kernel where rules of ours can be; the first one is to be written. Fails where this process may not
/// change rules.
pub fn find() -> Result<Vec<Box<dyn Engine>>, Error> {
    if !iptables::is_installed() {
        return Ok(vec![Box::new(Nftables { written: true })]);
    }
    let [main, other] = iptables::find()?;
    Ok(vec![Box::new(main), Box::new(other), Box::new(Nftables { written: false })])
}
