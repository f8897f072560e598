//! Sidecars: their turn at the start and at the end.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::{Host, container, manifest, scaled, wait_for};

/// Writes its end down a moment after it was asked to stop.
fn sidecar(name: &str) -> serde_json::Value {
    let script = format!(
        "trap 'echo {name} stops >> /v/log; exit 0' TERM; echo {name} runs >> /v/log; while :; do usleep 20000; done"
    );
    container(name, &script, json!({"restartPolicy": "Always", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}))
}

#[test]
fn sidecars_start_first_in_order_and_stop_last_in_reverse() {
    let host = Host::new();
    let dir = host.dir.join("v");
    std::fs::create_dir(&dir).expect("make a directory");
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let main = "grep -q 'two runs' /v/log && echo main runs >> /v/log; until [ -e /v/end ]; do usleep 20000; done; echo main ends >> /v/log";
    let spec = json!({
        "restartPolicy": "Never",
        "volumes": [{"name": "v", "hostPath": {"path": dir}}],
        "initContainers": [sidecar("one"), container("init", "until grep -q 'one runs' /v/log; do usleep 10000; done", mount.clone()), sidecar("two"),
            container("gate", "until grep -q 'two runs' /v/log; do usleep 10000; done", mount.clone())],
        "containers": [container("main", main, mount.clone())],
    });
    let pod = host.run("sidecars", &manifest("sidecars", spec));
    let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    wait_for("main runs", || log().contains("main runs").then_some(()));
    pod.wait_phase("Running");
    std::fs::write(dir.join("end"), b"").expect("open the gate");
    // They do not keep a finished pod alive, and do not count in its phase.
    pod.wait_phase("Succeeded");
    let end: Vec<String> = log().lines().map(str::to_owned).collect();
    let order = ["one runs", "two runs", "main runs", "main ends", "two stops", "one stops"];
    assert_eq!(end, order);
}

#[test]
fn a_sidecars_probes_hold_up_who_comes_after_it_and_count_for_the_pod() {
    let host = Host::new();
    let probes = json!({
        "restartPolicy": "Always",
        "startupProbe": {"exec": {"command": ["test", "-e", "/v/up"]}, "periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 100},
        "readinessProbe": {"exec": {"command": ["test", "-e", "/v/ready"]}, "periodSeconds": 1, "timeoutSeconds": 30},
        "livenessProbe": {"exec": {"command": ["test", "!", "-e", "/v/ill"]}, "periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 1},
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    });
    let spec = json!({
        "restartPolicy": "Never",
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [container("proxy", "trap 'exit 0' TERM; echo up; while :; do usleep 20000; done", probes)],
        "containers": [container("main", "echo up; sleep 1000", json!({}))],
    });
    let pod = host.run("probed", &manifest("probed", spec));
    pod.wait_log("proxy", "up");
    wait_for("a startup probe to fail", || {
        host.ok(&["events", "probed"]).out().contains("Startup probe failed").then_some(())
    });
    let (proxy, main) = (pod.container("proxy"), pod.container("main"));
    assert_eq!((&proxy["started"], &proxy["ready"]), (&json!(false), &json!(false)), "{proxy}");
    assert_eq!(main["state"]["waiting"]["reason"], "PodInitializing", "{main}");
    pod.sh("proxy", "touch /v/up");
    pod.wait_log("main", "up");
    let ready = || {
        let conditions = pod.json()["status"]["conditions"].clone();
        let all = conditions.as_array().into_iter().flatten();
        all.filter(|c| c["type"] == "Ready").map(|c| c["status"] == "True").next()
    };
    assert_eq!(ready(), Some(false), "a sidecar that is not ready");
    pod.sh("proxy", "touch /v/ready");
    wait_for("the pod is ready", || ready().filter(|ready| *ready));
    pod.sh("proxy", "touch /v/ill");
    wait_for("the sidecar is stopped and started again", || {
        (pod.container("proxy")["restartCount"] == 1).then_some(())
    });
    pod.try_sh("main", "true");
    assert_eq!(pod.container("main")["restartCount"], 0, "nobody else is disturbed");
}

#[test]
fn a_sidecar_that_does_not_stop_is_killed_within_what_is_left_of_the_grace() {
    let host = Host::alone();
    let deaf =
        container("deaf", "trap '' TERM; echo up; while :; do usleep 20000; done", json!({"restartPolicy": "Always"}));
    let main = container("main", "trap 'exit 0' TERM; echo up; while :; do usleep 20000; done", json!({}));
    let spec = json!({"initContainers": [deaf], "containers": [main]});
    let pod = host.run("deaf", &manifest("deaf", spec));
    pod.wait_log("main", "up");
    pod.wait_log("deaf", "up");
    let from = Instant::now();
    pod.delete(&["--grace-period=3"]);
    let took = from.elapsed();
    assert!(
        took >= Duration::from_millis(2950) && took < Duration::from_secs(3) + scaled(Duration::from_millis(1500)),
        "{took:?}"
    );
}
