//! Who reaches whom.

use serde_json::json;

use super::common::netns::sh;
use super::common::{container, manifest, wait_for};
use super::world::{HOST, HOST6, OUTSIDE, OUTSIDE6, addresses, ask, ask_from, greeter, world};

#[test]
fn two_pods_talk_over_both_families_and_see_each_others_true_address() {
    let (host, _outside) = world();
    let one = host.run("one", &greeter("one", json!({})));
    let two = host.run("two", &greeter("two", json!({})));
    let (of_one, of_two) = (addresses(&one), addresses(&two));
    for i in [0, 1] {
        let said = ask_from(&one, &of_two[i]);
        assert!(said.ends_with(&format!("hello two to {}", of_one[i])) || said.contains(&of_one[i]), "{said}");
        assert!(ask(&of_one[i]).starts_with("hello one"), "the host reaches a pod");
    }
    let status = one.json()["status"].clone();
    assert_eq!(status["podIP"], of_one[0]);
    assert_eq!((&status["hostIP"], &status["hostIPs"][1]["ip"]), (&json!(HOST), &json!(HOST6)));
    let hosts = one.sh("c", "cat /etc/hosts");
    assert!(of_one.iter().all(|ip| hosts.contains(&format!("{ip}\tone"))), "{hosts}");
}

#[test]
fn a_container_is_told_its_pods_and_its_hosts_addresses() {
    let (host, _outside) = world();
    let from = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let env = json!([
        {"name": "IP", "valueFrom": from("status.podIP")},
        {"name": "IPS", "valueFrom": from("status.podIPs")},
        {"name": "HOST", "valueFrom": from("status.hostIP")},
        {"name": "HOSTS", "valueFrom": from("status.hostIPs")},
        {"name": "URL", "value": "http://$(IP):80"},
    ]);
    const SAY: &str = "echo $URL [$IPS] $HOST $HOSTS";
    let script = "echo $(URL) [$IPS] $HOST $HOSTS >/tmp/told; exec sleep 1000";
    let spec = json!({"containers": [container("c", script, json!({"env": env}))]});
    let hosts = format!("{HOST} {HOST},{HOST6}");
    for (mode, name) in [("bridge", "bridged"), ("host", "hosted"), ("none", "alone")] {
        let output = host.job(&["run", "--network", mode, "-"]).stdin(manifest(name, spec.clone())).finish();
        assert_eq!(output.code, Some(0), "{output}");
        let pod = host.pod(name);
        let ips: Vec<String> = match mode {
            "bridge" => addresses(&pod).into(),
            "host" => vec![HOST.to_owned(), HOST6.to_owned()],
            _ => Vec::new(),
        };
        let first = ips.first().cloned().unwrap_or_default();
        let expected = format!("http://{first}:80 [{}] {hosts}", ips.join(","));
        let told =
            wait_for("its own word", || Some(pod.sh("c", "cat /tmp/told || true")).filter(|text| !text.is_empty()));
        assert_eq!(told.trim(), expected, "{mode}");
        assert_eq!(pod.sh("c", SAY).trim(), expected, "what is executed in it, {mode}");
    }
    let shown = host.job(&["run", "--dry-run", "-"]).stdin(manifest("shown", spec.clone())).finish();
    assert!(shown.out().contains("IPS=<status.podIPs>"), "{shown}");
}

#[test]
fn a_pod_reaches_a_server_outside_that_sees_the_host() {
    let (host, outside) = world();
    let pod = host.run("one", &greeter("one", json!({})));
    let dir = host.dir.join("www/cgi-bin");
    std::fs::create_dir_all(&dir).expect("make a directory");
    std::fs::write(dir.join("who"), "#!/bin/sh\necho; echo hello outside to $REMOTE_ADDR\n").expect("write a script");
    let www = host.dir.join("www");
    outside.sh(&format!("chmod +x {0}/cgi-bin/who; busybox httpd -p 80 -h {0}", www.display()));
    let server = wait_for("the server outside", || {
        let all = super::common::outside::pids();
        all.into_iter().find(|pid| super::common::outside::cmdline(*pid).contains(&www.display().to_string()))
    });
    for (to, from) in [(OUTSIDE, HOST), (OUTSIDE6, HOST6)] {
        let said = ask_from(&pod, to);
        assert!(said.contains(from), "masqueraded: {said}");
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(server), nix::sys::signal::Signal::SIGKILL)
        .expect("end the server");
}

#[test]
fn nothing_of_the_hosts_loopback_is_reached_from_a_pod() {
    let (host, _outside) = world();
    let listener = std::net::TcpListener::bind("127.0.0.1:7777").expect("listen on the host's loopback");
    let listener6 = std::net::TcpListener::bind("[::1]:7777").expect("listen on the host's IPv6 loopback");
    let gate = std::net::TcpListener::bind("0.0.0.0:7778").expect("listen on all of the host's addresses");
    let pod = host.run("one", &greeter("one", json!({})));
    let gateway = pod.record().sandbox.network.place.expect("a place").addresses[0].gateway;
    pod.sh("c", &format!("echo x | timeout 5 nc {gateway} 7778 || true"));
    gate.set_nonblocking(true).expect("not wait");
    assert!(gate.accept().is_ok(), "what listens on all addresses is reached through the bridge's");
    drop(gate);
    // Even where an administrator lets loopback addresses through: the packets are dropped by the table.
    sh("for i in all default; do echo 1 >/proc/sys/net/ipv4/conf/$i/route_localnet; done; \
        for i in /proc/sys/net/ipv4/conf/husk-*; do echo 1 >$i/route_localnet; done");
    assert_ne!(pod.try_sh("c", "timeout 2 nc 127.0.0.1 7777 </dev/null").code, Some(0));
    for listener in [listener, listener6] {
        listener.set_nonblocking(true).expect("not wait");
        assert!(listener.accept().is_err(), "nobody came");
    }
}

#[test]
fn the_pods_namespace_is_as_containerd_sets_it_up() {
    let (host, _outside) = world();
    let pod = host.run("one", &greeter("one", json!({})));
    for (name, value) in [
        ("ipv4/ip_unprivileged_port_start", "0"),
        ("ipv4/ping_group_range", "0\t2147483647"),
        ("ipv6/conf/eth0/accept_ra", "0"),
        ("ipv6/conf/eth0/accept_dad", "0"),
    ] {
        assert_eq!(pod.sh("c", &format!("cat /proc/sys/net/{name}")).trim(), value, "{name}");
    }
    let shown = pod.sh("c", "ip -6 addr show dev eth0");
    assert!(!shown.contains("tentative"), "{shown}");
    assert_eq!(sh("cat /proc/sys/net/ipv4/conf/all/route_localnet").trim(), "0");
    assert_eq!(
        sh("cat /proc/sys/net/ipv6/conf/husk-*/accept_ra").trim(),
        "0",
        "the bridge believes no pod (CVE-2020-10749)"
    );
}

#[test]
fn modes_none_and_host_are_what_they_say() {
    let (host, _outside) = world();
    let text = manifest("one", json!({"containers": [container("c", "exec sleep 1000", json!({}))]}));
    let run = |mode: &str| {
        let output = host.job(&["run", "--network", mode, "-"]).stdin(text.clone()).finish();
        assert_eq!(output.code, Some(0), "{output}");
        host.pod("one")
    };
    let pod = run("none");
    assert_eq!(pod.sh("c", "ls /sys/class/net").trim(), "lo");
    assert!(pod.json()["status"].get("podIP").is_none());
    pod.delete(&["--force"]);
    let pod = run("host");
    assert_eq!(pod.json()["status"]["podIP"], HOST);
    assert!(pod.sh("c", "ip addr").contains("up0"));
}

#[test]
fn twenty_pods_at_once_have_addresses_of_their_own() {
    let (host, _outside) = world();
    let jobs: Vec<_> = (0..20)
        .map(|i| {
            let text =
                manifest(&format!("p{i}"), json!({"containers": [container("c", "exec sleep 1000", json!({}))]}));
            host.job(&["run", "-"]).stdin(text).start()
        })
        .collect();
    for job in jobs {
        let output = job.finish();
        assert_eq!(output.code, Some(0), "{output}");
    }
    let all: std::collections::BTreeSet<String> =
        (0..20).flat_map(|i| addresses(&host.pod(&format!("p{i}")))).collect();
    assert_eq!(all.len(), 40);
    assert_eq!(host.husk(&["network", "check"]).code, Some(0));
}
