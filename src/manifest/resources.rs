//! `resources` as numbers: amounts of a container and of the pod, and how containers add up.

use super::{FieldError, Quantity, quantity};
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use std::collections::{BTreeMap, BTreeSet};

/// Amounts in the units cgroups are computed from. A limit of zero is the same as none; a request of zero is none either, but was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// `requests.cpu` in thousandths of a CPU.
    pub cpu_request_millis: Option<u64>,
    /// `limits.cpu` in thousandths of a CPU.
    pub cpu_limit_millis: Option<u64>,
    /// `requests.memory`.
    pub memory_request_bytes: Option<u64>,
    /// `limits.memory`.
    pub memory_limit_bytes: Option<u64>,
    /// `limits.hugepages-<size>`: bytes by page size in bytes.
    pub hugepages: BTreeMap<u64, u64>,
}

impl Resources {
    /// As the API server fills it in: a request that is not written is the limit. One of zero is written.
    fn request_is_limit(mut self, written: Option<&ResourceRequirements>) -> Self {
        if !requests(written, "cpu") {
            self.cpu_request_millis = self.cpu_request_millis.or(self.cpu_limit_millis);
        }
        if !requests(written, "memory") {
            self.memory_request_bytes = self.memory_request_bytes.or(self.memory_limit_bytes);
        }
        self
    }
}

/// Whether a request is written for it, if only of zero.
fn requests(written: Option<&ResourceRequirements>, name: &str) -> bool {
    written.and_then(|r| r.requests.as_ref()).is_some_and(|list| list.contains_key(name))
}

/// Amounts of one container; a request that is absent is the limit. The error's path is relative to the container.
///
/// # Errors
/// A quantity that is none, is negative, or is too large.
pub fn resources(c: &Container) -> Result<Resources, FieldError> {
    let written = c.resources.as_ref();
    as_written(written).map(|r| r.request_is_limit(written))
}

fn as_written(r: Option<&ResourceRequirements>) -> Result<Resources, FieldError> {
    let Some(r) = r else { return Ok(Resources::default()) };
    let mut hugepages = BTreeMap::new();
    for name in r.limits.iter().flatten().map(|(name, _)| name) {
        if let Some(size) = hugepage_size(name)
            && let Some(bytes) = amount("limits", &r.limits, name, Quantity::value)?
        {
            hugepages.insert(size, bytes);
        }
    }
    Ok(Resources {
        cpu_request_millis: amount("requests", &r.requests, "cpu", Quantity::millis)?,
        cpu_limit_millis: amount("limits", &r.limits, "cpu", Quantity::millis)?,
        memory_request_bytes: amount("requests", &r.requests, "memory", Quantity::value)?,
        memory_limit_bytes: amount("limits", &r.limits, "memory", Quantity::value)?,
        hugepages,
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

/// The page size in bytes that a resource's name stands for: 2097152 for `hugepages-2Mi`.
pub fn hugepage_size(name: &str) -> Option<u64> {
    let size = quantity(name.strip_prefix("hugepages-")?).ok()?;
    size.value().filter(|n| *n > 0 && size.is_whole())
}

/// Does it say anything about the pod as a whole?
fn speaks(r: &ResourceRequirements) -> bool {
    let known = |name: &String| matches!(name.as_str(), "cpu" | "memory") || hugepage_size(name).is_some();
    [&r.requests, &r.limits].into_iter().flatten().any(|list| list.keys().any(known))
}

/// What `spec.resources` says of the pod as a whole, its requests as the API server fills them in; `None` when it says nothing.
///
/// # Errors
/// As [`resources`], with the whole path.
pub fn pod_level(spec: &PodSpec) -> Result<Option<Resources>, FieldError> {
    let Some(r) = spec.resources.as_ref().filter(|r| speaks(r)) else { return Ok(None) };
    let mut own = as_written(Some(r)).map_err(|e| FieldError { path: format!("spec.{}", e.path), ..e })?;
    if r.limits.as_ref().is_some_and(|limits| !limits.is_empty()) {
        let all = Everybody::read(spec)?;
        if !requests(Some(r), "cpu") {
            own.cpu_request_millis = all.total_if_any(|r| r.cpu_request_millis);
        }
        if !requests(Some(r), "memory") {
            own.memory_request_bytes = all.total_if_any(|r| r.memory_request_bytes);
        }
        own = own.request_is_limit(Some(r));
    }
    Ok(Some(own))
}

/// The rule by which containers add up (KEP-753): app containers and sidecars run at the same time, and each step of the initialisation beside the
/// sidecars before it. The pod needs the most of these.
///
/// `init` are init containers in their order, each with whether it is a sidecar.
pub fn add_up(init: impl IntoIterator<Item = (bool, u64)>, app: impl IntoIterator<Item = u64>) -> u64 {
    let (mut sidecars, mut peak) = (0u64, 0u64);
    for (sidecar, amount) in init {
        peak = peak.max(sidecars.saturating_add(amount));
        if sidecar {
            sidecars = sidecars.saturating_add(amount);
        }
    }
    app.into_iter().fold(sidecars, u64::saturating_add).max(peak)
}

/// Is this init container a sidecar?
pub(super) fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// [`add_up`] over a pod's containers.
pub fn total(spec: &PodSpec, of: impl Fn(&Container) -> u64) -> u64 {
    let init = spec.init_containers.iter().flatten().map(|c| (is_sidecar(c), of(c)));
    add_up(init, spec.containers.iter().map(&of))
}

/// The amounts of all containers.
struct Everybody {
    init: Vec<(bool, Resources)>,
    app: Vec<Resources>,
}

impl Everybody {
    fn read(spec: &PodSpec) -> Result<Everybody, FieldError> {
        let at = |list: &str, i: usize, c: &Container| {
            resources(c).map_err(|e| FieldError { path: format!("spec.{list}[{i}].{}", e.path), ..e })
        };
        let init = spec.init_containers.iter().flatten().enumerate();
        Ok(Everybody {
            init: init.map(|(i, c)| Ok((is_sidecar(c), at("initContainers", i, c)?))).collect::<Result<_, _>>()?,
            app: spec.containers.iter().enumerate().map(|(i, c)| at("containers", i, c)).collect::<Result<_, _>>()?,
        })
    }

    fn each(&self) -> impl Iterator<Item = &Resources> {
        self.init.iter().map(|(_, r)| r).chain(&self.app)
    }

    fn total(&self, of: impl Fn(&Resources) -> u64) -> u64 {
        add_up(self.init.iter().map(|(sidecar, r)| (*sidecar, of(r))), self.app.iter().map(&of))
    }

    fn total_if_any(&self, of: impl Fn(&Resources) -> Option<u64>) -> Option<u64> {
        Some(self.total(|r| of(r).unwrap_or(0))).filter(|n| *n > 0)
    }

    fn total_if_all(&self, of: impl Fn(&Resources) -> Option<u64>) -> Option<u64> {
        self.each().all(|r| of(r).is_some()).then(|| self.total_if_any(&of)).flatten()
    }

    fn hugepages(&self) -> BTreeMap<u64, u64> {
        let sizes: BTreeSet<u64> = self.each().flat_map(|r| r.hugepages.keys().copied()).collect();
        let of = |size: u64| self.total(|r| r.hugepages.get(&size).copied().unwrap_or(0));
        sizes.into_iter().map(|size| (size, of(size))).collect()
    }
}

/// Amounts of the pod's cgroup. What `spec.resources` says counts; else requests add up by [`add_up`], and a limit is there only when every
/// container, init containers included, has one.
///
/// # Errors
/// As [`resources`], with the whole path.
pub fn pod_resources(spec: &PodSpec) -> Result<Resources, FieldError> {
    let all = Everybody::read(spec)?;
    let own = pod_level(spec)?.unwrap_or_default();
    let mut hugepages = all.hugepages();
    hugepages.extend(&own.hugepages);
    let memory_request = own.memory_request_bytes.or_else(|| all.total_if_any(|r| r.memory_request_bytes));
    Ok(Resources {
        cpu_request_millis: own.cpu_request_millis.or_else(|| all.total_if_any(|r| r.cpu_request_millis)),
        cpu_limit_millis: own.cpu_limit_millis.or_else(|| all.total_if_all(|r| r.cpu_limit_millis)),
        memory_request_bytes: memory_request,
        memory_limit_bytes: own.memory_limit_bytes.or_else(|| all.total_if_all(|r| r.memory_limit_bytes)),
        hugepages,
    })
}

/// What the pod's containers ask for together, without `spec.resources`: requests always, limits where every container has one.
pub(super) fn containers_together(spec: &PodSpec) -> Result<Resources, FieldError> {
    pod_resources(&PodSpec { resources: None, ..spec.clone() })
}

/// Amounts of a container's cgroup: where it has no limit of its own the pod's counts, so that it can see how much it has.
///
/// # Errors
/// As [`resources`].
pub fn effective_resources(spec: &PodSpec, c: &Container) -> Result<Resources, FieldError> {
    let own = resources(c)?;
    // An error up there is told with its own path.
    let pod = pod_level(spec).ok().flatten().unwrap_or_default();
    let cpu_limit_millis = own.cpu_limit_millis.or(pod.cpu_limit_millis);
    let asked = requests(c.resources.as_ref(), "cpu");
    let mut hugepages = pod.hugepages;
    hugepages.extend(own.hugepages);
    Ok(Resources {
        cpu_request_millis: own.cpu_request_millis.or(cpu_limit_millis.filter(|_| !asked)),
        cpu_limit_millis,
        memory_request_bytes: own.memory_request_bytes,
        memory_limit_bytes: own.memory_limit_bytes.or(pod.memory_limit_bytes),
        hugepages,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ResourceRequirements;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

    /// `"requests cpu=1 memory=1Gi; limits …"` in two halves.
    pub(in super::super) fn container(requests: &str, limits: &str) -> Container {
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

    pub(in super::super) fn spec(init: &[(&str, &str)], app: &[(&str, &str)]) -> PodSpec {
        let build = |list: &[(&str, &str)]| list.iter().map(|(r, l)| container(r, l)).collect::<Vec<_>>();
        PodSpec { init_containers: Some(build(init)), containers: build(app), ..Default::default() }
    }

    /// With `spec.resources`.
    pub(in super::super) fn whole(pod: (&str, &str), init: &[(&str, &str)], app: &[(&str, &str)]) -> PodSpec {
        PodSpec { resources: container(pod.0, pod.1).resources, ..spec(init, app) }
    }

    #[test]
    fn the_pods_own_resources_count_for_its_cgroup_and_for_containers_without() {
        let s = whole(("", "cpu=4 memory=400"), &[], &[("cpu=1", "memory=100"), ("", "")]);
        let pod = pod_resources(&s).expect("fine");
        assert_eq!((pod.cpu_request_millis, pod.cpu_limit_millis), (Some(1000), Some(4000)));
        assert_eq!((pod.memory_request_bytes, pod.memory_limit_bytes), (Some(100), Some(400)));
        let own = effective_resources(&s, &s.containers[0]).expect("fine");
        assert_eq!(
            (own.cpu_request_millis, own.cpu_limit_millis, own.memory_limit_bytes),
            (Some(1000), Some(4000), Some(100))
        );
        let none = effective_resources(&s, &s.containers[1]).expect("fine");
        assert_eq!((none.cpu_request_millis, none.cpu_limit_millis), (Some(4000), Some(4000)));
        assert_eq!((none.memory_request_bytes, none.memory_limit_bytes), (None, Some(400)));
    }

    #[test]
    fn huge_pages_of_the_pod_are_for_containers_that_say_nothing_of_them() {
        let s = whole(("", "hugepages-2Mi=8Mi"), &[], &[("", "cpu=1"), ("", "cpu=1 hugepages-2Mi=4Mi")]);
        let of = |n: usize| effective_resources(&s, &s.containers[n]).expect("fine").hugepages;
        assert_eq!((of(0), of(1)), ([(2 << 20, 8 << 20)].into(), [(2 << 20, 4 << 20)].into()));
    }

    #[test]
    fn a_request_of_zero_is_not_the_limit() {
        let s = spec(&[], &[("cpu=0 memory=0", "cpu=1 memory=1Gi")]);
        let own = effective_resources(&s, &s.containers[0]).expect("fine");
        assert_eq!((own.cpu_request_millis, own.memory_request_bytes), (None, None));
        assert_eq!((own.cpu_limit_millis, own.memory_limit_bytes), (Some(1000), Some(1 << 30)));
        let pod = pod_resources(&whole(("cpu=0 memory=0", "cpu=4 memory=4Gi"), &[], &[("", "")])).expect("fine");
        assert_eq!((pod.cpu_request_millis, pod.memory_request_bytes), (None, None));
    }

    #[test]
    fn sidecars_run_beside_the_apps_and_beside_later_steps() {
        for (init, app, want) in [
            (vec![], vec![1, 2], 3),
            (vec![(false, 5)], vec![1, 2], 5),
            (vec![(true, 5)], vec![1, 2], 8),
            (vec![(true, 5), (false, 4)], vec![1, 2], 9),
            (vec![(false, 4), (true, 5)], vec![1, 2], 8),
            (vec![(true, 2), (false, 9), (true, 3), (false, 5)], vec![1], 11),
            (vec![(true, u64::MAX), (false, 1)], vec![1], u64::MAX),
        ] {
            assert_eq!(add_up(init.clone(), app.clone()), want, "{init:?} {app:?}");
        }
        let mut s = spec(&[("memory=2Gi", ""), ("cpu=500m", "")], &[("memory=1Gi", "")]);
        s.init_containers.as_mut().expect("init")[0].restart_policy = Some("Always".into());
        let r = pod_resources(&s).expect("fine");
        assert_eq!((r.memory_request_bytes, r.cpu_request_millis), (Some(3 << 30), Some(500)));
    }

    #[test]
    fn huge_pages_add_up_by_size() {
        let s = spec(
            &[("", "cpu=1 hugepages-2Mi=8Mi")],
            &[("", "cpu=1 hugepages-2Mi=2Mi hugepages-1Gi=1Gi"), ("", "hugepages-2048Ki=4Mi")],
        );
        assert_eq!(pod_resources(&s).expect("fine").hugepages, [(2 << 20, 8 << 20), (1 << 30, 1 << 30)].into());
        for bad in ["hugepages-", "hugepages-0", "hugepages-x", "hugepages-1m", "2Mi", "hugepages--2Mi"] {
            assert_eq!(hugepage_size(bad), None, "{bad}");
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
}
