//! Files between a container and the host, without a program of the container's.
//!
//! A container is hostile: it renames, links and swaps while we copy. So nothing is ever named twice. [`place`] resolves a path once, in the kernel
//! (`openat2(2)` with `RESOLVE_IN_ROOT`, where the root is the container's), and from there on there are fds and names of one component: [`read`] opens each
//! entry as what it is before it looks at it, and opens nothing but regular files, links and directories; [`mod@write`] makes each entry anew, never through a link, and
//! puts it in its place by a rename. Device nodes, pipes and sockets are left out: opening one has effects. [`archive`] is the same as a tar stream.

pub mod archive;
pub mod place;
pub mod read;
pub mod write;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::OwnedFd;

use husk_oci::sys::{Errno, path};

use super::Error;

/// The deepest tree that is copied: each level holds an fd on both sides.
pub const MAX_DEPTH: usize = 200;

/// What is kept of an entry beside its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change: seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
}

impl Meta {
    fn of(stat: &libc::stat) -> Meta {
        Meta {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        }
    }
}

/// Where entries go, in the order of a walk: a directory before what is in it.
pub trait Sink {
    /// A directory; what follows is in it, until [`Sink::leave`].
    ///
    /// # Errors
    /// It cannot be made.
    fn enter(&mut self, name: &CStr, meta: Meta) -> Result<(), Error>;

    /// The end of the directory that was entered last.
    ///
    /// # Errors
    /// It cannot be finished.
    fn leave(&mut self) -> Result<(), Error>;

    /// A regular file.
    ///
    /// # Errors
    /// It cannot be read, or made.
    fn file(&mut self, name: &CStr, meta: Meta, content: &mut Content) -> Result<(), Error>;

    /// A symbolic link.
    ///
    /// # Errors
    /// It cannot be made.
    fn link(&mut self, name: &CStr, meta: Meta, target: &CStr) -> Result<(), Error>;
}

/// What is in a file.
#[derive(Debug)]
pub struct Content {
    /// Open for reading, at its beginning.
    pub file: File,
    /// How much of it is copied: what it held when it was opened, so that one which grows is copied too.
    pub size_bytes: u64,
    /// A file of procfs or the like, which has no size and is read to its end.
    pub endless: bool,
}

/// The type bits of a mode.
fn kind_of(stat: &libc::stat) -> u32 {
    stat.st_mode & libc::S_IFMT
}

/// A name as people may read it.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().to_string()
}

fn failed(doing: &str, name: &CStr, errno: Errno) -> Error {
    Error::sys(format_args!("{doing} {}", shown(name.to_bytes())), errno)
}

/// Opens what an `O_PATH` fd stands for: this very file, whatever its name means by now.
fn reopen(fd: std::os::fd::BorrowedFd<'_>, flags: i32) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsRawFd;
    let by_number = CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(|_| Errno::EINVAL)?;
    path::openat(path::CWD, &by_number, flags, 0)
}
