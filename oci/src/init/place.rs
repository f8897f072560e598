//! Paths inside the container's root: found, and made where missing, without ever leaving it.
//!
//! Everything is resolved with `RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS` from the root's fd, so that neither a symbolic link of the image
//! nor one that another container swaps in a shared volume leads out; what is missing is made relative to the fd of its parent.

use super::{During, Fault};
use crate::plan::{Part, Target};
use crate::sys::path::{self, How, resolve};
use crate::sys::{Errno, Result};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What a missing last component becomes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

fn scope(target: &Target) -> u64 {
    let links = if target.no_symlinks { resolve::NO_SYMLINKS } else { 0 };
    resolve::IN_ROOT | resolve::NO_MAGICLINKS | links
}

fn open(root: BorrowedFd<'_>, name: &CStr, flags: i32, resolve: u64) -> Result<OwnedFd> {
    let name = if name.is_empty() { c"." } else { name };
    path::openat2(root, name, How { flags: (libc::O_PATH | flags) as u64, mode: 0, resolve })
}

/// An O_PATH fd of what is there.
pub(super) fn find(root: BorrowedFd<'_>, target: &Target) -> Result<OwnedFd> {
    open(root, &target.relative, 0, scope(target))
}

/// The same, of a directory.
pub(super) fn find_dir(root: BorrowedFd<'_>, target: &Target) -> Result<OwnedFd> {
    open(root, &target.relative, libc::O_DIRECTORY, scope(target))
}

/// What is there, made if it is missing, and with it every directory on the way. `kind` is asked only when something is missing.
pub(super) fn find_or_make(
    root: BorrowedFd<'_>,
    target: &Target,
    kind: impl FnOnce() -> Result<Kind>,
) -> core::result::Result<OwnedFd, Fault> {
    match find(root, target) {
        Err(Errno::ENOENT) => {
            let kind = kind().during(Part::Source)?;
            make(root, target, Some(kind))
        }
        other => other.during(Part::Find),
    }
}

/// The directory that the last component is in (made if missing), and that component.
pub(super) fn parent<'t>(root: BorrowedFd<'_>, target: &'t Target) -> core::result::Result<(OwnedFd, &'t CStr), Fault> {
    let bytes = target.relative.to_bytes_with_nul();
    let start = bytes.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
    let name = CStr::from_bytes_with_nul(&bytes[start..]).map_err(|_| Fault(Part::Find, Errno::EINVAL))?;
    Ok((make(root, target, None)?, name))
}

/// Walks prefix by prefix: `last` says what the last component becomes, `None` = stop before it.
fn make(root: BorrowedFd<'_>, target: &Target, last: Option<Kind>) -> core::result::Result<OwnedFd, Fault> {
    let bytes = target.relative.to_bytes();
    let mut buf = [0u8; libc::PATH_MAX as usize];
    buf.get_mut(..bytes.len()).ok_or(Fault(Part::Find, Errno::ENAMETOOLONG))?.copy_from_slice(bytes);
    let mut at = open(root, c".", libc::O_DIRECTORY, resolve::IN_ROOT).during(Part::Find)?;
    let mut start = 0;
    while start < bytes.len() {
        let end = bytes[start..].iter().position(|b| *b == b'/').map_or(bytes.len(), |i| start + i);
        let is_last = end == bytes.len();
        if is_last && last.is_none() {
            break;
        }
        buf[end] = 0;
        let text = |from: usize| CStr::from_bytes_until_nul(&buf[from..]).map_err(|_| Fault(Part::Find, Errno::EINVAL));
        let (prefix, name) = (text(0)?, text(start)?);
        let kind = if is_last { last.unwrap_or(Kind::Directory) } else { Kind::Directory };
        at = match open(root, prefix, if is_last { 0 } else { libc::O_DIRECTORY }, scope(target)) {
            Err(Errno::ENOENT) => make_one(at.as_fd(), name, kind)?,
            other => other.during(Part::Find)?,
        };
        if !is_last {
            buf[end] = b'/';
        }
        start = end + 1;
    }
    Ok(at)
}

/// Makes one component. When something is there after all, it must not be a symbolic link: one that leads nowhere looks like
/// nothing to a lookup, and following it is what an attacker hopes for.
fn make_one(dir: BorrowedFd<'_>, name: &CStr, kind: Kind) -> core::result::Result<OwnedFd, Fault> {
    let made = match kind {
        Kind::Directory => path::mkdirat(dir, name, 0o755),
        Kind::File => path::mknodat(dir, name, libc::S_IFREG | 0o644, 0),
    };
    if let Err(errno) = made
        && errno != Errno::EEXIST
    {
        return Err(Fault(Part::Make, errno));
    }
    open(dir, name, 0, resolve::BENEATH | resolve::NO_SYMLINKS)
        .map_err(|e| Fault(Part::Make, if e == Errno::ELOOP { Errno::EEXIST } else { e }))
}
