//! How what runs is stopped: preStop, the turn of sidecars, stop signal, SIGKILL. All within one absolute deadline.

use super::Now;
use super::decide::{Action, Decision, KILL_AGAIN_NS};
use super::rules::{GRACE_FLOOR_SECONDS, SECOND_NS, is_running, is_sidecar};
use crate::state::record::{
    Container, ContainerKind, Deletion, Ending, Hook, HookAction, HookRun, PodRecord, RestartingAll, State, Status,
    Stop, StopWhy,
};

/// What those who shall stop are given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    /// When it is over.
    deadline_boot_ns: u64,
    /// Until then hooks may run, and sidecars wait for the others: earlier than the deadline when that is the floor's.
    patience_boot_ns: u64,
    /// preStop hooks run.
    hooks: bool,
    /// Nobody is killed sooner than the floor after the stop signal.
    floor: bool,
}

impl Given {
    fn new(deadline_boot_ns: u64, grace_seconds: u64) -> Given {
        let floor_seconds = GRACE_FLOOR_SECONDS.saturating_sub(grace_seconds);
        Given {
            deadline_boot_ns,
            patience_boot_ns: deadline_boot_ns.saturating_sub(floor_seconds * SECOND_NS),
            hooks: grace_seconds > 0,
            floor: true,
        }
    }

    pub(super) fn deletion(deletion: &Deletion) -> Given {
        Given::new(deletion.deadline_boot_ns, deletion.grace_seconds)
    }

    pub(super) fn ending(ending: &Ending) -> Given {
        Given::new(ending.deadline_boot_ns, ending.grace_seconds)
    }

    /// Without grace, as the kubelet does.
    pub(super) fn restart(all: &RestartingAll) -> Given {
        Given::new(all.deadline_boot_ns, 0)
    }

    pub(super) fn stop(stop: &Stop) -> Given {
        match stop.why {
            // The floor is the kubelet's affair, and so are hooks.
            StopWhy::Client => Given {
                deadline_boot_ns: stop.deadline_boot_ns,
                patience_boot_ns: stop.deadline_boot_ns,
                hooks: false,
                floor: false,
            },
            _ => Given::new(stop.deadline_boot_ns, stop.grace_seconds),
        }
    }

    /// The shorter of two.
    pub(super) fn sooner(self, other: Given) -> Given {
        if other.deadline_boot_ns < self.deadline_boot_ns { other } else { self }
    }

    /// When a container is killed that was sent its stop signal then.
    fn kill_boot_ns(&self, since_boot_ns: u64) -> u64 {
        if self.floor {
            self.deadline_boot_ns.max(since_boot_ns.saturating_add(GRACE_FLOOR_SECONDS * SECOND_NS))
        } else {
            self.deadline_boot_ns
        }
    }
}

/// Stops all that runs: regular containers together, then sidecars, the last first, all within what was given.
pub(super) fn stop_all(record: &PodRecord, status: &Status, given: Given, now: Now) -> Decision {
    let mut decision = Decision::default();
    for (index, c) in status.containers.iter().enumerate().filter(|(_, c)| is_running(c)) {
        let given = match &c.stop {
            Some(stop) if stop.why != StopWhy::Client => given.sooner(Given::stop(stop)),
            _ => given,
        };
        if before_stop(&mut decision, record, index, c, given, now) {
            continue;
        }
        if is_sidecar(record, index) && !is_turn(record, status, index) && now.boot_ns < given.patience_boot_ns {
            decision.wake(given.patience_boot_ns);
            continue;
        }
        signal(&mut decision, index, c, given, now);
    }
    decision
}

/// Stops one container.
pub(super) fn stop_one(
    decision: &mut Decision,
    record: &PodRecord,
    index: usize,
    c: &Container,
    given: Given,
    now: Now,
) {
    if is_running(c) && !before_stop(decision, record, index, c, given, now) {
        signal(decision, index, c, given, now);
    }
}

/// A sidecar stops when no regular container runs any more, and no sidecar that was started after it.
fn is_turn(record: &PodRecord, status: &Status, index: usize) -> bool {
    !status.containers.iter().enumerate().any(|(other, c)| {
        let first = !is_sidecar(record, other) || other > index;
        is_running(c) && c.kind != ContainerKind::Ephemeral && other != index && first
    })
}

/// Whether a preStop hook is to be waited for; begins and ends it.
fn before_stop(
    decision: &mut Decision,
    record: &PodRecord,
    index: usize,
    c: &Container,
    given: Given,
    now: Now,
) -> bool {
    let hooked = record.containers.get(index).is_some_and(|made_of| made_of.hooks.pre_stop.is_some());
    if !hooked || matches!(c.state, State::Running { stopping: true, .. }) {
        return false;
    }
    match &c.hook {
        Some(run) if run.hook == Hook::PreStop && run.done => false,
        Some(run) if run.hook == Hook::PreStop => {
            let until = run.deadline_boot_ns.unwrap_or(u64::MAX).min(given.patience_boot_ns);
            if now.boot_ns >= until {
                decision.actions.push(Action::EndHook { index });
            } else {
                decision.wake(until);
            }
            true
        }
        _ if given.hooks && now.boot_ns < given.patience_boot_ns => {
            decision.actions.push(Action::Hook { index, hook: Hook::PreStop });
            true
        }
        _ => false,
    }
}

/// Stop signal, and SIGKILL when the time is over.
fn signal(decision: &mut Decision, index: usize, c: &Container, given: Given, now: Now) {
    let stopping = matches!(c.state, State::Running { stopping: true, .. });
    if !stopping && (given.floor || now.boot_ns < given.deadline_boot_ns) {
        decision.actions.push(Action::Stop { index });
        return decision.wake(given.kill_boot_ns(now.boot_ns));
    }
    let kill = given.kill_boot_ns(c.stopping_since_boot_ns.unwrap_or(0));
    if now.boot_ns >= kill {
        decision.actions.push(Action::Kill { index });
        decision.wake(now.boot_ns.saturating_add(KILL_AGAIN_NS));
    } else {
        decision.wake(kill);
    }
}

/// When a hook that begins now is over by itself: a sleep has its time, anything else ends when it ends.
pub(super) fn hook_deadline(action: &HookAction, now: Now) -> Option<u64> {
    match action {
        HookAction::Sleep { seconds } => Some(now.boot_ns.saturating_add(seconds.saturating_mul(SECOND_NS))),
        HookAction::Exec { .. } | HookAction::HttpGet(_) => None,
    }
}

/// What a hook has come to whose time is over: nothing is wrong with a sleep that has had its time.
pub fn hook_overtime(run: &HookRun, now: Now) -> Result<(), String> {
    match run.deadline_boot_ns {
        Some(deadline) if now.boot_ns >= deadline => Ok(()),
        _ => Err("it did not end within the grace period".to_owned()),
    }
}
