//! What the other files of this room agree on.

use crate::state::record::{Container, ContainerKind, Exit, PodRecord, State, Status};

pub(super) const SECOND_NS: u64 = 1_000_000_000;

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

pub(super) fn restart_policy(record: &PodRecord) -> RestartPolicy {
    match record.pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) {
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some("Never") => RestartPolicy::Never,
        // The default; anything else does not pass validation.
        _ => RestartPolicy::Always,
    }
}

/// Whether policy alone has a container run again after this exit code.
pub(super) fn restarts(policy: RestartPolicy, kind: ContainerKind, exit_code: i32) -> bool {
    match (kind, policy) {
        (_, RestartPolicy::Never) => false,
        // An init container that succeeded is done whatever the policy.
        (ContainerKind::Init, _) | (ContainerKind::App, RestartPolicy::OnFailure) => exit_code != 0,
        (ContainerKind::App, RestartPolicy::Always) => true,
    }
}

/// Nothing may be started any more, whatever the policy: the pod is being deleted, has failed as a whole, or has lost its namespaces.
pub(super) fn closing(status: &Status) -> bool {
    status.deletion.is_some()
        || status.failure.is_some()
        || status.finished_at.is_some()
        || status.stopped
        || status.sandbox.as_ref().is_some_and(|s| s.ended)
}

/// Whether a CRI client may still create and start containers.
pub fn accepts_containers(status: &Status) -> bool {
    sandbox_alive(status) && !closing(status)
}

pub(super) fn sandbox_alive(status: &Status) -> bool {
    status.sandbox.as_ref().is_some_and(|s| !s.ended)
}

pub(super) fn is_running(c: &Container) -> bool {
    matches!(c.state, State::Running { .. })
}

pub(super) fn any_running(status: &Status) -> bool {
    status.containers.iter().any(is_running)
}

/// How the newest finished instance ended, if nothing runs and there was one.
pub(super) fn ended(c: &Container) -> Option<&Exit> {
    match &c.state {
        State::Terminated(exit) => Some(exit),
        State::Waiting { .. } => c.last.as_ref(),
        State::Running { .. } => None,
    }
}

/// Done, and by policy not to be started again.
pub(super) fn settled(policy: RestartPolicy, c: &Container) -> bool {
    matches!(&c.state, State::Terminated(exit) if !restarts(policy, c.kind, exit.exit_code))
}

/// Whether a container of a manifest has ended for good.
pub fn is_over(record: &PodRecord, c: &Container) -> bool {
    settled(restart_policy(record), c)
}

/// By its containers and policy alone: nothing runs and nothing is to be started again.
pub(super) fn pod_settled(record: &PodRecord, status: &Status) -> bool {
    let policy = restart_policy(record);
    let of = |kind| status.containers.iter().filter(move |c| c.kind == kind);
    if status.initialized_at.is_none() {
        let pending = of(ContainerKind::Init).find(|c| !matches!(&c.state, State::Terminated(e) if e.exit_code == 0));
        return pending.is_some_and(|c| settled(policy, c));
    }
    of(ContainerKind::App).all(|c| settled(policy, c))
}
