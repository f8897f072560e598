//! Pods find each other by name.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as RawPid;
use serde_json::{Value, json};

use crate::common::{Pod, manifest, sleeper, wait_for};
use crate::{Network, ips};

fn network() -> Network {
    let net = Network::new(60);
    net.conflist("1.0.0", json!([net.bridge(json!({}))]));
    net
}

fn pod(name: &str, namespace: &str, more: Value) -> String {
    let mut spec = json!({"containers": [sleeper("c")]});
    crate::common::merge(&mut spec, more);
    let mut all: Value = serde_json::from_str(&manifest(name, spec)).expect("a manifest");
    all["metadata"]["namespace"] = namespace.into();
    all.to_string()
}

/// The names that a pod has for an address, over all lines of its hosts file.
fn names(viewer: &Pod<'_>, ip: &str) -> Vec<String> {
    let file = viewer
        .dir
        .parent()
        .and_then(|pods| pods.parent())
        .and_then(|state| state.parent())
        .expect("the test's directory");
    let file = file.join("root/pods").join(viewer.record().id).join("etc/hosts");
    let text = std::fs::read_to_string(file).expect("read a hosts file");
    let lines = text.lines().map(|line| line.split('\t')).filter(|words| words.clone().next() == Some(ip));
    lines.flat_map(|words| words.skip(1).map(str::to_owned)).collect()
}

fn wait_names(viewer: &Pod<'_>, ip: &str, wanted: &[&str]) {
    wait_for(&format!("{wanted:?} for {ip}, now {:?}", names(viewer, ip)), || {
        (names(viewer, ip) == wanted).then_some(())
    });
}

#[test]
fn pods_find_those_that_came_before_and_after_until_they_go() {
    let net = network();
    let first = net.run("first", &pod("first", "default", json!({"hostname": "web", "subdomain": "sub"})));
    let inode = first.sh("c", "stat -c %i /etc/hosts");
    let second = net.run("second", &pod("second", "default", json!({})));
    let other = net.run("other", &pod("other", "elsewhere", json!({"subdomain": "sub"})));
    let (of_first, of_second, of_other) = (ips(&first), ips(&second), other_ips(&other));
    let long = "web.sub.default.svc.cluster.local";
    for ip in &of_first {
        wait_names(&second, ip, &[long, "web.sub.default.svc", "web.sub.default", "web.sub", "first", "web"]);
        // In another namespace the long names are known, as in a cluster's DNS.
        wait_names(&other, ip, &[long, "web.sub.default.svc", "web.sub.default"]);
    }
    wait_names(&first, &of_second[0], &["second"]);
    wait_names(
        &first,
        &of_other[0],
        &["other.sub.elsewhere.svc.cluster.local", "other.sub.elsewhere.svc", "other.sub.elsewhere"],
    );
    wait_names(&other, &of_second[0], &[]);
    // What the container sees is what was changed.
    let seen = first.sh("c", "cat /etc/hosts");
    assert!(seen.contains(&format!("{}\tsecond\n", of_second[0])), "{seen}");
    assert!(seen.contains(&format!("{}\t{long}\tweb\n", of_first[0])), "{seen}");
    assert_eq!(first.sh("c", "stat -c %i /etc/hosts"), inode);
    second.delete(&["--force"]);
    wait_names(&first, &of_second[0], &[]);
    let seen = first.sh("c", "cat /etc/hosts");
    assert!(!seen.contains("second"), "{seen}");
    net.host.ok(&["delete", "pod", "other", "-n", "elsewhere", "--force"]);
    wait_names(&first, &of_other[0], &[]);
}

/// [`ips`] of a pod in another namespace.
fn other_ips(pod: &Pod<'_>) -> Vec<String> {
    let network = pod.status().sandbox.expect("a sandbox").network.expect("a network");
    network.ips.iter().map(ToString::to_string).collect()
}

#[test]
fn a_killed_pod_is_forgotten_by_gc_which_mends_what_else_is_wrong() {
    let net = network();
    let viewer = net.run("viewer", &pod("viewer", "default", json!({})));
    let killed = net.run("killed", &pod("killed", "default", json!({})));
    let ip = ips(&killed)[0].clone();
    wait_names(&viewer, &ip, &["killed"]);
    kill(RawPid::from_raw(killed.keeper()), Signal::SIGKILL).expect("kill keeper");
    wait_for("the end of the pod", || {
        (net.host.husk(&["exec", "killed", "--", "true"]).code == Some(125)).then_some(())
    });
    net.host.ok(&["gc"]);
    wait_names(&viewer, &ip, &[]);
    std::fs::remove_file(net.host.state.join("hosts/table.json")).expect("lose the table");
    let third = net.run("third", &pod("third", "default", json!({})));
    net.host.ok(&["gc"]);
    wait_names(&third, &ips(&viewer)[0], &["viewer"]);
    wait_names(&viewer, &ips(&third)[0], &["third"]);
}

#[test]
fn ten_pods_that_come_at_once_all_find_each_other() {
    let net = network();
    let names: Vec<String> = (0..10).map(|n| format!("p{n}")).collect();
    let jobs: Vec<_> =
        names.iter().map(|name| net.job(&["run", "-"]).stdin(pod(name, "default", json!({}))).start()).collect();
    for job in jobs {
        let output = job.finish();
        assert_eq!(output.code, Some(0), "{output}");
    }
    let pods: Vec<Pod<'_>> = names.iter().map(|name| net.host.pod(name)).collect();
    for viewer in &pods {
        for seen in &pods {
            for ip in ips(seen) {
                wait_for("every name in every file", || self::names(viewer, &ip).contains(&seen.name).then_some(()));
            }
        }
    }
}
