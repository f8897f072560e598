//! The pod as Kubernetes shows it.

use crate::state::record::{PodRecord, Status};
use k8s_openapi::api::core::v1::Pod;
use std::fmt;

/// Whether the pod's lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// keeper lives.
    Alive,
    /// Nobody watches the pod: what the status says is running is not.
    Dead,
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Something has never run yet.
    Pending,
    /// Something runs or will be restarted.
    Running,
    /// All ended with 0, nothing will be restarted.
    Succeeded,
    /// Ended otherwise.
    Failed,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        })
    }
}

/// The kubelet's phase.
pub fn phase(record: &PodRecord, status: &Status, live: Liveness) -> Phase {
    let _ = (record, status, live);
    unimplemented!()
}

/// The pod with its `.status`, as `husk get pod -o yaml` prints it.
pub fn to_v1(record: &PodRecord, status: &Status, live: Liveness) -> Pod {
    let _ = (record, status, live);
    unimplemented!()
}

/// The STATUS column of `kubectl get pods`: `Running`, `Init:0/2`, `CrashLoopBackOff`, `Terminating`, …
pub fn printable_status(pod: &Pod) -> String {
    let _ = pod;
    unimplemented!()
}
