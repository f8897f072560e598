//! `spec`, without its containers and volumes.

use super::{Report, any, container, dns, names, resources as amounts, security, volume};
use k8s_openapi::api::core::v1::{LocalObjectReference, Pod, PodOS, PodSpec};
use std::collections::BTreeSet;

/// From here on a priority is a system component's, which changes how the kubelet protects it from the OOM killer.
const SYSTEM_PRIORITY: i32 = 2_000_000_000;

/// The classes that every cluster has, with their priorities.
const SYSTEM_CLASSES: &[(&str, i32)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

fn system_classes() -> String {
    SYSTEM_CLASSES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" and ")
}

pub(super) fn check(pod: &Pod, spec: &PodSpec, r: &mut Report) {
    let PodSpec {
        active_deadline_seconds,
        // A scheduler's: where a pod runs was decided when it was given to this host.
        affinity: _,
        node_selector: _,
        preemption_policy: _,
        scheduler_name: _,
        tolerations: _,
        topology_spread_constraints: _,
        automount_service_account_token,
        containers,
        dns_config: _,
        dns_policy: _,
        // There are no services here to make variables of.
        enable_service_links: _,
        ephemeral_containers,
        host_aliases: _,
        host_ipc,
        host_network,
        host_pid,
        host_users,
        hostname: _,
        hostname_override: _,
        image_pull_secrets,
        init_containers,
        node_name,
        os,
        overhead,
        priority,
        priority_class_name,
        readiness_gates,
        resource_claims,
        resources,
        restart_policy,
        runtime_class_name,
        scheduling_gates,
        security_context,
        service_account,
        service_account_name,
        set_hostname_as_fqdn: _,
        share_process_namespace,
        subdomain: _,
        termination_grace_period_seconds,
        volumes,
        workload_ref,
    } = spec;

    let at = |field: &str| format!("spec.{field}");
    if let Some(seconds) = active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(seconds)
    {
        r.add(at("activeDeadlineSeconds"), format!("{seconds} must be between 1 and {}", i32::MAX));
    }
    r.refuse(at("ephemeralContainers"), any(ephemeral_containers));
    r.refuse(at("overhead"), any(overhead));
    for (index, gate) in readiness_gates.iter().flatten().enumerate() {
        r.name(format!("spec.readinessGates[{index}].conditionType"), &gate.condition_type, names::qualified);
    }
    r.refuse(at("resourceClaims"), any(resource_claims));
    r.refuse(at("runtimeClassName"), runtime_class_name.is_some());
    r.refuse(at("schedulingGates"), any(scheduling_gates));
    r.refuse(at("workloadRef"), workload_ref.is_some());

    if *automount_service_account_token == Some(true) {
        r.add(
            at("automountServiceAccountToken"),
            "there is no API server to issue a token; set it to false or remove it",
        );
    }
    dns::check(pod, spec, r);
    if *host_users == Some(false) {
        r.add(at("hostUsers"), "user namespaces are not supported yet; remove it or set it to true");
    }
    if *host_pid == Some(true) && *share_process_namespace == Some(true) {
        r.add(at("shareProcessNamespace"), "must not be true together with hostPID");
    }
    if let Some(PodOS { name }) = os
        && name != "linux"
    {
        r.add(at("os.name"), format!("{name:?} can't run here; only linux can"));
    }
    r.word(at("restartPolicy"), restart_policy, &["Always", "OnFailure", "Never"]);
    if let Some(seconds) = termination_grace_period_seconds
        && *seconds < 0
    {
        r.add(at("terminationGracePeriodSeconds"), format!("{seconds} must not be negative"));
    }
    if let Some(class) = priority_class_name.as_deref().filter(|c| !c.is_empty()) {
        r.name(at("priorityClassName"), class, names::dns_subdomain);
        let known = SYSTEM_CLASSES.iter().find(|(name, _)| *name == class).map(|(_, value)| *value);
        match (known, priority) {
            (None, _) if class.starts_with("system-") => {
                r.add(at("priorityClassName"), format!("{class:?} is no system class; there are {}", system_classes()));
            }
            (Some(value), Some(given)) if *given != value => {
                r.add(at("priority"), format!("must be {value}, that of {class}, or be left out"));
            }
            _ => {}
        }
    }
    let system = priority_class_name.as_deref().is_some_and(|c| c.starts_with("system-"));
    if !system && priority.is_some_and(|p| p >= SYSTEM_PRIORITY) {
        let message = format!(
            "must be below {SYSTEM_PRIORITY} without one of the system's priorityClassName: {}",
            system_classes()
        );
        r.add(at("priority"), message);
    }
    for (field, name) in
        [("nodeName", node_name), ("serviceAccountName", service_account_name), ("serviceAccount", service_account)]
    {
        if let Some(name) = name.as_deref().filter(|n| !n.is_empty()) {
            r.name(at(field), name, names::dns_subdomain);
        }
    }
    // Images come from the local store: nobody asks a registry, so nobody shows it a secret.
    for (i, LocalObjectReference { name }) in image_pull_secrets.iter().flatten().enumerate() {
        r.name(format!("spec.imagePullSecrets[{i}].name"), name, names::dns_subdomain);
    }

    let host = security::Host { ipc: *host_ipc == Some(true), network: *host_network == Some(true) };
    if let Some(context) = security_context {
        security::check_pod(context, host, r);
    }
    if let Some(own) = resources {
        amounts::check_pod(spec, own, r);
    }
    let volumes = volume::check(volumes.as_deref().unwrap_or_default(), r);

    if containers.is_empty() {
        r.add(at("containers"), "required: a pod has at least one container");
    }
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    let lists = [("initContainers", init_containers.as_deref().unwrap_or_default()), ("containers", containers)];
    for (list, containers) in lists {
        for (i, c) in containers.iter().enumerate() {
            let path = format!("spec.{list}[{i}]");
            if !names.insert(c.name.as_str()) {
                r.add(format!("{path}.name"), format!("duplicate: another container is already called {:?}", c.name));
            }
            container::check(c, &path, pod, spec, &volumes, r);
            // Init containers are over when the others listen.
            if list == "containers" || c.restart_policy.as_deref() == Some("Always") {
                container::check_host_ports(c, &path, &mut host_ports, r);
            }
        }
    }
}
