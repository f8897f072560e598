//! emptyDir, hostPath and subPath: sharing, lifetime, limits, and what a deletion must not touch.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::{Host, container, manifest, sleeper, wait_for};

fn mounted(name: &str, more: Value) -> Value {
    let mut main = sleeper(name);
    crate::common::merge(&mut main, more);
    main
}

fn with_host_path(host: &Host, name: &str, path: &Path, kind: &str) -> crate::common::run::Output {
    let spec = json!({
        "volumes": [{"name": "v", "hostPath": {"path": path, "type": kind}}],
        "containers": [mounted("main", json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))],
    });
    host.try_run(&manifest(name, spec))
}

#[test]
fn an_empty_dir_is_shared_writable_by_anybody_and_dies_with_the_pod() {
    let host = Host::new();
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let user = json!({"volumeMounts": [{"name": "v", "mountPath": "/w"}], "securityContext": {"runAsUser": 1000}});
    let spec =
        json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [mounted("a", mount), mounted("b", user)]});
    let pod = host.run("shared", &manifest("shared", spec));
    assert_eq!(pod.sh("a", "stat -c %a /v"), "777\n");
    pod.sh("b", "echo from-b-needle > /w/file");
    assert_eq!(pod.sh("a", "cat /v/file"), "from-b-needle\n");
    pod.delete(&["--force"]);
    assert!(!holds(&host.dir.join("root"), "from-b-needle"), "the volume's content is still on the disk");
}

fn holds(dir: &Path, needle: &str) -> bool {
    fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => entry.file_name() != "images" && holds(&path, needle),
            Ok(kind) if kind.is_file() => {
                fs::read(&path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(needle))
            }
            _ => false,
        }
    })
}

#[test]
fn a_memory_volume_is_one_tmpfs_with_its_limit_and_outlives_the_supervisor() {
    let host = Host::new();
    let mount = json!({"volumeMounts": [{"name": "m", "mountPath": "/m"}]});
    let again = container(
        "again",
        "cat /m/file 2>/dev/null; echo more >> /m/file; sleep 0.3; [ $(wc -l < /m/file) -ge 2 ] && exec sleep 10000; exit 1",
        mount.clone(),
    );
    let spec = json!({
        "restartPolicy": "OnFailure",
        "volumes": [{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}],
        "containers": [mounted("a", mount.clone()), mounted("b", mount), again],
    });
    let pod = host.run("memory", &manifest("memory", spec));
    assert!(
        pod.sh("a", "grep ' /m ' /proc/self/mounts").starts_with("tmpfs")
            || pod.sh("a", "grep ' /m ' /proc/self/mounts").contains(" tmpfs ")
    );
    assert_eq!(pod.sh("a", "stat -c %d /m"), pod.sh("b", "stat -c %d /m"), "one file system for all");
    pod.sh("a", "echo kept > /m/kept");
    assert_eq!(pod.sh("b", "cat /m/kept"), "kept\n");
    assert_eq!(pod.sh("a", "df -k /m | tail -1 | awk '{print $2}'"), "4096\n");
    assert_ne!(
        pod.try_sh("a", "dd if=/dev/zero of=/m/big bs=1M count=5 2>/dev/null").code,
        Some(0),
        "the limit is a limit"
    );
    pod.sh("a", "rm -f /m/big");
    wait_for("the restarted container finds what it had written", || {
        (pod.sh("a", "wc -l < /m/file").trim() == "2").then_some(())
    });

    let supervisor = pod.supervisor();
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).expect("kill the supervisor");
    wait_for("another supervisor", || (pod.supervisor() != supervisor).then_some(()));
    assert_eq!(pod.sh("b", "cat /m/kept"), "kept\n");
    // A container that the new supervisor starts must get the same file system.
    kill(Pid::from_raw(pod.pid("a")), Signal::SIGKILL).expect("kill a container");
    pod.wait_container("a", "restarted", |status| {
        status["restartCount"] == 1 && status["state"]["running"].is_object()
    });
    assert_eq!(pod.sh("a", "cat /m/kept"), "kept\n");
}

#[test]
fn host_paths_of_the_right_type_are_mounted_and_made_where_asked() {
    let host = Host::new();
    let there = host.dir.join("there");
    fs::create_dir(&there).expect("make a directory");
    fs::write(there.join("file"), b"of the host\n").expect("write a file");
    let cases = [
        ("plain", there.clone(), "", "cat /v/file"),
        ("directory", there.clone(), "Directory", "cat /v/file"),
        ("or-create", host.dir.join("made/deep"), "DirectoryOrCreate", "stat -c %a /v"),
        ("file", there.join("file"), "File", "cat /v"),
        ("file-or-create", host.dir.join("made-file"), "FileOrCreate", "stat -c %a /v"),
        ("char", "/dev/null".into(), "CharDevice", "test -c /v && echo char"),
    ];
    let expected = ["of the host\n", "of the host\n", "755\n", "of the host\n", "644\n", "char\n"];
    for ((name, path, kind, script), expected) in cases.into_iter().zip(expected) {
        let output = with_host_path(&host, name, &path, kind);
        assert_eq!(output.code, Some(0), "{name}: {output}");
        assert_eq!(host.pod(name).sh("main", script), expected, "{name}");
        host.pod(name).delete(&["--force"]);
        assert!(path.exists(), "{name}: a hostPath is never removed");
    }
    assert_eq!(fs::read(there.join("file")).expect("still there"), b"of the host\n");
    assert_eq!(fs::metadata(host.dir.join("made-file")).expect("made").permissions().mode() & 0o777, 0o644);
}

#[test]
fn host_paths_of_the_wrong_type_are_refused_by_name() {
    let host = Host::new();
    let file = host.dir.join("a-file");
    fs::write(&file, b"").expect("write a file");
    let dir = host.dir.join("a-dir");
    fs::create_dir(&dir).expect("make a directory");
    for (path, kind) in [
        (&file, "Directory"),
        (&file, "Socket"),
        (&file, "BlockDevice"),
        (&dir, "File"),
        (&dir, "CharDevice"),
        (&dir, "FileOrCreate"),
        (&file, "DirectoryOrCreate"),
        (&host.dir.join("nowhere"), "Directory"),
        (&host.dir.join("nowhere"), "File"),
    ] {
        let output = with_host_path(&host, "wrong", path, kind);
        assert_eq!(output.code, Some(1), "{} as {kind}: {output}", path.display());
        assert!(output.err().contains(path.to_str().expect("UTF-8")), "the path is named: {output}");
        // The bridge of all pods may be there by then.
        host.assert_empty();
    }
    assert!(!host.dir.join("nowhere").exists());
}

#[test]
fn a_sub_path_is_a_part_of_the_volume_and_never_leads_out() {
    let host = Host::new();
    let volume = host.dir.join("volume");
    fs::create_dir_all(volume.join("inner/deep")).expect("make directories");
    fs::write(volume.join("inner/deep/file"), b"deep\n").expect("write a file");
    symlink("/etc", volume.join("out")).expect("plant a link");
    symlink("../../../../../../etc", volume.join("inner/up")).expect("plant a link");
    let spec = |sub: &str| {
        json!({
            "volumes": [{"name": "v", "hostPath": {"path": volume}}],
            "containers": [mounted("main", json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": sub}]}))],
        })
    };
    let pod = host.run("sub", &manifest("sub", spec("inner/deep")));
    assert_eq!(pod.sh("main", "cat /v/file; ls /v"), "deep\nfile\n");
    pod.delete(&["--force"]);
    let pod = host.run("file", &manifest("file", spec("inner/deep/file")));
    assert_eq!(pod.sh("main", "cat /v"), "deep\n");
    pod.delete(&["--force"]);
    let pod = host.run("made", &manifest("made", spec("made/by/husk")));
    pod.sh("main", "touch /v/x");
    assert!(volume.join("made/by/husk/x").exists());
    pod.delete(&["--force"]);
    for sub in ["out", "inner/up", "out/passwd"] {
        let output = host.try_run(&manifest("escape", spec(sub)));
        if output.code == Some(0) {
            let pod = host.pod("escape");
            let waiting = pod.container("main");
            assert!(waiting["state"]["running"].is_null(), "subPath {sub} was mounted: {waiting}");
            pod.delete(&["--force"]);
        }
    }
    for sub in ["../x", "/etc", "a/../../b"] {
        assert_eq!(host.try_run(&manifest("escape", spec(sub))).code, Some(1), "subPath {sub}");
    }
}

#[test]
fn a_read_only_mount_cannot_be_written() {
    let host = Host::new();
    let spec = json!({
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory"}}],
        "containers": [
            mounted("w", json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "m", "mountPath": "/m"}]})),
            mounted("r", json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}, {"name": "m", "mountPath": "/m", "readOnly": true}]})),
        ],
    });
    let pod = host.run("ro", &manifest("ro", spec));
    pod.sh("w", "touch /v/x /m/x");
    for path in ["/v", "/m"] {
        pod.sh("r", &format!("test -e {path}/x"));
        assert_ne!(pod.try_sh("r", &format!("touch {path}/y")).code, Some(0), "{path}");
        assert_ne!(pod.try_sh("r", &format!("mount -o remount,rw {path}")).code, Some(0), "{path}");
    }
}

#[test]
fn a_mount_inside_a_volume_is_not_deleted_across() {
    let host = Host::new();
    let outside = host.dir.join("outside");
    fs::create_dir(&outside).expect("make a directory");
    fs::write(outside.join("precious"), b"").expect("write a file");
    let spec = json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [mounted("main", json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))]});
    let pod = host.run("boundary", &manifest("boundary", spec));
    pod.sh("main", "mkdir /v/point");
    let point = find_dir(&host.root, "point").expect("the volume is below the root");
    let none: Option<&str> = None;
    nix::mount::mount(Some(&outside), &point, none, nix::mount::MsFlags::MS_BIND, none)
        .expect("bind a directory into the volume");
    let output = host.husk(&["delete", "pod", "boundary", "--force"]);
    let kept = outside.join("precious").exists();
    // The directory around it may have been renamed.
    let point = find_dir(&host.root, "point").expect("the mount is where the volume was, or beside it");
    nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH).expect("take the mount away");
    assert!(kept, "deleted across the mount: {output}");
    host.husk(&["delete", "pod", "boundary", "--force"]);
    host.ok(&["gc"]);
    assert!(find_dir(&host.root, "point").is_none(), "collected once the mount is gone");
}

fn find_dir(dir: &Path, name: &str) -> Option<std::path::PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        if entry.file_name() == name {
            return Some(entry.path());
        }
        if let Some(found) = find_dir(&entry.path(), name) {
            return Some(found);
        }
    }
    None
}

#[test]
fn links_planted_in_a_volume_do_not_redirect_the_deletion() {
    let host = Host::new();
    let outside = host.dir.join("outside");
    fs::create_dir(&outside).expect("make a directory");
    fs::write(outside.join("precious"), b"").expect("write a file");
    let spec = json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [mounted("main", json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))]});
    let pod = host.run("links", &manifest("links", spec));
    pod.sh(
        "main",
        &format!(
            "ln -s {0} /v/dir; ln -s {0}/precious /v/file; ln -s / /v/slash; mkdir -p /v/a/b/c; chmod 0 /v/a",
            outside.display()
        ),
    );
    pod.delete(&["--force"]);
    assert!(outside.join("precious").exists());
}

#[test]
fn the_roots_are_closed_to_others() {
    let host = Host::new();
    let pod = host.run("closed", &manifest("closed", json!({"containers": [sleeper("main")]})));
    for dir in [&host.root, &host.state, &pod.dir] {
        let meta = fs::metadata(dir).expect("it is there");
        assert_eq!((meta.mode() & 0o077, meta.uid()), (0, 0), "{} is {:o}", dir.display(), meta.mode());
    }
}
