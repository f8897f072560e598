//! `husk describe` of pods that are real.

use serde_json::json;

use crate::common::{Host, container, manifest, sleeper, wait_for};

/// The lines of `page` from `title` on that are indented further than it.
fn section<'a>(page: &'a str, title: &str) -> Vec<&'a str> {
    let mut lines = page.lines().skip_while(|line| line.trim() != title);
    let first = lines.next().unwrap_or_else(|| panic!("no {title:?} in\n{page}"));
    let depth = |line: &str| line.len() - line.trim_start().len();
    lines.take_while(|line| depth(line) > depth(first)).map(str::trim).collect()
}

#[test]
fn a_pod_that_lives_is_described_in_kubectls_order() {
    let host = Host::new();
    let failing = container(
        "main",
        "[ -e /data/again ] || { touch /data/again; exit 3; }; sleep 1000",
        json!({
            "ports": [{"containerPort": 8080, "name": "web"}],
            "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "WHERE", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "resources": {"limits": {"memory": "32Mi"}},
            "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 60},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }),
    );
    let spec = json!({
        "restartPolicy": "Always",
        "volumes": [{"name": "data", "emptyDir": {}}],
        "initContainers": [container("setup", "true", json!({}))],
        "containers": [failing, sleeper("other")],
    });
    let pod = host.run("page", &manifest("page", spec));
    pod.wait_container("main", "started again", |c| c["restartCount"] == 1 && c["state"]["running"].is_object());
    let page = wait_for("all events", || {
        let page = host.ok(&["describe", "pod", "page"]).out();
        page.contains("(x2 over").then_some(page)
    });
    let order = [
        "Name: ",
        "Namespace: ",
        "Node: ",
        "Start Time: ",
        "Labels: ",
        "Annotations: ",
        "Status: ",
        "IP: ",
        "IPs:",
        "Init Containers:",
        "Containers:",
        "Conditions:",
        "Volumes:",
        "QoS Class: ",
        "Node-Selectors: ",
        "Tolerations: ",
        "UID: ",
        "Events:",
    ];
    let places: Vec<usize> = order
        .iter()
        .map(|title| {
            page.lines().position(|line| line.starts_with(title)).unwrap_or_else(|| panic!("no {title:?} in\n{page}"))
        })
        .collect();
    assert!(places.is_sorted(), "{page}");

    let main = section(&page, "main:");
    let fields: Vec<&str> = main.iter().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    let wanted = [
        "Container ID",
        "Image",
        "Image ID",
        "Port",
        "Host Port",
        "Command",
        "State",
        "Started",
        "Last State",
        "Reason",
        "Exit Code",
        "Started",
        "Finished",
        "Ready",
        "Restart Count",
        "Limits",
        "memory",
        "Requests",
        "memory",
        "Liveness",
        "Environment",
        "WHO",
        "WHERE",
        "Mounts",
    ];
    assert_eq!(fields, wanted, "{page}");
    let has = |begin: &str, end: &str| {
        assert!(
            main.iter().any(|line| line.starts_with(begin) && line.ends_with(end)),
            "{begin} … {end} is not in\n{page}"
        );
    };
    has("Port:", "8080/TCP (web)");
    has("Last State:", "Terminated");
    has("Exit Code:", " 3");
    has("Restart Count:", " 1");
    has("WHO:", "page (v1:metadata.name)");
    let address = pod.json()["status"]["podIP"].as_str().expect("an address").to_owned();
    has("WHERE:", &format!(" {address} (v1:status.podIP)"));
    has("/data from data", "(rw)");
    has("Liveness:", "exec [true] delay=0s timeout=1s period=60s #success=1 #failure=3");

    let events = section(&page, "Events:");
    assert!(events[0].split_whitespace().eq(["Type", "Reason", "Age", "From", "Message"]), "{page}");
    let twice = |line: &&str| {
        line.starts_with("Normal") && line.contains("Started") && line.contains("(x2 over") && line.contains("husk")
    };
    assert!(events.iter().any(twice), "{page}");
    assert!(!host.ok(&["describe", "page", "--show-events=false"]).out().contains("Events:"));
}

#[test]
fn a_pod_that_is_being_deleted_says_for_how_long() {
    let host = Host::new();
    let stubborn = container("main", "trap '' TERM; echo ready; while :; do sleep 1; done", json!({}));
    let spec = json!({"terminationGracePeriodSeconds": 600, "containers": [stubborn]});
    let pod = host.run("going", &manifest("going", spec));
    pod.wait_log("main", "ready");
    host.ok(&["delete", "going", "--wait=false"]);
    let page = host.ok(&["describe", "going"]).out();
    let status = page.lines().find(|line| line.starts_with("Status:")).expect("a status");
    assert!(status.contains("Terminating (lasts ") && page.contains("Termination Grace Period:  600s"), "{page}");
}
