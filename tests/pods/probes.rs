//! Probes of containers that run: what they gate, whom they stop, and what they leave.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{BUSYBOX, Host, outside, wait_for};

/// A pod of one container, `c`, with this script and these probes.
fn pod(name: &str, script: &str, rest: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{"terminationGracePeriodSeconds": 2, "containers": [
          {{"name": "c", "image": "{BUSYBOX}", "command": ["/bin/sh", "-c", {script:?}], "ports": [{{"name": "web", "containerPort": 8080}}], {rest}}}]}}}}"#
    )
}

const SERVE: &str = "trap 'exit 0' TERM; mkdir -p /tmp/w; httpd -p 8080 -h /tmp/w; while :; do sleep 1000 & wait; done";

fn ready(pod: &crate::common::Pod<'_>) -> bool {
    pod.container("c")["ready"] == true
}

#[test]
fn readiness_follows_the_server_inside_the_pods_network() {
    let host = Host::new();
    let probe = r#""readinessProbe": {"httpGet": {"path": "/ready", "port": "web"}, "periodSeconds": 1, "failureThreshold": 2}"#;
    let p = host.run("ready", &pod("ready", SERVE, probe));
    let events = || host.ok(&["events", "--for", "pod/ready"]).out();
    wait_for("an event about the failure", || {
        events().contains("Readiness probe failed: HTTP probe failed with statuscode: 404").then_some(())
    });
    assert!(!ready(&p) && p.container("c")["started"] == true);
    p.sh("c", "touch /tmp/w/ready");
    host.ok(&["wait", "--for=condition=Ready", "pod/ready", "--timeout=30s"]);
    assert!(ready(&p));
    p.sh("c", "rm /tmp/w/ready");
    wait_for("not ready again", || (!ready(&p)).then_some(()));
    assert_eq!(p.container("c")["restartCount"], 0);
}

#[test]
fn a_failed_liveness_probe_has_the_container_started_again() {
    let host = Host::new();
    let probe = r#""livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 2, "terminationGracePeriodSeconds": 1}"#;
    let script = "echo begun; httpd -f -p 8080 & wait; while :; do sleep 1000; done";
    // The shell does not care for SIGTERM: without the probe's own grace it would live for ten minutes.
    let manifest = pod("live", script, probe).replace("GracePeriodSeconds\": 2,", "GracePeriodSeconds\": 600,");
    let p = host.run("live", &manifest);
    p.wait_log("c", "begun");
    // On a slow machine its probe may have failed by itself meanwhile.
    p.try_sh("c", "kill $(pidof httpd)");
    let c = p.wait_container("c", "started again", |c| c["restartCount"] == 1 && c["state"]["running"].is_object());
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 137);
    let events = host.ok(&["events", "--for", "pod/live"]).out();
    assert!(
        events.contains(":8080: connection refused (ECONNREFUSED)")
            && events.contains("Liveness probe failed: connect to "),
        "{events}"
    );
    assert!(events.contains("Container c failed liveness probe, will be restarted"), "{events}");
}

#[test]
fn nothing_is_probed_before_the_startup_probe_has_succeeded() {
    let host = Host::new();
    let probes = r#""startupProbe": {"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1, "failureThreshold": 100},
      "livenessProbe": {"exec": {"command": ["sh", "-c", "echo probed >> /tmp/live"]}, "periodSeconds": 1},
      "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}"#;
    let p = host.run("startup", &pod("startup", "sleep 1000", probes));
    let events = || host.ok(&["events", "--for", "pod/startup"]).out();
    wait_for("a startup probe to fail", || events().contains("Startup probe failed").then_some(()));
    let c = p.container("c");
    assert_eq!((&c["started"], &c["ready"]), (&false.into(), &false.into()));
    assert_ne!(p.try_sh("c", "test -e /tmp/live").code, Some(0));
    p.sh("c", "touch /tmp/up");
    p.wait_container("c", "started and ready", |c| c["started"] == true && c["ready"] == true);
    wait_for("a liveness probe", || (p.try_sh("c", "test -e /tmp/live").code == Some(0)).then_some(()));
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_all_that_it_has_started() {
    let host = Host::new();
    let probe = r#""livenessProbe": {"exec": {"command": ["sh", "-c", "touch /tmp/tried; (setsid sleep 4321 &) ; sleep 4321"]},
      "timeoutSeconds": 1, "periodSeconds": 600, "failureThreshold": 100}"#;
    let p = host.run("slow", &pod("slow", "sleep 1000", probe));
    let events = || host.ok(&["events", "--for", "pod/slow"]).out();
    wait_for("the time to be over", || {
        events().contains("Liveness probe failed: command timed out after 1 s").then_some(())
    });
    // The next try is ten minutes away.
    wait_for("nothing to be left", || {
        (p.sh("c", "ls /tmp/tried; ps | grep -c 'sleep 432[1]' || true") == "/tmp/tried\n0\n").then_some(())
    });
}

#[test]
fn a_command_whose_supervisor_dies_is_killed_with_all_that_it_has_started() {
    let host = Host::new();
    let probe = r#""livenessProbe": {"exec": {"command": ["sh", "-c", "echo $$ >> /tmp/tried; (setsid sleep 4321 &) ; sleep 4321"]},
      "timeoutSeconds": 600, "periodSeconds": 600}"#;
    let p = host.run("orphan", &pod("orphan", "sleep 1000", probe));
    let tried = || p.try_sh("c", "cat /tmp/tried").out();
    wait_for("a probe", || (p.sh("c", "ps | grep -c 'sleep 432[1]' || true") == "2\n").then_some(()));
    kill(Pid::from_raw(p.supervisor()), Signal::SIGKILL).expect("it lives");
    let first = tried().trim().to_owned();
    // The successor probes anew, and of the last one's probe nothing is left.
    wait_for("the next probe alone", || {
        let both = tried().lines().count() == 2;
        (both && p.sh("c", &format!("[ -e /proc/{first} ] || ps | grep -c 'sleep 432[1]' || true")) == "2\n")
            .then_some(())
    });
    assert_eq!(p.container("c")["restartCount"], 0);
}

#[test]
fn liveness_does_not_count_while_a_pod_is_deleted_and_readiness_does() {
    let host = Host::new();
    let exec = r#"{"exec": {"command": ["test", "!", "-e", "/tmp/ill"]}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 30}"#;
    let probes = format!(r#""livenessProbe": {exec}, "readinessProbe": {exec}"#);
    let script =
        "trap 'touch /tmp/ill; while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 0' TERM; while :; do sleep 0.1; done";
    let p = host.run("ill", &pod("ill", script, &probes));
    p.wait_container("c", "ready", |c| c["ready"] == true);
    host.ok(&["delete", "ill", "--grace-period=600", "--wait=false"]);
    p.wait_container("c", "not ready any more", |c| c["ready"] == false);
    std::thread::sleep(crate::common::scaled(Duration::from_secs(2)));
    let events = host.ok(&["events", "--for", "pod/ill"]).out();
    assert!(events.contains("Readiness probe failed") && !events.to_lowercase().contains("liveness"), "{events}");
    p.sh("c", "touch /tmp/go");
    host.ok(&["wait", "--for=delete", "pod/ill", "--timeout=60s"]);
}

#[test]
fn a_command_that_is_not_there_says_nothing_about_the_container() {
    let host = Host::new();
    let probe = r#""livenessProbe": {"exec": {"command": ["/no/such"]}, "periodSeconds": 1, "failureThreshold": 1}"#;
    let p = host.run("none", &pod("none", "sleep 1000", probe));
    let events = || host.ok(&["events", "--for", "pod/none"]).out();
    wait_for("a try", || events().contains("Liveness probe errored and resulted in unknown state").then_some(()));
    std::thread::sleep(crate::common::scaled(Duration::from_secs(2)));
    assert_eq!(p.container("c")["restartCount"], 0);
}

#[test]
fn a_successor_takes_over_what_probes_have_come_to() {
    let host = Host::new();
    let probes = r#""startupProbe": {"exec": {"command": ["sh", "-c", "echo x >> /tmp/startups"]}, "periodSeconds": 1, "timeoutSeconds": 30},
      "readinessProbe": {"httpGet": {"port": "web"}, "periodSeconds": 1, "timeoutSeconds": 30},
      "livenessProbe": {"httpGet": {"port": 8080, "host": "localhost"}, "periodSeconds": 1, "timeoutSeconds": 30}"#;
    let p = host.run("heir", &pod("heir", &SERVE.replace("httpd", "touch /tmp/w/index.html; httpd"), probes));
    p.wait_container("c", "ready", |c| c["ready"] == true);
    let old = p.supervisor();
    kill(Pid::from_raw(old), Signal::SIGKILL).expect("it lives");
    let deadline = Instant::now() + Duration::from_secs(4);
    while Instant::now() < deadline || p.supervisor() == old {
        let c = p.container("c");
        assert_eq!((&c["ready"], &c["started"]), (&true.into(), &true.into()), "it was never in doubt");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(p.sh("c", "wc -l < /tmp/startups").trim(), "1");
    p.sh("c", "kill $(pidof httpd)");
    p.wait_container("c", "started again by the successor", |c| c["restartCount"] == 1);
    assert!(outside::alive(p.keeper()));
}

#[test]
fn probes_are_validated_as_kubernetes_does() {
    let host = Host::empty();
    for (probes, field) in [
        (r#""livenessProbe": {}"#, "spec.containers[0].livenessProbe: required"),
        (
            r#""livenessProbe": {"exec": {"command": ["x"]}, "grpc": {"port": 1}}"#,
            "spec.containers[0].livenessProbe.grpc: ",
        ),
        (r#""livenessProbe": {"httpGet": {"port": "none"}}"#, "spec.containers[0].livenessProbe.httpGet.port: "),
        (r#""livenessProbe": {"httpGet": {"port": 70000}}"#, "spec.containers[0].livenessProbe.httpGet.port: "),
        (
            r#""livenessProbe": {"httpGet": {"port": 1, "scheme": "FTP"}}"#,
            "spec.containers[0].livenessProbe.httpGet.scheme: ",
        ),
        (
            r#""livenessProbe": {"httpGet": {"port": 1, "host": "example.com"}}"#,
            "spec.containers[0].livenessProbe.httpGet.host: ",
        ),
        (
            r#""livenessProbe": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a b", "value": ""}]}}"#,
            "spec.containers[0].livenessProbe.httpGet.httpHeaders[0].name: ",
        ),
        (r#""livenessProbe": {"tcpSocket": {"port": 0}}"#, "spec.containers[0].livenessProbe.tcpSocket.port: "),
        (r#""livenessProbe": {"exec": {}}"#, "spec.containers[0].livenessProbe.exec.command: required"),
        (
            r#""livenessProbe": {"grpc": {"port": 1}, "successThreshold": 2}"#,
            "spec.containers[0].livenessProbe.successThreshold: must be 1",
        ),
        (
            r#""startupProbe": {"grpc": {"port": 1}, "successThreshold": 2}"#,
            "spec.containers[0].startupProbe.successThreshold: must be 1",
        ),
        (
            r#""readinessProbe": {"grpc": {"port": 1}, "periodSeconds": -1}"#,
            "spec.containers[0].readinessProbe.periodSeconds: -1",
        ),
        (
            r#""readinessProbe": {"grpc": {"port": 1}, "terminationGracePeriodSeconds": 5}"#,
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: ",
        ),
        (
            r#""startupProbe": {"grpc": {"port": 1}, "terminationGracePeriodSeconds": 0}"#,
            "spec.containers[0].startupProbe.terminationGracePeriodSeconds: 0",
        ),
    ] {
        let output = host.try_run(&pod("bad", "true", probes));
        assert_eq!(output.code, Some(1), "{probes}: {output}");
        assert!(output.err().contains(field), "{probes}: {}", output.err());
    }
    host.assert_untouched();
}
