//! A moment in another network namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Result, path, process};

/// The network namespace that a thread comes back to. Held open, so that a visit elsewhere costs two system calls and no look at `/proc`.
#[derive(Debug)]
pub struct OwnNetns(OwnedFd);

impl OwnNetns {
    /// That of the calling thread.
    ///
    /// # Errors
    /// No fd, or no `/proc`.
    pub fn open() -> Result<OwnNetns> {
        path::openat(path::CWD, c"/proc/thread-self/ns/net", libc::O_RDONLY, 0).map(OwnNetns)
    }

    /// Runs `work` with this thread, whose own this is, in another network namespace: an nsfs file, or that of the process of a pidfd (since Linux 5.8).
    /// What `work` opens belongs to that namespace for good. Other threads stay where they are. `setns(2)`
    ///
    /// The process is aborted when the thread cannot go back: nothing that it did from there on would be where it is meant to be.
    ///
    /// # Errors
    /// We are not let in, and `work` was not run. ESRCH: the process is gone.
    pub fn visit<T>(&self, netns: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Result<T> {
        process::setns(netns, process::ns::NET)?;
        let result = work();
        if process::setns(self.0.as_fd(), process::ns::NET).is_err() {
            std::process::abort();
        }
        Ok(result)
    }
}
