//! What to do next.

use super::ephemeral;
use super::rules::{
    SECOND_NS, active_deadline_boot_ns, any_running, begun, closing, ended, is_running, is_sidecar, pod_settled,
    recreates, sandbox_alive, settled, started,
};
use super::stop::{Given, stop_all, stop_one};
use crate::state::record::{Container, ContainerKind, Deletion, Hook, HookRun, PodRecord, State, Status};

/// How long after a SIGKILL we look again whether somebody got away.
pub(super) const KILL_AGAIN_NS: u64 = SECOND_NS;

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
    /// Begin a hook of a running container: [`super::apply_hook_begun`], and [`super::apply_hook_end`] when it is over.
    Hook {
        /// Position in the record.
        index: usize,
        /// Which.
        hook: Hook,
    },
    /// The time of the hook that runs is over: end it, [`super::apply_hook_end`] with what [`super::hook_overtime`] says.
    EndHook {
        /// Position in the record.
        index: usize,
    },
    /// Send a container its stop signal, after [`super::apply_stopping`].
    Stop {
        /// Position in the record.
        index: usize,
    },
    /// SIGKILL to one container and all in it: the time that it was given has passed.
    Kill {
        /// Position in the record.
        index: usize,
    },
    /// SIGKILL to everything that still runs: by force, or because its sandbox is gone. It comes again at the wake-up while anything runs.
    KillAll,
    /// All init containers have succeeded, all sidecars have started: [`super::apply_initialized`].
    Initialized,
    /// The pod's work is done, or will never be, and something still runs: [`super::apply_ending`].
    End,
    /// `activeDeadlineSeconds` have passed: [`super::apply_deadline`].
    Expire,
    /// All have ended for a restart of all: [`super::apply_anew`].
    Anew,
    /// The sandbox was lost: make another, [`super::apply_new_sandbox`].
    NewSandbox,
    /// Nothing will run any more: kill pause, wait for it, [`super::apply_sandbox_end`].
    EndSandbox,
    /// The pod has come to its end: [`super::apply_finish`], free its volumes, exit.
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

impl Decision {
    fn now(action: Action) -> Decision {
        Decision { actions: vec![action], wake_boot_ns: None }
    }

    fn kill_all(now: Now) -> Decision {
        Decision { actions: vec![Action::KillAll], wake_boot_ns: Some(now.boot_ns.saturating_add(KILL_AGAIN_NS)) }
    }

    pub(super) fn wake(&mut self, at_boot_ns: u64) {
        self.wake_boot_ns = Some(self.wake_boot_ns.map_or(at_boot_ns, |w| w.min(at_boot_ns)));
    }
}

/// What to do next with a pod in this state. Level-triggered: the same state gives the same answer, so a new supervisor goes on where the last one was.
///
/// Ask after each change and at the wake-up. Before there is a sandbox the answer is empty: to make it is the first thing a supervisor does.
pub fn decide(record: &PodRecord, status: &Status, now: Now) -> Decision {
    if let Some(deletion) = &status.deletion {
        return delete(record, status, deletion, now);
    }
    if status.finished_at.is_some() {
        return Decision::default();
    }
    let gone = status.sandbox.as_ref().is_some_and(|s| s.ended);
    if gone || record.driven() && closing(status) {
        return if any_running(status) {
            Decision::kill_all(now)
        } else if !gone && sandbox_alive(status) {
            Decision::now(Action::EndSandbox)
        } else if recreates(record, status) {
            revive(record, status, now)
        } else {
            Decision::now(Action::Finish)
        };
    }
    if status.sandbox.is_none() {
        return Decision::default();
    }
    if record.driven() {
        return driven(record, status, now);
    }
    if let Some(ending) = &status.ending {
        return if any_running(status) {
            stop_all(record, status, Given::ending(ending), now)
        } else {
            Decision::now(Action::EndSandbox)
        };
    }
    let active_deadline = active_deadline_boot_ns(record, status, now);
    // What has come to its end stays what it has become, however long its sandbox takes to go.
    if active_deadline.is_some_and(|deadline| now.boot_ns >= deadline) && !pod_settled(record, status) {
        return Decision::now(Action::Expire);
    }
    let mut decision = match &status.restarting_all {
        Some(all) if any_running(status) => stop_all(record, status, Given::restart(all), now),
        Some(_) => Decision::now(Action::Anew),
        None => {
            let initialized = status.initialized_at.is_some();
            let mut decision = if initialized { run(record, status, now) } else { initialize(record, status, now) };
            ephemeral::look_after(&mut decision, record, status, now);
            decision
        }
    };
    if let Some(deadline) = active_deadline {
        decision.wake(deadline);
    }
    decision
}

/// The positions of the containers that a new pod starts first, as [`decide`] will say: they can be prepared before there is a sandbox.
pub fn first(record: &PodRecord) -> Vec<usize> {
    let of = |kind| record.containers.iter().enumerate().filter(move |(_, c)| c.kind == kind).map(|(index, _)| index);
    match of(ContainerKind::Init).next() {
        Some(init) => vec![init],
        None => of(ContainerKind::App).collect(),
    }
}

fn delete(record: &PodRecord, status: &Status, deletion: &Deletion, now: Now) -> Decision {
    if !any_running(status) {
        return Decision::now(if sandbox_alive(status) { Action::EndSandbox } else { Action::Remove });
    }
    if deletion.force || !sandbox_alive(status) {
        return Decision::kill_all(now);
    }
    let mut given = Given::deletion(deletion);
    if let Some(ending) = &status.ending {
        given = given.sooner(Given::ending(ending));
    }
    stop_all(record, status, given, now)
}

/// Another sandbox, at once or when the time of the next try has come, as long as the pod may be active.
fn revive(record: &PodRecord, status: &Status, now: Now) -> Decision {
    let deadline = active_deadline_boot_ns(record, status, now);
    if deadline.is_some_and(|deadline| now.boot_ns >= deadline) {
        return Decision::now(Action::Expire);
    }
    let retry = status.sandbox.as_ref().and_then(|s| s.retry_boot_ns).filter(|at| now.boot_ns < *at);
    let Some(retry) = retry else { return Decision::now(Action::NewSandbox) };
    Decision { actions: Vec::new(), wake_boot_ns: Some(deadline.map_or(retry, |deadline| deadline.min(retry))) }
}

/// A client decides what runs; what it asked to stop is killed when its time is over.
fn driven(record: &PodRecord, status: &Status, now: Now) -> Decision {
    let mut decision = Decision::default();
    for (index, c) in status.containers.iter().enumerate() {
        if let Some(stop) = &c.stop {
            stop_one(&mut decision, record, index, c, Given::stop(stop), now);
        }
    }
    decision
}

/// One init container after the other: each must have succeeded before the next begins, a sidecar must have started.
fn initialize(record: &PodRecord, status: &Status, now: Now) -> Decision {
    let mut decision = Decision::default();
    let init = |(_, c): &(usize, &Container)| c.kind == ContainerKind::Init;
    let all: Vec<(usize, &Container)> = status.containers.iter().enumerate().filter(init).collect();
    let current = all.iter().rposition(|(_, c)| begun(c));
    // Sidecars of before are kept alive; they hold up nobody any more.
    let (before, rest) = all.split_at(current.unwrap_or(0));
    for (index, c) in before.iter().filter(|(index, _)| is_sidecar(record, *index)) {
        keep(&mut decision, record, status, *index, c, now);
    }
    let mut next = rest.iter();
    if current.is_some()
        && let Some((index, c)) = next.next()
    {
        let succeeded = matches!(&c.state, State::Terminated(exit) if exit.exit_code == 0);
        let done = if is_sidecar(record, *index) { started(record, *index, c) } else { succeeded };
        if !done && settled(record, *index, c) {
            return Decision::now(if any_running(status) { Action::End } else { Action::EndSandbox });
        }
        if !done || is_running(c) {
            keep(&mut decision, record, status, *index, c, now);
        }
        if !done {
            return decision;
        }
    }
    match next.next() {
        Some((index, c)) => start_when_due(&mut decision, record, status, *index, c, now),
        None => decision.actions.push(Action::Initialized),
    }
    decision
}

fn run(record: &PodRecord, status: &Status, now: Now) -> Decision {
    let mut decision = Decision::default();
    let all = || status.containers.iter().enumerate();
    let app = |(_, c): &(usize, &Container)| c.kind == ContainerKind::App;
    if all().filter(app).all(|(index, c)| settled(record, index, c)) {
        return Decision::now(if any_running(status) { Action::End } else { Action::EndSandbox });
    }
    for (index, c) in all().filter(|(index, c)| c.kind == ContainerKind::App || is_sidecar(record, *index)) {
        keep(&mut decision, record, status, index, c, now);
    }
    decision
}

/// A container that shall run: started when it is its time, with its postStart hook, and stopped when that was asked for.
fn keep(decision: &mut Decision, record: &PodRecord, status: &Status, index: usize, c: &Container, now: Now) {
    if settled(record, index, c) {
        return;
    }
    if !is_running(c) {
        return start_when_due(decision, record, status, index, c, now);
    }
    if let Some(stop) = &c.stop {
        stop_one(decision, record, index, c, Given::stop(stop), now);
        return;
    }
    match (&c.hook, record.containers.get(index).is_some_and(|made_of| made_of.hooks.post_start.is_some())) {
        (None, true) => decision.actions.push(Action::Hook { index, hook: Hook::PostStart }),
        (Some(HookRun { hook: Hook::PostStart, done: false, deadline_boot_ns: Some(deadline), .. }), _) => {
            if now.boot_ns >= *deadline {
                decision.actions.push(Action::EndHook { index });
            } else {
                decision.wake(*deadline);
            }
        }
        _ => {}
    }
}

/// Whether a postStart hook is under way, or is to be: no other container is started until it is over.
fn hooking(record: &PodRecord, status: &Status, decision: &Decision) -> bool {
    let hooked = |index: usize| record.containers.get(index).is_some_and(|c| c.hooks.post_start.is_some());
    let pending = |(index, c): (usize, &Container)| {
        let over = c.hook.as_ref().is_some_and(|run| run.hook == Hook::PreStop || run.done);
        is_running(c) && c.stop.is_none() && hooked(index) && !over
    };
    status.containers.iter().enumerate().any(pending)
        || decision.actions.iter().any(|action| matches!(action, Action::Start { index, .. } if hooked(*index)))
}

fn start_when_due(decision: &mut Decision, record: &PodRecord, status: &Status, index: usize, c: &Container, now: Now) {
    let due = match ended(c) {
        None => 0,
        Some(exit) => {
            let delay_ns = c.backoff.as_ref().map_or(0, |b| b.delay_ms.saturating_mul(1_000_000));
            exit.finished_boot_ns.saturating_add(delay_ns)
        }
    };
    if due > now.boot_ns {
        decision.wake(due);
    } else if !hooking(record, status, decision) {
        let attempt = if ended(c).is_some() { c.attempt.saturating_add(1) } else { c.attempt };
        decision.actions.push(Action::Start { index, attempt });
    }
}
