//! What has happened, written into the status.

use super::Now;
use crate::state::record::{Exit, PodRecord, Status};

/// A slot was started: call before its start handle is released. `id`, `pid` and `start_ticks` as in `State::Running`.
pub fn apply_start(status: &mut Status, index: usize, attempt: u32, id: String, pid: i32, start_ticks: u64, now: Now) {
    let _ = (status, index, attempt, id, pid, start_ticks, now);
    unimplemented!()
}

/// An instance has ended, or could not be started (`StartError`, exit code 128): moves the slot's state and its back-off on.
pub fn apply_exit(record: &PodRecord, status: &mut Status, index: usize, exit: Exit) {
    let _ = (record, status, index, exit);
    unimplemented!()
}

/// All init containers have succeeded.
pub fn apply_initialized(status: &mut Status, now: Now) {
    let _ = (status, now);
    unimplemented!()
}

/// pause has died, whether we killed it or somebody else did; in the second case the pod has failed.
pub fn apply_sandbox_end(record: &PodRecord, status: &mut Status) {
    let _ = (record, status);
    unimplemented!()
}

/// Asks for the end of the pod. `requested` seconds replace the pod's own grace; at least 2 s are given unless `force`, which gives none.
/// A second request can only bring the deadline nearer. Answers whether the status changed.
pub fn request_delete(
    status: &mut Status,
    pod_grace_seconds: u64,
    requested: Option<u64>,
    force: bool,
    now: Now,
) -> bool {
    let _ = (status, pod_grace_seconds, requested, force, now);
    unimplemented!()
}
