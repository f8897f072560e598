//! An event as Kubernetes shows it.

use k8s_openapi::api::core::v1::{Event as Object, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::state::events::Event;
use crate::state::record::PodRecord;

/// Who tells: `source.component` of every event.
pub const EVENT_SOURCE: &str = "husk";

/// The `v1.Event`; `host` is this host's name. Its own name is made as client-go makes it: the pod's, and when it was first seen.
pub fn event_to_v1(record: &PodRecord, event: &Event, host: &str) -> Object {
    let metadata = &record.pod.metadata;
    let name = metadata.name.clone().unwrap_or_default();
    let first = event.first();
    Object {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", first.as_nanosecond())),
            namespace: metadata.namespace.clone(),
            creation_timestamp: Some(Time(first)),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            field_path: event.field_path.clone(),
            resource_version: None,
        },
        type_: Some(event.typ.as_str().to_owned()),
        reason: Some(event.reason.clone()),
        message: Some(event.message.clone()),
        count: Some(i32::try_from(event.count).unwrap_or(i32::MAX)),
        first_timestamp: Some(Time(first)),
        last_timestamp: Some(Time(event.last)),
        source: Some(EventSource { component: Some(EVENT_SOURCE.into()), host: Some(host.to_owned()) }),
        reporting_component: Some(EVENT_SOURCE.into()),
        reporting_instance: Some(host.to_owned()),
        ..Object::default()
    }
}
