//! `husk apply` and `husk diff`: what is created, changed in place, refused and replaced.

use serde_json::{Value, json};

use crate::common::image::Image;
use crate::common::{BUSYBOX, Host, container, manifest, sleeper, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
fn another_image_is_another_instance_of_the_container_that_has_it_and_of_no_other() {
    let host = Host::new();
    let tar = Image::on_busybox("husk.test/next:1").set("Env", json!(["OF=next"])).set("StopSignal", json!("SIGINT"));
    host.load(&tar.write(&host.dir.join("next.tar")));
    let text = |image: &str| {
        let script = "trap 'echo by term; exit 0' TERM; trap 'echo by int; exit 0' INT; echo $OF; sleep 100000 & wait";
        let mut main = container("main", script, json!({}));
        let mut done = container("done", "true", json!({}));
        main["image"] = json!(image);
        done["image"] = json!(image);
        manifest("demo", json!({"initContainers": [done], "containers": [main, sleeper("other")]}))
    };
    let apply = |image: &str| host.husk(&["apply", "-f", &host.file("pod.json", text(image))]);
    assert_eq!(apply(BUSYBOX).out(), "pod/demo created\n");
    let before = ["main", "other"].map(|c| host.pod("demo").pid(c));

    let missing = apply("husk.test/none:1");
    assert!(missing.code == Some(1) && missing.err().contains("husk.test/none:1"), "{missing}");
    assert_eq!(apply("husk.test/next:1").out(), "pod/demo configured\n");
    wait_for("the next instance", || host.ok(&["logs", "demo", "-c", "main"]).out().contains("next").then_some(()));
    let shown = host.pod("demo").json();
    let status = |name: &str| {
        let of = |list: &str| shown["status"][list].as_array().cloned().unwrap_or_default();
        let all = [of("containerStatuses"), of("initContainerStatuses")].concat();
        all.into_iter().find(|c| c["name"] == json!(name)).expect("a status")
    };
    assert_eq!((status("main")["restartCount"].clone(), status("other")["restartCount"].clone()), (json!(1), json!(0)));
    assert_eq!(status("main")["lastState"]["terminated"]["exitCode"], json!(0));
    assert_eq!(status("done")["restartCount"], json!(0), "what has run to its end is not run again");
    assert_ne!(status("main")["imageID"], status("other")["imageID"]);
    assert_eq!(shown["spec"]["containers"][0]["image"], json!("husk.test/next:1"));
    // The last instance was asked to stop as its own image says.
    assert!(host.ok(&["logs", "demo", "-c", "main", "--previous"]).out().contains("by term"));
    assert!(host.ok(&["events", "demo"]).out().contains("Container main definition changed, will be restarted"));
    let after = ["main", "other"].map(|c| host.pod("demo").pid(c));
    assert!(before[0] != after[0] && before[1] == after[1]);
    assert_eq!(apply("husk.test/next:1").out(), "pod/demo unchanged\n");
    assert!(host.refused(&["image", "rm", "husk.test/next:1"]).contains("demo"));

    // Back again, while its supervisor dies: nothing is lost and nothing is done twice.
    let file = host.file("pod.json", text(BUSYBOX));
    kill(Pid::from_raw(host.pod("demo").supervisor()), Signal::SIGKILL).expect("it lives");
    assert_eq!(host.ok(&["apply", "-f", &file]).out(), "pod/demo configured\n");
    kill(Pid::from_raw(host.pod("demo").supervisor()), Signal::SIGKILL).expect("it lives");
    wait_for("the image before", || {
        let main = host.pod("demo").json()["status"]["containerStatuses"][0].clone();
        (main["restartCount"] == json!(2) && main["state"]["running"].is_object()).then_some(())
    });
    assert!(host.ok(&["logs", "demo", "-c", "main", "--previous"]).out().contains("by int"));
    assert_eq!(host.pod("demo").pid("other"), before[1]);
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
