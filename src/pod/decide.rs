//! What to do next.

use super::ephemeral;
use super::rules::{SECOND_NS, any_running, closing, ended, is_running, sandbox_alive, settled};
use crate::state::record::{Container, ContainerKind, Deletion, PodRecord, State, Status};

/// How long after a SIGKILL we look again whether somebody got away.
const KILL_AGAIN_NS: u64 = SECOND_NS;

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
    /// Send each running container that is not `stopping` its stop signal, after [`super::apply_stopping`].
    StopAll,
    /// The same for one container.
    Stop {
        /// Position in the record.
        index: usize,
    },
    /// SIGKILL to one container and all in it: the time that it was given has passed.
    Kill {
        /// Position in the record.
        index: usize,
    },
    /// SIGKILL to everything that still runs: the deadline has passed, or the pod is over. It comes again at the wake-up while anything runs.
    KillAll,
    /// All init containers have succeeded: [`super::apply_initialized`].
    Initialized,
    /// Nothing will run any more: kill pause, wait for it, [`super::apply_sandbox_end`].
    EndSandbox,
    /// The pod has come to its end: record `finished_at`, free its volumes, exit.
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
}

/// What to do next with a pod in this state. Level-triggered: the same state gives the same answer, so a new supervisor goes on where the last one was.
///
/// Ask after each change and at the wake-up. Before there is a sandbox the answer is empty: to make it is the first thing a supervisor does.
pub fn decide(record: &PodRecord, status: &Status, now: Now) -> Decision {
    if let Some(deletion) = &status.deletion {
        return delete(status, deletion, now);
    }
    if status.finished_at.is_some() {
        return Decision::default();
    }
    if closing(status) {
        return if any_running(status) {
            Decision::kill_all(now)
        } else if sandbox_alive(status) {
            Decision::now(Action::EndSandbox)
        } else {
            Decision::now(Action::Finish)
        };
    }
    if status.sandbox.is_none() {
        return Decision::default();
    }
    if record.driven() {
        return driven(status, now);
    }
    let mut decision =
        if status.initialized_at.is_none() { initialize(record, status, now) } else { run(record, status, now) };
    ephemeral::look_after(&mut decision, status, now);
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

fn delete(status: &Status, deletion: &Deletion, now: Now) -> Decision {
    if !any_running(status) {
        return Decision::now(if sandbox_alive(status) { Action::EndSandbox } else { Action::Remove });
    }
    if now.boot_ns >= deletion.deadline_boot_ns {
        return Decision::kill_all(now);
    }
    let unasked = status.containers.iter().any(|c| matches!(c.state, State::Running { stopping: false, .. }));
    Decision {
        actions: if unasked { vec![Action::StopAll] } else { Vec::new() },
        wake_boot_ns: Some(deletion.deadline_boot_ns),
    }
}

/// A client decides what runs; what it asked to stop is killed when its time is over.
fn driven(status: &Status, now: Now) -> Decision {
    let mut decision = Decision::default();
    for (index, c) in status.containers.iter().enumerate() {
        stop_when_due(&mut decision, index, c, now);
    }
    decision
}

/// What runs and has a deadline is asked to stop, and killed when its time is over.
pub(super) fn stop_when_due(decision: &mut Decision, index: usize, c: &Container, now: Now) {
    let (State::Running { stopping, .. }, Some(deadline)) =
        (&c.state, c.stop.as_ref().map(|stop| stop.deadline_boot_ns))
    else {
        return;
    };
    let wake = if now.boot_ns >= deadline {
        decision.actions.push(Action::Kill { index });
        now.boot_ns.saturating_add(KILL_AGAIN_NS)
    } else {
        if !stopping {
            decision.actions.push(Action::Stop { index });
        }
        deadline
    };
    decision.wake_boot_ns = Some(decision.wake_boot_ns.map_or(wake, |w| w.min(wake)));
}

/// One init container after the other; each must have succeeded before the next.
fn initialize(record: &PodRecord, status: &Status, now: Now) -> Decision {
    let mut init = status.containers.iter().enumerate().filter(|(_, c)| c.kind == ContainerKind::Init);
    let current = init.find(|(_, c)| !matches!(&c.state, State::Terminated(exit) if exit.exit_code == 0));
    match current {
        None => Decision::now(Action::Initialized),
        Some((_, c)) if is_running(c) => Decision::default(),
        Some((index, c)) if settled(record, index, c) => Decision::now(Action::EndSandbox),
        Some((index, c)) => {
            let mut decision = Decision::default();
            start_when_due(&mut decision, index, c, now);
            decision
        }
    }
}

fn run(record: &PodRecord, status: &Status, now: Now) -> Decision {
    let mut decision = Decision::default();
    let mut over = true;
    for (index, c) in status.containers.iter().enumerate().filter(|(_, c)| c.kind == ContainerKind::App) {
        if settled(record, index, c) {
            continue;
        }
        over = false;
        if is_running(c) {
            // A restart for new resources.
            stop_when_due(&mut decision, index, c, now);
        } else {
            start_when_due(&mut decision, index, c, now);
        }
    }
    if over { Decision::now(Action::EndSandbox) } else { decision }
}

fn start_when_due(decision: &mut Decision, index: usize, c: &Container, now: Now) {
    let Some(exit) = ended(c) else {
        decision.actions.push(Action::Start { index, attempt: c.attempt });
        return;
    };
    let delay_ns = c.backoff.as_ref().map_or(0, |b| b.delay_ms.saturating_mul(1_000_000));
    let due = exit.finished_boot_ns.saturating_add(delay_ns);
    if due <= now.boot_ns {
        decision.actions.push(Action::Start { index, attempt: c.attempt.saturating_add(1) });
    } else {
        decision.wake_boot_ns = Some(decision.wake_boot_ns.map_or(due, |w| w.min(due)));
    }
}
