//! Tables: one pod at a time, at chosen instants.

use super::*;
use crate::manifest;
use crate::state::record::{
    Backoff, Container, ContainerKind, ContainerRecord, Exit, Owner, PodRecord, Resize, Sandbox, SandboxRecord, State,
    Status, Stop, StopWhy, VERSION,
};
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

pub(super) const SECOND: u64 = 1_000_000_000;

/// A pod with init containers `i0`… and app containers `a0`….
pub(super) fn record(policy: &str, init: usize, app: usize) -> PodRecord {
    let list = |prefix: &str, n: usize| {
        let one = |i| format!("{{name: {prefix}{i}, image: x}}");
        (0..n).map(one).collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: demo, uid: u}}, spec: {{restartPolicy: {policy}, initContainers: [{}], containers: [{}]}}}}",
        list("i", init),
        list("a", app)
    );
    let mut pod = manifest::parse(text.as_bytes(), "x").expect("parses").remove(0);
    manifest::default(&mut pod);
    let container = |name: String, kind| ContainerRecord {
        name,
        kind,
        image_id: "sha256:1".to_owned(),
        image_ref: "x:latest".to_owned(),
        argv: vec!["/a".to_owned()],
        cwd: "/".to_owned(),
        stop_signal: 15,
        ..ContainerRecord::default()
    };
    let init = (0..init).map(|i| container(format!("i{i}"), ContainerKind::Init));
    let app = (0..app).map(|i| container(format!("a{i}"), ContainerKind::App));
    PodRecord {
        version: VERSION,
        owner: Owner::Cli,
        source: None,
        id: "u".to_owned(),
        attempt: 0,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        cgroup: "husk/u".to_owned(),
        cgroup_driver: crate::cgroup::DriverKind::default(),
        log_dir: "/l".to_owned(),
        sandbox: SandboxRecord::default(),
        pod,
        containers: init.chain(app).collect(),
    }
}

pub(super) fn at(boot_ns: u64) -> Now {
    let wall = jiff::Timestamp::from_nanosecond(i128::from(boot_ns)).expect("in range");
    Now { boot_ns, wall }
}

/// With its sandbox, nothing started.
pub(super) fn fresh(record: &PodRecord) -> Status {
    let mut status = initial(record, "boot", at(0));
    status.sandbox = Some(Sandbox {
        pid: 10,
        start_ticks: 1,
        ready_at: at(0).wall,
        ended: false,
        network: None,
        attempt: 0,
        retry_boot_ns: None,
    });
    status
}

pub(super) fn exit(attempt: u32, exit_code: i32, boot_ns: u64) -> Exit {
    Exit {
        oom_kills: 0,
        id: format!("id{attempt}"),
        attempt,
        exit_code,
        signal: None,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: String::new(),
        started_at: Some(at(0).wall),
        finished_at: at(boot_ns).wall,
        finished_boot_ns: boot_ns,
    }
}

pub(super) fn start(record: &PodRecord, status: &mut Status, index: usize, attempt: u32, boot_ns: u64) {
    let process = Process { id: format!("id{attempt}"), pid: 100, start_ticks: 1 };
    apply_start(record, status, index, attempt, process, at(boot_ns));
}

fn actions(record: &PodRecord, status: &Status, boot_ns: u64) -> Vec<Action> {
    decide(record, status, at(boot_ns)).actions
}

fn column(record: &PodRecord, status: &Status) -> String {
    printable_status(&to_v1(record, status, Liveness::Alive))
}

fn condition(pod: &k8s_openapi::api::core::v1::Pod, kind: &str) -> (String, Option<String>) {
    let status = pod.status.as_ref().expect("status");
    let c = status.conditions.iter().flatten().find(|c| c.type_ == kind).expect("condition");
    (c.status.clone(), c.reason.clone())
}

#[test]
fn init_containers_run_one_after_another_and_then_the_others_together() {
    let r = record("Always", 2, 2);
    let mut s = fresh(&r);
    assert_eq!(column(&r, &s), "Init:0/2");
    assert_eq!(actions(&r, &s, 0), [Action::Start { index: 0, attempt: 0 }]);
    start(&r, &mut s, 0, 0, 0);
    assert_eq!(decide(&r, &s, at(0)), Decision::default());
    apply_exit(&r, &mut s, 0, exit(0, 0, 5));
    assert_eq!(column(&r, &s), "Init:1/2");
    assert_eq!(actions(&r, &s, 5), [Action::Start { index: 1, attempt: 0 }]);
    start(&r, &mut s, 1, 0, 5);
    apply_exit(&r, &mut s, 1, exit(0, 0, 6));
    assert_eq!(actions(&r, &s, 6), [Action::Initialized]);
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Pending);
    apply_initialized(&mut s, at(6));
    assert_eq!(column(&r, &s), "PodInitializing");
    let both = [Action::Start { index: 2, attempt: 0 }, Action::Start { index: 3, attempt: 0 }];
    assert_eq!(actions(&r, &s, 6), both);
    start(&r, &mut s, 2, 0, 6);
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Pending);
    start(&r, &mut s, 3, 0, 6);
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Running);
    assert_eq!(column(&r, &s), "Running");
    assert_eq!(decide(&r, &s, at(7)), Decision::default());
    let pod = to_v1(&r, &s, Liveness::Alive);
    for kind in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&pod, kind), ("True".to_owned(), None), "{kind}");
    }
}

#[test]
fn nothing_is_started_without_a_sandbox() {
    let r = record("Always", 0, 1);
    let mut s = initial(&r, "boot", at(0));
    assert_eq!(decide(&r, &s, at(0)), Decision::default());
    assert_eq!(column(&r, &s), "ContainerCreating");
    request_delete(&mut s, 30, None, false, at(0));
    assert_eq!(actions(&r, &s, 0), [Action::Remove]);
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let r = record("Never", 2, 1);
    let mut s = fresh(&r);
    start(&r, &mut s, 0, 0, 0);
    apply_exit(&r, &mut s, 0, exit(0, 3, 5));
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Failed);
    assert_eq!(column(&r, &s), "Init:Error");
    assert_eq!(actions(&r, &s, 5), [Action::EndSandbox]);
    apply_sandbox_end(&r, &mut s);
    assert_eq!(s.failure, None);
    assert_eq!(actions(&r, &s, 5), [Action::Finish]);
    s.finished_at = Some(at(6).wall);
    assert_eq!(decide(&r, &s, at(7)), Decision::default());
    assert_eq!(phase(&r, &s, Liveness::Dead), Phase::Failed);
    assert_eq!(condition(&to_v1(&r, &s, Liveness::Dead), "Ready"), ("False".to_owned(), Some("PodFailed".to_owned())));
}

#[test]
fn a_failed_init_container_is_otherwise_started_again() {
    for policy in ["Always", "OnFailure"] {
        let r = record(policy, 1, 1);
        let mut s = fresh(&r);
        start(&r, &mut s, 0, 0, 0);
        apply_exit(&r, &mut s, 0, exit(0, 3, 5));
        assert_eq!(actions(&r, &s, 5), [Action::Start { index: 0, attempt: 1 }]);
        start(&r, &mut s, 0, 1, 5);
        apply_exit(&r, &mut s, 0, exit(1, 3, 6));
        assert_eq!(column(&r, &s), "Init:CrashLoopBackOff");
        let d = decide(&r, &s, at(6));
        assert_eq!((d.actions, d.wake_boot_ns), (vec![], Some(6 + 10 * SECOND)));
        assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Pending);
    }
}

#[test]
fn restart_policy_decides_after_an_exit() {
    for (policy, code, restarted, end) in [
        ("Always", 0, true, Phase::Running),
        ("Always", 1, true, Phase::Running),
        ("OnFailure", 0, false, Phase::Succeeded),
        ("OnFailure", 1, true, Phase::Running),
        ("Never", 0, false, Phase::Succeeded),
        ("Never", 1, false, Phase::Failed),
    ] {
        let r = record(policy, 0, 1);
        let mut s = fresh(&r);
        apply_initialized(&mut s, at(0));
        start(&r, &mut s, 0, 0, 0);
        apply_exit(&r, &mut s, 0, exit(0, code, 5));
        let want = if restarted { Action::Start { index: 0, attempt: 1 } } else { Action::EndSandbox };
        assert_eq!(actions(&r, &s, 5), [want], "{policy} {code}");
        assert_eq!(phase(&r, &s, Liveness::Alive), end, "{policy} {code}");
        if !restarted {
            apply_sandbox_end(&r, &mut s);
            assert_eq!((phase(&r, &s, Liveness::Alive), &s.failure), (end, &None));
        }
    }
}

#[test]
fn back_off_doubles_from_ten_seconds_to_five_minutes_and_is_forgotten() {
    let r = record("Always", 0, 1);
    let mut s = fresh(&r);
    apply_initialized(&mut s, at(0));
    let mut now = SECOND;
    for (attempt, seconds) in [0, 10, 20, 40, 80, 160, 300, 300, 300].into_iter().enumerate() {
        let attempt = u32::try_from(attempt).expect("small");
        start(&r, &mut s, 0, attempt, now);
        now += 3 * SECOND;
        apply_exit(&r, &mut s, 0, exit(attempt, 1, now));
        let due = now + seconds * SECOND;
        if seconds > 0 {
            assert_eq!(decide(&r, &s, at(due - 1)), Decision { actions: vec![], wake_boot_ns: Some(due) });
            let State::Waiting { reason, message } = &s.containers[0].state else { panic!("waits") };
            assert_eq!(reason, "CrashLoopBackOff");
            if seconds == 80 {
                assert_eq!(message, "back-off 1m20s restarting failed container=a0 pod=demo_default(u)");
            }
        }
        assert_eq!(actions(&r, &s, due), [Action::Start { index: 0, attempt: attempt + 1 }]);
        now = due;
    }
    start(&r, &mut s, 0, 9, now);
    let long = now + 600 * SECOND;
    let mut short_of = s.clone();
    apply_exit(&r, &mut short_of, 0, exit(9, 1, long));
    assert_eq!(decide(&r, &short_of, at(long)).wake_boot_ns, Some(long + 300 * SECOND));
    apply_exit(&r, &mut s, 0, exit(9, 1, long + 1));
    assert_eq!(actions(&r, &s, long + 1), [Action::Start { index: 0, attempt: 10 }]);
}

#[test]
fn a_container_that_can_not_start_backs_off_too() {
    let r = record("Always", 0, 1);
    let mut s = fresh(&r);
    apply_initialized(&mut s, at(0));
    let failed = |attempt, ns| Exit { reason: "StartError".to_owned(), started_at: None, ..exit(attempt, 128, ns) };
    assert!(apply_exit(&r, &mut s, 0, failed(0, 5)));
    assert_eq!(column(&r, &s), "StartError");
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Running);
    assert_eq!(actions(&r, &s, 5), [Action::Start { index: 0, attempt: 1 }]);
    assert!(apply_exit(&r, &mut s, 0, failed(1, 6)));
    assert_eq!(column(&r, &s), "CrashLoopBackOff");
    assert_eq!(s.containers[0].attempt, 1);
    assert_eq!(decide(&r, &s, at(6)).wake_boot_ns, Some(6 + 10 * SECOND));
}

#[test]
fn an_exit_is_taken_once() {
    let r = record("Always", 0, 1);
    let mut s = fresh(&r);
    apply_initialized(&mut s, at(0));
    start(&r, &mut s, 0, 0, 0);
    assert!(apply_exit(&r, &mut s, 0, exit(0, 1, 5)));
    let once = s.clone();
    assert!(!apply_exit(&r, &mut s, 0, exit(0, 1, 5)));
    assert_eq!(s, once);
    start(&r, &mut s, 0, 1, 5);
    assert!(!apply_exit(&r, &mut s, 0, exit(0, 1, 5)));
    assert!(apply_exit(&r, &mut s, 0, exit(1, 1, 6)));
    assert!(!apply_exit(&r, &mut s, 0, exit(1, 1, 6)));
    assert_eq!(s.containers[0].last.as_ref().map(|e| e.attempt), Some(1));
}

#[test]
fn deletion_asks_waits_kills_and_removes() {
    let r = record("Always", 0, 2);
    let mut s = fresh(&r);
    apply_initialized(&mut s, at(0));
    start(&r, &mut s, 0, 0, 0);
    start(&r, &mut s, 1, 0, 0);
    assert!(request_delete(&mut s, 30, None, false, at(SECOND)));
    let deadline = 31 * SECOND;
    let both = vec![Action::Stop { index: 0 }, Action::Stop { index: 1 }];
    assert_eq!(decide(&r, &s, at(SECOND)), Decision { actions: both, wake_boot_ns: Some(deadline) });
    s.containers.iter_mut().for_each(|c| apply_stopping(c, at(SECOND)));
    assert_eq!(decide(&r, &s, at(deadline - 1)), Decision { actions: vec![], wake_boot_ns: Some(deadline) });
    assert_eq!(column(&r, &s), "Terminating");
    assert_eq!(actions(&r, &s, deadline), [Action::Kill { index: 0 }, Action::Kill { index: 1 }]);
    apply_exit(&r, &mut s, 0, exit(0, 0, 5 * SECOND));
    assert_eq!(actions(&r, &s, 6 * SECOND), []);
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Running);
    apply_exit(&r, &mut s, 1, exit(0, 143, 6 * SECOND));
    assert_eq!(actions(&r, &s, 6 * SECOND), [Action::EndSandbox]);
    apply_sandbox_end(&r, &mut s);
    assert_eq!(s.failure, None);
    assert_eq!(actions(&r, &s, 6 * SECOND), [Action::Remove]);
    let pod = to_v1(&r, &s, Liveness::Alive);
    assert_eq!(pod.metadata.deletion_timestamp.expect("set").0, at(deadline).wall);
    assert_eq!(pod.metadata.deletion_grace_period_seconds, Some(30));
}

#[test]
fn grace_has_a_floor_unless_by_force_and_only_shrinks() {
    let r = record("Always", 0, 1);
    for (pod, requested, force, seconds) in [
        (30, None, false, 30),
        (30, Some(5), false, 5),
        (5, Some(60), false, 60),
        (30, Some(0), false, 2),
        (30, Some(1), false, 2),
        (0, None, false, 2),
        (30, Some(0), true, 0),
        (30, Some(9), true, 0),
        (30, None, true, 0),
    ] {
        let mut s = fresh(&r);
        assert!(request_delete(&mut s, pod, requested, force, at(7)));
        assert_eq!(s.deletion.expect("set").deadline_boot_ns, 7 + seconds * SECOND, "{pod} {requested:?} {force}");
    }
    let mut s = fresh(&r);
    request_delete(&mut s, 30, None, false, at(0));
    assert!(!request_delete(&mut s, 30, Some(60), false, at(0)));
    assert!(!request_delete(&mut s, 30, Some(30), false, at(0)));
    assert!(!request_delete(&mut s, 30, None, false, at(SECOND)));
    assert!(request_delete(&mut s, 30, Some(5), false, at(SECOND)));
    let d = s.deletion.clone().expect("set");
    assert_eq!((d.deadline_boot_ns, d.grace_seconds, d.requested_at), (6 * SECOND, 5, at(0).wall));
    assert!(request_delete(&mut s, 30, None, true, at(2 * SECOND)));
    assert_eq!(s.deletion.expect("set").deadline_boot_ns, 2 * SECOND);
    // In the two seconds after the deadline, too, force is force.
    let mut s = fresh(&r);
    request_delete(&mut s, 30, Some(5), false, at(0));
    assert!(!request_delete(&mut s, 30, Some(5), false, at(6 * SECOND)));
    assert!(request_delete(&mut s, 30, None, true, at(6 * SECOND)));
    let d = s.deletion.clone().expect("set");
    assert_eq!((d.deadline_boot_ns, d.grace_seconds, d.force), (5 * SECOND, 0, true));
    assert!(!request_delete(&mut s, 30, None, true, at(6 * SECOND)));
    let mut s = fresh(&r);
    assert!(request_delete(&mut s, 30, Some(u64::MAX), false, at(1)));
    assert_eq!(s.deletion.as_ref().expect("set").deadline_boot_ns, u64::MAX);
    assert_eq!(to_v1(&r, &s, Liveness::Alive).metadata.deletion_timestamp.expect("set").0, jiff::Timestamp::MAX);
}

#[test]
fn a_lost_sandbox_fails_a_pod_that_never_restarts() {
    let r = record("Never", 0, 2);
    let mut s = fresh(&r);
    apply_initialized(&mut s, at(0));
    start(&r, &mut s, 0, 0, 0);
    start(&r, &mut s, 1, 0, 0);
    apply_exit(&r, &mut s, 1, exit(0, 1, 1));
    apply_sandbox_end(&r, &mut s);
    assert_eq!(s.failure.as_ref().expect("failed").reason, "SandboxLost");
    assert_eq!(actions(&r, &s, 3), [Action::KillAll]);
    apply_exit(&r, &mut s, 0, exit(0, 137, 3));
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Failed);
    assert!(s.containers.iter().all(|c| matches!(c.state, State::Terminated(_))));
    assert_eq!(actions(&r, &s, 3), [Action::Finish]);
    let pod = to_v1(&r, &s, Liveness::Alive);
    assert_eq!(pod.status.expect("status").reason.as_deref(), Some("SandboxLost"));
}

#[test]
fn a_dead_pod_shows_what_nobody_saw() {
    let r = record("Always", 0, 1);
    let mut s = fresh(&r);
    apply_initialized(&mut s, at(0));
    start(&r, &mut s, 0, 0, 0);
    let pod = to_v1(&r, &s, Liveness::Dead);
    let status = pod.status.clone().expect("status");
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("SandboxLost")));
    let c = &status.container_statuses.expect("statuses")[0];
    let end = c.state.as_ref().and_then(|s| s.terminated.as_ref()).expect("terminated");
    assert_eq!((end.exit_code, end.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    assert!(!c.ready && c.started == Some(false));
    assert_eq!(printable_status(&pod), "ContainerStatusUnknown");
    assert_eq!(condition(&pod, "PodReadyToStartContainers").0, "False");

    // Of one that ran when the host went down nobody knows.
    let pod = to_v1(&r, &s, Liveness::OtherBoot);
    assert_eq!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Unknown"));
    for kind in ["Ready", "ContainersReady"] {
        let (is, why) = condition(&pod, kind);
        assert!(is == "False" && why.is_some(), "{kind}: {is} {why:?}");
    }

    // One that had succeeded before anybody could write so down has succeeded all the same.
    let r = record("Never", 0, 1);
    let mut s = fresh(&r);
    apply_initialized(&mut s, at(0));
    start(&r, &mut s, 0, 0, 0);
    apply_exit(&r, &mut s, 0, exit(0, 0, 1));
    let status = to_v1(&r, &s, Liveness::Dead).status.expect("status");
    assert_eq!((status.phase.as_deref(), status.reason), (Some("Succeeded"), None));
    let pod = to_v1(&r, &s, Liveness::Dead);
    assert_eq!(condition(&pod, "Ready"), ("False".to_owned(), Some("PodCompleted".to_owned())));
    assert_eq!(condition(&pod, "Initialized"), ("True".to_owned(), Some("PodCompleted".to_owned())));
}

#[test]
fn the_messages_of_ends_share_what_there_is() {
    let r = record("Never", 1, 2);
    let mut s = fresh(&r);
    let long = |text: &str| Exit { message: text.repeat(4096), ..exit(0, 1, 1) };
    for c in &mut s.containers {
        (c.state, c.last) = (State::Terminated(long("x")), Some(long("ä")));
    }
    let status = to_v1(&r, &s, Liveness::Alive).status.expect("status");
    let all = status.init_container_statuses.into_iter().chain(status.container_statuses).flatten();
    let length = |state: Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.and_then(|state| state.terminated?.message).map(|message| message.len())
    };
    for c in all {
        assert_eq!((length(c.state), length(c.last_state)), (Some(4096), Some(4096)), "{}", c.name);
    }
    // Four would have less than they may have at most, and no character is cut in two.
    let r = record("Never", 0, 9);
    let mut s = fresh(&r);
    s.containers[0].state = State::Terminated(long("ä"));
    let status = to_v1(&r, &s, Liveness::Alive).status.expect("status");
    assert_eq!(length(status.container_statuses.expect("statuses").remove(0).state), Some(1364));
}

#[test]
fn the_pod_is_shown_as_kubernetes_shows_it() {
    let r = record("Always", 1, 1);
    let mut s = fresh(&r);
    start(&r, &mut s, 0, 0, 0);
    apply_exit(&r, &mut s, 0, exit(0, 0, SECOND));
    apply_initialized(&mut s, at(SECOND));
    start(&r, &mut s, 1, 0, 2 * SECOND);
    apply_exit(&r, &mut s, 1, exit(0, 1, 3 * SECOND));
    start(&r, &mut s, 1, 1, 3 * SECOND);
    let pod = to_v1(&r, &s, Liveness::Alive);
    let json = serde_json::to_value(&pod).expect("json");
    assert_eq!(json["metadata"]["uid"], "u");
    assert_eq!(json["metadata"]["creationTimestamp"], "1970-01-01T00:00:00Z");
    let status = &json["status"];
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["qosClass"], "BestEffort");
    assert!(status.get("hostIP").is_none() && status.get("reason").is_none());
    let app = &status["containerStatuses"][0];
    assert_eq!(app["containerID"], "husk://id1");
    assert_eq!((&app["restartCount"], &app["ready"], &app["started"]), (&1.into(), &true.into(), &true.into()));
    assert_eq!(app["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(app["state"]["running"]["startedAt"], "1970-01-01T00:00:03Z");
    assert_eq!((&app["image"], &app["imageID"]), (&"x:latest".into(), &"sha256:1".into()));
    let init = &status["initContainerStatuses"][0];
    assert_eq!((&init["ready"], &init["started"]), (&true.into(), &false.into()));
    assert_eq!(init["state"]["terminated"]["reason"], "Completed");
    assert_eq!(pod, to_v1(&r, &s, Liveness::Alive));

    let mut again = pod.clone();
    manifest::default(&mut again);
    assert_eq!(again, r.pod, "what we print can be run again");
    manifest::validate(&again).expect("valid");
}

#[test]
fn unready_containers_are_named() {
    let r = record("Always", 2, 2);
    let mut s = fresh(&r);
    let message = |s: &Status, kind: &str| {
        let status = to_v1(&r, s, Liveness::Alive).status.expect("status");
        let c = status.conditions.into_iter().flatten().find(|c| c.type_ == kind).expect("condition");
        format!("{}: {}", c.reason.unwrap_or_default(), c.message.unwrap_or_default())
    };
    assert_eq!(message(&s, "Initialized"), "ContainersNotInitialized: containers with incomplete status: [i0 i1]");
    start(&r, &mut s, 0, 0, 0);
    apply_exit(&r, &mut s, 0, exit(0, 0, 1));
    assert_eq!(message(&s, "Initialized"), "ContainersNotInitialized: containers with incomplete status: [i1]");
    assert_eq!(message(&s, "Ready"), "ContainersNotReady: containers with unready status: [a0 a1]");
}

#[test]
fn the_status_column_follows_kubectl() {
    // Two app containers; `.` waits without a reason, `!` runs, a number is an exit code, a word is a waiting reason.
    let list = |words: &[&str]| -> Vec<ContainerStatus> {
        let one = |word: &&str| {
            let mut c = ContainerStatus { ready: *word == "!", ..Default::default() };
            let mut state = k8s_openapi::api::core::v1::ContainerState::default();
            match word.parse::<i32>() {
                Ok(exit_code) => {
                    state.terminated =
                        Some(k8s_openapi::api::core::v1::ContainerStateTerminated { exit_code, ..Default::default() });
                }
                Err(_) if *word == "!" => state.running = Some(Default::default()),
                Err(_) if *word == "Completed" || *word == "OOMKilled" => {
                    state.terminated = Some(k8s_openapi::api::core::v1::ContainerStateTerminated {
                        exit_code: i32::from(*word != "Completed"),
                        reason: Some((*word).to_owned()),
                        ..Default::default()
                    });
                }
                Err(_) => {
                    let reason = Some((*word).to_owned()).filter(|w| w != ".");
                    state.waiting = Some(k8s_openapi::api::core::v1::ContainerStateWaiting { reason, message: None });
                }
            }
            c.state = Some(state);
            c
        };
        words.iter().map(one).collect()
    };
    for (init, app, phase, want) in [
        (vec![], vec![".", "."], "Pending", "Pending"),
        (vec!["PodInitializing", "."], vec!["PodInitializing"], "Pending", "Init:0/2"),
        (vec!["Completed", "!"], vec!["PodInitializing"], "Pending", "Init:1/2"),
        (vec!["Completed", "7"], vec!["PodInitializing"], "Pending", "Init:ExitCode:7"),
        (vec!["OOMKilled"], vec!["PodInitializing"], "Pending", "Init:OOMKilled"),
        (vec!["CrashLoopBackOff"], vec!["PodInitializing"], "Pending", "Init:CrashLoopBackOff"),
        (vec!["Completed"], vec!["ContainerCreating"], "Pending", "ContainerCreating"),
        (vec![], vec!["!", "!"], "Running", "Running"),
        (vec![], vec!["Completed", "!"], "Running", "NotReady"),
        (vec![], vec!["Completed", "Completed"], "Succeeded", "Completed"),
        (vec![], vec!["CrashLoopBackOff", "!"], "Running", "CrashLoopBackOff"),
        (vec![], vec!["!", "OOMKilled"], "Running", "OOMKilled"),
        (vec![], vec!["2"], "Failed", "ExitCode:2"),
    ] {
        let status = PodStatus {
            phase: Some(phase.to_owned()),
            init_container_statuses: Some(list(&init)),
            container_statuses: Some(list(&app)),
            ..Default::default()
        };
        let pod = k8s_openapi::api::core::v1::Pod { status: Some(status), ..Default::default() };
        assert_eq!(printable_status(&pod), want, "{init:?} {app:?}");
    }
}

#[test]
fn a_hostname_fits_the_kernel() {
    let mut pod = record("Always", 0, 1).pod;
    assert_eq!(hostname(&pod), "demo");
    pod.metadata.name = Some(format!("{}.b", "a".repeat(62)));
    assert_eq!(hostname(&pod), "a".repeat(62));
    pod.spec.as_mut().expect("spec").hostname = Some("web".to_owned());
    assert_eq!(hostname(&pod), "web");
}

#[test]
fn records_survive_their_files() {
    let r = record("Always", 1, 1);
    let mut s = fresh(&r);
    start(&r, &mut s, 0, 0, 0);
    apply_exit(&r, &mut s, 0, exit(0, 1, SECOND));
    let read = |v: serde_json::Value| serde_json::from_value::<Status>(v).expect("status");
    assert_eq!(read(serde_json::to_value(&s).expect("json")), s);
    let text = serde_json::to_string(&r).expect("json");
    assert_eq!(serde_json::from_str::<PodRecord>(&text).expect("record"), r);
    let _: &Vec<Container> = &s.containers;
}

/// A client's pod with one container that runs.
fn driven() -> (PodRecord, Status) {
    let mut record = record("Never", 0, 0);
    record.owner = Owner::Cri;
    let made = ContainerRecord { name: "c".to_owned(), ..ContainerRecord::default() };
    let mut s = fresh(&record);
    s.containers.push(Container::created(made.clone(), &[]));
    record.containers.push(made);
    start(&record, &mut s, 0, 0, 0);
    assert!(s.initialized_at.is_some());
    (record, s)
}

#[test]
fn nothing_happens_in_a_clients_pod_without_the_client() {
    let (record, mut s) = driven();
    assert_eq!(decide(&record, &s, at(0)), Decision::default());
    apply_exit(&record, &mut s, 0, exit(0, 1, 5));
    assert_eq!(decide(&record, &s, at(10)), Decision::default(), "no restart, and the sandbox stays");
    assert!(accepts_containers(&s));
}

fn client_stop(deadline_boot_ns: u64) -> Option<Stop> {
    Some(Stop { why: StopWhy::Client, grace_seconds: 0, deadline_boot_ns })
}

#[test]
fn a_container_keeps_its_slot_when_another_goes() {
    let (_, mut s) = driven();
    for name in ["d", "e"] {
        let made = ContainerRecord { name: name.to_owned(), ..ContainerRecord::default() };
        s.containers.push(Container::created(made, &s.containers));
    }
    s.containers.remove(1);
    let slots = |s: &Status| s.containers.iter().map(|c| c.slot).collect::<Vec<_>>();
    assert_eq!(slots(&s), [0, 2]);
    s.containers.push(Container::created(ContainerRecord::default(), &s.containers));
    assert_eq!(slots(&s), [0, 2, 1]);
}

#[test]
fn a_clients_stop_is_a_signal_first_and_a_kill_at_the_deadline() {
    let (record, mut s) = driven();
    s.containers[0].stop = client_stop(100);
    let asked = decide(&record, &s, at(10));
    assert_eq!(asked, Decision { actions: vec![Action::Stop { index: 0 }], wake_boot_ns: Some(100) });
    apply_stopping(&mut s.containers[0], at(3));
    assert_eq!(decide(&record, &s, at(99)), Decision { actions: vec![], wake_boot_ns: Some(100) });
    assert_eq!(decide(&record, &s, at(100)).actions, [Action::Kill { index: 0 }]);
    s.containers[0].stop = client_stop(0);
    assert_eq!(decide(&record, &s, at(1)).actions, [Action::Kill { index: 0 }]);
}

#[test]
fn a_stopped_sandbox_kills_ends_and_stays_over() {
    let (record, mut s) = driven();
    s.stopped = true;
    assert!(!accepts_containers(&s));
    assert_eq!(decide(&record, &s, at(1)).actions, [Action::KillAll]);
    apply_exit(&record, &mut s, 0, exit(0, 137, 5));
    assert_eq!(decide(&record, &s, at(6)).actions, [Action::EndSandbox]);
    apply_sandbox_end(&record, &mut s);
    assert!(s.failure.is_none());
    assert_eq!(decide(&record, &s, at(7)).actions, [Action::Finish]);
}

#[test]
fn what_is_prepared_first_is_what_is_started_first() {
    for (init, app) in [(0, 1), (0, 3), (1, 1), (2, 2)] {
        let record = record("Always", init, app);
        let mut status = fresh(&record);
        let mut actions = decide(&record, &status, at(0)).actions;
        if actions == [Action::Initialized] {
            apply_initialized(&mut status, at(0));
            actions = decide(&record, &status, at(0)).actions;
        }
        let prepared: Vec<Action> =
            first(&record).into_iter().map(|index| Action::Start { index, attempt: 0 }).collect();
        assert_eq!(actions, prepared, "{init} init, {app} app containers");
    }
}

#[test]
fn only_a_main_process_that_was_struck_makes_it_oom_killed() {
    let kill = Some(libc::SIGKILL);
    for (code, signal, oom, reason) in [
        (137, kill, true, "OOMKilled"),
        (137, kill, false, "Error"),
        (137, None, true, "Error"),
        (143, Some(libc::SIGTERM), true, "Error"),
        (0, None, true, "Completed"),
    ] {
        assert_eq!(exit_reason(code, signal, oom), reason, "{code} {signal:?} {oom}");
    }
    assert!(oom_text(1).starts_with("1 process of") && oom_text(2).starts_with("2 processes of"));
}

#[test]
fn a_restart_for_new_resources_is_a_stop_and_a_start_without_back_off() {
    for (policy, code) in [("Always", 137), ("OnFailure", 0)] {
        let record = record(policy, 0, 1);
        let mut s = fresh(&record);
        apply_initialized(&mut s, at(0));
        start(&record, &mut s, 0, 0, 1);
        s.containers[0].backoff = Some(Backoff { delay_ms: 20_000, updated_boot_ns: 0 });
        let resize = Resize { container: "a0".to_owned(), resources: Default::default(), requested_at: at(2).wall };
        request_resize(&mut s, 0, resize, Some(5), at(2));
        let deadline = 2 + 5 * SECOND;
        let asked = Decision { actions: vec![Action::Stop { index: 0 }], wake_boot_ns: Some(deadline) };
        assert_eq!(decide(&record, &s, at(3)), asked);
        apply_stopping(&mut s.containers[0], at(3));
        assert!(decide(&record, &s, at(4)).actions.is_empty());
        assert_eq!(decide(&record, &s, at(deadline)).actions, [Action::Kill { index: 0 }]);
        assert!(apply_exit(&record, &mut s, 0, exit(0, code, 9)));
        assert_eq!(decide(&record, &s, at(9)).actions, [Action::Start { index: 0, attempt: 1 }], "{policy} {code}");
        assert_eq!((&s.containers[0].stop, &s.containers[0].backoff), (&None, &None));
        assert!(!apply_exit(&record, &mut s, 0, exit(0, code, 9)), "known");
    }
}

#[test]
fn kills_are_counted_for_the_instance_that_runs() {
    let record = record("Always", 0, 1);
    let mut s = fresh(&record);
    assert_eq!(apply_oom_kills(&mut s, 0, 0, 1), None, "nothing runs");
    start(&record, &mut s, 0, 0, 1);
    assert_eq!(apply_oom_kills(&mut s, 0, 0, 2), Some("a0"));
    assert_eq!(apply_oom_kills(&mut s, 0, 0, 2), None, "that is no news");
    assert_eq!(apply_oom_kills(&mut s, 0, 1, 3), None, "of another instance");
    assert_eq!(oom_kills(&s.containers[0]), 2);
    start(&record, &mut s, 0, 1, 2);
    assert_eq!(oom_kills(&s.containers[0]), 0);
}
