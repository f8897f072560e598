//! What tests of the network need: a host with a link to somewhere, and pods that answer.

use serde_json::{Value, json};

use crate::common::netns::{Beside, sh};
use crate::common::{BUSYBOX, Host, Pod, manifest};

/// The host's address on its link to the outside, and that of the outside.
pub const HOST: &str = "192.0.2.2";
/// The same, IPv6.
pub const HOST6: &str = "2001:db8::2";
/// The other end.
pub const OUTSIDE: &str = "192.0.2.1";
/// The same, IPv6.
pub const OUTSIDE6: &str = "2001:db8::1";

/// A host with a default route to a namespace beside it, which knows no way to pods.
pub fn world() -> (Host, Beside) {
    let host = Host::new();
    let outside = Beside::new();
    // Both ends are made in the other namespace, and one is moved to this thread's by the name of a process that waits in it.
    let own = std::process::Command::new("sleep").arg("1000").spawn().expect("a process of this namespace");
    outside.sh(&format!("ip link add out0 type veth peer name up0 netns {}", own.id()));
    let mut own = own;
    own.kill().and_then(|()| own.wait()).expect("end it");
    sh(&format!(
        "ip addr add {HOST}/24 dev up0; ip addr add {HOST6}/64 dev up0 nodad; ip link set up0 up; \
         ip route add default via {OUTSIDE}; ip route add default via {OUTSIDE6}"
    ));
    outside.sh(&format!(
        "ip addr add {OUTSIDE}/24 dev out0; ip addr add {OUTSIDE6}/64 dev out0 nodad; ip link set out0 up"
    ));
    (host, outside)
}

/// A pod whose container answers every connection to port 80 with `hello <name> to <the peer's address>`.
pub fn greeter(name: &str, ports: Value) -> String {
    let script = format!(
        "mkdir -p /tmp/www/cgi-bin; printf '#!/bin/sh\\necho; echo hello {name} to $REMOTE_ADDR\\n' >/tmp/www/cgi-bin/who; \
         chmod +x /tmp/www/cgi-bin/who; exec httpd -f -p 80 -h /tmp/www"
    );
    let mut port = json!({"containerPort": 80});
    crate::common::merge(&mut port, ports);
    let container = json!({"name": "c", "image": BUSYBOX, "command": ["/bin/sh", "-c", script], "ports": [port]});
    manifest(name, json!({"containers": [container]}))
}

/// What [`greeter`] says at this address.
pub fn url(address: &str) -> String {
    let address = match address.rsplit_once(':') {
        // An IPv6 address without a port.
        Some((before, _)) if before.contains(':') && !before.ends_with(']') => format!("[{address}]"),
        _ => address.to_owned(),
    };
    format!("http://{address}/cgi-bin/who")
}

/// Asks, from this thread's namespace, until there is an answer.
pub fn ask(address: &str) -> String {
    crate::common::wait_for(&format!("an answer from {address}"), || try_ask(address))
}

/// Asks once.
pub fn try_ask(address: &str) -> Option<String> {
    let script = format!("exec busybox timeout 3 busybox wget -qO- '{}'", url(address));
    let output = crate::common::run::Job::new("sh", &["-c", &script]).finish();
    (output.code == Some(0)).then(|| output.out().trim().to_owned())
}

/// Asks from a pod, until there is an answer.
pub fn ask_from(pod: &Pod<'_>, address: &str) -> String {
    crate::common::wait_for(&format!("an answer from {address} to {}", pod.name), || {
        let output = pod.try_sh("c", &format!("timeout 3 wget -qO- '{}'", url(address)));
        (output.code == Some(0)).then(|| output.out().trim().to_owned())
    })
}

/// The pod's addresses, IPv4 first.
pub fn addresses(pod: &Pod<'_>) -> [String; 2] {
    let ips = pod.json()["status"]["podIPs"].clone();
    [0, 1].map(|i| ips[i]["ip"].as_str().unwrap_or_else(|| panic!("two addresses: {ips}")).to_owned())
}
