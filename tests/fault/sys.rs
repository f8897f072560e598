//! The few system calls of the harness that no crate wraps: a seccomp filter with a listener, and its notifications.

#![allow(unsafe_code, reason = "the one place of this test with system calls that nobody wraps")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

/// Under this number the child keeps the listener until its `execve`, and we look for it.
const LISTENER: RawFd = 900;

/// A notification: a process stands before a system call and waits for our answer.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// What the answer refers to.
    pub id: u64,
    /// The thread.
    pub tid: i32,
    /// The number of the call.
    pub number: i64,
    /// Its arguments.
    pub args: [u64; 6],
}

mod ioctl {
    nix::ioctl_readwrite!(receive, b'!', 0, libc::seccomp_notif);
    nix::ioctl_readwrite!(send, b'!', 1, libc::seccomp_notif_resp);
}

/// `Ok(None)`: the caller was killed before its notification was read.
pub fn receive(listener: BorrowedFd<'_>) -> nix::Result<Option<Call>> {
    // SAFETY: a struct of integers, for which zero is a value; the kernel demands zeroes.
    let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: `raw` is of the type that the number stands for and outlives the call.
    match unsafe { ioctl::receive(listener.as_raw_fd(), &raw mut raw) } {
        Ok(_) => Ok(Some(Call {
            id: raw.id,
            tid: i32::try_from(raw.pid).expect("a pid is positive"),
            number: i64::from(raw.data.nr),
            args: raw.data.args,
        })),
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Lets the call happen. Nothing happens when the caller is dead.
pub fn let_go(listener: BorrowedFd<'_>, id: u64) -> nix::Result<()> {
    let flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).expect("one bit");
    let mut raw = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
    // SAFETY: `raw` is of the type that the number stands for and outlives the call.
    match unsafe { ioctl::send(listener.as_raw_fd(), &raw mut raw) } {
        Ok(_) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Has the program install `filter`, with a listener, right before it is executed, after writing its pid to `tell`. Its `execve` is the first call that the
/// filter sees, so somebody has to answer before [`Command::spawn`] returns.
pub fn watched(command: &mut Command, filter: Arc<Vec<libc::sock_filter>>, tell: OwnedFd) {
    let install = move || {
        let pid = std::process::id().to_ne_bytes();
        nix::unistd::write(&tell, &pid)?;
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).expect("a short program"),
            filter: filter.as_ptr().cast_mut(),
        };
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        // SAFETY: `program` points to `len` instructions that the closure keeps alive; the kernel only reads them.
        let listener =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
        let listener = RawFd::try_from(nix::errno::Errno::result(listener)?).expect("an fd is small");
        // SAFETY: a number of our own child's table that nothing else uses.
        nix::errno::Errno::result(unsafe { libc::dup3(listener, LISTENER, libc::O_CLOEXEC) })?;
        Ok(())
    };
    // SAFETY: the closure makes system calls and touches memory that was allocated before the fork; it allocates nothing.
    unsafe { command.pre_exec(install) };
}

/// The listener of a process that is on its way through [`watched`]; `None` while it has not got that far.
pub fn listener_of(process: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    // SAFETY: three integers; the kernel makes a new fd or an error of them.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), LISTENER, 0) };
    match nix::errno::Errno::result(fd) {
        // SAFETY: the kernel has just made it, and nobody else owns it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).expect("an fd is small")) })),
        Err(nix::errno::Errno::EBADF) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// A pidfd.
pub fn pidfd(pid: i32) -> nix::Result<OwnedFd> {
    husk_oci::sys::process::pidfd_open(pid)
}

/// Waits for the end of a process; false when the time is up.
pub fn dies(process: &OwnedFd, patience: std::time::Duration) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let timeout = PollTimeout::try_from(patience).expect("a short time");
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
}
