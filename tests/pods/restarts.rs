//! Restart rules, the active deadline, and a sandbox that is lost.

use serde_json::json;

use crate::common::{Host, container, manifest, sleeper, wait_for};

#[test]
fn a_rule_restarts_by_exit_code_whatever_the_policy() {
    let host = Host::new();
    let script = "if [ -e /v/once ]; then exit 7; fi; touch /v/once; exit 42";
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let more = json!({"restartPolicy": "Never", "restartPolicyRules": rules, "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let spec = json!({"restartPolicy": "Never", "volumes": [{"name": "v", "emptyDir": {}}], "containers": [container("main", script, more)]});
    let pod = host.run("rules", &manifest("rules", spec));
    pod.wait_phase("Failed");
    let main = pod.container("main");
    assert_eq!((&main["restartCount"], &main["state"]["terminated"]["exitCode"]), (&json!(1), &json!(7)), "{main}");
    assert_eq!(main["lastState"]["terminated"]["exitCode"], 42);
}

#[test]
fn a_pod_past_its_active_deadline_fails() {
    let host = Host::new();
    let spec = json!({"activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 1, "containers": [sleeper("main")]});
    let pod = host.run("deadline", &manifest("deadline", spec));
    let end = pod.wait_phase("Failed");
    assert_eq!(end["status"]["reason"], "DeadlineExceeded", "{end}");
    let events = host.ok(&["events", "deadline"]).out();
    assert!(events.lines().any(|l| l.contains("DeadlineExceeded") && l.contains("active")), "{events}");
}

#[test]
fn a_lost_sandbox_comes_back_with_its_init_containers() {
    let host = Host::new();
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let spec = json!({
        "restartPolicy": "Always",
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [container("init", "echo init >> /v/log", mount.clone())],
        "containers": [container("main", "cat /v/log; echo up; sleep 1000", mount.clone())],
    });
    let pod = host.run("lost", &manifest("lost", spec));
    pod.wait_log("main", "up");
    let (keeper, supervisor, pause) = (pod.keeper(), pod.supervisor(), pod.pause());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pause), nix::sys::signal::Signal::SIGKILL).expect("kill pause");
    wait_for("another sandbox", || {
        let status = pod.status();
        status.sandbox.is_some_and(|s| s.attempt == 1 && !s.ended && s.pid != pause).then_some(())
    });
    pod.wait_container("main", "runs again", |c| c["restartCount"] == 1 && c["state"]["running"].is_object());
    assert_eq!(pod.wait_log("main", "up"), "init\ninit\nup\n");
    assert_eq!((pod.keeper(), pod.supervisor()), (keeper, supervisor), "the same keeper and supervisor");
    assert_eq!(pod.container("init")["restartCount"], 1);
    let events = host.ok(&["events", "lost"]).out();
    assert!(events.contains("SandboxChanged"), "{events}");
    pod.delete(&[]);
}

#[test]
fn a_pod_that_restarts_nothing_fails_with_its_sandbox() {
    let host = Host::new();
    let pod = host.run("never", &manifest("never", json!({"containers": [sleeper("main")]})));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pod.pause()), nix::sys::signal::Signal::SIGKILL)
        .expect("kill pause");
    let end = pod.wait_phase("Failed");
    assert_eq!(end["status"]["reason"], "SandboxLost", "{end}");
}

#[test]
fn a_rule_has_all_containers_begin_anew_in_their_sandbox() {
    let host = Host::new();
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]);
    let mut trigger =
        container("trigger", "until [ -e /v/go ]; do usleep 20000; done; rm /v/go; exit 88", mount.clone());
    (trigger["restartPolicy"], trigger["restartPolicyRules"]) = (json!("Never"), rules);
    let spec = json!({
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [container("init", "echo init >> /v/log", mount.clone())],
        "containers": [container("main", "cat /v/log; echo up; sleep 1000", mount.clone()), trigger],
    });
    let pod = host.run("anew", &manifest("anew", spec));
    pod.wait_log("main", "up");
    let condition = || {
        let conditions = pod.json()["status"]["conditions"].clone();
        conditions.as_array().and_then(|all| all.iter().find(|c| c["type"] == "AllContainersRestarting").cloned())
    };
    let before = condition().expect("the condition of a pod with such a rule");
    assert_eq!(before["status"], "False");
    let pause = pod.pause();
    pod.sh("trigger", "touch /v/go");
    pod.wait_container("main", "runs again", |c| c["restartCount"] == 1 && c["state"]["running"].is_object());
    assert_eq!(pod.wait_log("main", "up"), "init\ninit\nup\n", "the volume stays, and init containers run again");
    assert_eq!(pod.pause(), pause, "the sandbox stays");
    let trigger = pod.wait_container("trigger", "runs again", |c| c["state"]["running"].is_object());
    assert_eq!((&trigger["restartCount"], &trigger["lastState"]["terminated"]["exitCode"]), (&json!(1), &json!(88)));
    assert_eq!(condition().expect("it stays")["status"], "False");
}

#[test]
fn who_failed_its_liveness_probe_is_started_again_although_it_says_that_it_succeeded() {
    let host = Host::new();
    let script = "trap 'exit 0' TERM; echo up; while :; do sleep 1000 & wait $!; done";
    let probe = json!({"livenessProbe": {"exec": {"command": ["test", "!", "-e", "/tmp/ill"]}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 1}});
    let spec = json!({"restartPolicy": "OnFailure", "containers": [container("main", script, probe)]});
    let pod = host.run("ill", &manifest("ill", spec));
    pod.wait_log("main", "up");
    pod.sh("main", "touch /tmp/ill");
    let main =
        pod.wait_container("main", "runs again", |c| c["restartCount"] == 1 && c["state"]["running"].is_object());
    assert_eq!(main["lastState"]["terminated"]["exitCode"], 0, "{main}");
}
