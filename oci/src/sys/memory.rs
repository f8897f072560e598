//! The process's own memory: mapped ahead, given back.

use super::{Errno, Result};
use core::ffi::c_void;

const PAGE: usize = 4096;

fn advise(from: usize, to: usize, advice: i32) -> Result<()> {
    let len = to.saturating_sub(from);
    // SAFETY: both advices that are passed here leave every byte in use as it is: MADV_POPULATE_READ only fills page tables, and MADV_DONTNEED is
    // given ranges without live data.
    Errno::result(unsafe { libc::madvise(from as *mut c_void, len, advice) }).map(drop)
}

/// Maps the whole program at once, as far as it is in the page cache or can be read: a start touches a hundred places of a large
/// executable, and would take a page fault for each. `madvise(2)` with `MADV_POPULATE_READ`
///
/// # Errors
/// EINVAL before Linux 5.14; EFAULT or the like when the file cannot be read. Nothing is lost but time.
pub fn map_program() -> Result<()> {
    // Of the linker: the executable's first byte, and the end of its code.
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    let (from, to) = ((&raw const __executable_start) as usize, (&raw const etext) as usize);
    advise(from & !(PAGE - 1), (to + PAGE - 1) & !(PAGE - 1), libc::MADV_POPULATE_READ)
}

/// Gives memory that is free back to the kernel: of the heap, and of the stack below the caller. For the first thread of a process that had
/// much to do and now sleeps. `malloc_trim(3)`, `madvise(2)` with `MADV_DONTNEED`
// A frame of its own: what is inlined shares its caller's, which may reach far below any local of this function.
#[inline(never)]
pub fn release_free() {
    /// Below a local of this function: room for the rest of its frame and for what it calls.
    const KEPT: usize = 4 * PAGE;
    /// As deep as a stack may have been. Nothing else is mapped so near below the first thread's stack: the kernel leaves 128 MiB at least.
    const DEPTH: usize = 1 << 20;
    // SAFETY: no address is passed; glibc locks its own arenas.
    unsafe { libc::malloc_trim(0) };
    let here = 0u8;
    let top = ((&raw const here) as usize - KEPT) & !(PAGE - 1);
    // ENOMEM: the stack never was that deep. What is mapped of the range was given back all the same.
    let _ = advise(top - DEPTH, top, libc::MADV_DONTNEED);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_can_be_mapped_and_runs_on() {
        map_program().unwrap();
    }
}
