//! Installing a prepared seccomp program.

use super::{Result, call};

/// One instruction of classic BPF (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// Operation.
    pub code: u16,
    /// Jump distance when true.
    pub jt: u8,
    /// Jump distance when false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// `struct sock_fprog`
#[repr(C)]
struct Program {
    len: u16,
    filter: *const Insn,
}

/// Installs `program` for the calling thread. Needs no_new_privs or CAP_SYS_ADMIN. `seccomp(2)` with `SECCOMP_SET_MODE_FILTER`
///
/// # Errors
/// EINVAL for a program that the kernel does not accept, or one longer than 65535 instructions.
pub fn install(program: &[Insn]) -> Result<()> {
    const SECCOMP_SET_MODE_FILTER: usize = 1;
    let len = u16::try_from(program.len()).map_err(|_| super::Errno::EINVAL)?;
    let prog = Program { len, filter: program.as_ptr() };
    // SAFETY: `prog` is a struct sock_fprog over `len` instructions that outlive the call; the kernel copies them.
    unsafe { call(libc::SYS_seccomp, [SECCOMP_SET_MODE_FILTER, 0, &raw const prog as usize, 0, 0, 0]) }.map(drop)
}
