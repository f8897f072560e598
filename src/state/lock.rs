//! `flock(2)`: who lives is a matter of locks, not of guesses.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Error;

/// Shared or exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `LOCK_SH`.
    Shared,
    /// `LOCK_EX`.
    Exclusive,
}

/// A held lock. It belongs to the open file description: a process that inherits the fd holds it too, and it ends when the last copy is
/// closed. That is how `husk run` hands a pod's lock to keeper without a moment in which nobody has it.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Waits for the lock.
    ///
    /// # Errors
    /// The file or directory cannot be opened or locked.
    pub fn wait(path: &Path, mode: Mode) -> Result<Lock, Error> {
        let file = open(path)?;
        loop {
            let done = match mode {
                Mode::Shared => file.lock_shared(),
                Mode::Exclusive => file.lock(),
            };
            match done {
                Ok(()) => return Ok(Lock(file)),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("lock", path, &e)),
            }
        }
    }

    /// Takes the lock if nobody holds it; `None` when somebody does.
    ///
    /// # Errors
    /// The file or directory cannot be opened or locked.
    pub fn attempt(path: &Path, mode: Mode) -> Result<Option<Lock>, Error> {
        let file = open(path)?;
        let done = match mode {
            Mode::Shared => file.try_lock_shared(),
            Mode::Exclusive => file.try_lock(),
        };
        match done {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", path, &e)),
        }
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    match options.open(path) {
        // The instance's lock file; a pod's lock is its directory, which is never made here.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && path.file_name().is_some_and(|n| n == "lock") => {
            options.write(true).create(true).truncate(false).open(path)
        }
        other => other,
    }
    .map_err(|e| Error::io("open", path, &e))
}
