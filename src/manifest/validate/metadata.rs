//! `metadata`.

use super::{Report, any, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// Kubernetes' bound on all annotations together.
const MAX_ANNOTATIONS_BYTES: usize = 256 << 10;

pub(super) fn check(meta: &ObjectMeta, r: &mut Report) {
    let ObjectMeta {
        annotations,
        // What only a server writes was dropped by `default`.
        creation_timestamp: _,
        deletion_grace_period_seconds: _,
        deletion_timestamp: _,
        generation: _,
        managed_fields: _,
        resource_version: _,
        self_link: _,
        finalizers,
        generate_name,
        labels,
        name,
        namespace,
        // The garbage collector's of a cluster.
        owner_references: _,
        uid,
    } = meta;
    match name.as_deref() {
        None | Some("") if generate_name.is_some() => {
            r.add("metadata.generateName", "not supported yet; give the pod a metadata.name");
        }
        None | Some("") => r.add("metadata.name", "required"),
        Some(name) => r.name("metadata.name", name, names::dns_subdomain),
    }
    if let Some(namespace) = namespace {
        r.name("metadata.namespace", namespace, names::dns_label);
    }
    if let Some(uid) = uid {
        r.name("metadata.uid", uid, names::uid);
    }
    r.refuse("metadata.finalizers".to_owned(), any(finalizers));
    for (key, value) in labels.iter().flatten() {
        r.name("metadata.labels", key, names::qualified);
        r.name(format!("metadata.labels[{key:?}]"), value, names::label_value);
    }
    check_annotations(annotations, r);
}

fn check_annotations(annotations: &Option<BTreeMap<String, String>>, r: &mut Report) {
    let mut size = 0;
    for (key, value) in annotations.iter().flatten() {
        size += key.len() + value.len();
        // Kubernetes lets the prefix of an annotation have capitals.
        r.name("metadata.annotations", &key.to_lowercase(), names::qualified);
        // The old form of appArmorProfile, which the kubelet still obeys.
        r.refuse(
            format!("metadata.annotations[{key:?}]"),
            key.starts_with("container.apparmor.security.beta.kubernetes.io/"),
        );
    }
    if size > MAX_ANNOTATIONS_BYTES {
        r.add(
            "metadata.annotations",
            format!("must be no more than {MAX_ANNOTATIONS_BYTES} bytes together, are {size}"),
        );
    }
}
