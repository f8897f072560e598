//! What a pod is called, and where it looks names up: host names, aliases, `resolv.conf`.

use serde_json::{Value, json};

use crate::common::{Host, Pod, manifest, sleeper};

fn spec(more: Value) -> Value {
    let mut all = json!({"containers": [sleeper("c")]});
    crate::common::merge(&mut all, more);
    all
}

/// The pod's first address.
fn address(pod: &Pod<'_>) -> String {
    pod.json()["status"]["podIP"].as_str().expect("an address").to_owned()
}

#[test]
fn host_names_are_the_kernels_and_in_the_hosts_file() {
    let host = Host::new();
    let plain = host.run("plain", &manifest("plain", spec(json!({"subdomain": "sub"}))));
    assert_eq!(plain.sh("c", "hostname; cat /etc/hostname"), "plain\nplain\n");
    let hosts = plain.sh("c", "cat /etc/hosts");
    assert!(hosts.contains(&format!("\n{}\tplain.sub.default.svc.cluster.local\tplain", address(&plain))), "{hosts}");
    let fqdn = spec(json!({"hostname": "web", "subdomain": "sub", "setHostnameAsFQDN": true}));
    let fqdn = host.run("fqdn", &manifest("fqdn", fqdn));
    assert_eq!(
        fqdn.sh("c", "hostname; echo $HOSTNAME"),
        "web.sub.default.svc.cluster.local\nweb.sub.default.svc.cluster.local\n"
    );
    let over = host.run("over", &manifest("over", spec(json!({"hostnameOverride": "any.name", "subdomain": "sub"}))));
    assert_eq!(over.sh("c", "hostname"), "any.name\n");
    let hosts = over.sh("c", "cat /etc/hosts");
    assert!(hosts.contains(&format!("\n{}\tany.name", address(&over))), "{hosts}");
}

#[test]
fn aliases_are_added_to_the_pods_and_to_the_hosts_file() {
    let host = Host::new();
    let aliases =
        json!([{"ip": "192.0.2.7", "hostnames": ["db", "db.example"]}, {"ip": "2001:db8::7", "hostnames": ["six"]}]);
    let lines = "\n192.0.2.7\tdb\tdb.example\n2001:db8::7\tsix\n";
    let own = host.run("own", &manifest("own", spec(json!({"hostAliases": aliases}))));
    let text = own.sh("c", "cat /etc/hosts");
    assert!(text.contains(lines), "{text}");
    let shared = host.run("shared", &manifest("shared", spec(json!({"hostAliases": aliases, "hostNetwork": true}))));
    let text = shared.sh("c", "cat /etc/hosts");
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    assert!(text.contains(hosts.trim_end()) && text.ends_with(lines), "{text}");
}

#[test]
fn dns_config_makes_the_resolv_conf() {
    let host = Host::new();
    let config = json!({"nameservers": ["192.0.2.1", "2001:db8::1"], "searches": ["a.example", "_s.example"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
    let alone = host.run("alone", &manifest("alone", spec(json!({"dnsPolicy": "None", "dnsConfig": config}))));
    let wanted = "search a.example _s.example\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions ndots:2 edns0\n";
    assert_eq!(alone.sh("c", "cat /etc/resolv.conf"), wanted);
    // Most hosts have a name server of their own; three more are one too many.
    let config = json!({"nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3"], "searches": ["last.example"]});
    let output = host.try_run(&manifest("more", spec(json!({"dnsConfig": config}))));
    assert_eq!(output.code, Some(0), "{output}");
    let text = host.pod("more").sh("c", "cat /etc/resolv.conf");
    assert!(
        text.lines().filter(|l| l.starts_with("nameserver ")).count() == 3 && text.contains("last.example"),
        "{text}"
    );
    let own = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let cut = own.lines().any(|line| line.starts_with("nameserver "));
    assert_eq!(output.err().contains("Nameserver limits were exceeded"), cut, "{output}");
}
