//! What is told of a pod's life, and how it is kept.

use std::fs;

use k8s_openapi::api::core::v1::Event;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::{BUSYBOX, Host, Pod, container, manifest, sleeper, wait_for};

fn events(host: &Host, pod: &str) -> Vec<Event> {
    let list: Value = serde_json::from_str(&host.ok(&["events", pod, "-o", "json"]).out()).expect("JSON");
    assert_eq!(list["kind"], "List");
    serde_json::from_value(list["items"].clone()).expect("v1.Event objects")
}

fn find<'a>(events: &'a [Event], reason: &str) -> Option<&'a Event> {
    events.iter().find(|e| e.reason.as_deref() == Some(reason))
}

fn reasons(events: &[Event]) -> Vec<&str> {
    events.iter().filter_map(|e| e.reason.as_deref()).collect()
}

fn file(pod: &Pod) -> std::path::PathBuf {
    pod.dir.join("events.jsonl")
}

#[test]
fn a_start_is_told_in_the_kubelets_words() {
    let host = Host::new();
    host.run("told", &manifest("told", json!({"containers": [sleeper("main")]})));
    let events = wait_for("the events of the start", || Some(events(&host, "told")).filter(|e| e.len() == 3));
    assert_eq!(reasons(&events), ["Pulled", "Created", "Started"]);
    let pulled = &events[0];
    let text = format!("Container image \"{BUSYBOX}\" already present on machine");
    assert_eq!(pulled.message.as_deref(), Some(text.as_str()));
    for event in &events {
        let about = &event.involved_object;
        assert_eq!((about.kind.as_deref(), about.name.as_deref()), (Some("Pod"), Some("told")));
        assert_eq!(about.field_path.as_deref(), Some("spec.containers{main}"));
        assert_eq!(about.uid.as_deref(), Some(host.pod("told").record().id.as_str()));
        assert_eq!((event.type_.as_deref(), event.count), (Some("Normal"), Some(1)));
        assert_eq!(event.source.as_ref().and_then(|s| s.component.as_deref()), Some("husk"));
        assert!(event.first_timestamp.is_some() && event.first_timestamp == event.last_timestamp);
    }
}

#[test]
fn a_crash_loop_is_counted_and_its_init_containers_are_named() {
    let host = Host::new();
    let none = json!({});
    let spec = json!({
        "restartPolicy": "Always",
        "initContainers": [container("setup", "true", none.clone())],
        "containers": [container("main", "exit 3", none)],
    });
    host.run("loop", &manifest("loop", spec));
    let events = wait_for("a back-off", || Some(events(&host, "loop")).filter(|e| find(e, "BackOff").is_some()));
    let back_off = find(&events, "BackOff").expect("as waited for");
    assert_eq!(back_off.type_.as_deref(), Some("Warning"));
    let said = back_off.message.clone().unwrap_or_default();
    assert!(said.starts_with("Back-off restarting failed container main in pod loop_default("), "{said}");
    // Started at once a second time: the same event twice.
    let main = |e: &&Event| e.involved_object.field_path.as_deref() == Some("spec.containers{main}");
    let started: Vec<_> = events.iter().filter(main).filter(|e| e.reason.as_deref() == Some("Started")).collect();
    assert_eq!(started.len(), 1);
    assert_eq!(started[0].count, Some(2));
    assert!(started[0].first_timestamp <= started[0].last_timestamp);
    let init = |e: &Event| e.involved_object.field_path.as_deref() == Some("spec.initContainers{setup}");
    assert!(events.iter().any(init), "{events:?}");
    let table = host.ok(&["events", "loop", "--types=warning"]).out();
    assert!(table.starts_with("LAST SEEN   TYPE      REASON    OBJECT     MESSAGE\n"), "{table}");
    assert!(table.contains("Warning") && table.contains("Pod/loop") && !table.contains("Normal"), "{table}");
}

#[test]
fn a_watch_tells_of_the_end_and_ends_with_the_pod() {
    let host = Host::new();
    let stubborn = container("main", "trap '' TERM; echo ready; while :; do sleep 1; done", json!({}));
    host.run("end", &manifest("end", json!({"containers": [stubborn]}))).wait_log("main", "ready");
    let watch = host.job(&["events", "--for", "pod/end", "-w", "--no-headers"]).start();
    wait_for("the watch", || watches(watch.pid).then_some(()));
    host.ok(&["delete", "end", "--grace-period=2"]);
    let told = watch.finish();
    assert_eq!(told.code, Some(0), "{told}");
    for word in ["Started", "Killing", "Stopping container main", "ExceededGracePeriod"] {
        assert!(told.out().contains(word), "{word} is not in {told}");
    }
}

/// It listens: it has an inotify instance.
pub(super) fn watches(pid: i32) -> bool {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    links.filter_map(|link| fs::read_link(link.path()).ok()).any(|to| to.to_string_lossy().contains("inotify"))
}

#[test]
fn events_outlive_their_supervisor_and_the_end_of_the_pod() {
    let host = Host::new();
    let script = "until [ -e /tmp/go ]; do sleep 0.05; done; exit 4";
    let spec = json!({"restartPolicy": "Never", "containers": [container("main", script, json!({}))]});
    let pod = host.run("done", &manifest("done", spec));
    wait_for("the events of the start", || Some(()).filter(|()| events(&host, "done").len() == 3));
    let supervisor = pod.supervisor();
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).expect("kill it");
    wait_for("a successor", || {
        Some(()).filter(|()| host.husk(&["exec", "done", "--", "touch", "/tmp/go"]).code == Some(0))
    });
    pod.wait_phase("Failed");
    assert_eq!(reasons(&events(&host, "done")), ["Pulled", "Created", "Started"]);
    host.ok(&["delete", "done"]);
    assert!(host.refused(&["events", "done"]).contains("not found"));
}

#[test]
fn a_line_that_was_cut_short_hides_nothing_else() {
    let host = Host::new();
    let pod = host.run("torn", &manifest("torn", json!({"containers": [sleeper("main")]})));
    let path = file(&pod);
    wait_for("the events of the start", || Some(()).filter(|()| events(&host, "torn").len() == 3));
    let mut content = fs::read(&path).expect("it is there");
    content.extend(b"\n{\"version\":1,\"type\":\"Nor");
    fs::write(&path, content).expect("write");
    assert_eq!(events(&host, "torn").len(), 3);
}
