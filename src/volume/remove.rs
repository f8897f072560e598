//! Removing a tree: by fd, of any depth, in small steps, and never across a mount.
//!
//! A directory that is not empty is first *moved* to the top of the tree and emptied there, so two open directories are enough for any depth and
//! a step knows nothing of the one before. The kernel itself keeps us from crossing a mount: renaming, unlinking or removing a mount point is
//! EBUSY, and a directory is opened with `RESOLVE_NO_XDEV`, so that one that is mounted in the instant between is not entered either, nor
//! the tree itself when it is one. (A mount that exists only in another mount namespace is detached there, which is what removal means.)

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use husk_oci::sys::path::{How, openat, openat2, rename, resolve, unlinkat};
use nix::errno::Errno;

use super::{Error, c_string, kernel};

/// A tree that is being removed.
#[derive(Debug)]
pub struct RemoveTree {
    path: PathBuf,
    /// The tree's name in its parent.
    name: CString,
    /// The parent and the tree, until it is gone.
    open: Option<(OwnedFd, OwnedFd)>,
    moved: u64,
}

/// Removes a directory with all below it; blocks until it is gone. An absent one is a success.
///
/// # Errors
/// Something is mounted in it, or the file system refuses.
pub fn remove_tree(dir: &Path) -> Result<(), Error> {
    let mut tree = RemoveTree::new(dir)?;
    while !tree.step(1024)? {}
    Ok(())
}

const DIRECTORY: i32 = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;

impl RemoveTree {
    /// Opens the directory; an absent one is already removed.
    ///
    /// # Errors
    /// It is no directory, or cannot be opened.
    pub fn new(dir: &Path) -> Result<RemoveTree, Error> {
        let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
            return Err(kernel("open for removal", dir)(Errno::EINVAL));
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let (parent, name) = (c_string(parent)?, c_string(Path::new(name))?);
        let opened = openat(nix::fcntl::AT_FDCWD, &parent, libc::O_PATH | libc::O_DIRECTORY, 0)
            .and_then(|parent| enter(parent.as_fd(), &name).map(|top| (parent, top)));
        let open = match opened {
            Ok(both) => Some(both),
            Err(Errno::ENOENT) => None,
            Err(Errno::EXDEV) => return Err(Error::Mounted { path: dir.to_owned() }),
            Err(e) => return Err(kernel("open for removal", dir)(e)),
        };
        Ok(RemoveTree { path: dir.to_owned(), name, open, moved: 0 })
    }

    /// Removes about `budget` entries. True when the whole tree is gone.
    ///
    /// # Errors
    /// As [`remove_tree`]; what was removed stays removed.
    pub fn step(&mut self, budget: usize) -> Result<bool, Error> {
        let Some((parent, top)) = &self.open else { return Ok(true) };
        let failed = |name: &CStr, e: Errno| {
            let path = self.path.join(name.to_string_lossy().as_ref());
            match e {
                Errno::EBUSY | Errno::EXDEV => Error::Mounted { path },
                errno => Error::Kernel { doing: "remove", path, errno },
            }
        };
        let entries = names(top.as_fd(), budget).map_err(|e| failed(c"", e))?;
        if entries.is_empty() {
            return match unlinkat(parent.as_fd(), &self.name, true) {
                Ok(()) | Err(Errno::ENOENT) => {
                    self.open = None;
                    Ok(true)
                }
                // Somebody made an entry since we looked.
                Err(Errno::ENOTEMPTY) => Ok(false),
                Err(e) => Err(failed(c"", e)),
            };
        }
        let mut left = budget;
        for name in &entries {
            if left == 0 {
                break;
            }
            left -= 1;
            if remove_entry(top.as_fd(), name).map_err(|e| failed(name, e))? {
                continue;
            }
            let inner = match enter(top.as_fd(), name) {
                Ok(fd) => fd,
                Err(Errno::ENOENT) => continue,
                Err(e) => return Err(failed(name, e)),
            };
            for below in names(inner.as_fd(), left.max(1)).map_err(|e| failed(name, e))? {
                left = left.saturating_sub(1);
                if !remove_entry(inner.as_fd(), &below).map_err(|e| failed(&below, e))? {
                    move_up(inner.as_fd(), &below, top.as_fd(), &mut self.moved).map_err(|e| failed(&below, e))?;
                }
            }
            match unlinkat(top.as_fd(), name, true) {
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY) => {}
                Err(e) => return Err(failed(name, e)),
            }
        }
        Ok(false)
    }
}

/// Opens a directory, unless it is a link or something is mounted there.
fn enter(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let resolve = resolve::NO_XDEV | resolve::NO_SYMLINKS | resolve::BENEATH;
    openat2(dir, name, How { flags: DIRECTORY as u64, mode: 0, resolve })
}

/// Moves a directory that is not empty to the top, under a name of its own.
fn move_up(from: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, moved: &mut u64) -> Result<(), Errno> {
    loop {
        *moved += 1;
        let aside = CString::new(format!(".husk-removed-{moved}")).map_err(|_| Errno::EINVAL)?;
        match rename(from, name, top, &aside, false) {
            Err(Errno::EEXIST) => {}
            Err(Errno::ENOENT) => return Ok(()),
            other => return other,
        }
    }
}

/// Removes a file, or a directory that is empty. False: it is a directory that is not.
fn remove_entry(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    match unlinkat(dir, name, false) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::EISDIR) => match unlinkat(dir, name, true) {
            Ok(()) | Err(Errno::ENOENT) => Ok(true),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
            Err(e) => Err(e),
        },
        Err(e) => Err(e),
    }
}

/// Up to `limit` names in a directory.
fn names(dir: BorrowedFd<'_>, limit: usize) -> Result<Vec<CString>, Errno> {
    let copy = openat(dir, c".", DIRECTORY, 0)?;
    let mut stream = nix::dir::Dir::from_fd(copy)?;
    let mut found = Vec::new();
    for entry in stream.iter() {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            found.push(name);
            if found.len() >= limit {
                break;
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("husk-remove-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let dir = scratch("links");
        let (tree, outside) = (dir.join("t"), dir.join("o"));
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("kept").exists());
        remove_tree(&tree).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_tree_of_any_depth_is_removed_with_a_handful_of_fds() {
        let dir = scratch("deep");
        let tree = dir.join("t");
        std::fs::create_dir(&tree).unwrap();
        let mut at = OwnedFd::from(std::fs::File::open(&tree).unwrap());
        for _ in 0..500 {
            husk_oci::sys::path::mkdirat(at.as_fd(), c"deeper", 0o700).unwrap();
            at = openat(at.as_fd(), c"deeper", DIRECTORY, 0).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
