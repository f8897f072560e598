//! Listening sockets.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{SockFlag, accept4};

/// Takes the next connection, CLOEXEC and non-blocking. EAGAIN when there is none and the listener does not block. `accept4(2)`
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let raw = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: the call succeeded, so `raw` is a new fd that nobody owns yet.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
