//! `husk describe`: all that is known about a pod, laid out for people as kubectl does it.

mod container;
mod sheet;
mod volume;

use std::collections::BTreeMap;

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use self::container::More;
use self::sheet::Sheet;
use super::get::{self, Select, Shown};
use super::out::{self, Out};
use super::{Context, Error, error, events, names, span, status};
use crate::pod;
use crate::runtime::container::addressed;
use crate::state::PodEntry;
use crate::state::events::Event;

/// Tell all about pods, for people.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk describe pod demo")]
pub struct Describe {
    /// pod and names, or names; pods alone means all
    #[arg(value_name = "[KIND] NAME")]
    what: Vec<String>,
    #[command(flatten)]
    select: Select,
    /// With what has happened to them
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set, hide_possible_values = true)]
    show_events: bool,
}

impl Describe {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let names = names::names(&self.what).map_err(Error::usage)?;
        if self.what.is_empty() && self.select.selector.is_none() && !self.select.all_namespaces {
            return Err(Error::usage("which pod? name it, or say pods for all"));
        }
        let mut found = self.select.find(context, &names.names)?;
        if found.pods.is_empty() && found.complaints.is_empty() {
            out::say("no pods found");
        }
        let mut out = Out::new();
        for (index, Shown { pod, entry }) in found.pods.iter().enumerate() {
            if index > 0 {
                out.raw(b"\n\n")?;
            }
            let Some(entry) = entry else {
                out.raw(unknown(pod).as_bytes())?;
                continue;
            };
            // What cannot be read of its events must not hide the rest.
            let events = match self.show_events.then(|| context.roots.events(&entry.id)).transpose() {
                Ok(events) => events,
                Err(e) => {
                    found.complaints.push(format!("pod {}: {}", get::name(pod), error::sentence(&e)));
                    None
                }
            };
            let facts = Facts { pod, more: more(entry), host: events::host_name(), events, now: Timestamp::now() };
            out.raw(facts.page().as_bytes())?;
        }
        out.flush()?;
        found.finish()
    }
}

/// What `v1.Pod` does not tell of the containers, by their names.
fn more(entry: &PodEntry) -> BTreeMap<String, More> {
    let mut all: BTreeMap<String, More> = BTreeMap::new();
    for c in &entry.status.containers {
        let kills = pod::oom_kills(c);
        all.entry(c.name.clone()).or_default().oom_kills = Some(kills).filter(|kills| *kills > 0);
    }
    let network = entry.status.sandbox.as_ref().and_then(|sandbox| sandbox.network.as_deref());
    for c in &entry.record.containers {
        all.entry(c.name.clone()).or_default().env = addressed(c, network).env.clone();
    }
    all
}

/// A pod whose records cannot be read.
fn unknown(pod: &Pod) -> String {
    let mut sheet = Sheet::default();
    sheet.field(0, "Name", get::name(pod));
    sheet.optional(0, "Namespace", pod.metadata.namespace.as_deref());
    sheet.field(0, "Status", "Unknown");
    sheet.optional(0, "Message", pod.status.as_ref().and_then(|status| status.message.as_deref()));
    sheet.optional(0, "UID", pod.metadata.uid.as_deref());
    sheet.text()
}

/// All that a page is made of.
struct Facts<'a> {
    pod: &'a Pod,
    more: BTreeMap<String, More>,
    /// This host's name.
    host: String,
    /// In the order in which they were last seen; `None`: not to be told.
    events: Option<Vec<Event>>,
    now: Timestamp,
}

/// kubectl leaves it out, too: it is the manifest once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// No line of an annotation is longer.
const ANNOTATION_CHARS: usize = 140;

impl Facts<'_> {
    fn page(&self) -> String {
        let empty = (PodSpec::default(), PodStatus::default());
        let spec = self.pod.spec.as_ref().unwrap_or(&empty.0);
        let status = self.pod.status.as_ref().unwrap_or(&empty.1);
        let mut sheet = Sheet::default();
        self.head(&mut sheet, spec, status);
        if let Some(resources) = &spec.resources {
            sheet.line(0, "Resources:");
            container::resources(&mut sheet, 1, Some(resources));
        }
        let inits = spec.init_containers.as_deref().unwrap_or_default();
        self.containers(&mut sheet, "Init Containers", inits, status.init_container_statuses.as_deref());
        self.containers(&mut sheet, "Containers", &spec.containers, status.container_statuses.as_deref());
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(container::of_ephemeral);
        let ephemeral: Vec<Container> = ephemeral.collect();
        let statuses = status.ephemeral_container_statuses.as_deref();
        self.containers(&mut sheet, "Ephemeral Containers", &ephemeral, statuses);
        conditions(&mut sheet, spec, status);
        match spec.volumes.as_deref().unwrap_or_default() {
            [] => sheet.field(0, "Volumes", "<none>"),
            volumes => {
                sheet.line(0, "Volumes:");
                volumes.iter().for_each(|it| volume::describe(&mut sheet, it));
            }
        }
        sheet.field(0, "QoS Class", status.qos_class.as_deref().unwrap_or_default());
        sheet.list(0, "Node-Selectors", pairs(&spec.node_selector));
        sheet.list(0, "Tolerations", spec.tolerations.iter().flatten().map(toleration));
        sheet.optional(0, "Restart Policy", spec.restart_policy.as_deref());
        sheet.field(0, "Ready Containers", status::row(self.pod, self.now).ready);
        sheet.optional(0, "UID", self.pod.metadata.uid.as_deref());
        if let Some(events) = &self.events {
            self.events(&mut sheet, events);
        }
        sheet.text()
    }

    fn head(&self, sheet: &mut Sheet, spec: &PodSpec, status: &PodStatus) {
        let metadata = &self.pod.metadata;
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        sheet.field(0, "Name", get::name(self.pod));
        sheet.field(0, "Namespace", metadata.namespace.as_deref().unwrap_or_default());
        sheet.optional(0, "Priority", spec.priority);
        sheet.optional(0, "Priority Class Name", given(&spec.priority_class_name));
        sheet.optional(0, "Runtime Class Name", given(&spec.runtime_class_name));
        sheet.optional(0, "Service Account", given(&spec.service_account_name));
        let node = given(&spec.node_name).unwrap_or_else(|| self.host.clone());
        let host_ip = given(&status.host_ip).map(|ip| format!("/{ip}")).unwrap_or_default();
        sheet.field(0, "Node", format!("{node}{host_ip}"));
        sheet.optional(0, "Start Time", status.start_time.as_ref().map(time));
        sheet.list(0, "Labels", pairs(&metadata.labels));
        sheet.list(0, "Annotations", annotations(&metadata.annotations));
        let phase = status.phase.as_deref().unwrap_or("Unknown");
        match &metadata.deletion_timestamp {
            Some(deletion) if !matches!(phase, "Succeeded" | "Failed") => {
                // The time is that at which the grace is over.
                let grace = metadata.deletion_grace_period_seconds.unwrap_or(0);
                let seconds = self.now.as_second() - deletion.0.as_second() + grace;
                sheet.field(0, "Status", format!("Terminating (lasts {})", span::age(seconds)));
                sheet.field(0, "Termination Grace Period", format!("{grace}s"));
            }
            _ => sheet.field(0, "Status", phase),
        }
        sheet.optional(0, "Reason", given(&status.reason));
        sheet.optional(0, "Message", given(&status.message));
        let seccomp = spec.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
        sheet.optional(0, "SeccompProfile", seccomp.map(|profile| &profile.type_));
        sheet.optional(0, "LocalhostProfile", seccomp.and_then(|profile| profile.localhost_profile.as_ref()));
        sheet.field(0, "IP", status.pod_ip.as_deref().unwrap_or_default());
        match status.pod_ips.as_deref().unwrap_or_default() {
            [] => sheet.field(0, "IPs", "<none>"),
            ips => {
                sheet.line(0, "IPs:");
                ips.iter().for_each(|it| sheet.field(1, "IP", &it.ip));
            }
        }
        let mut owners = metadata.owner_references.iter().flatten();
        let controller = owners.find(|owner| owner.controller == Some(true));
        sheet.optional(0, "Controlled By", controller.map(|owner| format!("{}/{}", owner.kind, owner.name)));
    }

    fn containers(&self, sheet: &mut Sheet, title: &str, all: &[Container], statuses: Option<&[ContainerStatus]>) {
        match (all.is_empty(), title) {
            (true, "Containers") => return sheet.line(0, "Containers: <none>"),
            (true, _) => return,
            (false, _) => sheet.line(0, format!("{title}:")),
        }
        let none = More::default();
        for c in all {
            let status = statuses.unwrap_or_default().iter().find(|status| status.name == c.name);
            container::describe(sheet, c, status, self.more.get(&c.name).unwrap_or(&none));
        }
    }

    fn events(&self, sheet: &mut Sheet, events: &[Event]) {
        if events.is_empty() {
            return sheet.field(0, "Events", "<none>");
        }
        sheet.line(0, "Events:");
        const HEADER: [&str; 5] = ["Type", "Reason", "Age", "From", "Message"];
        sheet.cells(1, HEADER);
        sheet.cells(1, HEADER.map(|title| "-".repeat(title.len())));
        for event in events {
            let age = events::age(event, self.now);
            sheet.cells(1, [event.typ.as_str(), &event.reason, &age, pod::EVENT_SOURCE, event.message.trim_end()]);
        }
    }
}

fn conditions(sheet: &mut Sheet, spec: &PodSpec, status: &PodStatus) {
    let all = status.conditions.as_deref().unwrap_or_default();
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    if !gates.is_empty() {
        sheet.line(0, "Readiness Gates:");
        sheet.cells(1, ["Type", "Status"]);
        for gate in gates {
            let found = all.iter().find(|condition| condition.type_ == gate.condition_type);
            sheet.cells(1, [gate.condition_type.as_str(), found.map_or("<none>", |condition| &condition.status)]);
        }
    }
    if all.is_empty() {
        return;
    }
    sheet.line(0, "Conditions:");
    // kubectl has two columns; why one does not hold is what is asked next.
    let columns = if all.iter().any(|condition| condition.reason.is_some()) { 3 } else { 2 };
    sheet.cells(1, ["Type", "Status", "Reason"].into_iter().take(columns));
    for condition in all {
        let reason = condition.reason.as_deref().unwrap_or_default();
        sheet.cells(1, [condition.type_.as_str(), &condition.status, reason].into_iter().take(columns));
    }
}

/// `key=value`
fn pairs(map: &Option<BTreeMap<String, String>>) -> Vec<String> {
    map.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect()
}

/// `key: value`; what is long or has several lines stands below its key.
fn annotations(map: &Option<BTreeMap<String, String>>) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, value) in map.iter().flatten().filter(|(key, _)| *key != LAST_APPLIED) {
        let value = value.strip_suffix('\n').unwrap_or(value);
        if key.len() + value.len() + 2 <= ANNOTATION_CHARS && !value.contains('\n') {
            lines.push(format!("{key}: {value}"));
            continue;
        }
        lines.push(format!("{key}:"));
        for line in value.split('\n') {
            let short: String = line.chars().take(ANNOTATION_CHARS - 2).collect();
            let more = if short.len() < line.len() { "..." } else { "" };
            lines.push(format!("  {short}{more}"));
        }
    }
    lines
}

/// `key=value:NoSchedule for 300s`
fn toleration(it: &Toleration) -> String {
    let part = |text: &Option<String>, before: &str| {
        text.as_ref().filter(|text| !text.is_empty()).map(|text| format!("{before}{text}")).unwrap_or_default()
    };
    let mut text = format!("{}{}{}", part(&it.key, ""), part(&it.value, "="), part(&it.effect, ":"));
    if it.operator.as_deref() == Some("Exists") && part(&it.value, "").is_empty() {
        text.push_str(if text.is_empty() { "op=Exists" } else { " op=Exists" });
    }
    if let Some(seconds) = it.toleration_seconds {
        text.push_str(&format!(" for {seconds}s"));
    }
    text
}

/// As Go's RFC1123Z has it, which kubectl uses.
fn time(time: &Time) -> String {
    time.0.to_zoned(jiff::tz::TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
}

#[cfg(test)]
mod tests;
