//! The one thing that a new network namespace needs to be of use: its loopback interface, up.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::Result;
use nix::errno::Errno;

/// Brings up `lo` of our network namespace; its addresses come by themselves. `netdevice(7)`
pub fn loopback_up() -> Result<()> {
    // SAFETY: no address is passed.
    let raw = Errno::result(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the call succeeded, so `raw` is a new fd that nobody owns yet.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: an ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq with a NUL-terminated name, which outlives the call.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}
