//! `husk run` that stays, cleans up, or only tells.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::{Host, container, manifest, wait_for};

fn file(host: &Host, name: &str, spec: Value) -> String {
    host.file(&format!("{name}.json"), manifest(name, spec))
}

fn wait_until_it_runs(host: &Host, name: &str) {
    wait_for("the pod runs", || {
        let output = host.husk(&["get", "pod", name, "-o", "json"]);
        let pod: Value = serde_json::from_slice(&output.stdout).ok()?;
        (pod["status"]["phase"] == "Running").then_some(())
    });
}

#[test]
fn the_exit_code_of_a_pod_is_that_of_its_first_failed_container() {
    let host = Host::new();
    let cases = [
        (json!({"containers": [container("a", "exit 0", json!({}))]}), 0),
        (
            json!({"containers": [container("a", "exit 0", json!({})), container("b", "exit 7", json!({})), container("c", "exit 8", json!({}))]}),
            7,
        ),
        (
            json!({"containers": [container("a", "kill -9 $$$$; sleep 9", json!({"securityContext": {}}))], "shareProcessNamespace": true}),
            137,
        ),
        (
            json!({"initContainers": [container("i", "exit 3", json!({}))], "containers": [container("a", "exit 0", json!({}))]}),
            3,
        ),
    ];
    for (number, (spec, code)) in cases.into_iter().enumerate() {
        let name = format!("p{number}");
        let output = host.husk(&["run", "--wait", &file(&host, &name, spec)]);
        assert_eq!(output.code, Some(code), "{output}");
        assert_eq!(output.out(), format!("pod/{name} created\n"));
    }
    // It stays to be looked at.
    assert_eq!(host.pod("p1").phase(), "Failed");
}

#[test]
fn with_rm_nothing_is_left() {
    let host = Host::new();
    let output =
        host.husk(&["run", "--rm", &file(&host, "a", json!({"containers": [container("main", "exit 5", json!({}))]}))]);
    assert_eq!(output.code, Some(5), "{output}");
    host.assert_empty();
}

#[test]
fn attached_it_passes_its_input_on_to_a_container_that_takes_it() {
    let host = Host::new();
    let cat = |name: &str, more: Value| {
        file(&host, name, json!({"restartPolicy": "Never", "containers": [container("main", "cat; exit 3", more)]}))
    };
    let once = cat("once", json!({"stdin": true, "stdinOnce": true}));
    let output = host.job(&["run", "--rm", "--attach", "-i", &once]).stdin("a\nb").start().finish();
    assert_eq!((output.code, output.out().as_str()), (Some(3), "a\nb"), "{output}");
    host.assert_empty();
    let refused = host.husk(&["run", "--attach", "-i", &cat("deaf", json!({}))]);
    assert!(refused.code == Some(2) && refused.err().contains("container main has no standard input"), "{refused}");
    let manifest = host.job(&["run", "--attach", "-i", "-"]).stdin("x").start().finish();
    assert!(manifest.code == Some(2) && manifest.err().contains("put that into a file"), "{manifest}");
    assert_eq!(host.husk(&["run", "-i", &once]).code, Some(2));
    host.assert_empty();
}

#[test]
fn attached_it_prints_what_the_container_prints_from_its_first_byte() {
    let host = Host::new();
    let spec = json!({"containers": [container("main", "echo out; echo err >&2; exit 4", json!({}))]});
    let output = host.husk(&["run", "--rm", "--attach", &file(&host, "a", spec)]);
    assert_eq!((output.code, output.out().as_str()), (Some(4), "out\n"), "{output}");
    assert!(output.err().contains("err\n"), "{output}");
    host.assert_empty();
}

#[test]
fn a_signal_ends_the_pod_with_its_grace_and_the_second_one_at_once() {
    let host = Host::new();
    let polite = container("main", "trap 'sleep 0.2; exit 0' TERM; sleep 100000 & wait; wait", json!({}));
    let spec = json!({"terminationGracePeriodSeconds": 30, "containers": [polite]});
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let job = host.job(&["run", "--rm", &file(&host, "a", spec.clone())]).start();
        wait_until_it_runs(&host, "a");
        job.kill(signal);
        let output = job.finish();
        assert_eq!(output.code, Some(128 + signal as i32), "{output}");
        host.assert_empty();
    }
    let stubborn = container("main", "trap '' TERM; echo ready; while :; do sleep 1; done", json!({}));
    let spec = json!({"terminationGracePeriodSeconds": 100_000, "containers": [stubborn]});
    let job = host.job(&["run", "--rm", &file(&host, "b", spec)]).start();
    wait_until_it_runs(&host, "b");
    job.kill(Signal::SIGINT);
    wait_for("the deletion", || host.pod("b").status().deletion.map(drop));
    job.kill(Signal::SIGINT);
    let output = job.finish();
    assert_eq!(output.code, Some(130), "{output}");
    host.assert_empty();
}

#[test]
fn a_dry_run_tells_what_would_be_made_and_touches_nothing() {
    let host = Host::new();
    let more = json!({"env": [{"name": "GREETING", "value": "hello"}], "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
        "volumeMounts": [{"name": "v", "mountPath": "/data", "readOnly": true}], "ports": [{"containerPort": 80}],
        "securityContext": {"runAsUser": 1000, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}});
    let spec = json!({"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}], "containers": [container("web", "true", more)]});
    let path = file(&host, "demo", spec);
    let text = host.ok(&["run", "--dry-run", &path]).out();
    for words in [
        "pod default/demo\n",
        "  uid           made at the start\n",
        "namespaces    net: pod, uts: pod, ipc: pod, pid: pod\n",
        "/pods/pod<uid>\n",
        "ports         80/TCP\n",
        "  container web (app)\n",
        "    command       [\"/bin/sh\",\"-c\",\"true\"]\n",
        "    user          1000:1001 groups [",
        "    capabilities  NET_BIND_SERVICE\n",
        "memory_limit_bytes=67108864",
        "    mount         /data from emptyDir v in memory (ro)\n",
        "    env           GREETING=hello\n",
    ] {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
    let record: Value =
        serde_json::from_slice(&host.ok(&["run", "--dry-run", "-o", "json", &path]).stdout).expect("JSON");
    assert_eq!(record["containers"][0]["user"]["uid"], json!(1000));
    assert_eq!(record["pod"]["spec"]["restartPolicy"], json!("Never"));
    assert_eq!(record["pod"]["spec"]["dnsPolicy"], json!("ClusterFirst"), "defaults are filled in");
    assert!(host.ok(&["run", "--dry-run", "-o", "yaml", &path]).out().contains("restartPolicy: Never"));
    let bad = file(&host, "bad", json!({"containers": [{"name": "main", "image": "husk.test/none:1"}]}));
    assert!(host.refused(&["run", "--dry-run", &bad]).contains("husk.test/none:1"));
    host.assert_empty();
}
