//! One container process out of an OCI runtime spec. Knows nothing of pods, CRI, images or Kubernetes.
//!
//! [`spawn::create`] clones a child that sets itself up and reports; a byte on its start handle makes it execute the program.
//! [`exec::exec`] does the same for an extra process in a running container.
//!
//! Rooms: `spec` says what is supported; `plan` turns a spec into a flat list of steps; `init` is the child that walks it; [`spawn`] is the
//! parent's half and `handshake` the wire between the two; `mount`, [`overlay`], `caps`, `rlimit`, `sysctl` hold one kernel feature each; [`sys`]
//! is the only place with `unsafe`.

mod caps;
pub mod errno;
pub mod error;
pub mod exec;
pub mod file;
mod handshake;
mod init;
mod mount;
pub mod overlay;
mod plan;
mod rlimit;
pub mod sandbox;
pub mod spawn;
mod spec;
pub mod sys;
mod sysctl;

pub use plan::DEFAULT_DEVICES;
