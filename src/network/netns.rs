//! Things in a pod's network namespace, made by this thread from outside.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use husk_oci::sys::process::{self, ns};
use nix::errno::Errno;

use super::Error;

/// Runs `work` with this thread in another network namespace: that of a process, by its pidfd, or that of an nsfs file. What `work` opens
/// belongs to that namespace for good. Other threads stay where they are.
///
/// # Errors
/// The kernel does not let us in. A thread that cannot go back ends the process: everything that it does next would be done to the pod.
pub fn within<T>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Result<T, Error> {
    let own = File::open("/proc/thread-self/ns/net").map_err(|e| Error::io("open our own network namespace", &e))?;
    process::setns(netns, ns::NET).map_err(|errno| match errno {
        // setns(2) with a pidfd.
        Errno::ESRCH => Error::refused("enter the pod's network namespace: its pause is gone"),
        errno => Error::sys("enter the pod's network namespace", errno),
    })?;
    let result = work();
    if process::setns(own.as_fd(), ns::NET).is_err() {
        std::process::abort();
    }
    Ok(result)
}
