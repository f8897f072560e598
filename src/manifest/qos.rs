//! What follows from a pod's resources by the kubelet's rules: QoS class, OOM score, swap, and where memory is slowed down.

use super::resources::{Resources, is_sidecar, pod_level, resources, total};
use k8s_openapi::api::core::v1::{Container, PodSpec};
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

/// The kubelet's class: from cpu and memory of `spec.resources` when it says anything, else of all containers, init containers included.
/// What isn't a quantity counts as not set.
pub fn qos_class(spec: &PodSpec) -> QosClass {
    let all: Vec<Resources> = match pod_level(spec).unwrap_or_default() {
        Some(own) => vec![own],
        None => {
            let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
            containers.map(|c| resources(c).unwrap_or_default()).collect()
        }
    };
    let asks = |r: &Resources| {
        [r.cpu_request_millis, r.cpu_limit_millis, r.memory_request_bytes, r.memory_limit_bytes]
            .iter()
            .any(Option::is_some)
    };
    if !all.iter().any(asks) {
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

/// A pod that the node itself needs; the kubelet protects it like a guaranteed one.
fn is_node_critical(spec: &PodSpec) -> bool {
    spec.priority_class_name.as_deref() == Some("system-node-critical")
}

/// `oom_score_adj` of one container: -997 Guaranteed and node-critical, 1000 BestEffort, between 3 and 999 by memory request otherwise. What a pod
/// requests beyond its containers counts for each of them alike. A sidecar is never killed before the app container with the least request.
pub fn oom_score_adj(spec: &PodSpec, c: &Container, memory_capacity_bytes: u64) -> i32 {
    if is_node_critical(spec) {
        return -997;
    }
    match qos_class(spec) {
        QosClass::Guaranteed => return -997,
        QosClass::BestEffort => return 1000,
        QosClass::Burstable => {}
    }
    let request = |c: &Container| resources(c).unwrap_or_default().memory_request_bytes.unwrap_or(0);
    let beyond = pod_level(spec).ok().flatten().and_then(|own| own.memory_request_bytes).map_or(0, |pod| {
        let count = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
        pod.saturating_sub(total(spec, request)) / count.max(1) as u64
    });
    let by_request = |request: u64| {
        let share = 1000 * (u128::from(request) + u128::from(beyond)) / u128::from(memory_capacity_bytes.max(1));
        1000 - i32::try_from(share).unwrap_or(1000).min(1000)
    };
    let mut adj = by_request(request(c));
    if spec.init_containers.iter().flatten().any(|init| init.name == c.name && is_sidecar(init)) {
        adj = adj.min(by_request(spec.containers.iter().map(request).min().unwrap_or(0)));
    }
    // 1000 is BestEffort's and below 3 is Guaranteed's.
    adj.clamp(3, 999)
}

/// The kubelet's LimitedSwap: a container of a Burstable pod gets the share of the host's swap that its memory request is of the host's memory, unless
/// it requests none, or all of its limit, or is critical. Bytes.
pub fn limited_swap(spec: &PodSpec, c: &Container, host_memory_bytes: u64, host_swap_bytes: u64) -> u64 {
    let own = resources(c).unwrap_or_default();
    let critical = spec.priority_class_name.as_deref().is_some_and(|class| class.starts_with("system-"));
    match own.memory_request_bytes {
        Some(request)
            if qos_class(spec) == QosClass::Burstable && !critical && own.memory_limit_bytes != Some(request) =>
        {
            let share = u128::from(request) * u128::from(host_swap_bytes) / u128::from(host_memory_bytes.max(1));
            u64::try_from(share).unwrap_or(u64::MAX).min(host_swap_bytes)
        }
        _ => 0,
    }
}

/// The kubelet's memory QoS: where the kernel begins to slow a container down, nine tenths of the way from its request to its limit, or to the host's
/// memory, in whole pages. `None` where the request is the limit, and where there is neither.
pub fn memory_high(r: &Resources, host_memory_bytes: u64) -> Option<u64> {
    const PAGE: u128 = 4096;
    let request = r.memory_request_bytes.unwrap_or(0);
    if r.memory_limit_bytes.unwrap_or(0) == request {
        return None;
    }
    let limit = r.memory_limit_bytes.unwrap_or(host_memory_bytes);
    let high = u128::from(request) + u128::from(limit.saturating_sub(request)) * 9 / 10;
    u64::try_from(high / PAGE * PAGE).ok().filter(|high| *high > request)
}

#[cfg(test)]
mod tests {
    use super::super::resources::tests::{container, spec, whole};
    use super::*;

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
            (vec![], vec![("cpu=0 memory=0", full.1)], Burstable),
            (vec![], vec![("cpu=0", full.1)], Burstable),
            (vec![("memory=1Mi", "")], vec![("", "")], Burstable),
        ] {
            assert_eq!(qos_class(&spec(&init, &app)), want, "{init:?} {app:?}");
        }
    }

    #[test]
    fn the_pods_own_resources_decide_its_class() {
        use QosClass::*;
        let full = ("cpu=1 memory=1Gi", "cpu=1 memory=1Gi");
        for (pod, app, want) in [
            (full, vec![("", "")], Guaranteed),
            (("", "cpu=1 memory=1Gi"), vec![("", "")], Guaranteed),
            // The request of the containers becomes the pod's.
            (("", "cpu=1 memory=1Gi"), vec![("cpu=500m", "")], Burstable),
            (("", "cpu=1"), vec![full], Burstable),
            (("memory=1Gi", ""), vec![("", "")], Burstable),
            (("cpu=0", ""), vec![full], BestEffort),
            (("", ""), vec![full], Guaranteed),
        ] {
            assert_eq!(qos_class(&whole(pod, &[], &app)), want, "{pod:?} {app:?}");
        }
    }

    #[test]
    fn sidecars_and_critical_pods_are_spared_by_the_oom_killer() {
        let gib = 1u64 << 30;
        let mut s = spec(&[("memory=64Mi", "")], &[("memory=2Gi", ""), ("memory=1Gi", "")]);
        let adj = |s: &PodSpec, c: &Container| oom_score_adj(s, c, 4 * gib);
        let init = s.init_containers.clone().expect("init").remove(0);
        assert_eq!(adj(&s, &init), 985);
        s.init_containers.as_mut().expect("init")[0].restart_policy = Some("Always".into());
        for (i, c) in s.containers.iter_mut().enumerate() {
            c.name = i.to_string();
        }
        assert_eq!(adj(&s, &init), 750, "as the app container with the least request");
        assert_eq!(adj(&s, &s.containers[0]), 500);
        s.priority_class_name = Some("system-node-critical".into());
        assert_eq!(adj(&s, &init), -997);
        s.priority_class_name = Some("system-cluster-critical".into());
        assert_eq!(adj(&s, &s.containers[0]), 500);
        // A gibibyte of the pod is nobody's: half of it counts for each.
        let s = whole(("memory=3Gi", ""), &[], &[("memory=1Gi", ""), ("memory=1Gi", "")]);
        assert_eq!(adj(&s, &s.containers[0]), 1000 - 375);
    }

    #[test]
    fn limited_swap_follows_the_request_of_burstable_containers() {
        let of = |requests: &str, limits: &str| {
            let s = spec(&[], &[(requests, limits), ("", "")]);
            limited_swap(&s, &s.containers[0], 1000, 100)
        };
        assert_eq!(of("memory=250", ""), 25);
        assert_eq!(of("memory=250", "memory=500"), 25);
        assert_eq!(of("memory=500", "memory=500"), 0);
        assert_eq!(of("cpu=1", ""), 0);
        assert_eq!(of("memory=9999", ""), 100);
    }

    #[test]
    fn memory_is_slowed_down_nine_tenths_of_the_way() {
        let of = |requests: &str, limits: &str| {
            memory_high(&resources(&container(requests, limits)).expect("fine"), 1 << 30)
        };
        assert_eq!(of("memory=10Mi", "memory=20Mi"), Some(19 << 20));
        assert_eq!(of("memory=4096", "memory=8192"), None, "there is no whole page between");
        assert_eq!(of("memory=20Mi", "memory=20Mi"), None);
        assert_eq!(of("", ""), None, "the same, as neither is there");
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
