//! What is told of the time that a start and a stop take.

use serde_json::{Value, json};

use crate::common::{Host, container, manifest, sleeper, wait_for};

fn timeline(host: &Host, of: &str) -> Vec<Value> {
    wait_for("a timeline", || {
        let output = host.husk(&["timeline", of, "-o", "json"]);
        (output.code == Some(0)).then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    })
}

fn kinds(play: &Value) -> Vec<&str> {
    play["steps"].as_array().expect("steps").iter().filter_map(|s| s["kind"].as_str()).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

#[test]
fn a_start_is_told_step_by_step_from_the_command_line_to_its_answer() {
    let host = Host::new();
    host.run("told", &manifest("told", json!({"containers": [sleeper("a"), sleeper("b")]})));
    let plays = timeline(&host, "told");
    assert_eq!(plays.len(), 1);
    let start = &plays[0];
    assert_eq!(start["of"], "start");
    let kinds = kinds(start);
    for kind in [
        "parse",
        "resolve",
        "reserve",
        "launch",
        "help",
        "supervisor",
        "adopt",
        "sandbox",
        "prepare",
        "create",
        "record",
        "execute",
        "answer",
    ] {
        assert!(kinds.contains(&kind), "{kind} is not in {kinds:?}");
    }
    for per_container in ["prepare", "create", "record", "execute"] {
        assert_eq!(kinds.iter().filter(|k| **k == per_container).count(), 2, "{per_container} in {kinds:?}");
    }
    // In the order in which they began, within the whole, and each after what it needs.
    let steps = start["steps"].as_array().expect("steps");
    let whole = number(&start["tookUs"]);
    let from: Vec<f64> = steps.iter().map(|s| number(&s["fromUs"])).collect();
    assert!(from.is_sorted() && from[0] == 0.0, "{from:?}");
    assert!(steps.iter().all(|s| number(&s["fromUs"]) + number(&s["tookUs"]) <= whole + 0.001), "{start}");
    let end = |kind: &str, container: Option<&str>| {
        let step = steps.iter().find(|s| s["kind"] == kind && s["container"].as_str() == container);
        step.map(|s| (number(&s["fromUs"]), number(&s["fromUs"]) + number(&s["tookUs"]))).expect(kind)
    };
    assert!(end("sandbox", None).1 <= end("create", Some("a")).0 + 0.001);
    assert!(end("create", Some("a")).1 <= end("record", Some("a")).1);
    assert!(end("record", Some("a")).1 <= end("execute", Some("a")).1);
    assert!(end("execute", Some("b")).1 <= end("answer", None).0 + 0.001);

    let drawn = host.ok(&["timeline", "told"]).out();
    assert!(drawn.starts_with("start of pod told, ") && drawn.contains("FROM ms"), "{drawn}");
    assert!(drawn.lines().all(|line| line.len() <= 100) && !drawn.contains('\x1b'), "{drawn}");
}

#[test]
fn instances_of_a_container_are_compared() {
    let host = Host::new();
    let spec = json!({"restartPolicy": "Always", "containers": [container("main", "exit 3", json!({}))]});
    host.run("twice", &manifest("twice", spec));
    wait_for("the second start", || Some(()).filter(|()| timeline(&host, "twice:main").len() == 2));
    let instances = timeline(&host, "twice:main");
    assert_eq!((&instances[0]["attempt"], &instances[1]["attempt"]), (&json!(0), &json!(1)));
    assert!(kinds(&instances[1]).starts_with(&["prepare", "create"]), "{instances:?}");
    // The pod's own start does not grow by what comes later.
    assert!(!kinds(&timeline(&host, "twice")[0]).contains(&"exit"));
    let compared = host.ok(&["timeline", "twice:main@0", "--compare", "twice:main@1", "-o", "json"]);
    let compared: Value = serde_json::from_slice(&compared.stdout).expect("JSON");
    let create = compared["steps"].as_array().expect("steps").iter().find(|s| s["step"] == "main: clone the process");
    let create = create.expect("both were cloned");
    let difference = number(&create["bUs"]) - number(&create["aUs"]);
    assert!((number(&create["differenceUs"]) - difference).abs() < 0.001, "{create}");
    let table = host.ok(&["timeline", "twice:main@0", "--compare", "twice:main@1"]).out();
    assert!(table.starts_with("STEP ") && table.contains("DIFFERENCE ms"), "{table}");
    assert!(host.refused(&["timeline", "twice:other"]).contains("it has main"));
    assert!(host.refused(&["timeline", "twice:main@7"]).contains("nothing is known"));
}

#[test]
fn the_end_is_told_to_who_asks_for_it() {
    let host = Host::new();
    let stubborn = container("main", "trap '' TERM; echo ready; while :; do sleep 1; done", json!({}));
    let meek = container("other", "trap 'exit 0' TERM; while :; do sleep 0.1; done", json!({}));
    host.run("end", &manifest("end", json!({"containers": [stubborn, meek]}))).wait_log("main", "ready");
    let told = host.ok(&["delete", "end", "--grace-period=2", "--timeline"]).out();
    assert!(told.starts_with("pod/end deleted\nstop of pod end, "), "{told}");
    for step in [
        "asked to end",
        "main: stop signal to end",
        "main: SIGKILL",
        "other: stop signal to end",
        "pause ends",
        "remove",
    ] {
        assert!(told.contains(step), "{step} is not in {told}");
    }
    // What was asked to go and went was not killed.
    assert!(!told.contains("other: SIGKILL"), "{told}");
    assert_eq!(told.matches("main: SIGKILL").count(), 1, "{told}");
}

#[test]
fn the_end_of_a_finished_pod_stays_with_it() {
    let host = Host::new();
    let pod = host.run("done", &manifest("done", json!({"containers": [container("main", "exit 0", json!({}))]})));
    pod.wait_phase("Succeeded");
    let of = || timeline(&host, "done").iter().map(|play| play["of"].clone()).collect::<Vec<_>>();
    wait_for("its last words", || (of() == ["start", "stop"]).then_some(()));
    let told = host.ok(&["delete", "done", "--timeline"]).out();
    assert!(told.contains("pause ends"), "{told}");
}
