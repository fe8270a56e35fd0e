//! Which engines this host has, which of them is to be written, and why.

use super::nftables::Nftables;
use super::{iptables, Engine};
use crate::error::Error;
use crate::host;
use crate::service::Preference;
use crate::sys::log;

/// All places in the kernel where rules of ours can be; the first one is to be written.
pub type Engines = Vec<Box<dyn Engine>>;

/// The engines of this host, in the order that the config asks for. Fails if that is iptables and there is none, or if this
/// process may not change rules.
pub fn find(preference: Preference) -> Result<Engines, Error> {
    let installed = iptables::is_installed();
    let by_nftables = takes_nftables(preference, installed);
    let nftables: Box<dyn Engine> = Box::new(Nftables { written: by_nftables });
    let engines = if installed {
        let [main, other] = iptables::find(!by_nftables)?;
        in_order(by_nftables, nftables, [Box::new(main), Box::new(other)])
    } else if by_nftables {
        host::may_change_rules(false)?;
        vec![nftables, Box::new(iptables::gone())]
    } else {
        return Err(iptables::none());
    };
    log::detail!("the engine is {}, {}", name(&engines), reason(preference));
    Ok(engines)
}

/// The same for what needs no config: rules of ours are found wherever they are.
pub fn all() -> Result<Engines, Error> {
    find(Preference::Auto)
}

/// The name of the engine that is to be written.
pub fn name(engines: &[Box<dyn Engine>]) -> &'static str {
    engines.first().map_or("", |engine| engine.name())
}

/// Whether nftables is to be written on this host.
pub fn is_nftables(preference: Preference) -> bool {
    takes_nftables(preference, iptables::is_installed())
}

/// Why the first engine is the one that is to be written; the end of a sentence.
pub fn reason(preference: Preference) -> &'static str {
    match preference {
        Preference::Iptables | Preference::Nftables => "as the config says",
        Preference::Auto if iptables::is_installed() => "since iptables is installed",
        Preference::Auto => "since no iptables is installed",
    }
}

fn takes_nftables(preference: Preference, installed: bool) -> bool {
    match preference {
        Preference::Auto => !installed,
        Preference::Iptables => false,
        Preference::Nftables => true,
    }
}

/// iptables and its other variant may hold rules of ours whatever is to be written.
fn in_order(by_nftables: bool, nftables: Box<dyn Engine>, [main, other]: [Box<dyn Engine>; 2]) -> Engines {
    match by_nftables {
        true => vec![nftables, main, other],
        false => vec![main, other, nftables],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake::Fake;
    use crate::engine::Plan;

    #[test]
    fn what_is_preferred_comes_first_and_no_place_is_left_out() {
        let fake = |name| -> Box<dyn Engine> { Box::new(Fake::with(name, &Plan::Nothing)) };
        for (preference, installed, wanted) in [
            (Preference::Auto, true, ["main", "other", "nftables"]),
            (Preference::Iptables, true, ["main", "other", "nftables"]),
            (Preference::Nftables, true, ["nftables", "main", "other"]),
        ] {
            let by_nftables = takes_nftables(preference, installed);
            let engines = in_order(by_nftables, fake("nftables"), [fake("main"), fake("other")]);
            let names: Vec<&str> = engines.iter().map(|engine| engine.name()).collect();
            assert_eq!(names, wanted, "{preference:?}");
            assert_eq!(name(&engines), wanted[0]);
        }
    }

    #[test]
    fn without_iptables_there_is_nftables_unless_the_config_says_otherwise() {
        assert!(takes_nftables(Preference::Auto, false));
        assert!(takes_nftables(Preference::Nftables, false));
        assert!(!takes_nftables(Preference::Iptables, false));
    }
}
