//! What differs from CPU to CPU: system call numbers, the call itself, the first instruction of a program.
//!
//! Each file offers the same names: `AUDIT_ARCH`, `PAGE`, `nr`, `syscall0` to `syscall5`, [`enter`] and, in the programs, `_start`.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("pause and keeper have start code for x86_64 and aarch64 only");
