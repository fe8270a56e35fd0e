//! Sockets, where the standard library has no way (to connect without waiting) or a large one.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd};

use crate::net::Family;
use crate::sys::file::{self, checked};

/// sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)). Of the former the kernel ignores what is longer.
type Address = [u8; 28];

/// Opens a socket (socket(2)). Programs that we start do not inherit it.
pub fn open(domain: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<File> {
    // SAFETY: no memory is touched; the descriptor is new, and owned by the File alone.
    unsafe { file::owned(libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol)) }
}

/// An address as the kernel reads it: family, port, address; IPv6 with a flow label before it and a scope after it.
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

/// Connects (connect(2)). A non-blocking socket only begins to: EINPROGRESS.
pub fn connect(socket: &File, ip: IpAddr, port: u16) -> io::Result<()> {
    let to = address(ip, port);
    // SAFETY: the kernel reads `LENGTH` bytes.
    checked(unsafe { libc::connect(socket.as_raw_fd(), to.as_ptr().cast(), LENGTH) })
}

/// Ends a TCP connection with an RST (connect(2) with AF_UNSPEC; tcp_disconnect in net/ipv4/tcp.c). If there is none,
/// nothing happens.
pub fn abort(socket: &File) {
    let nowhere: Address = [0; 28];
    // SAFETY: the kernel reads `LENGTH` bytes.
    unsafe { libc::connect(socket.as_raw_fd(), nowhere.as_ptr().cast(), LENGTH) };
}

/// The source address that the kernel gives to packets to `to`, if we ask for `from` (0.0.0.0 or :: leaves it to the
/// routes). No packet is sent: a UDP socket is connected.
pub fn source(from: IpAddr, to: IpAddr) -> io::Result<IpAddr> {
    let socket = open(Family::of(to).domain(), libc::SOCK_DGRAM, 0)?;
    let name = address(from, 0);
    // SAFETY: the kernel reads `LENGTH` bytes.
    checked(unsafe { libc::bind(socket.as_raw_fd(), name.as_ptr().cast(), LENGTH) })?;
    // Any port will do; 9 is discard.
    connect(&socket, to, 9)?;
    Ok(local(&socket)?.0)
}

/// Lets a netlink socket hear messages of these groups (sockaddr_nl, netlink(7)).
pub fn join(socket: &File, groups: u32) -> io::Result<()> {
    let mut name = [0_u8; 12];
    let [a, b, ..] = &mut name;
    [*a, *b] = (libc::AF_NETLINK as u16).to_ne_bytes();
    if let Some(to) = name.get_mut(8..) {
        to.copy_from_slice(&groups.to_ne_bytes());
    }
    // SAFETY: the kernel reads the 12 bytes of `name`.
    checked(unsafe { libc::bind(socket.as_raw_fd(), name.as_ptr().cast(), 12) }).map(drop)
}

/// The address and port at this end of a socket (getsockname(2)).
pub fn local(socket: &File) -> io::Result<(IpAddr, u16)> {
    let mut name: Address = [0; 28];
    let mut length = LENGTH;
    // SAFETY: the kernel writes at most `length` bytes.
    checked(unsafe { libc::getsockname(socket.as_raw_fd(), name.as_mut_ptr().cast(), &mut length) })?;
    let [_, _, high, low, a, b, c, d, v6 @ .., _, _, _, _] = name;
    // An IPv4 name is shorter (sockaddr_in has 16 bytes).
    let ip = if length < LENGTH { Ipv4Addr::from([a, b, c, d]).into() } else { Ipv6Addr::from(v6).into() };
    Ok((ip, u16::from_be_bytes([high, low])))
}

/// Reads an option of a socket (getsockopt(2)), at most `answer.len()` bytes of it.
pub fn option(socket: &File, level: libc::c_int, name: libc::c_int, answer: &mut [u8]) -> Option<()> {
    let mut length = answer.len() as libc::socklen_t;
    let [fd, level, name] = [socket.as_raw_fd(), level, name].map(libc::c_long::from);
    // Not by getsockopt: musl's has 400 bytes for options that tell times.
    // SAFETY: the kernel writes at most `length` bytes, which are those of `answer`. All arguments are as wide as a
    // register, as syscall(2) needs them.
    let got = unsafe { libc::syscall(libc::SYS_getsockopt, fd, level, name, answer.as_mut_ptr(), &raw mut length) };
    (got == 0).then_some(())
}

/// Sets an option that is a number (setsockopt(2)), if the kernel lets us.
pub fn set_option(socket: &File, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
    let [fd, level, name, size] =
        [socket.as_raw_fd(), level, name, size_of::<libc::c_int>() as libc::c_int].map(libc::c_long::from);
    // SAFETY: the kernel reads `size` bytes, those of `value`. All arguments are as wide as a register.
    unsafe { libc::syscall(libc::SYS_setsockopt, fd, level, name, &raw const value, size) };
}

/// Why a connection has failed so far, if it has (SO_ERROR).
pub fn failure(socket: &File) -> io::Result<()> {
    let mut number = [0; 4];
    let told = option(socket, libc::SOL_SOCKET, libc::SO_ERROR, &mut number);
    match i32::from_ne_bytes(number) {
        0 => Ok(()),
        number => told.map_or(Ok(()), |()| Err(io::Error::from_raw_os_error(number))),
    }
}

/// A socket to ask about the network as a whole; a kernel may have one family only.
fn of_any_family() -> Option<File> {
    open(libc::AF_INET, libc::SOCK_DGRAM, 0).or_else(|_| open(libc::AF_INET6, libc::SOCK_DGRAM, 0)).ok()
}

/// The inode number of our network namespace without /proc (SIOCGSKNS, linux/sockios.h). `None` before Linux 4.9 or
/// without CAP_NET_ADMIN.
pub fn namespace() -> Option<u64> {
    const SIOCGSKNS: libc::c_long = 0x894C;
    let socket = of_any_family()?;
    let none: libc::c_long = 0;
    // SAFETY: no memory is touched; the descriptor is new, checked, and owned by the File alone.
    let namespace = unsafe {
        let descriptor = libc::syscall(libc::SYS_ioctl, libc::c_long::from(socket.as_raw_fd()), SIOCGSKNS, none);
        File::from_raw_fd(libc::c_int::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?)
    };
    Some(file::stat(&namespace).ok()?.st_ino as u64)
}

/// The name of a network interface (SIOCGIFNAME, netdevice(7)). Not by if_indextoname(3): musl's opens a socket of AF_UNIX,
/// which a service may be denied.
pub fn interface_name(index: u32) -> Option<String> {
    const SIOCGIFNAME: libc::c_long = 0x8910;
    let socket = of_any_family()?;
    // ifreq: 16 bytes for the name, then a union that begins with the number. It has at most 40 bytes.
    let mut request = [0_u8; 40];
    request.get_mut(16..20)?.copy_from_slice(&index.to_ne_bytes());
    // SAFETY: the kernel reads and writes at most the 40 bytes of an ifreq. All arguments are as wide as a register.
    let done = unsafe {
        libc::syscall(libc::SYS_ioctl, libc::c_long::from(socket.as_raw_fd()), SIOCGIFNAME, request.as_mut_ptr())
    };
    let name = CStr::from_bytes_until_nul(&request).ok().filter(|_| done == 0)?;
    Some(name.to_string_lossy().into_owned())
}

/// The number of our network namespace that no other one gets until the next boot (SO_NETNS_COOKIE, Linux 5.14).
pub fn cookie() -> Option<u64> {
    let socket = of_any_family()?;
    let mut cookie = [0; 8];
    option(&socket, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, &mut cookie)?;
    Some(u64::from_ne_bytes(cookie))
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
