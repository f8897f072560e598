//! Programs for cgroups. `bpf(2)`

use super::{Result, arg, call, call_fd, str_arg};
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

/// One instruction of eBPF (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// Operation.
    pub code: u8,
    /// Destination and source register, see [`Insn::new`].
    regs: u8,
    /// Offset of a jump or a load.
    pub off: i16,
    /// Operand.
    pub imm: i32,
}

impl Insn {
    /// An instruction on registers 0 to 10.
    pub const fn new(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
        // Two bit fields of a byte: which is the low one depends on the machine.
        let regs = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
        Insn { code, regs, off, imm }
    }

    /// Destination register.
    pub const fn dst(&self) -> u8 {
        if cfg!(target_endian = "little") { self.regs & 15 } else { self.regs >> 4 }
    }

    /// Source register.
    pub const fn src(&self) -> u8 {
        if cfg!(target_endian = "little") { self.regs >> 4 } else { self.regs & 15 }
    }
}

/// What a program is called, in `bpftool` too; filled up with NUL as the kernel keeps it. See [`named`].
pub type Name = [u8; 16];

const PROG_LOAD: usize = 5;
const PROG_ATTACH: usize = 8;
const PROG_DETACH: usize = 9;
const PROG_GET_FD_BY_ID: usize = 13;
const OBJ_GET_INFO_BY_FD: usize = 15;
const PROG_QUERY: usize = 16;

const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 2;
const F_REPLACE: u32 = 4;

/// `union bpf_attr`, larger than any kernel's: a kernel writes answers into it up to its own size of it, whatever size it is told. What a
/// kernel does not know must be zero, and is.
#[repr(C, align(8))]
struct Attr([u32; 128]);

impl Attr {
    fn new(words: &[u32]) -> Attr {
        let mut all = [0; 128];
        all[..words.len()].copy_from_slice(words);
        Attr(all)
    }

    /// Puts an address at the word `at`, which is even.
    fn address(mut self, at: usize, address: usize) -> Attr {
        let bytes = (address as u64).to_ne_bytes();
        let [a, b, c, d, e, f, g, h] = bytes;
        self.0[at] = u32::from_ne_bytes([a, b, c, d]);
        self.0[at + 1] = u32::from_ne_bytes([e, f, g, h]);
        self
    }

    fn args(&mut self, command: usize) -> [usize; 6] {
        [command, &raw mut self.0 as usize, size_of::<Attr>(), 0, 0, 0]
    }
}

/// Loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`, which decides by what it leaves in register 0. Needs CAP_BPF and CAP_NET_ADMIN, or
/// CAP_SYS_ADMIN.
///
/// # Errors
/// EACCES for a program that could do harm, EINVAL for one without sense or where the kernel knows no such type (CONFIG_CGROUP_BPF).
pub fn load_device_program(program: &[Insn], name: &Name) -> Result<OwnedFd> {
    // It calls no function of the kernel, so none that wants a GPL program.
    let license = c"Apache-2.0";
    let len = u32::try_from(program.len()).map_err(|_| super::Errno::E2BIG)?;
    let mut attr =
        Attr::new(&[TYPE_CGROUP_DEVICE, len]).address(2, program.as_ptr() as usize).address(4, str_arg(license));
    for (word, part) in attr.0[12..16].iter_mut().zip(name.chunks_exact(4)) {
        *word = u32::from_ne_bytes([part[0], part[1], part[2], part[3]]);
    }
    // SAFETY: the words are those of BPF_PROG_LOAD: `program` has `len` instructions, `license` ends with NUL, and both outlive the call, as
    // does `attr`, of whose size the kernel is told. There is no log buffer. The kernel copies what it reads and returns a new fd.
    unsafe { call_fd(libc::SYS_bpf, attr.args(PROG_LOAD)) }
}

/// Attaches a device program to a cgroup of the v2 tree, beside those that it has; access needs all of them to agree. One that is given in
/// `instead_of`, and is attached there, is taken off in the same instant.
///
/// # Errors
/// ENOENT when `instead_of` is not attached there, EPERM when a cgroup above allows no program below it.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    instead_of: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let flags = F_ALLOW_MULTI | if instead_of.is_some() { F_REPLACE } else { 0 };
    let old = instead_of.map_or(0, arg);
    let mut attr = Attr::new(&[arg(cgroup) as u32, arg(program) as u32, ATTACH_CGROUP_DEVICE, flags, old as u32]);
    // SAFETY: the words are those of BPF_PROG_ATTACH, all numbers; `attr` outlives the call and the kernel is told its size.
    unsafe { call(libc::SYS_bpf, attr.args(PROG_ATTACH)) }.map(drop)
}

/// Takes a device program off a cgroup.
///
/// # Errors
/// ENOENT when it is not attached there.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let mut attr = Attr::new(&[arg(cgroup) as u32, arg(program) as u32, ATTACH_CGROUP_DEVICE]);
    // SAFETY: as for attaching; the words are those of BPF_PROG_DETACH.
    unsafe { call(libc::SYS_bpf, attr.args(PROG_DETACH)) }.map(drop)
}

/// The numbers of the device programs that are attached to a cgroup itself, not to those above: the part of `ids` that was filled.
///
/// # Errors
/// ENOSPC when there are more than `ids` has room for.
pub fn device_programs<'i>(cgroup: BorrowedFd<'_>, ids: &'i mut [u32]) -> Result<&'i [u32]> {
    let room = u32::try_from(ids.len()).map_err(|_| super::Errno::E2BIG)?;
    let mut attr =
        Attr::new(&[arg(cgroup) as u32, ATTACH_CGROUP_DEVICE, 0, 0, 0, 0, room]).address(4, ids.as_mut_ptr() as usize);
    // SAFETY: the words are those of BPF_PROG_QUERY; `ids` has place for `room` numbers, which is as many as the kernel writes, and outlives
    // the call; so does `attr`, into which the kernel writes their count.
    unsafe { call(libc::SYS_bpf, attr.args(PROG_QUERY)) }?;
    let found = attr.0[6].min(room);
    Ok(&ids[..found as usize])
}

/// Opens a program by its number. Needs CAP_SYS_ADMIN.
///
/// # Errors
/// ENOENT when it is gone.
pub fn program_by_id(id: u32) -> Result<OwnedFd> {
    let mut attr = Attr::new(&[id]);
    // SAFETY: the words are those of BPF_PROG_GET_FD_BY_ID, all numbers; `attr` outlives the call. The kernel returns a new fd.
    unsafe { call_fd(libc::SYS_bpf, attr.args(PROG_GET_FD_BY_ID)) }
}

/// What a program is called.
pub fn name(program: BorrowedFd<'_>) -> Result<Name> {
    /// `struct bpf_prog_info` up to the name, zero but for what the kernel fills in: no buffer is offered for anything.
    #[repr(C, align(8))]
    struct Info {
        numbers: [u32; 16],
        name: Name,
    }
    let mut info = Info { numbers: [0; 16], name: [0; 16] };
    let mut attr = Attr::new(&[arg(program) as u32, size_of::<Info>() as u32]).address(2, &raw mut info as usize);
    // SAFETY: the words are those of BPF_OBJ_GET_INFO_BY_FD; the kernel writes at most the size that it is told into `info`, which outlives the
    // call like `attr`; the addresses in `info` are null with a length of 0.
    unsafe { call(libc::SYS_bpf, attr.args(OBJ_GET_INFO_BY_FD)) }?;
    Ok(info.name)
}

/// A name of at most 15 bytes; the kernel takes letters, digits, `_` and `.`.
pub const fn named(text: &CStr) -> Name {
    let bytes = text.to_bytes();
    assert!(bytes.len() < 16, "too long for the name of a program");
    let mut name = [0; 16];
    let mut i = 0;
    while i < bytes.len() {
        name[i] = bytes[i];
        i += 1;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_eight_bytes_and_keeps_its_registers() {
        let insn = Insn::new(0x61, 4, 1, -2, 7);
        assert_eq!(size_of::<Insn>(), 8);
        assert_eq!((insn.dst(), insn.src(), insn.off, insn.imm), (4, 1, -2, 7));
    }

    #[test]
    fn addresses_stand_where_the_kernel_reads_them() {
        let attr = Attr::new(&[1, 2]).address(2, 0x0102_0304_0506_0708);
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&attr.0[2].to_ne_bytes());
        bytes[4..].copy_from_slice(&attr.0[3].to_ne_bytes());
        assert_eq!(u64::from_ne_bytes(bytes), 0x0102_0304_0506_0708);
        assert_eq!(attr.0[4], 0);
    }
}
