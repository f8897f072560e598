//! What a newcomer sees first.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::common::skip::skip;
use crate::common::{Host, container, manifest, wait_for};

#[test]
fn an_init_container_copies_a_server_serves_and_a_neighbour_fetches_over_localhost() {
    let host = Host::new();
    let pod = host.run(
        "web",
        &manifest(
            "web",
            json!({
                "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 20,
                "volumes": [{"name": "pages", "emptyDir": {}}],
                "initContainers": [container("copy", "echo 'hello from init' > /pages/index.html", json!({
                    "volumeMounts": [{"name": "pages", "mountPath": "/pages"}]}))],
                "containers": [
                    container("server", "httpd -f -p 8080 -h /pages & trap 'kill $!; exit 3' TERM; wait", json!({
                        "volumeMounts": [{"name": "pages", "mountPath": "/pages", "readOnly": true}]})),
                    container("fetcher", "trap 'exit 4' TERM; \
                        until wget -q -O - http://localhost:8080/index.html; do sleep 0.1; done; \
                        while :; do sleep 1000 & wait; done", json!({})),
                ],
            }),
        ),
    );
    pod.wait_phase("Running");
    pod.wait_log("fetcher", "hello from init");
    assert_eq!(pod.container("copy")["state"]["terminated"]["exitCode"], 0);
    assert_eq!(pod.container("copy")["state"]["terminated"]["reason"], "Completed");

    // The exit codes of a deleted pod are seen only while it terminates: a watcher polls until the pod is gone.
    let deletion = host.job(&["delete", "pod", "web"]).start();
    let mut codes = Vec::new();
    wait_for("the end of the deletion", || {
        if let Ok(bytes) = std::fs::read(pod.dir.join("status.json")) {
            let status: serde_json::Value = serde_json::from_slice(&bytes).expect("status.json is never torn");
            let ended = status["containers"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|c| c["kind"] == "app" && c["state"]["exitCode"].is_i64());
            codes = ended.map(|c| (c["name"].to_string(), c["state"]["exitCode"].as_i64())).collect();
        }
        (!deletion.is_running()).then_some(())
    });
    let output = deletion.finish();
    assert_eq!(output.code, Some(0), "{output}");
    assert!(output.elapsed.as_secs() < 10, "both end on SIGTERM, long before the grace of 20 s: {output}");
    if codes.len() == 2 {
        assert_eq!(codes, [("\"server\"".to_owned(), Some(3)), ("\"fetcher\"".to_owned(), Some(4))]);
    }
    host.refused(&["get", "pod", "web"]);
}

#[test]
fn the_image_that_the_script_makes_runs() {
    let dpkg = Command::new("dpkg").arg("--print-architecture").stderr(Stdio::null()).stdout(Stdio::null()).status();
    if !dpkg.is_ok_and(|status| status.success()) {
        skip!("the script makes the image out of Debian packages, and this host has no dpkg");
    }
    // Before the test has a network of its own, out of which no package could be downloaded.
    let archive = std::env::temp_dir().join(format!("husk-test-image-{}.tar", std::process::id()));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/make-image");
    let output = Command::new(script).arg(&archive).arg("husk.test/made:1").output().expect("start scripts/make-image");
    assert!(output.status.success(), "make-image: {}", String::from_utf8_lossy(&output.stderr));
    let host = Host::empty();
    host.load(&archive);
    std::fs::remove_file(&archive).expect("remove the archive");
    let pod = host.run(
        "made",
        &manifest("made", json!({"containers": [{"name": "main", "image": "husk.test/made:1", "command": ["sh", "-c", "echo it runs; exit 7"]}]})),
    );
    assert_eq!(pod.terminated("main")["exitCode"], 7);
    assert_eq!(pod.logs("main", &[]), "it runs\n");
    pod.wait_phase("Failed");
}
