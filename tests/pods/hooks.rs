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
    wait_for("the hook in the timeline", || host.ok(&["timeline", "hooked"]).out().contains("postStart").then_some(()));
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
    let events = host.ok(&["events", "failed"]).out();
    assert!(events.contains("FailedPostStartHook") && events.contains("exit code 3"), "{events}");
}

/// Writes requests to `/v/log`, and answers that it knows nothing.
fn server() -> serde_json::Value {
    let script = "exec httpd -f -vv -p 8080 -h /v 2>>/v/log";
    let more = json!({
        "restartPolicy": "Always",
        "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 30},
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    });
    container("server", script, more)
}

#[test]
fn hooks_ask_by_http_and_any_answer_is_good() {
    let host = Host::new();
    let dir = host.dir.join("v");
    std::fs::create_dir(&dir).expect("make a directory");
    let get = |path: &str, port: serde_json::Value| json!({"httpGet": {"path": path, "port": port}});
    let hooks = json!({"ports": [{"name": "web", "containerPort": 8080}],
        "lifecycle": {"postStart": get("/begins", json!("web")), "preStop": get("/ends?now=1", json!(8080))}});
    let spec = json!({"volumes": [{"name": "v", "hostPath": {"path": dir}}], "initContainers": [server()],
        "containers": [container("main", LOYAL, hooks)]});
    let pod = host.run("asks", &manifest("asks", spec));
    pod.wait_log("main", "up");
    let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    wait_for("the first request", || log().contains("url:/begins").then_some(()));
    pod.wait_container("main", "has started", |c| c["started"] == true);
    assert!(!log().contains("/ends"));
    pod.delete(&["--grace-period=20"]);
    assert!(log().contains("response:404") && log().contains("url:/ends"), "{}", log());
}

#[test]
fn a_request_that_nobody_answers_is_a_hook_that_has_failed() {
    let host = Host::new();
    let get = json!({"httpGet": {"path": "/", "port": 9}});
    let containers = json!([
        container("first", LOYAL, json!({"lifecycle": {"preStop": get}})),
        container("second", LOYAL, json!({"lifecycle": {"postStart": get}})),
    ]);
    let spec = json!({"terminationGracePeriodSeconds": 5, "containers": containers});
    let pod = host.run("unheard", &manifest("unheard", spec));
    let end = pod.terminated("second");
    assert_eq!(end["reason"], "PostStartHookError", "{end}");
    pod.wait_log("first", "up");
    let from = Instant::now();
    host.ok(&["restart", "unheard", "-c", "first"]);
    assert!(from.elapsed() < scaled(Duration::from_secs(4)), "it does not wait for the grace: {:?}", from.elapsed());
    let events = host.ok(&["events", "unheard"]).out();
    for reason in ["FailedPostStartHook", "FailedPreStopHook"] {
        assert!(events.contains(reason) && events.contains("connection refused"), "{reason}: {events}");
    }
}

#[test]
fn pre_stop_runs_before_the_signal_and_its_time_is_taken_from_the_grace() {
    let host = Host::alone();
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
        took >= Duration::from_millis(3950) && took < Duration::from_secs(4) + scaled(Duration::from_millis(1500)),
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
