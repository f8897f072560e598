//! Mounts: the fd-based interface (`open_tree(2)`, `fsopen(2)`, `move_mount(2)`, `mount_setattr(2)`) and `mount(2)` cut up.

use super::{Errno, Result, arg, call, call_fd, str_arg};
use libc::{c_int, c_ulong};
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

// linux/mount.h; not in every libc.
const OPEN_TREE_CLONE: usize = 1;
const OPEN_TREE_CLOEXEC: usize = libc::O_CLOEXEC as usize;
const AT_EMPTY_PATH: usize = 0x1000;
const AT_SYMLINK_NOFOLLOW: usize = 0x100;
const AT_RECURSIVE: usize = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: usize = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: usize = 0x40;
const FSOPEN_CLOEXEC: usize = 1;
const FSMOUNT_CLOEXEC: usize = 1;
const FSCONFIG_SET_FLAG: usize = 0;
const FSCONFIG_SET_STRING: usize = 1;
const FSCONFIG_SET_FD: usize = 5;
const FSCONFIG_CMD_CREATE: usize = 6;
const FSCONFIG_CMD_RECONFIGURE: usize = 7;

/// Attributes of a mount, as in `mount_setattr(2)`.
pub mod attr {
    /// `MOUNT_ATTR_RDONLY`
    pub const RDONLY: u64 = 0x1;
    /// `MOUNT_ATTR_NOSUID`
    pub const NOSUID: u64 = 0x2;
    /// `MOUNT_ATTR_NODEV`
    pub const NODEV: u64 = 0x4;
    /// `MOUNT_ATTR_NOEXEC`
    pub const NOEXEC: u64 = 0x8;
    /// `MOUNT_ATTR__ATIME`: the whole field; clear it to set another kind (relatime is 0).
    pub const ATIME: u64 = 0x70;
    /// `MOUNT_ATTR_NOATIME`
    pub const NOATIME: u64 = 0x10;
    /// `MOUNT_ATTR_STRICTATIME`
    pub const STRICTATIME: u64 = 0x20;
    /// `MOUNT_ATTR_NODIRATIME`
    pub const NODIRATIME: u64 = 0x80;
    /// `MOUNT_ATTR_IDMAP`
    pub const IDMAP: u64 = 0x10_0000;
    /// `MOUNT_ATTR_NOSYMFOLLOW`
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// How mount events travel between copies of a mount, `mount_namespaces(7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// `MS_PRIVATE`
    Private,
    /// `MS_SLAVE`
    Slave,
    /// `MS_SHARED`
    Shared,
    /// `MS_UNBINDABLE`
    Unbindable,
}

impl Propagation {
    /// The kernel's flag, the same in `mount(2)` and in `mount_setattr(2)`.
    pub const fn flag(self) -> c_ulong {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// A change for [`mount_setattr`]; the default changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr<'a> {
    /// Bits of [`attr`] to set.
    pub set: u64,
    /// Bits of [`attr`] to clear (before setting).
    pub clear: u64,
    /// New propagation, if any.
    pub propagation: Option<Propagation>,
    /// With every mount below.
    pub recursive: bool,
    /// User namespace to map ids with ([`attr::IDMAP`] is set by itself).
    pub idmap: Option<BorrowedFd<'a>>,
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// An O_PATH-like fd of what `path` names below `dir`, without making a mount. `open_tree(2)`
pub fn open_tree(dir: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    // SAFETY: `path` is a NUL-terminated string that outlives the call, which returns a new fd.
    unsafe { call_fd(libc::SYS_open_tree, [arg(dir), str_arg(path), OPEN_TREE_CLOEXEC, 0, 0, 0]) }
}

/// A detached copy of the mount at `path` below `dir` (with the mounts below it when `recursive`), as `bind` would make. The last
/// component's symbolic link is followed. `open_tree(2)` with `OPEN_TREE_CLONE`
pub fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: `path` is a NUL-terminated string that outlives the call, which returns a new fd.
    unsafe { call_fd(libc::SYS_open_tree, [arg(dir), str_arg(path), flags, 0, 0, 0]) }
}

/// As [`clone_tree`], of the thing that `of` was opened as (O_PATH will do).
pub fn clone_tree_fd(of: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a static NUL-terminated string; the call returns a new fd.
    unsafe { call_fd(libc::SYS_open_tree, [arg(of), str_arg(c""), flags, 0, 0, 0]) }
}

/// Attaches the mount `mnt` on top of what `to` was opened as. `move_mount(2)` with both paths empty
pub fn attach(mnt: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are static NUL-terminated strings.
    unsafe { call(libc::SYS_move_mount, [arg(mnt), str_arg(c""), arg(to), str_arg(c""), flags, 0]) }.map(drop)
}

/// Attaches the mount `mnt` at `path` below `dir`; a symbolic link at the end is not followed. `move_mount(2)`
pub fn attach_at(mnt: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &CStr) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH;
    // SAFETY: both paths are NUL-terminated strings that outlive the call.
    unsafe { call(libc::SYS_move_mount, [arg(mnt), str_arg(c""), arg(dir), str_arg(path), flags, 0]) }.map(drop)
}

/// A context for a new file system of this type. `fsopen(2)`
pub fn fsopen(fstype: &CStr) -> Result<OwnedFd> {
    // SAFETY: `fstype` is a NUL-terminated string that outlives the call, which returns a new fd.
    unsafe { call_fd(libc::SYS_fsopen, [str_arg(fstype), FSOPEN_CLOEXEC, 0, 0, 0, 0]) }
}

/// Sets an option that has a value (at most 255 bytes). `fsconfig(2)`
pub fn fsconfig_set_string(fs: BorrowedFd<'_>, key: &CStr, value: &CStr) -> Result<()> {
    // SAFETY: key and value are NUL-terminated strings that outlive the call.
    unsafe { call(libc::SYS_fsconfig, [arg(fs), FSCONFIG_SET_STRING, str_arg(key), str_arg(value), 0, 0]) }.map(drop)
}

/// Sets an option without a value. `fsconfig(2)`
pub fn fsconfig_set_flag(fs: BorrowedFd<'_>, key: &CStr) -> Result<()> {
    // SAFETY: `key` is a NUL-terminated string that outlives the call; no value is passed.
    unsafe { call(libc::SYS_fsconfig, [arg(fs), FSCONFIG_SET_FLAG, str_arg(key), 0, 0, 0]) }.map(drop)
}

/// Sets an option whose value is an open file. `fsconfig(2)`
pub fn fsconfig_set_fd(fs: BorrowedFd<'_>, key: &CStr, value: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: `key` is a NUL-terminated string that outlives the call; the fd is only looked up.
    unsafe { call(libc::SYS_fsconfig, [arg(fs), FSCONFIG_SET_FD, str_arg(key), 0, arg(value), 0]) }.map(drop)
}

/// Makes the superblock. `fsconfig(2)` with `FSCONFIG_CMD_CREATE`
pub fn fsconfig_create(fs: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no address is passed.
    unsafe { call(libc::SYS_fsconfig, [arg(fs), FSCONFIG_CMD_CREATE, 0, 0, 0, 0]) }.map(drop)
}

/// Applies the options to the superblock. `fsconfig(2)` with `FSCONFIG_CMD_RECONFIGURE`
pub fn fsconfig_reconfigure(fs: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no address is passed.
    unsafe { call(libc::SYS_fsconfig, [arg(fs), FSCONFIG_CMD_RECONFIGURE, 0, 0, 0, 0]) }.map(drop)
}

/// A detached mount of a file system, with these [`attr`] bits. `fsmount(2)`
pub fn fsmount(fs: BorrowedFd<'_>, attrs: u64) -> Result<OwnedFd> {
    // SAFETY: no address is passed; the call returns a new fd.
    unsafe { call_fd(libc::SYS_fsmount, [arg(fs), FSMOUNT_CLOEXEC, attrs as usize, 0, 0, 0]) }
}

/// A context for the file system mounted at `path` below `dir`, to reconfigure it. `fspick(2)`
pub fn fspick(dir: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    const FSPICK_CLOEXEC: usize = 1;
    const FSPICK_EMPTY_PATH: usize = 8;
    let flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
    // SAFETY: `path` is a NUL-terminated string that outlives the call, which returns a new fd.
    unsafe { call_fd(libc::SYS_fspick, [arg(dir), str_arg(path), flags, 0, 0, 0]) }
}

/// Changes attributes of the mount that `mnt` is the root of. `mount_setattr(2)`
pub fn mount_setattr(mnt: BorrowedFd<'_>, change: SetAttr<'_>) -> Result<()> {
    setattr(mnt, c"", AT_EMPTY_PATH, change)
}

/// Changes attributes of the mount at `path` below `dir`; a symbolic link at the end is not followed. `mount_setattr(2)`
pub fn mount_setattr_at(dir: BorrowedFd<'_>, path: &CStr, change: SetAttr<'_>) -> Result<()> {
    setattr(dir, path, AT_SYMLINK_NOFOLLOW, change)
}

fn setattr(dir: BorrowedFd<'_>, path: &CStr, flags: usize, change: SetAttr<'_>) -> Result<()> {
    let flags = flags | if change.recursive { AT_RECURSIVE } else { 0 };
    let attr = MountAttr {
        set: change.set | change.idmap.map_or(0, |_| attr::IDMAP),
        clear: change.clear,
        propagation: change.propagation.map_or(0, |p| p.flag()),
        userns_fd: change.idmap.map_or(0, |fd| arg(fd) as u64),
    };
    let size = size_of::<MountAttr>();
    // SAFETY: `path` is NUL-terminated and `attr` a struct mount_attr of the size passed; both outlive the call.
    unsafe { call(libc::SYS_mount_setattr, [arg(dir), str_arg(path), flags, &raw const attr as usize, size, 0]) }
        .map(drop)
}

/// `mount(2)` with everything possible null.
fn mount(source: &CStr, target: &CStr, fstype: Option<&CStr>, flags: c_ulong, data: Option<&CStr>) -> Result<()> {
    let fstype = fstype.map_or(core::ptr::null(), CStr::as_ptr);
    let data = data.map_or(core::ptr::null(), |d| d.as_ptr().cast());
    // SAFETY: the strings are NUL-terminated and outlive the call; the file systems here take their options as a string.
    let ret = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), fstype, flags, data) };
    Errno::result(ret).map(drop)
}

/// Mounts a new file system on the working directory: fchdir to the (checked) directory first, so that no path is walked.
/// `flags` are `MS_*`. `mount(2)`
pub fn mount_here(source: &CStr, fstype: &CStr, flags: c_ulong, data: Option<&CStr>) -> Result<()> {
    mount(source, c".", Some(fstype), flags, data)
}

/// Mounts a new file system at a path. `mount(2)`
pub fn mount_at(source: &CStr, target: &CStr, fstype: &CStr, flags: c_ulong, data: Option<&CStr>) -> Result<()> {
    mount(source, target, Some(fstype), flags, data)
}

/// `mount(2)` with `MS_BIND`
pub fn bind(source: &CStr, target: &CStr, recursive: bool) -> Result<()> {
    mount(source, target, None, libc::MS_BIND | if recursive { libc::MS_REC } else { 0 }, None)
}

/// Sets the flags (`MS_RDONLY`, ...) of one mount, not of its file system. `mount(2)` with `MS_REMOUNT|MS_BIND`
pub fn remount(target: &CStr, flags: c_ulong) -> Result<()> {
    mount(c"none", target, None, libc::MS_REMOUNT | libc::MS_BIND | flags, None)
}

/// `mount(2)` with one of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`
pub fn set_propagation(target: &CStr, propagation: Propagation, recursive: bool) -> Result<()> {
    mount(c"none", target, None, propagation.flag() | if recursive { libc::MS_REC } else { 0 }, None)
}

/// Takes the mount at `target` away; `detach` = lazily (`MNT_DETACH`). A symbolic link is not followed. `umount2(2)`
pub fn umount(target: &CStr, detach: bool) -> Result<()> {
    let flags: c_int = libc::UMOUNT_NOFOLLOW | if detach { libc::MNT_DETACH } else { 0 };
    // SAFETY: `target` is a NUL-terminated string that outlives the call.
    Errno::result(unsafe { libc::umount2(target.as_ptr(), flags) }).map(drop)
}

/// `pivot_root(2)`
pub fn pivot_root(new: &CStr, old: &CStr) -> Result<()> {
    // SAFETY: both are NUL-terminated strings that outlive the call.
    unsafe { call(libc::SYS_pivot_root, [str_arg(new), str_arg(old), 0, 0, 0, 0]) }.map(drop)
}
