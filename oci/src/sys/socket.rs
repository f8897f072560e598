//! Listening sockets, and sockets in another network namespace.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, accept4, socket};

use super::{path, process};

/// Takes the next connection, CLOEXEC and non-blocking. EAGAIN when there is none and the listener does not block. `accept4(2)`
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let raw = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: the call succeeded, so `raw` is a new fd that nobody owns yet.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A TCP socket, CLOEXEC and non-blocking, that lives in a network namespace: an nsfs file, or that of the process of a pidfd (since Linux 5.8); `None`: ours.
/// A socket stays where it was made, so only the calling thread changes, and only within this call. ESRCH when the process is gone. `socket(2)`, `setns(2)`
///
/// The process is aborted when the thread cannot go back: nothing that it did from there on would be where it is meant to be.
pub fn tcp_in(netns: Option<BorrowedFd<'_>>, v6: bool) -> Result<OwnedFd, Errno> {
    let make = || {
        let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
    };
    let Some(netns) = netns else { return make() };
    let own = path::openat(path::CWD, c"/proc/thread-self/ns/net", libc::O_RDONLY, 0)?;
    process::setns(netns, process::ns::NET)?;
    let made = make();
    if process::setns(own.as_fd(), process::ns::NET).is_err() {
        std::process::abort();
    }
    made
}
