//! `memory` limits, swap, and what v2 has besides.

use std::fs;

use serde_json::json;

use crate::common::skip::skip;
use crate::common::{Host, manifest, sleeper, wait_for};
use crate::{annotated, container, counter, dirs, v1, value};

const MIB: u64 = 1 << 20;

#[test]
fn who_takes_more_than_its_limit_is_killed_and_its_sibling_lives() {
    let host = Host::new();
    // One buffer of 128 MiB, written from end to end.
    let eater =
        container("eater", "exec dd if=/dev/zero of=/dev/null bs=128M count=1", json!({"limits": {"memory": "32Mi"}}));
    let pod = host.run("eater", &manifest("eater", json!({"containers": [eater, sleeper("calm")]})));
    let end = pod.terminated("eater");
    assert_eq!((&end["reason"], &end["exitCode"]), (&json!("OOMKilled"), &json!(137)), "{end}");
    assert_eq!(pod.sh("calm", "echo here").trim(), "here");
}

#[test]
fn a_pods_own_limit_counts_what_its_containers_take_together() {
    let host = Host::new();
    // Each alone has room. The pod's /dev/shm is charged to whoever writes there first.
    let take =
        |name: &str| format!("dd if=/dev/zero of=/dev/shm/{name} bs=1M count=30 && echo held && sleep 100000; exit 3");
    let waits = format!("while [ ! -e /dev/shm/go ]; do sleep 0.1; done; {}", take("second"));
    let containers = json!([container("first", &take("first"), json!({})), container("second", &waits, json!({}))]);
    let spec = json!({"resources": {"limits": {"memory": "48Mi"}}, "containers": containers});
    let pod = host.run("whole", &manifest("whole", spec));
    let (own, above) = dirs(&pod, "first", "memory");
    let file = if v1("memory") { "memory.limit_in_bytes" } else { "memory.max" };
    assert_eq!((value(&own, file), value(&above, file)), ((48 * MIB).to_string(), (48 * MIB).to_string()));
    pod.wait_log("first", "held");
    fs::File::create(format!("/proc/{}/root/dev/shm/go", pod.pid("second"))).expect("tell the second");
    assert_ne!(pod.terminated("second")["exitCode"], 0);
    assert!(!pod.logs("second", &[]).contains("held"));
}

#[test]
fn a_limit_of_memory_is_one_of_swap() {
    let host = Host::new();
    let of = |name: &str| container(name, "sleep 100000", json!({"limits": {"memory": "32Mi"}}));
    let annotations = json!({"husk.dev/swap.some": "8Mi"});
    let spec = json!({"containers": [of("none"), of("some"), sleeper("free")]});
    let counted = if v1("memory") { "memory.memsw.limit_in_bytes" } else { "memory.swap.max" };
    let probe = host.run("probe", &manifest("probe", json!({"containers": [of("none")]})));
    if !dirs(&probe, "none", "memory").0.join(counted).exists() {
        skip!("the kernel counts no swap");
    }
    let pod = host.run("swap", &annotated("swap", annotations, spec));
    let memory = if v1("memory") { 32 * MIB } else { 0 };
    assert_eq!(value(&dirs(&pod, "none", "memory").0, counted), memory.to_string());
    assert_eq!(value(&dirs(&pod, "some", "memory").0, counted), (memory + 8 * MIB).to_string());
    if !v1("memory") {
        assert_eq!(value(&dirs(&pod, "free", "memory").0, counted), "0", "who has no limit does not swap either");
    }
    if fs::read_to_string("/proc/swaps").expect("read /proc/swaps").lines().count() < 2 {
        skip!("the host has no swap: only what the kernel was told could be seen");
    }
    let eater =
        container("eater", "exec dd if=/dev/zero of=/dev/null bs=128M count=1", json!({"limits": {"memory": "32Mi"}}));
    let pod = host.run("eater", &manifest("eater", json!({"containers": [eater]})));
    assert_eq!(pod.terminated("eater")["reason"], "OOMKilled", "swap would have had room");
}

#[test]
fn memory_high_slows_down_and_min_is_protected_all_the_way() {
    if v1("memory") {
        skip!("cgroup v1 has neither memory.high nor memory.min");
    }
    let host = Host::new();
    // Page cache beyond the mark is taken back, over and over.
    let writes = "while :; do dd if=/dev/zero of=/tmp/x bs=1M count=64 2> /dev/null; cat /tmp/x > /dev/null; done";
    let containers = json!([container("writes", writes, json!({"requests": {"memory": "8Mi"}})), sleeper("calm")]);
    let annotations = json!({"husk.dev/memory-high.writes": "16Mi", "husk.dev/memory-min.calm": "4Mi"});
    let pod = host.run("high", &annotated("high", annotations, json!({ "containers": containers })));
    let (writes, above) = dirs(&pod, "writes", "memory");
    wait_for("the kernel slows it down", || (counter(&writes, "memory.events", "high") > 0).then_some(()));
    assert_eq!(value(&writes, "memory.high"), (16 * MIB).to_string());
    let calm = dirs(&pod, "calm", "memory").0;
    assert_eq!(value(&calm, "memory.min"), (4 * MIB).to_string());
    wait_for("all above protect as much", || {
        let all = above.ancestors().take(4).all(|dir| value(dir, "memory.min") == (4 * MIB).to_string());
        all.then_some(())
    });
}

#[test]
fn memory_qos_follows_request_and_limit() {
    if v1("memory") {
        skip!("cgroup v1 has neither memory.high nor memory.min");
    }
    let host = Host::new();
    let resources = json!({"requests": {"memory": "16Mi"}, "limits": {"memory": "36Mi"}});
    let spec = json!({"containers": [container("main", "sleep 100000", resources)]});
    let pod = host.run("qos", &annotated("qos", json!({"husk.dev/memory-qos": "true"}), spec));
    let (own, above) = dirs(&pod, "main", "memory");
    assert_eq!(value(&own, "memory.min"), (16 * MIB).to_string());
    assert_eq!(value(&own, "memory.high"), (34 * MIB).to_string());
    assert_eq!(value(&above, "memory.min"), (16 * MIB).to_string());
    // A request that is the limit is slowed down nowhere, and all above protect as much at once.
    host.ok(&["update", "qos", "--memory-request", "36Mi"]);
    assert_eq!((value(&own, "memory.high").as_str(), value(&own, "memory.min")), ("max", (36 * MIB).to_string()));
    assert!(above.ancestors().take(4).all(|dir| value(dir, "memory.min") == (36 * MIB).to_string()));
}
