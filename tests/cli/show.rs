//! `get` and `describe`.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::Husk;
use crate::fake::{FakePod, crash_loop, running};

#[test]
fn the_table_is_kubectls() {
    let husk = Husk::new("table");
    let web = FakePod::new(&husk, "web");
    let _db = FakePod::in_namespace(&husk, "db", "storage");
    let words = |text: &str| -> Vec<Vec<String>> {
        text.lines()
            .map(|line| {
                line.split("   ").map(|word| word.trim().into()).filter(|word: &String| !word.is_empty()).collect()
            })
            .collect()
    };
    let table = husk.call(&["get", "pods"]);
    let rows = words(&table.is(0).stdout);
    assert_eq!(rows[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(rows[1][..4], ["web", "2/2", "Running", "0"]);
    assert_eq!(rows.len(), 2);
    assert!(!table.stdout.contains('\x1b'), "colour on a pipe");

    let rows = words(&husk.call(&["get", "po", "-A", "-o", "wide", "--no-headers"]).is(0).stdout);
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0][0].as_str(), rows[0][1].as_str()), ("default", "web"));
    assert_eq!((rows[1][0].as_str(), rows[1][1].as_str()), ("storage", "db"));
    assert_eq!(rows[0][rows[0].len() - 2..], ["husk.example/a:1,husk.example/b:1", "<none>"]);
    assert!(rows[0].contains(&web.uid));

    web.status(crash_loop(), |status| {
        status["containers"][1]["attempt"] = json!(4);
        status["containers"][1]["last"] = crate::fake::terminated(3, 1);
        status["containers"][1]["last"].as_object_mut().expect("an object").remove("state");
    });
    let rows = words(&husk.call(&["get", "pod", "web"]).is(0).stdout);
    assert_eq!(rows[1][..3], ["web", "1/2", "CrashLoopBackOff"]);
}

#[test]
fn pods_are_chosen_by_name_label_namespace_and_uid() {
    let husk = Husk::new("choose");
    let one = FakePod::new(&husk, "one");
    let _two = FakePod::new(&husk, "two");
    let _far = FakePod::in_namespace(&husk, "far", "away");
    let names = |args: &[&str]| {
        let all: Vec<&str> = ["get"].iter().chain(args).chain(&["-o", "name"]).copied().collect();
        husk.call(&all).is(0).stdout.clone()
    };
    assert_eq!(names(&["pods"]), "pod/one\npod/two\n");
    assert_eq!(names(&["pods", "-A"]), "pod/far\npod/one\npod/two\n");
    assert_eq!(names(&["pods", "-n", "away"]), "pod/far\n");
    assert_eq!(names(&["pods", "-l", "app in (one,far)"]), "pod/one\n");
    assert_eq!(names(&["pods", "-l", "app!=one"]), "pod/two\n");
    assert_eq!(names(&["pod", "two", "one"]), "pod/two\npod/one\n");
    assert_eq!(names(&["pod/two"]), "pod/two\n");
    assert_eq!(names(&["pod", &one.uid]), "pod/one\n");
    // What is there is shown, and what is not is said.
    let mixed = husk.call(&["get", "pod", "one", "nobody", "-o", "name"]);
    assert_eq!(mixed.is(1).stdout, "pod/one\n");
    assert!(mixed.stderr.contains("nobody"));
}

#[test]
fn json_and_yaml_are_pods_of_kubernetes() {
    let husk = Husk::new("objects");
    let _pod = FakePod::new(&husk, "web");
    let json: Pod = serde_json::from_str(&husk.call(&["get", "pod", "web", "-o", "json"]).is(0).stdout).expect("JSON");
    let text = husk.call(&["get", "pod", "web", "-o", "yaml"]);
    let yaml: Pod = serde_saphyr::from_str(&text.is(0).stdout).expect("YAML");
    assert_eq!(json, yaml);
    assert!(
        text.stdout.starts_with("apiVersion: v1\n") || text.stdout.contains("\napiVersion: v1\n"),
        "{}",
        text.stdout
    );
    let status = json.status.expect("a status");
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.container_statuses.map(|statuses| statuses.len()), Some(2));

    let list: Value = serde_json::from_str(&husk.call(&["get", "pods", "-o", "json"]).is(0).stdout).expect("JSON");
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("List"), &json!("v1")));
    assert_eq!(list["items"][0]["metadata"]["name"], "web");
    assert_eq!(list["items"][0]["kind"], "Pod");
}

#[test]
fn describe_tells_what_there_is_to_know_and_nothing_escapes() {
    let husk = Husk::new("describe");
    let _pod = FakePod::new(&husk, "web");
    let said = husk.call(&["describe", "pod", "web"]);
    let text = &said.is(0).stdout;
    for line in [
        "Name:         web",
        "Namespace:    default",
        "Start Time:   Thu, 01 Jan 2026 00:00:00 +0000",
        "Labels:       app=web",
        "Annotations:  <none>",
        "Status:       Running",
        "IP:",
        "IPs:          <none>",
        "Init Containers:",
        "  setup:",
        "    Image:          husk.example/a:1",
        "    State:          Terminated",
        "      Reason:       Completed",
        "      Exit Code:    0",
        "    Port:          8080/TCP",
        "    Host Port:     0/TCP",
        "      sleep",
        "      a\\x1b[31mb",
        "    State:          Running",
        "    Limits:",
        "      memory:  32Mi",
        "      COLOUR:  blue",
        "      /data from data (ro)",
        "  data:",
        "    Medium:        Memory",
        "    SizeLimit:     16Mi",
        "QoS Class:         Burstable",
        "Node-Selectors:    <none>",
        "Events:            <none>",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
    }
    for other in
        [&["describe", "web"][..], &["describe", "pod/web"], &["describe", "pods"], &["describe", "-l", "app=web"]]
    {
        assert_eq!(&husk.call(other).is(0).stdout, text, "{other:?}");
    }
    let short = husk.call(&["describe", "web", "--show-events=false"]);
    assert!(!short.is(0).stdout.contains("Events:"), "{}", short.stdout);
}

#[test]
fn a_record_that_cannot_be_read_does_not_hide_the_others() {
    let husk = Husk::new("unreadable");
    let _good = FakePod::new(&husk, "good");
    let bad = FakePod::new(&husk, "bad");
    std::fs::write(bad.roots.pod_dir(&bad.uid).join("status.json"), "{").expect("write");
    let said = husk.call(&["get", "pods", "-o", "name"]);
    assert_eq!(said.is(1).stdout, "pod/bad\npod/good\n");
    assert!(said.stderr.contains(&bad.uid) && said.stderr.contains("status.json"), "{}", said.stderr);
    let said = husk.call(&["get", "pod", "bad", "--no-headers"]);
    assert!(said.is(1).stdout.contains("Unknown") && said.stderr.contains("status.json"), "{}", said.stdout);
}

#[test]
fn two_hundred_pods_are_listed_without_a_call_too_many() {
    let husk = Husk::new("many");
    let pods: Vec<FakePod> = (0..200).map(|number| FakePod::new(&husk, &format!("pod-{number}"))).collect();
    let begun = std::time::Instant::now();
    assert_eq!(husk.call(&["get", "pods", "--no-headers"]).is(0).stdout.lines().count(), 200);
    let took = begun.elapsed();
    // A debug build, on a busy machine: this catches what grows with the square of the pods.
    assert!(took.as_secs() < 5, "{took:?}");
    pods[0].status(running(), |_| ());
}
