//! Bad input names its object and field and changes nothing.

use std::path::Path;

use serde_json::{Value, json};

use crate::Husk;

/// A pod that is right, with `change` made to it.
fn pod(change: impl FnOnce(&mut Value)) -> String {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "demo"},
        "spec": {
            "containers": [{"name": "app", "image": "husk.example/none:1", "command": ["true"]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        }
    });
    change(&mut pod);
    pod.to_string()
}

/// Each bad manifest: a name for the test's output, the text, and the words that the message must hold.
fn bad_manifests() -> Vec<(&'static str, String, Vec<&'static str>)> {
    let app = |change: fn(&mut Value)| pod(move |pod| change(&mut pod["spec"]["containers"][0]));
    let mount = |path: &str| json!({"name": "data", "mountPath": path});
    vec![
        ("empty", String::new(), vec![]),
        ("broken YAML", "metadata:\n  name: demo\n bad: [".into(), vec![]),
        ("broken JSON", "{\"apiVersion\": \"v1\", \"kind\"".into(), vec![]),
        ("not an object", "- 1\n- 2\n".into(), vec![]),
        ("another kind", pod(|pod| pod["kind"] = json!("Service")), vec!["Service"]),
        ("unknown field", app(|app| app["imagee"] = json!("x")), vec!["spec.containers[0].imagee"]),
        ("unknown field at the top", pod(|pod| pod["sepc"] = json!({})), vec!["sepc"]),
        ("wrong type", app(|app| app["command"] = json!("true")), vec!["spec.containers[0].command"]),
        (
            "wrong type of a number",
            pod(|pod| pod["spec"]["terminationGracePeriodSeconds"] = json!("x")),
            vec!["terminationGracePeriodSeconds"],
        ),
        ("duplicate key", "apiVersion: v1\nkind: Pod\nkind: Pod\n".into(), vec!["kind"]),
        ("no name", pod(|pod| pod["metadata"] = json!({})), vec!["metadata.name"]),
        ("no containers", pod(|pod| pod["spec"]["containers"] = json!([])), vec!["demo", "spec.containers"]),
        (
            "no image",
            app(|app| drop(app.as_object_mut().map(|app| app.remove("image")))),
            vec!["demo", "spec.containers[0].image"],
        ),
        (
            "duplicate container names",
            pod(|pod| {
                let app = pod["spec"]["containers"][0].clone();
                pod["spec"]["containers"].as_array_mut().expect("a list").push(app);
            }),
            vec!["demo", "spec.containers[1].name"],
        ),
        (
            "duplicate volume names",
            pod(|pod| {
                let volume = pod["spec"]["volumes"][0].clone();
                pod["spec"]["volumes"].as_array_mut().expect("a list").push(volume);
            }),
            vec!["demo", "spec.volumes[1].name"],
        ),
        (
            "pod name outside DNS-1123",
            pod(|pod| pod["metadata"]["name"] = json!("De_mo")),
            vec!["metadata.name", "De_mo"],
        ),
        ("pod name with a slash", pod(|pod| pod["metadata"]["name"] = json!("../demo")), vec!["metadata.name"]),
        (
            "control characters in the pod name",
            pod(|pod| pod["metadata"]["name"] = json!("de\u{1b}[31mmo\n")),
            vec!["metadata.name"],
        ),
        (
            "control characters in a container name",
            app(|app| app["name"] = json!("a\u{7}b")),
            vec!["spec.containers[0].name"],
        ),
        (
            "control characters in a volume name",
            pod(|pod| pod["spec"]["volumes"][0]["name"] = json!("a\nb")),
            vec!["spec.volumes[0].name"],
        ),
        (
            "control characters in a namespace",
            pod(|pod| pod["metadata"]["namespace"] = json!("a\u{9b}b")),
            vec!["metadata.namespace"],
        ),
        (
            "container name outside DNS-1123",
            app(|app| app["name"] = json!("App")),
            vec!["spec.containers[0].name", "App"],
        ),
        (
            "unknown volume",
            app(|app| app["volumeMounts"] = json!([{"name": "nothing", "mountPath": "/x"}])),
            vec!["demo", "spec.containers[0].volumeMounts[0].name", "nothing"],
        ),
        (
            "duplicate mount path",
            pod(|pod| pod["spec"]["containers"][0]["volumeMounts"] = json!([mount("/x"), mount("/x")])),
            vec!["demo", "spec.containers[0].volumeMounts[1].mountPath", "/x"],
        ),
        (
            "mount path with ..",
            pod(|pod| pod["spec"]["containers"][0]["volumeMounts"] = json!([mount("/x/../../etc")])),
            vec!["demo", "spec.containers[0].volumeMounts[0].mountPath"],
        ),
        (
            "limit below what can start",
            app(|app| app["resources"] = json!({"limits": {"memory": "4Ki"}})),
            vec!["demo", "spec.containers[0].resources.limits"],
        ),
        (
            "a limit that is no quantity",
            app(|app| app["resources"] = json!({"limits": {"memory": "much"}})),
            vec!["spec.containers[0].resources.limits", "much"],
        ),
        (
            "negative grace",
            pod(|pod| pod["spec"]["terminationGracePeriodSeconds"] = json!(-1)),
            vec!["demo", "spec.terminationGracePeriodSeconds"],
        ),
        (
            "uid out of range",
            app(|app| app["securityContext"] = json!({"runAsUser": 4294967296_i64})),
            vec!["demo", "spec.containers[0].securityContext.runAsUser"],
        ),
        (
            "negative uid",
            app(|app| app["securityContext"] = json!({"runAsUser": -1})),
            vec!["demo", "spec.containers[0].securityContext.runAsUser"],
        ),
        (
            "a field that is not supported yet",
            app(|app| app["livenessProbe"] = json!({"exec": {"command": []}})),
            vec!["demo", "spec.containers[0].livenessProbe"],
        ),
    ]
}

#[test]
fn a_bad_manifest_names_object_and_field_and_changes_nothing() {
    let husk = Husk::new("manifests");
    for (what, text, words) in bad_manifests() {
        let said = husk.feed(&["run", "-"], text.as_bytes());
        eprintln!("{what}: {}", said.stderr);
        said.refused(1, &words);
        assert!(!said.stderr.trim_end().chars().any(|c| c.is_control() && c != '\n'), "{:?}", said.stderr);
        assert!(husk.files().is_empty(), "{what}: {:?}", husk.files());
    }
}

#[test]
fn one_bad_document_keeps_all_others_from_being_made() {
    let husk = Husk::new("all-or-none");
    let bad = pod(|pod| pod["metadata"]["name"] = json!("Bad"));
    husk.feed(&["run", "-"], format!("{}\n---\n{bad}\n", pod(|_| ())).as_bytes()).refused(1, &["Bad", "metadata.name"]);
    let good = husk.write("good.json", pod(|_| ()));
    let bad = husk.write("bad.json", bad);
    husk.call(&["run", &good, &bad]).refused(1, &["bad.json", "metadata.name"]);
    husk.call(&["run", &good, &good]).refused(1, &["demo", "metadata.name"]);
    husk.call(&["run", &good, "/does/not/exist.yaml"]).refused(1, &["/does/not/exist.yaml", "ENOENT"]);
    husk.call(&["run", "/"]).refused(1, &["EISDIR"]);
    assert!(husk.files().is_empty(), "{:?}", husk.files());
}

#[test]
fn the_namespace_of_a_manifest_must_agree_with_the_flag() {
    let husk = Husk::new("namespace");
    let manifest = pod(|pod| pod["metadata"]["namespace"] = json!("theirs"));
    husk.feed(&["run", "-", "-n", "ours"], manifest.as_bytes()).refused(1, &["metadata.namespace", "theirs", "ours"]);
    husk.feed(&["run", "-", "-n", "Not_A_Name"], pod(|_| ()).as_bytes()).refused(1, &["metadata.namespace"]);
    assert!(husk.files().is_empty(), "{:?}", husk.files());
}

#[test]
fn a_manifest_of_100_mb_is_refused_without_reading_it_all() {
    let husk = Husk::new("huge");
    let path = husk.write("huge.yaml", "");
    let file = std::fs::File::options().write(true).open(&path).expect("open");
    file.set_len(100 << 20).expect("grow");
    husk.call(&["run", &path]).refused(1, &["huge.yaml"]);
    let comments = "# a comment that says nothing\n".repeat(200_000);
    husk.feed(&["run", "-"], comments.as_bytes()).refused(1, &["standard input"]);
    assert!(husk.files().is_empty());
}

#[test]
fn a_manifest_nested_10000_deep_is_refused() {
    let husk = Husk::new("deep");
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
    let block: String = (0..10_000).map(|depth| format!("{}a:\n", " ".repeat(depth.min(3000)))).collect();
    for text in [deep("[", "]"), deep("{\"a\":", "}"), deep("- ", ""), block] {
        husk.feed(&["run", "-"], text.as_bytes()).refused(1, &["standard input"]);
    }
    // Aliases that would grow to a thousand million nodes.
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..10 {
        let inner = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![inner; 10].join(",")));
    }
    husk.feed(&["run", "-"], bomb.as_bytes()).refused(1, &["standard input"]);
    assert!(husk.files().is_empty());
}

#[test]
fn a_missing_image_is_named_and_nothing_is_made_for_it() {
    let husk = Husk::new("no-image");
    husk.feed(&["run", "-"], pod(|_| ()).as_bytes()).refused(1, &["demo", "husk.example/none:1"]);
    assert!(!husk.directory.join("state/pods").exists() || is_empty(&husk.directory.join("state/pods")));
    let said = husk.call(&["get", "pods", "-A"]);
    assert_eq!(said.is(0).stdout, "");
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).expect("read").next().is_none()
}

#[test]
fn an_image_that_is_no_image_changes_nothing() {
    let husk = Husk::new("images");
    let directory = husk.directory.join("not-a-layout");
    std::fs::create_dir(&directory).expect("make a directory");
    let garbage = husk.write("garbage.tar", [0x5a; 5000]);
    let empty = husk.write("empty.tar", "");
    husk.call(&["image", "load", "/does/not/exist.tar"]).refused(1, &["/does/not/exist.tar", "ENOENT"]);
    husk.call(&["image", "load", directory.to_str().expect("plain")]).refused(1, &["not-a-layout"]);
    husk.call(&["image", "load", &garbage]).refused(1, &["garbage.tar"]);
    husk.call(&["image", "load", &empty]).refused(1, &["empty.tar"]);
    husk.call(&["image", "import", &garbage, "husk.example/x:1"]).refused(1, &["garbage.tar"]);
    husk.call(&["image", "import", &empty, "Not A Name"]).refused(1, &["Not A Name"]);
    husk.call(&["image", "rm", "husk.example/none:1"]).refused(1, &["husk.example/none:1"]);
    let left: Vec<_> = husk.files().into_keys().filter(|path| path.is_file()).collect();
    assert!(left.iter().all(|path| path.metadata().is_ok_and(|metadata| metadata.len() == 0)), "{left:?}");
    assert_eq!(husk.call(&["image", "ls", "-o", "name"]).is(0).stdout, "");
}
