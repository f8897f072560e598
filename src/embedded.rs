//! The programs that husk carries inside itself. They are never written to a disk: each use makes a sealed file in memory.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use husk_oci::sys::{fd, path};

/// The program that holds a pod's namespaces, a static ELF file.
pub const PAUSE: &[u8] = husk_pause::image::PAUSE;

/// The parent of a pod's processes, a static ELF file.
pub const KEEPER: &[u8] = husk_pause::image::KEEPER;

/// A file in memory with these bytes, to be executed by `execveat(2)`; CLOEXEC. Nobody can change it any more, whoever gets hold of it
/// through `/proc/<pid>/exe` (CVE-2019-5736), and only root can read it: the kernel keeps a process of any other
/// user that executes it from being looked into, from the first instant. (A pause in a user namespace has to be readable, see
/// [`husk_oci::sandbox::Sandbox::image`].)
///
/// # Errors
/// The kernel's: no memory, or no more fds.
pub fn memfd(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = fd::memfd(name, true)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        match fd::write(file.as_fd(), rest)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => rest = rest.get(n..).unwrap_or_default(),
        }
    }
    path::fchmod(file.as_fd(), 0o511)?;
    fd::seal(file.as_fd())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_program_in_memory_can_be_read_but_not_changed() {
        let file = memfd(c"test", PAUSE).unwrap();
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(std::fs::read(&link).unwrap(), PAUSE);
        assert_eq!(fd::write(file.as_fd(), b"x"), Err(nix::errno::Errno::EPERM));
        assert!(std::fs::OpenOptions::new().write(true).truncate(true).open(&link).is_err());
    }
}
