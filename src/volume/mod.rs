//! Volumes: emptyDir, hostPath and subPath as fds and detached mounts; and removal that never crosses a mount.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use husk_oci::errno::Sys;
use husk_oci::sys::{mount, path, process};
use nix::errno::Errno;

mod remove;

pub use remove::{RemoveTree, remove_tree};

/// What is wrong with a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The kernel refused.
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        errno: Errno,
    },
    /// A hostPath is not what its type says.
    WrongType {
        /// The path.
        path: PathBuf,
        /// `hostPath.type`.
        wanted: String,
        /// What is there.
        found: &'static str,
    },
    /// Something is mounted below a directory that shall be removed.
    Mounted {
        /// Where.
        path: PathBuf,
    },
    /// A subPath leads out of its volume, or cannot be resolved.
    SubPath {
        /// As in the manifest.
        sub_path: String,
        /// Why not.
        why: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Kernel { doing, path, errno } => write!(f, "{doing} {}: {}", path.display(), Sys(*errno)),
            Error::WrongType { path, wanted, found } => {
                write!(f, "hostPath {}: is {found}, its type says {wanted}", path.display())
            }
            Error::Mounted { path } => {
                write!(f, "remove {}: something is mounted there; unmount it and run husk gc", path.display())
            }
            Error::SubPath { sub_path, why } => write!(f, "subPath {sub_path:?}: {why}"),
        }
    }
}

impl std::error::Error for Error {}

fn kernel(doing: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
    let path = path.to_owned();
    move |errno| Error::Kernel { doing, path, errno }
}

fn c_string(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Error::Kernel {
        doing: "open",
        path: path.to_owned(),
        errno: Errno::EINVAL,
    })
}

/// Runs `work` with a umask of 0, so that what it makes has its final permissions from the first instant. The umask belongs to the process: for
/// processes with one thread.
fn without_umask<T>(work: impl FnOnce() -> T) -> T {
    let before = process::umask(0);
    let result = work();
    process::umask(before);
    result
}

/// Makes the directory of an emptyDir on disk: 0777 whatever the umask says. One that is there already is kept as it is.
///
/// # Errors
/// The file system's.
pub fn empty_dir(dir: &Path) -> Result<(), Error> {
    match without_umask(|| std::fs::DirBuilder::new().mode(0o777).create(dir)) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::Kernel { doing: "create volume", path: dir.to_owned(), errno: Sys::from(&e).0 })
        }
        _ => Ok(()),
    }
}

fn kind_of(mode: u32) -> &'static str {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => "a directory",
        libc::S_IFREG => "a file",
        libc::S_IFSOCK => "a socket",
        libc::S_IFCHR => "a character device",
        libc::S_IFBLK => "a block device",
        libc::S_IFIFO => "a FIFO",
        _ => "something else",
    }
}

/// Opens what a hostPath volume names (`O_PATH`) and checks the thing opened against the type; `HostPathVolumeSource.type`. Symbolic links
/// are the host's own and are followed. `create`: make what `DirectoryOrCreate` (0755) and `FileOrCreate` (0644) ask for; without it
/// their absence is `Ok(None)`.
///
/// # Errors
/// It is not there, or something else.
pub fn host_path(host_path: &Path, typ: &str, create: bool) -> Result<Option<OwnedFd>, Error> {
    let name = c_string(host_path)?;
    let open = || path::openat(nix::fcntl::AT_FDCWD, &name, libc::O_PATH, 0);
    let found = match open() {
        Err(Errno::ENOENT) if matches!(typ, "DirectoryOrCreate" | "FileOrCreate") && !create => return Ok(None),
        Err(Errno::ENOENT) if typ == "DirectoryOrCreate" => {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(host_path);
            made.map_err(|e| Error::Kernel {
                doing: "create hostPath",
                path: host_path.to_owned(),
                errno: Sys::from(&e).0,
            })?;
            open()
        }
        Err(Errno::ENOENT) if typ == "FileOrCreate" => {
            let flags = libc::O_CREAT | libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
            path::openat(nix::fcntl::AT_FDCWD, &name, flags, 0o644).map_err(kernel("create hostPath", host_path))?;
            open()
        }
        other => other,
    };
    let fd = found.map_err(kernel("open hostPath", host_path))?;
    let mode = path::fstat(fd.as_fd()).map_err(kernel("look at hostPath", host_path))?.st_mode;
    let wanted = match typ {
        "" => return Ok(Some(fd)),
        "Directory" | "DirectoryOrCreate" => libc::S_IFDIR,
        "File" | "FileOrCreate" => libc::S_IFREG,
        "Socket" => libc::S_IFSOCK,
        "CharDevice" => libc::S_IFCHR,
        "BlockDevice" => libc::S_IFBLK,
        _ => 0,
    };
    if mode & libc::S_IFMT != wanted {
        return Err(Error::WrongType { path: host_path.to_owned(), wanted: typ.to_owned(), found: kind_of(mode) });
    }
    Ok(Some(fd))
}

/// A subPath, cut up beforehand for those who must not allocate.
struct SubPath {
    /// `a`, `a/b`, `a/b/c`.
    prefixes: Vec<CString>,
    /// `a`, `b`, `c`.
    names: Vec<CString>,
}

impl SubPath {
    fn new(sub_path: &str) -> Result<SubPath, Error> {
        let text = |s: &str| {
            CString::new(s)
                .map_err(|_| Error::SubPath { sub_path: sub_path.to_owned(), why: "holds a NUL byte".into() })
        };
        let parts: Vec<&str> = sub_path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
        let prefixes = (1..=parts.len()).map(|n| text(&parts[..n].join("/"))).collect::<Result<_, _>>()?;
        let names = parts.iter().map(|p| text(p)).collect::<Result<_, _>>()?;
        Ok(SubPath { prefixes, names })
    }

    /// Opens the path below `volume`, and makes directories with the volume's permissions for what is missing. The kernel keeps every step of
    /// every look-up inside the volume (`RESOLVE_IN_ROOT`), whoever renames what meanwhile; what is made is made in a directory that was
    /// opened that way, and `mkdirat(2)` follows no link. Nothing but system calls: a helper without an allocator runs it too. The
    /// umask must be 0.
    fn open(&self, volume: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let mode = path::fstat(volume)?.st_mode & 0o777;
        let scoped = path::How {
            flags: libc::O_PATH as u64,
            mode: 0,
            resolve: path::resolve::IN_ROOT | path::resolve::NO_MAGICLINKS,
        };
        let mut at = path::openat2(volume, c".", scoped)?;
        for (prefix, name) in self.prefixes.iter().zip(&self.names) {
            at = match path::openat2(volume, prefix, scoped) {
                Err(Errno::ENOENT) => {
                    match path::mkdirat(at.as_fd(), name, mode) {
                        // Another container of the pod may have the same idea; a link that leads nowhere fails below.
                        Ok(()) | Err(Errno::EEXIST) => {}
                        Err(e) => return Err(e),
                    }
                    path::openat2(volume, prefix, scoped)?
                }
                other => other?,
            };
        }
        Ok(at)
    }
}

fn sub_path_error(sub_path: &str) -> impl Fn(Errno) -> Error {
    let sub_path = sub_path.to_owned();
    move |errno| {
        let why = match errno {
            Errno::ENOENT => format!("{}; a link on the way leads to nothing inside the volume", Sys(errno)),
            Errno::EAGAIN => format!("{}; something in the volume is being renamed all the time", Sys(errno)),
            _ => Sys(errno).to_string(),
        };
        Error::SubPath { sub_path: sub_path.clone(), why }
    }
}

/// Opens a path below a volume, never leaving it whatever links are there (CVE-2017-1002101, CVE-2021-25741): an absolute link begins at the
/// volume's root. One that does not exist is made as a directory with the volume's own permissions.
///
/// # Errors
/// A component is no directory, or a link leads nowhere.
pub fn sub_path(volume: BorrowedFd<'_>, sub_path: &str) -> Result<OwnedFd, Error> {
    let cut = SubPath::new(sub_path)?;
    without_umask(|| cut.open(volume)).map_err(sub_path_error(sub_path))
}

/// A detached clone of the mount at an opened file or directory, ready to be attached inside a container.
///
/// # Errors
/// The kernel's.
pub fn detached(of: BorrowedFd<'_>, shown_as: &Path, recursive: bool) -> Result<OwnedFd, Error> {
    mount::clone_tree_fd(of, recursive).map_err(kernel("clone the mount of", shown_as))
}

/// As [`sub_path`] and [`detached`], of a volume that is mounted in another process's mount namespace (pause's). A short-lived helper
/// enters it; what it opens lands among our fds.
///
/// # Errors
/// The kernel's, with the subPath.
pub fn detached_in(holder: BorrowedFd<'_>, volume: &str, sub_path: &str) -> Result<OwnedFd, Error> {
    let failed = sub_path_error(sub_path);
    let cut = SubPath::new(sub_path)?;
    let base = c_string(Path::new(volume))?;
    helped(|| in_namespace(holder, &base, &cut)).map_err(&failed)
}

/// How often a helper is tried that somebody has killed.
const TRIES: u32 = 3;

/// Has a short-lived process of our memory and fds do something that would change ours.
fn helped(mut work: impl FnMut() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    for _ in 0..TRIES {
        let mut result = None;
        let slot = &mut result;
        let helper = process::vfork_helper(false, || *slot = Some(work()))?;
        process::wait(process::Target::Pid(helper), false, false)?;
        if let Some(result) = result {
            return result;
        }
    }
    Err(Errno::ECHILD)
}

/// The helper's part: no allocation, nothing but system calls. Its umask is its own.
fn in_namespace(holder: BorrowedFd<'_>, base: &CStr, cut: &SubPath) -> Result<OwnedFd, Errno> {
    process::umask(0);
    process::setns(holder, process::ns::MOUNT)?;
    let volume = path::openat(nix::fcntl::AT_FDCWD, base, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    mount::clone_tree_fd(cut.open(volume.as_fd())?.as_fd(), false)
}

/// Opens a directory of another process's mount namespace (pause's), to look up what is in it (`O_PATH`). A short-lived helper enters it.
///
/// # Errors
/// The kernel's.
pub fn directory_in(holder: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Error> {
    let name = c_string(Path::new(path))?;
    let open = || {
        process::setns(holder, process::ns::MOUNT)?;
        path::openat(nix::fcntl::AT_FDCWD, &name, libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)
    };
    helped(open).map_err(kernel("open", Path::new(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("husk-volume-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn a_sub_path_that_links_out_of_the_volume_stays_in_it() {
        let dir = scratch("sub");
        let (volume, outside) = (dir.join("v"), dir.join("secret"));
        std::fs::create_dir(&volume).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("abs")).unwrap();
        std::os::unix::fs::symlink("../secret", volume.join("rel")).unwrap();
        let root = std::fs::File::open(&volume).unwrap();
        for link in ["abs", "rel", "abs/passwd", "rel/x"] {
            if let Ok(fd) = sub_path(root.as_fd(), link) {
                let target =
                    std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd))).unwrap();
                assert!(target.starts_with(&volume), "{link} leads to {}", target.display());
            }
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_missing_sub_path_is_made_with_the_permissions_of_the_volume() {
        use std::os::unix::fs::MetadataExt;
        let dir = scratch("make");
        empty_dir(&dir.join("v")).unwrap();
        let root = std::fs::File::open(dir.join("v")).unwrap();
        sub_path(root.as_fd(), "a/b").unwrap();
        for made in ["v", "v/a", "v/a/b"] {
            assert_eq!(dir.join(made).metadata().unwrap().mode() & 0o7777, 0o777, "{made}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_host_path_of_another_type_is_refused_by_what_it_is() {
        let dir = scratch("host");
        let file = dir.join("f");
        std::fs::write(&file, "x").unwrap();
        let e = host_path(&file, "Directory", true).unwrap_err().to_string();
        assert!(e.contains("is a file") && e.contains("Directory"), "{e}");
        assert!(host_path(&file, "File", true).unwrap().is_some());
        assert!(host_path(&dir, "", true).unwrap().is_some());
        assert!(host_path(Path::new("/dev/null"), "CharDevice", true).unwrap().is_some());
        assert!(host_path(&dir.join("none"), "Directory", true).is_err());
        assert!(host_path(&dir.join("none"), "DirectoryOrCreate", false).unwrap().is_none());
        assert!(!dir.join("none").exists());
        assert!(host_path(&dir.join("a/b"), "DirectoryOrCreate", true).unwrap().is_some());
        assert!(host_path(&dir.join("c"), "FileOrCreate", true).unwrap().is_some());
        assert!(dir.join("a/b").is_dir() && dir.join("c").is_file());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
