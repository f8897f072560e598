//! The words of a table row out of a `v1.Pod`: READY, STATUS, RESTARTS, AGE, as kubectl prints them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::out::Tone;
use super::span;
use crate::pod;

/// One row about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `1/2`.
    pub ready: String,
    /// `Running`, `Init:0/1`, `CrashLoopBackOff`, `Terminating`, …
    pub status: String,
    /// `0`, or `4 (3m ago)`.
    pub restarts: String,
    /// `3m20s`, or `<unknown>`.
    pub age: String,
    /// Colour of the status.
    pub tone: Tone,
}

/// What a table says of the pod at `now`.
pub fn row(pod: &Pod, now: Timestamp) -> Row {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let inits = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let total = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let ready = containers.iter().filter(|container| container.ready && running(container)).count();
    let word = pod::printable_status(pod);
    // While a pod initializes, its init containers are the ones whose restarts tell something.
    let counted = if word.starts_with("Init:") { inits } else { containers };
    Row {
        tone: tone(&word, ready == total),
        ready: format!("{ready}/{total}"),
        status: word,
        restarts: restarts(counted, now),
        age: since(pod.metadata.creation_timestamp.as_ref(), now),
    }
}

/// Time since `then` in short form.
pub fn since(then: Option<&Time>, now: Timestamp) -> String {
    then.map_or_else(|| "<unknown>".into(), |then| span::age(now.as_second() - then.0.as_second()))
}

fn running(container: &ContainerStatus) -> bool {
    container.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn restarts(containers: &[ContainerStatus], now: Timestamp) -> String {
    let count: i64 = containers.iter().map(|container| i64::from(container.restart_count)).sum();
    let last = containers
        .iter()
        .filter_map(|container| container.last_state.as_ref()?.terminated.as_ref()?.finished_at.as_ref())
        .max_by_key(|time| time.0);
    match last {
        Some(last) if count > 0 => format!("{count} ({} ago)", since(Some(last), now)),
        _ => count.to_string(),
    }
}

fn tone(word: &str, all_ready: bool) -> Tone {
    match word {
        "Running" if all_ready => Tone::Good,
        "Succeeded" | "Completed" => Tone::Good,
        "Running" | "NotReady" | "Pending" | "Terminating" | "ContainerCreating" | "PodInitializing" => Tone::Fair,
        _ if word.strip_prefix("Init:").is_some_and(|rest| rest.contains('/')) => Tone::Fair,
        _ => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn told(containers: &str, inits: &str, more: &str) -> Row {
        let pod = format!(
            r#"{{"apiVersion":"v1","kind":"Pod",
                "metadata":{{"name":"demo","creationTimestamp":"2026-01-01T00:56:40Z"{more}}},
                "spec":{{"containers":[{{"name":"a"}},{{"name":"b"}}]}},
                "status":{{"phase":"Running","containerStatuses":[{containers}],"initContainerStatuses":[{inits}]}}}}"#
        );
        row(&serde_json::from_str(&pod).expect("a pod"), NOW.parse().expect("a time"))
    }

    fn container(name: &str, ready: bool, restarts: u32, state: &str, last: &str) -> String {
        format!(
            r#"{{"name":"{name}","ready":{ready},"restartCount":{restarts},"image":"i","imageID":"","state":{{{state}}},"lastState":{{{last}}}}}"#
        )
    }

    const RUNNING: &str = r#""running":{"startedAt":"2026-01-01T00:57:00Z"}"#;
    const CRASHING: &str = r#""waiting":{"reason":"CrashLoopBackOff"}"#;
    const FAILED: &str = r#""terminated":{"exitCode":3,"finishedAt":"2026-01-01T00:59:30Z"}"#;

    #[test]
    fn a_running_pod_is_ready_and_good() {
        let both = [container("a", true, 0, RUNNING, ""), container("b", true, 0, RUNNING, "")].join(",");
        let row = told(&both, "", "");
        assert_eq!((row.ready.as_str(), row.status.as_str()), ("2/2", "Running"));
        assert_eq!((row.restarts.as_str(), row.age.as_str(), row.tone), ("0", "3m20s", Tone::Good));
    }

    #[test]
    fn a_crash_loop_shows_its_reason_and_the_last_restart() {
        let both = [container("a", true, 0, RUNNING, ""), container("b", false, 4, CRASHING, FAILED)].join(",");
        let row = told(&both, "", "");
        assert_eq!((row.ready.as_str(), row.status.as_str()), ("1/2", "CrashLoopBackOff"));
        assert_eq!((row.restarts.as_str(), row.tone), ("4 (30s ago)", Tone::Bad));
    }

    #[test]
    fn while_a_pod_initializes_its_init_containers_are_counted() {
        let app = container("a", false, 0, r#""waiting":{"reason":"PodInitializing"}"#, "");
        let row = told(&app, &container("one", false, 2, CRASHING, FAILED), "");
        assert_eq!((row.status.as_str(), row.restarts.as_str()), ("Init:CrashLoopBackOff", "2 (30s ago)"));
    }

    #[test]
    fn a_pod_that_is_being_deleted_says_so() {
        let row = told(&container("a", true, 0, RUNNING, ""), "", r#","deletionTimestamp":"2026-01-01T00:59:59Z""#);
        assert_eq!((row.status.as_str(), row.tone), ("Terminating", Tone::Fair));
    }

    #[test]
    fn one_container_done_and_one_running_is_not_completed() {
        let done = container("a", false, 0, r#""terminated":{"exitCode":0,"reason":"Completed"}"#, "");
        let row = told(&[done, container("b", true, 0, RUNNING, "")].join(","), "", "");
        assert_eq!((row.ready.as_str(), row.status.as_str()), ("1/2", "NotReady"));
    }
}
