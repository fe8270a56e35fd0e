//! The administrator's own way in.

use crate::net::Endpoint;
use crate::sys::file::read;
use crate::sys::process::variable;

/// The server's end of the SSH session that this program was started from. A frontend on it would lock the administrator
/// out.
pub fn session() -> Option<Endpoint> {
    let connection = variable(c"SSH_CONNECTION").or_else(ssh_connection_of_parents)?;
    // Client address and port, server address and port (ssh(1)).
    let mut words = connection.split_ascii_whitespace().skip(2);
    Endpoint::of(words.next()?, words.next()?)
}

/// sudo and su take the variable away; the shell that called them still has it.
fn ssh_connection_of_parents() -> Option<String> {
    let mut process = "self".to_owned();
    // A line of ancestors is short, and this one ends.
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
