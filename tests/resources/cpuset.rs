//! CPUs and memory nodes.

use serde_json::json;

use crate::common::Host;
use crate::{annotated, container, dirs, v1, value};

const SHOW: &str = "grep -E 'Cpus_allowed_list|Mems_allowed_list' /proc/self/status; echo cpus $(nproc); sleep 100000";

/// Number of CPUs of this host.
fn cpus() -> usize {
    std::thread::available_parallelism().expect("the host has CPUs").get()
}

#[test]
fn a_container_runs_where_it_may() {
    let host = Host::new();
    let last = cpus() - 1;
    let containers = json!([container("one", SHOW, json!({})), container("all", SHOW, json!({}))]);
    let annotations = json!({"husk.dev/cpuset-cpus.one": last.to_string(), "husk.dev/cpuset-mems.one": "0"});
    let pod = host.run("set", &annotated("set", annotations, json!({ "containers": containers })));
    let one = pod.wait_log("one", "cpus");
    assert!(one.contains(&format!("Cpus_allowed_list:\t{last}\n")) && one.contains("cpus 1\n"), "{one}");
    assert!(one.contains("Mems_allowed_list:\t0\n"), "{one}");
    assert!(pod.wait_log("all", "cpus").contains(&format!("cpus {}\n", cpus())));
    assert_eq!(pod.sh("one", "nproc").trim(), "1", "exec is in there, too");
    let file = if v1("cpuset") { "cpuset.cpus" } else { "cpuset.cpus.effective" };
    assert_eq!(value(&dirs(&pod, "one", "cpuset").0, file), last.to_string());
}

#[test]
fn what_the_pod_may_its_containers_may() {
    let host = Host::new();
    let containers = json!([container("main", SHOW, json!({}))]);
    let annotations = json!({"husk.dev/cpuset-cpus": "0"});
    let pod = host.run("whole", &annotated("whole", annotations, json!({ "containers": containers })));
    assert!(pod.wait_log("main", "cpus").contains("cpus 1\n"));
}
