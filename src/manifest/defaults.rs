//! The defaults that the API server fills in, as far as they concern a pod here.

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Pod, PodSpec, Probe, Volume};

/// Fills in what the manifest left out and drops what only a server writes (`status`, `metadata.creationTimestamp`, …).
/// Idempotent. `metadata.uid` stays as it is: the caller makes one.
///
/// One default differs: `imagePullPolicy` becomes `IfNotPresent` even for `:latest`, since images come from the local store only.
pub fn default(pod: &mut Pod) {
    let meta = &mut pod.metadata;
    fill(&mut meta.namespace, "default");
    meta.uid.take_if(|uid| uid.is_empty());
    meta.creation_timestamp = None;
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.generation = None;
    meta.managed_fields = None;
    meta.resource_version = None;
    meta.self_link = None;
    pod.status = None;
    if let Some(spec) = &mut pod.spec {
        default_spec(spec);
    }
}

/// An empty string is how an API server sees a field that was left out.
fn fill(field: &mut Option<String>, value: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(value.to_owned());
    }
}

fn default_spec(spec: &mut PodSpec) {
    fill(&mut spec.restart_policy, "Always");
    spec.termination_grace_period_seconds.get_or_insert(30);
    fill(&mut spec.dns_policy, "ClusterFirst");
    spec.enable_service_links.get_or_insert(true);
    if spec.service_account_name.is_none() {
        // The old name of the same field.
        spec.service_account_name.clone_from(&spec.service_account);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        if *volume == (Volume { name: volume.name.clone(), ..Default::default() }) {
            volume.empty_dir = Some(EmptyDirVolumeSource::default());
        }
        if let Some(host_path) = &mut volume.host_path {
            host_path.type_.get_or_insert_default();
        }
    }
    let host_network = spec.host_network == Some(true);
    for c in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        default_container(c, host_network);
    }
}

fn default_probe(probe: &mut Probe) {
    // 0 is how an API server sees a number that was left out.
    let fill_number = |field: &mut Option<i32>, value| {
        if field.is_none_or(|n| n == 0) {
            *field = Some(value);
        }
    };
    fill_number(&mut probe.timeout_seconds, 1);
    fill_number(&mut probe.period_seconds, 10);
    fill_number(&mut probe.success_threshold, 1);
    fill_number(&mut probe.failure_threshold, 3);
    if let Some(action) = &mut probe.http_get {
        fill(&mut action.path, "/");
        fill(&mut action.scheme, "HTTP");
    }
    if let Some(action) = &mut probe.grpc {
        action.service.get_or_insert_default();
    }
}

fn default_container(c: &mut Container, host_network: bool) {
    fill(&mut c.image_pull_policy, "IfNotPresent");
    fill(&mut c.termination_message_path, "/dev/termination-log");
    fill(&mut c.termination_message_policy, "File");
    for probe in [&mut c.startup_probe, &mut c.liveness_probe, &mut c.readiness_probe].into_iter().flatten() {
        default_probe(probe);
    }
    for port in c.ports.iter_mut().flatten() {
        fill(&mut port.protocol, "TCP");
        if host_network && port.host_port.is_none_or(|p| p == 0) {
            port.host_port = Some(port.container_port);
        }
    }
    for env in c.env.iter_mut().flatten() {
        if let Some(field) = env.value_from.as_mut().and_then(|v| v.field_ref.as_mut()) {
            fill(&mut field.api_version, "v1");
        }
    }
    if let Some(resources) = &mut c.resources
        && let Some(limits) = &resources.limits
    {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn defaulted(yaml: &str) -> Pod {
        let mut pod = parse(yaml.as_bytes(), "x").expect("parses").remove(0);
        default(&mut pod);
        let mut again = pod.clone();
        default(&mut again);
        assert_eq!(pod, again, "idempotent");
        pod
    }

    #[test]
    fn what_was_left_out_is_filled_in() {
        let pod = defaulted(
            "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {volumes: [{name: v}, {name: h, hostPath: {path: /}}], containers: [{name: c, image: 'x:latest', \
             livenessProbe: {httpGet: {port: 80}}, ports: [{containerPort: 80}], env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}], resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 500m}}}]}}",
        );
        assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
        let spec = pod.spec.expect("spec");
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
        assert_eq!(spec.termination_grace_period_seconds, Some(30));
        assert_eq!(spec.dns_policy.as_deref(), Some("ClusterFirst"));
        assert_eq!(spec.enable_service_links, Some(true));
        let probe = spec.containers[0].liveness_probe.clone().expect("a probe");
        let numbers = [probe.timeout_seconds, probe.period_seconds, probe.success_threshold, probe.failure_threshold];
        assert_eq!(numbers, [Some(1), Some(10), Some(1), Some(3)]);
        assert_eq!(probe.initial_delay_seconds.unwrap_or(0), 0);
        let action = probe.http_get.expect("an action");
        assert_eq!((action.path.as_deref(), action.scheme.as_deref()), (Some("/"), Some("HTTP")));
        let volumes = spec.volumes.expect("volumes");
        assert_eq!(volumes[0].empty_dir, Some(EmptyDirVolumeSource::default()));
        assert!(volumes[1].empty_dir.is_none());
        assert_eq!(volumes[1].host_path.as_ref().expect("hostPath").type_.as_deref(), Some(""));
        let c = &spec.containers[0];
        assert_eq!(c.image_pull_policy.as_deref(), Some("IfNotPresent"));
        assert_eq!(c.termination_message_path.as_deref(), Some("/dev/termination-log"));
        assert_eq!(c.termination_message_policy.as_deref(), Some("File"));
        let port = &c.ports.as_ref().expect("ports")[0];
        assert_eq!((port.protocol.as_deref(), port.host_port), (Some("TCP"), None));
        let requests = c.resources.as_ref().expect("resources").requests.as_ref().expect("requests");
        assert_eq!((requests["cpu"].0.as_str(), requests["memory"].0.as_str()), ("500m", "1Gi"));
        let from = c.env.as_ref().expect("env")[0].value_from.as_ref().expect("valueFrom");
        assert_eq!(from.field_ref.as_ref().expect("fieldRef").api_version.as_deref(), Some("v1"));
    }

    #[test]
    fn what_was_given_stays_and_what_a_server_wrote_goes() {
        let pod = defaulted(
            "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: other, uid: u, resourceVersion: '5', creationTimestamp: '2024-01-01T00:00:00Z', generation: 3}, \
             spec: {hostNetwork: true, restartPolicy: Never, dnsPolicy: '', terminationGracePeriodSeconds: 0, initContainers: [{name: i, image: x, imagePullPolicy: Never, ports: [{containerPort: 80}]}], containers: []}}",
        );
        assert_eq!(pod.metadata.uid.as_deref(), Some("u"));
        assert_eq!(pod.metadata.namespace.as_deref(), Some("other"));
        assert!(pod.metadata.resource_version.is_none() && pod.metadata.creation_timestamp.is_none());
        assert!(pod.metadata.generation.is_none());
        let spec = pod.spec.expect("spec");
        assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
        assert_eq!(spec.termination_grace_period_seconds, Some(0));
        assert_eq!(spec.dns_policy.as_deref(), Some("ClusterFirst"));
        let init = &spec.init_containers.expect("init")[0];
        assert_eq!(init.image_pull_policy.as_deref(), Some("Never"));
        assert_eq!(init.ports.as_ref().expect("ports")[0].host_port, Some(80));
    }
}
