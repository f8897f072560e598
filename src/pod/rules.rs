//! What the other files of this room agree on.

use crate::state::record::{
    Container, ContainerKind, ContainerRecord, Exit, Hook, PodRecord, RestartAction, RestartPolicy, State, Status,
};

pub(super) const SECOND_NS: u64 = 1_000_000_000;

/// The kubelet's floor: nobody is killed sooner than this after the stop signal, unless by force.
pub(super) const GRACE_FLOOR_SECONDS: u64 = 2;

/// `spec.terminationGracePeriodSeconds`.
pub fn grace_seconds(record: &PodRecord) -> u64 {
    let own = record.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    own.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(30)
}

pub(super) fn restart_policy(record: &PodRecord) -> RestartPolicy {
    match record.pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) {
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some("Never") => RestartPolicy::Never,
        // The default; anything else does not pass validation.
        _ => RestartPolicy::Always,
    }
}

/// What is to be done after an exit of a container, by its own rules, its own policy, or the pod's.
pub(super) fn after_exit(record: &PodRecord, index: usize, exit_code: i32) -> Option<RestartAction> {
    let c = record.containers.get(index)?;
    if c.kind == ContainerKind::Ephemeral {
        return None;
    }
    if c.is_sidecar() {
        return Some(RestartAction::Restart);
    }
    // An init container that succeeded is done whatever the policy.
    if c.kind == ContainerKind::Init && exit_code == 0 {
        return None;
    }
    if let Some(rule) = c.restart.rules.iter().find(|rule| rule.exit_codes.contains(&exit_code) != rule.not) {
        return Some(rule.action);
    }
    let again = match c.restart.policy.unwrap_or_else(|| restart_policy(record)) {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit_code != 0,
        RestartPolicy::Never => false,
    };
    again.then_some(RestartAction::Restart)
}

/// Whether the container of this place is a sidecar.
pub(super) fn is_sidecar(record: &PodRecord, index: usize) -> bool {
    record.containers.get(index).is_some_and(ContainerRecord::is_sidecar)
}

/// Whether a container has come up: it runs, its postStart hook is over, and its startup probe has succeeded if it has one. The next sidecar or init container
/// waits for a sidecar's.
pub fn started(record: &PodRecord, index: usize, c: &Container) -> bool {
    let Some(made_of) = record.containers.get(index) else { return false };
    let hooked = || made_of.hooks.post_start.is_none() || c.hook.as_ref().is_some_and(over_post_start);
    // With a probe this is false from the start on.
    is_running(c) && hooked() && c.started.unwrap_or(true)
}

/// The postStart hook is over: it succeeded, or preStop has begun, which is later.
fn over_post_start(run: &crate::state::record::HookRun) -> bool {
    run.hook == Hook::PreStop || run.done && run.failure.is_empty()
}

/// Whether a container is ready for its users: it has started, and its readiness probe has succeeded if it has one.
pub fn ready(record: &PodRecord, index: usize, c: &Container) -> bool {
    started(record, index, c) && c.ready.unwrap_or(true)
}

/// Nothing may be started any more, whatever the policy: the pod is being deleted, is ending or has failed as a whole.
pub(super) fn closing(status: &Status) -> bool {
    status.deletion.is_some()
        || status.failure.is_some()
        || status.finished_at.is_some()
        || status.stopped
        || status.ending.is_some()
}

/// Whether a container was started since the pod has begun, or has begun anew.
pub(super) fn begun(c: &Container) -> bool {
    !c.anew && (!matches!(c.state, State::Waiting { .. }) || c.last.is_some())
}

/// Whether a pod whose sandbox is gone gets another: there is something to be started in it. The kubelet gives none to a pod that never restarts
/// anything and had begun.
pub(super) fn recreates(record: &PodRecord, status: &Status) -> bool {
    !record.driven()
        && !closing(status)
        && !pod_settled(record, status)
        && (restart_policy(record) != RestartPolicy::Never || !status.containers.iter().any(begun))
}

/// The pod comes to its end, or has: nothing is started any more.
pub fn is_ending(status: &Status) -> bool {
    closing(status)
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
pub(super) fn settled(record: &PodRecord, index: usize, c: &Container) -> bool {
    matches!(&c.state, State::Terminated(exit) if after_exit(record, index, exit.exit_code).is_none())
}

/// Whether a container of a manifest has ended for good.
pub fn is_over(record: &PodRecord, index: usize, c: &Container) -> bool {
    settled(record, index, c)
}

/// By its containers and policy alone: nothing is to be started again, except what only keeps others company.
pub(super) fn pod_settled(record: &PodRecord, status: &Status) -> bool {
    let of = |kind| status.containers.iter().enumerate().filter(move |(_, c)| c.kind == kind);
    if status.initialized_at.is_none() {
        return of(ContainerKind::Init).any(|(index, c)| {
            matches!(&c.state, State::Terminated(e) if e.exit_code != 0) && settled(record, index, c)
        });
    }
    of(ContainerKind::App).all(|(index, c)| settled(record, index, c))
}
