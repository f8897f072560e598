//! Bad input that gets as far as images, volumes and limits: one sentence, exit code 1, nothing left.

use std::fs;

use serde_json::{Value, json};

use crate::common::image::{Archive, Image, architecture, busybox};
use crate::common::{BUSYBOX, Host, container, manifest, sleeper};

/// Runs a pod that must be refused before anything is made, with every one of `words` in the sentence.
#[track_caller]
fn refuse(host: &Host, spec: Value, words: &[&str]) {
    refuse_text(host, &manifest("bad", spec), words);
}

#[track_caller]
fn refuse_text(host: &Host, text: &str, words: &[&str]) {
    let output = host.try_run(text);
    assert_eq!(output.code, Some(1), "{output}");
    let said = output.err();
    assert!(!said.contains("panicked") && said.lines().count() <= 6, "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(host.pod_dirs().is_empty(), "a refused pod is not there");
    host.assert_untouched();
}

fn with(more: Value) -> Value {
    let mut main = sleeper("main");
    crate::common::merge(&mut main, more);
    json!({"containers": [main]})
}

#[test]
fn a_missing_image_is_named() {
    let host = Host::empty();
    refuse(&host, with(json!({})), &["spec.containers[0].image", BUSYBOX]);
    host.load(&busybox());
    refuse(&host, with(json!({"image": "husk.test/other:1"})), &["husk.test/other:1"]);
    refuse(&host, with(json!({"image": "not a name"})), &["spec.containers[0].image"]);
    refuse(&host, with(json!({"image": "husk.test/busybox\u{7}:1"})), &["spec.containers[0].image"]);
}

#[test]
fn a_command_that_cannot_start_is_a_start_error_with_its_reason() {
    let host = Host::new();
    for (name, command, word) in [
        ("missing", "/no/such", "/no/such"),
        ("data", "/etc/data", "/etc/data"),
        ("directory", "/etc", "/etc"),
        ("garbage", "/etc/garbage", "/etc/garbage"),
        ("path", "nosuchprogram", "nosuchprogram"),
    ] {
        let output = host.try_run(&manifest(name, with(json!({"command": [command]}))));
        if output.code == Some(0) {
            let pod = host.pod(name);
            let end = pod.terminated("main");
            assert_eq!((&end["exitCode"], &end["reason"]), (&json!(128), &json!("StartError")), "{end}");
            assert!(end["message"].as_str().is_some_and(|text| text.contains(word)), "{end}");
            pod.wait_phase("Failed");
            pod.delete(&["--force"]);
        } else {
            assert!(output.code == Some(1) && output.err().contains(word), "{output}");
        }
        host.ok(&["gc"]);
        host.assert_untouched();
    }
}

#[test]
fn an_image_without_a_command_is_refused() {
    let host = Host::empty();
    host.load(&Image::on_busybox("husk.test/mute:1").write(&host.dir.join("i.tar")));
    refuse(
        &host,
        json!({"containers": [{"name": "main", "image": "husk.test/mute:1"}]}),
        &["spec.containers[0]", "command"],
    );
}

#[test]
fn an_image_of_another_architecture_is_refused() {
    let host = Host::empty();
    let other = if architecture() == "amd64" { "arm64" } else { "amd64" };
    let archive = Image::on_busybox("husk.test/foreign:1").architecture(other).write(&host.dir.join("i.tar"));
    let loaded = host.husk(&["image", "load", archive.to_str().expect("UTF-8")]);
    if loaded.code == Some(0) {
        refuse(&host, with(json!({"image": "husk.test/foreign:1"})), &[other]);
    } else {
        assert!(loaded.code == Some(1) && loaded.err().contains(other), "{loaded}");
    }
}

#[test]
fn users_of_the_image_are_numbers_in_range_or_names_in_its_passwd() {
    let host = Host::empty();
    for (i, user) in ["4294967296", "-1", "0x0", " 0", "99999999999999999999", "nobodyhere", "0:nogroup", "2147483648"]
        .into_iter()
        .enumerate()
    {
        let name = format!("husk.test/user{i}:1");
        let archive = Image::on_busybox(&name).set("User", json!(user)).write(&host.dir.join("i.tar"));
        if host.husk(&["image", "load", archive.to_str().expect("UTF-8")]).code == Some(0) {
            refuse(&host, with(json!({"image": name})), &[]);
        }
    }
}

#[test]
fn an_archive_that_ends_early_is_refused_and_leaves_nothing() {
    let host = Host::empty();
    let whole = fs::read(busybox()).expect("read the archive");
    for length in [0, 100, 512, 1500, 10_000, whole.len() / 2, whole.len() - 2000] {
        let path = host.file("short.tar", &whole[..length]);
        let output = host.husk(&["image", "load", &path]);
        assert_eq!(output.code, Some(1), "{length} bytes: {output}");
        assert!(output.err().contains("short.tar"), "the file is named: {output}");
    }
    assert_eq!(host.ok(&["image", "ls", "-o", "name"]).out().trim(), "");
    let left = std::process::Command::new("find")
        .arg(&host.root)
        .args(["-type", "f", "-size", "+0"])
        .output()
        .expect("run find");
    assert!(left.stdout.is_empty(), "left: {}", String::from_utf8_lossy(&left.stdout));
    host.refused(&["image", "load", "/no/such/file.tar"]);
    host.refused(&["image", "load", "/dev/null"]);
}

#[test]
fn an_archive_that_was_tampered_with_is_refused() {
    let host = Host::empty();
    let mut bytes = fs::read(busybox()).expect("read the archive");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let path = host.file("flipped.tar", &bytes);
    let said = host.refused(&["image", "load", &path]);
    assert!(said.contains("sha256") || said.contains("digest"), "{said}");
}

#[test]
fn nothing_is_written_outside_by_a_hostile_layer() {
    let host = Host::empty();
    let marker = host.dir.join("marker");
    let mut tar = Archive::default();
    tar.link("escape", host.dir.to_str().expect("UTF-8"));
    tar.file("escape/marker", 0o644, b"got out");
    let archive =
        Image::new("husk.test/hostile:1").layer(tar.finish()).set("Cmd", json!(["/x"])).write(&host.dir.join("i.tar"));
    host.husk(&["image", "load", archive.to_str().expect("UTF-8")]);
    assert!(!marker.exists());
}

#[test]
fn a_limit_below_what_can_start_is_refused_or_ends_the_container() {
    let host = Host::new();
    for memory in ["1", "4Ki", "100Ki"] {
        let output = host.try_run(&manifest("tiny", with(json!({"resources": {"limits": {"memory": memory}}}))));
        if output.code == Some(0) {
            let pod = host.pod("tiny");
            let end = pod.terminated("main");
            assert!(end["reason"] == "OOMKilled" || end["reason"] == "StartError", "{memory}: {end}");
            pod.delete(&["--force"]);
        } else {
            assert!(output.code == Some(1) && output.err().contains("memory"), "{memory}: {output}");
        }
        host.ok(&["gc"]);
        host.assert_untouched();
    }
}

#[test]
fn a_refused_neighbour_leaves_the_first_container_of_the_pod_neither() {
    let host = Host::new();
    let spec =
        json!({"containers": [sleeper("good"), {"name": "bad", "image": "husk.test/missing:1", "command": ["x"]}]});
    refuse(&host, spec, &["spec.containers[1]", "husk.test/missing:1"]);
}

#[test]
fn manifests_that_are_wrong_name_the_field() {
    let host = Host::new();
    let volume = |mounts: Value| {
        let mut spec = with(json!({"volumeMounts": mounts}));
        spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
        spec
    };
    refuse(&host, with(json!({"imagePullPolice": "Never"})), &["imagePullPolice"]);
    refuse(&host, with(json!({"tty": "yes"})), &["tty"]);
    refuse(&host, json!({"containers": [sleeper("a"), sleeper("a")]}), &["spec.containers[1].name"]);
    refuse(&host, json!({"containers": [sleeper("UPPER")]}), &["spec.containers[0].name"]);
    refuse(
        &host,
        volume(json!([{"name": "other", "mountPath": "/v"}])),
        &["spec.containers[0].volumeMounts[0].name", "other"],
    );
    refuse(
        &host,
        volume(json!([{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/v"}])),
        &["spec.containers[0].volumeMounts[1].mountPath"],
    );
    refuse(
        &host,
        volume(json!([{"name": "v", "mountPath": "/v/../../etc"}])),
        &["spec.containers[0].volumeMounts[0].mountPath"],
    );
    let mut spec = with(json!({}));
    spec["terminationGracePeriodSeconds"] = json!(-1);
    refuse(&host, spec, &["spec.terminationGracePeriodSeconds"]);
    refuse(
        &host,
        with(json!({"securityContext": {"runAsUser": 4_294_967_296_i64}})),
        &["spec.containers[0].securityContext.runAsUser"],
    );
    refuse(
        &host,
        with(json!({"securityContext": {"runAsUser": -1}})),
        &["spec.containers[0].securityContext.runAsUser"],
    );
    refuse(&host, with(json!({"livenessProbe": {"exec": {"command": []}}})), &["spec.containers[0].livenessProbe"]);
    refuse(&host, with(json!({"resources": {"limits": {"memory": "-5"}}})), &["spec.containers[0].resources"]);
    let mut spec = with(json!({}));
    spec["hostUsers"] = json!(false);
    refuse(&host, spec, &["spec.hostUsers"]);
    refuse_text(&host, "{\"apiVersion\": \"v1\", \"kind\": \"Pod\"", &[]);
    refuse_text(&host, "kind: [unclosed", &[]);
    refuse_text(&host, "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n", &["Service"]);
    refuse_text(&host, "", &[]);
    refuse_text(&host, &manifest("UPPER", with(json!({}))), &["metadata.name"]);
    refuse_text(&host, &manifest("a\u{1b}[31m", with(json!({}))), &["metadata.name"]);
}

#[test]
fn enormous_and_deep_manifests_are_refused_quickly() {
    let host = Host::new();
    let big = format!("{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"x\": \"{}\"}}", "y".repeat(100 << 20));
    for text in [big, "[".repeat(10_000), format!("a: {}", "{a: ".repeat(10_000)), "- ".repeat(10_000)] {
        let output = host.try_run(&text);
        assert_eq!(output.code, Some(1), "{output}");
        assert!(output.elapsed.as_secs() < 20, "{output}");
    }
    host.assert_untouched();
}

#[test]
fn without_root_it_says_so() {
    let host = Host::new();
    let nobody = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_husk"), "get", "pods"])
        .env("HUSK_ROOT", &host.root)
        .env("HUSK_STATE", &host.state)
        .current_dir("/")
        .output()
        .expect("start setpriv");
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    // The build directory may be closed to others; then the program could not even be started.
    if !said.contains("failed to execute") {
        assert_eq!(nobody.status.code(), Some(1), "{said}");
        assert!(said.contains("root"), "{said}");
    }
}

#[test]
fn a_full_disk_is_reported_and_leaves_nothing() {
    let host = Host::empty();
    // The roots on a small file system, in a mount namespace of this thread's own.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use nix::mount::{MsFlags, mount};
            let none: Option<&str> = None;
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace of our own");
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("make all mounts private");
            fs::create_dir_all(&host.root).expect("make the root");
            mount(Some("small"), &host.root, Some("tmpfs"), MsFlags::empty(), Some("size=1m,mode=700"))
                .expect("mount a small tmpfs");
            let output = host.husk(&["image", "load", busybox().to_str().expect("UTF-8")]);
            assert_eq!(output.code, Some(1), "{output}");
            assert!(output.err().contains("ENOSPC") || output.err().contains("o space left"), "{output}");
            assert_eq!(host.ok(&["image", "ls", "-o", "name"]).out().trim(), "", "half an image is none");

            let remount = MsFlags::MS_REMOUNT;
            mount(none, &host.root, none, remount, Some("size=64m")).expect("make it larger");
            host.load(&busybox());
            fs::write(host.root.join("ballast"), vec![0; 1 << 20]).expect("fill a part");
            let used = std::process::Command::new("du").arg("-sk").arg(&host.root).output().expect("run du");
            let kib: u64 = String::from_utf8_lossy(&used.stdout)
                .split_whitespace()
                .next()
                .expect("a number")
                .parse()
                .expect("a number");
            fs::create_dir_all(&host.state).expect("make the state directory");
            mount(Some("tiny"), &host.state, Some("tmpfs"), MsFlags::empty(), Some("size=4k,nr_inodes=6,mode=700"))
                .expect("mount a tiny tmpfs");
            let output =
                host.try_run(&manifest("full", json!({"containers": [container("main", "sleep 1", json!({}))]})));
            assert_eq!(output.code, Some(1), "{output}");
            assert!(output.err().contains("ENOSPC") || output.err().contains("o space left"), "{output}");
            assert!(host.pod_dirs().is_empty(), "half a pod is none");
            assert!(kib > 0);
            // The mounts end with this thread.
        });
    });
}
