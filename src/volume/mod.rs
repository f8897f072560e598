//! Volumes: emptyDir, hostPath and subPath as fds and detached mounts; and removal that never crosses a mount.

use std::ffi::CString;
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

/// Makes the directory of an emptyDir on disk: 0777 whatever the umask says. One that is there already is kept as it is.
///
/// # Errors
/// The file system's.
pub fn empty_dir(dir: &Path) -> Result<(), Error> {
    let failed =
        |e: std::io::Error| Error::Kernel { doing: "create volume", path: dir.to_owned(), errno: Sys::from(&e).0 };
    match std::fs::DirBuilder::new().mode(0o777).create(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => return Err(failed(e)),
    }
    let permissions = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
    std::fs::set_permissions(dir, permissions).map_err(failed)
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

/// Opens a path below a volume, never leaving it whatever links are there (CVE-2017-1002101, CVE-2021-25741). One that does not exist is
/// made as a directory with the volume's own permissions.
///
/// # Errors
/// A component is no directory, or a link leads nowhere.
pub fn sub_path(volume: BorrowedFd<'_>, sub_path: &str) -> Result<OwnedFd, Error> {
    let failed = |why: String| Error::SubPath { sub_path: sub_path.to_owned(), why };
    let copy = volume.try_clone_to_owned().map_err(|e| failed(husk_oci::errno::io_text(&e)))?;
    let mode = path::fstat(volume).map_err(|e| failed(Sys(e).to_string()))?.st_mode & 0o7777;
    let root = pathrs::Root::from_fd(copy);
    match root.resolve(sub_path) {
        Ok(handle) => Ok(handle.into()),
        Err(_) => {
            use std::os::unix::fs::PermissionsExt;
            let made = root.mkdir_all(sub_path, &std::fs::Permissions::from_mode(mode & 0o777));
            made.map(OwnedFd::from).map_err(|e| failed(e.to_string()))
        }
    }
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
    let failed = |errno: Errno| Error::SubPath { sub_path: sub_path.to_owned(), why: Sys(errno).to_string() };
    let text = |s: &str| CString::new(s).map_err(|_| failed(Errno::EINVAL));
    let base = text(volume)?;
    // Every prefix, so that the helper, which must not allocate, can make what is missing.
    let parts: Vec<&str> = sub_path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    let prefixes = (1..=parts.len()).map(|n| text(&parts[..n].join("/"))).collect::<Result<Vec<_>, _>>()?;
    let names = parts.iter().map(|p| text(p)).collect::<Result<Vec<_>, _>>()?;
    let mut result: Result<OwnedFd, Errno> = Err(Errno::ENOENT);
    let slot = &mut result;
    let work = || *slot = in_namespace(holder, &base, &prefixes, &names);
    let helper = process::vfork_helper(false, work).map_err(failed)?;
    process::wait(process::Target::Pid(helper), false, false).map_err(failed)?;
    result.map_err(failed)
}

/// The helper's part: no allocation, nothing but system calls.
fn in_namespace(
    holder: BorrowedFd<'_>,
    base: &CString,
    prefixes: &[CString],
    names: &[CString],
) -> Result<OwnedFd, Errno> {
    process::setns(holder, process::ns::MOUNT)?;
    let volume = path::openat(nix::fcntl::AT_FDCWD, base, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    let mode = path::fstat(volume.as_fd())?.st_mode & 0o777;
    let scoped = path::How {
        flags: libc::O_PATH as u64,
        mode: 0,
        resolve: path::resolve::IN_ROOT | path::resolve::NO_MAGICLINKS,
    };
    let mut at = volume.try_clone().map_err(|e| Sys::from(&e).0)?;
    for (prefix, name) in prefixes.iter().zip(names) {
        at = match path::openat2(volume.as_fd(), prefix, scoped) {
            Err(Errno::ENOENT) => {
                path::mkdirat(at.as_fd(), name, mode)?;
                path::openat2(volume.as_fd(), prefix, scoped)?
            }
            other => other?,
        };
    }
    mount::clone_tree_fd(at.as_fd(), false)
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
        assert_eq!(dir.join("v").metadata().unwrap().mode() & 0o7777, 0o777);
        assert!(dir.join("v/a/b").is_dir());
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
