//! What root may do, and a process that stays need not.

use std::ptr;

/// CAP_NET_ADMIN and CAP_NET_RAW (linux/capability.h), which writing rules takes; iptables-legacy reads them by a raw socket.
const KEPT: u32 = 1 << 12 | 1 << 13;

/// `_LINUX_CAPABILITY_VERSION_3`: 64 bits in two halves.
const VERSION: u32 = 0x2008_0522;

/// Gives all other capabilities away for good, and with them those of the programs that are started from now on. Where the
/// kernel refuses, all is as it was.
pub fn keep_those_of_rules() {
    let header = [VERSION, 0];
    // Effective, permitted and inheritable, of the lower half and of the upper one.
    let mut sets = [[0_u32; 3]; 2];
    let (yes, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: prctl(2) touches no memory for these; capget(2) and capset(2) have as much as that version of them takes.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, yes, none, none, none);
        // Root gets all of this set with each program that is executed. Numbers that the kernel does not have do no harm.
        for capability in 0..64_u8 {
            if u64::from(KEPT) >> capability & 1 == 0 {
                libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), none, none, none);
            }
        }
        if libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) != 0 {
            return;
        }
        let [lower, upper] = &mut sets;
        *upper = [0; 3];
        for set in lower {
            *set &= KEPT;
        }
        libc::syscall(libc::SYS_capset, header.as_ptr(), ptr::from_ref(&sets));
    }
}
