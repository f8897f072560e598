//! A look into an image's merged tree, without mounting it anywhere.

use super::error::{CommandFault, Error, printable};
use super::platform;
use super::tree;
use super::user::{self, User};
use husk_oci::overlay::{self, Overlay};
use husk_oci::sys::mount::attr;
use husk_oci::sys::{Errno, path};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Nothing in the image is executed, opened as a device or changed through a view.
const ATTRIBUTES: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
/// Bytes of `/etc/passwd` or `/etc/group` of an image.
const MAX_DATABASE: u64 = 16 << 20;
/// Bytes of the first line of a script that the kernel looks at (`BINPRM_BUF_SIZE`).
const HEAD: u64 = 256;

/// A look into an image's merged tree: a detached read-only overlay, or the layer itself when there is one. It gives out what files hold and
/// no fd, so nothing can be changed through it. Attached nowhere; gone when dropped.
#[derive(Debug)]
pub struct View {
    root: OwnedFd,
}

impl View {
    /// Opens the tree of these layers, top first ([`Image::layers`](super::Image::layers)). Needs CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// Of kind `Io`.
    pub fn open(layers: &[PathBuf]) -> Result<View, Error> {
        let root = match layers {
            [] => return Err(Error::content("an image without layers has no tree")),
            // Lookups cross no mount, and open regular files for reading: nothing that a mount of its own could forbid.
            [layer] => tree::open_dir(layer)
                .map_err(|e| Error::io("open", format!("the layer {}", printable(layer.as_os_str().as_bytes())), e))?,
            _ => overlay::detached(&Overlay { lower: layers, upper: None, attributes: ATTRIBUTES })
                .map_err(Error::Overlay)?,
        };
        Ok(View { root })
    }

    /// A whole regular file of at most `limit` bytes; links on the way stay inside the image. Never blocks on a pipe or opens a device.
    ///
    /// # Errors
    /// `Io` with ENOENT and the like; `Content` for a file that is too long or not regular.
    pub fn read_file(&self, name: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let shown = || format!("{} of the image", printable(name.as_bytes()));
        let (file, stat) = self.open_regular(name).map_err(|e| Error::io("open", shown(), e))?;
        let Some(file) = file else { return Err(Error::content(format!("{} is not a regular file", shown()))) };
        if stat.st_size.cast_unsigned() > limit {
            return Err(Error::content(format!("{} has more than {limit} bytes", shown())));
        }
        let mut bytes = Vec::with_capacity(stat.st_size as usize + 1);
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io("read", shown(), husk_oci::errno::Sys::from(&e).0))?;
        Ok(bytes)
    }

    /// Looks for a command as `execvp(3)` in the container would: `argv0` with a slash is a path (relative to `cwd`), without one it is
    /// looked for in the directories of `path_env`. Knows nothing of volumes that will be mounted over the image. Returns the path found.
    ///
    /// # Errors
    /// `Command`, with the reason in [`Error::command_fault`]; `Io`.
    pub fn find_executable(&self, argv0: &str, cwd: &str, path_env: &str) -> Result<String, Error> {
        let fault = |fault| Error::Command { command: argv0.to_string(), fault };
        let candidates: Vec<String> = if argv0.contains('/') {
            vec![join(cwd, argv0)]
        } else {
            path_env.split(':').map(|dir| join(&join(cwd, dir), argv0)).collect()
        };
        let mut unsuitable = None;
        if argv0.is_empty() || argv0.contains('\0') {
            return Err(fault(CommandFault::NotFound));
        }
        for path in candidates {
            match self.check_executable(&path) {
                Ok(()) => return Ok(path),
                Err(Error::Command { fault: CommandFault::NotFound, .. }) => {}
                // A shell goes on looking after a file without permission, but remembers it.
                Err(Error::Command { fault: f @ CommandFault::NotExecutable { .. }, .. }) => {
                    unsuitable.get_or_insert(f);
                }
                Err(Error::Command { fault: f, .. }) => return Err(fault(f)),
                Err(e) => return Err(e),
            }
        }
        Err(fault(unsuitable.unwrap_or(CommandFault::NotFound)))
    }

    /// Who the image's `USER` is: `""` (root), `uid`, `name`, `uid:gid`, `name:group` and mixtures; names by the image's own `/etc/passwd` and
    /// `/etc/group`. Without a group: the user's own group and those that list the user; with one: that alone.
    ///
    /// # Errors
    /// Of kind `User` for a name that is not there, an id that is not 0 to 2^31-1, or anything else that is neither.
    pub fn resolve_user(&self, user: &str) -> Result<User, Error> {
        user::resolve(user, &|name| match self.read_file(name, MAX_DATABASE) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::Io { errno: Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP, .. }) => Ok(None),
            Err(e) => Err(e),
        })
    }

    /// Opened when regular; looked at in any case.
    fn open_regular(&self, name: &str) -> Result<(Option<File>, libc::stat), Errno> {
        let look = tree::open_in(self.root.as_fd(), name.as_bytes(), libc::O_PATH)?;
        let stat = path::fstat(look.as_fd())?;
        if tree::kind_of(&stat) != libc::S_IFREG {
            return Ok((None, stat));
        }
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = File::from(tree::open_in(self.root.as_fd(), name.as_bytes(), flags)?);
        let stat = path::fstat(file.as_fd())?;
        Ok(((tree::kind_of(&stat) == libc::S_IFREG).then_some(file), stat))
    }

    fn check_executable(&self, name: &str) -> Result<(), Error> {
        let fault = |fault| Err(Error::Command { command: name.to_string(), fault });
        let (file, stat) = match self.open_regular(name) {
            Ok(found) => found,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG) => {
                return fault(CommandFault::NotFound);
            }
            Err(errno) => return Err(Error::io("open", format!("{} of the image", printable(name.as_bytes())), errno)),
        };
        let path = name.to_string();
        let Some(file) = file.filter(|_| stat.st_mode & 0o111 != 0) else {
            return fault(CommandFault::NotExecutable { path });
        };
        let mut head = Vec::with_capacity(HEAD as usize);
        file.take(HEAD)
            .read_to_end(&mut head)
            .map_err(|e| Error::io("read", printable(name.as_bytes()), husk_oci::errno::Sys::from(&e).0))?;
        if let Some(machine) = elf_machine(&head) {
            if !platform::runs_here(machine) {
                return fault(CommandFault::WrongArchitecture { path, machine });
            }
        } else if let Some(interpreter) = interpreter(&head)
            && interpreter.starts_with('/')
            && self.open_regular(&interpreter).is_err_and(|e| e == Errno::ENOENT)
        {
            return fault(CommandFault::NoInterpreter { path, interpreter });
        }
        Ok(())
    }
}

/// `e_machine` of an ELF file, in the byte order that the file says.
fn elf_machine(head: &[u8]) -> Option<u16> {
    let bytes: [u8; 2] = head.get(18..20)?.try_into().ok()?;
    match head.get(..6)? {
        [0x7f, b'E', b'L', b'F', _, 1] => Some(u16::from_le_bytes(bytes)),
        [0x7f, b'E', b'L', b'F', _, 2] => Some(u16::from_be_bytes(bytes)),
        _ => None,
    }
}

/// What a script's first line asks for.
fn interpreter(head: &[u8]) -> Option<String> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let word = line.split(|b| matches!(b, b' ' | b'\t' | b'\r')).find(|w| !w.is_empty())?;
    String::from_utf8(word.to_vec()).ok()
}

/// `name` from `dir`; both as the container sees them.
fn join(dir: &str, name: &str) -> String {
    match name {
        _ if name.starts_with('/') => name.to_string(),
        "" => dir.to_string(),
        _ => format!("{}/{name}", dir.trim_end_matches('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_files_are_understood() {
        let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1];
        elf.resize(18, 0);
        elf.extend([183, 0]);
        assert_eq!(elf_machine(&elf), Some(183));
        assert_eq!(elf_machine(&elf[..19]), None);
        assert_eq!(interpreter(b"#! /bin/sh -e\nx"), Some("/bin/sh".into()));
        assert_eq!(interpreter(b"#!\n"), None);
        assert_eq!(interpreter(b"\x7fELF"), None);
    }
}
