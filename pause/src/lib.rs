//! The two tiny processes that hold a pod, and the wire format between keeper and the supervisor.
//!
//! * [`pause`]: PID 1 of the pod's PID namespace; lives as long as the pod and does nothing.
//! * [`keeper`]: parent of the pod's processes; keeps descriptors and exit codes, starts the supervisor again.
//! * [`proto`]: what keeper and the supervisor's client must agree on.
//! * `sys` and `arch`: raw system calls; there is no libc below this package.
//!
//! The same source is compiled three times. As an ordinary library it is what lints, unit tests and the rest of husk see, and it
//! carries the finished programs ([`image`]). The build script of this package compiles it twice more, with plain `rustc` and
//! `--cfg husk_bin` and `--cfg husk_bin="pause"` or `"keeper"`, into those programs: no std, no libc, no allocation, no relocation, one page of text.
#![no_std]
// Without `no_builtins` a loop that copies becomes a call to memcpy, which nobody provides here.
#![cfg_attr(husk_bin, no_main, no_builtins)]
#![deny(missing_docs)]
// In a program, what the other one uses is unused.
#![cfg_attr(husk_bin, allow(dead_code))]

mod arch;
pub mod keeper;
pub mod pause;
pub mod proto;
mod sys;

#[cfg(husk_bin = "keeper")]
use keeper::main;
#[cfg(husk_bin = "pause")]
use pause::main;

/// The finished programs: static ELF files for the target this library was built for.
#[cfg(not(husk_bin))]
pub mod image {
    /// The program of [`pause`](crate::pause).
    pub const PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
    /// The program of [`keeper`](crate::keeper).
    pub const KEEPER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/keeper"));
}

#[cfg(husk_bin)]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit(101)
}
