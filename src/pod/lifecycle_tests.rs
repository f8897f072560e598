//! Tables for sidecars, hooks, restart rules, deadlines and lost sandboxes.

use super::tests::{SECOND, at, exit, fresh, record, start};
use super::*;
use crate::state::record::{
    Hook, HookAction, PodRecord, Restart, RestartAction, RestartPolicy, RestartRule, Sandbox, State, Status, StopWhy,
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
