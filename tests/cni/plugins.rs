//! The real plugins.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::common::run::Job;
use crate::common::skip::skip;
use crate::common::{container, manifest, sleeper, wait_for};
use crate::{Network, REAL, ips, is_there, tool};

/// A pod that says its name to whoever connects to port 80, over IPv4 and IPv6.
fn server(name: &str, port: serde_json::Value) -> String {
    let script = format!("exec nc -ll -p 80 -e echo page-of-{name}");
    manifest(name, json!({"containers": [container("web", &script, json!({"ports": [port]}))]}))
}

/// What a server says to this thread, which is the host.
fn fetch(ip: &str, port: u16) -> Option<String> {
    let address = SocketAddr::new(ip.parse().expect("an address"), port);
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set a timeout");
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    Some(page)
}

#[test]
fn pods_on_the_bridge_plugin_have_addresses_reach_each_other_and_leave_nothing() {
    let net = Network::new(60);
    net.conflist("1.0.0", json!([net.bridge(json!({})), {"type": "tuning", "sysctl": {"net.core.somaxconn": "77"}}, {"type": "loopback"}]));
    let a = net.run("a", &server("a", json!({"containerPort": 80})));
    let b = net.run("b", &manifest("b", json!({"containers": [sleeper("c")]})));
    let (of_a, of_b) = (ips(&a), ips(&b));
    assert_eq!((of_a.len(), of_b.len()), (2, 2), "{of_a:?} {of_b:?}");
    assert!(of_a[0].starts_with("10.88.0.") && of_a[1].starts_with("fd88::"), "{of_a:?}");
    assert_eq!(a.json()["status"]["podIP"], of_a[0].as_str());
    assert!(b.sh("c", "ip addr show eth0").contains(&of_b[0]));
    assert_eq!(b.sh("c", "cat /proc/sys/net/core/somaxconn"), "77\n");
    for ip in &of_a {
        let page = wait_for("the page of the other pod", || {
            let output = b.try_sh("c", &format!("echo | nc -w 2 {ip} 80"));
            (output.code == Some(0)).then(|| output.out())
        });
        assert_eq!(page, "page-of-a\n");
        assert_eq!(wait_for("the page from the host", || fetch(ip, 80)), "page-of-a\n");
    }
    assert_eq!(net.leases().len(), 4);
    a.delete(&[]);
    b.delete(&[]);
    assert!(net.leases().is_empty(), "leases are left: {:?}", net.leases());
    let links = tool("ip", &["-o", "link"]);
    assert!(!links.contains("veth"), "{links}");
    assert!(net.forgotten());
}

#[test]
fn check_of_the_bridge_plugin_finds_what_somebody_took_away() {
    let net = Network::new(60);
    net.conflist("0.4.0", json!([net.bridge(json!({}))]));
    let pod = net.run("checked", &manifest("checked", json!({"containers": [sleeper("c")]})));
    net.host.ok(&["network", "check"]);
    let (address, inside) = (ips(&pod)[0].clone(), crate::common::netns::Beside::of(pod.pause()));
    inside.sh(&format!("ip addr del {address}/24 dev eth0"));
    let output = net.host.husk(&["network", "check"]);
    assert_eq!(output.code, Some(1), "{output}");
    let said = output.out();
    assert!(said.contains("pod default/checked: CNI plugin bridge of network pods: CHECK:"), "{output}");
    inside.sh(&format!("ip addr add {address}/24 dev eth0; ip route add default via 10.88.0.1"));
    net.host.ok(&["network", "check"]);
    pod.delete(&[]);
    assert!(net.leases().is_empty() && net.forgotten());
}

#[test]
fn a_host_port_leads_through_portmap_and_goes_with_the_pod() {
    let net = Network::new(60);
    net.conflist(
        "0.4.0",
        json!([
            net.bridge(json!({"ipMasq": true})),
            {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
            {"type": "firewall"},
        ]),
    );
    tool("sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
    let pod = net.run("web", &server("web", json!({"containerPort": 80, "hostPort": 8088})));
    let page = wait_for("the page over the host's port", || fetch("10.88.0.1", 8088));
    assert_eq!(page, "page-of-web\n");
    assert!(rules().contains(&ips(&pod)[0]), "{}", rules());
    pod.delete(&[]);
    assert_eq!(fetch("10.88.0.1", 8088), None);
    assert!(!rules().contains("10.88.0."), "rules are left:\n{}", rules());
    assert!(net.leases().is_empty() && net.forgotten());
}

/// What iptables has in this network namespace about single pods.
fn rules() -> String {
    let all = ["iptables-save", "ip6tables-save"].map(|name| Job::new(name, &[]).finish().out());
    all.concat().lines().filter(|line| !line.contains("10.88.0.0/")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_host_port_that_no_plugin_serves_is_refused() {
    let net = Network::new(60);
    net.conflist("1.0.0", json!([net.bridge(json!({}))]));
    let said = net.refused(&server("web", json!({"containerPort": 80, "hostPort": 8088})));
    assert!(said.contains("8088") && said.contains("capability portMappings"), "{said}");
    assert!(net.leases().is_empty() && net.forgotten());
}

#[test]
fn an_exhausted_range_is_told_and_the_next_pod_takes_what_was_freed() {
    let net = Network::new(60);
    let ipam = json!({"type": "host-local", "dataDir": net.host.dir.join("leases"), "subnet": "10.88.0.0/30"});
    net.conflist("1.0.0", json!([net.bridge(json!({"ipam": ipam}))]));
    let one = net.run("one", &manifest("one", json!({"containers": [sleeper("c")]})));
    let two = net.try_run(&manifest("two", json!({"containers": [sleeper("c")]})));
    assert_eq!(two.code, Some(1), "{two}");
    assert!(two.err().contains("CNI plugin bridge of network pods: ADD"), "{two}");
    assert!(two.err().contains("no IP addresses available"), "{two}");
    one.delete(&[]);
    net.run("two", &manifest("two", json!({"containers": [sleeper("c")]})));
}

#[test]
fn bandwidth_and_addresses_are_asked_for_in_annotations() {
    if !is_there(&format!("{REAL}/bandwidth")) {
        skip!("there is no bandwidth plugin in {REAL}");
    }
    let net = Network::new(60);
    let ipam = json!({"type": "static", "capabilities": {"ips": true}});
    let bridge = net.bridge(json!({"ipam": ipam, "capabilities": {"ips": true, "mac": true}}));
    net.script("limits", r#"sed 's/.*"prevResult"://; s/,"runtimeConfig".*//; s/,"type".*//' $input"#);
    net.conflist("1.0.0", json!([bridge, {"type": "limits", "capabilities": {"bandwidth": true}}]));
    let mut pod: serde_json::Value =
        serde_json::from_str(&manifest("slow", json!({"containers": [sleeper("c")]}))).expect("a manifest");
    pod["metadata"]["annotations"] = json!({
        "kubernetes.io/ingress-bandwidth": "10M",
        "husk.dev/cni-ips": "[\"10.88.0.77/24\"]",
        "husk.dev/cni-mac": "02:00:0a:58:00:4d",
    });
    let pod = net.run("slow", &pod.to_string());
    assert_eq!(ips(&pod), ["10.88.0.77"]);
    assert!(pod.sh("c", "ip link show eth0").contains("02:00:0a:58:00:4d"));
    let asked = net.input("limits", 0)["runtimeConfig"].clone();
    assert_eq!(asked, json!({"bandwidth": {"ingressRate": 10_000_000, "ingressBurst": u32::MAX}}));
    pod.delete(&[]);
    assert!(net.forgotten());
}
