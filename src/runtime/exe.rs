//! The husk executable as the pod's processes run it: never reachable writable (CVE-2019-5736).
//!
//! A process in a container can get at the executable of whoever enters it through `/proc/<pid>/exe`. So the supervisor is executed from a
//! detached overlay without an upper layer: its superblock cannot be made writable, and the page cache is that of the real file.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use husk_oci::sys::{fd, mount, path};

use super::Error;

/// This program's executable, opened with `O_PATH` on a mount that cannot be written to.
///
/// # Errors
/// The executable was removed meanwhile, or cannot be read. Without overlayfs it is a sealed copy in memory instead.
pub fn sealed(empty_dir: &Path) -> Result<OwnedFd, Error> {
    let exe = std::fs::read_link("/proc/self/exe").map_err(|e| Error::io("read /proc/self/exe", &e))?;
    match overlay(&exe, empty_dir) {
        Ok(fd) => Ok(fd),
        // KERNEL(config): no overlayfs, or the executable was replaced while we ran: our own image is still there to be copied.
        Err(_) => copy(),
    }
}

fn overlay(exe: &Path, empty_dir: &Path) -> nix::Result<OwnedFd> {
    let (Some(dir), Some(name)) = (exe.parent(), exe.file_name()) else { return Err(nix::errno::Errno::ENOENT) };
    let cstring = |p: &Path| CString::new(p.as_os_str().as_bytes()).map_err(|_| nix::errno::Errno::EINVAL);
    let open = |p: &Path| path::openat(cwd(), &cstring(p)?, libc::O_PATH | libc::O_DIRECTORY, 0);
    let (below, empty) = (open(dir)?, open(empty_dir)?);
    let fs = mount::fsopen(c"overlay")?;
    // Two lower layers make a read-only overlay; by number, so that neither length nor a colon in a path matters.
    let layers = format!("/proc/self/fd/{}:/proc/self/fd/{}", empty.as_raw_fd(), below.as_raw_fd());
    mount::fsconfig_set_string(fs.as_fd(), c"lowerdir", &CString::new(layers).map_err(|_| nix::errno::Errno::EINVAL)?)?;
    mount::fsconfig_create(fs.as_fd())?;
    let mnt = mount::fsmount(fs.as_fd(), 0)?;
    let name = CString::new(name.as_bytes()).map_err(|_| nix::errno::Errno::EINVAL)?;
    let file = path::openat(mnt.as_fd(), &name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    let (ours, theirs) = (nix::sys::stat::stat("/proc/self/exe")?, path::fstat(file.as_fd())?);
    // The file behind the name may be another one by now (an upgrade): start what we are, not what is being installed.
    if (ours.st_size, ours.st_mtime, ours.st_mtime_nsec) != (theirs.st_size, theirs.st_mtime, theirs.st_mtime_nsec) {
        return Err(nix::errno::Errno::ESTALE);
    }
    Ok(file)
}

fn cwd() -> std::os::fd::BorrowedFd<'static> {
    nix::fcntl::AT_FDCWD
}

fn copy() -> Result<OwnedFd, Error> {
    let mut source = std::fs::File::open("/proc/self/exe").map_err(|e| Error::io("open /proc/self/exe", &e))?;
    let memory = fd::memfd(c"husk", true).map_err(|e| Error::sys("create a memory file for the supervisor", e))?;
    let mut target = std::fs::File::from(memory);
    std::io::copy(&mut source, &mut target).map_err(|e| Error::io("copy the supervisor into memory", &e))?;
    fd::seal(target.as_fd()).map_err(|e| Error::sys("seal the supervisor's image", e))?;
    Ok(target.into())
}
