//! `husk explain` of pods that hang, fail and go.

use std::fs;

use serde_json::{Value, json};

use crate::common::{Host, container, manifest, sleeper, wait_for};

/// What `husk explain -o json` says, once it says what the test is about.
fn explained(host: &Host, pod: &str, what: &str, test: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let ask = || {
        last = serde_json::from_slice(&host.ok(&["explain", pod, "-o", "json"]).stdout).expect("JSON");
        test(&last).then(|| last.clone())
    };
    wait_for(what, ask)
}

fn text(it: &Value) -> &str {
    it.as_str().unwrap_or_default()
}

#[test]
fn a_crash_loop_tells_the_last_words_and_the_next_start() {
    let host = Host::new();
    let spec = json!({"restartPolicy": "Always", "containers": [container("main", "echo no config >&2; exit 3", json!({})), sleeper("other")]});
    host.run("loop", &manifest("loop", spec));
    let said = explained(&host, "loop", "a back-off", |it| it["status"] == "CrashLoopBackOff");
    assert_eq!((&said["stage"], &said["readyContainers"]), (&json!("restart"), &json!("1/2")), "{said}");
    assert!(text(&said["why"]).starts_with("container main ended with exit code 3, "), "{said}");
    assert_eq!(said["log"], json!({"container": "main", "attempt": 1, "lines": ["no config"]}), "{said}");
    let next = &said["next"][0];
    assert_eq!(
        (&next["container"], text(&next["text"])),
        (&json!("main"), "container main is started for the 3rd time"),
        "{said}"
    );
    assert!(next["inSeconds"].as_u64().is_some_and(|seconds| seconds <= 10) && next["at"].is_string(), "{said}");
    let page = host.ok(&["explain", "pod", "loop"]).out();
    assert!(
        page.starts_with("Pod default/loop: CrashLoopBackOff, 1/2 ready\nWhy: container main ended with exit code 3"),
        "{page}"
    );
    assert!(page.contains("Last output of container main:\n  | no config\n"), "{page}");
    assert!(page.lines().count() <= 24, "{page}");
}

#[test]
fn a_readiness_probe_that_fails_tells_what_it_has_said_last() {
    let host = Host::new();
    let probe = json!({"exec": {"command": ["sh", "-c", "cat /tmp/why; exit 1"]}, "periodSeconds": 1});
    let more = json!({"readinessProbe": probe, "ports": [{"containerPort": 8080}]});
    let pod = host.run(
        "unready",
        &manifest("unready", json!({"containers": [container("main", "echo one > /tmp/why; sleep 1000", more)]})),
    );
    let of = |said: &str| format!("container main runs, and its readiness probe fails: {said}");
    let said = explained(&host, "unready", "the first output", |it| it["why"] == of("one"));
    assert_eq!((&said["stage"], &said["ready"]), (&json!("readiness"), &json!(false)));
    assert_eq!((&said["probes"][0]["probe"], &said["probes"][0]["output"]), (&json!("readiness"), &json!("one")));
    assert_eq!(
        text(&said["details"][0]["text"]),
        "container main: port 8080/TCP is not open: nothing listens there",
        "{said}"
    );
    pod.sh("main", "echo two > /tmp/why");
    explained(&host, "unready", "the second output", |it| it["why"] == of("two"));
}

#[test]
fn what_the_host_has_lost_is_named() {
    let host = Host::new();
    let share = host.dir.join("share");
    fs::create_dir(&share).expect("make a directory");
    let until = |more| container("main", "until [ -e /tmp/end ]; do sleep 0.05; done; exit 1", more);
    let mounts = json!({"volumeMounts": [{"name": "share", "mountPath": "/share"}]});
    let volumes = json!([{"name": "share", "hostPath": {"path": share, "type": "Directory"}}]);
    let pod = host.run(
        "volume",
        &manifest("volume", json!({"restartPolicy": "Always", "volumes": volumes, "containers": [until(mounts)]})),
    );
    fs::remove_dir(&share).expect("it is empty");
    pod.sh("main", "touch /tmp/end");
    let said = explained(&host, "volume", "a start that fails", |it| it["stage"] == "start");
    let lack = format!("volume share: {} of the host is not there", share.display());
    assert_eq!(said["why"], format!("container main cannot be started: {lack}"), "{said}");
    assert_eq!(said["missing"], json!([{"container": "main", "text": format!("main: {lack}")}]), "{said}");
    assert!(said["next"][0]["inSeconds"].is_u64(), "{said}");
    host.ok(&["delete", "volume", "--force"]);

    let pod =
        host.run("image", &manifest("image", json!({"restartPolicy": "Always", "containers": [until(json!({}))]})));
    let layer = pod.record().containers[0].layers[0].clone();
    let aside = host.dir.join("layer");
    fs::rename(&layer, &aside).expect("take the layer away");
    pod.sh("main", "touch /tmp/end");
    let said = explained(&host, "image", "a start that fails", |it| it["stage"] == "start");
    fs::rename(&aside, &layer).expect("put it back");
    assert!(text(&said["why"]).contains("image husk.test/busybox:1 is not there any more"), "{said}");
}

#[test]
fn a_deletion_tells_who_is_waited_for_and_how_long() {
    let host = Host::new();
    let stubborn = container("main", "trap '' TERM; echo ready; while :; do sleep 1; done", json!({}));
    let pod =
        host.run("going", &manifest("going", json!({"terminationGracePeriodSeconds": 300, "containers": [stubborn]})));
    pod.wait_log("main", "ready");
    host.ok(&["delete", "going", "--wait=false"]);
    let said =
        explained(&host, "going", "the signal", |it| text(&it["details"][0]["text"]).contains("was sent SIGTERM"));
    assert_eq!((&said["stage"], &said["status"]), (&json!("deleting"), &json!("Terminating")), "{said}");
    let next = &said["next"][0];
    assert_eq!(text(&next["text"]), "container main is killed, if it has not ended");
    assert!(next["inSeconds"].as_u64().is_some_and(|seconds| (200..=300).contains(&seconds)), "{said}");
    assert!(said["commands"].as_array().is_some_and(|all| all.contains(&json!("husk delete going --force"))), "{said}");
}

#[test]
fn an_init_container_that_blocks_is_named_and_what_waits_for_it() {
    let host = Host::new();
    let none = json!({});
    let spec = json!({
        "restartPolicy": "Always",
        "initContainers": [container("one", "true", none.clone()), container("two", "sleep 1000", none.clone()), container("three", "true", none)],
        "containers": [sleeper("main")],
    });
    // Its first containers run: the call does not wait for more.
    host.run("init", &manifest("init", spec));
    let said = explained(&host, "init", "the second init container", |it| {
        text(&it["why"]).starts_with("init container two runs")
    });
    assert_eq!((&said["stage"], &said["status"]), (&json!("init"), &json!("Init:1/3")), "{said}");
    assert_eq!(
        text(&said["next"][0]["text"]),
        "when init container two has succeeded, init container three is started, and the containers after all init containers"
    );
}

#[test]
fn a_pod_that_is_well_has_nothing_to_explain() {
    let host = Host::new();
    let serve =
        container("main", "mkdir /tmp/w; httpd -f -p 8080 -h /tmp/w", json!({"ports": [{"containerPort": 8080}]}));
    host.run("well", &manifest("well", json!({"containers": [serve]})));
    let said = explained(&host, "well", "the server", |it| it.get("details").is_none());
    assert_eq!((&said["stage"], &said["ready"]), (&json!("none"), &json!(true)), "{said}");
    assert_eq!(said["commands"], json!(["husk describe pod well"]));
    assert!(host.refused(&["explain", "gone"]).contains("not found in namespace default"));
}
