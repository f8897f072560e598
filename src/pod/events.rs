//! What has happened, written into the status.

use super::Now;
use super::rules::{
    GRACE_FLOOR_SECONDS, SECOND_NS, after_exit, begun, closing, grace_seconds, pod_settled, recreates, restart_policy,
    restarts_on_failure, settled,
};
use super::stop::hook_deadline;
use crate::manifest;
use crate::state::record::{
    Backoff, Container, ContainerKind, ContainerRecord, Deletion, Ending, Exit, Failure, Hook, HookAction, HookRun,
    PodRecord, Resize, RestartAction, RestartPolicy, RestartingAll, Sandbox, State, Status, Stop, StopWhy, VERSION,
};

/// First delay of a crash loop, and its largest.
const BACKOFF_FIRST_MS: u64 = 10_000;
const BACKOFF_MAX_MS: u64 = 300_000;

/// A container that ran this long past its last restart starts with no delay again.
const BACKOFF_FORGET_NS: u64 = 600 * SECOND_NS;

/// The status of a pod of which nothing has been made yet.
pub fn initial(record: &PodRecord, boot_id: &str, now: Now) -> Status {
    let has_init = record.containers.iter().any(|c| c.kind == ContainerKind::Init);
    let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    Status {
        version: VERSION,
        boot_id: boot_id.to_owned(),
        start_time: now.wall,
        sandbox: None,
        // What comes first is then the client's affair.
        initialized_at: record.driven().then_some(now.wall),
        containers: (0..)
            .zip(&record.containers)
            .map(|(slot, c)| Container::waiting(slot, &c.name, c.kind, reason))
            .collect(),
        deletion: None,
        finished_at: None,
        failure: None,
        ending: None,
        start_boot_ns: Some(now.boot_ns),
        restarting_all: None,
        stopped: false,
        conditions: Vec::new(),
        resize: None,
    }
}

impl Container {
    fn waiting(slot: u32, name: &str, kind: ContainerKind, reason: &str) -> Container {
        Container {
            name: name.to_owned(),
            kind,
            attempt: 0,
            state: State::Waiting { reason: reason.to_owned(), message: String::new() },
            last: None,
            backoff: None,
            slot,
            stop: None,
            stopping_since_boot_ns: None,
            anew: false,
            hook: None,
            started: None,
            ready: None,
            oom_kills: 0,
            ephemeral: None,
            made_of: None,
            next: None,
        }
    }

    /// A container that was added to a pod that is there and not yet started, beside those that are there.
    pub fn created(record: ContainerRecord, others: &[Container]) -> Container {
        let free = |slot: &u32| others.iter().all(|other| other.slot != *slot);
        let slot = (0..).find(free).unwrap_or(u32::MAX);
        let waiting = Container::waiting(slot, &record.name, record.kind, "ContainerCreating");
        let attempt = record.client.as_ref().map_or(0, |client| client.attempt);
        Container { attempt, made_of: Some(Box::new(record)), ..waiting }
    }
}

/// A process that is about to be a container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Container id.
    pub id: String,
    /// As in `State::Running`.
    pub pid: i32,
    /// The same.
    pub start_ticks: u64,
}

/// A slot was started: call before its start handle is released.
pub fn apply_start(record: &PodRecord, status: &mut Status, index: usize, attempt: u32, process: Process, now: Now) {
    let c = &mut status.containers[index];
    let Process { id, pid, start_ticks } = process;
    let running = State::Running { id, pid, start_ticks, started_at: now.wall, stopping: false };
    if let State::Terminated(previous) = std::mem::replace(&mut c.state, running) {
        c.last = Some(previous);
    }
    c.attempt = attempt;
    c.oom_kills = 0;
    (c.stop, c.stopping_since_boot_ns, c.hook, c.anew) = (None, None, None, false);
    let probed = manifest::container(&record.pod, &c.name);
    c.started = probed.and_then(|made_of| made_of.startup_probe.as_ref()).map(|_| false);
    c.ready = probed.and_then(|made_of| made_of.readiness_probe.as_ref()).map(|_| false);
}

/// `reason` of an end by want of memory.
pub const OOM_KILLED: &str = "OOMKilled";

/// Why an instance has ended. `oom`: the kernel has killed processes of it for want of memory that were not known to be others than its main one.
pub fn exit_reason(exit_code: i32, signal: Option<i32>, oom: bool) -> &'static str {
    match (oom && signal == Some(libc::SIGKILL), exit_code) {
        (true, _) => OOM_KILLED,
        (_, 0) => "Completed",
        _ => "Error",
    }
}

/// How many processes were killed, as a sentence.
pub fn oom_text(kills: u64) -> String {
    match kills {
        1 => "1 process of the container was killed for want of memory".to_owned(),
        n => format!("{n} processes of the container were killed for want of memory"),
    }
}

/// So many processes of an instance were killed for want of memory in all, and its main process lives. Answers the container's name when that
/// is news.
pub fn apply_oom_kills(status: &mut Status, slot: u32, attempt: u32, kills: u64) -> Option<&str> {
    let current =
        |c: &&mut Container| c.slot == slot && c.attempt == attempt && matches!(c.state, State::Running { .. });
    let c = status.containers.iter_mut().find(current)?;
    if kills <= c.oom_kills {
        return None;
    }
    c.oom_kills = kills;
    Some(&c.name)
}

/// A change of a container's resources was asked for. With `restart_grace_seconds` it gets the new ones by being started again.
pub fn request_resize(status: &mut Status, index: usize, resize: Resize, restart_grace_seconds: Option<u64>, now: Now) {
    if let Some(grace_seconds) = restart_grace_seconds {
        request_stop(status, index, StopWhy::Resize, grace_seconds, now);
    }
    status.resize = Some(Box::new(resize));
}

/// Asks that one container stops, whatever becomes of the pod; `why` decides what comes then. It gets at least 2 s after its stop signal. A second request can only
/// bring the end nearer. Answers whether the status changed: a container that does not run has nothing to stop.
pub fn request_stop(status: &mut Status, index: usize, why: StopWhy, grace_seconds: u64, now: Now) -> bool {
    let given_seconds = if why == StopWhy::Client { grace_seconds } else { grace_seconds.max(GRACE_FLOOR_SECONDS) };
    let deadline_boot_ns = now.boot_ns.saturating_add(given_seconds.saturating_mul(SECOND_NS));
    let c = &mut status.containers[index];
    if !matches!(c.state, State::Running { .. }) {
        return false;
    }
    match &mut c.stop {
        Some(earlier) if deadline_boot_ns >= earlier.deadline_boot_ns => false,
        Some(earlier) => {
            earlier.deadline_boot_ns = deadline_boot_ns;
            earlier.grace_seconds = earlier.grace_seconds.min(grace_seconds);
            true
        }
        None => {
            c.stop = Some(Stop { why, grace_seconds, deadline_boot_ns });
            true
        }
    }
}

/// A running container is about to get its stop signal.
pub fn apply_stopping(c: &mut Container, now: Now) {
    if let State::Running { stopping, .. } = &mut c.state {
        *stopping = true;
        c.stopping_since_boot_ns.get_or_insert(now.boot_ns);
    }
}

/// A hook begins. With `process` it is that: pid and start time.
pub fn apply_hook_begun(
    status: &mut Status,
    index: usize,
    hook: Hook,
    action: &HookAction,
    process: Option<(i32, u64)>,
    now: Now,
) {
    status.containers[index].hook = Some(HookRun {
        hook,
        begun_boot_ns: now.boot_ns,
        deadline_boot_ns: hook_deadline(action, now),
        process,
        done: false,
        failure: String::new(),
    });
}

/// A hook that runs is over. When postStart has failed its container is stopped. Answers whether that is news.
pub fn apply_hook_end(
    record: &PodRecord,
    status: &mut Status,
    index: usize,
    end: Result<(), String>,
    now: Now,
) -> bool {
    let Some(run) = status.containers[index].hook.as_mut().filter(|run| !run.done) else { return false };
    run.done = true;
    let failed = end.is_err();
    run.failure = end.err().unwrap_or_default();
    if failed && run.hook == Hook::PostStart {
        request_stop(status, index, StopWhy::PostStart, grace_seconds(record), now);
    }
    true
}

/// A sentence of ours about an end and what the container has left as its message, as the kubelet puts a runtime's and a container's together; either may
/// be empty.
pub fn end_text(ours: &str, said: &str) -> String {
    let between = if ours.is_empty() || said.is_empty() { "" } else { ": " };
    format!("{ours}{between}{said}")
}

/// `reason` of an end that a failed postStart hook has brought.
const POST_START_HOOK_ERROR: &str = "PostStartHookError";

/// An instance has ended, or could not be started (`StartError`, exit code 128): moves the slot's state and its back-off on.
/// Answers whether anything changed: an exit that is already known changes nothing.
pub fn apply_exit(record: &PodRecord, status: &mut Status, index: usize, mut exit: Exit) -> bool {
    let restarted = !closing(status) && status.restarting_all.is_none();
    let c = &mut status.containers[index];
    let known = match &c.state {
        State::Running { .. } => exit.attempt != c.attempt,
        State::Terminated(previous) => exit.attempt <= previous.attempt,
        State::Waiting { .. } => c.last.as_ref().is_some_and(|previous| exit.attempt <= previous.attempt),
    };
    if known {
        return false;
    }
    c.attempt = exit.attempt;
    c.anew = false;
    let why = c.stop.take().map(|stop| stop.why);
    if let (Some(StopWhy::PostStart), Some(run)) = (why, &c.hook) {
        POST_START_HOOK_ERROR.clone_into(&mut exit.reason);
        exit.message = end_text(&run.failure, &exit.message);
    }
    if restarted && matches!(why, Some(StopWhy::Resize | StopWhy::Restart | StopWhy::Image)) {
        // Not a failure, whatever the exit code: no back-off.
        c.backoff = None;
        c.state = State::Waiting { reason: "ContainerCreating".to_owned(), message: String::new() };
        c.last = Some(exit);
        return true;
    }
    let mut after = after_exit(record, index, exit.exit_code);
    // As the kubelet: who was stopped because of a probe is started again also when it says that it has succeeded.
    let unasked = after.is_none()
        && matches!(why, Some(StopWhy::Liveness | StopWhy::Startup))
        && restarts_on_failure(record, index);
    if unasked {
        after = Some(RestartAction::Restart);
    }
    after = after.filter(|_| restarted);
    if after.is_some() {
        c.backoff = Some(next_backoff(record, c.backoff.as_ref(), exit.finished_boot_ns));
    }
    if after == Some(RestartAction::RestartAllContainers) {
        status.restarting_all = Some(RestartingAll {
            container: c.name.clone(),
            exit_code: exit.exit_code,
            since: exit.finished_at,
            deadline_boot_ns: exit.finished_boot_ns,
        });
    } else if after.is_some() {
        let waits = backs_off(record, c);
        if unasked && !waits {
            c.state = State::Waiting { reason: "ContainerCreating".to_owned(), message: String::new() };
        }
        if unasked || waits {
            c.last = Some(exit);
            return true;
        }
    }
    if let State::Terminated(previous) = std::mem::replace(&mut c.state, State::Terminated(exit)) {
        c.last = Some(previous);
    }
    true
}

/// Has a container wait when it has a back-off.
fn backs_off(record: &PodRecord, c: &mut Container) -> bool {
    let delay_ms = c.backoff.as_ref().map_or(0, |backoff| backoff.delay_ms);
    if delay_ms > 0 {
        let message = format!(
            "back-off {} restarting failed container={} pod={}",
            duration_text(delay_ms / 1000),
            c.name,
            pod_text(record)
        );
        c.state = State::Waiting { reason: "CrashLoopBackOff".to_owned(), message };
    }
    delay_ms > 0
}

/// The longest back-off of a pod's containers: the kubelet's, or what the pod says.
pub fn longest_backoff_ms(record: &PodRecord) -> u64 {
    // It was checked when the pod was made.
    let asked = manifest::annotations::max_container_restart_period(&record.pod).ok().flatten();
    asked.map_or(BACKOFF_MAX_MS, |seconds| seconds * 1000)
}

/// The delay before the restart that follows an exit: none for the first, then 10 s doubling to 300 s, or to what the pod says. `updated_boot_ns` is when that restart comes.
fn next_backoff(record: &PodRecord, current: Option<&Backoff>, finished_boot_ns: u64) -> Backoff {
    let max_ms = longest_backoff_ms(record);
    let delay_ms = match current {
        None => 0,
        Some(b) if finished_boot_ns.saturating_sub(b.updated_boot_ns) > BACKOFF_FORGET_NS => 0,
        Some(b) => (b.delay_ms * 2).clamp(BACKOFF_FIRST_MS.min(max_ms), max_ms),
    };
    Backoff { delay_ms, updated_boot_ns: finished_boot_ns.saturating_add(delay_ms * 1_000_000) }
}

/// `80` as `1m20s`, the way Kubernetes writes it.
fn duration_text(seconds: u64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

/// `name_namespace(uid)`, as the kubelet names a pod in its messages.
pub fn pod_text(record: &PodRecord) -> String {
    let meta = &record.pod.metadata;
    let part = |p: &Option<String>| p.clone().unwrap_or_default();
    format!("{}_{}({})", part(&meta.name), part(&meta.namespace), part(&meta.uid))
}

/// All init containers have succeeded, and all sidecars have started.
pub fn apply_initialized(status: &mut Status, now: Now) {
    status.initialized_at.get_or_insert(now.wall);
}

/// The pod's work is done, or will never be: what still runs is to stop within the pod's grace.
pub fn apply_ending(record: &PodRecord, status: &mut Status, now: Now) {
    let grace_seconds = grace_seconds(record);
    let given_ns = grace_seconds.max(GRACE_FLOOR_SECONDS).saturating_mul(SECOND_NS);
    let deadline_boot_ns = now.boot_ns.saturating_add(given_ns);
    status.ending.get_or_insert(Ending { grace_seconds, deadline_boot_ns });
}

/// The pod has been active for longer than `activeDeadlineSeconds`.
pub fn apply_deadline(record: &PodRecord, status: &mut Status, now: Now) {
    status.failure.get_or_insert_with(|| Failure {
        reason: "DeadlineExceeded".to_owned(),
        message: "Pod was active on the node longer than the specified deadline".to_owned(),
    });
    apply_ending(record, status, now);
    settle_waiting(status);
}

/// pause has died, whether we killed it or somebody else did. In the second case the pod gets another sandbox, or has failed when there is nothing to
/// be started again.
pub fn apply_sandbox_end(record: &PodRecord, status: &mut Status) {
    let expected = closing(status) || pod_settled(record, status);
    if let Some(sandbox) = &mut status.sandbox {
        sandbox.ended = true;
    }
    let never = restart_policy(record) == RestartPolicy::Never && status.containers.iter().any(begun);
    if !expected && (record.driven() || never) {
        status.failure = Some(Failure {
            reason: "SandboxLost".to_owned(),
            message: "the process that held the pod's namespaces died, and every container with it".to_owned(),
        });
    }
    if !recreates(record, status) {
        settle_waiting(status);
    }
}

/// Nobody waits for a restart any more.
fn settle_waiting(status: &mut Status) {
    for c in &mut status.containers {
        if let (State::Waiting { .. }, Some(exit)) = (&c.state, &c.last) {
            c.state = State::Terminated(exit.clone());
            c.last = None;
        }
    }
}

/// A new sandbox is there in place of one that was lost: init containers run again, and then what is to be started again.
pub fn apply_new_sandbox(record: &PodRecord, status: &mut Status, sandbox: Sandbox) {
    let attempt = status.sandbox.as_ref().map_or(0, |lost| lost.attempt.saturating_add(1));
    status.sandbox = Some(Sandbox { attempt, ..sandbox });
    status.restarting_all = None;
    begin_anew(record, status, |index, c| c.kind == ContainerKind::App && settled(record, index, c));
}

/// How long to wait before another sandbox is tried after one that could not be made: the kubelet's time for any error of a pod.
const SANDBOX_RETRY_NS: u64 = 10 * SECOND_NS;

/// In place of a sandbox that was lost no other could be made.
pub fn apply_sandbox_failed(status: &mut Status, now: Now) {
    if let Some(lost) = &mut status.sandbox {
        lost.retry_boot_ns = Some(now.boot_ns.saturating_add(SANDBOX_RETRY_NS));
    }
}

/// All containers have ended for a restart of all: every one begins anew.
pub fn apply_anew(record: &PodRecord, status: &mut Status) {
    status.restarting_all = None;
    begin_anew(record, status, |_, _| false);
}

fn begin_anew(record: &PodRecord, status: &mut Status, stays: impl Fn(usize, &Container) -> bool) {
    let has_init = record.containers.iter().any(|c| c.kind == ContainerKind::Init);
    let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    if has_init {
        status.initialized_at = None;
    }
    for (index, c) in status.containers.iter_mut().enumerate() {
        if c.kind == ContainerKind::Ephemeral || stays(index, c) {
            continue;
        }
        let State::Terminated(exit) = &c.state else {
            c.anew = true;
            continue;
        };
        let exit = exit.clone();
        if after_exit(record, index, exit.exit_code).is_none() && c.kind == ContainerKind::Init {
            // It was done, and is run again all the same.
            c.backoff = Some(next_backoff(record, c.backoff.as_ref(), exit.finished_boot_ns));
        }
        c.anew = true;
        if !backs_off(record, c) {
            c.state = State::Waiting { reason: reason.to_owned(), message: String::new() };
        }
        c.last = Some(exit);
    }
}

/// The pod has come to its end.
pub fn apply_finish(status: &mut Status, now: Now) {
    settle_waiting(status);
    status.finished_at.get_or_insert(now.wall);
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
    let grace_seconds = if force { 0 } else { requested.unwrap_or(pod_grace_seconds) };
    let given_seconds = if force { 0 } else { grace_seconds.max(GRACE_FLOOR_SECONDS) };
    let deadline_boot_ns = now.boot_ns.saturating_add(given_seconds.saturating_mul(SECOND_NS));
    match &mut status.deletion {
        // By force takes the floor of two seconds away, too, in which a container may be whose deadline has passed.
        Some(earlier) if deadline_boot_ns >= earlier.deadline_boot_ns && (!force || earlier.force) => false,
        Some(earlier) => {
            earlier.deadline_boot_ns = earlier.deadline_boot_ns.min(deadline_boot_ns);
            earlier.grace_seconds = earlier.grace_seconds.min(grace_seconds);
            earlier.force |= force;
            true
        }
        None => {
            status.deletion = Some(Deletion { requested_at: now.wall, grace_seconds, deadline_boot_ns, force });
            true
        }
    }
}
