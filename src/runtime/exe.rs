//! The husk executable as the pod's processes run it: never reachable writable (CVE-2019-5736).
//!
//! A process in a container can get at the executable of whoever enters it through `/proc/<pid>/exe`. So the supervisor is executed from a
//! detached overlay without an upper layer: its superblock cannot be made writable, and the page cache is that of the real file.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use husk_oci::overlay::{self, Overlay};
use husk_oci::sys::{fd, path};

use super::Error;

/// This program's executable, opened with `O_PATH` on a mount that cannot be written to.
///
/// # Errors
/// The executable was removed meanwhile, or cannot be read. Without overlayfs it is a sealed copy in memory instead.
pub fn sealed(empty_dir: &Path) -> Result<OwnedFd, Error> {
    let exe = std::fs::read_link("/proc/self/exe").map_err(|e| Error::io("read /proc/self/exe", &e))?;
    match behind_overlay(&exe, empty_dir) {
        Ok(fd) => Ok(fd),
        // KERNEL(config): no overlayfs, or the executable was replaced while we ran: our own image is still there to be copied.
        Err(_) => copy(),
    }
}

fn behind_overlay(exe: &Path, empty_dir: &Path) -> nix::Result<OwnedFd> {
    let (Some(dir), Some(name)) = (exe.parent(), exe.file_name()) else { return Err(nix::errno::Errno::ENOENT) };
    // Two lower layers make a read-only overlay.
    let lower = [empty_dir.to_owned(), dir.to_owned()];
    let mnt = overlay::detached(&Overlay { lower: &lower, upper: None, attributes: 0 }).map_err(|e| e.errno)?;
    let name = CString::new(name.as_bytes()).map_err(|_| nix::errno::Errno::EINVAL)?;
    let file = path::openat(mnt.as_fd(), &name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    let (ours, theirs) = (nix::sys::stat::stat("/proc/self/exe")?, path::fstat(file.as_fd())?);
    // The file behind the name may be another one by now (an upgrade): start what we are, not what is being installed.
    if (ours.st_size, ours.st_mtime, ours.st_mtime_nsec) != (theirs.st_size, theirs.st_mtime, theirs.st_mtime_nsec) {
        return Err(nix::errno::Errno::ESTALE);
    }
    Ok(file)
}

fn copy() -> Result<OwnedFd, Error> {
    let mut source = std::fs::File::open("/proc/self/exe").map_err(|e| Error::io("open /proc/self/exe", &e))?;
    let memory = fd::memfd(c"husk", true).map_err(|e| Error::sys("create a memory file for the supervisor", e))?;
    let mut target = std::fs::File::from(memory);
    std::io::copy(&mut source, &mut target).map_err(|e| Error::io("copy the supervisor into memory", &e))?;
    fd::seal(target.as_fd()).map_err(|e| Error::sys("seal the supervisor's image", e))?;
    Ok(target.into())
}
