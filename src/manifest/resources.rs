//! What the kubelet computes from `resources`: QoS class, OOM score, amounts of a container and of the pod.

use super::FieldError;
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
pub fn resources(c: &Container) -> Result<Resources, FieldError> {
    let _ = c;
    unimplemented!()
}

/// Amounts of the pod's cgroup: requests of the app containers summed, or the largest init container's when that is more; a limit only when every
/// container has one.
pub fn pod_resources(spec: &PodSpec) -> Result<Resources, FieldError> {
    let _ = spec;
    unimplemented!()
}

/// The kubelet's class: from cpu and memory of all containers, init containers included.
pub fn qos_class(spec: &PodSpec) -> QosClass {
    let _ = spec;
    unimplemented!()
}

/// `oom_score_adj` of one container: -997 Guaranteed, 1000 BestEffort, between 3 and 999 by memory request otherwise.
pub fn oom_score_adj(spec: &PodSpec, c: &Container, memory_capacity_bytes: u64) -> i32 {
    let _ = (spec, c, memory_capacity_bytes);
    unimplemented!()
}
