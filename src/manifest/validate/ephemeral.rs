//! One ephemeral container.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EphemeralContainer, Pod};

use super::{Errors, Report, any, container};
use crate::manifest::ephemeral;

/// Checks an ephemeral container that is to be added to a pod; `others` are the names of those that were added before.
///
/// # Errors
/// All violations at once; paths are below `spec.ephemeralContainers`, at the place it would get.
pub fn validate_ephemeral(pod: &Pod, others: &[&str], asked: &EphemeralContainer) -> Result<(), Errors> {
    let mut report = Report::default();
    let spec = pod.spec.clone().unwrap_or_default();
    let path = format!("spec.ephemeralContainers[{}]", others.len());
    let at = |field: &str| format!("{path}.{field}");
    let own = ephemeral::container(asked);
    // They are gone sooner or later, and nobody waits for them: what promises something to others is not theirs.
    for (field, given) in [
        ("ports", any(&own.ports)),
        ("livenessProbe", own.liveness_probe.is_some()),
        ("readinessProbe", own.readiness_probe.is_some()),
        ("startupProbe", own.startup_probe.is_some()),
        ("lifecycle", own.lifecycle.is_some()),
        ("resources", own.resources.as_ref().is_some_and(|r| *r != Default::default())),
        ("resizePolicy", any(&own.resize_policy)),
        ("restartPolicy", own.restart_policy.is_some()),
        ("restartPolicyRules", any(&own.restart_policy_rules)),
    ] {
        if given {
            report.add(at(field), "must not be set for an ephemeral container");
        }
    }
    if !report.errors.is_empty() {
        return Err(errors(pod, report));
    }
    let volumes: BTreeSet<&str> = spec.volumes.iter().flatten().map(|v| v.name.as_str()).collect();
    container::check(&own, &path, pod, &spec, &volumes, &mut report);
    for (i, mount) in own.volume_mounts.iter().flatten().enumerate() {
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if value.as_ref().is_some_and(|v| !v.is_empty()) {
                report.add(at(&format!("volumeMounts[{i}].{field}")), "must not be set for an ephemeral container");
            }
        }
    }
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    if containers().any(|c| c.name == own.name) || others.contains(&own.name.as_str()) {
        report.add(at("name"), format!("duplicate: there is a container {:?} in the pod already", own.name));
    }
    if let Some(target) = asked.target_container_name.as_deref().filter(|name| !name.is_empty())
        && !containers().any(|c| c.name == target)
    {
        let names = containers().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
        report.add(at("targetContainerName"), format!("there is no container {target:?}; the pod has {names}"));
    }
    if report.errors.is_empty() { Ok(()) } else { Err(errors(pod, report)) }
}

fn errors(pod: &Pod, report: Report) -> Errors {
    let pod = pod.metadata.name.as_deref().unwrap_or_default().escape_debug().to_string();
    Errors { pod, errors: report.errors }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(asked: Value) -> Result<(), String> {
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"containers": [{"name": "main", "image": "x"}], "volumes": [{"name": "v", "emptyDir": {}}]},
        }))
        .unwrap();
        let asked = serde_json::from_value(asked).unwrap();
        validate_ephemeral(&pod, &["before"], &asked).map_err(|e| e.to_string())
    }

    #[test]
    fn what_makes_promises_is_not_an_ephemeral_containers() {
        let good = json!({"name": "d", "image": "x", "targetContainerName": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        assert_eq!(check(good.clone()), Ok(()));
        for (field, value) in [
            ("ports", json!([{"containerPort": 80}])),
            ("livenessProbe", json!({"tcpSocket": {"port": 1}})),
            ("readinessProbe", json!({})),
            ("startupProbe", json!({})),
            ("lifecycle", json!({})),
            ("resources", json!({"limits": {"cpu": "1"}})),
            ("resizePolicy", json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}])),
            ("restartPolicy", json!("Always")),
            ("name", json!("main")),
            ("name", json!("before")),
            ("name", json!("A")),
            ("image", json!("")),
            ("targetContainerName", json!("other")),
            ("volumeMounts[0].name", json!([{"name": "none", "mountPath": "/v"}])),
            ("volumeMounts[0].subPath", json!([{"name": "v", "mountPath": "/v", "subPath": "x"}])),
        ] {
            let mut bad = good.clone();
            bad[field.split('[').next().unwrap()] = value;
            let said = check(bad).expect_err(field);
            assert!(said.starts_with(&format!("pod p: spec.ephemeralContainers[1].{field}: ")), "{field}: {said}");
        }
    }
}
