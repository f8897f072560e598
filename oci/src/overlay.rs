//! Detached overlays: directories one above the other, attached nowhere until somebody does.

use crate::errno::Sys;
use crate::sys::mount::{self, SetAttr};
use crate::sys::{path, process};
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What fsconfig(2) takes as a string, less its NUL byte.
const LONGEST_STRING: usize = 255;

/// An overlay, as mount(8) has its options.
#[derive(Clone, Copy, Debug)]
pub struct Overlay<'a> {
    /// `lowerdir`, the topmost first; at least one with an upper directory, at least two without.
    pub lower: &'a [PathBuf],
    /// Where what is written goes; without it the overlay can never be written to.
    pub upper: Option<Upper<'a>>,
    /// Attributes of the mount, as `sys::mount::attr` has them.
    pub attributes: u64,
}

/// The writable part of an overlay. It is mounted `volatile`: nothing of it is ever synced.
#[derive(Clone, Copy, Debug)]
pub struct Upper<'a> {
    /// `upperdir`.
    pub dir: &'a Path,
    /// `workdir`, on the same file system.
    pub work: &'a Path,
}

/// Why there is no overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The directory that could not be opened, if it was one of them.
    pub path: Option<PathBuf>,
    /// What the kernel said.
    pub errno: Errno,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "open {}: {}", path.display(), Sys(self.errno))?,
            None => write!(f, "mount an overlay: {}", Sys(self.errno))?,
        }
        match (&self.path, self.errno) {
            (None, Errno::ENODEV) => f.write_str(
                "; this kernel has no overlayfs: load its module (modprobe overlay), or use one with CONFIG_OVERLAY_FS",
            ),
            (None, Errno::EPERM) => f.write_str("; husk needs root with CAP_SYS_ADMIN"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error { path: None, errno }
    }
}

/// Makes an overlay, for [`mount::attach`] or to look into. Directories are given to the kernel by number: neither the length of a path nor a
/// colon or comma in it matters. Blocks; the caller may have one thread only.
///
/// # Errors
/// A directory that cannot be opened, or what the kernel says of the mount; `ENODEV` without overlayfs.
pub fn detached(overlay: &Overlay<'_>) -> Result<OwnedFd, Error> {
    let dirs = Dirs::open(overlay)?;
    let fs = mount::fsopen(c"overlay")?;
    let set = |key: &CStr, value: String| mount::fsconfig_set_string(fs.as_fd(), key, &c(value)?);
    let joined = joined(&dirs.lower);
    let many = joined.len() > LONGEST_STRING;
    if many {
        for fd in &dirs.lower {
            match set(c"lowerdir+", numbered(fd)) {
                Ok(()) => {}
                // KERNEL(6.8): `lowerdir+` is not known before.
                Err(Errno::EINVAL) => return by_mount(overlay),
                Err(errno) => return Err(errno.into()),
            }
        }
    } else {
        set(c"lowerdir", joined)?;
    }
    if let Some((upper, work)) = &dirs.upper {
        set(c"upperdir", numbered(upper))?;
        set(c"workdir", numbered(work))?;
        mount::fsconfig_set_flag(fs.as_fd(), c"volatile")?;
    }
    match mount::fsconfig_create(fs.as_fd()) {
        Ok(()) => Ok(mount::fsmount(fs.as_fd(), overlay.attributes)?),
        // KERNEL(6.5): overlayfs collected its options unseen, so that an unknown one is refused only here.
        Err(Errno::EINVAL) if many => by_mount(overlay),
        Err(errno) => Err(errno.into()),
    }
}

/// KERNEL(6.8): only `mount(2)` takes many layers, a page of options at once. It needs a place, so a helper mounts in a namespace of its own and
/// takes a detached clone out of it before the namespace ends.
fn by_mount(overlay: &Overlay<'_>) -> Result<OwnedFd, Error> {
    let place = c(overlay.lower.first().ok_or(Errno::EINVAL)?.as_os_str().as_bytes())?;
    let mut result = Err(Errno::ECHILD.into());
    // The helper shares our memory while we wait for it: it may allocate.
    let pid = process::vfork_helper(false, || {
        result = (|| {
            process::unshare(process::ns::MOUNT)?;
            mount::set_propagation(c"/", mount::Propagation::Private, true)?;
            // Opened here: overlayfs takes layers of its caller's mount namespace only.
            let dirs = Dirs::open(overlay)?;
            let mut options = format!("lowerdir={}", joined(&dirs.lower));
            let mut flags = libc::MS_RDONLY;
            if let Some((upper, work)) = &dirs.upper {
                options += &format!(",upperdir={},workdir={},volatile", numbered(upper), numbered(work));
                flags = 0;
            }
            mount::mount_at(c"overlay", &place, c"overlay", flags, Some(&c(options)?))?;
            let clone = mount::clone_tree(path::CWD, &place, false)?;
            mount::mount_setattr(clone.as_fd(), SetAttr { set: overlay.attributes, ..SetAttr::default() })?;
            Ok(clone)
        })();
    })?;
    while nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None) == Err(Errno::EINTR) {}
    result
}

/// The directories of an overlay, opened.
struct Dirs {
    lower: Vec<OwnedFd>,
    upper: Option<(OwnedFd, OwnedFd)>,
}

impl Dirs {
    fn open(overlay: &Overlay<'_>) -> Result<Dirs, Error> {
        let open = |dir: &Path| {
            c(dir.as_os_str().as_bytes())
                .and_then(|name| path::openat(path::CWD, &name, libc::O_PATH | libc::O_DIRECTORY, 0))
                .map_err(|errno| Error { path: Some(dir.to_owned()), errno })
        };
        let lower = overlay.lower.iter().map(|dir| open(dir)).collect::<Result<Vec<_>, Error>>()?;
        let upper = overlay.upper.map(|upper| Ok::<_, Error>((open(upper.dir)?, open(upper.work)?))).transpose()?;
        Ok(Dirs { lower, upper })
    }
}

fn numbered(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn joined(fds: &[OwnedFd]) -> String {
    fds.iter().map(numbered).collect::<Vec<_>>().join(":")
}

fn c(bytes: impl Into<Vec<u8>>) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;

    fn read(mnt: &OwnedFd, name: &CStr) -> String {
        let file = path::openat(mnt.as_fd(), name, libc::O_RDONLY, 0).unwrap();
        let mut text = String::new();
        fs::File::from(file).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn many_layers_merge_with_and_without_the_newer_interface() {
        let dir = std::env::temp_dir().join(format!("husk-overlay-{}", std::process::id()));
        let lower: Vec<PathBuf> = (0..40).map(|n| dir.join(format!("layer:{n},with\\odd"))).collect();
        for (n, layer) in lower.iter().enumerate() {
            fs::create_dir_all(layer).unwrap();
            fs::write(layer.join(format!("f{n}")), n.to_string()).unwrap();
            fs::write(layer.join("same"), n.to_string()).unwrap();
        }
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        for upper in [None, Some(Upper { dir: &upper, work: &work })] {
            for make in [detached, by_mount] {
                if let Some(upper) = upper {
                    for dir in [upper.dir, upper.work] {
                        let _ = fs::remove_dir_all(dir);
                        fs::create_dir(dir).unwrap();
                    }
                }
                let mnt = make(&Overlay { lower: &lower, upper, attributes: mount::attr::NODEV }).unwrap();
                assert_eq!(read(&mnt, c"f39"), "39");
                assert_eq!(read(&mnt, c"same"), "0");
                let made = path::mkdirat(mnt.as_fd(), c"made", 0o755);
                match upper {
                    Some(upper) => assert!(made.is_ok() && upper.dir.join("made").is_dir(), "{made:?}"),
                    None => assert_eq!(made, Err(Errno::EROFS)),
                }
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("husk-overlay-"), "{mounts}");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_missing_is_named() {
        let lower = [PathBuf::from("/nowhere/at/all"), PathBuf::from("/")];
        let error = detached(&Overlay { lower: &lower, upper: None, attributes: 0 }).unwrap_err();
        assert_eq!(error.to_string(), "open /nowhere/at/all: no such file or directory (ENOENT)");
        assert!(Error::from(Errno::ENODEV).to_string().contains("modprobe overlay"));
    }
}
