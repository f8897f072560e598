//! `cpu` limits and requests.

use serde_json::json;

use crate::common::{Host, Pod, manifest, wait_for};
use crate::{annotated, container, counter, dirs, v1, value};

const BURN: &str = "while :; do :; done";

/// CPU time of a container in microseconds.
fn used_us(pod: &Pod<'_>, name: &str) -> u64 {
    if v1("cpuacct") {
        let ns: u64 = value(&dirs(pod, name, "cpuacct").0, "cpuacct.usage").parse().expect("a number");
        return ns / 1000;
    }
    counter(&dirs(pod, name, "cpu").0, "cpu.stat", "usage_usec")
}

/// Periods in which the container wanted CPU time, those in which it was stopped for having had its quota, and what it has used.
fn account(pod: &Pod<'_>, name: &str) -> [u64; 3] {
    let dir = dirs(pod, name, "cpu").0;
    [counter(&dir, "cpu.stat", "nr_periods"), counter(&dir, "cpu.stat", "nr_throttled"), used_us(pod, name)]
}

#[test]
fn a_container_gets_its_quota_in_each_period_and_no_more() {
    let host = Host::new();
    let limit = |cpu: &str| json!({"limits": {"cpu": cpu}});
    let containers = json!([container("little", BURN, limit("50m")), container("more", BURN, limit("200m"))]);
    let pod = host.run("quota", &manifest("quota", json!({ "containers": containers })));
    for (name, quota_us) in [("little", 5_000), ("more", 20_000)] {
        let before = account(&pod, name);
        let after =
            wait_for("twenty throttled periods", || Some(account(&pod, name)).filter(|a| a[1] >= before[1] + 20));
        let [periods, throttled, used] = [0, 1, 2].map(|i| after[i] - before[i]);
        // The numbers are not read at one instant, and the kernel hands out slices of 5 ms for each CPU.
        assert!(used <= (periods + 3) * quota_us * 5 / 4 + 10_000, "{name}: {used} us in {periods} periods");
        assert!(used >= throttled.saturating_sub(3) * quota_us / 2, "{name}: {used} us, throttled {throttled} times");
    }
}

#[test]
fn a_pods_own_limit_holds_for_all_its_containers_together() {
    let host = Host::new();
    let containers = json!([container("a", BURN, json!({})), container("b", BURN, json!({}))]);
    let spec = json!({"resources": {"limits": {"cpu": "100m", "memory": "64Mi"}}, "containers": containers});
    let pod = host.run("whole", &manifest("whole", spec));
    assert_eq!(pod.json()["status"]["qosClass"], "Guaranteed");
    let above = dirs(&pod, "a", "cpu").1;
    let both = || {
        let [periods, throttled] = ["nr_periods", "nr_throttled"].map(|name| counter(&above, "cpu.stat", name));
        [periods, throttled, used_us(&pod, "a") + used_us(&pod, "b")]
    };
    let before = both();
    let after = wait_for("twenty throttled periods", || Some(both()).filter(|a| a[1] >= before[1] + 20));
    let [periods, _, used] = [0, 1, 2].map(|i| after[i] - before[i]);
    assert!(used <= (periods + 3) * 10_000 * 5 / 4 + 10_000, "{used} us in {periods} periods");
}

#[test]
fn two_pods_on_one_cpu_share_it_as_they_request() {
    let host = Host::alone();
    let run = |name: &'static str, cpu: &str| {
        let containers = json!([container("burn", BURN, json!({"requests": {"cpu": cpu}}))]);
        host.run(name, &annotated(name, json!({"husk.dev/cpuset-cpus": "0"}), json!({ "containers": containers })))
    };
    let (little, more) = (run("little", "100m"), run("more", "500m"));
    let weight = |pod: &Pod<'_>| {
        let file = if v1("cpu") { "cpu.shares" } else { "cpu.weight" };
        value(&dirs(pod, "burn", "cpu").1, file).parse::<f64>().expect("a number")
    };
    let wanted = weight(&more) / weight(&little);
    assert!(wanted > 2.0, "{wanted}");
    let before = [used_us(&little, "burn"), used_us(&more, "burn")];
    let after = wait_for("half a second of CPU time for the smaller", || {
        let now = [used_us(&little, "burn"), used_us(&more, "burn")];
        (now[0] >= before[0] + 500_000).then_some(now)
    });
    let got = (after[1] - before[1]) as f64 / (after[0] - before[0]) as f64;
    assert!(got > wanted * 0.6 && got < wanted * 1.6, "{got} for {wanted}");
}
