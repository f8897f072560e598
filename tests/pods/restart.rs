//! `husk restart`: in order, at once, and counted.

use std::time::Duration;

use serde_json::json;

use crate::common::{Host, container, manifest, scaled, sleeper, wait_for};

#[test]
fn containers_are_stopped_in_order_and_started_again_without_back_off() {
    let host = Host::new();
    let polite = "trap 'echo bye; exit 7' TERM; echo hello; sleep 100000 & wait";
    let spec = json!({"restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 20, "containers": [container("a", polite, json!({})), container("b", polite, json!({}))]});
    let pod = host.run("demo", &manifest("demo", spec));
    pod.wait_log("a", "hello");
    pod.wait_log("b", "hello");
    let (a, b) = (pod.pid("a"), pod.pid("b"));
    for count in 1..=3 {
        let output = host.ok(&["restart", "demo", "-c", "a"]);
        assert_eq!(output.out(), "pod/demo restarted\n");
        assert!(output.elapsed < scaled(Duration::from_secs(9)), "no back-off of 10 s: {output}");
        let status = pod.container("a");
        assert_eq!(status["restartCount"], json!(count), "{status}");
        assert_eq!(status["lastState"]["terminated"]["exitCode"], json!(7), "{status}");
        pod.wait_log("a", "hello");
    }
    assert!(pod.logs("a", &["--previous"]).contains("bye"));
    assert_eq!(pod.pid("b"), b);
    assert_ne!(pod.pid("a"), a);
    host.ok(&["restart", "pod/demo"]);
    assert_eq!(pod.container("a")["restartCount"], json!(4));
    assert_eq!(pod.container("b")["restartCount"], json!(1));
}

#[test]
fn a_container_that_waits_in_its_back_off_starts_at_once() {
    let host = Host::new();
    let script = "test -e /v/mended && exec sleep 100000; exit 1";
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let mut other = sleeper("other");
    other["volumeMounts"] = mount["volumeMounts"].clone();
    let spec = json!({"restartPolicy": "Always", "volumes": [{"name": "v", "emptyDir": {}}], "containers": [container("main", script, mount), other]});
    let pod = host.run("demo", &manifest("demo", spec));
    pod.wait_container("main", "in its back-off", |s| s["state"]["waiting"]["reason"] == "CrashLoopBackOff");
    pod.sh("other", "touch /v/mended");
    host.ok(&["restart", "demo", "-c", "main", "--timeout", "0"]);
    let status =
        wait_for("the next instance", || Some(pod.container("main")).filter(|s| s["state"]["running"].is_object()));
    assert_eq!(status["restartCount"], json!(2), "{status}");
}

#[test]
fn what_cannot_be_restarted_is_told() {
    let host = Host::new();
    let spec = json!({"containers": [container("once", "exit 0", json!({})), sleeper("other")]});
    let pod = host.run("demo", &manifest("demo", spec));
    pod.terminated("once");
    assert!(host.refused(&["restart", "demo", "-c", "once"]).contains("container once has ended for good"));
    assert!(host.refused(&["restart", "demo", "-c", "none"]).contains("container none is not in this pod"));
    assert!(host.refused(&["restart", "nobody"]).contains("nobody"));
    pod.delete(&["--force"]);
    let spec = json!({"containers": [container("once", "exit 0", json!({}))]});
    host.run("over", &manifest("over", spec)).wait_phase("Succeeded");
    let said = host.refused(&["restart", "over"]);
    // Its keeper may just be about to go.
    assert!(
        ["does not run any more", "it is ending", "come to its end"].iter().any(|words| said.contains(words)),
        "{said}"
    );
}
