//! Where the processes of a pod sit, and what the kernel was told about their resources.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::common::outside::{alive, cgroup_parent, cgroups, children, hierarchy};
use crate::common::{Host, Pod, container, manifest, sleeper, wait_for};

/// True where `controller` has a v1 hierarchy of its own.
pub(super) fn v1(controller: &str) -> bool {
    hierarchy(controller).is_some()
}

fn value(dir: &Path, file: &str) -> String {
    let path = dir.join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

pub(super) fn memory_limit(dir: &Path) -> String {
    value(dir, if v1("memory") { "memory.limit_in_bytes" } else { "memory.max" })
}

/// Quota and period in microseconds.
pub(super) fn quota(dir: &Path) -> (String, String) {
    if v1("cpu") {
        (value(dir, "cpu.cfs_quota_us"), value(dir, "cpu.cfs_period_us"))
    } else {
        let text = value(dir, "cpu.max");
        let (quota, period) = text.split_once(' ').expect("two words");
        (quota.to_owned(), period.to_owned())
    }
}

fn shares(dir: &Path) -> String {
    value(dir, if v1("cpu") { "cpu.shares" } else { "cpu.weight" })
}

/// Directory of the container's cgroup as the kernel names it, and of the pod's above it.
pub(super) fn dirs(pod: &Pod, container: &str, controller: &str) -> (PathBuf, PathBuf) {
    let own = pod.cgroup(container, controller);
    let above = own.parent().expect("a container has a pod above it").to_owned();
    (own, above)
}

#[test]
fn limits_and_requests_reach_the_kernel() {
    let host = Host::new();
    let resources = json!({"resources": {"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}}});
    let mut main = sleeper("main");
    crate::common::merge(&mut main, resources);
    let pod = host.run("limits", &manifest("limits", json!({"containers": [main]})));
    let (own, above) = dirs(&pod, "main", "memory");
    assert_eq!(memory_limit(&own), (64 * 1024 * 1024).to_string());
    assert_eq!(
        memory_limit(&above),
        (64 * 1024 * 1024).to_string(),
        "every container has a limit, so the pod has their sum"
    );
    let (own, above) = dirs(&pod, "main", "cpu");
    assert_eq!(quota(&own), ("50000".to_owned(), "100000".to_owned()));
    assert_eq!(quota(&above), ("50000".to_owned(), "100000".to_owned()));
    if v1("cpu") {
        assert_eq!(shares(&own), "256");
        assert_eq!(shares(&above), "256");
    }
    assert_eq!(pod.json()["status"]["qosClass"], "Burstable");
}

#[test]
fn quality_of_service_gives_the_place_in_the_hierarchy() {
    let host = Host::new();
    let cases = [
        ("best", json!({}), "BestEffort", Some("besteffort")),
        ("burst", json!({"requests": {"cpu": "100m"}}), "Burstable", Some("burstable")),
        ("guaranteed", json!({"limits": {"cpu": "100m", "memory": "64Mi"}}), "Guaranteed", None),
    ];
    for (name, resources, class, middle) in cases {
        let mut main = sleeper("main");
        main["resources"] = resources;
        let pod = host.run(name, &manifest(name, json!({"containers": [main]})));
        assert_eq!(pod.json()["status"]["qosClass"], class);
        let cgroup = pod.record().cgroup;
        let parts: Vec<&str> = cgroup.split('/').collect();
        let uid = pod.json()["metadata"]["uid"].as_str().expect("a uid").to_owned();
        assert!(parts.last().is_some_and(|last| *last == format!("pod{uid}")), "{cgroup}");
        assert_eq!(
            parts.iter().find(|part| ["besteffort", "burstable", "guaranteed"].contains(part)).copied(),
            middle,
            "{cgroup}"
        );
        assert!(pod.cgroup("main", "pids").to_string_lossy().contains(&cgroup));
        if v1("cpu") && class == "BestEffort" {
            assert_eq!(shares(&dirs(&pod, "main", "cpu").1), "2");
        }
    }
}

#[test]
fn a_pod_has_a_finite_number_of_processes() {
    let host = Host::new();
    let pod = host.run("pids", &manifest("pids", json!({"containers": [sleeper("main")]})));
    let (own, above) = dirs(&pod, "main", "pids");
    let finite = [own, above]
        .iter()
        .any(|dir| fs::read_to_string(dir.join("pids.max")).is_ok_and(|text| text.trim().parse::<u64>().is_ok()));
    assert!(finite, "neither the container nor the pod has a limit");
}

#[test]
fn our_own_processes_are_outside_the_pods_limits_and_outside_the_callers_cgroup() {
    let host = Host::new();
    let pod = host.run("place", &manifest("place", json!({"containers": [sleeper("main")]})));
    let cgroup = pod.record().cgroup;
    for (who, pid) in [("keeper", pod.keeper()), ("supervisor", pod.supervisor()), ("pause", pod.pause())] {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
        for line in text.lines().filter(|line| !line.starts_with("1:name=")) {
            assert!(!line.contains(&cgroup), "{who} is inside the pod: {line}");
        }
        assert!(
            text.contains(&format!("/{}/runtime", cgroup.split('/').next().expect("a parent"))),
            "{who} sits in the runtime's own cgroup:\n{text}"
        );
    }
    for line in fs::read_to_string(format!("/proc/{}/cgroup", pod.pid("main"))).expect("it lives").lines() {
        assert!(line.contains(&cgroup), "the container is outside the pod in one hierarchy: {line}");
    }
}

#[test]
fn exec_runs_inside_the_containers_cgroup() {
    let host = Host::new();
    let pod = host.run("exec", &manifest("exec", json!({"containers": [sleeper("main")]})));
    let exec = host.job(&["exec", "exec", "--", "/bin/sleep", "5555"]).start();
    let main = pod.pid("main");
    let pid = wait_for("the exec runs", || {
        crate::common::outside::pids()
            .into_iter()
            .find(|pid| crate::common::outside::cmdline(*pid) == ["/bin/sleep", "5555"])
    });
    let lines = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
    for (one, other) in lines(main).lines().zip(lines(pid).lines()) {
        assert!(other.starts_with(one), "{one} and {other}");
    }
    pod.delete(&["--force"]);
    assert!(!alive(pid));
    assert_ne!(exec.finish().code, Some(0));
}

#[test]
fn what_a_container_leaves_in_a_shared_process_namespace_is_killed_by_its_cgroup() {
    let host = Host::new();
    let spec = json!({
        "shareProcessNamespace": true,
        "containers": [container("main", "setsid sleep 100005 & sleep 0.2; exit 6", json!({})), container("other", "exec sleep 100006", json!({}))],
    });
    let pod = host.run("members", &manifest("members", spec));
    assert_eq!(pod.terminated("main")["exitCode"], 6);
    wait_for("the orphan of the dead container is gone", || {
        let inside = pod.sh("other", "ps -o args");
        (!inside.contains("100005") && inside.contains("100006")).then_some(())
    });
    assert!(alive(pod.pid("other")));
}

#[test]
fn a_container_sees_its_cgroup_as_the_root_and_cannot_leave_it() {
    let host = Host::new();
    let pod = host.run("view", &manifest("view", json!({"containers": [sleeper("main")]})));
    let own = pod.sh("main", "cat /proc/1/cgroup");
    let v2 = own.lines().find(|line| line.starts_with("0::")).unwrap_or("0::/");
    assert!(!v2.contains("pod") || !v2.contains(".."), "{own}");
    for file in ["cgroup.procs", "tasks", "release_agent", "notify_on_release"] {
        let tried = pod.try_sh("main", &format!("for f in $(find /sys/fs/cgroup -name {file} 2>/dev/null); do echo 1 > $f && echo wrote $f; done 2>/dev/null; true"));
        assert!(!tried.out().contains("wrote"), "{tried}");
    }
}

#[test]
fn deletion_leaves_no_cgroup_of_the_pod() {
    let host = Host::new();
    let spec = json!({"containers": [container("main", "sleep 100007 & setsid sleep 100008 & wait", json!({})), sleeper("other")]});
    let pod = host.run("gone", &manifest("gone", spec));
    let pids: Vec<i32> = wait_for("the children", || Some(children(pod.pid("main"))).filter(|list| list.len() == 2));
    let cgroup = pod.record().cgroup;
    pod.delete(&["--force"]);
    assert!(pids.iter().all(|pid| !alive(*pid)));
    let left: Vec<_> = cgroups(&cgroup_parent(&host.state))
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(&cgroup))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
