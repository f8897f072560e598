//! Things in a pod's network namespace, made by this thread from outside.

use std::os::fd::BorrowedFd;

use husk_oci::sys::netns::OwnNetns;
use nix::errno::Errno;

use super::Error;

/// Runs `work` with this thread in another network namespace, once ([`OwnNetns::visit`]).
///
/// # Errors
/// The kernel does not let us in.
pub fn within<T>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Result<T, Error> {
    let own = OwnNetns::open().map_err(|errno| Error::sys("open our own network namespace", errno))?;
    own.visit(netns, work).map_err(|errno| match errno {
        // setns(2) with a pidfd.
        Errno::ESRCH => Error::refused("enter the pod's network namespace: its pause is gone"),
        errno => Error::sys("enter the pod's network namespace", errno),
    })
}
