//! The probes of a container, and what they share with hooks.

use super::{Report, check_no_nul, container::check_port_number};
use crate::probe;
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, HTTPHeader, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Checks the probes of an app container or of a sidecar.
pub(super) fn check_all(c: &Container, path: &str, r: &mut Report) {
    let all = [
        ("livenessProbe", &c.liveness_probe),
        ("readinessProbe", &c.readiness_probe),
        ("startupProbe", &c.startup_probe),
    ];
    for (field, probe) in all {
        if let Some(probe) = probe {
            check(probe, field, &format!("{path}.{field}"), c, r);
        }
    }
}

/// Refuses those of a container that runs to its end.
pub(super) fn refuse_all(c: &Container, path: &str, r: &mut Report) {
    for (field, given) in [
        ("livenessProbe", c.liveness_probe.is_some()),
        ("readinessProbe", c.readiness_probe.is_some()),
        ("startupProbe", c.startup_probe.is_some()),
    ] {
        if given {
            r.add(format!("{path}.{field}"), "must not be set for an init container without restartPolicy Always");
        }
    }
}

fn check(probe: &Probe, kind: &str, path: &str, c: &Container, r: &mut Report) {
    let Probe {
        exec,
        failure_threshold,
        grpc,
        http_get,
        initial_delay_seconds,
        period_seconds,
        success_threshold,
        tcp_socket,
        termination_grace_period_seconds,
        timeout_seconds,
    } = probe;
    let handlers = [
        ("exec", exec.is_some()),
        ("httpGet", http_get.is_some()),
        ("tcpSocket", tcp_socket.is_some()),
        ("grpc", grpc.is_some()),
    ];
    let mut given = handlers.iter().filter(|(_, given)| *given).map(|(field, _)| field);
    match (given.next(), given.next()) {
        (None, _) => r.add(path, "required: a handler, one of exec, httpGet, tcpSocket and grpc"),
        (Some(_), Some(second)) => r.add(format!("{path}.{second}"), "must be the only handler of the probe"),
        (Some(_), None) => {}
    }
    if let Some(exec) = exec {
        check_exec(exec, &format!("{path}.exec"), r);
    }
    if let Some(http_get) = http_get {
        check_http_get(http_get, &format!("{path}.httpGet"), c, r);
    }
    if let Some(TCPSocketAction { host, port }) = tcp_socket {
        check_host(host.as_deref(), format!("{path}.tcpSocket.host"), r);
        check_port(port, format!("{path}.tcpSocket.port"), c, r);
    }
    if let Some(GRPCAction { port, service }) = grpc {
        check_port_number(*port, format!("{path}.grpc.port"), r);
        check_no_nul(service.as_deref().unwrap_or_default(), format!("{path}.grpc.service"), r);
    }
    // With 0 a default is meant, which has been filled in.
    for (field, value, least) in [
        ("initialDelaySeconds", initial_delay_seconds, 0),
        ("timeoutSeconds", timeout_seconds, 1),
        ("periodSeconds", period_seconds, 1),
        ("successThreshold", success_threshold, 1),
        ("failureThreshold", failure_threshold, 1),
    ] {
        if let Some(value) = value.filter(|value| *value < least) {
            r.add(format!("{path}.{field}"), format!("{value} must be at least {least}"));
        }
    }
    if kind != "readinessProbe" && success_threshold.is_some_and(|n| n > 1) {
        r.add(format!("{path}.successThreshold"), "must be 1");
    }
    let grace = format!("{path}.terminationGracePeriodSeconds");
    match termination_grace_period_seconds {
        Some(_) if kind == "readinessProbe" => r.add(grace, "must not be set for readiness probes"),
        Some(seconds) if *seconds < 1 => r.add(grace, format!("{seconds} must be greater than 0")),
        _ => {}
    }
}

/// `exec` of a probe or a hook.
pub(super) fn check_exec(action: &ExecAction, path: &str, r: &mut Report) {
    let ExecAction { command } = action;
    match command.iter().flatten().next() {
        None => r.add(format!("{path}.command"), "required"),
        Some(first) if first.is_empty() => r.add(format!("{path}.command[0]"), "must not be empty"),
        Some(_) => {}
    }
    for (i, word) in command.iter().flatten().enumerate() {
        check_no_nul(word, format!("{path}.command[{i}]"), r);
    }
}

/// `httpGet` of a probe or a hook.
pub(super) fn check_http_get(action: &HTTPGetAction, path: &str, c: &Container, r: &mut Report) {
    let HTTPGetAction { host, http_headers, path: _, port, scheme } = action;
    check_host(host.as_deref(), format!("{path}.host"), r);
    check_port(port, format!("{path}.port"), c, r);
    r.word(format!("{path}.scheme"), scheme, &["HTTP", "HTTPS"]);
    for (i, HTTPHeader { name, value }) in http_headers.iter().flatten().enumerate() {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            r.add(format!("{path}.httpHeaders[{i}].name"), format!("{name:?} is no name of an HTTP header"));
        }
        if value.bytes().any(|b| b != b'\t' && (b < 0x20 || b == 0x7f)) {
            r.add(format!("{path}.httpHeaders[{i}].value"), "must not contain control characters");
        }
    }
}

fn check_host(host: Option<&str>, path: String, r: &mut Report) {
    if let Some(host) = host.filter(|host| !host.is_empty())
        && probe::address(host).is_none()
    {
        let what = "must be an IP address or localhost: nobody looks names up here; a name for the server to see goes into a Host header";
        r.add(path, format!("{host:?} {what}"));
    }
}

fn check_port(port: &IntOrString, path: String, c: &Container, r: &mut Report) {
    match port {
        IntOrString::Int(number) => check_port_number(*number, path, r),
        IntOrString::String(name) => {
            if !c.ports.iter().flatten().any(|p| p.name.as_ref() == Some(name)) {
                r.add(path, format!("{name:?} is the name of no port of the container"));
            }
        }
    }
}
