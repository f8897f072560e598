//! Sockets that listen, and sockets that do not yet.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, accept4, socket};

/// Takes the next connection, CLOEXEC and non-blocking. EAGAIN when there is none and the listener does not block. `accept4(2)`
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let raw = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: the call succeeded, so `raw` is a new fd that nobody owns yet.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A TCP socket, CLOEXEC and non-blocking, that lives in this thread's network namespace. `socket(2)`
///
/// A socket stays where it was made: for one in another namespace this is called from [`OwnNetns::visit`](super::netns::OwnNetns::visit).
pub fn tcp(v6: bool) -> Result<OwnedFd, Errno> {
    let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}
