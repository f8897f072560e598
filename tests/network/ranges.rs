//! Ranges, addresses and leases; what is not possible.

use serde_json::json;

use super::common::netns::{sh, tables};
use super::common::{Host, container, manifest};
use super::world::{HOST, addresses, ask, greeter, world};

fn sleeper(name: &str) -> String {
    manifest(name, json!({"containers": [container("c", "exec sleep 1000", json!({}))]}))
}

/// Runs a pod with this configuration.
fn with(host: &Host, config: &str, name: &str) -> super::common::run::Output {
    let path = host.file("config.yaml", config);
    host.job(&["--config", &path, "run", "-"]).stdin(sleeper(name)).finish()
}

fn leases(host: &Host) -> usize {
    std::fs::read_dir(host.root.join("network/leases")).map_or(0, Iterator::count)
}

#[test]
fn ranges_of_the_configuration_are_used_until_they_are_exhausted() {
    let (host, _outside) = world();
    let config = "network:\n  bridge: pods0\n  ipv4: 10.99.0.0/29\n  ipv6: fd99::/64\n  mtu: 1400\n";
    for i in 0..5 {
        let output = with(&host, config, &format!("p{i}"));
        assert_eq!(output.code, Some(0), "{output}");
        let [ipv4, ipv6] = addresses(&host.pod(&format!("p{i}")));
        assert!(ipv4.starts_with("10.99.0.") && ipv6.starts_with("fd99::"), "{ipv4} {ipv6}");
    }
    assert_eq!(host.pod("p0").sh("c", "cat /sys/class/net/eth0/mtu").trim(), "1400");
    let output = with(&host, config, "one-more");
    assert!(output.code == Some(1) && output.err().contains("no address is left: all 5"), "{output}");
    assert_eq!(leases(&host), 5, "what failed has none");
    let output = with(&host, "network: {ipv4: 10.98.0.0/24}", "another");
    assert!(output.code == Some(1) && output.err().contains("delete these pods first"), "{output}");
    host.pod("p3").delete(&["--force"]);
    assert_eq!(leases(&host), 4);
    assert_eq!(with(&host, config, "one-more").code, Some(0));
}

#[test]
fn a_range_that_is_the_hosts_is_refused() {
    let (host, _outside) = world();
    for (config, word) in [
        ("network: {ipv4: 192.0.2.0/25}", "network.ipv4: 192.0.2.0/25 overlaps 192.0.2.0/24"),
        ("network: {ipv6: '2001:db8::/32'}", "network.ipv6: 2001:db8::/32 overlaps 2001:db8::/64"),
        ("network: {bridge: up0}", "interface up0 is there and is no bridge"),
        ("network: {mode: red}", "red"),
    ] {
        let output = with(&host, config, "one");
        assert!(output.code == Some(1) && output.err().contains(word), "{config}: {output}");
        assert_eq!(leases(&host), 0);
    }
    assert_eq!(host.pod_dirs(), Vec::<std::path::PathBuf>::new());
    assert_eq!(with(&host, "network: {ipv4: none}", "one").code, Some(0));
    assert_eq!(host.pod("one").json()["status"]["podIPs"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_client_is_told_whether_pods_can_have_the_network() {
    let (host, _outside) = world();
    let ready = |config: &str| {
        let path = host.file("config.yaml", config);
        let output = host.job(&["--config", &path, "cri", "Status"]).stdin("{}").finish();
        let answer: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"));
        let all = answer["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|c| c["type"] == "NetworkReady").expect("a condition")
    };
    let condition = ready("network: {mode: bridge}");
    assert_eq!(condition["status"], true, "{condition}");
    assert_eq!(tables().len(), 0, "it is tried out elsewhere");
    assert!(!host.root.join("network/instance.json").exists(), "nothing is chosen yet");
    for (config, word) in [
        ("network: {ipv4: 192.0.2.0/25}", "network.ipv4: 192.0.2.0/25 overlaps 192.0.2.0/24"),
        // The kernel refuses it.
        ("network: {bridge: lo}", "interface lo is there and is no bridge"),
    ] {
        let condition = ready(config);
        assert_eq!((&condition["status"], &condition["reason"]), (&json!(false), &json!("BridgeNotReady")), "{config}");
        assert!(condition["message"].to_string().contains(word), "{config}: {condition}");
    }
}

#[test]
fn a_pod_that_is_run_again_has_its_address_again() {
    let (host, _outside) = world();
    let mut pod: serde_json::Value = serde_json::from_str(&sleeper("one")).expect("JSON");
    pod["metadata"]["uid"] = json!("00000000-0000-4000-8000-000000000001");
    let first = addresses(&host.run("one", &pod.to_string()));
    host.pod("one").delete(&["--force"]);
    host.run("two", &sleeper("two"));
    assert_eq!(addresses(&host.run("one", &pod.to_string())), first);
}

#[test]
fn a_finished_pod_gives_its_address_back() {
    let (host, _outside) = world();
    let pod = host.run("one", &manifest("one", json!({"containers": [container("c", "exit 0", json!({}))]})));
    pod.wait_phase("Succeeded");
    super::common::wait_for("its lease to be gone", || (leases(&host) == 0).then_some(()));
}

#[test]
fn what_a_firewall_takes_away_is_found_and_mended() {
    let (host, _outside) = world();
    host.run("one", &greeter("one", json!({"hostPort": 8080})));
    let reachable = || assert!(ask(&format!("{HOST}:8080")).starts_with("hello one"));
    reachable();
    host.ok(&["network", "check"]);
    let bridge = host.pod("one").record().sandbox.network.place.expect("a place").bridge;
    let link = host.pod("one").record().sandbox.network.place.expect("a place").host_interface;
    for (damage, word) in [
        ("nft flush ruleset".to_owned(), "table inet"),
        (format!("nft delete table inet {bridge}"), "is missing"),
        (format!("nft flush chain inet {bridge} postrouting"), "chain postrouting"),
        (format!("nft flush map inet {bridge} ports4"), "port 8080/tcp in map ports4 does not lead to pod"),
        (format!("ip link set {link} nomaster"), "is not in bridge"),
        (format!("ip link del {link}"), "its link"),
        (format!("ip link del {bridge}"), "bridge"),
        (format!("ip addr flush dev {bridge}"), "lacks its address"),
        ("echo 0 >/proc/sys/net/ipv4/ip_forward".to_owned(), "net/ipv4/ip_forward is off"),
    ] {
        sh(&damage);
        let output = host.husk(&["network", "check"]);
        assert!(output.code == Some(1) && output.out().contains(word), "{damage}: {output}");
        let output = host.ok(&["network", "check", "--repair"]);
        assert!(output.out().ends_with("repaired\n"), "{damage}: {output}");
        host.ok(&["network", "check"]);
        reachable();
    }
    // The next pod mends it, too.
    sh("nft flush ruleset");
    host.run("two", &sleeper("two"));
    host.ok(&["network", "check"]);
    reachable();
}

#[test]
fn two_instances_on_one_host_do_not_meet() {
    let (host, _outside) = world();
    let one = host.run("one", &greeter("one", json!({})));
    let other = Host::beside(&host);
    let two = other.run("one", &greeter("one", json!({})));
    let (a, b) =
        (one.record().sandbox.network.place.expect("a place"), two.record().sandbox.network.place.expect("a place"));
    assert!(a.bridge != b.bridge && a.table != b.table && a.addresses != b.addresses, "{a:?} {b:?}");
    other.pod("one").delete(&["--force"]);
    other.ok(&["gc"]);
    assert!(tables().contains(&a.table) && !tables().contains(&b.table));
    assert!(ask(&addresses(&one)[0]).starts_with("hello one"));
}
