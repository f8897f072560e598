//! `status.conditions`, with times that follow from the record, so that asking twice gives the same answer.

use super::{Liveness, Phase, Seen, phase};
use crate::pod::rules::{ended, sandbox_alive};
use crate::state::record::{ContainerKind, State};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Why a condition is as it is.
struct Why {
    reason: &'static str,
    message: String,
}

fn condition(kind: &str, holds: bool, since: Timestamp, why: Option<Why>) -> PodCondition {
    let (reason, message) = why.map_or((None, None), |w| (Some(w.reason.to_owned()), Some(w.message)));
    PodCondition {
        type_: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        last_transition_time: Some(Time(since)),
        reason,
        message: message.filter(|m| !m.is_empty()),
        ..Default::default()
    }
}

/// In the kubelet's order.
pub(super) fn conditions(seen: &Seen<'_>) -> Vec<PodCondition> {
    let status = seen.status;
    let start = status.start_time;
    let phase = phase(seen.record, status, seen.live);

    let held = seen.live == Liveness::Alive && sandbox_alive(status);
    let held_since = match &status.sandbox {
        Some(sandbox) if held => sandbox.ready_at,
        _ => last_end(seen).unwrap_or(start),
    };

    let incomplete = names(seen, ContainerKind::Init);
    let (initialized, initialized_why) = match (status.initialized_at, phase) {
        (Some(_), Phase::Succeeded) => (true, Some(Why { reason: "PodCompleted", message: String::new() })),
        (Some(_), _) => (true, None),
        (None, _) => {
            let message = format!("containers with incomplete status: [{incomplete}]");
            (false, Some(Why { reason: "ContainersNotInitialized", message }))
        }
    };

    let unready = names(seen, ContainerKind::App);
    let ready = unready.is_empty() && matches!(phase, Phase::Pending | Phase::Running);
    let not_ready = || {
        let (reason, message) = match phase {
            Phase::Succeeded => ("PodCompleted", String::new()),
            Phase::Failed => ("PodFailed", String::new()),
            _ => ("ContainersNotReady", format!("containers with unready status: [{unready}]")),
        };
        if ready { None } else { Some(Why { reason, message }) }
    };
    let ready_since = if ready { last_start(seen) } else { last_end(seen) }.unwrap_or(start);

    let mut all = vec![
        condition("PodReadyToStartContainers", held, held_since, None),
        condition("Initialized", initialized, status.initialized_at.unwrap_or(start), initialized_why),
        condition("Ready", ready, ready_since, not_ready()),
        condition("ContainersReady", ready, ready_since, not_ready()),
        condition("PodScheduled", true, start, None),
    ];
    // What cannot be done is refused, not put off, so a resize is never pending.
    all.extend(status.resize.as_ref().map(|r| condition("PodResizeInProgress", true, r.requested_at, None)));
    all
}

/// Names of those that are not ready, with spaces between.
fn names(seen: &Seen<'_>, kind: ContainerKind) -> String {
    let unready: Vec<&str> =
        seen.of(kind).filter(|(index, c)| !seen.ready(*index, c)).map(|(_, c)| c.name.as_str()).collect();
    unready.join(" ")
}

fn last_start(seen: &Seen<'_>) -> Option<Timestamp> {
    let started = seen.of(ContainerKind::App).filter_map(|(_, c)| match &c.state {
        State::Running { started_at, .. } => Some(*started_at),
        _ => None,
    });
    started.max()
}

fn last_end(seen: &Seen<'_>) -> Option<Timestamp> {
    let ends = seen.of(ContainerKind::App).filter_map(|(_, c)| ended(c)).map(|exit| exit.finished_at);
    ends.max().max(seen.status.finished_at)
}
