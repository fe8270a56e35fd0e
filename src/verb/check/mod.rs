//! `check`: is the config right, and can it work on this host? Each finding with its remedy.

mod addresses;
mod connections;
mod findings;
mod forwarding;
mod network;
mod offload;
mod routes;
mod rules;

use self::findings::Findings;
use crate::engine::Level;
use crate::error::{Error, Exit};
use crate::host::remedy::System;
use crate::serve::{self, Config};
use crate::service::Preference;
use crate::sys::file;
use crate::sys::log;
use crate::text::Escaped;

/// Checks everything, also after an error. Without a config file it checks what every config needs.
pub fn run(path: &str, out: &mut String) -> Result<Exit, Error> {
    let loaded = serve::load(path);
    let (worst, system) = (Level::Ok, System::here());
    let mut findings = Findings { out, worst, system, by_iptables: true, forward_policies: Vec::new() };
    let (engine, services, waiting) = match loaded {
        Ok(Config { engine, services, waiting, .. }) => (engine, services, waiting),
        Err(error) if file::exists(path) => return Err(error),
        Err(error) => {
            findings.error(format_args!("config: {error}"));
            (Preference::Auto, Vec::new(), Vec::new())
        }
    };
    let all = || services.iter().chain(waiting.iter().map(|one| &one.service));
    let frontends = all().count();
    if frontends > 0 {
        let backends: usize = all().map(|service| service.backends.len()).sum();
        let (frontends, backends) = (log::count(frontends, "frontend"), log::count(backends, "backend"));
        findings.ok(format_args!("config: {} has {frontends} and {backends}", Escaped(path)));
        who_may_write(path, &mut findings);
    }
    for one in &waiting {
        findings.warning(format_args!("bind {one}"));
    }
    rules::check(engine, &services, &mut findings);
    network::check(&services, &mut findings);
    Ok(match findings.worst {
        _ if frontends == 0 => Exit::Usage,
        Level::Error => Exit::Failed,
        _ => Exit::Done,
    })
}

/// A user who can write the config decides where all connections go.
fn who_may_write(path: &str, findings: &mut Findings) {
    let directory = match path.rsplit_once('/') {
        Some((directory, _)) => format!("{directory}/"),
        None => "./".to_owned(),
    };
    for (what, is_directory) in [(path, false), (&directory, true)] {
        let stat = file::open_any(what, libc::O_RDONLY | libc::O_CLOEXEC).and_then(|file| file::stat(&file));
        let Ok(stat) = stat else { continue };
        let (owner, mode, shown) = (stat.st_uid, stat.st_mode & 0o7777, Escaped(what));
        // In a sticky directory the file of another user cannot be replaced.
        let any_user = mode & libc::S_IWOTH != 0 && !(is_directory && mode & libc::S_ISVTX != 0);
        if any_user {
            findings.warning(format_args!("config: every user can change {shown} (mode {mode:o}); chmod o-w {shown}"));
        } else if owner != 0 && owner != file::user() {
            findings.warning(format_args!("config: user {owner} can change {shown}; chown root {shown}"));
        }
    }
}
