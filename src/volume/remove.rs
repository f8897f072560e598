//! Removing a tree: by fd, of any depth, in small steps, and never across a mount.
//!
//! The way down is a stack of open directories, up to [`DEPTH`] of them. What lies deeper is *moved* to the top of the tree and found there again,
//! so a handful of fds are enough for any depth. The kernel itself keeps us from crossing a mount: renaming, unlinking or removing a mount
//! point is EBUSY, and a directory is opened with `RESOLVE_NO_XDEV`, so that one that is mounted in the instant between is not entered either, nor
//! the tree itself when it is one. (A mount that exists only in another mount namespace is detached there, which is what removal means.)

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use husk_oci::sys::path::{How, openat, openat2, rename, resolve, unlinkat};
use nix::dir::{Dir, Type};
use nix::errno::Errno;

use super::{Error, c_string, kernel};

/// Directories that are open at a time.
const DEPTH: usize = 16;

/// Names that are read from a directory at a time.
const BATCH: usize = 1024;

/// How often a directory may be found without an entry and yet not empty.
const CONTRADICTIONS: usize = 100;

/// A tree that is being removed.
#[derive(Debug)]
pub struct RemoveTree {
    path: PathBuf,
    /// Where the tree is.
    parent: Option<OwnedFd>,
    /// The tree, the directory in it that is being emptied, and those on the way; empty when the tree is gone.
    way: Vec<Level>,
    moved: u64,
    contradictions: usize,
}

/// A directory that is being emptied.
#[derive(Debug)]
struct Level {
    name: CString,
    dir: Dir,
    /// What is to be removed from it, as far as it was read: names, and whether they are known to be directories.
    entries: Vec<(CString, bool)>,
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
            .and_then(|parent| Level::open(parent.as_fd(), name).map(|top| (parent, top)));
        let (parent, way) = match opened {
            Ok((parent, top)) => (Some(parent), vec![top]),
            Err(Errno::ENOENT) => (None, Vec::new()),
            Err(Errno::EXDEV) => return Err(Error::Mounted { path: dir.to_owned() }),
            Err(e) => return Err(kernel("open for removal", dir)(e)),
        };
        Ok(RemoveTree { path: dir.to_owned(), parent, way, moved: 0, contradictions: 0 })
    }

    /// Removes about `budget` entries. True when the whole tree is gone.
    ///
    /// # Errors
    /// As [`remove_tree`]; what was removed stays removed.
    pub fn step(&mut self, budget: usize) -> Result<bool, Error> {
        for _ in 0..budget {
            let Some(level) = self.way.last_mut() else { return Ok(true) };
            let name = match level.entries.pop() {
                Some((name, is_dir)) => {
                    let done = self.entry(&name, is_dir);
                    done.map_err(|e| self.failed(&name, e))?;
                    continue;
                }
                None => level.name.clone(),
            };
            self.leave().map_err(|e| self.failed(&name, e))?;
        }
        Ok(self.way.is_empty())
    }

    /// Removes an entry of the last directory, or goes into it.
    fn entry(&mut self, name: &CStr, is_dir: bool) -> Result<(), Errno> {
        let depth = self.way.len();
        let Some(level) = self.way.last() else { return Ok(()) };
        if remove_entry(level.dir.as_fd(), name, is_dir)? {
            return Ok(());
        }
        if depth < DEPTH {
            match Level::open(level.dir.as_fd(), name.to_owned()) {
                Ok(inner) => self.way.push(inner),
                Err(Errno::ENOENT) => {}
                Err(e) => return Err(e),
            }
            return Ok(());
        }
        let top = self.way[0].dir.as_fd();
        move_up(level.dir.as_fd(), name, top, &mut self.moved)
    }

    /// Removes the last directory, when it is empty by now.
    fn leave(&mut self) -> Result<(), Errno> {
        let depth = self.way.len();
        let Some(level) = self.way.last() else { return Ok(()) };
        let above = match depth {
            1 => self.parent.as_ref().map(|fd| fd.as_fd()),
            _ => Some(self.way[depth - 2].dir.as_fd()),
        };
        match unlinkat(above.ok_or(Errno::EBADF)?, &level.name, true) {
            Ok(()) | Err(Errno::ENOENT) => drop(self.way.pop()),
            // There is more than one batch, or somebody has made an entry, or moved it here as we do.
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                let Some(level) = self.way.last_mut() else { return Ok(()) };
                level.read()?;
                if level.entries.is_empty() {
                    self.contradictions += 1;
                    if self.contradictions > CONTRADICTIONS {
                        return Err(Errno::ENOTEMPTY);
                    }
                }
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn failed(&self, name: &CStr, e: Errno) -> Error {
        let mut path = self.path.clone();
        path.extend(self.way.iter().skip(1).map(|level| level.name.to_string_lossy().into_owned()));
        if self.way.last().is_none_or(|level| level.name.as_c_str() != name) {
            path.push(name.to_string_lossy().as_ref());
        }
        match e {
            Errno::EBUSY | Errno::EXDEV => Error::Mounted { path },
            errno => Error::Kernel { doing: "remove", path, errno },
        }
    }
}

impl Level {
    fn open(above: BorrowedFd<'_>, name: CString) -> Result<Level, Errno> {
        let dir = Dir::from_fd(enter(above, &name)?)?;
        let mut level = Level { name, dir, entries: Vec::new() };
        level.read()?;
        Ok(level)
    }

    /// Reads names, from the beginning.
    fn read(&mut self) -> Result<(), Errno> {
        self.entries.clear();
        for entry in self.dir.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                self.entries.push((name.to_owned(), entry.file_type() == Some(Type::Directory)));
                if self.entries.len() >= BATCH {
                    break;
                }
            }
        }
        Ok(())
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
fn remove_entry(dir: BorrowedFd<'_>, name: &CStr, is_dir: bool) -> Result<bool, Errno> {
    if !is_dir {
        match unlinkat(dir, name, false) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(true),
            Err(Errno::EISDIR) => {}
            Err(e) => return Err(e),
        }
    }
    match unlinkat(dir, name, true) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        // It has become something else since it was read.
        Err(Errno::ENOTDIR) if is_dir => remove_entry(dir, name, false),
        Err(e) => Err(e),
    }
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
            drop(openat(at.as_fd(), c"file", libc::O_CREAT | libc::O_WRONLY, 0o600).unwrap());
            husk_oci::sys::path::mkdirat(at.as_fd(), c"deeper", 0o700).unwrap();
            at = openat(at.as_fd(), c"deeper", DIRECTORY, 0).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn many_entries_go_batch_by_batch_and_step_by_step() {
        let dir = scratch("many");
        let tree = dir.join("t");
        std::fs::create_dir_all(tree.join("inner")).unwrap();
        for n in 0..BATCH + 10 {
            std::fs::write(tree.join("inner").join(n.to_string()), "").unwrap();
        }
        let mut removal = RemoveTree::new(&tree).unwrap();
        let mut steps = 0;
        while !removal.step(100).unwrap() {
            steps += 1;
        }
        assert!(steps >= 10 && !tree.exists(), "{steps}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
