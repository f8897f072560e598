//! File descriptors: pipes, sockets that carry fds, bulk closing, sealed memory, moving bytes inside the kernel.

use super::{Errno, Result, arg, call, call_fd, retry, str_arg};
use nix::fcntl::{FcntlArg, FdFlag, OFlag};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use nix::poll::{PollFd, PollFlags};

/// The largest number of fds that one [`send`] or [`recv`] carries.
pub const MAX_FDS: usize = 8;

/// A pipe as (read end, write end); `nonblocking` is for both ends. `pipe2(2)`
pub fn pipe(nonblocking: bool) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_CLOEXEC | if nonblocking { OFlag::O_NONBLOCK } else { OFlag::empty() };
    nix::unistd::pipe2(flags)
}

/// A connected pair of `SOCK_SEQPACKET` Unix sockets; both block. `socketpair(2)`
pub fn seqpacket_pair() -> Result<(OwnedFd, OwnedFd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
}

/// Room for the control message of [`MAX_FDS`] fds: header (16 bytes on 64-bit) and numbers.
#[repr(C, align(8))]
struct Control {
    len: usize,
    level: i32,
    kind: i32,
    fds: [i32; MAX_FDS],
}

const CONTROL_HEADER: usize = core::mem::offset_of!(Control, fds);

fn header(bytes: &mut libc::iovec, control: &mut Control, control_len: usize) -> libc::msghdr {
    // SAFETY: struct msghdr is integers and pointers, for which zeros (null, empty) are a value.
    let mut msg: libc::msghdr = unsafe { core::mem::zeroed() };
    msg.msg_iov = bytes;
    msg.msg_iovlen = 1;
    if control_len > 0 {
        msg.msg_control = (&raw mut *control).cast();
        msg.msg_controllen = control_len as _;
    }
    msg
}

/// Sends `bytes` as one packet with copies of `fds`, without SIGPIPE: the number of bytes sent. `sendmsg(2)`
///
/// # Errors
/// E2BIG for more than [`MAX_FDS`] fds; EAGAIN on a non-blocking socket that is full; EPIPE when the other side is gone.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize> {
    if fds.len() > MAX_FDS {
        return Err(Errno::E2BIG);
    }
    let used = CONTROL_HEADER + size_of_val(fds);
    let mut control = Control { len: used, level: libc::SOL_SOCKET, kind: libc::SCM_RIGHTS, fds: [-1; MAX_FDS] };
    for (slot, fd) in control.fds.iter_mut().zip(fds) {
        *slot = fd.as_raw_fd();
    }
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let msg = header(&mut iov, &mut control, if fds.is_empty() { 0 } else { used });
    retry(|| {
        // SAFETY: `msg` points to `iov` and `control`, which outlive the call; sendmsg only reads what they describe.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const msg, libc::MSG_NOSIGNAL) };
        Errno::result(sent).map(|n| n as usize)
    })
}

/// What [`recv`] got.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the packet that are in the buffer; 0 = the other side is gone.
    pub len: usize,
    /// The fds that came with it, first ones first.
    pub fds: [Option<OwnedFd>; MAX_FDS],
    /// The packet or its fds did not fit; what did not fit is lost (fds are closed by the kernel).
    pub truncated: bool,
}

/// Receives one packet and its fds (CLOEXEC). Waits, unless the socket is non-blocking (EAGAIN) or `dont_wait`. `recvmsg(2)`
pub fn recv(socket: BorrowedFd<'_>, bytes: &mut [u8], dont_wait: bool) -> Result<Received> {
    let mut control = Control { len: 0, level: 0, kind: 0, fds: [-1; MAX_FDS] };
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut msg = header(&mut iov, &mut control, size_of::<Control>());
    let flags = libc::MSG_CMSG_CLOEXEC | if dont_wait { libc::MSG_DONTWAIT } else { 0 };
    let len = retry(|| {
        // SAFETY: `msg` points to `iov` over `bytes` and to `control`, with their true sizes; all outlive the call.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut msg, flags) };
        Errno::result(got).map(|n| n as usize)
    })?;
    let (got, msg_flags) = (msg.msg_controllen as usize, msg.msg_flags);
    let mut fds = [const { None }; MAX_FDS];
    let rights = (control.level, control.kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS);
    if got >= CONTROL_HEADER && rights {
        let count = control.len.saturating_sub(CONTROL_HEADER) / size_of::<i32>();
        for (slot, raw) in fds.iter_mut().zip(control.fds).take(count) {
            // SAFETY: the kernel says in SCM_RIGHTS that it has put `raw` into our table just now, so nobody owns it yet.
            *slot = Some(unsafe { OwnedFd::from_raw_fd(raw) });
        }
    }
    Ok(Received { len, fds, truncated: msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 })
}

/// Closes every fd from `first` to `last`, both included. `close_range(2)`
///
/// For a child that has a table of its own and is about to exec or exit: an [`OwnedFd`] of that range that is used or dropped afterwards
/// would hit a stranger's fd, so the caller must be done with those.
pub fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: no address is passed.
    unsafe { call(libc::SYS_close_range, [first as usize, last as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Sets CLOEXEC on every fd from `first` on. `close_range(2)` with `CLOSE_RANGE_CLOEXEC` (Linux 5.11)
pub fn cloexec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: usize = 4;
    // SAFETY: no address is passed.
    unsafe { call(libc::SYS_close_range, [first as usize, u32::MAX as usize, CLOSE_RANGE_CLOEXEC, 0, 0, 0]) }.map(drop)
}

/// Makes the number `number` a copy of `fd` that survives exec; what it was before is closed. For a child that arranges its
/// fds. The two may be the same: then only CLOEXEC is cleared. `dup3(2)`
pub fn place(fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
    if fd.as_raw_fd() == number {
        return set_cloexec(fd, false);
    }
    // SAFETY: no address is passed.
    retry(|| unsafe { call(libc::SYS_dup3, [arg(fd), number as usize, 0, 0, 0, 0]) }).map(drop)
}

/// A copy of `fd` with a number of at least `min`. `fcntl(2)` with `F_DUPFD_CLOEXEC`
pub fn dup_from(fd: BorrowedFd<'_>, min: RawFd) -> Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes a number and returns a new fd.
    unsafe { call_fd(libc::SYS_fcntl, [arg(fd), libc::F_DUPFD_CLOEXEC as usize, min as usize, 0, 0, 0]) }
}

/// Takes over the fd `number` (3..=63) that this process was started with, and sets CLOEXEC on it.
///
/// # Errors
/// EBADF when it is not open, was taken before, or is out of range.
pub fn inherit(number: RawFd) -> Result<OwnedFd> {
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    if !(3..64).contains(&number) || TAKEN.fetch_or(1 << number, Ordering::Relaxed) & (1 << number) != 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: no address is passed; an fd that is not open is EBADF.
    unsafe { call(libc::SYS_fcntl, [number as usize, libc::F_SETFD as usize, libc::FD_CLOEXEC as usize, 0, 0, 0]) }?;
    // SAFETY: it is open, and the bit above lets every number through once. That no other code of ours owns an fd of
    // this number is the meaning of "was started with": callers do this before they open anything.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sets or clears CLOEXEC. `fcntl(2)`
pub fn set_cloexec(fd: BorrowedFd<'_>, on: bool) -> Result<()> {
    let flag = if on { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    nix::fcntl::fcntl(fd, FcntlArg::F_SETFD(flag)).map(drop)
}

/// Sets or clears O_NONBLOCK of the open file. `fcntl(2)`
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> Result<()> {
    let now = OFlag::from_bits_retain(nix::fcntl::fcntl(fd, FcntlArg::F_GETFL)?);
    let mut new = now;
    new.set(OFlag::O_NONBLOCK, on);
    if new == now { Ok(()) } else { nix::fcntl::fcntl(fd, FcntlArg::F_SETFL(new)).map(drop) }
}

/// Whether somebody has the regular file open for writing; `file` is open for reading only. A lease cannot be had then, which is what this asks: it gives the lease back at once. A
/// writer that comes in between waits for that, and SIGIO, which would end this process, is sent to it: the caller has it blocked in every thread. `fcntl(2)` with `F_SETLEASE`
///
/// # Errors
/// EINVAL and EACCES where the file system, or a user who is not root, has no leases: nobody knows then.
pub fn has_writer(file: BorrowedFd<'_>) -> Result<bool> {
    let lease = |kind: i32| {
        // SAFETY: F_SETLEASE takes a number and touches no memory of ours.
        unsafe { call(libc::SYS_fcntl, [arg(file), libc::F_SETLEASE as usize, kind as usize, 0, 0, 0]) }
    };
    match lease(libc::F_RDLCK) {
        Ok(_) => lease(libc::F_UNLCK).map(|_| false),
        Err(Errno::EAGAIN) => Ok(true),
        Err(e) => Err(e),
    }
}

/// How the file was opened (`O_*`). `fcntl(2)` with `F_GETFL`
pub fn open_flags(fd: BorrowedFd<'_>) -> Result<i32> {
    nix::fcntl::fcntl(fd, FcntlArg::F_GETFL)
}

/// Asks for a pipe buffer of at least `bytes`: what it became. `fcntl(2)` with `F_SETPIPE_SZ`
pub fn set_pipe_size(pipe: BorrowedFd<'_>, bytes: i32) -> Result<usize> {
    nix::fcntl::fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes)).map(|n| n as usize)
}

/// Takes (or gives back, `None`) an advisory lock of the whole open file: `Some(true)` exclusive, `Some(false)` shared. Does not wait:
/// EWOULDBLOCK when somebody else holds it. `flock(2)`
pub fn flock(fd: BorrowedFd<'_>, exclusive: Option<bool>) -> Result<()> {
    let op = match exclusive {
        Some(true) => libc::LOCK_EX | libc::LOCK_NB,
        Some(false) => libc::LOCK_SH | libc::LOCK_NB,
        None => libc::LOCK_UN,
    };
    // SAFETY: no address is passed.
    retry(|| unsafe { call(libc::SYS_flock, [arg(fd), op as usize, 0, 0, 0, 0]) }).map(drop)
}

/// An anonymous file in memory that can be sealed; `executable` files may be passed to `execveat(2)`. `memfd_create(2)`
pub fn memfd(name: &CStr, executable: bool) -> Result<OwnedFd> {
    const MFD_CLOEXEC: usize = 1;
    const MFD_ALLOW_SEALING: usize = 2;
    const MFD_NOEXEC_SEAL: usize = 8;
    const MFD_EXEC: usize = 0x10;
    let wanted = if executable { MFD_EXEC } else { MFD_NOEXEC_SEAL };
    let base = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    // SAFETY: `name` is a NUL-terminated string that outlives the call, which returns a new fd.
    match unsafe { call_fd(libc::SYS_memfd_create, [str_arg(name), base | wanted, 0, 0, 0, 0]) } {
        // KERNEL(6.3): the two flags about execution are unknown before.
        // SAFETY: as above.
        Err(Errno::EINVAL) => unsafe { call_fd(libc::SYS_memfd_create, [str_arg(name), base, 0, 0, 0, 0]) },
        other => other,
    }
}

/// Forbids every later change of a memfd: no writing, growing, shrinking, nor other seals. `fcntl(2)` with `F_ADD_SEALS`
pub fn seal(memfd: BorrowedFd<'_>) -> Result<()> {
    use nix::fcntl::SealFlag;
    nix::fcntl::fcntl(memfd, FcntlArg::F_ADD_SEALS(SealFlag::all())).map(drop)
}

/// Reads once: the number of bytes, 0 at the end. EINTR is tried again. `read(2)`
pub fn read(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize> {
    retry(|| nix::unistd::read(fd, buf))
}

/// Writes once: the number of bytes. EINTR is tried again. `write(2)`
pub fn write(fd: BorrowedFd<'_>, buf: &[u8]) -> Result<usize> {
    retry(|| nix::unistd::write(fd, buf))
}

/// Waits until one of `fds` is ready or the time is up (`None` = for ever): how many are ready. EINTR is returned. `ppoll(2)`
pub fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<usize> {
    let spec = timeout.map(|t| libc::timespec { tv_sec: t.as_secs() as _, tv_nsec: t.subsec_nanos() as _ });
    let time = spec.as_ref().map_or(core::ptr::null(), |s| &raw const *s);
    // SAFETY: PollFd is a transparent struct pollfd, of which `fds.len()` are passed; `spec` outlives the call.
    let ready = unsafe { libc::ppoll(fds.as_mut_ptr().cast(), fds.len() as _, time, core::ptr::null()) };
    Errno::result(ready).map(|n| n as usize)
}

/// Copies up to `len` bytes from one pipe to another without consuming them, never waiting: EAGAIN when nothing can be. `tee(2)`
pub fn tee(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> Result<usize> {
    let flags = libc::SPLICE_F_NONBLOCK as usize;
    // SAFETY: no address is passed.
    retry(|| unsafe { call(libc::SYS_tee, [arg(from), arg(to), len, flags, 0, 0]) })
}

/// Moves up to `len` bytes between a pipe and another file (at its own offset), never waiting on the pipe: 0 at the end. `splice(2)`
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> Result<usize> {
    let flags = (libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE) as usize;
    // SAFETY: both offset addresses are null.
    retry(|| unsafe { call(libc::SYS_splice, [arg(from), 0, arg(to), 0, len, flags]) })
}

/// Bytes that can be read now. `FIONREAD`
pub fn readable_bytes(fd: BorrowedFd<'_>) -> Result<usize> {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes an int, which outlives the call.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut n) })?;
    Ok(n as usize)
}

/// A non-blocking inotify instance. `inotify_init1(2)`
pub fn inotify() -> Result<OwnedFd> {
    let flags = (libc::IN_CLOEXEC | libc::IN_NONBLOCK) as usize;
    // SAFETY: no address is passed; the call returns a new fd.
    unsafe { call_fd(libc::SYS_inotify_init1, [flags, 0, 0, 0, 0, 0]) }
}

/// A non-blocking counter of events, 0 at first. `eventfd2(2)`
pub fn eventfd() -> Result<OwnedFd> {
    let flags = (libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) as usize;
    // SAFETY: no address is passed; the call returns a new fd.
    unsafe { call_fd(libc::SYS_eventfd2, [0, flags, 0, 0, 0, 0]) }
}

/// Watches `path` for the events `mask` (`IN_*`): the watch's number. `inotify_add_watch(2)`
pub fn inotify_watch(inotify: BorrowedFd<'_>, path: &CStr, mask: u32) -> Result<i32> {
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    let wd = unsafe { call(libc::SYS_inotify_add_watch, [arg(inotify), str_arg(path), mask as usize, 0, 0, 0]) }?;
    Ok(wd as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn fds_travel_with_a_packet() {
        let (a, b) = seqpacket_pair().unwrap();
        let (r, w) = pipe(false).unwrap();
        assert_eq!(send(a.as_fd(), b"hello", &[w.as_fd(), r.as_fd()]).unwrap(), 5);
        drop(w);
        let mut buf = [0; 16];
        let got = recv(b.as_fd(), &mut buf, true).unwrap();
        assert_eq!((&buf[..got.len], got.truncated), (&b"hello"[..], false));
        let [Some(w), Some(_), None, ..] = &got.fds else { panic!("{:?}", got.fds) };
        assert_eq!(write(w.as_fd(), b"x").unwrap(), 1);
        assert_eq!(readable_bytes(r.as_fd()).unwrap(), 1);
        assert_eq!(recv(b.as_fd(), &mut buf, true).unwrap_err(), Errno::EAGAIN);
        drop(a);
        assert_eq!(recv(b.as_fd(), &mut buf, false).unwrap().len, 0);
    }

    #[test]
    fn a_sealed_memfd_cannot_change() {
        let m = memfd(c"t", true).unwrap();
        write(m.as_fd(), b"abc").unwrap();
        seal(m.as_fd()).unwrap();
        assert_eq!(write(m.as_fd(), b"d").unwrap_err(), Errno::EPERM);
    }

    #[test]
    fn an_inherited_number_is_given_out_once() {
        let (r, _w) = pipe(false).unwrap();
        let high = dup_from(r.as_fd(), 60).unwrap();
        let n = high.as_raw_fd();
        if n < 64 {
            std::mem::forget(high);
            assert!(inherit(n).is_ok());
            assert_eq!(inherit(n).unwrap_err(), Errno::EBADF);
        }
        assert_eq!(inherit(0).unwrap_err(), Errno::EBADF);
    }

    #[test]
    fn bytes_are_teed_and_spliced_between_pipes() {
        let (r, w) = pipe(false).unwrap();
        let (r2, w2) = pipe(false).unwrap();
        write(w.as_fd(), b"abc").unwrap();
        assert_eq!(tee(r.as_fd(), w2.as_fd(), 64).unwrap(), 3);
        assert_eq!(splice(r.as_fd(), w2.as_fd(), 64).unwrap(), 3);
        assert_eq!(readable_bytes(r2.as_fd()).unwrap(), 6);
        let mut fds = [PollFd::new(r2.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, Some(Duration::ZERO)).unwrap(), 1);
    }
}
