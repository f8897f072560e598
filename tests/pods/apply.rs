//! `husk apply` and `husk diff`: what is created, changed in place, refused and replaced.

use serde_json::{Value, json};

use crate::common::{Host, container, manifest, sleeper};

fn pod(memory: &str, label: &str, image_env: &str) -> String {
    let more = json!({"env": [{"name": "X", "value": image_env}],
        "resources": {"requests": {"memory": "16Mi"}, "limits": {"memory": memory}}});
    let spec = json!({"containers": [container("main", "trap 'exit 0' TERM; sleep 100000 & wait", more)]});
    let mut all: Value = serde_json::from_str(&manifest("demo", spec)).expect("JSON");
    all["metadata"]["labels"] = json!({"step": label});
    all.to_string()
}

#[test]
fn a_pod_becomes_what_its_manifest_says_and_is_replaced_only_on_request() {
    let host = Host::new();
    let apply = |text: &str, flags: &[&str]| {
        let file = host.file("pod.json", text);
        let mut args = vec!["apply", "-f", &file];
        args.extend(flags);
        host.husk(&args)
    };
    let first = pod("64Mi", "one", "1");
    let planned = apply(&first, &["--dry-run"]);
    assert_eq!((planned.code, planned.out().as_str()), (Some(0), "pod/demo created (dry run)\n"), "{planned}");
    assert!(host.pod_dirs().is_empty());
    assert_eq!(apply(&first, &[]).out(), "pod/demo created\n");
    assert_eq!(apply(&first, &[]).out(), "pod/demo unchanged\n");
    let (id, pid) = (host.pod("demo").record().id, host.pod("demo").pid("main"));

    assert_eq!(apply(&pod("96Mi", "two", "1"), &["--dry-run"]).out(), "pod/demo configured (dry run)\n");
    assert_eq!(host.pod("demo").json()["metadata"]["labels"], json!({"step": "one"}));
    assert_eq!(apply(&pod("96Mi", "two", "1"), &[]).out(), "pod/demo configured\n");
    let shown = host.pod("demo").json();
    assert_eq!(shown["metadata"]["labels"], json!({"step": "two"}));
    assert_eq!(shown["spec"]["containers"][0]["resources"]["limits"]["memory"], json!("96Mi"));
    assert_eq!(host.pod("demo").pid("main"), pid);

    let refused = apply(&pod("96Mi", "three", "2"), &[]);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.err().contains("spec: Forbidden: pod updates may not change fields other than"), "{refused}");
    assert!(refused.err().contains("here: spec.containers[0].env[0].value"), "{refused}");
    assert!(refused.err().contains("with --replace"), "{refused}");
    assert!(refused.out().contains("--- LIVE/default/demo\n+++ MANIFEST/default/demo\n"), "{refused}");
    assert!(refused.out().lines().any(|l| l.starts_with('+') && l.contains("three")), "{refused}");
    assert_eq!(host.pod("demo").json()["metadata"]["labels"], json!({"step": "two"}), "all or nothing");

    let replaced = apply(&pod("96Mi", "three", "2"), &["--replace"]);
    assert!(replaced.code == Some(0) && replaced.out().ends_with("pod/demo replaced\n"), "{replaced}");
    assert_ne!(host.pod("demo").record().id, id);
    assert!(host.pod("demo").record().containers[0].env.contains(&"X=2".to_owned()));
}

#[test]
fn nothing_is_touched_when_one_of_several_cannot_be_made() {
    let host = Host::new();
    let good = manifest("good", json!({"containers": [sleeper("main")]}));
    let bad = manifest("bad", json!({"containers": [{"name": "main", "image": "husk.test/none:1"}]}));
    let file = host.file("two.yaml", format!("{good}\n---\n{bad}"));
    assert!(host.refused(&["apply", "-f", &file]).contains("husk.test/none:1"));
    assert!(host.pod_dirs().is_empty());
}

#[test]
fn a_difference_is_told_by_the_exit_code() {
    let host = Host::new();
    let file = host.file("pod.json", pod("64Mi", "one", "1"));
    let diff = |code| {
        let output = host.husk(&["diff", "-f", &file]);
        assert_eq!(output.code, Some(code), "{output}");
        output.out()
    };
    assert!(diff(1).contains("+kind: Pod"));
    host.ok(&["run", &file]);
    assert_eq!(diff(0), "");
    host.file("pod.json", pod("64Mi", "two", "1"));
    let text = diff(1);
    let changed = |sign: &str| text.lines().filter(|l| l.starts_with(sign) && !l.starts_with(&sign.repeat(3))).count();
    assert_eq!((changed("-"), changed("+")), (1, 1), "{text}");
    host.file("pod.json", "{");
    assert_eq!(diff(2), "");
}
