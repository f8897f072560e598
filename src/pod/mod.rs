//! Kubelet semantics as pure functions over records: what to do next, back-off, grace, phase, status. Time is a parameter; no I/O.
//!
//! The supervisor's loop is: change the [`Status`](crate::state::record::Status) with one of the `apply_*` functions or [`request_delete`], write it, call
//! [`decide`], carry out the actions in order, repeat at the next event or at the wake-up.

mod decide;
mod events;
mod status;

pub use decide::{Action, Decision, Now, decide};
pub use events::{apply_exit, apply_initialized, apply_sandbox_end, apply_start, request_delete};
pub use status::{Liveness, Phase, phase, printable_status, to_v1};

use crate::state::record::{ContainerKind, PodRecord};

/// The waiting reason of a container that was never started: `PodInitializing` for an app container behind init containers.
pub fn initial_reason(record: &PodRecord, kind: ContainerKind) -> &'static str {
    let behind = kind == ContainerKind::App && record.containers.iter().any(|c| c.kind == ContainerKind::Init);
    if behind { "PodInitializing" } else { "ContainerCreating" }
}
