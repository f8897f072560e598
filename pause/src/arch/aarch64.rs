//! AArch64: `svc 0`, number in `x8`, result in `x0`; the kernel keeps every other register.

use core::arch::asm;

/// `AUDIT_ARCH_AARCH64`, as a seccomp filter sees it.
pub const AUDIT_ARCH: u32 = 0xc000_00b7;

/// A multiple of every page size this CPU's kernels use.
pub const PAGE: usize = 65536;

/// System call numbers.
#[allow(missing_docs)]
pub mod nr {
    pub const DUP3: usize = 24;
    pub const FCNTL: usize = 25;
    pub const CLOSE: usize = 57;
    pub const READ: usize = 63;
    pub const WRITE: usize = 64;
    pub const PPOLL: usize = 73;
    pub const SIGNALFD4: usize = 74;
    pub const EXIT_GROUP: usize = 94;
    pub const WAITID: usize = 95;
    pub const CLOCK_GETTIME: usize = 113;
    pub const KILL: usize = 129;
    pub const RT_SIGACTION: usize = 134;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const SETSID: usize = 157;
    pub const PRCTL: usize = 167;
    pub const GETPID: usize = 172;
    pub const GETPPID: usize = 173;
    pub const SOCKETPAIR: usize = 199;
    pub const SENDMSG: usize = 211;
    pub const RECVMSG: usize = 212;
    pub const CLONE: usize = 220;
    pub const MADVISE: usize = 233;
    pub const WAIT4: usize = 260;
    pub const EXECVEAT: usize = 281;
    pub const PIDFD_SEND_SIGNAL: usize = 424;
    pub const CLOSE_RANGE: usize = 436;
}

/// A system call without arguments; the result is negative errno, as the kernel gives it.
///
/// # Safety
/// What the call does must be sound.
#[inline(always)]
pub unsafe fn syscall0(nr: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel keeps every register but `x0` and does not touch our stack; the rest is the caller's promise.
    unsafe {
        asm!("svc 0", in("x8") nr, lateout("x0") result, options(nostack));
    }
    result
}

macro_rules! syscalls {
    ($($name:ident($($arg:ident in $reg:tt),*);)*) => {$(
        /// A system call with as many arguments; the result is negative errno, as the kernel gives it.
        ///
        /// # Safety
        /// What the kernel does with these arguments must be sound: pointers valid for what it reads and writes.
        #[inline(always)]
        pub unsafe fn $name(nr: usize, a: usize $(, $arg: usize)*) -> isize {
            let result: isize;
            // SAFETY: the kernel keeps every register but `x0` and does not touch our stack; the rest is the caller's
            // promise.
            unsafe {
                asm!("svc 0", in("x8") nr, inlateout("x0") a as isize => result, $(in($reg) $arg,)* options(nostack));
            }
            result
        }
    )*};
}

syscalls! {
    syscall1();
    syscall2(b in "x1");
    syscall3(b in "x1", c in "x2");
    syscall4(b in "x1", c in "x2", d in "x3");
    syscall5(b in "x1", c in "x2", d in "x3", e in "x4");
}

/// Gives the pages `from..from + len` back to the kernel, makes `sp` the stack and continues at `next`, without
/// touching memory in between: `next` may run with the page under `sp` gone.
///
/// # Safety
/// `from` is page-aligned; nothing that `next` uses lies in the range; `sp` is 16-byte aligned with room below it.
#[inline(always)]
pub unsafe fn enter(from: usize, len: usize, sp: *const usize, next: extern "C" fn(*const usize) -> !) -> ! {
    // SAFETY: by the caller's promise nobody looks at the old stack again, and `next` never returns, so that the link
    // register and the frame pointer need no value.
    unsafe {
        asm!("svc 0", "mov sp, x9", "mov x0, x9", "br x10",
             in("x8") nr::MADVISE, in("x0") from, in("x1") len, in("x2") crate::sys::MADV_DONTNEED,
             in("x9") sp, in("x10") next, options(noreturn));
    }
}

/// The first instruction: hands the start block (argc, argv, envp, auxv) to the program's `main`.
///
/// # Safety
/// Only the kernel jumps here.
#[cfg(husk_bin)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.start")]
#[unsafe(naked)]
pub unsafe extern "C" fn _start() -> ! {
    core::arch::naked_asm!("mov x29, xzr", "mov x30, xzr", "mov x0, sp", "b {main}", main = sym crate::main)
}
