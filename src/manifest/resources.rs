//! What the kubelet computes from `resources`: QoS class, OOM score, amounts of a container and of the pod.

use super::{FieldError, Quantity, quantity};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use std::collections::BTreeMap;
use std::fmt;

/// `status.qosClass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has limits for cpu and memory, equal to its requests.
    Guaranteed,
    /// Something in between.
    Burstable,
    /// No container asks for anything.
    BestEffort,
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        })
    }
}

/// Amounts in the units cgroups are computed from. A zero in the manifest is the same as an absent field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// `requests.cpu` in thousandths of a CPU.
    pub cpu_request_millis: Option<u64>,
    /// `limits.cpu` in thousandths of a CPU.
    pub cpu_limit_millis: Option<u64>,
    /// `requests.memory`.
    pub memory_request_bytes: Option<u64>,
    /// `limits.memory`.
    pub memory_limit_bytes: Option<u64>,
}

/// Amounts of one container; a request that is absent is the limit. The error's path is relative to the container.
///
/// # Errors
/// A quantity that is none, is negative, or is too large.
pub fn resources(c: &Container) -> Result<Resources, FieldError> {
    let Some(r) = &c.resources else { return Ok(Resources::default()) };
    let cpu_limit_millis = amount("limits", &r.limits, "cpu", Quantity::millis)?;
    let memory_limit_bytes = amount("limits", &r.limits, "memory", Quantity::value)?;
    Ok(Resources {
        cpu_request_millis: amount("requests", &r.requests, "cpu", Quantity::millis)?.or(cpu_limit_millis),
        cpu_limit_millis,
        memory_request_bytes: amount("requests", &r.requests, "memory", Quantity::value)?.or(memory_limit_bytes),
        memory_limit_bytes,
    })
}

fn amount(
    list: &str,
    quantities: &Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
    name: &str,
    unit: impl Fn(Quantity) -> Option<u64>,
) -> Result<Option<u64>, FieldError> {
    let Some(text) = quantities.as_ref().and_then(|q| q.get(name)) else { return Ok(None) };
    let fail = |message: String| FieldError { path: format!("resources.{list}.{name}"), message };
    let parsed = quantity(&text.0).map_err(|e| fail(format!("{:?} is {e}", text.0)))?;
    if parsed.is_negative() {
        return Err(fail(format!("{:?} must not be negative", text.0)));
    }
    // Zero is how Kubernetes writes "not set".
    unit(parsed).ok_or_else(|| fail(format!("{:?} is too large", text.0))).map(|n| Some(n).filter(|n| *n > 0))
}

/// Amounts of the pod's cgroup: requests of the app containers summed, or the largest init container's when that is more; a limit only when every
/// container, init containers included, has one.
///
/// # Errors
/// As [`resources`], with the whole path.
pub fn pod_resources(spec: &PodSpec) -> Result<Resources, FieldError> {
    let read = |list: &str, containers: &[Container]| {
        containers
            .iter()
            .enumerate()
            .map(|(i, c)| resources(c).map_err(|e| FieldError { path: format!("spec.{list}[{i}].{}", e.path), ..e }))
            .collect::<Result<Vec<_>, _>>()
    };
    let init = read("initContainers", spec.init_containers.as_deref().unwrap_or_default())?;
    let app = read("containers", &spec.containers)?;
    let total = |of: fn(&Resources) -> Option<u64>| {
        let sum = app.iter().filter_map(of).fold(0u64, u64::saturating_add);
        Some(init.iter().filter_map(of).fold(sum, u64::max)).filter(|n| *n > 0)
    };
    let total_if_all = |of: fn(&Resources) -> Option<u64>| {
        if init.iter().chain(&app).all(|r| of(r).is_some()) { total(of) } else { None }
    };
    Ok(Resources {
        cpu_request_millis: total(|r| r.cpu_request_millis),
        cpu_limit_millis: total_if_all(|r| r.cpu_limit_millis),
        memory_request_bytes: total(|r| r.memory_request_bytes),
        memory_limit_bytes: total_if_all(|r| r.memory_limit_bytes),
    })
}

/// The kubelet's class: from cpu and memory of all containers, init containers included. What isn't a quantity counts as not set.
pub fn qos_class(spec: &PodSpec) -> QosClass {
    let all: Vec<Resources> = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(|c| resources(c).unwrap_or_default())
        .collect();
    if all.iter().all(|r| *r == Resources::default()) {
        return QosClass::BestEffort;
    }
    let guaranteed = all.iter().all(|r| {
        r.cpu_limit_millis.is_some()
            && r.memory_limit_bytes.is_some()
            && r.cpu_request_millis == r.cpu_limit_millis
            && r.memory_request_bytes == r.memory_limit_bytes
    });
    if guaranteed { QosClass::Guaranteed } else { QosClass::Burstable }
}

/// `oom_score_adj` of one container: -997 Guaranteed, 1000 BestEffort, between 3 and 999 by memory request otherwise.
pub fn oom_score_adj(spec: &PodSpec, c: &Container, memory_capacity_bytes: u64) -> i32 {
    match qos_class(spec) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = u128::from(resources(c).unwrap_or_default().memory_request_bytes.unwrap_or(0));
            let share = 1000 * request / u128::from(memory_capacity_bytes.max(1));
            // 1000 is BestEffort's and below 3 is Guaranteed's.
            (1000 - i32::try_from(share).unwrap_or(1000).min(1000)).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ResourceRequirements;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

    /// `"requests cpu=1 memory=1Gi; limits …"` in two halves.
    fn container(requests: &str, limits: &str) -> Container {
        let list = |s: &str| {
            let map: BTreeMap<String, Text> = s
                .split_whitespace()
                .map(|kv| kv.split_once('=').expect("k=v"))
                .map(|(k, v)| (k.to_owned(), Text(v.to_owned())))
                .collect();
            Some(map).filter(|m| !m.is_empty())
        };
        let r = ResourceRequirements { requests: list(requests), limits: list(limits), ..Default::default() };
        Container { resources: Some(r), ..Default::default() }
    }

    fn spec(init: &[(&str, &str)], app: &[(&str, &str)]) -> PodSpec {
        let build = |list: &[(&str, &str)]| list.iter().map(|(r, l)| container(r, l)).collect::<Vec<_>>();
        PodSpec { init_containers: Some(build(init)), containers: build(app), ..Default::default() }
    }

    #[test]
    fn class_follows_the_kubelets_table() {
        use QosClass::*;
        let full = ("cpu=1 memory=1Gi", "cpu=1000m memory=1024Mi");
        for (init, app, want) in [
            (vec![], vec![("", "")], BestEffort),
            (vec![], vec![("cpu=0", "memory=0")], BestEffort),
            (vec![], vec![full], Guaranteed),
            (vec![], vec![("", full.1)], Guaranteed),
            (vec![], vec![full, ("", "")], Burstable),
            (vec![("", "")], vec![full], Burstable),
            (vec![full], vec![full], Guaranteed),
            (vec![], vec![("", "cpu=1")], Burstable),
            (vec![], vec![("cpu=500m memory=1Gi", full.1)], Burstable),
            (vec![("memory=1Mi", "")], vec![("", "")], Burstable),
        ] {
            assert_eq!(qos_class(&spec(&init, &app)), want, "{init:?} {app:?}");
        }
    }

    #[test]
    fn requests_are_summed_and_init_counts_by_its_largest() {
        let s = spec(
            &[("cpu=300m memory=10", ""), ("cpu=100m", "")],
            &[("cpu=100m memory=8", ""), ("cpu=100m memory=8", "")],
        );
        let r = pod_resources(&s).expect("fine");
        assert_eq!((r.cpu_request_millis, r.memory_request_bytes), (Some(300), Some(16)));
        assert_eq!((r.cpu_limit_millis, r.memory_limit_bytes), (None, None));
    }

    #[test]
    fn a_pod_limit_needs_one_in_every_container() {
        let with = pod_resources(&spec(&[("", "cpu=3 memory=1")], &[("", "cpu=1 memory=2"), ("", "cpu=1 memory=2")]));
        let with = with.expect("fine");
        assert_eq!((with.cpu_limit_millis, with.memory_limit_bytes), (Some(3000), Some(4)));
        let without = pod_resources(&spec(&[("", "cpu=3")], &[("", "cpu=1 memory=2")])).expect("fine");
        assert_eq!((without.cpu_limit_millis, without.memory_limit_bytes), (Some(3000), None));
    }

    #[test]
    fn broken_amounts_are_named() {
        let s = spec(&[("", "")], &[("", ""), ("", "memory=-1")]);
        assert_eq!(
            pod_resources(&s).expect_err("negative").to_string(),
            "spec.containers[1].resources.limits.memory: \"-1\" must not be negative"
        );
        assert!(resources(&container("cpu=8E", "")).expect_err("large").message.contains("too large"));
    }

    #[test]
    fn oom_score_follows_class_and_request() {
        let gib = 1u64 << 30;
        for (requests, limits, want) in [
            ("cpu=1 memory=1Gi", "cpu=1 memory=1Gi", -997),
            ("", "", 1000),
            ("cpu=1", "", 999),
            ("memory=2Gi", "", 500),
            ("memory=1Mi", "", 999),
            ("memory=4Gi", "", 3),
            ("memory=400Gi", "", 3),
        ] {
            let s = spec(&[], &[(requests, limits)]);
            assert_eq!(oom_score_adj(&s, &s.containers[0], 4 * gib), want, "{requests}");
            assert!(oom_score_adj(&s, &s.containers[0], 0) <= 1000);
        }
    }
}
