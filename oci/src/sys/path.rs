//! Paths and what they name: opened, made and looked at relative to an fd.

use super::{Errno, Result, arg, call, call_fd, retry, str_arg};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

pub use nix::fcntl::AT_FDCWD as CWD;

/// `resolve` bits of `openat2(2)`.
pub mod resolve {
    /// `RESOLVE_NO_XDEV`
    pub const NO_XDEV: u64 = 0x01;
    /// `RESOLVE_NO_MAGICLINKS`
    pub const NO_MAGICLINKS: u64 = 0x02;
    /// `RESOLVE_NO_SYMLINKS`
    pub const NO_SYMLINKS: u64 = 0x04;
    /// `RESOLVE_BENEATH`
    pub const BENEATH: u64 = 0x08;
    /// `RESOLVE_IN_ROOT`
    pub const IN_ROOT: u64 = 0x10;
}

/// `struct open_how` of `openat2(2)`. The default opens for reading and resolves as `openat(2)` does.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    /// `O_*`; O_CLOEXEC is added.
    pub flags: u64,
    /// Permissions of a file that the call makes; must be 0 when none can be made.
    pub mode: u64,
    /// Bits of [`resolve`].
    pub resolve: u64,
}

/// How often a lookup is repeated when a rename elsewhere disturbed it.
const OPENAT2_TRIES: u32 = 128;

/// Opens `path` below `dir`. EAGAIN (a rename or mount raced with a scoped lookup) is tried again, a bounded number of times.
/// `openat2(2)`
pub fn openat2(dir: BorrowedFd<'_>, path: &CStr, how: How) -> Result<OwnedFd> {
    let how = How { flags: how.flags | libc::O_CLOEXEC as u64, ..how };
    let mut tries = 0;
    loop {
        let args = [arg(dir), str_arg(path), &raw const how as usize, size_of::<How>(), 0, 0];
        // SAFETY: `path` is NUL-terminated, `how` is a struct open_how of the size passed, both outlive the call; it returns a new fd.
        match unsafe { call_fd(libc::SYS_openat2, args) } {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if tries < OPENAT2_TRIES => tries += 1,
            other => return other,
        }
    }
}

/// Opens `path` below `dir`: `flags` are `O_*`, O_CLOEXEC is added. `openat(2)`
pub fn openat(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd> {
    let flags = (flags | libc::O_CLOEXEC) as usize;
    // SAFETY: `path` is a NUL-terminated string that outlives the call, which returns a new fd.
    retry(|| unsafe { call_fd(libc::SYS_openat, [arg(dir), str_arg(path), flags, mode as usize, 0, 0]) })
}

/// `mkdirat(2)`
pub fn mkdirat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    unsafe { call(libc::SYS_mkdirat, [arg(dir), str_arg(name), mode as usize, 0, 0, 0]) }.map(drop)
}

/// Makes a file of a kind (`S_IFREG`, `S_IFCHR`, `S_IFBLK`, `S_IFIFO`, `S_IFSOCK`) with permissions; `dev` from [`makedev`]. `mknodat(2)`
pub fn mknodat(dir: BorrowedFd<'_>, name: &CStr, mode: u32, dev: u64) -> Result<()> {
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    unsafe { call(libc::SYS_mknodat, [arg(dir), str_arg(name), mode as usize, dev as usize, 0, 0]) }.map(drop)
}

/// A device number. `makedev(3)`
pub const fn makedev(major: u32, minor: u32) -> u64 {
    libc::makedev(major, minor)
}

/// `symlinkat(2)`
pub fn symlinkat(target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    // SAFETY: both are NUL-terminated strings that outlive the call.
    unsafe { call(libc::SYS_symlinkat, [str_arg(target), arg(dir), str_arg(name), 0, 0, 0]) }.map(drop)
}

/// Removes a name: of a directory when `is_dir`, else of anything but one. `unlinkat(2)`
pub fn unlinkat(dir: BorrowedFd<'_>, name: &CStr, is_dir: bool) -> Result<()> {
    let flags = if is_dir { libc::AT_REMOVEDIR as usize } else { 0 };
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    unsafe { call(libc::SYS_unlinkat, [arg(dir), str_arg(name), flags, 0, 0, 0]) }.map(drop)
}

/// Reads a symbolic link into `buf`: the part that was filled. `path` empty = `dir` itself is the link (O_PATH|O_NOFOLLOW). `readlinkat(2)`
pub fn readlinkat<'b>(dir: BorrowedFd<'_>, path: &CStr, buf: &'b mut [u8]) -> Result<&'b [u8]> {
    let args = [arg(dir), str_arg(path), buf.as_mut_ptr() as usize, buf.len(), 0, 0];
    // SAFETY: `path` is NUL-terminated and the kernel writes at most `buf.len()` bytes into `buf`.
    let len = unsafe { call(libc::SYS_readlinkat, args) }?;
    Ok(&buf[..len])
}

/// `fstat(2)`; works on an O_PATH fd.
pub fn fstat(fd: BorrowedFd<'_>) -> Result<libc::stat> {
    nix::sys::stat::fstat(fd)
}

/// Looks at `path` below `dir`; a symbolic link at the end is not followed. `fstatat(2)`
pub fn fstatat(dir: BorrowedFd<'_>, path: &CStr) -> Result<libc::stat> {
    nix::sys::stat::fstatat(dir, path, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// Whether our real user may execute the regular file at `path` (symbolic links are followed). EACCES when not, or when it is no regular
/// file. `faccessat(2)`, `stat(2)`
pub fn executable(path: &CStr) -> Result<()> {
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    unsafe { call(libc::SYS_faccessat, [arg(CWD), str_arg(path), libc::X_OK as usize, 0, 0, 0]) }?;
    let stat = nix::sys::stat::stat(path)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFREG { Ok(()) } else { Err(Errno::EACCES) }
}

/// The file system's magic number (`PROC_SUPER_MAGIC`, ...) and the rest. `fstatfs(2)`; works on an O_PATH fd.
pub fn fstatfs(fd: BorrowedFd<'_>) -> Result<libc::statfs> {
    // SAFETY: struct statfs is integers only, for which zeros are a value.
    let mut out: libc::statfs = unsafe { core::mem::zeroed() };
    // SAFETY: `out` is a struct statfs that outlives the call.
    retry(|| Errno::result(unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut out) }))?;
    Ok(out)
}

/// The type of the file system, as a number of `linux/magic.h`. `fstatfs(2)`
pub fn fs_magic(fd: BorrowedFd<'_>) -> Result<i64> {
    #[allow(clippy::unnecessary_cast, reason = "the field's type differs between targets")]
    fstatfs(fd).map(|s| s.f_type as i64)
}

/// `fchdir(2)`
pub fn fchdir(dir: BorrowedFd<'_>) -> Result<()> {
    nix::unistd::fchdir(dir)
}

/// `chdir(2)`
pub fn chdir(path: &CStr) -> Result<()> {
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    unsafe { call(libc::SYS_chdir, [str_arg(path), 0, 0, 0, 0, 0]) }.map(drop)
}

/// `chroot(2)`
pub fn chroot(path: &CStr) -> Result<()> {
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    unsafe { call(libc::SYS_chroot, [str_arg(path), 0, 0, 0, 0, 0]) }.map(drop)
}

/// The working directory as the kernel says it, without the NUL. It starts with `(unreachable)` when it is outside the root. `getcwd(2)`
pub fn getcwd(buf: &mut [u8]) -> Result<&[u8]> {
    // SAFETY: the kernel writes at most `buf.len()` bytes into `buf`.
    let len = unsafe { call(libc::SYS_getcwd, [buf.as_mut_ptr() as usize, buf.len(), 0, 0, 0, 0]) }?;
    Ok(&buf[..len.saturating_sub(1)])
}

/// Changes the owner of `path` below `dir` without following a symbolic link; empty = of what `dir` was opened as (O_PATH will do).
/// `fchownat(2)`
pub fn fchownat(dir: BorrowedFd<'_>, path: &CStr, uid: u32, gid: u32) -> Result<()> {
    let flags = (libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) as usize;
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    unsafe { call(libc::SYS_fchownat, [arg(dir), str_arg(path), uid as usize, gid as usize, flags, 0]) }.map(drop)
}

/// Changes the owner of an open file. `fchown(2)`
pub fn fchown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: no address is passed.
    unsafe { call(libc::SYS_fchown, [arg(fd), uid as usize, gid as usize, 0, 0, 0]) }.map(drop)
}

/// `fchmod(2)`; not on an O_PATH fd.
pub fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    // SAFETY: no address is passed.
    unsafe { call(libc::SYS_fchmod, [arg(fd), mode as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Changes permissions of `path` below `dir`, following a symbolic link. `fchmodat(2)`
pub fn fchmodat(dir: BorrowedFd<'_>, path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    unsafe { call(libc::SYS_fchmodat, [arg(dir), str_arg(path), mode as usize, 0, 0, 0]) }.map(drop)
}

/// `renameat2(2)` with `RENAME_NOREPLACE` when not `replace`.
pub fn rename(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>, new: &CStr, replace: bool) -> Result<()> {
    let flags = if replace { 0 } else { 1 };
    // SAFETY: both names are NUL-terminated strings that outlive the call.
    unsafe { call(libc::SYS_renameat2, [arg(from), str_arg(name), arg(to), str_arg(new), flags, 0]) }.map(drop)
}
