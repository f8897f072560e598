//! Containers that are added to a pod that lives, to look into it.

use super::decide::{Action, Decision, Now, stop_when_due};
use super::rules::is_running;
use crate::state::record::{ContainerKind, State, Status};

/// What to do with the ephemeral containers of a pod that goes on: each is started once, stopped when it shall go, and nothing in the pod waits for it.
pub(super) fn look_after(decision: &mut Decision, status: &Status, now: Now) {
    if decision.actions.contains(&Action::EndSandbox) {
        return;
    }
    for (index, c) in status.containers.iter().enumerate().filter(|(_, c)| c.kind == ContainerKind::Ephemeral) {
        if is_running(c) {
            stop_when_due(decision, index, c, now);
        } else if matches!(c.state, State::Waiting { .. }) {
            decision.actions.push(Action::Start { index, attempt: c.attempt });
        }
    }
}
