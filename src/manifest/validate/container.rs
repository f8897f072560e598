//! One container.

use super::super::command;
use super::{Report, any, check_no_nul, lifecycle, names, probe, resources as amounts, security, volume};
use k8s_openapi::api::core::v1::{Container, ContainerPort, ContainerResizePolicy, EnvVar, EnvVarSource, Pod, PodSpec};
use std::collections::BTreeSet;

pub(super) fn check(c: &Container, path: &str, pod: &Pod, spec: &PodSpec, volumes: &BTreeSet<&str>, r: &mut Report) {
    let Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        // With `restartPolicy` and its rules, in a room of their own.
        lifecycle: _,
        liveness_probe: _,
        name,
        ports,
        readiness_probe: _,
        resize_policy,
        resources,
        restart_policy: _,
        restart_policy_rules: _,
        security_context,
        startup_probe: _,
        stdin: _,
        stdin_once: _,
        termination_message_path,
        termination_message_policy,
        tty: _,
        volume_devices,
        volume_mounts,
        working_dir,
    } = c;
    let at = |field: &str| format!("{path}.{field}");

    r.name(at("name"), name, names::dns_label);
    check_image(image.as_deref().unwrap_or_default(), at("image"), r);
    r.refuse(at("envFrom"), any(env_from));
    lifecycle::check(c, path, spec, r);
    let plain_init = lifecycle::is_plain_init(c, path);
    if plain_init {
        probe::refuse_all(c, path, r);
    } else {
        probe::check_all(c, path, r);
    }
    check_resize_policy(resize_policy.as_deref().unwrap_or_default(), &at("resizePolicy"), plain_init, spec, r);
    r.refuse(at("volumeDevices"), any(volume_devices));

    r.word(at("imagePullPolicy"), image_pull_policy, &["Always", "IfNotPresent", "Never"]);
    if image_pull_policy.as_deref() == Some("Always") {
        r.add(
            at("imagePullPolicy"),
            "Always can't be kept: nothing is pulled, images come from the local store; use IfNotPresent",
        );
    }
    if let Some(file) = termination_message_path.as_deref().filter(|file| !file.is_empty()) {
        volume::check_message_path(file, at("terminationMessagePath"), r);
    }
    r.word(at("terminationMessagePolicy"), termination_message_policy, &["File", "FallbackToLogsOnError"]);
    for (field, list) in [("command", command), ("args", args)] {
        for (i, word) in list.iter().flatten().enumerate() {
            check_no_nul(word, at(&format!("{field}[{i}]")), r);
        }
    }
    if let Some(first) = command.iter().flatten().next()
        && first.is_empty()
    {
        r.add(at("command[0]"), "must not be empty");
    }
    if let Some(dir) = working_dir.as_deref().filter(|d| !d.is_empty()) {
        if !dir.starts_with('/') {
            r.add(at("workingDir"), format!("{dir:?} must be an absolute path"));
        }
        security::check_plain(dir, at("workingDir"), r);
    }
    check_env(env.as_deref().unwrap_or_default(), path, c, pod, r);
    check_ports(ports.as_deref().unwrap_or_default(), path, spec.host_network == Some(true), r);
    if let Some(resources) = resources {
        amounts::check(resources, &at("resources"), r);
    }
    if let Some(context) = security_context {
        security::check_container(context, path, r);
    }
    security::check_non_root(security_context.as_ref(), spec, path, r);
    let privileged = security_context.as_ref().is_some_and(|s| s.privileged == Some(true));
    volume::check_mounts(volume_mounts.as_deref().unwrap_or_default(), path, privileged, volumes, r);
}

fn check_image(image: &str, path: String, r: &mut Report) {
    if image.is_empty() {
        r.add(path, "required");
    } else if image.trim() != image {
        r.add(path, format!("{image:?} must not begin or end with white space"));
    } else {
        security::check_plain(image, path, r);
    }
}

fn check_env(env: &[EnvVar], path: &str, c: &Container, pod: &Pod, r: &mut Report) {
    for (i, EnvVar { name, value, value_from }) in env.iter().enumerate() {
        let path = format!("{path}.env[{i}]");
        r.name(format!("{path}.name"), name, names::env_name);
        check_no_nul(value.as_deref().unwrap_or_default(), format!("{path}.value"), r);
        let Some(from) = value_from else { continue };
        let path = format!("{path}.valueFrom");
        if value.as_ref().is_some_and(|v| !v.is_empty()) {
            r.add(path.clone(), "must not be given together with value");
        }
        let EnvVarSource { config_map_key_ref, field_ref, file_key_ref, resource_field_ref, secret_key_ref } = from;
        let unsupported = [
            ("configMapKeyRef", config_map_key_ref.is_some()),
            ("fileKeyRef", file_key_ref.is_some()),
            ("secretKeyRef", secret_key_ref.is_some()),
        ];
        for (source, given) in unsupported {
            r.refuse(format!("{path}.{source}"), given);
        }
        let supported = usize::from(field_ref.is_some()) + usize::from(resource_field_ref.is_some());
        match supported + unsupported.iter().filter(|(_, given)| *given).count() {
            0 => r.add(path.clone(), "must name a source, e.g. fieldRef"),
            1 => {}
            _ => r.add(path.clone(), "must name one source, not several"),
        }
        if let Some(version) = field_ref.as_ref().and_then(|f| f.api_version.as_deref())
            && !matches!(version, "" | "v1")
        {
            r.add(format!("{path}.fieldRef.apiVersion"), format!("{version:?} is not supported; only v1 is"));
        }
        if supported == 1
            && let Err(e) = command::check_source(from, c, pod)
        {
            r.add(format!("{path}{}", e.path), e.message);
        }
    }
}

pub(super) fn check_port_number(port: i32, path: String, r: &mut Report) {
    if !(1..=65535).contains(&port) {
        r.add(path, format!("{port} must be between 1 and 65535"));
    }
}

fn check_ports(ports: &[ContainerPort], path: &str, host_network: bool, r: &mut Report) {
    let mut names = BTreeSet::new();
    for (i, ContainerPort { container_port, host_ip, host_port, name, protocol }) in ports.iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        check_port_number(*container_port, format!("{path}.containerPort"), r);
        if let Some(name) = name.as_deref().filter(|n| !n.is_empty()) {
            r.name(format!("{path}.name"), name, names::port_name);
            if !names.insert(name) {
                r.add(format!("{path}.name"), format!("duplicate: another port is already called {name:?}"));
            }
        }
        r.word(format!("{path}.protocol"), protocol, &["TCP", "UDP", "SCTP"]);
        if let Some(ip) = host_ip.as_deref().filter(|ip| !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err()) {
            r.add(format!("{path}.hostIP"), format!("{ip:?} is no IP address"));
        }
        match host_port {
            None | Some(0) => {}
            Some(port) if !(1..=65535).contains(port) => check_port_number(*port, format!("{path}.hostPort"), r),
            Some(port) if host_network && port != container_port => {
                r.add(
                    format!("{path}.hostPort"),
                    format!("{port} must be the containerPort {container_port} with hostNetwork"),
                );
            }
            Some(_) => {}
        }
    }
}

/// A port of the host leads to one container: protocol, address and number.
pub(super) type HostPort = (String, String, i32);

/// Two containers can't have the same port of the host.
pub(super) fn check_host_ports(c: &Container, path: &str, taken: &mut BTreeSet<HostPort>, r: &mut Report) {
    for (i, port) in c.ports.iter().flatten().enumerate() {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        // With hostNetwork it was filled in.
        let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
        let ip = port.host_ip.as_deref().unwrap_or_default();
        let ip = if matches!(ip, "0.0.0.0" | "::") { "" } else { ip };
        if !taken.insert((protocol, ip.to_owned(), number)) {
            r.add(format!("{path}.ports[{i}].hostPort"), format!("duplicate: {number} is already taken in this pod"));
        }
    }
}

fn check_resize_policy(
    policies: &[ContainerResizePolicy],
    path: &str,
    plain_init: bool,
    spec: &PodSpec,
    r: &mut Report,
) {
    if !policies.is_empty() && plain_init {
        return r.add(path, "must not be set for an init container, which is not started again once it has ended");
    }
    let mut names = BTreeSet::new();
    for (i, ContainerResizePolicy { resource_name, restart_policy }) in policies.iter().enumerate() {
        let path = format!("{path}[{i}]");
        r.word(format!("{path}.resourceName"), &Some(resource_name.clone()), &["cpu", "memory"]);
        if !names.insert(resource_name) {
            r.add(
                format!("{path}.resourceName"),
                format!("duplicate: there is a policy for {resource_name:?} already"),
            );
        }
        r.word(format!("{path}.restartPolicy"), &Some(restart_policy.clone()), &["NotRequired", "RestartContainer"]);
        if restart_policy == "RestartContainer" && spec.restart_policy.as_deref() == Some("Never") {
            r.add(format!("{path}.restartPolicy"), "must be NotRequired when the pod's restartPolicy is Never");
        }
    }
}
