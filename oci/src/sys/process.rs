//! Processes: born, waited for, signalled, moved between namespaces, replaced by `execve(2)`.

use super::{Errno, Result, arg, call, call_fd, retry, str_arg};
use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Namespace flags (`CLONE_NEW*`), for [`CloneArgs::namespaces`], [`setns`] and [`unshare`].
pub mod ns {
    /// `CLONE_NEWNS`
    pub const MOUNT: u64 = 0x0002_0000;
    /// `CLONE_NEWCGROUP`
    pub const CGROUP: u64 = 0x0200_0000;
    /// `CLONE_NEWUTS`
    pub const UTS: u64 = 0x0400_0000;
    /// `CLONE_NEWIPC`
    pub const IPC: u64 = 0x0800_0000;
    /// `CLONE_NEWUSER`
    pub const USER: u64 = 0x1000_0000;
    /// `CLONE_NEWPID`
    pub const PID: u64 = 0x2000_0000;
    /// `CLONE_NEWNET`
    pub const NET: u64 = 0x4000_0000;
    /// All of them.
    pub const ALL: u64 = MOUNT | CGROUP | UTS | IPC | USER | PID | NET;
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// How [`spawn`] makes a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneArgs<'a> {
    /// New namespaces, bits of [`ns`].
    pub namespaces: u64,
    /// The new process is a child of our parent (`CLONE_PARENT`) and not ours.
    pub sibling: bool,
    /// The cgroup v2 directory it is born in (`CLONE_INTO_CGROUP`, Linux 5.7).
    pub into_cgroup: Option<BorrowedFd<'a>>,
}

/// A new process.
#[derive(Debug)]
pub struct Child {
    /// Its pid as the caller's PID namespace sees it.
    pub pid: i32,
    /// Its pidfd, which stays valid when the pid is used again.
    pub pidfd: OwnedFd,
}

/// `struct clone_args` of `clone3(2)`, as of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct RawCloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Makes a process that runs `child` on a copy of our memory and fds, with every signal blocked (in us, until the call returns).
/// The caller should have one thread: in a child of a process with more, a lock that another thread held is never released.
/// `clone3(2)`
///
/// `child` leaves by [`execve`] or [`exit`]; were it to unwind, the child is ended with 70.
///
/// # Errors
/// EINVAL for a bit that is no namespace, or for a new PID namespace while `pid_for_children` was switched by [`setns`]; ENOMEM when the
/// PID namespace has no init any more.
pub fn spawn(args: &CloneArgs<'_>, child: impl FnOnce() -> Infallible) -> Result<Child> {
    if args.namespaces & !ns::ALL != 0 {
        return Err(Errno::EINVAL);
    }
    let mut pidfd: c_int = -1;
    let mut raw = RawCloneArgs {
        flags: args.namespaces
            | CLONE_PIDFD
            | if args.sibling { CLONE_PARENT } else { 0 }
            | if args.into_cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
        pidfd: &raw mut pidfd as u64,
        // A sibling's exit signal is that of our own thread group; the kernel wants 0 here then.
        exit_signal: if args.sibling { 0 } else { libc::SIGCHLD as u64 },
        cgroup: args.into_cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..RawCloneArgs::default()
    };
    let mask = block_signals()?;
    // SAFETY: CLONE_VM is not in the flags (only namespace bits and the three above are) and `stack` is null, so the child works on a
    // copy of our memory and stack; `raw` and `pidfd` outlive the call and the size is the struct's own.
    let pid = unsafe { call(libc::SYS_clone3, [&raw mut raw as usize, size_of::<RawCloneArgs>(), 0, 0, 0, 0]) };
    if pid == Ok(0) {
        let _bomb = ExitOnUnwind;
        #[allow(unreachable_code, reason = "the child does not come back; the match says so to the type checker")]
        match child() {}
    }
    restore_signals(&mask);
    let pid = pid? as i32;
    // SAFETY: the call succeeded, so the kernel has put a new fd into `pidfd` that nobody owns yet.
    Ok(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Ends the process when a child's closure unwinds: the frames above belong to the parent.
struct ExitOnUnwind;

impl Drop for ExitOnUnwind {
    fn drop(&mut self) {
        exit(70)
    }
}

/// Bytes of stack for [`vfork_helper`] and for what it spawns.
const HELPER_STACK: usize = 1 << 20;

/// Runs `work` in a short-lived process that shares our memory and fds (`CLONE_VM|CLONE_VFORK|CLONE_FILES`) but has namespaces of its
/// own to change: what it opens, and what it stores through `work`'s captures, is there when this returns. The caller waits
/// until it is gone. Returns the helper's pid: a zombie to be reaped, by our parent when `sibling`. `clone(2)`
///
/// All signals are blocked meanwhile. `work` must not unwind (the helper would be aborted).
pub fn vfork_helper<F: FnOnce()>(sibling: bool, work: F) -> Result<i32> {
    extern "C" fn run<F: FnOnce()>(slot: *mut c_void) -> c_int {
        // SAFETY: `slot` is the address of the caller's `Option<F>`, which it neither moves nor uses while it waits for us.
        let work = unsafe { &mut *slot.cast::<Option<F>>() };
        if let Some(work) = work.take() {
            work();
        }
        0
    }
    let stack = Stack::new(HELPER_STACK)?;
    let mut slot = Some(work);
    let flags = libc::CLONE_VM
        | libc::CLONE_VFORK
        | libc::CLONE_FILES
        | libc::SIGCHLD
        | if sibling { libc::CLONE_PARENT } else { 0 };
    let mask = block_signals()?;
    // SAFETY: the stack is a mapping of our own that outlives the helper, since CLONE_VFORK makes us wait for its end; `run::<F>` gets the
    // address of a live `Option<F>`. Signals are blocked, so no handler runs on the shared memory.
    let pid = unsafe { libc::clone(run::<F>, stack.top(), flags, (&raw mut slot).cast()) };
    let pid = Errno::result(pid);
    restore_signals(&mask);
    pid
}

/// A mapping with a guard page at its low end.
struct Stack {
    base: *mut c_void,
    len: usize,
}

impl Stack {
    const GUARD: usize = 64 << 10;

    fn new(len: usize) -> Result<Stack> {
        let len = len + Self::GUARD;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(core::ptr::null_mut(), len, prot, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let stack = Stack { base, len };
        // SAFETY: the range is the low end of the mapping just made, and nothing is in it yet.
        Errno::result(unsafe { libc::mprotect(base, Self::GUARD, libc::PROT_NONE) })?;
        Ok(stack)
    }

    fn top(&self) -> *mut c_void {
        self.base.wrapping_byte_add(self.len)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the helper that ran on it is gone.
        unsafe { libc::munmap(self.base, self.len) };
    }
}

/// Signal mask of before [`block_signals`].
#[derive(Debug)]
pub struct SignalMask(u64);

fn sigmask(how: c_int, new: u64) -> Result<SignalMask> {
    let mut old = 0u64;
    let args = [how as usize, &raw const new as usize, &raw mut old as usize, size_of::<u64>(), 0, 0];
    // SAFETY: both addresses are of kernel signal sets (64 bits, the size passed) that outlive the call.
    unsafe { call(libc::SYS_rt_sigprocmask, args) }?;
    Ok(SignalMask(old))
}

/// Blocks every signal for this thread: the mask of before. `rt_sigprocmask(2)`
pub fn block_signals() -> Result<SignalMask> {
    sigmask(libc::SIG_SETMASK, u64::MAX)
}

/// Sets the mask of before.
pub fn restore_signals(mask: &SignalMask) {
    // It can't fail: the address is good and the size is the kernel's.
    let _ = sigmask(libc::SIG_SETMASK, mask.0);
}

/// Empties the signal mask, as a program expects at its start. `rt_sigprocmask(2)`
pub fn unblock_signals() -> Result<()> {
    sigmask(libc::SIG_SETMASK, 0).map(drop)
}

/// Gives every signal its default action, ignored ones too (they would stay ignored after exec). `rt_sigaction(2)`
pub fn default_signals() {
    /// `struct sigaction` of the kernel, zeroed: SIG_DFL without flags.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in (1..=64).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s)) {
        let args = [signal as usize, DEFAULT.as_ptr() as usize, 0, size_of::<u64>(), 0, 0];
        // SAFETY: DEFAULT is at least as large as the kernel's struct sigaction; it installs no handler. Valid numbers can't fail.
        let _ = unsafe { call(libc::SYS_rt_sigaction, args) };
    }
}

/// Has the kernel reap our children by itself, as `SIGCHLD` ignored means; a wait for one of them then ends in ECHILD, when it has ended.
/// Programs that children execute find it ignored too, unless they change that. `rt_sigaction(2)`
pub fn leave_no_zombies() {
    /// `struct sigaction` of the kernel: SIG_IGN without flags.
    const IGNORE: [u64; 4] = [1, 0, 0, 0];
    let args = [libc::SIGCHLD as usize, IGNORE.as_ptr() as usize, 0, size_of::<u64>(), 0, 0];
    // SAFETY: IGNORE is at least as large as the kernel's struct sigaction; it installs no handler. A valid number can't fail.
    let _ = unsafe { call(libc::SYS_rt_sigaction, args) };
}

/// A pidfd of the process `pid`. `pidfd_open(2)`
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: no address is passed; the call returns a new fd.
    unsafe { call_fd(libc::SYS_pidfd_open, [pid as usize, 0, 0, 0, 0, 0]) }
}

/// Sends a signal (0 = only asks whether it could). ESRCH when the process is dead and reaped. `pidfd_send_signal(2)`
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: the siginfo address is null, which means "as kill(2) does".
    unsafe { call(libc::SYS_pidfd_send_signal, [arg(pidfd), signal as usize, 0, 0, 0, 0]) }.map(drop)
}

/// The pid behind a pidfd as our PID namespace sees it. `PIDFD_GET_INFO`, since Linux 6.13: ENOTTY before
pub fn pidfd_pid(pidfd: BorrowedFd<'_>) -> Result<i32> {
    /// `struct pidfd_info`, first version: mask, cgroup id, pid, tgid, ppid, eight ids, reserved.
    #[repr(C)]
    struct Info {
        mask: u64,
        cgroup: u64,
        pid: u32,
        rest: [u32; 11],
    }
    const PIDFD_INFO_PID: u64 = 1;
    /// `_IOWR(0xff, 11, struct pidfd_info)`
    const PIDFD_GET_INFO: usize = 0xc000_0000 | (size_of::<Info>() << 16) | 0xff00 | 11;
    let mut info = Info { mask: PIDFD_INFO_PID, cgroup: 0, pid: 0, rest: [0; 11] };
    // SAFETY: `info` has the layout and size that the request number says, and outlives the call.
    unsafe { call(libc::SYS_ioctl, [arg(pidfd), PIDFD_GET_INFO, &raw mut info as usize, 0, 0, 0]) }?;
    i32::try_from(info.pid).map_err(|_| Errno::EOVERFLOW)
}

/// Whom [`wait`] waits for.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// `P_PIDFD`
    Pidfd(BorrowedFd<'a>),
    /// `P_PID`
    Pid(i32),
    /// `P_ALL`
    All,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its pid.
    pub pid: i32,
    /// `CLD_EXITED`, `CLD_KILLED` or `CLD_DUMPED`.
    pub code: i32,
    /// Exit code or signal, as `code` says.
    pub status: i32,
}

/// Waits for a child (of any exit signal) to end, and reaps it unless `keep` (`WNOWAIT`). With `no_hang`, `None` when none has ended.
/// `waitid(2)`
pub fn wait(target: Target<'_>, no_hang: bool, keep: bool) -> Result<Option<Exit>> {
    const P_PIDFD: usize = 3;
    let (kind, id) = match target {
        Target::Pidfd(fd) => (P_PIDFD, arg(fd)),
        Target::Pid(pid) => (libc::P_PID as usize, pid as usize),
        Target::All => (libc::P_ALL as usize, 0),
    };
    let flags =
        libc::WEXITED | libc::__WALL | if no_hang { libc::WNOHANG } else { 0 } | if keep { libc::WNOWAIT } else { 0 };
    // SAFETY: siginfo_t is integers and pointers, for which zeros are a value.
    let mut info: libc::siginfo_t = unsafe { core::mem::zeroed() };
    retry(|| {
        // SAFETY: `info` is a siginfo_t that outlives the call; the rusage address is null.
        unsafe { call(libc::SYS_waitid, [kind, id, &raw mut info as usize, flags as usize, 0, 0]) }
    })?;
    // SAFETY: waitid filled the part of a child's end in, or left it zero.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: as above, and now it was filled in.
    let status = unsafe { info.si_status() };
    Ok(Some(Exit { pid, code: info.si_code, status }))
}

/// Joins namespaces: all of `namespaces` (bits of [`ns`]) of the process behind a pidfd (Linux 5.8), or the one that an nsfs fd names.
/// `setns(2)`
pub fn setns(of: BorrowedFd<'_>, namespaces: u64) -> Result<()> {
    // SAFETY: no address is passed.
    unsafe { call(libc::SYS_setns, [arg(of), namespaces as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Leaves namespaces for new ones (bits of [`ns`]). `unshare(2)`
pub fn unshare(namespaces: u64) -> Result<()> {
    // SAFETY: only namespace bits are let through, so no memory or fd table changes hands; no address is passed.
    unsafe { call(libc::SYS_unshare, [(namespaces & ns::ALL) as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// `setsid(2)`
pub fn setsid() -> Result<()> {
    nix::unistd::setsid().map(drop)
}

/// Our pid, from the kernel. `getpid(2)`
pub fn getpid() -> i32 {
    nix::unistd::getpid().as_raw()
}

/// Our parent's pid; 0 when it is outside our PID namespace. `getppid(2)`
pub fn getppid() -> i32 {
    nix::unistd::getppid().as_raw()
}

/// Ends the process without running anything of ours. `_exit(2)`
pub fn exit(code: i32) -> ! {
    // SAFETY: nothing of the process is used afterwards.
    unsafe { libc::_exit(code) }
}

/// A NULL-terminated array of strings for [`execve`], made before the clone.
#[derive(Debug)]
pub struct Strings {
    /// What `pointers` point into; a CString's bytes do not move with it.
    owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Strings {
    /// Takes the strings over.
    pub fn new(owned: Vec<CString>) -> Strings {
        let pointers = owned.iter().map(|s| s.as_ptr()).chain([core::ptr::null()]).collect();
        Strings { owned, pointers }
    }

    /// The strings themselves.
    pub fn as_slice(&self) -> &[CString] {
        &self.owned
    }
}

/// Replaces the program. Returns only when that failed. `execve(2)`
pub fn execve(path: &CStr, argv: &Strings, env: &Strings) -> Errno {
    let args = [str_arg(path), argv.pointers.as_ptr() as usize, env.pointers.as_ptr() as usize, 0, 0, 0];
    // SAFETY: the path is NUL-terminated, both arrays end with null and point to NUL-terminated strings; all are alive.
    unsafe { call(libc::SYS_execve, args) }.err().unwrap_or(Errno::UnknownErrno)
}

/// As [`execve`], of `path` below `dir`; empty = of what `dir` was opened as. `execveat(2)`
pub fn execveat(dir: BorrowedFd<'_>, path: &CStr, argv: &Strings, env: &Strings) -> Errno {
    let (argv, env) = (argv.pointers.as_ptr() as usize, env.pointers.as_ptr() as usize);
    let flags = if path.is_empty() { libc::AT_EMPTY_PATH as usize } else { 0 };
    // SAFETY: the path is NUL-terminated, both arrays end with null and point to NUL-terminated strings; all are alive.
    unsafe { call(libc::SYS_execveat, [arg(dir), str_arg(path), argv, env, flags, 0]) }
        .err()
        .unwrap_or(Errno::UnknownErrno)
}

fn prctl(option: c_int, value: usize) -> Result<usize> {
    // SAFETY: only options that take a number are passed by the functions below (the name has its own call).
    unsafe { call(libc::SYS_prctl, [option as usize, value, 0, 0, 0, 0]) }
}

/// The signal this process gets when its parent (the thread that made it) ends; 0 = none. Cleared by a change of credentials that
/// gains something, so set it after those, and look whether the parent is still there. `PR_SET_PDEATHSIG`
pub fn set_parent_death_signal(signal: i32) -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as usize).map(drop)
}

/// Whether processes of the same user may look into us (`/proc/self`, ptrace). `PR_SET_DUMPABLE`
pub fn set_dumpable(on: bool) -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, on as usize).map(drop)
}

/// See [`set_dumpable`]. `PR_GET_DUMPABLE`
pub fn dumpable() -> Result<bool> {
    prctl(libc::PR_GET_DUMPABLE, 0).map(|n| n == 1)
}

/// No program started from here on gains privileges. `PR_SET_NO_NEW_PRIVS`
pub fn set_no_new_privs() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// Whether orphans below us become our children. `PR_SET_CHILD_SUBREAPER`
pub fn set_child_subreaper(on: bool) -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, on as usize).map(drop)
}

/// The name that `ps` shows, up to 15 bytes. `PR_SET_NAME`
pub fn set_name(name: &CStr) -> Result<()> {
    let mut padded = [0u8; 16];
    for (to, from) in padded.iter_mut().zip(name.to_bytes().iter().take(15)) {
        *to = *from;
    }
    // SAFETY: PR_SET_NAME reads at most 16 bytes, of which the last is 0; `padded` outlives the call.
    unsafe { call(libc::SYS_prctl, [libc::PR_SET_NAME as usize, padded.as_ptr() as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Sets the mask of permissions that new files do not get: the mask of before. `umask(2)`
pub fn umask(mask: u32) -> u32 {
    // SAFETY: umask takes a number and always succeeds.
    unsafe { libc::umask(mask) }
}

/// A resource limit: soft and hard, `u64::MAX` = unlimited.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is enforced.
    pub soft: u64,
    /// How far `soft` may be raised.
    pub hard: u64,
}

/// Reads and, with `new`, sets a limit (`RLIMIT_*`) of a process, 0 = the caller: the limit of before. `prlimit64(2)`
pub fn prlimit(pid: i32, resource: u32, new: Option<Limit>) -> Result<Limit> {
    let mut old = Limit { soft: 0, hard: 0 };
    let new = new.as_ref().map_or(core::ptr::null(), |l| &raw const *l);
    // SAFETY: `new` is null or a struct rlimit64, `old` is one; both outlive the call.
    unsafe { call(libc::SYS_prlimit64, [pid as usize, resource as usize, new as usize, &raw mut old as usize, 0, 0]) }?;
    Ok(old)
}

/// `sethostname(2)`
pub fn sethostname(name: &[u8]) -> Result<()> {
    // SAFETY: address and length are of `name`, which outlives the call.
    unsafe { call(libc::SYS_sethostname, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0]) }.map(drop)
}

/// `setdomainname(2)`
pub fn setdomainname(name: &[u8]) -> Result<()> {
    // SAFETY: address and length are of `name`, which outlives the call.
    unsafe { call(libc::SYS_setdomainname, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0]) }.map(drop)
}

/// Gives us a new, anonymous session keyring instead of the one that came from our parent. `keyctl(2)` with
/// `KEYCTL_JOIN_SESSION_KEYRING`
pub fn join_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    // SAFETY: the name's address is null, which means a new anonymous keyring.
    unsafe { call(libc::SYS_keyctl, [KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0, 0]) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_spawned_child_ends_with_its_code_and_has_a_pidfd() {
        let child = spawn(&CloneArgs::default(), || exit(37)).unwrap();
        let end = wait(Target::Pidfd(child.pidfd.as_fd()), false, false).unwrap().unwrap();
        assert_eq!(end, Exit { pid: child.pid, code: libc::CLD_EXITED, status: 37 });
    }

    #[test]
    fn a_child_that_unwinds_never_reaches_the_frames_of_its_parent() {
        let child = spawn(&CloneArgs::default(), || std::panic::resume_unwind(Box::new(()))).unwrap();
        let end = wait(Target::Pid(child.pid), false, false).unwrap().unwrap();
        assert!(end.status == 70 || end.code != libc::CLD_EXITED, "{end:?}");
    }

    #[test]
    fn a_helper_leaves_its_results_and_its_fds_with_us() {
        let mut made = None;
        let pid =
            vfork_helper(false, || made = Some(spawn(&CloneArgs { sibling: true, ..Default::default() }, || exit(9))))
                .unwrap();
        assert_eq!(wait(Target::Pid(pid), false, false).unwrap().unwrap().status, 0);
        let child = made.unwrap().unwrap();
        let end = wait(Target::Pidfd(child.pidfd.as_fd()), false, false).unwrap().unwrap();
        assert_eq!((end.pid, end.status), (child.pid, 9));
    }

    #[test]
    fn flags_that_are_no_namespace_are_refused() {
        let args = CloneArgs { namespaces: 0x100, ..Default::default() };
        assert_eq!(spawn(&args, || exit(0)).unwrap_err(), Errno::EINVAL);
    }
}
