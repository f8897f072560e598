//! A path of a container, or of the host, as an fd.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use husk_oci::overlay::{self, Overlay};
use husk_oci::sys::fd::{PollFd, PollFlags};
use husk_oci::sys::mount::attr;
use husk_oci::sys::path::{self, How, resolve};
use husk_oci::sys::{Errno, fd, process};

use super::{kind_of, shown};
use crate::runtime::{Error, container};
use crate::state::record::{ContainerRecord, State};
use crate::state::{PodEntry, Roots, start_ticks};

/// A process of the records as a pidfd. keeper does not reap it unless its end is on disk or the pod is being deleted; `None` in that case,
/// for the pid is nobody's, or another's as its start time tells.
///
/// # Errors
/// No more fds.
pub fn open_process(pid: i32, ticks: u64) -> Result<Option<OwnedFd>, Error> {
    let pidfd = match process::pidfd_open(pid) {
        Err(Errno::ESRCH) => return Ok(None),
        other => other.map_err(|e| Error::sys(format_args!("find process {pid} of the records"), e))?,
    };
    Ok(start_ticks(pid)?.is_some_and(|found| found == ticks).then_some(pidfd))
}

/// Where paths begin.
#[derive(Debug)]
pub struct Root {
    /// `None`: the host's, as this process sees it.
    dir: Option<OwnedFd>,
    /// Relative paths begin here.
    cwd: String,
    /// Nothing can be written here, and why.
    pub read_only: Option<&'static str>,
}

impl Root {
    /// The host's.
    pub fn host() -> Root {
        Root { dir: None, cwd: String::new(), read_only: None }
    }

    /// A container's: with all that is mounted in it while it runs. Of one of a client's that has ended, only its own file system is left.
    ///
    /// # Errors
    /// It does not run, and its file system is gone.
    pub fn of_container(roots: &Roots, entry: &PodEntry, index: usize) -> Result<Root, Error> {
        let (record, c) = (&entry.record.containers[index], &entry.status.containers[index]);
        let wrong = |what: String| Error::Container { container: record.name.clone(), what };
        if let (State::Running { pid, start_ticks, .. }, true) = (&c.state, entry.live)
            && let Some(dir) = of_process(*pid, *start_ticks).map_err(|e| wrong(e.to_string()))?
        {
            return Ok(Root { dir: Some(dir), cwd: record.cwd.clone(), read_only: None });
        }
        let upper = container::data_dir(roots, &entry.record, &record.name, c.attempt).join("upper");
        if !entry.record.driven() || !upper.is_dir() {
            let what = "it does not run, and its file system went with its last instance; volumes are in the others";
            return Err(wrong(what.into()));
        }
        let dir = ended(record, upper).map_err(|e| wrong(format!("what it has left: {e}")))?;
        let why = "the container does not run; what it has left can only be read";
        Ok(Root { dir: Some(dir), cwd: record.cwd.clone(), read_only: Some(why) })
    }

    fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_ref().map_or(path::CWD, AsFd::as_fd)
    }

    /// Opens with links followed, those inside a container as it would.
    fn open(&self, name: &[u8], flags: i32) -> Result<OwnedFd, Errno> {
        let mut full = Vec::new();
        if self.dir.is_some() && !name.starts_with(b"/") {
            full.extend_from_slice(self.cwd.as_bytes());
            full.push(b'/');
        }
        full.extend_from_slice(if name.is_empty() { b"." } else { name });
        let full = CString::new(full).map_err(|_| Errno::EINVAL)?;
        let resolve = if self.dir.is_some() { resolve::IN_ROOT | resolve::NO_MAGICLINKS } else { 0 };
        path::openat2(self.dir(), &full, How { flags: flags as u64, mode: 0, resolve })
    }

    /// What is at `name`, as an `O_PATH` fd, and the name that a copy of it bears; `None` for one whose content alone is meant (`DIR/.`, `/`).
    ///
    /// # Errors
    /// It is not there, or cannot be reached.
    pub fn source(&self, name: &[u8]) -> Result<(OwnedFd, Option<CString>), Error> {
        let found = self.open(name, libc::O_PATH);
        let found = found.map_err(|e| Error::sys(format_args!("open {}", shown(name)), e))?;
        let last = name.split(|b| *b == b'/').rfind(|part| !part.is_empty());
        let last = last.filter(|part| !name.ends_with(b"/.") && !matches!(*part, b"." | b".."));
        Ok((found, last.and_then(|part| CString::new(part).ok())))
    }

    /// Where a copy called `own` (`None`: the content of a directory) goes when it shall go to `name`: a directory, and the name in there. A directory that is
    /// there takes it under its own name.
    ///
    /// # Errors
    /// The directory is not there, or nothing can be written to it.
    pub fn target(&self, name: &[u8], own: Option<&CStr>) -> Result<(OwnedFd, Option<CString>), Error> {
        if let Some(why) = self.read_only {
            return Err(Error::Host { what: why.into() });
        }
        let failed = |errno| Error::sys(format_args!("open {}", shown(name)), errno);
        match self.open(name, libc::O_PATH) {
            Ok(found) => {
                if kind_of(&path::fstat(found.as_fd()).map_err(failed)?) == libc::S_IFDIR {
                    return Ok((
                        super::reopen(found.as_fd(), libc::O_RDONLY | libc::O_DIRECTORY).map_err(failed)?,
                        own.map(ToOwned::to_owned),
                    ));
                }
                if own.is_none() || name.ends_with(b"/") {
                    return Err(failed(Errno::ENOTDIR));
                }
            }
            // A link that leads nowhere is there as well; the rename replaces it.
            Err(Errno::ENOENT) if !name.ends_with(b"/") || own.is_none() => {}
            Err(errno) => return Err(failed(errno)),
        }
        let trimmed = &name[..name.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1)];
        let (parent, last) = match trimmed.iter().rposition(|b| *b == b'/') {
            Some(0) => (&b"/"[..], &trimmed[1..]),
            Some(at) => (&trimmed[..at], &trimmed[at + 1..]),
            None => (&b"."[..], trimmed),
        };
        let last = CString::new(last).map_err(|_| failed(Errno::EINVAL))?;
        if matches!(last.to_bytes(), b"" | b"." | b"..") {
            return Err(failed(Errno::ENOENT));
        }
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let dir = self.open(parent, flags).map_err(|e| Error::sys(format_args!("open {}", shown(parent)), e))?;
        Ok((dir, Some(last)))
    }
}

/// The root directory of a process, with its mounts below; `None` when the process is gone. The pidfd outlives the look, so the number meant it.
fn of_process(pid: i32, ticks: u64) -> Result<Option<OwnedFd>, Error> {
    let Some(pidfd) = open_process(pid, ticks)? else { return Ok(None) };
    let link =
        CString::new(format!("/proc/{pid}/root")).map_err(|_| Error::Internal { what: "a number with NUL".into() })?;
    let root = path::openat(path::CWD, &link, libc::O_PATH | libc::O_DIRECTORY, 0);
    let mut alive = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    match fd::poll(&mut alive, Some(Duration::ZERO)) {
        Ok(0) => root.map(Some).map_err(|e| Error::sys("open the root of its process", e)),
        Ok(_) => Ok(None),
        Err(e) => Err(Error::sys("look at its process", e)),
    }
}

/// What a container has left, over its image; read-only, for a second writer would disturb who starts it again.
fn ended(record: &ContainerRecord, upper: PathBuf) -> Result<OwnedFd, overlay::Error> {
    let lower: Vec<PathBuf> = std::iter::once(upper).chain(record.layers.iter().map(PathBuf::from)).collect();
    let attributes = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
    overlay::detached(&Overlay { lower: &lower, upper: None, attributes })
}
