//! Kubelet semantics as pure functions over records: what to do next, back-off, grace, phase, status. Time is a parameter; no I/O.
//!
//! The supervisor's loop is: change the [`Status`](crate::state::record::Status) with one of the `apply_*` functions or [`request_delete`], write it, call
//! [`decide()`], carry out the actions in order, repeat at the next event or at the wake-up.
//!
//! * `decide.rs`: status and clock to actions
//! * `stop.rs`: hooks, signals and deadlines of what shall stop
//! * `events.rs`: what happened to status
//! * `status.rs`: status to the `v1.Pod` that users see
//! * `event_object.rs`: what was told to the `v1.Event` that users see

mod decide;
mod ephemeral;
mod event_object;
mod events;
#[cfg(test)]
mod lifecycle_tests;
mod rules;
#[cfg(test)]
mod simulation;
mod status;
mod stop;
#[cfg(test)]
mod tests;

pub use crate::manifest::dns::hostname;
pub use decide::{Action, Decision, Now, decide, first};
pub use event_object::{EVENT_SOURCE, event_to_v1};
pub use events::{
    OOM_KILLED, Process, apply_anew, apply_deadline, apply_ending, apply_exit, apply_finish, apply_hook_begun,
    apply_hook_end, apply_initialized, apply_new_sandbox, apply_oom_kills, apply_sandbox_end, apply_sandbox_failed,
    apply_start, apply_stopping, end_text, exit_reason, initial, longest_backoff_ms, oom_text, pod_text,
    request_delete, request_resize, request_stop,
};
pub use rules::{
    GRACE_FLOOR_SECONDS, SECOND_NS, accepts_containers, active_deadline_boot_ns, ended, grace_seconds, hooked,
    is_ending, is_over, ready, recreates, refusal, restarts_on_failure, started,
};
pub use status::{Liveness, Phase, apply_conditions, oom_kills, phase, printable_status, set_condition, to_v1};
pub use stop::hook_overtime;
