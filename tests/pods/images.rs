//! Images through the command line; what the store itself refuses is tested beside it.

use serde_json::json;

use crate::common::image::{Archive, Image, busybox, busybox_layer};
use crate::common::{BUSYBOX, Host, container, manifest, sleeper};

#[test]
fn an_image_is_loaded_listed_run_and_removed() {
    let host = Host::empty();
    assert_eq!(host.ok(&["image", "ls", "-o", "name"]).out().trim(), "");
    host.load(&busybox());
    host.load(&busybox());
    let list = host.ok(&["image", "ls", "-o", "name"]).out();
    assert_eq!(list.lines().filter(|line| line.contains(BUSYBOX)).count(), 1, "loading twice gives one image: {list}");
    let pod = host.run("user", &manifest("user", json!({"containers": [sleeper("main")]})));
    let said = host.refused(&["image", "rm", BUSYBOX]);
    assert!(said.contains("user"), "the pod that uses it is named: {said}");
    assert!(host.ok(&["image", "ls", "-o", "name"]).out().contains(BUSYBOX));
    pod.sh("main", "true");
    pod.delete(&["--force"]);
    host.ok(&["image", "rm", BUSYBOX]);
    assert_eq!(host.ok(&["image", "ls", "-o", "name"]).out().trim(), "");
    host.refused(&["image", "rm", BUSYBOX]);
    let left = std::process::Command::new("find")
        .arg(&host.root)
        .args(["-type", "f", "-size", "+16k"])
        .output()
        .expect("run find");
    assert!(left.stdout.is_empty(), "content of a removed image is left: {}", String::from_utf8_lossy(&left.stdout));
}

#[test]
fn an_imported_root_file_system_runs() {
    let host = Host::empty();
    let tar = host.file("rootfs.tar", busybox_layer());
    host.ok(&["image", "import", &tar, "husk.test/imported:2"]);
    let mut main = container("main", "echo imported; exit 5", json!({}));
    main["image"] = json!("husk.test/imported:2");
    let pod = host.run("imported", &manifest("imported", json!({"containers": [main]})));
    assert_eq!(pod.terminated("main")["exitCode"], 5);
    assert_eq!(pod.logs("main", &[]), "imported\n");
}

#[test]
fn upper_layers_hide_and_replace_what_is_below() {
    let host = Host::empty();
    let mut upper = Archive::default();
    upper.file("etc/.wh.data", 0o644, b"");
    upper.file("etc/passwd", 0o644, b"root:x:0:0:replaced:/root:/bin/sh\n");
    upper.file("srv/.wh..wh..opq", 0o644, b"");
    upper.file("srv/new", 0o644, b"new\n");
    host.load(&Image::on_busybox("husk.test/layers:1").layer(upper.finish()).write(&host.dir.join("i.tar")));
    let mut main =
        container("main", "[ ! -e /etc/data ] && grep -q replaced /etc/passwd && ls /srv && cat /srv/new", json!({}));
    main["image"] = json!("husk.test/layers:1");
    let pod = host.run("layers", &manifest("layers", json!({"containers": [main]})));
    assert_eq!(pod.terminated("main")["exitCode"], 0);
    assert_eq!(pod.logs("main", &[]), "new\nnew\n");
}

#[test]
fn what_a_container_writes_is_not_in_the_image() {
    let host = Host::new();
    let spec = |script: &str| json!({"containers": [container("main", script, json!({}))]});
    let one = host.run(
        "writer",
        &manifest("writer", spec("echo changed > /etc/data; rm /bin/yes; mkdir /new; exec sleep 10000")),
    );
    let two = host.run("reader", &manifest("reader", spec("cat /etc/data; ls /bin/yes; ls -d /new; true")));
    two.terminated("main");
    let text = two.logs("main", &[]);
    assert!(text.starts_with("not a program\n/bin/yes\n"), "{text}");
    assert!(!text.contains("\n/new\n"), "{text}");
    drop(one);
}
