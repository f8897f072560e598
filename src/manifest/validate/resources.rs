//! `resources` of a container and of the pod.

use super::super::resources::{containers_together, effective_resources, hugepage_size, resources};
use super::super::{Quantity, annotations, quantity};
use super::{Report, any};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use std::collections::BTreeMap;

/// Below this no process gets as far as its first instruction: its page tables, stack and the kernel's own structures are charged to it.
const MIN_MEMORY_BYTES: u64 = 512 << 10;

/// The kernel's smallest quota is 1 ms; the period is 100 ms.
const MIN_CPU_MILLIS: u64 = 10;

/// No kernel has more CPUs.
const MAX_CPUS: u64 = 1 << 16;

pub(super) fn check(all: &ResourceRequirements, path: &str, r: &mut Report) {
    let ResourceRequirements { claims, limits, requests } = all;
    r.refuse(format!("{path}.claims"), any(claims));
    let none = BTreeMap::new();
    let written = limits.as_ref().unwrap_or(&none);
    let limits = check_amounts(written, &format!("{path}.limits"), r);
    // A request that was left out is the limit, and its mistakes were told there.
    let own = |(name, text): &(&String, &Text)| limits.contains_key(name.as_str()) || written.get(*name) != Some(*text);
    let requests = check_amounts(requests.iter().flatten().filter(own), &format!("{path}.requests"), r);
    for (name, request) in &requests {
        let message = match limits.get(name) {
            Some(limit) if hugepage_size(name).is_some() && request != limit => {
                format!("must be the limit, resources.limits.{name}: huge pages cannot be overcommitted")
            }
            Some(limit) if request > limit => format!("must not be more than the limit, resources.limits.{name}"),
            None if hugepage_size(name).is_some() => {
                format!("needs the same limit, resources.limits.{name}: huge pages cannot be overcommitted")
            }
            _ => continue,
        };
        r.add(format!("{path}.requests.{name}"), message);
    }
    let mut names = limits.keys().chain(requests.keys());
    let compute = names.clone().any(|name| matches!(*name, "cpu" | "memory"));
    if !compute && names.any(|name| hugepage_size(name).is_some()) {
        r.add(path, "huge pages need a request or a limit of cpu or memory beside them");
    }
    if let Some(millis) = limits.get("cpu").and_then(|q| q.millis()).filter(|n| *n > 0)
        && millis < MIN_CPU_MILLIS
    {
        r.add(
            format!("{path}.limits.cpu"),
            format!("must be at least {MIN_CPU_MILLIS}m: the kernel's smallest quota is 1 ms in 100"),
        );
    }
    if let Some(bytes) = limits.get("memory").and_then(|q| q.value()).filter(|n| *n > 0)
        && bytes < MIN_MEMORY_BYTES
    {
        r.add(
            format!("{path}.limits.memory"),
            format!("must be at least {}Ki: with less nothing can start", MIN_MEMORY_BYTES >> 10),
        );
    }
}

/// The amounts that can be read.
fn check_amounts<'a>(
    list: impl IntoIterator<Item = (&'a String, &'a Text)>,
    path: &str,
    r: &mut Report,
) -> BTreeMap<&'a str, Quantity> {
    let mut amounts = BTreeMap::new();
    let mut sizes = BTreeMap::new();
    for (name, text) in list {
        let page = hugepage_size(name);
        let path = format!("{path}.{}", name.escape_debug());
        if page.is_none() && !matches!(name.as_str(), "cpu" | "memory") {
            r.add(path, unknown(name));
            continue;
        }
        if let Some(other) = page.and_then(|size| sizes.insert(size, name)) {
            r.add(path, format!("is the same page size as {other}; name it once"));
            continue;
        }
        let whole = |q: &Quantity| page.is_none_or(|size| q.is_whole() && q.value().is_some_and(|n| n % size == 0));
        match quantity(&text.0) {
            Err(e) => r.add(path, format!("{:?} is {e}", text.0)),
            Ok(q) if q.is_negative() => r.add(path, format!("{:?} must not be negative", text.0)),
            Ok(q) if name == "cpu" && q.millis().is_none_or(|n| n > MAX_CPUS * 1000) => {
                r.add(path, format!("{:?} is too large: no kernel has more than {MAX_CPUS} CPUs", text.0));
            }
            // Parts of a byte that come of a larger unit are rounded up, as everywhere.
            Ok(q) if name != "cpu" && !q.is_whole() && text.0.ends_with(['m', 'u', 'n']) => {
                r.add(path, format!("{:?} is not a whole number of bytes; did you mean M or Mi instead of m?", text.0));
            }
            Ok(q) if !whole(&q) => r.add(path, format!("{:?} is not a whole number of pages", text.0)),
            Ok(q) => {
                amounts.insert(name.as_str(), q);
            }
        }
    }
    amounts
}

/// What to say of a resource that is not there.
fn unknown(name: &str) -> &'static str {
    if name == "ephemeral-storage" {
        "not supported yet: nothing counts what is written to disk; remove it"
    } else if name.starts_with("hugepages-") {
        "not the size of a page, such as hugepages-2Mi"
    } else if name.contains('/') {
        "there are no device plugins here that could provide an extended resource; remove it"
    } else {
        "no such resource; there are cpu, memory and hugepages-<size>"
    }
}

/// `spec.resources`, and how it goes with the containers.
pub(super) fn check_pod(spec: &PodSpec, own: &ResourceRequirements, r: &mut Report) {
    let before = r.errors.len();
    check(own, "spec.resources", r);
    // What cannot be read was told above, or with its container.
    let Ok(together) = containers_together(spec) else { return };
    if r.errors.len() > before {
        return;
    }
    let whole = as_container(own);
    let (Ok(asked), Ok(limits)) = (resources(&whole), resources(&without_requests(&whole))) else { return };
    let named = |name: &str| own.requests.as_ref().is_some_and(|list| list.contains_key(name));
    for (name, of_pod, of_all) in [
        ("cpu", asked.cpu_request_millis, together.cpu_request_millis),
        ("memory", asked.memory_request_bytes, together.memory_request_bytes),
    ] {
        // An absent one becomes the sum.
        if named(name) && of_all > of_pod {
            let unit = if name == "cpu" { "m" } else { " bytes" };
            let message =
                format!("must not be less than what the containers request together, {}{unit}", of_all.unwrap_or(0));
            r.add(format!("spec.resources.requests.{name}"), message);
        } else if !named(name) && of_all > limit_of(&limits, name).or(of_all) {
            let message = "must not be less than what the containers request together";
            r.add(format!("spec.resources.limits.{name}"), message);
        }
    }
    for (size, bytes) in &limits.hugepages {
        if together.hugepages.get(size).is_some_and(|all| all > bytes) {
            let name =
                own.limits.iter().flatten().map(|(name, _)| name).find(|name| hugepage_size(name) == Some(*size));
            let path = format!("spec.resources.limits.{}", name.map_or("hugepages", String::as_str));
            r.add(path, "must not be less than what the containers have together");
        }
    }
    let lists =
        [("initContainers", spec.init_containers.as_deref().unwrap_or_default()), ("containers", &spec.containers)];
    for (list, containers) in lists {
        for (i, c) in containers.iter().enumerate() {
            let Ok(of_container) = resources(c) else { continue };
            for name in ["cpu", "memory"] {
                if let Some(of_pod) = limit_of(&limits, name)
                    && limit_of(&of_container, name) > Some(of_pod)
                {
                    let message = format!("must not be more than the pod's limit, spec.resources.limits.{name}");
                    r.add(format!("spec.{list}[{i}].resources.limits.{name}"), message);
                }
            }
        }
    }
}

fn limit_of(r: &super::super::Resources, name: &str) -> Option<u64> {
    if name == "cpu" { r.cpu_limit_millis } else { r.memory_limit_bytes }
}

fn as_container(own: &ResourceRequirements) -> Container {
    Container { resources: Some(own.clone()), ..Container::default() }
}

fn without_requests(c: &Container) -> Container {
    let mut c = c.clone();
    if let Some(r) = &mut c.resources {
        r.requests = None;
    }
    c
}

/// The annotations of husk's own domain.
pub(super) fn check_annotations(pod: &Pod, r: &mut Report) {
    r.errors.extend(annotations::errors(pod));
    // With memory-qos the request is protected, which a container without one has nothing of.
    if let (Some(spec), Ok(true)) = (&pod.spec, annotations::pod_extras(pod).map(|e| e.memory_qos)) {
        let requests = |c: &Container| effective_resources(spec, c).is_ok_and(|r| r.memory_request_bytes.is_some());
        if !spec.init_containers.iter().flatten().chain(&spec.containers).any(requests) {
            r.add(
                annotations::path(pod, "memory-qos", None),
                "no container requests memory, so it would have no effect",
            );
        }
    }
}
