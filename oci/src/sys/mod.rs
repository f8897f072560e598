//! One thin safe function per system call: all `unsafe` of this crate is here.
//!
//! * Borrowed fds and `&CStr` in, `Result<_, Errno>` out; a new fd is an [`OwnedFd`] and has CLOEXEC set.
//! * Nothing here allocates, logs or takes a lock: a child may call everything between `clone3(2)` and `execve(2)`.
//! * No policy and no invented path. Multiplexed calls are cut up into one function per meaning.
//!
//! Files by subject: [`mount`], [`path`], [`process`], [`cred`], [`fd`], [`memory`], [`random`], [`seccomp`], [`bpf`], [`term`], [`clock`], [`xattr`], [`net`], [`netns`], [`socket`].
#![allow(unsafe_code)]

pub mod bpf;
pub mod clock;
pub mod cred;
pub mod fd;
pub mod memory;
pub mod mount;
pub mod net;
pub mod netns;
pub mod path;
pub mod process;
pub mod random;
pub mod seccomp;
pub mod socket;
pub mod term;
pub mod xattr;

pub use nix::errno::Errno;

use std::ffi::{CStr, c_long};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What every call here returns.
pub type Result<T> = core::result::Result<T, Errno>;

/// Makes a system call.
///
/// # Safety
/// Every argument that the kernel takes for `nr` as an address must be valid for what the kernel reads or writes there, and the
/// call must not end the validity of an fd or mapping that somebody else owns.
unsafe fn call(nr: c_long, args: [usize; 6]) -> Result<usize> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: libc::syscall passes its arguments to the kernel as they are; that they suit `nr` is what our caller promises.
    let ret = unsafe { libc::syscall(nr, a, b, c, d, e, f) };
    Errno::result(ret).map(|r| r as usize)
}

/// Makes a system call that returns a new fd.
///
/// # Safety
/// As for [`call`]; and a successful `nr` must return an fd that nobody owns yet.
unsafe fn call_fd(nr: c_long, args: [usize; 6]) -> Result<OwnedFd> {
    // SAFETY: our caller promises what `call` asks for.
    let raw = unsafe { call(nr, args) }?;
    // SAFETY: our caller promises that the number is a new fd without an owner.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as i32) })
}

/// An fd as a system call argument (sign-extended, so that `AT_FDCWD` works).
fn arg(fd: BorrowedFd<'_>) -> usize {
    fd.as_raw_fd() as isize as usize
}

/// A string as a system call argument.
fn str_arg(s: &CStr) -> usize {
    s.as_ptr() as usize
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut f: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match f() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}
