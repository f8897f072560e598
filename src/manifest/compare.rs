//! What has to be done with a pod that lives so that it becomes what another manifest says: nothing, a change in place, or a new pod.

use super::resize::{Amounts, container, resize, set_resources};
use super::{default, quantity};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

/// Annotations of this prefix say what a pod is made of; they were read when it was made.
const OWN_ANNOTATIONS: &str = "husk.dev/";

/// What Kubernetes says of a change that no pod takes, in husk's terms.
const FORBIDDEN: &str = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, \
    `spec.containers[*].resources` (cpu and memory) and `spec.activeDeadlineSeconds`";

/// How two manifests of one pod differ.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference {
    /// They say the same.
    None,
    /// The pod that lives can become what is wanted.
    InPlace(InPlace),
    /// It cannot; a sentence each, with the field's path.
    Replace(Vec<String>),
}

/// A change that a pod takes while it lives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InPlace {
    /// Other resources, by container; one after the other, in this order.
    pub resizes: Vec<(String, Amounts)>,
    /// Containers with other images: those that run are started again.
    pub images: Vec<String>,
    /// Labels, annotations or `activeDeadlineSeconds` differ.
    pub amend: bool,
}

/// How `new` differs from the pod that was made of `old`. Both have their defaults and are valid; a uid counts only when `new` has one.
pub fn difference(old: &Pod, new: &Pod) -> Difference {
    let written = new;
    let (mut old, new) = (comparable(old), comparable(new));
    if new.metadata.uid.is_none() {
        old.metadata.uid = None;
    }
    let mut reasons = Vec::new();
    let mut change = InPlace::default();

    // What may differ is made equal, so that the rest can be compared as a whole.
    let own = |pod: &Pod| -> BTreeMap<String, String> {
        let all = pod.metadata.annotations.iter().flatten();
        all.filter(|(name, _)| name.starts_with(OWN_ANNOTATIONS)).map(|(n, v)| (n.clone(), v.clone())).collect()
    };
    let (had, has) = (own(&old), own(&new));
    let touched = had.iter().chain(&has).map(|(name, _)| name).filter(|name| had.get(*name) != has.get(*name));
    let mut names: Vec<&String> = touched.collect();
    names.dedup();
    reasons.extend(names.iter().map(|n| format!("metadata.annotations[{n}]: Forbidden: is read when the pod is made")));
    change.amend = old.metadata.labels != new.metadata.labels || old.metadata.annotations != new.metadata.annotations;
    old.metadata.labels.clone_from(&new.metadata.labels);
    old.metadata.annotations.clone_from(&new.metadata.annotations);

    let deadline = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.active_deadline_seconds);
    match (deadline(&old), deadline(&new)) {
        (a, b) if a == b => {}
        (Some(_), None) => reasons.push(
            "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"
                .into(),
        ),
        (Some(a), Some(b)) if b > a => reasons.push(format!(
            "spec.activeDeadlineSeconds: Invalid value: {b}: must be less than or equal to previous value, which is {a}"
        )),
        _ => change.amend = true,
    }
    if let Some(spec) = &mut old.spec {
        spec.active_deadline_seconds = deadline(&new);
    }

    resizes(&mut old, &new, written, &mut change, &mut reasons);
    images(&mut old, &new, &mut change);
    let mut paths = Vec::new();
    differing(&json(&old), &json(&new), "", &mut paths);
    if !paths.is_empty() {
        let (spec, other): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.starts_with("spec"));
        reasons.extend(other.into_iter().map(|path| format!("{path}: Invalid value: field is immutable")));
        if !spec.is_empty() {
            reasons.push(format!("{FORBIDDEN}; here: {}", spec.join(", ")));
        }
    }
    match () {
        () if !reasons.is_empty() => Difference::Replace(reasons),
        () if change == InPlace::default() => Difference::None,
        () => Difference::InPlace(change),
    }
}

/// The pod without what only a server writes, and quantities in one spelling.
pub fn comparable(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    default(&mut pod);
    let meta = &mut pod.metadata;
    meta.labels.take_if(|l| l.is_empty());
    meta.annotations.take_if(|a| a.is_empty());
    if let Some(spec) = &mut pod.spec {
        spec.init_containers.take_if(|list| list.is_empty());
        spec.volumes.take_if(|list| list.is_empty());
        // A record gets them while the pod lives; a manifest has none.
        spec.ephemeral_containers = None;
        for c in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            plain_amounts(c);
        }
    }
    pod
}

fn plain_amounts(c: &mut Container) {
    let Some(resources) = &mut c.resources else { return };
    for list in [&mut resources.limits, &mut resources.requests] {
        list.take_if(|list| list.is_empty());
        for amount in list.iter_mut().flat_map(|list| list.values_mut()) {
            // Thousandths tell all amounts apart but for the very large ones, whose text stays.
            if let Some(millis) = quantity(&amount.0).ok().and_then(|q| q.millis()) {
                *amount = match (millis % 1000, millis / 1000) {
                    (0, whole) => Quantity(whole.to_string()),
                    _ => Quantity(format!("{millis}m")),
                };
            }
        }
    }
    c.resources.take_if(|r| *r == Default::default());
}

/// Takes over into `old` what containers of `new` have of CPU and memory, as far as pods that live allow it. The change has the words of `written`.
fn resizes(old: &mut Pod, new: &Pod, written: &Pod, change: &mut InPlace, reasons: &mut Vec<String>) {
    let spec = new.spec.clone().unwrap_or_default();
    for c in &spec.containers {
        let (Some(had), Some(text)) = (container(old, &c.name), container(written, &c.name)) else { continue };
        let amount = |c: &Container, limit: bool, name: &str| {
            let resources = c.resources.as_ref()?;
            let list = if limit { &resources.limits } else { &resources.requests };
            list.as_ref()?.get(name).map(|q| q.0.clone())
        };
        let differs = |limit, name| amount(c, limit, name) != amount(had, limit, name);
        let changed = |limit, name| amount(text, limit, name).filter(|_| differs(limit, name));
        let amounts = Amounts {
            cpu: changed(true, "cpu"),
            memory: changed(true, "memory"),
            cpu_request: changed(false, "cpu"),
            memory_request: changed(false, "memory"),
        };
        if amounts == Amounts::default() {
            continue;
        }
        match resize(old, &c.name, &amounts) {
            Ok(done) => {
                if let Some(done) = done {
                    set_resources(old, &c.name, done.resources);
                    *old = comparable(old);
                }
                change.resizes.push((c.name.clone(), amounts));
            }
            Err(why) => {
                reasons.push(format!("spec.containers[{}].resources: Invalid value: {why}", c.name));
                set_resources(old, &c.name, c.resources.clone().unwrap_or_default());
                *old = comparable(old);
            }
        }
    }
}

/// Takes over the images of `new` into `old`. Containers that have come, gone or moved are left for the comparison of the rest.
fn images(old: &mut Pod, new: &Pod, change: &mut InPlace) {
    let (Some(had), Some(has)) = (&mut old.spec, &new.spec) else { return };
    let inits = had.init_containers.iter_mut().flatten().zip(has.init_containers.iter().flatten());
    for (had, has) in inits.chain(had.containers.iter_mut().zip(&has.containers)) {
        if had.name == has.name && had.image != has.image {
            had.image.clone_from(&has.image);
            change.images.push(has.name.clone());
        }
    }
}

fn json(pod: &Pod) -> Value {
    // A pod that was read can be written.
    serde_json::to_value(pod).unwrap_or_default()
}

/// The paths at which two values differ; a list of another length is one path.
fn differing(old: &Value, new: &Value, path: &str, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                differing(a.get(name).unwrap_or(&Value::Null), b.get(name).unwrap_or(&Value::Null), &inner, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differing(a, b, &format!("{path}[{index}]"), found);
            }
        }
        (a, b) if a == b => {}
        _ => found.push(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{parse, validate};
    use super::*;

    fn pod(metadata: &str, spec: &str, container: &str) -> Pod {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a{metadata}}}, spec: {{containers: [{{name: c, image: x{container}}}]{spec}}}}}"
        );
        let mut pod = parse(text.as_bytes(), "x").expect("parses").remove(0);
        default(&mut pod);
        validate(&pod).expect("valid");
        pod
    }

    fn in_place(old: &Pod, new: &Pod) -> InPlace {
        match difference(old, new) {
            Difference::InPlace(change) => change,
            other => panic!("{other:?}"),
        }
    }

    fn replaced(old: &Pod, new: &Pod) -> String {
        match difference(old, new) {
            Difference::Replace(reasons) => reasons.join("\n"),
            other => panic!("{other:?}"),
        }
    }

    const SMALL: &str = ", resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 200m, memory: 32Mi}}";

    #[test]
    fn another_spelling_of_the_same_is_no_difference() {
        let mut made = pod(", labels: {}", "", SMALL);
        made.metadata.uid = Some("u".into());
        let other = SMALL.replace("200m", "0.2").replace("32Mi", "33554432");
        assert_eq!(difference(&made, &pod("", ", restartPolicy: Always, volumes: []", &other)), Difference::None);
        assert_eq!(difference(&made, &pod(", uid: u", "", SMALL)), Difference::None);
    }

    #[test]
    fn labels_and_annotations_change_in_place() {
        let old = pod(", labels: {a: b}, annotations: {n: m}", "", "");
        for new in [pod("", "", ""), pod(", labels: {a: c}, annotations: {n: m}", "", "")] {
            assert_eq!(in_place(&old, &new), InPlace { amend: true, ..InPlace::default() });
        }
    }

    #[test]
    fn cpu_and_memory_change_in_place_and_only_what_differs_is_named() {
        let new = pod("", "", &SMALL.replace("200m", "300m").replace("16Mi", "17Mi"));
        let amounts = Amounts { cpu: Some("300m".into()), memory_request: Some("17Mi".into()), ..Amounts::default() };
        let want = InPlace { resizes: vec![("c".into(), amounts)], ..InPlace::default() };
        assert_eq!(in_place(&pod("", "", SMALL), &new), want);
    }

    #[test]
    fn what_no_resize_can_do_takes_a_new_pod() {
        for (old, new, says) in [
            (SMALL, "", "here: spec.containers[0].resources"),
            (SMALL, ", resources: {requests: {cpu: 100m}}", "here: spec.containers[0].resources"),
            (
                "",
                SMALL,
                "spec.containers[c].resources: Invalid value: container c: this would make the pod Burstable of BestEffort",
            ),
            ("", ", command: [a]", "here: spec.containers[0].command"),
        ] {
            let said = replaced(&pod("", "", old), &pod("", "", new));
            assert!(said.contains(says), "{old} to {new:?}: {said}");
        }
    }

    #[test]
    fn an_image_is_exchanged_in_place() {
        let two = ", initContainers: [{name: i, image: w}]";
        let old = pod("", two, "");
        let mut new = old.clone();
        super::super::set_image(&mut new, "i", "z");
        assert_eq!(in_place(&old, &new), InPlace { images: vec!["i".into()], ..InPlace::default() });
        super::super::set_image(&mut new, "c", "z");
        assert_eq!(in_place(&old, &new).images, ["i", "c"]);
        // Another container is not the same one with another image.
        new.spec.as_mut().expect("spec").containers[0].name = "d".into();
        assert!(replaced(&old, &new).contains("here: spec.containers[0].image, spec.containers[0].name"));
        assert!(replaced(&old, &pod("", "", "")).ends_with("here: spec.initContainers"));
    }

    #[test]
    fn what_is_fixed_is_named_by_its_path() {
        let old = pod("", "", "");
        assert!(replaced(&old, &pod("", ", restartPolicy: Never", "")).ends_with("here: spec.restartPolicy"));
        let mut made = old.clone();
        made.metadata.uid = Some("u".into());
        let said = replaced(&made, &pod(", uid: v", "", ""));
        assert_eq!(said, "metadata.uid: Invalid value: field is immutable");
        let said = replaced(&old, &pod(", annotations: {husk.dev/oom-single-process: c}", "", ""));
        assert_eq!(said, "metadata.annotations[husk.dev/oom-single-process]: Forbidden: is read when the pod is made");
    }

    #[test]
    fn a_deadline_may_come_and_come_nearer() {
        let with = |seconds: Option<i64>| {
            let mut made = pod("", "", "");
            made.spec.as_mut().expect("spec").active_deadline_seconds = seconds;
            made
        };
        for (old, new) in [(None, Some(5)), (Some(9), Some(5))] {
            assert_eq!(in_place(&with(old), &with(new)), InPlace { amend: true, ..InPlace::default() });
        }
        assert!(replaced(&with(Some(5)), &with(Some(9))).contains("less than or equal to previous value, which is 5"));
        assert!(replaced(&with(Some(5)), &with(None)).contains("must not update from a positive integer to nil value"));
    }
}
