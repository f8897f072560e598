//! Records that cannot be read: shown as `Unknown` with the reason, collected by who asks for it, never taken for something else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use husk::state::record::VERSION;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::outside::alive;
use crate::common::{Host, Pod, container, manifest, sleeper, wait_for};

fn sigkill(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap_or_else(|errno| panic!("kill {pid}: {errno}"));
}

/// A name for each way in which a record can be spoilt, and the way.
type Spoil = (&'static str, fn(&Path));

fn remove(path: &Path) {
    fs::remove_file(path).expect("remove a record");
}

const GARBAGE: [Spoil; 8] = [
    ("noise", |path| fs::write(path, [0xff, 0, 0x80, b'{']).expect("write")),
    ("empty", |path| fs::write(path, b"").expect("write")),
    ("zeros", |path| fs::write(path, [0; 4096]).expect("write")),
    ("torn", |path| {
        let all = fs::read(path).expect("read");
        fs::write(path, &all[..all.len() / 2]).expect("write");
    }),
    ("another", |path| fs::write(path, format!("{{\"version\":{VERSION},\"apiVersion\":\"v1\"}}")).expect("write")),
    ("directory", |path| {
        remove(path);
        fs::create_dir(path).expect("make a directory");
    }),
    ("link", |path| {
        remove(path);
        symlink("/etc/passwd", path).expect("make a link");
    }),
    ("socket", |path| {
        remove(path);
        drop(std::os::unix::net::UnixListener::bind(path).expect("make a socket"));
    }),
];

/// `husk get pods` must show it as Unknown, in the table, as JSON, and in the description.
#[track_caller]
fn is_unknown(host: &Host, name: &str, uid: &str, why: &str) {
    let table = host.husk(&["get", "pods", "-o", "wide"]);
    let row = table.out().lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_default().to_owned();
    assert!(table.code == Some(1) && row.contains("Unknown") && row.contains(uid) && row.contains(why), "{table}");
    assert!(table.err().contains(uid) && table.err().contains("husk delete"), "{table}");
    let one = host.husk(&["get", "pod", name, "-o", "json"]);
    let pod: Value = serde_json::from_slice(&one.stdout).unwrap_or_else(|e| panic!("{e}: {one}"));
    assert_eq!((&pod["status"]["phase"], &pod["metadata"]["uid"]), (&json!("Unknown"), &json!(uid)), "{one}");
    let page = host.husk(&["describe", "pod", name]).out();
    assert!(page.contains("Unknown") && page.contains(why), "{page}");
    for args in [&["logs", name][..], &["exec", name, "--", "true"], &["wait", name, "--for=condition=Ready"]] {
        let said = host.husk(args);
        assert!(said.code != Some(0) && said.err().contains(why), "{args:?}: {said}");
    }
}

fn dead(host: &Host) -> Pod<'_> {
    let pod = host.run("spoilt", &manifest("spoilt", json!({"containers": [sleeper("main")]})));
    let (keeper, main) = (pod.keeper(), pod.pid("main"));
    sigkill(keeper);
    wait_for("the pod is dead", || (!alive(keeper) && !alive(main)).then_some(()));
    pod
}

fn uid(pod: &Pod<'_>) -> String {
    pod.dir.file_name().and_then(|name| name.to_str()).expect("a uid").to_owned()
}

#[test]
fn a_dead_pod_with_a_spoilt_record_is_unknown_and_goes_by_gc_by_name_by_uid_and_by_the_next_run() {
    let host = Host::new();
    host.run("good", &manifest("good", json!({"containers": [sleeper("main")]})));
    for file in ["pod.json", "status.json"] {
        for (number, (what, spoil)) in GARBAGE.iter().enumerate() {
            let pod = dead(&host);
            let uid = uid(&pod);
            spoil(&pod.dir.join(file));
            is_unknown(&host, "spoilt", &uid, file);
            assert_eq!(host.pod("good").phase(), "Running", "{what} {file} hides another");
            match number % 4 {
                0 => assert!(host.ok(&["gc"]).out().contains("spoilt"), "{what} {file}"),
                1 => drop(host.ok(&["delete", "pod", "spoilt"])),
                2 => drop(host.ok(&["delete", "pod", &uid])),
                _ => {
                    host.run("spoilt", &manifest("spoilt", json!({"containers": [sleeper("main")]})));
                    host.ok(&["delete", "pod", "spoilt", "--force"]);
                }
            }
            assert_eq!(host.pod_dirs().len(), 1, "{what} {file}: {:?}", host.pod_dirs());
        }
    }
    host.ok(&["delete", "pod", "good", "--force"]);
    host.assert_empty();
}

#[test]
fn a_live_pod_with_a_spoilt_record_is_unknown_is_not_collected_and_can_be_deleted() {
    let host = Host::new();
    for file in ["pod.json", "status.json"] {
        for (number, (what, spoil)) in GARBAGE.iter().enumerate() {
            let pod = host.run("spoilt", &manifest("spoilt", json!({"containers": [sleeper("main")]})));
            let (main, uid) = (pod.pid("main"), uid(&pod));
            spoil(&pod.dir.join(file));
            is_unknown(&host, "spoilt", &uid, file);
            host.husk(&["gc"]);
            let again = host.try_run(&manifest("spoilt", json!({"containers": [sleeper("main")]})));
            assert!(again.code == Some(1) && again.err().contains(&uid), "{again}");
            assert!(alive(main) && pod.dir.exists(), "{what} {file}: a pod that lives was collected");
            let name = if number % 2 == 0 { "spoilt" } else { uid.as_str() };
            let flags: &[&str] =
                if number % 3 == 0 { &["delete", "pod", name, "--force"] } else { &["delete", "pod", name] };
            host.ok(flags);
            assert!(!alive(main) && !pod.dir.exists(), "{what} {file}");
        }
    }
    host.assert_empty();
}

#[test]
fn records_that_were_taken_away_from_a_live_pod_make_it_unknown_too() {
    let host = Host::new();
    for file in ["pod.json", "status.json"] {
        let pod = host.run("robbed", &manifest("robbed", json!({"containers": [sleeper("main")]})));
        let (main, uid) = (pod.pid("main"), uid(&pod));
        remove(&pod.dir.join(file));
        is_unknown(&host, "robbed", &uid, "missing");
        host.husk(&["gc"]);
        assert!(alive(main));
        host.ok(&["delete", "pod", "robbed"]);
        assert!(!alive(main));
    }
    host.assert_empty();
}

#[test]
fn what_is_no_pod_directory_is_shown_and_collected() {
    let host = Host::new();
    let good = host.run("good", &manifest("good", json!({"containers": [sleeper("main")]})));
    let pods = host.state.join("pods");
    fs::write(pods.join("file"), b"x").expect("write");
    symlink("/etc", pods.join("link")).expect("make a link");
    nix::unistd::mkfifo(&pods.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("make a pipe");
    symlink("nowhere", host.state.join("names/default_ghost")).expect("make a link");
    symlink("../../..", host.state.join("names/default_climber")).expect("make a link");
    for name in ["file", "link", "pipe"] {
        is_unknown(&host, name, name, "no directory");
    }
    for name in ["ghost", "climber"] {
        assert!(host.refused(&["get", "pod", name]).contains("not found"));
    }
    host.ok(&["delete", "pod", "link"]);
    let said = host.ok(&["gc"]).out();
    assert!(said.contains("file") && said.contains("pipe"), "{said}");
    assert!(fs::symlink_metadata(pods.join("link")).is_err() && Path::new("/etc/passwd").exists());
    assert!(fs::symlink_metadata(host.state.join("names/default_ghost")).is_err());
    fs::remove_file(host.state.join("names/default_climber")).expect("it points to something that is there");
    assert!(alive(good.pid("main")));
    good.delete(&["--force"]);
    host.assert_empty();
}

#[test]
fn a_record_of_another_husk_is_left_alone_unless_it_is_deleted_by_force() {
    let host = Host::new();
    let pod = host.run("newer", &manifest("newer", json!({"containers": [container("main", "echo kept", json!({}))]})));
    wait_for("keeper to go", || {
        husk::state::Lock::attempt(&pod.dir, husk::state::LockMode::Shared).expect("the pod is there")
    });
    host.ok(&["wait", "pod", "newer", "--for=phase=Succeeded"]);
    let (uid, path) = (uid(&pod), pod.dir.join("status.json"));
    let (ours, newer) = (format!("\"version\":{VERSION}"), VERSION + 1);
    let text =
        fs::read_to_string(&path).expect("read").replacen(&ours, &format!("\"version\":{newer},\"new\":true"), 1);
    let version = &format!("version {newer}");
    fs::write(&path, &text).expect("write");
    is_unknown(&host, "newer", &uid, version);
    let said = host.refused(&["gc"]);
    assert!(said.contains(version) && said.contains("left as it is"), "{said}");
    let said = host.refused(&["delete", "pod", "newer"]);
    assert!(said.contains(version) && said.contains("--force"), "{said}");
    let again = host.try_run(&manifest("newer", json!({"containers": [sleeper("main")]})));
    assert!(again.code == Some(1) && again.err().contains(version), "{again}");
    assert_eq!(fs::read_to_string(&path).expect("read"), text);
    assert!(host.root.join(format!("logs/default_newer_{uid}/main/0.log")).exists());
    host.ok(&["delete", "pod", "newer", "--force"]);
    host.assert_empty();
}
