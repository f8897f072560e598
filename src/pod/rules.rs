//! What the other files of this room agree on.

use super::Now;
use crate::state::record::{
    Container, ContainerKind, ContainerRecord, Exit, Hook, HookRun, PodRecord, RestartAction, RestartPolicy, State,
    Status,
};

/// Nanoseconds.
pub const SECOND_NS: u64 = 1_000_000_000;

/// The kubelet's floor: nobody is killed sooner than this after the stop signal, unless by force.
pub const GRACE_FLOOR_SECONDS: u64 = 2;

/// `spec.terminationGracePeriodSeconds`.
pub fn grace_seconds(record: &PodRecord) -> u64 {
    let own = record.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    own.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(30)
}

/// When `spec.activeDeadlineSeconds`, which may be set while the pod lives, are over: CLOCK_BOOTTIME nanoseconds.
pub fn active_deadline_boot_ns(record: &PodRecord, status: &Status, now: Now) -> Option<u64> {
    let seconds = record.pod.spec.as_ref().and_then(|s| s.active_deadline_seconds)?;
    // Written down by every supervisor that knows of deadlines.
    let start_boot_ns = status.start_boot_ns.unwrap_or_else(|| {
        let since = now.wall.duration_since(status.start_time).as_nanos().max(0);
        now.boot_ns.saturating_sub(u64::try_from(since).unwrap_or(u64::MAX))
    });
    Some(start_boot_ns.saturating_add(u64::try_from(seconds).ok()?.saturating_mul(SECOND_NS)))
}

pub(super) fn restart_policy(record: &PodRecord) -> RestartPolicy {
    match record.pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) {
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some("Never") => RestartPolicy::Never,
        // The default; anything else does not pass validation.
        _ => RestartPolicy::Always,
    }
}

/// The policy that counts for a container: its own, or the pod's.
fn own_policy(record: &PodRecord, index: usize) -> RestartPolicy {
    let own = record.containers.get(index).and_then(|c| c.restart.policy);
    own.unwrap_or_else(|| restart_policy(record))
}

/// Whether a container that was stopped because of a probe is started again, whatever its exit code.
pub fn restarts_on_failure(record: &PodRecord, index: usize) -> bool {
    own_policy(record, index) != RestartPolicy::Never
}

/// What is to be done after an exit of a container, by its own rules, its own policy, or the pod's.
pub(super) fn after_exit(record: &PodRecord, index: usize, exit_code: i32) -> Option<RestartAction> {
    let c = record.containers.get(index)?;
    if c.kind == ContainerKind::Ephemeral {
        return None;
    }
    let rule = c.restart.rules.iter().find(|rule| rule.exit_codes.contains(&exit_code) != rule.not);
    match rule.map(|rule| rule.action) {
        // An init container that succeeded is done whatever the policy.
        Some(RestartAction::Restart) | None if c.kind == ContainerKind::Init && exit_code == 0 && !c.is_sidecar() => {
            return None;
        }
        Some(action) => return Some(action),
        None => {}
    }
    let again = match own_policy(record, index) {
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
    // With a probe this is false from the start on.
    is_running(c) && hooked(record, index, c) && c.started.unwrap_or(true)
}

/// Whether a container's postStart hook, if it has one, is over: it has succeeded, or preStop has begun, which is later.
pub fn hooked(record: &PodRecord, index: usize, c: &Container) -> bool {
    let over = |run: &HookRun| run.hook == Hook::PreStop || run.done && run.failure.is_empty();
    let Some(made_of) = record.containers.get(index) else { return false };
    made_of.hooks.post_start.is_none() || c.hook.as_ref().is_some_and(over)
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
pub fn recreates(record: &PodRecord, status: &Status) -> bool {
    !record.driven()
        && !closing(status)
        && !pod_settled(record, status)
        && (restart_policy(record) != RestartPolicy::Never || !status.containers.iter().any(begun))
}

/// The pod comes to its end, or has: nothing is started any more.
pub fn is_ending(status: &Status) -> bool {
    closing(status)
}

/// Whether containers can still be created and started, because somebody wants them.
pub fn accepts_containers(status: &Status) -> bool {
    sandbox_alive(status) && !closing(status)
}

/// Why nothing can be asked of a pod's containers now, if nothing can; `ending` is what that means for a pod that comes to its end.
pub fn refusal(status: &Status, ending: &str) -> Option<String> {
    if accepts_containers(status) {
        None
    } else if closing(status) {
        Some(format!("it is ending; {ending}"))
    } else if status.sandbox.is_none() {
        Some("it has not begun".to_owned())
    } else {
        Some("its sandbox was lost, and there is no other yet; try again".to_owned())
    }
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
pub fn ended(c: &Container) -> Option<&Exit> {
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
    // All of them are to be started again.
    if status.restarting_all.is_some() && !closing(status) {
        return false;
    }
    let of = |kind| status.containers.iter().enumerate().filter(move |(_, c)| c.kind == kind);
    if status.initialized_at.is_none() {
        return of(ContainerKind::Init).any(|(index, c)| {
            matches!(&c.state, State::Terminated(e) if e.exit_code != 0) && settled(record, index, c)
        });
    }
    of(ContainerKind::App).all(|(index, c)| settled(record, index, c))
}
