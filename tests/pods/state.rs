//! What is on disk, who may use it, and what is believed of it.

use std::fs;

use k8s_openapi::api::core::v1::Pod as Object;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::outside::alive;
use crate::common::{Host, container, manifest, sleeper, wait_for};

fn with_uid(name: &str, uid: &str) -> String {
    let mut pod: Value = serde_json::from_str(&manifest(name, json!({"containers": [sleeper("main")]}))).expect("JSON");
    pod["metadata"]["uid"] = json!(uid);
    pod.to_string()
}

#[test]
fn two_roots_never_meet() {
    let one = Host::new();
    let two = Host::beside(&one);
    let spec = manifest("same", json!({"containers": [sleeper("main")]}));
    let (a, b) = (one.run("same", &spec), two.run("same", &spec));
    assert_ne!(a.pid("main"), b.pid("main"));
    let parent = |cgroup: String| cgroup.split('/').next().map(str::to_owned);
    assert_ne!(parent(a.record().cgroup), parent(b.record().cgroup));
    let survivor = b.pid("main");
    a.delete(&["--force"]);
    one.ok(&["gc"]);
    assert!(alive(survivor), "the other root's pod was touched");
    assert_eq!(one.ok(&["get", "pods", "-o", "name"]).out().trim(), "");
    assert!(two.ok(&["get", "pods", "-o", "name"]).out().contains("same"));
}

#[test]
fn flags_and_variables_name_the_same_roots() {
    let host = Host::new();
    host.run("one", &manifest("one", json!({"containers": [sleeper("main")]})));
    let (root, state) = (host.root.to_str().expect("UTF-8"), host.state.to_str().expect("UTF-8"));
    for args in [
        ["--root", root, "--state", state, "get", "pods", "-o", "name"],
        ["get", "pods", "-o", "name", "--root", root, "--state", state],
    ] {
        let output = host.job(&args).env_remove("HUSK_ROOT").env_remove("HUSK_STATE").finish();
        assert!(output.code == Some(0) && output.out().contains("one"), "{args:?}: {output}");
    }
}

#[test]
fn running_the_same_uid_again_returns_the_same_pod() {
    let host = Host::new();
    let spec = with_uid("mine", "0b4e5a0e-7d1c-4a53-9a53-0123456789ab");
    let pod = host.run("mine", &spec);
    let pid = pod.pid("main");
    for _ in 0..3 {
        assert_eq!(host.try_run(&spec).code, Some(0));
    }
    assert_eq!(pod.pid("main"), pid);
    assert_eq!(host.pod_dirs().len(), 1);
    // The same again, at once and side by side.
    let other = with_uid("twice", "11111111-2222-4333-8444-555555555555");
    let jobs: Vec<_> = (0..4).map(|_| host.job(&["run", "-"]).stdin(other.clone()).start()).collect();
    for job in jobs {
        let output = job.finish();
        assert_eq!(output.code, Some(0), "{output}");
    }
    assert_eq!(host.pod_dirs().len(), 2);
}

#[test]
fn first_calls_side_by_side_do_not_disturb_one_another() {
    let host = Host::new();
    let jobs: Vec<_> = (0..6)
        .map(|i| {
            let name = format!("first-{i}");
            host.job(&["run", "-"]).stdin(manifest(&name, json!({"containers": [sleeper("main")]}))).start()
        })
        .collect();
    for job in jobs {
        let output = job.finish();
        assert_eq!(output.code, Some(0), "{output}");
    }
    assert_eq!(host.pod_dirs().len(), 6);
}

#[test]
fn another_pod_of_the_same_name_is_refused() {
    let host = Host::new();
    let spec = manifest("taken", json!({"containers": [sleeper("main")]}));
    let pod = host.run("taken", &spec);
    let pid = pod.pid("main");
    let output = host.try_run(&with_uid("taken", "99999999-2222-4333-8444-555555555555"));
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.err().contains("taken"), "{output}");
    assert!(alive(pid));
    assert_eq!(host.pod_dirs().len(), 1);
    // In another namespace the name is free.
    let mut other: Value = serde_json::from_str(&spec).expect("JSON");
    other["metadata"]["namespace"] = json!("elsewhere");
    assert_eq!(host.try_run(&other.to_string()).code, Some(0));
    assert_eq!(host.ok(&["get", "pods", "-n", "elsewhere", "-o", "name"]).out().lines().count(), 1);
}

#[test]
fn json_and_yaml_are_real_pods() {
    let host = Host::new();
    host.run(
        "real",
        &manifest(
            "real",
            json!({"initContainers": [container("i", "true", json!({}))], "containers": [sleeper("main")]}),
        ),
    );
    host.pod("real").wait_phase("Running");
    let from_json: Object =
        serde_json::from_slice(&host.ok(&["get", "pod", "real", "-o", "json"]).stdout).expect("JSON of a v1.Pod");
    let from_yaml: Object =
        serde_saphyr::from_str(&host.ok(&["get", "pod", "real", "-o", "yaml"]).out()).expect("YAML of a v1.Pod");
    for pod in [from_json, from_yaml] {
        assert_eq!(pod.metadata.name.as_deref(), Some("real"));
        assert!(pod.metadata.uid.is_some() && pod.metadata.creation_timestamp.is_some());
        let status = pod.status.expect("a status");
        assert_eq!(status.phase.as_deref(), Some("Running"));
        assert_eq!(status.init_container_statuses.map(|list| list.len()), Some(1));
        assert!(status.container_statuses.is_some_and(|list| list.len() == 1 && list[0].ready));
    }
    let list: Value = serde_json::from_slice(&host.ok(&["get", "pods", "-o", "json"]).stdout).expect("JSON");
    assert!(list["items"].as_array().is_some_and(|items| items.len() == 1), "{list}");
    let page = host.ok(&["describe", "pod", "real"]).out();
    for word in ["real", "main", "Running"] {
        assert!(page.contains(word), "{page}");
    }
    let table = host.ok(&["get", "pods"]).out();
    assert!(
        table.contains("NAME") && table.contains("READY") && table.contains("1/1") && !table.contains('\u{1b}'),
        "{table}"
    );
}

#[test]
fn a_status_of_another_boot_is_not_believed() {
    let host = Host::new();
    let pod = host.run("rebooted", &manifest("rebooted", json!({"containers": [sleeper("main")]})));
    let (keeper, container) = (pod.keeper(), pod.pid("main"));
    // The power fails: everything is gone at once, but for the files.
    kill(Pid::from_raw(keeper), Signal::SIGKILL).expect("kill keeper");
    wait_for("the pod is dead", || (!alive(container) && !alive(keeper)).then_some(()));
    let path = pod.dir.join("status.json");
    let mut status: Value = serde_json::from_slice(&fs::read(&path).expect("read status.json")).expect("JSON");
    // An innocent process stands where the container's pid was written.
    let mut innocent = std::process::Command::new("sleep").arg("1000").spawn().expect("start a process");
    status["boot_id"] = json!("00000000-0000-0000-0000-000000000000");
    let text = status.to_string().replace(&format!("\"pid\":{container}"), &format!("\"pid\":{}", innocent.id()));
    fs::write(&path, text).expect("write status.json");
    let shown = pod.json();
    assert_eq!(shown["status"]["phase"], "Unknown", "{}", shown["status"]);
    assert_ne!(shown["status"]["containerStatuses"][0]["ready"], true, "{}", shown["status"]);
    assert!(shown["status"]["containerStatuses"][0]["state"]["running"].is_null(), "{}", shown["status"]);
    host.ok(&["gc"]);
    host.husk(&["delete", "pod", "rebooted", "--force"]);
    let lives = innocent.try_wait().expect("ask for its state").is_none();
    innocent.kill().expect("end it");
    innocent.wait().expect("reap it");
    assert!(lives, "a pid of another boot was signalled");
}

#[test]
fn a_torn_or_foreign_record_is_reported_and_does_not_hide_the_others() {
    let host = Host::new();
    host.run("good", &manifest("good", json!({"containers": [sleeper("main")]})));
    let bad = host.state.join("pods/broken");
    fs::create_dir(&bad).expect("make a directory");
    fs::write(bad.join("pod.json"), b"{\"version\": 99").expect("write a torn record");
    let list = host.husk(&["get", "pods", "-o", "name"]);
    assert!(list.out().contains("good") && list.code == Some(1) && list.err().contains("broken"), "{list}");
    host.husk(&["gc"]);
    assert_eq!(host.pod("good").phase(), "Running");
    drop(fs::remove_dir_all(&bad));
}

#[test]
fn commands_on_an_unknown_pod_name_it() {
    let host = Host::new();
    for args in [
        &["get", "pod", "nobody"][..],
        &["describe", "pod", "nobody"],
        &["logs", "nobody"],
        &["delete", "pod", "nobody"],
    ] {
        let said = host.refused(args);
        assert!(said.contains("nobody"), "{said}");
    }
    let output = host.husk(&["exec", "nobody", "--", "true"]);
    assert!(matches!(output.code, Some(1 | 125)) && output.err().contains("nobody"), "{output}");
}

#[test]
fn selectors_and_namespaces_choose() {
    let host = Host::new();
    for (name, app) in [("a", "web"), ("b", "web"), ("c", "db")] {
        let mut pod: Value =
            serde_json::from_str(&manifest(name, json!({"containers": [sleeper("main")]}))).expect("JSON");
        pod["metadata"]["labels"] = json!({"app": app});
        host.run(name, &pod.to_string());
    }
    let names = |args: &[&str]| {
        let mut all = vec!["get", "pods", "-o", "name"];
        all.extend(args);
        host.ok(&all).out().lines().map(|line| line.rsplit('/').next().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["-l", "app=web"]), ["a", "b"]);
    assert_eq!(names(&["-l", "app!=web"]), ["c"]);
    assert_eq!(names(&["-n", "elsewhere"]), Vec::<String>::new());
}

#[test]
fn several_documents_make_several_pods_or_none() {
    let host = Host::new();
    let good = |name: &str| manifest(name, json!({"containers": [sleeper("main")]}));
    let output = host.try_run(&format!("{}\n---\n{}\n", good("first"), good("second")));
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(host.ok(&["get", "pods", "-o", "name"]).out().lines().count(), 2);
    let output =
        host.try_run(&format!("{}\n---\n{}\n", good("third"), good("fourth").replace("containers", "contaners")));
    assert_eq!(output.code, Some(1), "{output}");
    assert_eq!(
        host.ok(&["get", "pods", "-o", "name"]).out().lines().count(),
        2,
        "a bad document starts none of its neighbours"
    );
}
