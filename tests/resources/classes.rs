//! The cgroups above pods weigh what the pods in them request.

use std::path::Path;

use serde_json::json;

use husk::cgroup::limits::weight_from_shares;

use crate::common::{Host, manifest, wait_for};
use crate::{container, dirs, v1, value};

/// Waits until the class's cgroup weighs so many shares: on v2 as a weight, where a sum of weights is not exact.
fn wait_shares(class: &Path, shares: u64) {
    let file = if v1("cpu") { "cpu.shares" } else { "cpu.weight" };
    let (low, high) =
        if v1("cpu") { (shares, shares) } else { (weight_from_shares(shares), weight_from_shares(shares * 21 / 20)) };
    wait_for(&format!("{shares} shares in {}, now {}", class.display(), value(class, file)), || {
        let now: u64 = value(class, file).parse().expect("a number");
        (low..=high).contains(&now).then_some(())
    });
}

#[test]
fn classes_follow_the_pods_that_come_and_go() {
    let host = Host::new();
    let run = |name: &'static str, cpu: &str| {
        let main = container("main", "sleep 100000", json!({"requests": {"cpu": cpu}}));
        host.run(name, &manifest(name, json!({"containers": [main]})))
    };
    let first = run("first", "500m");
    let class = dirs(&first, "main", "cpu").1.parent().expect("a class").to_owned();
    assert!(class.ends_with("burstable"), "{}", class.display());
    wait_shares(&class, 512);
    let second = run("second", "1");
    wait_shares(&class, 1536);
    let best =
        host.run("best", &manifest("best", json!({"containers": [container("main", "sleep 100000", json!({}))]})));
    let besteffort = dirs(&best, "main", "cpu").1.parent().expect("a class").to_owned();
    wait_shares(&besteffort, 2);
    host.ok(&["update", "second", "--cpu-request", "250m"]);
    wait_shares(&class, 768);
    second.delete(&["--force"]);
    wait_shares(&class, 512);
    // Whatever was written there by somebody else: gc puts it right.
    let file = if v1("cpu") { "cpu.shares" } else { "cpu.weight" };
    std::fs::write(class.join(file), "77").expect("write");
    host.ok(&["gc"]);
    wait_shares(&class, 512);
}
