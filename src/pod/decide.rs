//! What to do next.

use crate::state::record::{PodRecord, Status};

/// The two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_BOOTTIME in nanoseconds.
    pub boot_ns: u64,
    /// Wall clock, for what users read.
    pub wall: jiff::Timestamp,
}

/// One thing that the supervisor has to do. Doing it changes the status, which ends the reason for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create and start this slot of [`PodRecord::containers`], then [`super::apply_start`], or [`super::apply_exit`] when that failed.
    Start {
        /// Position in the record.
        index: usize,
        /// Number of the new instance.
        attempt: u32,
    },
    /// Send each running container that is not `stopping` its stop signal, and mark it.
    StopAll,
    /// SIGKILL to everything that still runs: the deadline has passed, or the pod failed as a whole.
    KillAll,
    /// All init containers have succeeded: [`super::apply_initialized`].
    Initialized,
    /// Nothing will run any more: kill pause, wait for it, [`super::apply_sandbox_end`].
    EndSandbox,
    /// The pod has come to its end: record `finished_at`, free its volumes, exit.
    Finish,
    /// The deletion is complete: remove everything.
    Remove,
}

/// What to do now, and when to ask again if nothing happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// In this order.
    pub actions: Vec<Action>,
    /// CLOCK_BOOTTIME nanoseconds; `None`: only an event can change the answer.
    pub wake_boot_ns: Option<u64>,
}

/// What to do next with a pod in this state. Level-triggered: the same state gives the same answer, so a new supervisor goes on where the last one was.
pub fn decide(record: &PodRecord, status: &Status, now: Now) -> Decision {
    let _ = (record, status, now);
    unimplemented!()
}
