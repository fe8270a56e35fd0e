//! Sockets, where the standard library has no way (to connect without waiting) or a large one.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd};

use crate::net::Family;

/// sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)); the kernel takes that of IPv4 with more behind it.
type Address = [u8; 28];

/// A socket(2) that no program that we start inherits.
pub fn open(domain: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<File> {
    // SAFETY: no memory is touched; the descriptor is new, checked, and the File's alone.
    unsafe {
        match libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) {
            -1 => Err(io::Error::last_os_error()),
            socket => Ok(File::from_raw_fd(socket)),
        }
    }
}

/// Family, port, (flow label,) address, (scope).
fn address(ip: IpAddr, port: u16) -> Address {
    let mut address = [0; 28];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in address.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    put(0, &(Family::of(ip).domain() as libc::sa_family_t).to_ne_bytes());
    put(2, &port.to_be_bytes());
    match ip {
        IpAddr::V4(ip) => put(4, &ip.octets()),
        IpAddr::V6(ip) => put(8, &ip.octets()),
    }
    address
}

const LENGTH: libc::socklen_t = 28;

fn checked(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Connects, or begins to.
pub fn connect(socket: &File, ip: IpAddr, port: u16) -> io::Result<()> {
    let to = address(ip, port);
    // SAFETY: the kernel reads `LENGTH` bytes.
    checked(unsafe { libc::connect(socket.as_raw_fd(), to.as_ptr().cast(), LENGTH) })
}

/// Ends a TCP connection with an RST (connect(2), AF_UNSPEC).
pub fn abort(socket: &File) {
    let nowhere: Address = [0; 28];
    // SAFETY: the kernel reads `LENGTH` bytes. If it was not connected, nothing is lost.
    unsafe { libc::connect(socket.as_raw_fd(), nowhere.as_ptr().cast(), LENGTH) };
}

/// The address of packets from `from` to `to`, where `from` may leave it open; none is sent.
pub fn source(from: IpAddr, to: IpAddr) -> io::Result<IpAddr> {
    let socket = open(Family::of(to).domain(), libc::SOCK_DGRAM, 0)?;
    let mut name = address(from, 0);
    // SAFETY: the kernel reads `LENGTH` bytes.
    checked(unsafe { libc::bind(socket.as_raw_fd(), name.as_ptr().cast(), LENGTH) })?;
    // Which port does not matter.
    connect(&socket, to, 9)?;
    let mut length = LENGTH;
    // SAFETY: the kernel writes at most `length` bytes.
    checked(unsafe { libc::getsockname(socket.as_raw_fd(), name.as_mut_ptr().cast(), &mut length) })?;
    let [_, _, _, _, a, b, c, d, v6 @ .., _, _, _, _] = name;
    Ok(match to {
        IpAddr::V4(_) => Ipv4Addr::from([a, b, c, d]).into(),
        IpAddr::V6(_) => Ipv6Addr::from(v6).into(),
    })
}

/// Asks for an option of a socket, of as many bytes as `answer` has (getsockopt(2)).
pub fn option(socket: &File, level: libc::c_int, name: libc::c_int, answer: &mut [u8]) -> Option<()> {
    let mut length = answer.len() as libc::socklen_t;
    // Not by getsockopt: musl's is 400 bytes for options that tell times.
    // SAFETY: the kernel writes at most `length` bytes, which are those of `answer`.
    let got = unsafe {
        let length = &raw mut length;
        libc::syscall(libc::SYS_getsockopt, socket.as_raw_fd(), level, name, answer.as_mut_ptr(), length)
    };
    (got == 0).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_oneself_begins_at_oneself() {
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let any = if ip.is_ipv4() { "0.0.0.0" } else { "::" };
            match source(any.parse().unwrap(), ip) {
                Ok(source) => assert_eq!(source, ip),
                Err(error) => println!("skipped: no {ip} here: {error}"),
            }
        }
    }
}
