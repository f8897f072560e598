//! The same fields as a CRI client gives them.

use serde_json::{Value, json};

use crate::common::outside::cgroup_of;
use crate::common::{BUSYBOX, Host, wait_for};
use crate::{v1, value};

fn call(host: &Host, method: &str, request: &Value) -> Value {
    let output = host.job(&["cri", method]).stdin(request.to_string()).finish();
    assert_eq!(output.code, Some(0), "{method} {request}: {output}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"))
}

#[test]
fn a_clients_resources_are_enforced_and_told_back() {
    let host = Host::new();
    let sandbox = json!({"config": {"metadata": {"name": "c", "namespace": "n", "uid": "u", "attempt": 0}}});
    let sandbox = call(&host, "RunPodSandbox", &sandbox)["podSandboxId"].clone();
    let mut resources = json!({
        "memoryLimitInBytes": "33554432", "memorySwapLimitInBytes": "41943040", "cpusetCpus": "0", "cpusetMems": "0",
        "hugepageLimits": [{"pageSize": "2MB", "limit": "0"}],
    });
    if !v1("memory") {
        resources["unified"] = json!({"memory.high": "16777216"});
    }
    let config = json!({
        "metadata": {"name": "main"}, "image": {"image": BUSYBOX}, "command": ["sleep", "100000"], "linux": {"resources": resources},
    });
    let id = call(&host, "CreateContainer", &json!({"podSandboxId": sandbox, "config": config}))["containerId"].clone();
    call(&host, "StartContainer", &json!({"containerId": id}));
    let status = |verbose: bool| call(&host, "ContainerStatus", &json!({"containerId": id, "verbose": verbose}));
    let told = status(false)["status"]["resources"]["linux"].clone();
    for (field, given) in resources.as_object().expect("an object") {
        assert_eq!(&told[field], given, "{field}: {told}");
    }
    let info: Value = serde_json::from_str(status(true)["info"]["info"].as_str().expect("info")).expect("JSON");
    let pid = i32::try_from(info["pid"].as_i64().expect("a pid")).expect("a pid");
    // With v1 its own first steps lead it there.
    let [memory, _] = wait_for("the container in its cgroups", || {
        let dirs = ["memory", "cpuset"].map(|controller| cgroup_of(pid, controller));
        dirs.iter().all(|dir| !dir.ends_with("runtime")).then_some(dirs)
    });
    let allowed = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    assert!(allowed.contains("Cpus_allowed_list:\t0\n"), "{allowed}");
    let swap = if v1("memory") { ("memory.memsw.limit_in_bytes", "41943040") } else { ("memory.swap.max", "8388608") };
    if memory.join(swap.0).exists() {
        assert_eq!(value(&memory, swap.0), swap.1);
    }
    if !v1("memory") {
        assert_eq!(value(&memory, "memory.high"), "16777216");
    }
    let update =
        json!({"containerId": id, "linux": {"memoryLimitInBytes": "67108864", "memorySwapLimitInBytes": "67108864"}});
    call(&host, "UpdateContainerResources", &update);
    let file = if v1("memory") { "memory.limit_in_bytes" } else { "memory.max" };
    assert_eq!(value(&memory, file), "67108864");
    let told = status(false)["status"]["resources"]["linux"].clone();
    assert_eq!((&told["memorySwapLimitInBytes"], &told["cpusetCpus"]), (&json!("67108864"), &json!("0")));
    call(&host, "RemovePodSandbox", &json!({"podSandboxId": sandbox}));
}

#[test]
fn what_the_host_cannot_do_is_refused_by_its_field() {
    let host = Host::new();
    let sandbox = json!({"config": {"metadata": {"name": "c", "namespace": "n", "uid": "u", "attempt": 0}}});
    let sandbox = call(&host, "RunPodSandbox", &sandbox)["podSandboxId"].clone();
    for (resources, field) in [
        (json!({"cpusetCpus": "4000"}), "cpusetCpus"),
        (json!({"hugepageLimits": [{"pageSize": "12MB", "limit": "12582912"}]}), "hugepageLimits"),
        (json!({"hugepageLimits": [{"pageSize": "2MB", "limit": "2097152"}]}), "hugepageLimits"),
        (json!({"unified": {"../memory.high": "1"}}), "unified"),
        (json!({"memorySwapLimitInBytes": "5"}), "memorySwapLimitInBytes"),
    ] {
        let config =
            json!({"metadata": {"name": "main"}, "image": {"image": BUSYBOX}, "linux": {"resources": resources}});
        let request = json!({"podSandboxId": sandbox, "config": config});
        let output = host.job(&["cri", "CreateContainer"]).stdin(request.to_string()).finish();
        let said = output.out() + &output.err();
        assert!(said.contains(&format!("config.linux.resources.{field}")), "{field}: {output}");
    }
    call(&host, "RemovePodSandbox", &json!({"podSandboxId": sandbox}));
}
