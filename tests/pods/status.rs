//! What is shown of a pod: conditions, their times, and what its containers are.

use serde_json::{Value, json};

use crate::common::{Host, container, manifest, sleeper, wait_for};

fn condition(pod: &Value, kind: &str) -> Value {
    let all = pod["status"]["conditions"].as_array().expect("conditions");
    all.iter().find(|c| c["type"] == kind).unwrap_or_else(|| panic!("no {kind} in {all:?}")).clone()
}

#[test]
fn a_pod_is_ready_when_somebody_opens_its_gates() {
    let host = Host::new();
    let spec = json!({
        "readinessGates": [{"conditionType": "example.com/in"}, {"conditionType": "example.com/out"}],
        "containers": [sleeper("main")],
    });
    let pod = host.run("gated", &manifest("gated", spec));
    let before = pod.json();
    assert_eq!(condition(&before, "ContainersReady")["status"], "True");
    let ready = condition(&before, "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ReadinessGatesNotReady")));
    let missing =
        |gate| format!("corresponding condition of pod readiness gate \"example.com/{gate}\" does not exist.");
    assert_eq!(ready["message"], format!("{}, {}", missing("in"), missing("out")));

    host.ok(&["condition", "gated", "example.com/in=True", "example.com/out=False", "--reason", "Draining"]);
    let ready = condition(&pod.json(), "Ready");
    assert_eq!(ready["message"], "the status of pod readiness gate \"example.com/out\" is not \"True\", but False");
    assert_eq!(condition(&pod.json(), "example.com/out")["reason"], "Draining");
    host.ok(&["condition", "pod/gated", "example.com/out=true"]);
    assert_eq!(condition(&pod.json(), "Ready")["status"], "True");
    host.ok(&["wait", "gated", "--for=condition=Ready", "--timeout=1s"]);
    host.ok(&["condition", "gated", "example.com/in-"]);
    assert_eq!(condition(&pod.json(), "Ready")["status"], "False");

    assert!(host.refused(&["condition", "gated", "Ready=True"]).contains("husk's own"));
    assert_eq!(host.husk(&["condition", "gated", "example.com/in=yes"]).code, Some(2));
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let host = Host::new();
    let spec = json!({
        "restartPolicy": "Always",
        "containers": [sleeper("main"), container("flip", "until [ -e /tmp/end ]; do sleep 0.05; done; rm /tmp/end", json!({}))],
    });
    let pod = host.run("times", &manifest("times", spec));
    let first = pod.json();
    assert_eq!(condition(&first, "Ready")["status"], "True");
    // One second at least, which is how exactly times are shown.
    let kept = |status: &husk::state::record::Status, kind: &str| {
        status
            .conditions
            .iter()
            .find(|c| c.kind == kind)
            .map(|c| (c.status.clone(), c.since))
            .expect("it is written down")
    };
    let before = pod.status();
    pod.sh("flip", "touch /tmp/end");
    wait_for("the second instance", || Some(()).filter(|()| pod.status().containers[1].attempt == 1));
    let after = pod.status();
    assert_eq!(kept(&before, "Initialized"), kept(&after, "Initialized"));
    assert_eq!(kept(&before, "PodScheduled"), kept(&after, "PodScheduled"));
    let (was, is) = (kept(&before, "Ready"), kept(&after, "Ready"));
    assert_eq!((was.0.as_str(), is.0.as_str()), ("True", "True"));
    assert!(was.1 < is.1, "it was not ready in between: {was:?} {is:?}");
}

#[test]
fn a_containers_status_tells_who_it_runs_as_and_what_it_has_mounted() {
    let host = Host::new();
    let more = json!({
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1001},
        "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": true}, {"name": "data", "mountPath": "/rw"}],
    });
    let spec = json!({
        "volumes": [{"name": "data", "emptyDir": {}}],
        "containers": [container("main", "sleep 1000", more)],
    });
    let pod = host.run("detail", &manifest("detail", spec));
    let shown = pod.json();
    let status = &shown["status"]["containerStatuses"][0];
    assert_eq!((&status["user"]["linux"]["uid"], &status["user"]["linux"]["gid"]), (&json!(1000), &json!(1001)));
    assert_eq!(
        status["volumeMounts"],
        json!([
            {"name": "data", "mountPath": "/data", "readOnly": true, "recursiveReadOnly": "Disabled"},
            {"name": "data", "mountPath": "/rw", "readOnly": false},
        ])
    );
    assert_eq!(status["stopSignal"], "SIGTERM");
    assert_eq!((&shown["metadata"]["generation"], &shown["status"]["observedGeneration"]), (&json!(1), &json!(1)));
    assert_eq!(condition(&shown, "Ready")["observedGeneration"], 1);
    let _: k8s_openapi::api::core::v1::Pod = serde_json::from_value(shown).expect("a v1.Pod");
}

#[test]
fn a_watch_follows_a_pod_to_its_end() {
    let host = Host::new();
    let script = "trap 'exit 0' TERM; until [ -e /tmp/fail ]; do sleep 0.05; done; rm /tmp/fail; exit 3";
    let spec = json!({"restartPolicy": "Always", "containers": [container("main", script, json!({}))]});
    let pod = host.run("seen", &manifest("seen", spec));
    let watch = host.job(&["get", "pod", "seen", "-w"]).start();
    wait_for("the watch", || super::events::watches(watch.pid).then_some(()));
    // The restart itself may be too short to be seen.
    pod.sh("main", "touch /tmp/fail");
    pod.wait_container("main", "started again", |c| c["restartCount"] == 1 && c["state"]["running"].is_object());
    host.ok(&["delete", "seen"]);
    let said = watch.finish();
    assert_eq!(said.code, Some(0), "{said}");
    let text = said.out();
    assert!(text.starts_with("NAME   READY   STATUS"), "{text}");
    for words in [" Running ", " 1 (", " Terminating "] {
        assert!(text.lines().any(|line| line.contains(words)), "{words:?} is not in\n{text}");
    }
}
