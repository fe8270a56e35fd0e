//! Rules of others in nf_tables: firewall4, firewalld, an administrator's own. The kernel tells them by
//! netlink (linux/netfilter/nf_tables.h); no program is needed.

mod chain;
mod fate;
pub mod firewall4;
mod input;
mod iptables;
mod set;
mod walk;

pub use self::chain::{chains, offloads, translates, uses_conntrack, Base, Chain, Hook, OURS};
pub use self::fate::Fate;
pub use self::set::Sets;
pub use self::walk::{closes, Path};
