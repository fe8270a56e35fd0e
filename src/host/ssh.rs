//! The SSH session of the administrator.

use crate::net::Endpoint;
use crate::sys::file::read;
use crate::sys::process::variable;

/// The server's address and port of the SSH session that this program was started from. A frontend there would take the
/// administrator's next login away.
pub fn session() -> Option<Endpoint> {
    let connection = variable(c"SSH_CONNECTION").or_else(ssh_connection_of_parents)?;
    // The client's address and port, then the server's (ssh(1)).
    let mut words = connection.split_ascii_whitespace().skip(2);
    Endpoint::of(words.next()?, words.next()?)
}

/// sudo and su remove the variable; an ancestor that called them still has it.
fn ssh_connection_of_parents() -> Option<String> {
    let mut process = "self".to_owned();
    // Process numbers are reused while we read, so the line of ancestors might have no end.
    for _ in 0..16 {
        let status = read(&format!("/proc/{process}/status"));
        process = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim_ascii().to_owned();
        let environment = read(&format!("/proc/{process}/environ"));
        if let Some(value) = environment.split('\0').find_map(|entry| entry.strip_prefix("SSH_CONNECTION=")) {
            return Some(value.to_owned());
        }
    }
    None
}
