//! Want of memory: who dies, who lives, and what the records say of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::outside::{alive, hierarchy};
use crate::common::{Host, Pod, container, manifest, sleeper, wait_for};

/// Reads so much into one process's memory that no limit of these tests has room for it.
const HOG: &str = "tail -c 300000000 /dev/zero";

fn limited(memory: &str) -> Value {
    json!({"resources": {"limits": {"memory": memory}}})
}

/// A manifest whose container `c` loses one process at a time.
pub(super) fn single(name: &str, spec: Value) -> String {
    let mut pod: Value = serde_json::from_str(&manifest(name, spec)).expect("a manifest is JSON");
    pod["metadata"]["annotations"] = json!({"husk.dev/oom-single-process": "c"});
    pod.to_string()
}

/// A directory with a fifo, from which a container reads when it may go on.
fn fifo(host: &Host) -> PathBuf {
    let sync = host.dir.join("sync");
    std::fs::create_dir(&sync).expect("make a directory");
    nix::unistd::mkfifo(&sync.join("go"), nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("make a fifo");
    sync
}

fn sync_volume(sync: &Path) -> Value {
    json!([{"name": "sync", "hostPath": {"path": sync}}])
}

/// Container `c` with the fifo as `/sync/go`.
fn waiting(script: &str, memory: &str) -> Value {
    let mut c = container("c", script, limited(memory));
    c["volumeMounts"] = json!([{"name": "sync", "mountPath": "/sync"}]);
    c
}

fn describe(host: &Host, pod: &str) -> String {
    host.ok(&["describe", "pod", pod]).out()
}

/// The number behind `OOM Kills:` in `husk describe`.
fn described_kills(host: &Host, pod: &str) -> Option<u64> {
    let text = describe(host, pod);
    let line = text.lines().find(|line| line.trim_start().starts_with("OOM Kills:"))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn supervisor_log(pod: &Pod<'_>) -> String {
    std::fs::read_to_string(pod.dir.join("supervisor.log")).expect("read supervisor.log")
}

#[test]
fn a_container_over_its_limit_ends_alone() {
    let host = Host::new();
    let spec = json!({"containers": [container("c", &format!("exec {HOG}"), limited("24Mi")), container("other", "exec sleep 100000", limited("16Mi"))]});
    let pod = host.run("over", &manifest("over", spec));
    let end = pod.terminated("c");
    assert_eq!((&end["exitCode"], &end["reason"]), (&json!(137), &json!("OOMKilled")), "{end}");
    assert!(end["message"].is_null(), "{end}");
    for (who, pid) in [
        ("the sibling", pod.pid("other")),
        ("pause", pod.pause()),
        ("keeper", pod.keeper()),
        ("the supervisor", pod.supervisor()),
    ] {
        assert!(alive(pid), "{who} died");
    }
    assert_eq!(described_kills(&host, "over"), Some(1));
    let events = host.ok(&["events", "over"]).out();
    assert!(events.contains("OOMKilling"), "{events}");
}

/// On v2 the kernel ends a container as a whole; v1 kernels know nothing of the kind.
#[test]
fn the_whole_container_dies_where_the_kernel_can_do_that() {
    let host = Host::new();
    let script = format!("sleep 100009 & {HOG}; echo code $?; sleep 100010");
    let pod = host.run("group", &manifest("group", json!({"containers": [container("c", &script, limited("24Mi"))]})));
    if hierarchy("memory").is_none() {
        let end = pod.terminated("c");
        assert_eq!((&end["exitCode"], &end["reason"]), (&json!(137), &json!("OOMKilled")), "{end}");
    } else {
        pod.wait_log("c", "code 137");
        assert!(alive(pod.pid("c")));
    }
}

#[test]
fn a_child_that_is_killed_is_counted_while_its_container_lives() {
    let host = Host::new();
    let script = format!("{HOG}; echo first $?; read x < /sync/go; {HOG}; echo second $?; exec sleep 100000");
    let sync = fifo(&host);
    let spec = json!({"volumes": sync_volume(&sync), "containers": [waiting(&script, "24Mi")]});
    let pod = host.run("child", &single("child", spec));
    pod.wait_log("c", "first 137");
    let main = pod.pid("c");
    let counted = |n| {
        let what = format!("{n} in status.json");
        wait_for(&what, || (pod.status().containers[0].oom_kills == n).then_some(()));
    };
    counted(1);
    assert_eq!(described_kills(&host, "child"), Some(1));
    assert_eq!(pod.container("c")["restartCount"], 0);
    assert!(supervisor_log(&pod).contains("container c: 1 process of the container was killed for want of memory"));

    // One that is killed while nobody watches is counted by the next supervisor.
    let first = pod.supervisor();
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("kill the supervisor");
    std::fs::write(sync.join("go"), b"go\n").expect("let it go on");
    pod.wait_log("c", "second 137");
    counted(2);
    assert_eq!(pod.pid("c"), main, "the container was not touched");
    assert_eq!(described_kills(&host, "child"), Some(2));

    // SIGKILL from somebody else is no want of memory, whatever happened before.
    kill(Pid::from_raw(main), Signal::SIGKILL).expect("kill the container");
    let end = pod.terminated("c");
    assert_eq!((&end["exitCode"], &end["reason"]), (&json!(137), &json!("Error")), "{end}");
    assert_eq!(end["message"], "2 processes of the container were killed for want of memory");
}

#[test]
fn a_container_that_fails_because_its_child_was_killed_says_so() {
    let host = Host::new();
    for (name, code, reason) in [("failed", 7, "Error"), ("endured", 0, "Completed")] {
        let script = format!("{HOG}; exit {code}");
        let pod = host.run(name, &single(name, json!({"containers": [container("c", &script, limited("24Mi"))]})));
        let end = pod.terminated("c");
        assert_eq!((&end["exitCode"], &end["reason"]), (&json!(code), &json!(reason)), "{end}");
        assert_eq!(end["message"], "1 process of the container was killed for want of memory", "{end}");
        assert!(describe(&host, name).contains("1 process of the container was killed for want of memory"));
        assert_eq!(described_kills(&host, name), Some(1));
    }
}

#[test]
fn the_pods_limit_takes_whoever_is_over_and_none_of_ours() {
    let host = Host::new();
    let sync = fifo(&host);
    let c = waiting(&format!("read x < /sync/go; exec {HOG}"), "40Mi");
    let small = container("small", "exec sleep 100000", limited("16Mi"));
    let spec = json!({"volumes": sync_volume(&sync), "containers": [small, c]});
    let pod = host.run("above", &manifest("above", spec));
    // As if the pod had a limit of its own: below that of its containers.
    let own = pod.cgroup("c", "memory");
    let above = own.parent().expect("the pod's cgroup");
    let (v1, limit) = (hierarchy("memory").is_some(), (24 << 20).to_string());
    let file = above.join(if v1 { "memory.limit_in_bytes" } else { "memory.max" });
    std::fs::write(&file, &limit).unwrap_or_else(|e| panic!("write {limit} to {}: {e}", file.display()));
    if !v1 {
        let group = std::fs::read_to_string(above.join("memory.oom.group")).expect("read memory.oom.group");
        assert_eq!(group.trim(), "0", "the pod as a whole is not one victim");
    }
    let ours = [pod.pause(), pod.keeper(), pod.supervisor()];
    let small = pod.pid("small");
    std::fs::write(sync.join("go"), b"go\n").expect("let it go on");
    let end = pod.terminated("c");
    assert_eq!((&end["exitCode"], &end["reason"]), (&json!(137), &json!("OOMKilled")), "{end}");
    for pid in ours.into_iter().chain([small]) {
        assert!(alive(pid), "process {pid} died");
    }
    assert_eq!(pod.container("small")["restartCount"], 0);
    assert_eq!(pod.status().containers[0].oom_kills, 0, "the sibling has lost nobody");
}

#[test]
fn a_supervisor_sleeps_while_nothing_happens() {
    let host = Host::punctual();
    let spec = json!({"containers": [container("c", "exec sleep 100000", limited("24Mi"))]});
    let pod = host.run("idle", &single("idle", spec));
    let supervisor = pod.supervisor();
    let switches = || {
        let text = std::fs::read_to_string(format!("/proc/{supervisor}/status")).expect("read its status");
        let field = |name| text.lines().find_map(|l| l.strip_prefix(name)).expect("a field").trim().parse::<u64>();
        field("voluntary_ctxt_switches:").expect("a number")
    };
    std::thread::sleep(crate::common::scaled(Duration::from_secs(1)));
    let before = switches();
    // Not longer on a slow machine: what would wake it goes by the clock.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(switches(), before, "woken for nothing");
}

#[test]
fn an_annotation_that_names_nobody_is_refused() {
    let host = Host::new();
    for (key, value, says) in [
        ("husk.dev/oom-single-process", "nobody", "\"nobody\" is no container of the pod"),
        ("husk.dev/oom-single-process", "", "\"\" is no container of the pod"),
        ("husk.dev/oom-single", "c", "unknown; husk.dev has "),
    ] {
        let mut pod: Value =
            serde_json::from_str(&manifest("bad", json!({"containers": [sleeper("c")]}))).expect("JSON");
        pod["metadata"]["annotations"] = json!({key: value});
        let output = host.try_run(&pod.to_string());
        assert_eq!(output.code, Some(1), "{output}");
        assert!(output.err().contains(says) && output.err().contains(key), "{output}");
    }
    host.assert_untouched();
}
