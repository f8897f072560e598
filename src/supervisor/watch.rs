//! One door to the event loop's readiness notifications.

use std::io;
use std::os::fd::OwnedFd;

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
