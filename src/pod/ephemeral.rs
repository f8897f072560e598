//! Containers that are added to a pod that lives, to look into it.

use super::Now;
use super::decide::{Action, Decision};
use super::stop::{Given, stop_one};
use crate::state::record::{ContainerKind, PodRecord, State, Status};

/// What to do with the ephemeral containers of a pod that goes on: each is started once, stopped when it shall go, and nothing in the pod waits for it.
pub(super) fn look_after(decision: &mut Decision, record: &PodRecord, status: &Status, now: Now) {
    if decision.actions.iter().any(|action| matches!(action, Action::End | Action::EndSandbox)) {
        return;
    }
    for (index, c) in status.containers.iter().enumerate().filter(|(_, c)| c.kind == ContainerKind::Ephemeral) {
        match (&c.state, &c.stop) {
            (State::Waiting { .. }, _) => decision.actions.push(Action::Start { index, attempt: c.attempt }),
            (State::Running { .. }, Some(stop)) => stop_one(decision, record, index, c, Given::stop(stop), now),
            _ => {}
        }
    }
}
