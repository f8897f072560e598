//! Directory trees held by fd: opened inside a root, replaced atomically, removed without leaving them.

use super::error::{Error, printable};
use husk_oci::sys::Errno;
use husk_oci::sys::path::{self, How, resolve};
use nix::dir::{Dir, Type};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Beginning of every temporary name; what bears it belongs to whoever holds the exclusive lock, so to nobody after a crash.
pub(super) const TEMPORARY: &str = ".tmp-";

pub(super) type Sys<T> = std::result::Result<T, Errno>;

/// A C string of bytes that must not contain NUL (EINVAL).
pub(super) fn c(bytes: impl AsRef<[u8]>) -> Sys<CString> {
    CString::new(bytes.as_ref()).map_err(|_| Errno::EINVAL)
}

/// Opens a directory by its path on the host.
pub(super) fn open_dir(path: &Path) -> Sys<OwnedFd> {
    path::openat(path::CWD, &c(path.as_os_str().as_bytes())?, libc::O_RDONLY | libc::O_DIRECTORY, 0)
}

/// Opens below `root` as if `root` were `/`: links of any kind stay inside, and no mount is crossed.
pub(super) fn open_in(root: BorrowedFd<'_>, name: &[u8], flags: i32) -> Sys<OwnedFd> {
    let name = if name.is_empty() { c(".")? } else { c(name)? };
    let resolve = resolve::IN_ROOT | resolve::NO_MAGICLINKS | resolve::NO_XDEV;
    path::openat2(root, &name, How { flags: flags as u64, mode: 0, resolve })
}

/// Opens the directory `name` right below `dir`, never through a link or a mount.
pub(super) fn open_child_dir(dir: BorrowedFd<'_>, name: &CStr, flags: i32) -> Sys<OwnedFd> {
    let flags = (flags | libc::O_DIRECTORY | libc::O_NOFOLLOW) as u64;
    let resolve = resolve::BENEATH | resolve::NO_SYMLINKS | resolve::NO_XDEV;
    path::openat2(dir, name, How { flags, mode: 0, resolve })
}

/// A name that nobody else uses: process, counter and time.
pub(super) fn temporary_name() -> CString {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    let nanos = husk_oci::sys::clock::realtime().as_nanos();
    CString::new(format!("{TEMPORARY}{}-{n}-{nanos:x}", std::process::id())).expect("digits have no NUL")
}

/// The type bits of a mode.
pub(super) fn kind_of(stat: &libc::stat) -> u32 {
    stat.st_mode & libc::S_IFMT
}

/// Names in a directory, `.` and `..` left out.
pub(super) fn names(dir: BorrowedFd<'_>) -> Sys<Vec<CString>> {
    // A second open file description: reading moves an offset.
    let mut dir = Dir::from_fd(path::openat(dir, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?)?;
    let mut out = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            out.push(entry.file_name().to_owned());
        }
    }
    Ok(out)
}

/// Removes `name` below `dir`, whatever it is; absent is fine.
///
/// Needs neither stack nor fds by depth: directories that are not empty move up to the top of what is being removed, so a tree
/// deeper than any path can say goes too. A mount inside is never entered: the kernel answers EBUSY for its root, and the removal ends there.
///
/// # Errors
/// The first thing that could not be removed.
pub(super) fn remove(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Error> {
    let failed = |object: &CStr, errno| Error::io("remove", printable(object.to_bytes()), errno);
    match path::unlinkat(dir, name, false) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(failed(name, errno)),
    }
    let top = match open_child_dir(dir, name, libc::O_RDONLY) {
        Ok(top) => top,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(failed(name, errno)),
    };
    empty(top.as_fd(), top.as_fd())?;
    // What moved up waits under temporary names; emptying one may bring more.
    loop {
        let waiting = names(top.as_fd()).map_err(|e| failed(name, e))?;
        if waiting.is_empty() {
            break;
        }
        for child in waiting {
            let open = open_child_dir(top.as_fd(), &child, libc::O_RDONLY).map_err(|e| failed(&child, e))?;
            empty(open.as_fd(), top.as_fd())?;
            drop(open);
            path::unlinkat(top.as_fd(), &child, true).map_err(|e| failed(&child, e))?;
        }
    }
    match path::unlinkat(dir, name, true) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(failed(name, errno)),
    }
}

/// Takes everything out of one directory: files and empty directories go, other directories move to `top`.
fn empty(dir: BorrowedFd<'_>, top: BorrowedFd<'_>) -> Result<(), Error> {
    let in_place = same_file(dir, top);
    let fail = |object: &CStr, errno| Error::io("remove", printable(object.to_bytes()), errno);
    let unreadable = |errno| Error::io("read", "a directory that is being removed", errno);
    let again = path::openat(dir, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0).map_err(unreadable)?;
    let mut stream = Dir::from_fd(again).map_err(unreadable)?;
    let mut entries = Vec::new();
    for entry in stream.iter() {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            entries.push((name.to_owned(), entry.file_type()));
        }
    }
    for (name, kind) in entries {
        if !matches!(kind, Some(Type::Directory)) {
            match path::unlinkat(dir, &name, false) {
                Ok(()) | Err(Errno::ENOENT) => continue,
                Err(Errno::EISDIR | Errno::EPERM) => {}
                Err(errno) => return Err(fail(&name, errno)),
            }
        }
        match path::unlinkat(dir, &name, true) {
            Ok(()) | Err(Errno::ENOENT) => continue,
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            Err(errno) => return Err(fail(&name, errno)),
        }
        if !in_place {
            path::rename(dir, &name, top, &temporary_name(), false).map_err(|e| fail(&name, e))?;
        }
    }
    Ok(())
}

fn same_file(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    match (path::fstat(a), path::fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

/// Writes a file so that a reader, or the next boot, finds the old content or the new, never a mixture.
pub(super) fn replace(dir: BorrowedFd<'_>, name: &CStr, content: &[u8]) -> Sys<()> {
    let temporary = temporary_name();
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let fd = path::openat(dir, &temporary, flags, 0o600)?;
    let written = (|| {
        let mut file = File::from(fd);
        file.write_all(content).and_then(|()| file.sync_all()).map_err(|e| husk_oci::errno::Sys::from(&e).0)?;
        path::rename(dir, &temporary, dir, name, true)?;
        nix::unistd::fsync(dir)
    })();
    if written.is_err() {
        // Whether or not this succeeds, the first error is the one to tell; the next exclusive lock sweeps temporary names.
        let _ = path::unlinkat(dir, &temporary, false);
    }
    written
}

/// Opens the directory `name` below `dir`, making it with mode 0700 when it is not there.
///
/// # Errors
/// EPERM when it belongs to another user.
pub(super) fn private_dir(dir: BorrowedFd<'_>, name: &CStr) -> Sys<OwnedFd> {
    match path::mkdirat(dir, name, 0o700) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let fd = open_child_dir(dir, name, libc::O_RDONLY)?;
    let stat = path::fstat(fd.as_fd())?;
    if stat.st_uid != nix::unistd::geteuid().as_raw() {
        return Err(Errno::EPERM);
    }
    if stat.st_mode & 0o077 != 0 {
        path::fchmod(fd.as_fd(), 0o700)?;
    }
    Ok(fd)
}

/// A directory that removes itself unless it is kept.
#[must_use = "dropping the guard removes the directory"]
pub(super) struct TempDir<'d> {
    parent: BorrowedFd<'d>,
    name: Option<CString>,
    fd: OwnedFd,
}

impl<'d> TempDir<'d> {
    pub fn new(parent: BorrowedFd<'d>) -> Sys<TempDir<'d>> {
        let name = temporary_name();
        path::mkdirat(parent, &name, 0o700)?;
        let fd = open_child_dir(parent, &name, libc::O_RDONLY)?;
        Ok(TempDir { parent, name: Some(name), fd })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Gives the directory its lasting name. The caller syncs before and after.
    pub fn keep(mut self, name: &CStr) -> Sys<()> {
        if let Some(temporary) = &self.name {
            path::rename(self.parent, temporary, self.parent, name, false)?;
        }
        self.name = None;
        Ok(())
    }
}

impl Drop for TempDir<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            // Nothing to tell it to: what stays bears a temporary name, and the next exclusive lock sweeps those and reports.
            let _ = remove(self.parent, &name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    pub(crate) struct Scratch(pub std::path::PathBuf);
    impl Scratch {
        pub fn new() -> Scratch {
            let path = std::env::temp_dir().join(format!("husk-tree-{}", temporary_name().to_string_lossy()));
            std::fs::create_dir(&path).unwrap();
            Scratch(path)
        }
    }
    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let scratch = Scratch::new();
        let top = open_dir(&scratch.0).unwrap();
        path::mkdirat(top.as_fd(), c"deep", 0o700).unwrap();
        let mut at = open_child_dir(top.as_fd(), c"deep", libc::O_PATH).unwrap();
        for _ in 0..3000 {
            path::mkdirat(at.as_fd(), c"dddd", 0o700).unwrap();
            path::symlinkat(c"/etc", at.as_fd(), c"link").unwrap();
            at = open_child_dir(at.as_fd(), c"dddd", libc::O_PATH).unwrap();
        }
        remove(top.as_fd(), c"deep").unwrap();
        assert!(names(top.as_fd()).unwrap().is_empty());
        assert!(Path::new("/etc/passwd").exists());
    }

    #[test]
    fn removing_a_link_leaves_what_it_points_to() {
        let scratch = Scratch::new();
        let top = open_dir(&scratch.0).unwrap();
        std::fs::create_dir(scratch.0.join("kept")).unwrap();
        std::fs::write(scratch.0.join("kept/file"), "x").unwrap();
        std::os::unix::fs::symlink("kept", scratch.0.join("link")).unwrap();
        remove(top.as_fd(), c"link").unwrap();
        remove(top.as_fd(), c"absent").unwrap();
        assert!(scratch.0.join("kept/file").exists());
    }

    #[test]
    fn a_replaced_file_leaves_no_temporary() {
        let scratch = Scratch::new();
        let top = open_dir(&scratch.0).unwrap();
        replace(top.as_fd(), c"a", b"1").unwrap();
        replace(top.as_fd(), c"a", b"2").unwrap();
        assert_eq!(std::fs::read(scratch.0.join("a")).unwrap(), b"2");
        assert_eq!(names(top.as_fd()).unwrap().len(), 1);
        assert!(top.as_raw_fd() > 2);
    }
}
