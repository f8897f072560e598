//! `status.conditions` by the kubelet's rules. What they are follows from the record; since when is kept in the status, and changes only when they do.

use super::{Phase, Seen, phase};
use crate::pod::Now;
use crate::pod::rules::{is_sidecar, sandbox_alive, started};
use crate::state::record::{ConditionRecord, Container, ContainerKind, PodRecord, RestartAction, State, Status};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The conditions that are husk's to tell.
const OWN: [&str; 8] = [
    "PodReadyToStartContainers",
    "AllContainersRestarting",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

/// A condition without its time.
struct Derived {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Derived {
    fn new(kind: &'static str, holds: bool) -> Derived {
        Derived { kind, holds, reason: "", message: String::new() }
    }

    fn why(self, reason: &'static str, message: String) -> Derived {
        Derived { reason, message, ..self }
    }

    fn status(&self) -> &'static str {
        if self.holds { "True" } else { "False" }
    }
}

/// In the kubelet's order.
fn derive(seen: &Seen<'_>) -> Vec<Derived> {
    let phase = phase(seen.record, seen.status, seen.live);
    let containers_ready = containers_ready(seen, phase);
    let ready = ready(seen, &containers_ready);
    let mut all = vec![
        Derived::new("PodReadyToStartContainers", seen.alive() && sandbox_alive(seen.status)),
        initialized(seen, phase),
        ready,
        containers_ready,
        Derived::new("PodScheduled", true),
    ];
    all.extend(all_restarting(seen, phase));
    // What cannot be done is refused, not put off, so a resize is never pending.
    all.extend(seen.status.resize.as_ref().map(|_| Derived::new("PodResizeInProgress", true)));
    all
}

/// Only of a pod one of whose containers has a rule for that.
fn all_restarting(seen: &Seen<'_>, phase: Phase) -> Option<Derived> {
    let mut rules = seen.record.containers.iter().flat_map(|c| &c.restart.rules);
    rules.find(|rule| rule.action == RestartAction::RestartAllContainers)?;
    let it = |holds| Derived::new("AllContainersRestarting", holds);
    Some(match (phase, &seen.status.restarting_all) {
        (Phase::Succeeded, _) => it(false).why("PodCompleted", String::new()),
        (Phase::Failed, _) => it(false).why("PodFailed", String::new()),
        (_, Some(all)) => it(true).why(
            "RestartAllContainersStarted",
            format!("container {} has ended with exit code {}", all.container, all.exit_code),
        ),
        (_, None) => it(false),
    })
}

fn initialized(seen: &Seen<'_>, phase: Phase) -> Derived {
    let it = |holds| Derived::new("Initialized", holds);
    if phase == Phase::Succeeded {
        return it(true).why("PodCompleted", String::new());
    }
    let app_began =
        seen.of(ContainerKind::App).any(|(_, c)| !matches!(c.state, State::Waiting { .. }) || c.last.is_some());
    if seen.status.initialized_at.is_some() || app_began {
        return it(true);
    }
    let incomplete = |index: usize, c: &Container| match is_sidecar(seen.record, index) {
        true => !(seen.runs(c) && started(seen.record, index, c)),
        false => !seen.ready(index, c),
    };
    let init = seen.of(ContainerKind::Init).filter(|(index, c)| incomplete(*index, c));
    let names: Vec<&str> = init.map(|(_, c)| c.name.as_str()).collect();
    it(false).why("ContainersNotInitialized", format!("containers with incomplete status: [{}]", names.join(" ")))
}

fn containers_ready(seen: &Seen<'_>, phase: Phase) -> Derived {
    let it = |holds| Derived::new("ContainersReady", holds);
    match phase {
        Phase::Succeeded => return it(false).why("PodCompleted", String::new()),
        Phase::Failed => return it(false).why("PodFailed", String::new()),
        Phase::Unknown => return it(false).why("UnknownContainerStatuses", String::new()),
        Phase::Pending | Phase::Running => {}
    }
    let sidecars = seen.of(ContainerKind::Init).filter(|(index, _)| is_sidecar(seen.record, *index));
    let counted = sidecars.chain(seen.of(ContainerKind::App));
    let unready: Vec<&str> =
        counted.filter(|(index, c)| !seen.ready(*index, c)).map(|(_, c)| c.name.as_str()).collect();
    if unready.is_empty() {
        return it(true);
    }
    it(false).why("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
}

/// Its containers are, and every gate is open.
fn ready(seen: &Seen<'_>, containers: &Derived) -> Derived {
    let it = |holds| Derived::new("Ready", holds);
    if !containers.holds {
        return it(false).why(containers.reason, containers.message.clone());
    }
    let gates = seen.record.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let closed: Vec<String> = gates
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match seen.status.conditions.iter().find(|c| c.kind == *kind && !is_own(kind)) {
                None => Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
                Some(c) if c.status == "True" => None,
                Some(c) => {
                    Some(format!("the status of pod readiness gate \"{kind}\" is not \"True\", but {}", c.status))
                }
            }
        })
        .collect();
    if closed.is_empty() { it(true) } else { it(false).why("ReadinessGatesNotReady", closed.join(", ")) }
}

/// Whether a condition is husk's to tell, and so nobody else's to set.
pub fn is_own(kind: &str) -> bool {
    OWN.contains(&kind)
}

/// As `husk get -o yaml` prints them: husk's own, then those that users have set.
pub(super) fn conditions(seen: &Seen<'_>, generation: Option<i64>) -> Vec<PodCondition> {
    let kept = |kind: &str| seen.status.conditions.iter().find(|c| c.kind == kind);
    let own = derive(seen).into_iter().map(|d| {
        // What nobody could write down any more became so when the pod was last heard of.
        let since = kept(d.kind).filter(|c| c.status == d.status()).map(|c| c.since);
        PodCondition {
            type_: d.kind.to_owned(),
            status: d.status().to_owned(),
            last_transition_time: Some(Time(since.unwrap_or_else(|| last_news(seen)))),
            reason: Some(d.reason.to_owned()).filter(|r| !r.is_empty()),
            message: Some(d.message).filter(|m| !m.is_empty()),
            observed_generation: generation,
            last_probe_time: None,
        }
    });
    let others = seen.status.conditions.iter().filter(|c| !is_own(&c.kind)).map(|c| PodCondition {
        type_: c.kind.clone(),
        status: c.status.clone(),
        last_transition_time: Some(Time(c.since)),
        reason: Some(c.reason.clone()).filter(|r| !r.is_empty()),
        message: Some(c.message.clone()).filter(|m| !m.is_empty()),
        observed_generation: generation,
        last_probe_time: None,
    });
    own.chain(others).collect()
}

/// The newest time that the status knows.
fn last_news(seen: &Seen<'_>) -> Timestamp {
    let status = seen.status;
    let of_containers = status.containers.iter().filter_map(|c| match &c.state {
        State::Running { started_at, .. } => Some(*started_at),
        State::Terminated(exit) => Some(exit.finished_at),
        State::Waiting { .. } => c.last.as_ref().map(|exit| exit.finished_at),
    });
    let sandbox = status.sandbox.as_ref().map(|s| s.ready_at);
    let all = of_containers.chain(sandbox).chain(status.finished_at).chain(status.conditions.iter().map(|c| c.since));
    all.max().unwrap_or(status.start_time)
}

/// Writes down which conditions hold, and since when those do that have changed. Call it before the status is written.
pub fn apply_conditions(record: &PodRecord, status: &mut Status, now: Now) {
    let derived = derive(&Seen { record, status, live: super::Liveness::Alive });
    status.conditions.retain(|c| !is_own(&c.kind) || derived.iter().any(|d| d.kind == c.kind));
    for d in derived {
        match status.conditions.iter_mut().find(|c| c.kind == d.kind) {
            Some(c) if c.status == d.status() => {}
            Some(c) => (c.status, c.since) = (d.status().to_owned(), now.wall),
            None => status.conditions.push(ConditionRecord {
                kind: d.kind.to_owned(),
                status: d.status().to_owned(),
                since: now.wall,
                reason: String::new(),
                message: String::new(),
            }),
        }
    }
}

/// How many conditions users may set.
const USERS: usize = 32;

/// A user sets one, or removes it (`None`). Answers whether anything changed.
///
/// # Errors
/// A sentence: it is husk's own, or there are too many.
pub fn set_condition(status: &mut Status, kind: &str, new: Option<ConditionRecord>) -> Result<bool, String> {
    if is_own(kind) {
        return Err(format!("condition {kind} is husk's own, it follows from what the containers do"));
    }
    let at = status.conditions.iter().position(|c| c.kind == kind);
    match (at, new) {
        (None, None) => Ok(false),
        (Some(at), None) => {
            status.conditions.remove(at);
            Ok(true)
        }
        (Some(at), Some(new)) => {
            let old = &mut status.conditions[at];
            let since = if old.status == new.status { old.since } else { new.since };
            let new = ConditionRecord { since, ..new };
            let changed = *old != new;
            *old = new;
            Ok(changed)
        }
        (None, Some(_)) if status.conditions.iter().filter(|c| !is_own(&c.kind)).count() >= USERS => {
            Err(format!("a pod has at most {USERS} conditions beside husk's own"))
        }
        (None, Some(new)) => {
            status.conditions.push(new);
            Ok(true)
        }
    }
}
