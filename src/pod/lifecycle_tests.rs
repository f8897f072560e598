//! Tables for sidecars, hooks, restart rules, deadlines and lost sandboxes.

use super::tests::{SECOND, at, exit, fresh, record, start};
use super::*;
use crate::state::record::{
    Container, ContainerKind, ContainerRecord, Hook, HookAction, PodRecord, Restart, RestartAction, RestartPolicy,
    RestartRule, Sandbox, State, Status, StopWhy,
};

fn actions(record: &PodRecord, status: &Status, boot_ns: u64) -> Vec<Action> {
    decide(record, status, at(boot_ns)).actions
}

/// `i0` is an init container, `i1` a sidecar, `i2` another, `a0` and `a1` regular ones.
fn with_sidecars(policy: &str) -> PodRecord {
    let mut r = record(policy, 3, 2);
    r.containers[1].restart.policy = Some(RestartPolicy::Always);
    r.containers[2].restart.policy = Some(RestartPolicy::Always);
    r
}

/// All of them run since 0.
fn running(r: &PodRecord) -> Status {
    let mut s = fresh(r);
    for index in 0..r.containers.len() {
        start(r, &mut s, index, 0, 0);
        if r.containers[index].name == "i0" {
            apply_exit(r, &mut s, index, exit(0, 0, 0));
        }
    }
    apply_initialized(&mut s, at(0));
    s
}

fn stopping(s: &mut Status, index: usize, boot_ns: u64) {
    apply_stopping(&mut s.containers[index], at(boot_ns));
}

#[test]
fn a_sidecar_is_started_in_its_turn_and_the_next_waits_until_it_is_up() {
    let r = with_sidecars("OnFailure");
    let mut s = fresh(&r);
    assert_eq!(actions(&r, &s, 0), [Action::Start { index: 0, attempt: 0 }]);
    start(&r, &mut s, 0, 0, 0);
    apply_exit(&r, &mut s, 0, exit(0, 0, 1));
    assert_eq!(actions(&r, &s, 1), [Action::Start { index: 1, attempt: 0 }]);
    start(&r, &mut s, 1, 0, 1);
    // With a startup probe it is not up yet.
    s.containers[1].started = Some(false);
    assert_eq!(actions(&r, &s, 2), []);
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Pending);
    s.containers[1].started = Some(true);
    assert_eq!(actions(&r, &s, 3), [Action::Start { index: 2, attempt: 0 }]);
    // One that crashes is started again, whatever the exit code and the policy, and holds up nobody who has begun.
    start(&r, &mut s, 2, 0, 3);
    apply_exit(&r, &mut s, 1, exit(0, 0, 4));
    assert_eq!(actions(&r, &s, 4), [Action::Start { index: 1, attempt: 1 }, Action::Initialized]);
    apply_initialized(&mut s, at(4));
    let rest = [(1, 1), (3, 0), (4, 0)].map(|(index, attempt)| Action::Start { index, attempt });
    assert_eq!(actions(&r, &s, 4), rest);
}

#[test]
fn sidecars_end_with_the_last_regular_container_and_do_not_count() {
    let r = with_sidecars("Never");
    let mut s = running(&r);
    apply_exit(&r, &mut s, 3, exit(0, 0, SECOND));
    apply_exit(&r, &mut s, 4, exit(0, 0, SECOND));
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Running, "a sidecar that drains is running");
    assert_eq!(actions(&r, &s, SECOND), [Action::End]);
    apply_ending(&r, &mut s, at(SECOND));
    // The last first.
    assert_eq!(actions(&r, &s, SECOND), [Action::Stop { index: 2 }]);
    stopping(&mut s, 2, SECOND);
    assert_eq!(decide(&r, &s, at(2 * SECOND)).wake_boot_ns, Some(31 * SECOND));
    apply_exit(&r, &mut s, 2, exit(0, 143, 3 * SECOND));
    assert_eq!(actions(&r, &s, 3 * SECOND), [Action::Stop { index: 1 }]);
    stopping(&mut s, 1, 3 * SECOND);
    assert_eq!(actions(&r, &s, 31 * SECOND), [Action::Kill { index: 1 }]);
    apply_exit(&r, &mut s, 1, exit(0, 137, 31 * SECOND));
    assert_eq!(actions(&r, &s, 31 * SECOND), [Action::EndSandbox]);
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Succeeded);
}

#[test]
fn on_deletion_sidecars_get_what_is_left_of_the_grace_but_two_seconds_at_least() {
    let r = with_sidecars("Always");
    let mut s = running(&r);
    request_delete(&mut s, 30, Some(10), false, at(0));
    assert_eq!(actions(&r, &s, 0), [Action::Stop { index: 3 }, Action::Stop { index: 4 }]);
    stopping(&mut s, 3, 0);
    stopping(&mut s, 4, 0);
    apply_exit(&r, &mut s, 3, exit(0, 143, SECOND));
    assert_eq!(decide(&r, &s, at(SECOND)), Decision { actions: vec![], wake_boot_ns: Some(10 * SECOND) });
    // The other does not end: with the grace it is killed, and the sidecars are asked, both at once.
    let all = [Action::Stop { index: 1 }, Action::Stop { index: 2 }, Action::Kill { index: 4 }];
    assert_eq!(actions(&r, &s, 10 * SECOND), all);
    apply_exit(&r, &mut s, 4, exit(0, 137, 10 * SECOND));
    stopping(&mut s, 1, 10 * SECOND);
    stopping(&mut s, 2, 10 * SECOND);
    assert_eq!(decide(&r, &s, at(11 * SECOND)), Decision { actions: vec![], wake_boot_ns: Some(12 * SECOND) });
    assert_eq!(actions(&r, &s, 12 * SECOND), [Action::Kill { index: 1 }, Action::Kill { index: 2 }]);
}

#[test]
fn pre_stop_is_run_before_the_signal_within_the_grace() {
    let mut r = record("Always", 0, 1);
    r.containers[0].hooks.pre_stop = Some(HookAction::Exec { command: vec!["x".to_owned()] });
    let begin = |s: &mut Status, ns| {
        let action = HookAction::Exec { command: vec![] };
        apply_hook_begun(s, 0, Hook::PreStop, &action, Some((9, 1)), at(ns));
    };
    let mut s = running(&r);
    request_delete(&mut s, 30, Some(10), false, at(0));
    assert_eq!(actions(&r, &s, 0), [Action::Hook { index: 0, hook: Hook::PreStop }]);
    begin(&mut s, 0);
    assert_eq!(decide(&r, &s, at(SECOND)), Decision { actions: vec![], wake_boot_ns: Some(10 * SECOND) });
    // It ends in time, and the rest of the grace is the container's.
    let mut in_time = s.clone();
    assert!(apply_hook_end(&r, &mut in_time, 0, Ok(()), at(4 * SECOND)));
    let next = decide(&r, &in_time, at(4 * SECOND));
    assert_eq!(next, Decision { actions: vec![Action::Stop { index: 0 }], wake_boot_ns: Some(10 * SECOND) });
    // It does not: two seconds are left for the container.
    assert_eq!(actions(&r, &s, 10 * SECOND), [Action::EndHook { index: 0 }]);
    let run = s.containers[0].hook.clone().expect("runs");
    assert!(apply_hook_end(&r, &mut s, 0, hook_overtime(&run, at(10 * SECOND)), at(10 * SECOND)));
    assert!(!s.containers[0].hook.as_ref().expect("kept").failure.is_empty());
    let next = decide(&r, &s, at(10 * SECOND));
    assert_eq!(next, Decision { actions: vec![Action::Stop { index: 0 }], wake_boot_ns: Some(12 * SECOND) });
    // One second of grace is one second for the hook, and the floor after it.
    let mut s = running(&r);
    request_delete(&mut s, 30, Some(1), false, at(0));
    begin(&mut s, 0);
    assert_eq!(decide(&r, &s, at(0)).wake_boot_ns, Some(SECOND));
    // Without grace there is no hook, by force not even a signal.
    let mut s = running(&r);
    request_delete(&mut s, 30, Some(0), false, at(0));
    assert_eq!(decide(&r, &s, at(0)).actions, [Action::Stop { index: 0 }]);
    let mut s = running(&r);
    request_delete(&mut s, 30, None, true, at(0));
    assert_eq!(actions(&r, &s, 0), [Action::KillAll]);
    // Nor after a crash.
    let mut s = running(&r);
    apply_exit(&r, &mut s, 0, exit(0, 1, 1));
    assert_eq!(actions(&r, &s, 1), [Action::Start { index: 0, attempt: 1 }]);
}

#[test]
fn post_start_holds_up_the_others_and_its_failure_ends_its_container() {
    let mut r = record("Always", 0, 2);
    r.containers[0].hooks.post_start = Some(HookAction::Sleep { seconds: 3 });
    let mut s = fresh(&r);
    apply_initialized(&mut s, at(0));
    assert_eq!(actions(&r, &s, 0), [Action::Start { index: 0, attempt: 0 }]);
    start(&r, &mut s, 0, 0, 0);
    assert_eq!(actions(&r, &s, 0), [Action::Hook { index: 0, hook: Hook::PostStart }]);
    apply_hook_begun(&mut s, 0, Hook::PostStart, &HookAction::Sleep { seconds: 3 }, None, at(0));
    assert_eq!(decide(&r, &s, at(1)), Decision { actions: vec![], wake_boot_ns: Some(3 * SECOND) });
    assert!(!started(&r, 0, &s.containers[0]));
    let mut failed = s.clone();
    assert_eq!(actions(&r, &s, 3 * SECOND), [Action::EndHook { index: 0 }]);
    let run = s.containers[0].hook.clone().expect("runs");
    apply_hook_end(&r, &mut s, 0, hook_overtime(&run, at(3 * SECOND)), at(3 * SECOND));
    assert!(started(&r, 0, &s.containers[0]));
    assert_eq!(actions(&r, &s, 3 * SECOND), [Action::Start { index: 1, attempt: 0 }]);
    // The other end.
    apply_hook_end(&r, &mut failed, 0, Err("exit code 3".to_owned()), at(SECOND));
    assert_eq!(failed.containers[0].stop.as_ref().map(|stop| stop.why), Some(StopWhy::PostStart));
    let next = actions(&r, &failed, SECOND);
    assert_eq!(next, [Action::Stop { index: 0 }, Action::Start { index: 1, attempt: 0 }]);
    apply_exit(&r, &mut failed, 0, exit(0, 143, 2 * SECOND));
    let State::Terminated(end) = &failed.containers[0].state else { panic!("{:?}", failed.containers[0].state) };
    assert_eq!((end.reason.as_str(), end.message.as_str()), ("PostStartHookError", "exit code 3"));
    assert_eq!(failed.containers[0].backoff.as_ref().map(|b| b.delay_ms), Some(0), "a failure: the next one waits");
}

#[test]
fn a_containers_own_policy_and_rules_come_before_the_pods() {
    let rule = |action, not, exit_codes: &[i32]| RestartRule { action, not, exit_codes: exit_codes.to_vec() };
    let again = RestartAction::Restart;
    for (of_pod, own, rules, code, restarted) in [
        ("Never", Some(RestartPolicy::Always), vec![], 0, true),
        ("Always", Some(RestartPolicy::Never), vec![], 1, false),
        ("Always", Some(RestartPolicy::OnFailure), vec![], 0, false),
        ("Never", Some(RestartPolicy::Never), vec![rule(again, false, &[42])], 42, true),
        ("Never", Some(RestartPolicy::Never), vec![rule(again, false, &[42])], 41, false),
        ("Never", Some(RestartPolicy::Never), vec![rule(again, true, &[0, 3])], 1, true),
        ("Never", Some(RestartPolicy::Never), vec![rule(again, true, &[0, 3])], 3, false),
    ] {
        let mut r = record(of_pod, 0, 1);
        r.containers[0].restart = Restart { policy: own, rules };
        let mut s = running(&r);
        apply_exit(&r, &mut s, 0, exit(0, code, 5));
        let want = if restarted { Action::Start { index: 0, attempt: 1 } } else { Action::EndSandbox };
        assert_eq!(actions(&r, &s, 5), [want], "{of_pod} {own:?} {code}");
    }
}

#[test]
fn a_rule_has_all_containers_begin_anew_in_the_same_sandbox() {
    let mut r = record("Never", 1, 2);
    let action = RestartAction::RestartAllContainers;
    let rules = vec![RestartRule { action, not: false, exit_codes: vec![88] }];
    r.containers[1].restart = Restart { policy: Some(RestartPolicy::Never), rules };
    let mut s = running(&r);
    apply_exit(&r, &mut s, 1, exit(0, 88, 10));
    assert_eq!(actions(&r, &s, 10), [Action::Stop { index: 2 }]);
    stopping(&mut s, 2, 10);
    assert_eq!(decide(&r, &s, at(11)).wake_boot_ns, Some(10 + 2 * SECOND), "no more than the floor");
    apply_exit(&r, &mut s, 2, exit(0, 143, 20));
    assert_eq!(actions(&r, &s, 20), [Action::Anew]);
    apply_anew(&r, &mut s);
    assert_eq!(actions(&r, &s, 20), [Action::Start { index: 0, attempt: 1 }]);
    start(&r, &mut s, 0, 1, 20);
    apply_exit(&r, &mut s, 0, exit(1, 0, 30));
    assert_eq!(actions(&r, &s, 30), [Action::Initialized]);
    apply_initialized(&mut s, at(30));
    let both = [Action::Start { index: 1, attempt: 1 }, Action::Start { index: 2, attempt: 1 }];
    assert_eq!(actions(&r, &s, 30), both);
}

#[test]
fn a_pod_past_its_active_deadline_is_stopped_with_its_grace_and_has_failed() {
    let mut r = record("Always", 0, 1);
    r.pod.spec.as_mut().expect("spec").active_deadline_seconds = Some(60);
    let mut s = running(&r);
    assert_eq!(decide(&r, &s, at(60 * SECOND - 1)), Decision { actions: vec![], wake_boot_ns: Some(60 * SECOND) });
    assert_eq!(actions(&r, &s, 60 * SECOND), [Action::Expire]);
    apply_deadline(&r, &mut s, at(60 * SECOND));
    let next = decide(&r, &s, at(60 * SECOND));
    assert_eq!(next, Decision { actions: vec![Action::Stop { index: 0 }], wake_boot_ns: Some(90 * SECOND) });
    stopping(&mut s, 0, 60 * SECOND);
    apply_exit(&r, &mut s, 0, exit(0, 0, 61 * SECOND));
    assert_eq!(actions(&r, &s, 61 * SECOND), [Action::EndSandbox]);
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Failed);
    let status = to_v1(&r, &s, Liveness::Alive).status.expect("status");
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a_lost_sandbox_comes_back_with_its_init_containers_unless_nothing_is_to_be_restarted() {
    for policy in ["Always", "OnFailure"] {
        let r = record(policy, 1, 2);
        let mut s = running(&r);
        apply_exit(&r, &mut s, 1, exit(0, 0, 5));
        start(&r, &mut s, 1, 1, 5);
        apply_exit(&r, &mut s, 1, exit(1, 0, 6));
        apply_sandbox_end(&r, &mut s);
        assert_eq!((actions(&r, &s, 7), &s.failure), (vec![Action::KillAll], &None));
        apply_exit(&r, &mut s, 2, exit(0, 137, 8));
        assert_eq!(actions(&r, &s, 8), [Action::NewSandbox]);
        assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Running);
        // One that cannot be made is tried again after ten seconds.
        let failed = 8 * SECOND;
        apply_sandbox_failed(&mut s, at(failed));
        let waits = Decision { actions: vec![], wake_boot_ns: Some(failed + 10 * SECOND) };
        assert_eq!(decide(&r, &s, at(failed)), waits);
        assert_eq!(decide(&r, &s, at(failed + 10 * SECOND - 1)), waits);
        assert_eq!(actions(&r, &s, failed + 10 * SECOND), [Action::NewSandbox]);
        let sandbox = Sandbox { ended: false, ..s.sandbox.clone().expect("lost") };
        apply_new_sandbox(&r, &mut s, sandbox);
        assert_eq!(s.sandbox.as_ref().map(|s| s.attempt), Some(1));
        assert_eq!(actions(&r, &s, 9), [Action::Start { index: 0, attempt: 1 }]);
        start(&r, &mut s, 0, 1, 9);
        apply_exit(&r, &mut s, 0, exit(1, 0, 10));
        apply_initialized(&mut s, at(10));
        // Who has succeeded stays as it is by OnFailure; by Always it waits for its back-off.
        assert_eq!(actions(&r, &s, 10), [Action::Start { index: 2, attempt: 1 }], "{policy}");
        let due = decide(&r, &s, at(10)).wake_boot_ns;
        assert_eq!(due, if policy == "Always" { Some(6 + 10 * SECOND) } else { None });
    }
    let r = record("Never", 0, 1);
    let mut s = running(&r);
    apply_sandbox_end(&r, &mut s);
    apply_exit(&r, &mut s, 0, exit(0, 137, 8));
    assert_eq!(actions(&r, &s, 8), [Action::Finish]);
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Failed);
    // Before anything was started the kubelet makes another.
    let mut s = fresh(&r);
    apply_sandbox_end(&r, &mut s);
    assert_eq!(actions(&r, &s, 8), [Action::NewSandbox]);
}

#[test]
fn a_stop_asked_by_a_user_restarts_at_once_and_a_failed_probe_backs_off() {
    for (why, delayed) in [(StopWhy::Restart, false), (StopWhy::Liveness, true)] {
        let r = record("Always", 0, 1);
        let mut s = running(&r);
        apply_exit(&r, &mut s, 0, exit(0, 1, 1));
        start(&r, &mut s, 0, 1, 1);
        assert!(request_stop(&mut s, 0, why, 5, at(2)));
        assert_eq!(actions(&r, &s, 2), [Action::Stop { index: 0 }]);
        stopping(&mut s, 0, 2);
        apply_exit(&r, &mut s, 0, exit(1, 143, 3));
        let next = decide(&r, &s, at(3));
        let due = delayed.then_some(3 + 10 * SECOND);
        assert_eq!((next.actions.is_empty(), next.wake_boot_ns), (delayed, due), "{why:?}");
    }
}

fn rule(action: RestartAction, exit_codes: &[i32]) -> RestartRule {
    RestartRule { action, not: false, exit_codes: exit_codes.to_vec() }
}

#[test]
fn an_init_containers_own_policy_and_rules_decide_whether_it_is_tried_again() {
    for (of_pod, own, rules, code, want) in [
        ("Always", Some(RestartPolicy::Never), vec![], 1, Action::EndSandbox),
        ("Never", Some(RestartPolicy::OnFailure), vec![], 1, Action::Start { index: 0, attempt: 1 }),
        ("Never", None, vec![], 1, Action::EndSandbox),
        (
            "Never",
            Some(RestartPolicy::Never),
            vec![rule(RestartAction::Restart, &[3])],
            3,
            Action::Start { index: 0, attempt: 1 },
        ),
        // One that succeeded is done.
        ("Never", Some(RestartPolicy::Never), vec![rule(RestartAction::Restart, &[0])], 0, Action::Initialized),
        ("Never", Some(RestartPolicy::Never), vec![rule(RestartAction::RestartAllContainers, &[0])], 0, Action::Anew),
    ] {
        let mut r = record(of_pod, 1, 1);
        r.containers[0].restart = Restart { policy: own, rules };
        let mut s = fresh(&r);
        start(&r, &mut s, 0, 0, 0);
        apply_exit(&r, &mut s, 0, exit(0, code, 5));
        assert_eq!(actions(&r, &s, 5), [want], "{of_pod} {own:?} {code}");
        let phase = phase(&r, &s, Liveness::Alive);
        assert_eq!(phase == Phase::Failed, want == Action::EndSandbox, "{of_pod} {own:?} {code}");
    }
}

#[test]
fn init_containers_do_not_run_again_once_the_pod_is_initialized() {
    let r = record("Always", 1, 2);
    let mut s = running(&r);
    // Whatever is known of them: also nothing.
    s.containers[0].state = State::Waiting { reason: "PodInitializing".to_owned(), message: String::new() };
    apply_exit(&r, &mut s, 1, exit(0, 1, 5));
    assert_eq!(actions(&r, &s, 5), [Action::Start { index: 1, attempt: 1 }]);
}

#[test]
fn a_sidecar_that_does_not_come_up_is_tried_again_and_the_next_one_waits() {
    let r = with_sidecars("Never");
    let mut s = fresh(&r);
    start(&r, &mut s, 0, 0, 0);
    apply_exit(&r, &mut s, 0, exit(0, 0, 1));
    let probed = |s: &mut Status, attempt, ns| {
        start(&r, s, 1, attempt, ns);
        s.containers[1].started = Some(false);
    };
    probed(&mut s, 0, 1);
    // Its startup probe gives up.
    assert!(request_stop(&mut s, 1, StopWhy::Startup, 5, at(2)));
    assert_eq!(actions(&r, &s, 2), [Action::Stop { index: 1 }]);
    stopping(&mut s, 1, 2);
    apply_exit(&r, &mut s, 1, exit(0, 0, 3));
    assert_eq!(actions(&r, &s, 3), [Action::Start { index: 1, attempt: 1 }]);
    probed(&mut s, 1, 3);
    apply_exit(&r, &mut s, 1, exit(1, 7, 4));
    assert_eq!(decide(&r, &s, at(4)), Decision { actions: vec![], wake_boot_ns: Some(4 + 10 * SECOND) });
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Pending);
    let pod = to_v1(&r, &s, Liveness::Alive);
    assert_eq!(printable_status(&pod), "Init:CrashLoopBackOff");
    // Nor does it come up whose postStart hook fails.
    let mut r = with_sidecars("Never");
    r.containers[1].hooks.post_start = Some(HookAction::Sleep { seconds: 0 });
    let mut s = fresh(&r);
    start(&r, &mut s, 0, 0, 0);
    apply_exit(&r, &mut s, 0, exit(0, 0, 1));
    start(&r, &mut s, 1, 0, 1);
    assert_eq!(actions(&r, &s, 1), [Action::Hook { index: 1, hook: Hook::PostStart }]);
    apply_hook_begun(&mut s, 1, Hook::PostStart, &HookAction::Sleep { seconds: 0 }, None, at(1));
    assert_eq!(actions(&r, &s, 1), [Action::EndHook { index: 1 }], "no time is a time that is over");
    apply_hook_end(&r, &mut s, 1, Err("no".to_owned()), at(1));
    assert_eq!(actions(&r, &s, 1), [Action::Stop { index: 1 }]);
}

#[test]
fn a_sidecar_is_not_started_again_when_the_work_is_done() {
    let r = with_sidecars("Never");
    let mut s = running(&r);
    // One of them waits for its back-off, the other ends while it is asked to.
    apply_exit(&r, &mut s, 1, exit(0, 1, 1));
    start(&r, &mut s, 1, 1, 1);
    apply_exit(&r, &mut s, 1, exit(1, 1, 2));
    for index in [3, 4] {
        apply_exit(&r, &mut s, index, exit(0, 0, 3));
    }
    assert_eq!(actions(&r, &s, 3), [Action::End]);
    apply_ending(&r, &mut s, at(3));
    assert_eq!(actions(&r, &s, 3), [Action::Stop { index: 2 }]);
    stopping(&mut s, 2, 3);
    apply_exit(&r, &mut s, 2, exit(0, 1, 4));
    assert_eq!(decide(&r, &s, at(4)), Decision { actions: vec![Action::EndSandbox], wake_boot_ns: None });
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Succeeded, "their exit codes do not count");
    apply_sandbox_end(&r, &mut s);
    assert_eq!(actions(&r, &s, 4), [Action::Finish]);
}

#[test]
fn a_sidecars_rule_has_all_begin_anew_and_the_pod_has_not_failed_meanwhile() {
    let mut r = with_sidecars("Never");
    r.containers[1].restart.rules = vec![rule(RestartAction::RestartAllContainers, &[88])];
    let mut s = running(&r);
    let condition = |s: &Status| {
        let conditions = to_v1(&r, s, Liveness::Alive).status.and_then(|s| s.conditions).unwrap_or_default();
        let it = conditions.into_iter().find(|c| c.type_ == "AllContainersRestarting").expect("there is a rule");
        (it.status, it.reason)
    };
    assert_eq!(condition(&s), ("False".to_owned(), None));
    apply_exit(&r, &mut s, 1, exit(0, 88, 10));
    let all = [2, 3, 4].map(|index| Action::Stop { index });
    assert_eq!(actions(&r, &s, 10), all, "in no order");
    assert_eq!(condition(&s), ("True".to_owned(), Some("RestartAllContainersStarted".to_owned())));
    for index in [2, 3, 4] {
        stopping(&mut s, index, 10);
        apply_exit(&r, &mut s, index, exit(0, 143, 11));
        assert_ne!(phase(&r, &s, Liveness::Alive), Phase::Failed);
    }
    assert_eq!(actions(&r, &s, 11), [Action::Anew]);
    apply_anew(&r, &mut s);
    assert_eq!(condition(&s), ("False".to_owned(), None));
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Pending);
    assert_eq!(actions(&r, &s, 11), [Action::Start { index: 0, attempt: 1 }]);
    // Other exit codes are a sidecar's as ever.
    let mut s = running(&r);
    apply_exit(&r, &mut s, 1, exit(0, 1, 10));
    assert_eq!(actions(&r, &s, 10), [Action::Start { index: 1, attempt: 1 }]);
    // A deletion comes before it.
    let mut s = running(&r);
    apply_exit(&r, &mut s, 1, exit(0, 88, 10));
    request_delete(&mut s, 30, Some(20), false, at(11));
    assert_eq!(decide(&r, &s, at(11)).actions, [Action::Stop { index: 3 }, Action::Stop { index: 4 }]);
}

#[test]
fn who_was_stopped_for_its_probe_is_started_again_unless_its_policy_is_never() {
    for why in [StopWhy::Liveness, StopWhy::Startup] {
        for (of_pod, own, code, again) in [
            ("Always", None, 0, true),
            ("OnFailure", None, 0, true),
            ("OnFailure", None, 137, true),
            ("Never", None, 137, false),
            ("Never", Some(RestartPolicy::OnFailure), 0, true),
            ("Always", Some(RestartPolicy::Never), 0, false),
        ] {
            let mut r = record(of_pod, 0, 1);
            r.containers[0].restart.policy = own;
            let mut s = running(&r);
            assert!(request_stop(&mut s, 0, why, 5, at(1)));
            stopping(&mut s, 0, 1);
            apply_exit(&r, &mut s, 0, exit(0, code, 2));
            let want = if again { Action::Start { index: 0, attempt: 1 } } else { Action::EndSandbox };
            assert_eq!(actions(&r, &s, 2), [want], "{why:?} {of_pod} {own:?} {code}");
            assert_eq!(phase(&r, &s, Liveness::Alive) == Phase::Running, again);
            // Not when the pod comes to its end.
            request_delete(&mut s, 30, None, false, at(2));
            assert_eq!(actions(&r, &s, 2), [Action::EndSandbox]);
        }
    }
}

#[test]
fn a_probes_own_grace_holds_for_its_stop_and_a_deletion_can_only_shorten_it() {
    let mut r = record("Always", 0, 1);
    r.containers[0].hooks.pre_stop = Some(HookAction::Sleep { seconds: 8 });
    let mut s = running(&r);
    assert!(request_stop(&mut s, 0, StopWhy::Liveness, 20, at(0)));
    assert_eq!(actions(&r, &s, 0), [Action::Hook { index: 0, hook: Hook::PreStop }]);
    apply_hook_begun(&mut s, 0, Hook::PreStop, &HookAction::Sleep { seconds: 8 }, None, at(0));
    assert_eq!(decide(&r, &s, at(1)).wake_boot_ns, Some(8 * SECOND));
    let mut longer = s.clone();
    request_delete(&mut longer, 30, Some(60), false, at(1));
    assert_eq!(decide(&r, &longer, at(1)).wake_boot_ns, Some(8 * SECOND));
    assert!(apply_hook_end(&r, &mut longer, 0, Ok(()), at(8 * SECOND)));
    stopping(&mut longer, 0, 8 * SECOND);
    assert_eq!(decide(&r, &longer, at(8 * SECOND)).wake_boot_ns, Some(20 * SECOND), "the probe's");
    request_delete(&mut s, 30, Some(3), false, at(SECOND));
    assert_eq!(decide(&r, &s, at(SECOND)).wake_boot_ns, Some(4 * SECOND), "the hook ends with it");
    assert_eq!(actions(&r, &s, 4 * SECOND), [Action::EndHook { index: 0 }]);
    // A second one shortens it once more.
    request_delete(&mut s, 30, Some(0), false, at(SECOND));
    assert_eq!(actions(&r, &s, SECOND), [Action::EndHook { index: 0 }]);
}

#[test]
fn an_active_deadline_may_come_while_the_pod_lives_and_counts_from_its_start() {
    let mut r = record("Always", 1, 1);
    let mut s = fresh(&r);
    start(&r, &mut s, 0, 0, 0);
    assert_eq!(decide(&r, &s, at(100 * SECOND)), Decision::default());
    r.pod.spec.as_mut().expect("spec").active_deadline_seconds = Some(130);
    assert_eq!(decide(&r, &s, at(100 * SECOND)).wake_boot_ns, Some(130 * SECOND));
    // Of a pod from before there were deadlines the wall clock tells.
    let old = Status { start_boot_ns: None, ..s.clone() };
    assert_eq!(decide(&r, &old, at(100 * SECOND)).wake_boot_ns, Some(130 * SECOND));
    // Init containers are no excuse.
    assert_eq!(actions(&r, &s, 130 * SECOND), [Action::Expire]);
    apply_deadline(&r, &mut s, at(130 * SECOND));
    stopping(&mut s, 0, 130 * SECOND);
    apply_exit(&r, &mut s, 0, exit(0, 0, 131 * SECOND));
    assert_eq!(actions(&r, &s, 131 * SECOND), [Action::EndSandbox]);
    assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Failed);
}

#[test]
fn what_has_ended_in_time_is_no_failure_when_its_sandbox_goes_late() {
    let mut r = record("Never", 0, 1);
    r.pod.spec.as_mut().expect("spec").active_deadline_seconds = Some(60);
    let mut s = running(&r);
    apply_exit(&r, &mut s, 0, exit(0, 0, 59 * SECOND));
    for at in [59, 60, 100] {
        assert_eq!(actions(&r, &s, at * SECOND), [Action::EndSandbox], "{at}");
        assert_eq!(phase(&r, &s, Liveness::Alive), Phase::Succeeded);
    }
}

/// With an ephemeral container that was added and not started.
fn with_ephemeral(r: &mut PodRecord, s: &mut Status) -> usize {
    let made_of = ContainerRecord { name: "e".to_owned(), kind: ContainerKind::Ephemeral, ..r.containers[0].clone() };
    s.containers.push(Container::created(made_of.clone(), &s.containers));
    r.containers.push(made_of);
    s.containers.len() - 1
}

#[test]
fn an_ephemeral_container_is_started_once_and_nobody_waits_for_it() {
    // While the pod initializes, too.
    let mut r = record("Always", 1, 1);
    let mut s = fresh(&r);
    start(&r, &mut s, 0, 0, 0);
    let e = with_ephemeral(&mut r, &mut s);
    assert_eq!(actions(&r, &s, 1), [Action::Start { index: e, attempt: 0 }]);
    start(&r, &mut s, e, 0, 1);
    apply_exit(&r, &mut s, e, exit(0, 1, 2));
    assert_eq!(actions(&r, &s, 3), []);
    apply_exit(&r, &mut s, 0, exit(0, 0, 4));
    assert_eq!(actions(&r, &s, 4), [Action::Initialized]);
    apply_initialized(&mut s, at(4));
    assert_eq!(actions(&r, &s, 4), [Action::Start { index: 1, attempt: 0 }]);
    // Asked to go.
    let mut r = record("Never", 0, 1);
    let mut s = running(&r);
    let e = with_ephemeral(&mut r, &mut s);
    start(&r, &mut s, e, 0, 1);
    assert!(request_stop(&mut s, e, StopWhy::Remove, 2, at(2)));
    let next = decide(&r, &s, at(2));
    assert_eq!(next, Decision { actions: vec![Action::Stop { index: e }], wake_boot_ns: Some(2 + 2 * SECOND) });
    stopping(&mut s, e, 2);
    assert_eq!(actions(&r, &s, 2 + 2 * SECOND), [Action::Kill { index: e }]);
    // The pod's end takes it along, and with a new start of all it ends, too.
    apply_exit(&r, &mut s, 0, exit(0, 0, 3));
    assert_eq!(actions(&r, &s, 3), [Action::End]);
    r.containers[0].restart =
        Restart { policy: Some(RestartPolicy::Never), rules: vec![rule(RestartAction::RestartAllContainers, &[9])] };
    let mut s = running(&record("Never", 0, 1));
    let e = with_ephemeral(&mut r.clone(), &mut s);
    start(&r, &mut s, e, 0, 1);
    apply_exit(&r, &mut s, 0, exit(0, 9, 5));
    assert_eq!(actions(&r, &s, 5), [Action::Stop { index: e }]);
    apply_exit(&r, &mut s, e, exit(0, 143, 6));
    apply_anew(&r, &mut s);
    assert_eq!(actions(&r, &s, 6), [Action::Start { index: 0, attempt: 1 }]);
    // Nor does a new sandbox bring it back.
    start(&r, &mut s, 0, 1, 6);
    r.containers[0].restart = Restart::default();
    r.pod.spec.as_mut().expect("spec").restart_policy = Some("Always".to_owned());
    apply_sandbox_end(&r, &mut s);
    apply_exit(&r, &mut s, 0, exit(1, 137, 7));
    let sandbox = Sandbox { ended: false, ..s.sandbox.clone().expect("lost") };
    assert_eq!(actions(&r, &s, 7), [Action::NewSandbox]);
    apply_new_sandbox(&r, &mut s, sandbox);
    assert_eq!(actions(&r, &s, 7 + 10 * SECOND), [Action::Start { index: 0, attempt: 2 }]);
}

#[test]
fn what_is_asked_of_a_pod_without_a_sandbox_is_to_be_tried_again() {
    let r = record("Always", 0, 1);
    let mut s = running(&r);
    assert_eq!(refusal(&s, "no"), None);
    apply_sandbox_end(&r, &mut s);
    assert!(refusal(&s, "no").is_some_and(|why| why.ends_with("try again")));
    request_delete(&mut s, 30, None, false, at(1));
    assert_eq!(refusal(&s, "no").as_deref(), Some("it is ending; no"));
}

#[test]
fn the_longest_back_off_may_be_shorter() {
    for (asked, want) in [("300s", [0, 10, 20, 40]), ("15s", [0, 10, 15, 15]), ("1s", [0, 1, 1, 1])] {
        let mut r = record("Always", 0, 1);
        let key = "husk.dev/max-container-restart-period".to_owned();
        r.pod.metadata.annotations = Some([(key, asked.to_owned())].into());
        let mut s = fresh(&r);
        let mut now = 0;
        let delays: Vec<u64> = (0..4)
            .map(|attempt| {
                start(&r, &mut s, 0, attempt, now);
                apply_exit(&r, &mut s, 0, exit(attempt, 1, now));
                let delay_ms = s.containers[0].backoff.as_ref().map_or(0, |b| b.delay_ms);
                now += delay_ms * 1_000_000;
                delay_ms / 1000
            })
            .collect();
        assert_eq!(delays, want, "{asked}");
    }
}
