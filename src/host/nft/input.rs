//! Rules at the hook of input about the clients of a bind: what is balanced is forwarded, and never meets them.

use super::chain::{is_one_of, Base, Chain, Rule};
use super::fate::{Fate, Match};
use super::set::Sets;
use super::walk::{Path, Verdict, Walk, DEEPEST};
use crate::net::Family;
use crate::sys::netlink::{big, find_in};
use crate::sys::nftables::expression;

/// What a rule, or a rule that leads to it, looks at.
#[derive(Debug, Clone, Copy, Default)]
struct About {
    clients: bool,
    interface: bool,
    port: bool,
}

impl About {
    /// Adds what this rule looks at.
    fn add(&mut self, rule: &Rule, family: Family) {
        let source = if family == Family::V4 { 12 } else { 8 };
        let mut rest = rule.expressions.as_slice();
        // The client's address was looked at right before.
        let mut before = false;
        while let Some((name, data)) = expression(&mut rest) {
            let key = big(data, 2);
            match (name, key) {
                // The network header, and the transport header's second number.
                ("payload", Some(1)) => before = big(data, 3) == Some(source),
                ("payload", Some(2)) => self.port |= big(data, 3) == Some(2),
                // Source addresses of the connection, by each of their names.
                ("ct", Some(8 | 19 | 21)) => before = true,
                ("meta", Some(4 | 6)) => self.interface = true,
                // What pretends to come from this host is no client.
                ("cmp", _) if find_in(data, 3, 1).is_some_and(|with| with.first() == Some(&127)) => before = false,
                _ if is_one_of(name, &["cmp", "lookup", "range", "dynset", "hash"]) => {
                    self.clients |= before;
                    before = false;
                }
                _ => {}
            }
        }
    }
}

/// How the way through a chain ends.
enum End {
    /// It goes on behind it.
    Through,
    Open,
    Shut,
    /// There is a rule that will be missed, by its handle.
    Misses(u64),
}

impl Chain {
    /// The handle of a rule in this chain at the hook of input that does not hold for a bind any more once it is balanced: a
    /// ban of some clients or of the bind's port; or, where all else is dropped, what lets only some in there.
    pub fn misses<'a>(&'a self, base: Base, chains: &'a [Chain], path: &Path, sets: &mut Sets<'a>) -> Option<u64> {
        // By whatever interface they come.
        let path = Path { arrives: String::new(), ..path.clone() };
        let mut walk = Walk::new(self, base, chains, &path, sets);
        let mut admits = None;
        match walk.misses(self, DEEPEST, About::default(), &mut admits) {
            End::Misses(handle) => Some(handle),
            End::Shut => admits,
            End::Through if base.drops => admits,
            End::Through | End::Open => None,
        }
    }
}

impl<'a> Walk<'a, '_> {
    fn misses(&mut self, chain: &'a Chain, depth: usize, above: About, admits: &mut Option<u64>) -> End {
        for rule in &chain.rules {
            if self.left == 0 {
                return End::Open;
            }
            self.left -= 1;
            let (matches, verdict) = self.rule(rule);
            if matches == Match::No {
                continue;
            }
            let mut about = above;
            about.add(rule, self.path.bind.family());
            let mut ends = true;
            let end = match verdict {
                Verdict::Return => End::Through,
                Verdict::Accept if about.port && (about.clients || about.interface) => {
                    *admits = admits.or(Some(rule.handle));
                    continue;
                }
                Verdict::Accept => End::Open,
                Verdict::End(Fate::Dropped | Fate::Refused) if about.port || about.clients => {
                    return End::Misses(rule.handle)
                }
                Verdict::End(Fate::Dropped | Fate::Refused) => End::Shut,
                Verdict::Jump(to) | Verdict::Goto(to) if depth > 0 => {
                    let end = self.misses(to, depth - 1, about, admits);
                    ends = matches!(verdict, Verdict::Goto(_)) || !matches!(end, End::Through);
                    end
                }
                Verdict::Next | Verdict::End(_) | Verdict::Jump(_) | Verdict::Goto(_) => continue,
            };
            if matches!(end, End::Misses(_)) || ends && matches == Match::Yes {
                return end;
            }
        }
        End::Through
    }
}
