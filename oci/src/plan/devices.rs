//! What `/dev` gets: directories for mounts, device nodes, links.

use super::container::{Builder, PRIVATE, target, utf8};
use super::{Origin, Step};
use crate::error::Error;
use crate::spec::cstring;
use crate::sys::mount;
use crate::sys::path::{self, CWD};
use oci_spec::runtime::{LinuxDeviceType, Mount};
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::path::Path;

/// Devices that every container has: name, major, minor.
pub const DEFAULT_DEVICES: [(&CStr, u32, u32); 6] =
    [(c"null", 1, 3), (c"zero", 1, 5), (c"full", 1, 7), (c"random", 1, 8), (c"urandom", 1, 9), (c"tty", 5, 0)];

const LINKS: [(&CStr, &CStr); 5] = [
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
];

impl Builder<'_, '_> {
    /// Directories that later mounts need, devices and links. `/dev` is open when these run.
    pub(super) fn devices(&mut self, mounts: &[Mount]) -> Result<(), Error> {
        for m in mounts {
            let name = m.destination().strip_prefix("/dev").ok().and_then(Path::to_str).unwrap_or_default();
            let new = matches!(m.typ().as_deref(), Some("devpts" | "mqueue" | "tmpfs"));
            if new && !name.is_empty() && name != ".." && !name.contains('/') {
                self.steps.push(Step::DevDirectory { name: cstring("mounts", name)? });
            }
        }
        for (name, major, minor) in DEFAULT_DEVICES {
            let path = format!("/dev/{}", name.to_string_lossy());
            let dev = path::makedev(major, minor);
            self.device(&path, Some(name.to_owned()), libc::S_IFCHR | 0o666, dev, None)?;
        }
        for (name, to) in LINKS {
            self.steps.push(Step::DevLink { name: name.into(), to: to.into() });
        }
        let list = self.spec.linux().as_ref().and_then(|l| l.devices().as_ref());
        for (i, d) in list.into_iter().flatten().enumerate() {
            let field = format!("linux.devices[{i}]");
            let kind = match d.typ() {
                LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
                LinuxDeviceType::B => libc::S_IFBLK,
                LinuxDeviceType::P => libc::S_IFIFO,
                LinuxDeviceType::A => return Err(Error::refused(field, "type \"a\" is not a device")),
            };
            let number =
                |n: i64| u32::try_from(n).map_err(|_| Error::refused(&field, format!("{n} is no device number")));
            let dev = if kind == libc::S_IFIFO { 0 } else { path::makedev(number(d.major())?, number(d.minor())?) };
            let path = utf8(&field, d.path())?;
            let owner = match (d.uid(), d.gid()) {
                (None, None) => None,
                (uid, gid) => Some((uid.unwrap_or(0), gid.unwrap_or(0))),
            };
            let default = DEFAULT_DEVICES
                .iter()
                .find(|(name, ..)| path.strip_prefix("/dev/").map(str::as_bytes) == Some(name.to_bytes()));
            if let Some((_, major, minor)) = default {
                if kind != libc::S_IFCHR || dev != path::makedev(*major, *minor) {
                    return Err(Error::refused(field, format!("{path} is a default device with another number")));
                }
                continue;
            }
            let name = Path::new(path).strip_prefix("/dev").ok().and_then(Path::to_str).unwrap_or("");
            let in_dev = if name.is_empty() || name.contains('/') { None } else { Some(cstring(&field, name)?) };
            self.device(path, in_dev, kind | d.file_mode().unwrap_or(0o666) & 0o7777, dev, owner)?;
        }
        Ok(())
    }

    fn device(
        &mut self,
        path: &str,
        in_dev: Option<CString>,
        mode: u32,
        dev: u64,
        owner: Option<(u32, u32)>,
    ) -> Result<(), Error> {
        let to = target("linux.devices", path, false)?;
        if self.user && mode & libc::S_IFMT != libc::S_IFIFO {
            // Device nodes can't be made in a user namespace: the host's own are bound, if they are what is asked for.
            let what = || format!("open device {path} of the host");
            let c = cstring("linux.devices", path)?;
            let tree = mount::clone_tree(CWD, &c, false).map_err(|e| Error::prepare(what(), e))?;
            let stat = path::fstat(tree.as_fd()).map_err(|e| Error::prepare(what(), e))?;
            if stat.st_mode & libc::S_IFMT != mode & libc::S_IFMT || stat.st_rdev != dev {
                return Err(Error::refused("linux.devices", format!("{path} of the host is another device")));
            }
            let from = Origin::Slot(self.fds.own(tree).map_err(|e| Error::prepare(what(), e))?);
            self.steps.push(Step::MountExisting { target: to, from, changes: vec![PRIVATE] });
            return Ok(());
        }
        self.steps.push(Step::Device { target: to, in_dev, mode, dev, owner });
        Ok(())
    }
}
