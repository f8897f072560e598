//! The system calls of both programs as functions. Results are the kernel's: negative errno or the value.

use crate::arch::{nr, syscall0, syscall1, syscall2, syscall3, syscall4, syscall5};

pub const ECHILD: i32 = 10;
pub const EAGAIN: i32 = 11;
pub const EBADF: i32 = 9;
pub const ENOENT: i32 = 2;
pub const EINVAL: i32 = 22;
pub const ENOSPC: i32 = 28;

pub const SIGINT: usize = 2;
pub const SIGKILL: usize = 9;
pub const SIGTERM: usize = 15;
pub const SIGCHLD: usize = 17;

pub const PR_SET_PDEATHSIG: usize = 1;
pub const PR_SET_DUMPABLE: usize = 4;
pub const PR_SET_NAME: usize = 15;
pub const PR_SET_SECCOMP: usize = 22;
pub const PR_SET_CHILD_SUBREAPER: usize = 36;
pub const PR_SET_NO_NEW_PRIVS: usize = 38;
pub const SECCOMP_MODE_FILTER: usize = 2;

pub const MADV_DONTNEED: usize = 4;
pub const AT_EMPTY_PATH: usize = 0x1000;
pub const F_GETFD: usize = 1;
pub const F_SETFD: usize = 2;
pub const FD_CLOEXEC: usize = 1;
const CLOEXEC: usize = 0o2000000;
const NONBLOCK: usize = 0o4000;

const AF_UNIX: usize = 1;
const SOCK_SEQPACKET: usize = 5;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const MSG_CTRUNC: i32 = 0x8;
const MSG_TRUNC: i32 = 0x20;
const MSG_DONTWAIT: usize = 0x40;
const MSG_NOSIGNAL: usize = 0x4000;
const MSG_CMSG_CLOEXEC: usize = 0x4000_0000;

const WNOHANG: usize = 1;
const WEXITED: usize = 4;
const WNOWAIT: usize = 0x0100_0000;
const WALL: usize = 0x4000_0000;
const P_ALL: usize = 0;

pub const POLLIN: i16 = 1;
pub const POLLOUT: i16 = 4;

use crate::proto::Msg;

/// Ends the process.
pub fn exit(status: usize) -> ! {
    loop {
        // SAFETY: exit_group takes no pointer and does not return.
        unsafe { syscall1(nr::EXIT_GROUP, status) };
    }
}

/// write(2), once: what these programs print fits into any pipe.
pub fn write(fd: usize, text: &[u8]) -> isize {
    // SAFETY: pointer and length are those of a live slice, which is only read.
    unsafe { syscall3(nr::WRITE, fd, text.as_ptr() as usize, text.len()) }
}

/// getpid(2).
pub fn getpid() -> i32 {
    // SAFETY: no arguments, always succeeds.
    unsafe { syscall0(nr::GETPID) as i32 }
}

/// getppid(2).
pub fn getppid() -> i32 {
    // SAFETY: no arguments, always succeeds.
    unsafe { syscall0(nr::GETPPID) as i32 }
}

/// setsid(2).
pub fn setsid() -> i32 {
    // SAFETY: no arguments, no memory.
    unsafe { syscall0(nr::SETSID) as i32 }
}

/// prctl(2) for options whose argument is a number.
pub fn prctl(option: usize, value: usize) -> i32 {
    // SAFETY: the options used here (dumpable, no_new_privs, subreaper, parent death signal) take a plain number and
    // want zeros behind it.
    unsafe { syscall5(nr::PRCTL, option, value, 0, 0, 0) as i32 }
}

/// Names the process for `ps` (an exec by descriptor would leave it a number).
pub fn set_name(name: &core::ffi::CStr) {
    // SAFETY: PR_SET_NAME reads a C string, at most 16 bytes of it.
    unsafe { syscall2(nr::PRCTL, PR_SET_NAME, name.as_ptr() as usize) };
}

/// One instruction of a classic BPF program, as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bpf {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// A whole BPF program (`struct sock_fprog`).
#[repr(C)]
pub struct BpfProgram {
    len: u16,
    code: *const Bpf,
}

// SAFETY: it points to an immutable static.
unsafe impl Sync for BpfProgram {}

impl BpfProgram {
    pub const fn new<const N: usize>(code: &'static [Bpf; N]) -> Self {
        BpfProgram { len: N as u16, code: code.as_ptr() }
    }
}

/// Puts this thread under a seccomp filter, for good.
pub fn seccomp(program: &'static BpfProgram) -> i32 {
    // SAFETY: the kernel reads `len` instructions at `code`, which is how `BpfProgram::new` made them.
    unsafe { syscall3(nr::PRCTL, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program as *const BpfProgram as usize) as i32 }
}

/// Every signal.
pub static ALL_SIGNALS: u64 = !0;
/// SIGCHLD alone.
pub static SIGCHLD_ONLY: u64 = 1 << (SIGCHLD - 1);
/// No signal.
pub static NO_SIGNALS: u64 = 0;

const SIG_SETMASK: usize = 2;
const SIGSET_BYTES: usize = 8;

/// Replaces the signal mask.
pub fn set_mask(set: &'static u64) {
    // SAFETY: the set is read only, the old one is not asked for.
    unsafe { syscall4(nr::RT_SIGPROCMASK, SIG_SETMASK, set as *const u64 as usize, 0, SIGSET_BYTES) };
}

/// Waits for any signal of `set` and takes it; its number, or negative errno after SIGSTOP and SIGCONT. `info.pid` is who sent it, 0 when
/// that is nobody of our PID namespace.
pub fn wait_signal(set: &'static u64, info: &mut SignalInfo) -> isize {
    // SAFETY: the set is read only; the kernel writes one siginfo_t, which is 128 bytes, as `SignalInfo` is; no time limit is given.
    unsafe {
        syscall4(nr::RT_SIGTIMEDWAIT, set as *const u64 as usize, info as *mut SignalInfo as usize, 0, SIGSET_BYTES)
    }
}

/// `siginfo_t` of a signal that a process sent with kill(2).
#[repr(C)]
pub struct SignalInfo {
    head: [i32; 4],
    /// The sender.
    pub pid: i32,
    rest: [u32; 27],
}

const _: () = assert!(size_of::<SignalInfo>() == 128);

impl SignalInfo {
    pub const fn new() -> Self {
        SignalInfo { head: [0; 4], pid: 0, rest: [0; 27] }
    }
}

/// `struct sigaction` without a handler: `how` is `SIG_DFL` or `SIG_IGN`, flags, restorer and mask are zero.
#[repr(C)]
pub struct Disposition {
    how: usize,
    rest: [usize; 3],
}

/// The default.
pub static SIG_DFL: Disposition = Disposition { how: 0, rest: [0; 3] };
/// Ignored; for SIGCHLD this means that children leave no zombies.
pub static SIG_IGN: Disposition = Disposition { how: 1, rest: [0; 3] };

/// Sets what SIGCHLD does.
pub fn on_sigchld(disposition: &'static Disposition) {
    // SAFETY: the structure is the kernel's, is only read, and names no handler that could run.
    unsafe { syscall4(nr::RT_SIGACTION, SIGCHLD, disposition as *const Disposition as usize, 0, SIGSET_BYTES) };
}

/// close(2).
pub fn close(fd: i32) {
    // SAFETY: no memory; every descriptor here is a number that this program keeps itself.
    unsafe { syscall1(nr::CLOSE, fd as usize) };
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: usize) -> i32 {
    // SAFETY: no memory.
    unsafe { syscall3(nr::CLOSE_RANGE, first, u32::MAX as usize, 0) as i32 }
}

/// fcntl(2) for commands whose argument is a number.
pub fn fcntl(fd: i32, command: usize, value: usize) -> i32 {
    // SAFETY: F_GETFD and F_SETFD touch no memory.
    unsafe { syscall3(nr::FCNTL, fd as usize, command, value) as i32 }
}

/// dup3(2) without CLOEXEC.
pub fn dup_to(fd: i32, to: i32) -> i32 {
    // SAFETY: no memory.
    unsafe { syscall3(nr::DUP3, fd as usize, to as usize, 0) as i32 }
}

/// kill(2).
pub fn kill(pid: i32, signal: usize) {
    // SAFETY: no memory.
    unsafe { syscall2(nr::KILL, pid as usize, signal) };
}

/// pidfd_send_signal(2); 0 or negative errno.
pub fn pidfd_send_signal(pidfd: i32, signal: usize) -> i32 {
    // SAFETY: no memory: without a siginfo the kernel makes that of kill(2).
    unsafe { syscall4(nr::PIDFD_SEND_SIGNAL, pidfd as usize, signal, 0, 0) as i32 }
}

/// fork: the child runs on a copy of this memory.
pub fn fork() -> i32 {
    // SAFETY: no CLONE_VM, so that the child has memory and stack of its own; no pointer is passed.
    unsafe { syscall5(nr::CLONE, SIGCHLD, 0, 0, 0, 0) as i32 }
}

/// Executes the file behind a descriptor; returns only on failure.
///
/// # Safety
/// Both arrays are ended by a null pointer and hold C strings.
pub unsafe fn exec_fd(fd: i32, argv: *const usize, envp: *const usize) -> i32 {
    // SAFETY: the path is an empty C string, the rest is the caller's promise.
    unsafe {
        syscall5(nr::EXECVEAT, fd as usize, c"".as_ptr() as usize, argv as usize, envp as usize, AT_EMPTY_PATH) as i32
    }
}

/// Reaps `pid` if it is dead: `pid`, 0 while it lives, or negative errno.
pub fn reap(pid: i32) -> i32 {
    // SAFETY: neither status nor usage is asked for.
    unsafe { syscall4(nr::WAIT4, pid as usize, 0, WNOHANG | WALL, 0) as i32 }
}

/// Ends `pid`, a child of ours, and waits until it is gone.
pub fn end(pid: i32) {
    kill(pid, SIGKILL);
    // SAFETY: neither status nor usage is asked for.
    unsafe { syscall4(nr::WAIT4, pid as usize, 0, WALL, 0) };
}

/// `siginfo_t` of a dead child.
#[repr(C)]
pub struct ChildInfo {
    signo: i32,
    errno: i32,
    /// `CLD_*`.
    pub code: i32,
    pad: i32,
    /// 0 = no child is dead.
    pub pid: i32,
    uid: u32,
    /// Exit code or signal.
    pub status: i32,
    rest: [u32; 25],
}

/// Fills in the first dead child and leaves it a zombie; `pid` stays 0 when there is none.
pub fn look_for_zombie(info: &mut ChildInfo) {
    info.pid = 0;
    let options = WEXITED | WNOHANG | WNOWAIT | WALL;
    // SAFETY: the kernel writes one siginfo_t, which is 128 bytes, as `ChildInfo` is.
    unsafe { syscall5(nr::WAITID, P_ALL, 0, info as *mut ChildInfo as usize, options, 0) };
}

const _: () = assert!(size_of::<ChildInfo>() == 128);

impl ChildInfo {
    pub const fn new() -> Self {
        ChildInfo { signo: 0, errno: 0, code: 0, pad: 0, pid: 0, uid: 0, status: 0, rest: [0; 25] }
    }
}

/// A descriptor that is readable while SIGCHLD is pending; CLOEXEC, non-blocking.
pub fn sigchld_fd() -> i32 {
    let set = &raw const SIGCHLD_ONLY;
    // SAFETY: the set is read only.
    unsafe { syscall4(nr::SIGNALFD4, usize::MAX, set as usize, SIGSET_BYTES, CLOEXEC | NONBLOCK) as i32 }
}

/// Takes the pending SIGCHLD off a [`sigchld_fd`].
pub fn drain_sigchld(fd: i32) {
    let mut info = [0u64; 16];
    let to = &raw mut info;
    // SAFETY: a signalfd_siginfo is 128 bytes, as the buffer is.
    unsafe { syscall3(nr::READ, fd as usize, to as usize, 128) };
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// CLOCK_MONOTONIC in milliseconds.
pub fn now_ms() -> i64 {
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    let to = &raw mut time;
    // SAFETY: the kernel writes one timespec.
    unsafe { syscall2(nr::CLOCK_GETTIME, 1, to as usize) };
    time.seconds * 1000 + time.nanoseconds / 1_000_000
}

/// `struct pollfd`.
#[repr(C)]
pub struct Poll {
    pub fd: i32,
    pub events: i16,
    pub revents: i16,
}

/// ppoll(2); negative `timeout_ms` waits for ever.
pub fn poll(fds: &mut [Poll; 2], timeout_ms: i64) {
    let mut time = Timespec { seconds: timeout_ms / 1000, nanoseconds: timeout_ms % 1000 * 1_000_000 };
    let limit = if timeout_ms < 0 { 0 } else { &raw mut time as usize };
    // SAFETY: two pollfd and a timespec, or none; no signal mask.
    unsafe { syscall5(nr::PPOLL, fds.as_mut_ptr() as usize, 2, limit, 0, 0) };
}

/// A connected pair of CLOEXEC `SOCK_SEQPACKET` sockets.
pub fn socket_pair(pair: &mut [i32; 2]) -> i32 {
    // SAFETY: the kernel writes two descriptors.
    unsafe { syscall4(nr::SOCKETPAIR, AF_UNIX, SOCK_SEQPACKET | CLOEXEC, 0, pair.as_mut_ptr() as usize) as i32 }
}

#[repr(C)]
struct Iov {
    base: usize,
    len: usize,
}

#[repr(C)]
struct MsgHdr {
    name: usize,
    name_len: usize,
    iov: *mut Iov,
    iov_len: usize,
    control: *mut Control,
    control_len: usize,
    flags: i32,
}

/// A control message with room for exactly one descriptor.
#[repr(C)]
struct Control {
    len: usize,
    level: i32,
    kind: i32,
    fd: i32,
}

/// Length of a control message with one descriptor. Two would fit into [`Control`] with its padding, so the length matters.
const ONE_FD: usize = 20;

/// Sends one packet, with `fd` if that is not negative, without waiting; 0 or negative errno.
pub fn send(socket: i32, message: &Msg, fd: i32) -> i32 {
    let mut iov = Iov { base: message as *const Msg as usize, len: size_of::<Msg>() };
    let mut control = Control { len: ONE_FD, level: SOL_SOCKET, kind: SCM_RIGHTS, fd };
    let control_len = if fd < 0 { 0 } else { size_of::<Control>() };
    let header =
        MsgHdr { name: 0, name_len: 0, iov: &mut iov, iov_len: 1, control: &mut control, control_len, flags: 0 };
    let from = &raw const header;
    // SAFETY: the header points to one live vector over a live message and to a control message of the stated length.
    let sent = unsafe { syscall3(nr::SENDMSG, socket as usize, from as usize, MSG_DONTWAIT | MSG_NOSIGNAL) as i32 };
    if sent < 0 { sent } else { 0 }
}

/// What [`receive`] got.
pub struct Packet {
    /// The bytes that fit.
    pub message: Msg,
    /// Bytes received, 0 at the end of the connection, or negative errno.
    pub len: i32,
    /// The packet was longer than a message.
    pub long: bool,
    /// More descriptors came than one, or the one could not be taken.
    pub fds_lost: bool,
    /// The descriptor that came, CLOEXEC and now ours, or -1.
    pub fd: i32,
}

/// Receives one packet without waiting.
pub fn receive(socket: i32) -> Packet {
    let mut message = Msg { kind: 0, a: 0, b: 0, pad: 0, key: 0 };
    let mut iov = Iov { base: &raw mut message as usize, len: size_of::<Msg>() };
    let mut control = Control { len: 0, level: 0, kind: 0, fd: -1 };
    let mut header = MsgHdr {
        name: 0,
        name_len: 0,
        iov: &mut iov,
        iov_len: 1,
        control: &mut control,
        control_len: ONE_FD,
        flags: 0,
    };
    let to = &raw mut header;
    // SAFETY: the kernel writes at most a message (any bytes are a valid one) and ONE_FD bytes of control message.
    let len = unsafe { syscall3(nr::RECVMSG, socket as usize, to as usize, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) as i32 };
    let has_fd = control.len == ONE_FD && control.level == SOL_SOCKET && control.kind == SCM_RIGHTS;
    Packet {
        message,
        len,
        long: header.flags & MSG_TRUNC != 0,
        fds_lost: header.flags & MSG_CTRUNC != 0,
        fd: if has_fd { control.fd } else { -1 },
    }
}
