//! Many pods, many times, with nothing left: alone in its own program, since it takes the machine for itself.

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use serde_json::json;

use common::{Host, container, manifest, outside};

/// Inodes of the network namespaces that processes of this installation are in.
fn network_namespaces(host: &Host) -> BTreeSet<u64> {
    let ours = outside::processes(&host.dir, &outside::cgroup_parent(&host.state));
    let inode = |pid| Some(std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino());
    ours.into_iter().filter_map(inode).collect()
}

#[test]
fn fifty_pods_are_started_and_deleted_ten_times_two_at_a_time_with_nothing_left() {
    let rounds: u32 = std::env::var("HUSK_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let host = Host::new();
    for round in 0..rounds {
        let queue = Mutex::new((0..50).map(|i| format!("pod-{round}-{i}")).collect::<Vec<_>>());
        each(&queue, |name| {
            let spec = json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory"}}],
                "containers": [container("main", "trap 'exit 0' TERM; echo up > /v/up; sleep 100000 & wait", json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "m", "mountPath": "/m"}]}))]});
            let output = host.try_run(&manifest(name, spec));
            assert_eq!(output.code, Some(0), "{name}: {output}");
        });
        assert_eq!(host.pod_dirs().len(), 50, "round {round}");
        assert_eq!(host.ok(&["get", "pods", "-o", "name"]).out().lines().count(), 50);
        let queue = Mutex::new((0..50).map(|i| format!("pod-{round}-{i}")).collect::<Vec<_>>());
        each(&queue, |name| {
            let output = host.husk(&["delete", "pod", name]);
            assert_eq!(output.code, Some(0), "{name}: {output}");
        });
        host.assert_empty();
        let extra = network_namespaces(&host);
        assert!(extra.is_empty(), "network namespaces left after round {round}: {extra:?}");
    }
}

/// Takes names off the queue with two threads.
fn each(queue: &Mutex<Vec<String>>, work: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(name) = queue.lock().expect("no thread panics with the lock").pop() else { return };
                    work(&name);
                }
            });
        }
    });
}
