//! Everything about the tree: root, mounts, devices, hidden paths, working directory.

use super::place::{self, Kind};
use super::{Done, During, Fault, Init};
use crate::plan::{Keep, Origin, Part, Step, Target};
use crate::sys::mount::{Propagation, SetAttr, attr};
use crate::sys::path::{self, CWD, How, resolve};
use crate::sys::{Errno, fd, mount};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

impl Init<'_> {
    pub(super) fn apply_to_tree(&mut self, step: &Step) -> Done {
        match step {
            Step::CloneShared { path, recursive, cell, .. } => {
                let tree = mount::clone_tree(CWD, path, *recursive)?;
                *self.cells.get_mut(*cell).ok_or(Errno::EBADF)? = Some(tree);
                Ok(())
            }
            Step::PrivateMounts => Ok(mount::set_propagation(c"/", Propagation::Private, true)?),
            Step::AttachRoot { root, at } => {
                let root = self.slot(*root)?;
                mount::attach_at(root, CWD, at)?;
                self.held.root = Some(root);
                Ok(())
            }
            Step::MountNew { target, fstype, source, flags, data, keep } => {
                self.mount_new(target, (source, fstype), *flags, data.as_deref(), *keep)
            }
            Step::MountExisting { target, from, changes } => {
                let tree = match from {
                    Origin::Slot(slot) => self.slot(*slot)?,
                    Origin::Cell(cell) => {
                        let cell = self.cells.get(*cell).and_then(Option::as_ref);
                        cell.ok_or(Fault(Part::Source, Errno::EBADF))?.as_fd()
                    }
                };
                for change in changes {
                    mount::mount_setattr(tree, (*change).into()).during(Part::Attributes)?;
                }
                let place = place::find_or_make(self.held.root()?, target, || kind_of(tree))?;
                mount::attach(tree, place.as_fd()).map_err(|errno| {
                    match (errno, kind_of(tree), kind_of(place.as_fd())) {
                        // The kernel does not say more when a directory meets something else.
                        (Errno::EINVAL, Ok(a), Ok(b)) if a != b => Errno::ENOTDIR.into(),
                        _ => errno.into(),
                    }
                })
            }
            Step::CgroupHierarchy { name, v1, flags } => {
                let dir = self.cgroup()?;
                path::mkdirat(dir, name, 0o755).during(Part::Make)?;
                // Nobody else has seen that tmpfs yet, so the name is the directory just made.
                path::fchdir(path::openat(dir, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?.as_fd())?;
                let (fstype, data) = match v1 {
                    Some(data) => (c"cgroup", Some(data.as_c_str())),
                    None => (c"cgroup2", None),
                };
                Ok(mount::mount_here(fstype, fstype, *flags, data)?)
            }
            Step::CgroupReadonly => {
                let change = SetAttr { set: attr::RDONLY, ..SetAttr::default() };
                Ok(mount::mount_setattr(self.cgroup()?, change)?)
            }
            Step::OpenDev { target } => {
                let dev = place::find_or_make(self.held.root()?, target, || Ok(Kind::Directory))?;
                self.held.dev = Some(dev);
                Ok(())
            }
            Step::DevDirectory { name } => match path::mkdirat(self.dev()?, name, 0o755) {
                Ok(()) | Err(Errno::EEXIST) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
            Step::DevLink { name, to } => match path::symlinkat(to, self.dev()?, name) {
                Ok(()) | Err(Errno::EEXIST) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
            Step::Device { in_dev: Some(name), mode, dev, owner, .. } => device(self.dev()?, name, *mode, *dev, *owner),
            Step::Device { target, in_dev: None, mode, dev, owner } => {
                let (dir, name) = place::parent(self.held.root()?, target)?;
                device(dir.as_fd(), name, *mode, *dev, *owner)
            }
            Step::Sysctl { path, value, .. } => self.sysctl(path, value),
            Step::Mask { target } => self.mask(target),
            Step::ReadonlyPath { target } => self.readonly_path(target),
            Step::OpenCwd { target, create } => {
                let root = self.held.root()?;
                let found = match place::find_dir(root, target) {
                    Err(Errno::ENOENT) if *create => place::find_or_make(root, target, || Ok(Kind::Directory))?,
                    other => other.during(Part::Find)?,
                };
                self.held.cwd = Some(found);
                Ok(())
            }
            Step::RootAttributes { change } => Ok(mount::mount_setattr(self.held.root()?, (*change).into())?),
            Step::Pivot => {
                path::fchdir(self.held.root()?)?;
                // The old root ends up on top of the new one, from where it is taken away.
                mount::pivot_root(c".", c".")?;
                mount::umount(c".", true)?;
                Ok(path::chdir(c"/")?)
            }
            Step::OpenRoot => {
                self.held.joined_root = Some(path::openat(CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?);
                Ok(())
            }
            Step::EnterCwd => self.enter_cwd(),
            // Every other step is `apply`'s.
            _ => Err(Errno::EINVAL.into()),
        }
    }

    fn dev(&self) -> Result<BorrowedFd<'_>, Fault> {
        Ok(self.held.dev.as_ref().ok_or(Fault(Part::Find, Errno::EBADF))?.as_fd())
    }

    fn cgroup(&self) -> Result<BorrowedFd<'_>, Fault> {
        Ok(self.held.cgroup.as_ref().ok_or(Fault(Part::Find, Errno::EBADF))?.as_fd())
    }

    /// By way of the working directory: `mount(2)` on "." walks no path.
    fn mount_new(
        &mut self,
        target: &Target,
        (source, fstype): (&CStr, &CStr),
        flags: libc::c_ulong,
        data: Option<&CStr>,
        keep: Option<Keep>,
    ) -> Done {
        let root = self.held.root()?;
        let place = place::find_or_make(root, target, || Ok(Kind::Directory))?;
        path::fchdir(place.as_fd()).during(Part::Find)?;
        mount::mount_here(source, fstype, flags, data)?;
        let Some(keep) = keep else { return Ok(()) };
        // What is there now must be what was mounted.
        let top = place::find_dir(root, target).during(Part::Verify)?;
        let (wanted, held) = match keep {
            Keep::Proc => (libc::PROC_SUPER_MAGIC, Some(&mut self.held.proc)),
            Keep::Sys => (libc::SYSFS_MAGIC, None),
            Keep::Dev => (libc::TMPFS_MAGIC, Some(&mut self.held.dev)),
            Keep::Pts => (libc::DEVPTS_SUPER_MAGIC, Some(&mut self.held.pts)),
            Keep::Cgroup => (libc::TMPFS_MAGIC, Some(&mut self.held.cgroup)),
        };
        if path::fs_magic(top.as_fd()).during(Part::Verify)? != wanted {
            return Err(Fault(Part::Verify, Errno::EINVAL));
        }
        if let Some(held) = held {
            *held = Some(top);
        }
        Ok(())
    }

    /// Through the proc that we have mounted and looked at, whatever lies at that path by now.
    fn sysctl(&self, path: &CStr, value: &str) -> Done {
        let proc = self.held.proc.as_ref().ok_or(Fault(Part::Find, Errno::EBADF))?;
        let scope = resolve::BENEATH | resolve::NO_SYMLINKS | resolve::NO_XDEV;
        let file = path::openat2(proc.as_fd(), path, How { flags: libc::O_WRONLY as u64, mode: 0, resolve: scope })?;
        let written = fd::write(file.as_fd(), value.as_bytes())?;
        if written == value.len() { Ok(()) } else { Err(Errno::EIO.into()) }
    }

    /// A directory gets an empty one over it, anything else the null device. What is not there needs no mask.
    fn mask(&mut self, target: &Target) -> Done {
        let Some(place) = optional(place::find(self.held.root()?, target))? else { return Ok(()) };
        if kind_of(place.as_fd()).during(Part::Verify)? == Kind::File {
            let null = self.null()?;
            let copy = mount::clone_tree_fd(null, false).during(Part::Source)?;
            return Ok(mount::attach(copy.as_fd(), place.as_fd())?);
        }
        if let Some(empty) = &self.held.empty {
            let copy = mount::clone_tree_fd(empty.as_fd(), false).during(Part::Source)?;
            return Ok(mount::attach(copy.as_fd(), place.as_fd())?);
        }
        // One file system for all of them: cloning an attached mount is far cheaper than a new superblock.
        let context = mount::fsopen(c"tmpfs").during(Part::Source)?;
        mount::fsconfig_create(context.as_fd()).during(Part::Source)?;
        let attrs = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let empty = mount::fsmount(context.as_fd(), attrs).during(Part::Source)?;
        mount::attach(empty.as_fd(), place.as_fd())?;
        self.held.empty = Some(empty);
        Ok(())
    }

    /// `/dev/null`, once it was seen to be the null device: an image could have something else there.
    fn null(&mut self) -> Result<BorrowedFd<'_>, Fault> {
        if self.held.null.is_none() {
            let how = How {
                flags: (libc::O_PATH | libc::O_NOFOLLOW) as u64,
                mode: 0,
                resolve: resolve::IN_ROOT | resolve::NO_SYMLINKS,
            };
            let null = path::openat2(self.held.root()?, c"dev/null", how).during(Part::Source)?;
            let stat = path::fstat(null.as_fd()).during(Part::Source)?;
            if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != path::makedev(1, 3) {
                return Err(Fault(Part::Verify, Errno::EINVAL));
            }
            self.held.null = Some(null);
        }
        Ok(self.held.null.as_ref().ok_or(Fault(Part::Source, Errno::EBADF))?.as_fd())
    }

    fn readonly_path(&self, target: &Target) -> Done {
        let Some(place) = optional(place::find(self.held.root()?, target))? else { return Ok(()) };
        let copy = mount::clone_tree_fd(place.as_fd(), true).during(Part::Source)?;
        let change = SetAttr { set: attr::RDONLY, recursive: true, ..SetAttr::default() };
        mount::mount_setattr(copy.as_fd(), change).during(Part::Attributes)?;
        Ok(mount::attach(copy.as_fd(), place.as_fd())?)
    }

    /// Whatever the path led to, it has to be inside our root now (CVE-2024-21626).
    fn enter_cwd(&self) -> Done {
        let cwd = self.held.cwd.as_ref().ok_or(Fault(Part::Find, Errno::EBADF))?;
        path::fchdir(cwd.as_fd())?;
        let mut buf = [0; libc::PATH_MAX as usize];
        match path::getcwd(&mut buf).during(Part::Verify)?.first() {
            Some(b'/') => Ok(()),
            _ => Err(Fault(Part::Verify, Errno::EXDEV)),
        }
    }
}

fn kind_of(fd: BorrowedFd<'_>) -> Result<Kind, Errno> {
    let stat = path::fstat(fd)?;
    Ok(if stat.st_mode & libc::S_IFMT == libc::S_IFDIR { Kind::Directory } else { Kind::File })
}

/// What may be missing.
fn optional(found: Result<OwnedFd, Errno>) -> Result<Option<OwnedFd>, Fault> {
    match found {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(Fault(Part::Find, errno)),
    }
}

/// Makes a device node. One that the image brings must be the same device.
fn device(dir: BorrowedFd<'_>, name: &CStr, mode: u32, dev: u64, owner: Option<(u32, u32)>) -> Done {
    match path::mknodat(dir, name, mode, dev) {
        Ok(()) => {}
        Err(Errno::EEXIST) => {
            let stat = path::fstatat(dir, name).during(Part::Verify)?;
            if stat.st_mode & libc::S_IFMT != mode & libc::S_IFMT || stat.st_rdev != dev {
                return Err(Fault(Part::Verify, Errno::EINVAL));
            }
        }
        Err(errno) => return Err(errno.into()),
    }
    match owner {
        Some((uid, gid)) => path::fchownat(dir, name, uid, gid).during(Part::Owner),
        None => Ok(()),
    }
}
