//! One door to the event loop's readiness notifications.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches an fd that we own.
///
/// # Errors
/// epoll refuses it: a regular file, or no memory.
#[allow(
    deprecated,
    reason = "what makes `new` unsound is a type whose fd changes or is closed while it is registered; an OwnedFd is given away whole"
)]
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// Watches an fd of somebody else's, who keeps it open meanwhile, for one kind of readiness.
///
/// # Errors
/// As [`watch`].
#[allow(deprecated, reason = "as above: a BorrowedFd neither changes nor is closed while it is borrowed")]
pub fn watch_for(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    AsyncFd::with_interest(fd, interest)
}
