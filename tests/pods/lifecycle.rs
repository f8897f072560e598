//! Order, restarts, phases, reasons and exit codes.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::{Host, PATIENCE, container, manifest, sleeper, wait_for};

fn condition(pod: &serde_json::Value, kind: &str) -> String {
    let list = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    list.iter()
        .find(|c| c["type"] == kind)
        .map_or_else(|| "missing".to_owned(), |c| c["status"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn init_containers_run_one_after_another_and_before_the_others() {
    let host = Host::new();
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let step = |name: &str| {
        container(name, &format!("echo {name} begins >> /v/log; sleep 0.2; echo {name} ends >> /v/log"), mount.clone())
    };
    let spec = json!({
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [step("one"), step("two"), step("three")],
        "containers": [container("main", "cat /v/log", mount.clone())],
    });
    let pod = host.run("order", &manifest("order", spec));
    assert_eq!(pod.terminated("main")["exitCode"], 0);
    assert_eq!(pod.logs("main", &[]), "one begins\none ends\ntwo begins\ntwo ends\nthree begins\nthree ends\n");
    let end = pod.wait_phase("Succeeded");
    assert_eq!(condition(&end, "Initialized"), "True");
    assert_eq!(condition(&end, "Ready"), "False");
    for name in ["one", "two", "three"] {
        assert_eq!(pod.container(name)["state"]["terminated"]["reason"], "Completed");
    }
}

#[test]
fn a_pod_is_pending_while_it_initializes_and_running_after() {
    let host = Host::new();
    let gate = host.dir.join("gate");
    std::fs::create_dir(&gate).expect("make a directory");
    let spec = json!({
        "volumes": [{"name": "gate", "hostPath": {"path": gate}}],
        "initContainers": [container("first", "until [ -e /gate/open ]; do usleep 10000; done", json!({"volumeMounts": [{"name": "gate", "mountPath": "/gate"}]}))],
        "containers": [sleeper("main")],
    });
    let pod = host.run("pending", &manifest("pending", spec));
    let now = pod.json();
    assert_eq!(now["status"]["phase"], "Pending", "{now}");
    assert_eq!(condition(&now, "Initialized"), "False");
    assert_eq!(pod.container("main")["state"]["waiting"]["reason"], "PodInitializing");
    assert!(pod.container("first")["state"]["running"]["startedAt"].is_string());
    std::fs::write(gate.join("open"), b"").expect("open the gate");
    let now = pod.wait_phase("Running");
    assert_eq!(condition(&now, "Initialized"), "True");
    wait_for("the pod is ready", || (condition(&pod.json(), "Ready") == "True").then_some(()));
    assert_eq!(pod.container("main")["ready"], true);
    assert_eq!(pod.container("main")["started"], true);
    assert!(
        pod.container("main")["containerID"].as_str().is_some_and(|id| id.starts_with("husk://") && id.len() == 7 + 64)
    );
    assert!(pod.json()["status"]["startTime"].is_string());
    assert_eq!(pod.json()["status"]["qosClass"], "BestEffort");
}

#[test]
fn an_init_container_that_fails_ends_the_pod_when_nothing_is_restarted() {
    let host = Host::new();
    let spec =
        json!({"initContainers": [container("bad", "echo no; exit 17", json!({}))], "containers": [sleeper("main")]});
    let output = host.try_run(&manifest("never", spec));
    let pod = host.pod("never");
    pod.wait_phase("Failed");
    assert_eq!(pod.container("bad")["state"]["terminated"]["exitCode"], 17, "{output}");
    assert_eq!(pod.container("bad")["state"]["terminated"]["reason"], "Error");
    assert!(pod.container("main")["state"]["waiting"].is_object(), "never started: {}", pod.container("main"));
    assert_eq!(pod.logs("bad", &[]), "no\n");
}

#[test]
fn an_init_container_that_fails_is_tried_again_by_the_other_policies() {
    let host = Host::new();
    for policy in ["Always", "OnFailure"] {
        let script = "[ -e /v/second ] && exit 0; touch /v/second; exit 3";
        let spec = json!({
            "restartPolicy": policy,
            "volumes": [{"name": "v", "emptyDir": {}}],
            "initContainers": [container("flaky", script, json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))],
            "containers": [sleeper("main")],
        });
        let name = policy.to_lowercase();
        let pod = host.run(&name, &manifest(&name, spec));
        pod.wait_phase("Running");
        let status = pod.container("flaky");
        assert_eq!(
            (
                &status["restartCount"],
                &status["state"]["terminated"]["exitCode"],
                &status["lastState"]["terminated"]["exitCode"]
            ),
            (&json!(1), &json!(0), &json!(3))
        );
        pod.delete(&["--force"]);
    }
}

#[test]
fn exit_codes_and_signals_are_exact() {
    let host = Host::new();
    let codes = [0, 1, 2, 3, 42, 126, 127, 128, 137, 143, 254, 255];
    let mut containers: Vec<_> =
        codes.iter().map(|code| container(&format!("c{code}"), &format!("exit {code}"), json!({}))).collect();
    // `$$` in a manifest is one dollar sign. PID 1 ignores signals from its own namespace, so a child takes them: `sh` reports them as 128 + n.
    let signals = [(1, "HUP"), (6, "ABRT"), (9, "KILL"), (11, "SEGV"), (15, "TERM")];
    containers.extend(
        signals
            .iter()
            .map(|(n, name)| container(&format!("s{n}"), &format!("sh -c 'kill -{name} $$$$'; exit $?"), json!({}))),
    );
    let pod = host.run("codes", &manifest("codes", json!({"containers": containers})));
    pod.wait_phase("Failed");
    for code in codes {
        let end = pod.terminated(&format!("c{code}"));
        assert_eq!(end["exitCode"], code);
        assert_eq!(end["reason"], if code == 0 { "Completed" } else { "Error" });
        assert!(
            end["startedAt"].is_string() && end["finishedAt"].is_string() && end["containerID"].is_string(),
            "{end}"
        );
    }
    for (number, _) in signals {
        assert_eq!(pod.terminated(&format!("s{number}"))["exitCode"], 128 + number);
    }
}

#[test]
fn a_container_killed_by_a_signal_reports_it() {
    let host = Host::new();
    // Not PID 1 of a namespace, for which the kernel holds back all but SIGKILL.
    let spec = json!({"shareProcessNamespace": true, "containers": [sleeper("a"), sleeper("b")]});
    let pod = host.run("killed", &manifest("killed", spec));

    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pod.pid("a")), nix::sys::signal::Signal::SIGKILL)
        .expect("kill a container");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pod.pid("b")), nix::sys::signal::Signal::SIGSEGV)
        .expect("kill a container");
    assert_eq!(pod.terminated("a")["exitCode"], 137);
    assert_eq!(pod.terminated("a")["signal"], 9);
    assert_eq!(pod.terminated("b")["exitCode"], 139);
    assert_eq!(pod.terminated("b")["signal"], 11);
}

#[test]
fn phases_follow_the_exit_codes() {
    let host = Host::new();
    for (name, codes, phase) in [("good", [0, 0], "Succeeded"), ("mixed", [0, 1], "Failed"), ("bad", [2, 1], "Failed")]
    {
        let containers: Vec<_> = codes
            .iter()
            .enumerate()
            .map(|(i, code)| container(&format!("c{i}"), &format!("exit {code}"), json!({})))
            .collect();
        let pod = host.run(name, &manifest(name, json!({"containers": containers})));
        pod.wait_phase(phase);
    }
    let spec = json!({"restartPolicy": "OnFailure", "containers": [container("a", "exit 0", json!({})), sleeper("b")]});
    let pod = host.run("half", &manifest("half", spec));
    assert_eq!(pod.terminated("a")["exitCode"], 0);
    assert_eq!(pod.phase(), "Running");
    assert_eq!(pod.container("a")["restartCount"], 0, "OnFailure restarts failures only");
}

#[test]
fn the_first_restart_is_at_once_and_the_next_after_ten_seconds() {
    let host = Host::new();
    let script = "date +%s; exit 5";
    let pod = host.run(
        "loop",
        &manifest("loop", json!({"restartPolicy": "Always", "containers": [container("c", script, json!({}))]})),
    );
    let start = Instant::now();
    let status = pod.wait_container("c", "waits", |status| status["state"]["waiting"]["reason"] == "CrashLoopBackOff");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(status["restartCount"], 1, "{status}");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 5);
    assert!(status["state"]["waiting"]["message"].as_str().is_some_and(|text| text.contains("10s")), "{status}");
    assert_eq!(status["ready"], false);
    assert_eq!(pod.phase(), "Running", "a pod that will restart its container is Running");
    let patience = PATIENCE;
    let status = crate::common::wait_for_within(patience, "the second restart", || {
        let status = pod.container("c");
        (status["restartCount"] == 2 && status["state"]["waiting"]["reason"] == "CrashLoopBackOff").then_some(status)
    });
    assert!(status["state"]["waiting"]["message"].as_str().is_some_and(|text| text.contains("20s")), "{status}");
    assert!(start.elapsed() >= Duration::from_secs(9), "restarted after {:?}", start.elapsed());
    let times: Vec<u64> = [pod.logs("c", &["--previous"]), pod.logs("c", &[])]
        .iter()
        .map(|text| text.trim().parse().expect("a time"))
        .collect();
    assert!(times[1] >= times[0] + 9, "the instances started at {times:?}");
}

#[test]
fn always_restarts_a_container_that_succeeded() {
    let host = Host::new();
    let pod = host.run(
        "always",
        &manifest("always", json!({"restartPolicy": "Always", "containers": [container("c", "exit 0", json!({}))]})),
    );
    let status = pod.wait_container("c", "restarted", |status| status["restartCount"] == 1);
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 0);
    assert_eq!(status["lastState"]["terminated"]["reason"], "Completed");
}

#[test]
fn a_restarted_container_has_a_fresh_root_and_its_old_volumes() {
    let host = Host::new();
    let script = "[ -e /root-mark ] && echo old root; touch /root-mark; echo x >> /v/count; wc -l < /v/count; [ $(wc -l < /v/count) = 2 ] && exec sleep 10000; exit 1";
    let spec = json!({
        "restartPolicy": "OnFailure",
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [container("c", script, json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))],
    });
    let pod = host.run("fresh", &manifest("fresh", spec));
    assert_eq!(pod.wait_log("c", "2").trim(), "2");
}

#[test]
fn a_container_over_its_memory_limit_is_oom_killed() {
    let host = Host::new();
    let hog = container("c", "exec tail -c 300000000 /dev/zero", json!({"resources": {"limits": {"memory": "32Mi"}}}));
    let pod = host.run("oom", &manifest("oom", json!({"containers": [hog]})));
    let end = pod.terminated("c");
    assert_eq!((&end["exitCode"], &end["reason"]), (&json!(137), &json!("OOMKilled")), "{end}");
}

#[test]
fn wait_returns_when_the_condition_holds_and_times_out_otherwise() {
    let host = Host::new();
    let pod = host.run("waited", &manifest("waited", json!({"containers": [container("c", "sleep 0.5", json!({}))]})));
    host.ok(&["wait", "pod", "waited", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=20s"]);
    assert_eq!(pod.phase(), "Succeeded");
    let late = host.husk(&["wait", "pod", "waited", "--for=condition=Ready", "--timeout=300ms"]);
    assert_eq!(late.code, Some(1), "{late}");
    let deletion = host.job(&["wait", "pod", "waited", "--for=delete", "--timeout=20s"]).start();
    pod.delete(&["--force"]);
    assert_eq!(deletion.finish().code, Some(0));
}
