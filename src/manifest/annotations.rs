//! What Kubernetes has no field for in a pod: annotations of husk's own domain, `husk.dev/<name>` for the pod and
//! `husk.dev/<name>.<container>` for one container. `docs/compatibility.md` has the list.

use super::{FieldError, quantity};
use crate::cpu_list;
use k8s_openapi::api::core::v1::{Container, Pod};

/// Who owns these annotations.
const DOMAIN: &str = "husk.dev/";

/// Each with whether it can be said of one container alone.
const NAMES: &[(&str, bool)] = &[
    ("cni-ip-ranges", false),
    ("cni-ips", false),
    ("cni-mac", false),
    ("cpuset-cpus", true),
    ("cpuset-mems", true),
    ("max-container-restart-period", false),
    ("memory-high", true),
    ("memory-min", true),
    ("memory-qos", false),
    ("oom-single-process", false),
    ("pids-max", true),
    ("swap", true),
];

/// The containers of which the kernel shall kill one process when memory runs out, not all: the kubelet's `singleProcessOOMKill`, for single containers.
/// `oom-single-process` names them, with commas between.
pub fn oom_single_process(pod: &Pod) -> impl Iterator<Item = &str> {
    entry(pod, "oom-single-process", None).into_iter().flat_map(|(_, list)| list.split(',')).map(str::trim)
}

/// The longest wait before a container is started again, in seconds: the kubelet's `crashLoopBackOff.maxContainerRestartPeriod`, for one pod.
///
/// # Errors
/// A value that makes no sense.
pub fn max_container_restart_period(pod: &Pod) -> Result<Option<u64>, FieldError> {
    read(entry(pod, "max-container-restart-period", None), |text| {
        let seconds = text.strip_suffix('s').and_then(|n| n.parse().ok()).filter(|n| (1..=300).contains(n));
        seconds.ok_or_else(|| format!("{text:?} must be between 1s and 300s, in whole seconds"))
    })
}

/// How much swap a container gets on top of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// So many bytes.
    Bytes(u64),
    /// By the kubelet's rule of that name, see [`super::limited_swap`].
    Limited,
}

/// What annotations ask for a cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// `cpuset-cpus`, a list that can be read.
    pub cpuset_cpus: Option<String>,
    /// `cpuset-mems`, a list that can be read.
    pub cpuset_mems: Option<String>,
    /// `memory-high` in bytes.
    pub memory_high_bytes: Option<u64>,
    /// `memory-min` in bytes.
    pub memory_min_bytes: Option<u64>,
    /// `memory-qos`.
    pub memory_qos: bool,
    /// `pids-max`, at least 1.
    pub pids_max: Option<u64>,
    /// `swap`.
    pub swap: Option<Swap>,
}

/// One annotation's key and value.
type Entry<'a> = Option<(&'a str, &'a str)>;

fn entry<'a>(pod: &'a Pod, name: &str, container: Option<&str>) -> Entry<'a> {
    let all = pod.metadata.annotations.as_ref()?;
    let key = match container {
        Some(container) => format!("{DOMAIN}{name}.{container}"),
        None => format!("{DOMAIN}{name}"),
    };
    all.get_key_value(&key).map(|(key, value)| (key.as_str(), value.as_str()))
}

fn read<T>(entry: Entry<'_>, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, FieldError> {
    let Some((key, value)) = entry else { return Ok(None) };
    parse(value).map(Some).map_err(|message| FieldError { path: path_of(key), message })
}

fn path_of(key: &str) -> String {
    format!("metadata.annotations[{key:?}]")
}

/// Where the value of `name` for a container was written: its own annotation, else the pod's.
pub fn path(pod: &Pod, name: &str, container: Option<&str>) -> String {
    let own = entry(pod, name, container).or_else(|| entry(pod, name, None));
    own.map_or_else(|| path_of(&format!("{DOMAIN}{name}")), |(key, _)| path_of(key))
}

/// What is asked for the pod's own cgroup.
///
/// # Errors
/// A value that makes no sense.
pub fn pod_extras(pod: &Pod) -> Result<Extras, FieldError> {
    if pod.metadata.annotations.is_none() {
        return Ok(Extras::default());
    }
    Ok(Extras {
        cpuset_cpus: read(entry(pod, "cpuset-cpus", None), list)?,
        cpuset_mems: read(entry(pod, "cpuset-mems", None), list)?,
        memory_qos: read(entry(pod, "memory-qos", None), switch)?.unwrap_or(false),
        pids_max: read(entry(pod, "pids-max", None), count)?,
        ..Extras::default()
    })
}

/// What is asked for a container's cgroup. What the pod says of memory and swap counts for each container that says nothing itself; what it says of
/// cpusets and pids is in force on the pod's cgroup and needs no repetition.
///
/// # Errors
/// A value that makes no sense.
pub fn container_extras(pod: &Pod, name: &str) -> Result<Extras, FieldError> {
    if pod.metadata.annotations.is_none() {
        return Ok(Extras::default());
    }
    let own = |what: &str| entry(pod, what, Some(name));
    let any = |what: &str| own(what).or_else(|| entry(pod, what, None));
    Ok(Extras {
        cpuset_cpus: read(own("cpuset-cpus"), list)?,
        cpuset_mems: read(own("cpuset-mems"), list)?,
        memory_high_bytes: read(any("memory-high"), bytes)?,
        memory_min_bytes: read(any("memory-min"), bytes)?,
        memory_qos: read(entry(pod, "memory-qos", None), switch)?.unwrap_or(false),
        pids_max: read(own("pids-max"), count)?,
        swap: read(any("swap"), swap)?,
    })
}

/// Everything wrong with the annotations of our domain.
pub(super) fn errors(pod: &Pod) -> Vec<FieldError> {
    let spec = pod.spec.as_ref();
    let containers: Vec<&Container> =
        spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers)).collect();
    let mut errors = Vec::new();
    for key in pod.metadata.annotations.iter().flatten().map(|(key, _)| key) {
        let Some(rest) = key.strip_prefix(DOMAIN) else { continue };
        let (name, container) = rest.split_once('.').map_or((rest, None), |(name, c)| (name, Some(c)));
        let mut fail = |message: String| errors.push(FieldError { path: path_of(key), message });
        match (NAMES.iter().find(|(known, _)| *known == name), container) {
            (None, _) => {
                let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
                fail(format!("unknown; husk.dev has {}", known.join(", ")));
            }
            (Some((_, false)), Some(_)) => fail("is about the whole pod; remove the container's name".to_owned()),
            (Some((_, true)), Some(c)) if containers.iter().all(|known| known.name != c) => {
                fail(format!("the pod has no container {c:?}"));
            }
            _ => {}
        }
    }
    for name in oom_single_process(pod).filter(|name| containers.iter().all(|c| c.name != *name)) {
        errors.push(FieldError {
            path: path(pod, "oom-single-process", None),
            message: format!("{name:?} is no container of the pod; names of containers are meant, with commas between"),
        });
    }
    errors.extend(max_container_restart_period(pod).err());
    errors.extend(pod_extras(pod).err());
    for c in containers {
        match container_extras(pod, &c.name) {
            Ok(extras) => {
                errors.extend(beyond_limit(pod, c, &extras));
                errors.extend(beyond_pod(pod, c, &extras));
            }
            Err(e) => errors.push(e),
        }
    }
    // What the pod says of all its containers is wrong once.
    errors.dedup();
    errors
}

/// Above the limit neither has an effect.
fn beyond_limit(pod: &Pod, c: &Container, extras: &Extras) -> Vec<FieldError> {
    let spec = pod.spec.clone().unwrap_or_default();
    // What is wrong with the amounts is told where they stand.
    let Ok(Some(limit)) = super::effective_resources(&spec, c).map(|r| r.memory_limit_bytes) else { return Vec::new() };
    let asked = [("memory-high", extras.memory_high_bytes), ("memory-min", extras.memory_min_bytes)];
    let beyond = asked.into_iter().filter(|(_, bytes)| bytes.is_some_and(|n| n > limit));
    beyond
        .map(|(name, _)| FieldError {
            path: path(pod, name, Some(&c.name)),
            message: format!("must not be more than the memory limit of container {}, {limit} bytes", c.name),
        })
        .collect()
}

/// A container can have only what its pod has.
fn beyond_pod(pod: &Pod, c: &Container, extras: &Extras) -> Vec<FieldError> {
    let Ok(whole) = pod_extras(pod) else { return Vec::new() };
    let lists = [
        ("cpuset-cpus", &extras.cpuset_cpus, &whole.cpuset_cpus),
        ("cpuset-mems", &extras.cpuset_mems, &whole.cpuset_mems),
    ];
    let mut errors = Vec::new();
    for (name, own, of_pod) in lists {
        let (Some(own), Some(of_pod)) = (own, of_pod) else { continue };
        if let (Ok(own), Ok(all)) = (cpu_list::parse(own), cpu_list::parse(of_pod))
            && !own.is_subset(&all)
        {
            let message = format!("must be among those of the pod, {DOMAIN}{name}: {of_pod}");
            errors.push(FieldError { path: path(pod, name, Some(&c.name)), message });
        }
    }
    errors
}

fn list(text: &str) -> Result<String, String> {
    cpu_list::parse(text).map(|_| text.to_owned()).map_err(|e| format!("{text:?} {e}"))
}

fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} must be \"true\" or \"false\""))
}

fn count(text: &str) -> Result<u64, String> {
    // The kernel's largest number of tasks.
    let number = text.parse::<u64>().ok().filter(|n| (1..=1 << 22).contains(n));
    number.ok_or_else(|| format!("{text:?} must be a number between 1 and {}", 1 << 22))
}

fn bytes(text: &str) -> Result<u64, String> {
    let parsed = quantity(text).map_err(|e| format!("{text:?} is {e}"))?;
    if parsed.is_negative() {
        return Err(format!("{text:?} must not be negative"));
    }
    match parsed.value() {
        Some(bytes) if parsed.is_whole() => Ok(bytes),
        _ => Err(format!("{text:?} is not a whole number of bytes; did you mean M or Mi instead of m?")),
    }
}

fn swap(text: &str) -> Result<Swap, String> {
    if text == "LimitedSwap" { Ok(Swap::Limited) } else { bytes(text).map(Swap::Bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{default, parse};

    fn pod(annotations: &str) -> Pod {
        let yaml = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: demo, annotations: {{{annotations}}}}}, spec: {{\
             initContainers: [{{name: i, image: x}}], containers: [{{name: c, image: x, resources: {{limits: {{memory: 64Mi}}}}}}, {{name: d, image: x}}]}}}}"
        );
        let mut pod = parse(yaml.as_bytes(), "x").expect("parses").remove(0);
        default(&mut pod);
        pod
    }

    #[test]
    fn a_container_says_more_than_its_pod() {
        let pod = pod(
            "husk.dev/swap: 1Mi, husk.dev/swap.c: LimitedSwap, husk.dev/cpuset-cpus: '0-1', husk.dev/cpuset-cpus.c: '1', \
             husk.dev/memory-high: 32Mi, husk.dev/pids-max: '9', husk.dev/memory-qos: 'true', husk.dev/max-container-restart-period: 90s, example.com/other: x",
        );
        assert_eq!(errors(&pod), []);
        assert_eq!(max_container_restart_period(&pod), Ok(Some(90)));
        let whole = pod_extras(&pod).unwrap();
        assert_eq!(
            (whole.cpuset_cpus.as_deref(), whole.pids_max, whole.memory_high_bytes),
            (Some("0-1"), Some(9), None)
        );
        let (c, d) = (container_extras(&pod, "c").unwrap(), container_extras(&pod, "d").unwrap());
        assert_eq!((c.swap, d.swap), (Some(Swap::Limited), Some(Swap::Bytes(1 << 20))));
        assert_eq!((c.cpuset_cpus.as_deref(), d.cpuset_cpus), (Some("1"), None));
        assert_eq!((c.memory_high_bytes, c.pids_max, c.memory_qos), (Some(32 << 20), None, true));
    }

    #[test]
    fn what_makes_no_sense_is_refused_once_at_its_key() {
        for (key, value) in [
            ("husk.dev/cpusets", "0"),
            ("husk.dev/swap.nobody", "1Mi"),
            ("husk.dev/memory-qos.c", "true"),
            ("husk.dev/memory-qos", "yes"),
            ("husk.dev/cpuset-cpus", ""),
            ("husk.dev/cpuset-cpus.c", "0-"),
            ("husk.dev/cpuset-mems", "none"),
            ("husk.dev/swap", "unlimited"),
            ("husk.dev/swap", "-1"),
            ("husk.dev/swap.i", "1e400"),
            ("husk.dev/memory-high", "1m"),
            ("husk.dev/memory-high", "65Mi"),
            ("husk.dev/memory-min.c", "65Mi"),
            ("husk.dev/max-container-restart-period", "0s"),
            ("husk.dev/max-container-restart-period", "301s"),
            ("husk.dev/max-container-restart-period", "60"),
            ("husk.dev/max-container-restart-period.c", "60s"),
            ("husk.dev/pids-max", "0"),
            ("husk.dev/pids-max.d", "9999999"),
        ] {
            let errors = errors(&pod(&format!("'{key}': '{value}'")));
            let want = format!("metadata.annotations[{key:?}]: ");
            assert!(errors.len() == 1 && errors[0].to_string().starts_with(&want), "{key}={value}: {errors:?}");
        }
        let errors = errors(&pod("husk.dev/cpuset-cpus: '0-1', husk.dev/cpuset-cpus.c: '1-2'"));
        assert_eq!(errors.len(), 1);
        assert!(errors[0].path.contains("cpuset-cpus.c"), "{errors:?}");
    }
}
