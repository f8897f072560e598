//! The STATUS column of `kubectl get pods`.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodStatus};

/// `Running`, `Init:0/2`, `CrashLoopBackOff`, `Completed`, `Terminating`, …, by kubectl's rules.
pub fn printable_status(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "Unknown".to_owned() };
    let phase = status.phase.as_deref().unwrap_or("Unknown");
    if pod.metadata.deletion_timestamp.is_some() && !matches!(phase, "Succeeded" | "Failed") {
        return "Terminating".to_owned();
    }
    let plain = status.reason.as_deref().filter(|r| !r.is_empty()).unwrap_or(phase);
    if let Some(word) = init_word(status)
        && !condition_true(status, "Initialized")
    {
        return word;
    }
    app_word(status).unwrap_or_else(|| plain.to_owned())
}

/// The first init container that has not succeeded decides.
fn init_word(status: &PodStatus) -> Option<String> {
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    init.iter().enumerate().find_map(|(i, c)| {
        let state = c.state.as_ref();
        if let Some(end) = state.and_then(|s| s.terminated.as_ref()) {
            return if end.exit_code == 0 { None } else { Some(format!("Init:{}", end_word(end))) };
        }
        let waiting = state.and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref());
        Some(match waiting {
            Some(reason) if reason != "PodInitializing" && !reason.is_empty() => format!("Init:{reason}"),
            _ => format!("Init:{i}/{}", init.len()),
        })
    })
}

/// The first app container that waits or has ended decides; `Completed` only when none runs.
fn app_word(status: &PodStatus) -> Option<String> {
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let word = containers.iter().find_map(|c| {
        let state = c.state.as_ref()?;
        let waiting = state.waiting.as_ref().and_then(|w| w.reason.clone()).filter(|r| !r.is_empty());
        waiting.or_else(|| state.terminated.as_ref().map(end_word))
    })?;
    let runs = |c: &ContainerStatus| c.ready && c.state.as_ref().is_some_and(|s| s.running.is_some());
    if word == "Completed" && containers.iter().any(runs) {
        let ready = condition_true(status, "Ready");
        return Some(if ready { "Running" } else { "NotReady" }.to_owned());
    }
    Some(word)
}

fn end_word(end: &ContainerStateTerminated) -> String {
    match (end.reason.as_deref(), end.signal) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", end.exit_code),
    }
}

fn condition_true(status: &PodStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True")
}
