//! Changes of a container's resources while its pod lives.

use super::{QosClass, default, qos_class, quantity, resources, validate};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde::{Deserialize, Serialize};

/// What to change, as Kubernetes quantities; what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Amounts {
    /// `limits.cpu`.
    pub cpu: Option<String>,
    /// `limits.memory`.
    pub memory: Option<String>,
    /// `requests.cpu`.
    pub cpu_request: Option<String>,
    /// `requests.memory`.
    pub memory_request: Option<String>,
}

/// What a container's resources would become.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The new ones.
    pub resources: ResourceRequirements,
    /// By the container's `resizePolicy` it has to be started again for this.
    pub restart: bool,
}

/// A container of the manifest, whichever list it stands in.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.init_containers.iter().flatten().chain(&spec.containers).find(|c| c.name == name)
}

fn container_mut<'a>(pod: &'a mut Pod, name: &str) -> Option<&'a mut Container> {
    let spec = pod.spec.as_mut()?;
    spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).find(|c| c.name == name)
}

/// Gives a container another image; without such a container nothing is changed.
pub fn set_image(pod: &mut Pod, name: &str, image: &str) {
    if let Some(c) = container_mut(pod, name) {
        c.image = Some(image.to_owned());
    }
}

/// Gives a container other resources; without such a container nothing is changed.
pub fn set_resources(pod: &mut Pod, name: &str, resources: ResourceRequirements) {
    if let Some(c) = container_mut(pod, name) {
        c.resources = Some(resources);
    }
}

/// What becomes of a container's resources by a change; `None` when they are like that already. In a Guaranteed pod a limit takes its request along, since they
/// are equal there.
///
/// # Errors
/// A sentence: an amount that is none, a request above its limit, or another QoS class, which cannot change while a pod lives.
pub fn resize(pod: &Pod, name: &str, amounts: &Amounts) -> Result<Option<Change>, String> {
    let Some(old) = container(pod, name) else { return Err(format!("container {name} is not in this pod")) };
    let class = |pod: &Pod| pod.spec.as_ref().map_or(QosClass::BestEffort, qos_class);
    let before = class(pod);
    let mut wanted = old.resources.clone().unwrap_or_default();
    let pairs = [("cpu", &amounts.cpu, &amounts.cpu_request), ("memory", &amounts.memory, &amounts.memory_request)];
    for (resource, limit, request) in pairs {
        let request = request.as_ref().or(limit.as_ref().filter(|_| before == QosClass::Guaranteed));
        for (list, amount) in [(&mut wanted.limits, limit.as_ref()), (&mut wanted.requests, request)] {
            if let Some(amount) = amount {
                list.get_or_insert_default().insert(resource.to_owned(), Text(amount.clone()));
            }
        }
    }
    let mut new = pod.clone();
    set_resources(&mut new, name, wanted);
    default(&mut new);
    not_removed(amounts)?;
    validate(&new).map_err(|e| e.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let Some(c) = container(&new, name) else { return Err(format!("container {name} is not in this pod")) };
    let [had, has] = [old, c].map(|c| resources(c).map_err(|e| e.to_string()));
    let (had, has) = (had?, has?);
    let after = class(&new);
    if after != before {
        return Err(format!(
            "container {name}: this would make the pod {after} of {before}, and a pod's QoS class cannot change while it lives; choose requests and limits that keep it"
        ));
    }
    if had == has {
        return Ok(None);
    }
    let changed = |resource: &str| match resource {
        "cpu" => (had.cpu_limit_millis, had.cpu_request_millis) != (has.cpu_limit_millis, has.cpu_request_millis),
        _ => (had.memory_limit_bytes, had.memory_request_bytes) != (has.memory_limit_bytes, has.memory_request_bytes),
    };
    let policies = c.resize_policy.iter().flatten();
    let restart = policies.into_iter().any(|p| p.restart_policy == "RestartContainer" && changed(&p.resource_name));
    Ok(Some(Change { resources: c.resources.clone().unwrap_or_default(), restart }))
}

/// Zero is how Kubernetes writes "not set": limits and requests can change, and not go.
fn not_removed(amounts: &Amounts) -> Result<(), String> {
    let given = [
        ("cpu limit", &amounts.cpu),
        ("memory limit", &amounts.memory),
        ("cpu request", &amounts.cpu_request),
        ("memory request", &amounts.memory_request),
    ];
    let zero = |text: &String| quantity(text).is_ok_and(|q| q.millis() == Some(0));
    match given.iter().find(|(_, amount)| amount.as_ref().is_some_and(zero)) {
        Some((what, _)) => Err(format!("a {what} of 0 would take it away; it can be changed, not removed")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn pod(resources: &str, more: &str) -> Pod {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{containers: [{{name: c, image: x, resources: {resources}{more}}}]}}}}"
        );
        let mut pod = parse(text.as_bytes(), "x").expect("parses").remove(0);
        default(&mut pod);
        validate(&pod).expect("valid");
        pod
    }

    fn amounts(text: &str) -> Amounts {
        let mut all = Amounts::default();
        for (name, value) in text.split_whitespace().filter_map(|pair| pair.split_once('=')) {
            let field = match name {
                "cpu" => &mut all.cpu,
                "memory" => &mut all.memory,
                "cpu-request" => &mut all.cpu_request,
                _ => &mut all.memory_request,
            };
            *field = Some(value.to_owned());
        }
        all
    }

    const BURSTABLE: &str = "{requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 200m, memory: 32Mi}}";
    const GUARANTEED: &str = "{limits: {cpu: 200m, memory: 32Mi}}";

    #[test]
    fn what_is_given_changes_and_the_rest_stays() {
        let new = |old: &str, text: &str| {
            let change = resize(&pod(old, ""), "c", &amounts(text)).expect("fine").expect("a change");
            serde_json::to_string(&change.resources).expect("JSON")
        };
        assert_eq!(
            new(BURSTABLE, "cpu=500m"),
            r#"{"limits":{"cpu":"500m","memory":"32Mi"},"requests":{"cpu":"100m","memory":"16Mi"}}"#
        );
        assert_eq!(
            new(GUARANTEED, "memory=64Mi"),
            r#"{"limits":{"cpu":"200m","memory":"64Mi"},"requests":{"cpu":"200m","memory":"64Mi"}}"#
        );
        assert_eq!(
            new("{requests: {cpu: 100m}}", "memory=64Mi"),
            r#"{"limits":{"memory":"64Mi"},"requests":{"cpu":"100m","memory":"64Mi"}}"#
        );
        assert_eq!(resize(&pod(BURSTABLE, ""), "c", &amounts("cpu=0.2 memory=33554432")), Ok(None));
    }

    #[test]
    fn what_kubernetes_does_not_allow_is_refused() {
        for (old, text, says) in [
            (BURSTABLE, "cpu=50m", "spec.containers[0].resources.requests.cpu: must not be more than the limit"),
            (BURSTABLE, "memory=x", "resources.limits.memory: \"x\" is"),
            (BURSTABLE, "memory=-1", "must not be negative"),
            (BURSTABLE, "memory=0", "a memory limit of 0 would take it away"),
            (BURSTABLE, "cpu-request=0", "a cpu request of 0 would take it away"),
            (BURSTABLE, "cpu=1m cpu-request=1m", "at least 10m"),
            (GUARANTEED, "cpu-request=100m", "would make the pod Burstable of Guaranteed"),
            (BURSTABLE, "cpu-request=200m memory-request=32Mi", "would make the pod Guaranteed of Burstable"),
            ("{}", "cpu=1", "would make the pod Burstable of BestEffort"),
        ] {
            let said = resize(&pod(old, ""), "c", &amounts(text)).expect_err(text);
            assert!(said.contains(says), "{text}: {said}");
        }
        assert!(resize(&pod("{}", ""), "d", &Amounts::default()).is_err());
    }

    #[test]
    fn a_restart_follows_the_policy_of_what_changes() {
        let more = ", resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}, {resourceName: cpu, restartPolicy: NotRequired}]";
        let restarts =
            |text: &str| resize(&pod(BURSTABLE, more), "c", &amounts(text)).expect("fine").expect("a change").restart;
        assert!(!restarts("cpu=1") && restarts("memory=64Mi") && restarts("cpu=1 memory-request=17Mi"));
    }
}
