//! Extended attributes of open files.

use super::{Result, arg, call, str_arg};
use std::ffi::CStr;
use std::os::fd::BorrowedFd;

/// Sets an extended attribute of an open file (not an O_PATH fd). `fsetxattr(2)`
pub fn fsetxattr(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<()> {
    let args = [arg(fd), str_arg(name), value.as_ptr() as usize, value.len(), 0, 0];
    // SAFETY: `name` is NUL-terminated and the kernel reads `value.len()` bytes of `value`; both outlive the call.
    unsafe { call(libc::SYS_fsetxattr, args) }.map(drop)
}

/// Reads an extended attribute of an open file (not an O_PATH fd): the part of `buf` that was filled. `fgetxattr(2)`
pub fn fgetxattr<'b>(fd: BorrowedFd<'_>, name: &CStr, buf: &'b mut [u8]) -> Result<&'b [u8]> {
    let args = [arg(fd), str_arg(name), buf.as_mut_ptr() as usize, buf.len(), 0, 0];
    // SAFETY: `name` is NUL-terminated and the kernel writes at most `buf.len()` bytes into `buf`.
    let len = unsafe { call(libc::SYS_fgetxattr, args) }?;
    Ok(&buf[..len])
}
