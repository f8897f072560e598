//! postStart and preStop.

use std::time::{Duration, Instant};

use husk::state::record::State;
use serde_json::json;

use crate::common::{Host, container, manifest, scaled, sleeper, wait_for};

const LOYAL: &str = "trap 'echo asked; exit 0' TERM; echo up; while :; do usleep 20000; done";

#[test]
fn post_start_holds_up_the_next_container_and_what_it_prints_is_kept() {
    let host = Host::new();
    let hook = json!({"lifecycle": {"postStart": {"exec": {"command": ["/bin/sh", "-c", "echo hello from the hook; sleep 0.5"]}}}});
    let spec = json!({"containers": [container("first", LOYAL, hook), sleeper("second")]});
    let pod = host.run("hooked", &manifest("hooked", spec));
    wait_for("the hook has printed", || {
        let said = host.ok(&["logs", "hooked", "-c", "first", "--hook"]).stdout;
        String::from_utf8_lossy(&said).contains("hello from the hook").then_some(())
    });
    pod.wait_container("second", "runs", |c| c["state"]["running"].is_object());
    // The records have the time to the nanosecond, what users read has seconds.
    let started_at = |index: usize| match &pod.status().containers[index].state {
        State::Running { started_at, .. } => *started_at,
        other => panic!("{other:?}"),
    };
    let waited = started_at(1).duration_since(started_at(0)).as_millis();
    assert!(waited >= 500, "{waited} ms");
    assert_eq!(pod.logs("first", &[]).trim(), "up", "the hook's words are not the container's");
}

#[test]
fn a_failed_post_start_ends_its_container() {
    let host = Host::new();
    let hook = json!({"lifecycle": {"postStart": {"exec": {"command": ["/bin/sh", "-c", "exit 3"]}}}});
    let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container("main", LOYAL, hook)]});
    let pod = host.run("failed", &manifest("failed", spec));
    let end = pod.terminated("main");
    assert_eq!(end["reason"], "PostStartHookError", "{end}");
    assert!(end["message"].as_str().is_some_and(|m| m.contains("exit code 3")), "{end}");
}

#[test]
fn pre_stop_runs_before_the_signal_and_its_time_is_taken_from_the_grace() {
    let host = Host::new();
    let dir = host.dir.join("v");
    std::fs::create_dir(&dir).expect("make a directory");
    let script =
        "trap 'echo asked >> /v/log; while :; do usleep 20000; done' TERM; echo up; while :; do usleep 20000; done";
    let command = ["/bin/sh", "-c", "echo hook >> /v/log; sleep 1; echo done >> /v/log"];
    let more = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}], "lifecycle": {"preStop": {"exec": {"command": command}}}});
    let spec =
        json!({"volumes": [{"name": "v", "hostPath": {"path": dir}}], "containers": [container("main", script, more)]});
    let pod = host.run("prestop", &manifest("prestop", spec));
    pod.wait_log("main", "up");
    let from = Instant::now();
    pod.delete(&["--grace-period=4"]);
    let took = from.elapsed();
    assert_eq!(std::fs::read_to_string(dir.join("log")).expect("read"), "hook\ndone\nasked\n");
    assert!(
        took >= Duration::from_millis(3950) && took < Duration::from_secs(4) + scaled(Duration::from_millis(500)),
        "{took:?}"
    );
}

#[test]
fn a_hook_outlives_its_supervisor_and_is_not_run_twice() {
    let host = Host::new();
    let dir = host.dir.join("v");
    std::fs::create_dir(&dir).expect("make a directory");
    let command =
        ["/bin/sh", "-c", "echo begun >> /v/log; until [ -e /v/go ]; do usleep 10000; done; echo ended >> /v/log"];
    let more = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}], "lifecycle": {"postStart": {"exec": {"command": command}}}});
    let spec = json!({"volumes": [{"name": "v", "hostPath": {"path": dir}}], "containers": [container("main", LOYAL, more), sleeper("next")]});
    let pod = host.run("outlives", &manifest("outlives", spec));
    let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    wait_for("the hook runs", || log().contains("begun").then_some(()));
    let before = pod.supervisor();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(before), nix::sys::signal::Signal::SIGKILL)
        .expect("kill the supervisor");
    wait_for("another supervisor", || (pod.supervisor() != before).then_some(()));
    std::fs::write(dir.join("go"), b"").expect("open the gate");
    pod.wait_container("next", "runs", |c| c["state"]["running"].is_object());
    assert_eq!(log(), "begun\nended\n");
}
