//! x86-64: `syscall`, number and result in `rax`; the kernel destroys `rcx` and `r11`.

use core::arch::asm;

/// `AUDIT_ARCH_X86_64`, as a seccomp filter sees it.
pub const AUDIT_ARCH: u32 = 0xc000_003e;

/// A multiple of every page size this CPU's kernels use.
pub const PAGE: usize = 4096;

/// System call numbers.
#[allow(missing_docs)]
pub mod nr {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const RT_SIGACTION: usize = 13;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const MADVISE: usize = 28;
    pub const GETPID: usize = 39;
    pub const SENDMSG: usize = 46;
    pub const RECVMSG: usize = 47;
    pub const SOCKETPAIR: usize = 53;
    pub const CLONE: usize = 56;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const FCNTL: usize = 72;
    pub const GETPPID: usize = 110;
    pub const SETSID: usize = 112;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const PRCTL: usize = 157;
    pub const CLOCK_GETTIME: usize = 228;
    pub const EXIT_GROUP: usize = 231;
    pub const WAITID: usize = 247;
    pub const PPOLL: usize = 271;
    pub const SIGNALFD4: usize = 289;
    pub const DUP3: usize = 292;
    pub const EXECVEAT: usize = 322;
    pub const PIDFD_SEND_SIGNAL: usize = 424;
    pub const CLOSE_RANGE: usize = 436;
}

macro_rules! syscalls {
    ($($name:ident($($arg:ident in $reg:tt),*);)*) => {$(
        /// A system call with as many arguments; the result is negative errno, as the kernel gives it.
        ///
        /// # Safety
        /// What the kernel does with these arguments must be sound: pointers valid for what it reads and writes.
        #[inline(always)]
        pub unsafe fn $name(nr: usize $(, $arg: usize)*) -> isize {
            let result: isize;
            // SAFETY: the kernel keeps every register but those declared here, and does not touch our stack; the
            // rest is the caller's promise.
            unsafe {
                asm!("syscall", inlateout("rax") nr as isize => result, $(in($reg) $arg,)*
                     lateout("rcx") _, lateout("r11") _, options(nostack));
            }
            result
        }
    )*};
}

syscalls! {
    syscall0();
    syscall1(a in "rdi");
    syscall2(a in "rdi", b in "rsi");
    syscall3(a in "rdi", b in "rsi", c in "rdx");
    syscall4(a in "rdi", b in "rsi", c in "rdx", d in "r10");
    syscall5(a in "rdi", b in "rsi", c in "rdx", d in "r10", e in "r8");
}

/// Gives the pages `from..from + len` back to the kernel, makes `sp` the stack and continues at `next`, without
/// touching memory in between: `next` may run with the page under `sp` gone.
///
/// # Safety
/// `from` is page-aligned; nothing that `next` uses lies in the range; `sp` is 16-byte aligned with room below it.
#[inline(always)]
pub unsafe fn enter(from: usize, len: usize, sp: *const usize, next: extern "C" fn(*const usize) -> !) -> ! {
    // SAFETY: by the caller's promise nobody looks at the old stack again; a function expects `rsp` to be 8 below an
    // aligned address, as `call` would leave it, and `next` never returns to the address that is missing there.
    unsafe {
        asm!("syscall", "lea rsp, [r13 - 8]", "mov rdi, r13", "jmp r12",
             in("rax") nr::MADVISE, in("rdi") from, in("rsi") len, in("rdx") crate::sys::MADV_DONTNEED,
             in("r12") next, in("r13") sp, options(noreturn));
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
    core::arch::naked_asm!("xor ebp, ebp", "mov rdi, rsp", "call {main}", main = sym crate::main)
}
