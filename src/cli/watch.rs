//! Waiting for a pod to change, without polling: inotify on its directory and the end of its keeper's lock.

use std::io::PipeReader;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Instant;

use husk_oci::errno::Sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::Error;
use crate::state::{Lock, LockMode};

/// Enough for a thread that makes three system calls; there may be one for each of many pods.
const LOCK_STACK_BYTES: usize = 128 << 10;

/// Wakes when something that was added changes. Changes between `add` and `wait` are not lost.
pub struct Watch {
    inotify: Inotify,
    /// Ends of pipes whose other end a thread drops when a pod's lock became free.
    deaths: Vec<PipeReader>,
}

/// Why [`Watch::wait`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Something changed: look again.
    Change,
    /// The time given is over.
    Timeout,
}

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The kernel's limit of inotify instances is reached.
    pub fn new() -> Result<Watch, Error> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .map_err(|e| Error::failed(format!("watch for changes: {}; see fs.inotify.max_user_instances", Sys(e))))?;
        Ok(Watch { inotify, deaths: Vec::new() })
    }

    /// Watches a pod's directory: its status is replaced, or it goes away. `false` when it is gone already.
    ///
    /// # Errors
    /// As [`Watch::directory`] and [`Watch::lock`].
    pub fn pod(&mut self, directory: &Path, live: bool) -> Result<bool, Error> {
        if !self.directory(directory)? {
            return Ok(false);
        }
        if live {
            self.lock(directory)?;
        }
        Ok(true)
    }

    /// Watches for the end of a pod's keeper, which holds the lock of its directory.
    ///
    /// # Errors
    /// The kernel refuses a pipe or a thread.
    pub fn lock(&mut self, directory: &Path) -> Result<(), Error> {
        let failed = |what: &str, e: &std::io::Error| Error::failed(format!("{what}: {}", husk_oci::errno::io_text(e)));
        let (reader, writer) = std::io::pipe().map_err(|e| failed("make a pipe", &e))?;
        let directory = directory.to_owned();
        // flock(2) knows no time limit and no poll: a thread waits, and ends with this process.
        let wait = move || {
            // Got it, or the directory is gone: either way keeper is, and whoever waits looks again.
            drop(Lock::wait(&directory, LockMode::Shared));
            drop(writer);
        };
        std::thread::Builder::new()
            .stack_size(LOCK_STACK_BYTES)
            .spawn(wait)
            .map_err(|e| failed("start a thread that waits for a lock", &e))?;
        self.deaths.push(reader);
        Ok(())
    }

    /// Watches what is written and renamed in a directory. `false` when it is gone already.
    ///
    /// # Errors
    /// The kernel's limit of watches is reached.
    pub fn directory(&self, directory: &Path) -> Result<bool, Error> {
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        match self.inotify.add_watch(directory, flags) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(e) => Err(Error::failed(format!("watch {}: {}", directory.display(), Sys(e)))),
        }
    }

    /// Forgets the changes so far: what changed does not matter, the caller looks at everything.
    pub fn clear(&mut self) {
        while self.inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
    }

    /// Sleeps until a change, the deadline, or until nobody reads our standard output any more.
    ///
    /// # Errors
    /// [`Error::ClosedOutput`] for the last.
    pub fn wait(&mut self, deadline: Option<Instant>) -> Result<Woken, Error> {
        loop {
            let timeout = match deadline {
                None => PollTimeout::NONE,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(Woken::Timeout);
                    }
                    // Rounded up, so that the last millisecond isn't spun away; longer spans are waited for in pieces.
                    PollTimeout::try_from(left.as_millis().saturating_add(1).min(i32::MAX as u128) as i32)
                        .unwrap_or(PollTimeout::MAX)
                }
            };
            let stdout = std::io::stdout();
            let mut fds = vec![
                PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
                PollFd::new(stdout.as_fd(), PollFlags::empty()),
            ];
            fds.extend(self.deaths.iter().map(|reader| PollFd::new(reader.as_fd(), PollFlags::empty())));
            match poll(&mut fds, timeout) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(e) => return Err(Error::failed(format!("wait for changes: {}", Sys(e)))),
            }
            let fired: Vec<bool> = fds.iter().map(|fd| fd.revents().is_some_and(|flags| !flags.is_empty())).collect();
            drop(fds);
            if fired[1] {
                return Err(Error::ClosedOutput);
            }
            let mut dead = fired[2..].iter();
            self.deaths.retain(|_| dead.next() == Some(&false));
            self.clear();
            return Ok(Woken::Change);
        }
    }
}

/// Readable when a directory has changed; the end of a pod's lock is not seen here.
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn directory(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("husk-watch-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("make a directory");
        path
    }

    #[test]
    fn a_file_renamed_into_place_wakes_and_silence_times_out() {
        let path = directory("rename");
        let mut watch = Watch::new().expect("watch");
        assert_eq!(watch.pod(&path, false), Ok(true));
        let soon = || Some(Instant::now() + Duration::from_millis(30));
        assert_eq!(watch.wait(soon()), Ok(Woken::Timeout));
        std::fs::write(path.join(".new"), "x").expect("write");
        std::fs::rename(path.join(".new"), path.join("status.json")).expect("rename");
        assert_eq!(watch.wait(soon()), Ok(Woken::Change));
        assert_eq!(watch.wait(soon()), Ok(Woken::Timeout));
        std::fs::remove_dir_all(&path).expect("clean up");
        assert_eq!(watch.wait(soon()), Ok(Woken::Change));
        assert_eq!(watch.pod(&path, false), Ok(false));
    }

    #[test]
    fn a_lock_that_becomes_free_wakes() {
        let path = directory("lock");
        let lock = Lock::wait(&path, LockMode::Exclusive).expect("lock");
        let mut watch = Watch::new().expect("watch");
        assert_eq!(watch.pod(&path, true), Ok(true));
        assert_eq!(watch.wait(Some(Instant::now() + Duration::from_millis(30))), Ok(Woken::Timeout));
        drop(lock);
        assert_eq!(watch.wait(Some(Instant::now() + Duration::from_secs(10))), Ok(Woken::Change));
        std::fs::remove_dir_all(&path).expect("clean up");
    }
}
