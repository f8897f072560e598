//! `husk describe`: all that is known about a pod, laid out for people as kubectl does it.

use std::fmt::Display;

use clap::Args;
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::get::{self, Select};
use super::out::{self, Out};
use super::{Context, Error, names, status};

/// Tell all about pods, for people.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk describe pod demo")]
pub struct Describe {
    /// pod and names, or names; pods alone means all
    #[arg(value_name = "[KIND] NAME")]
    what: Vec<String>,
    #[command(flatten)]
    select: Select,
}

impl Describe {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let names = names::names(&self.what).map_err(Error::usage)?;
        if self.what.is_empty() && self.select.selector.is_none() && !self.select.all_namespaces {
            return Err(Error::usage("which pod? name it, or say pods for all"));
        }
        let found = self.select.find(context, &names.names)?;
        if found.pods.is_empty() && found.complaints.is_empty() {
            out::say("no pods found");
        }
        let mut page = Page { out: Out::new(), indent: 0 };
        for (index, pod) in found.pods.iter().enumerate() {
            if index > 0 {
                page.out.raw(b"\n\n")?;
            }
            page.pod(pod, &found.oom_kills)?;
        }
        page.out.flush()?;
        found.finish()
    }
}

/// [`get::Found::oom_kills`].
type Kills = std::collections::BTreeMap<(String, String), u64>;

/// Where the values of the outermost fields stand.
const COLUMN: usize = 18;

/// Indented `Name:  value` lines.
struct Page {
    out: Out,
    indent: usize,
}

impl Page {
    fn field(&mut self, name: &str, value: impl Display) -> Result<(), Error> {
        let label = format!("{:indent$}{name}:", "", indent = self.indent);
        let value = value.to_string();
        if value.is_empty() {
            return self.out.line(label);
        }
        self.out.line(format!("{label:<width$} {value}", width = COLUMN + self.indent - 1))
    }

    fn optional(&mut self, name: &str, value: Option<impl Display>) -> Result<(), Error> {
        value.map_or(Ok(()), |value| self.field(name, value))
    }

    /// One value a line, the name on the first; `<none>` when there is none.
    fn list(&mut self, name: &str, values: impl IntoIterator<Item = String>) -> Result<(), Error> {
        let mut values = values.into_iter();
        self.field(name, values.next().unwrap_or_else(|| "<none>".into()))?;
        let indent = COLUMN + self.indent;
        values.try_for_each(|value| self.out.line(format!("{:indent$}{value}", "")))
    }

    fn indented(&mut self, line: &str) -> Result<(), Error> {
        let indent = self.indent;
        self.out.line(format!("{:indent$}{line}", ""))
    }

    /// A name, then what `inside` prints two columns further in.
    fn section(&mut self, name: &str, inside: impl FnOnce(&mut Page) -> Result<(), Error>) -> Result<(), Error> {
        self.field(name, "")?;
        self.indent += 2;
        let done = inside(self);
        self.indent -= 2;
        done
    }

    fn pod(&mut self, pod: &Pod, kills: &Kills) -> Result<(), Error> {
        let Some(spec) = &pod.spec else { return self.unknown(pod) };
        let row = status::row(pod, jiff::Timestamp::now());
        let status = pod.status.as_ref();
        let metadata = &pod.metadata;
        self.field("Name", get::name(pod))?;
        self.field("Namespace", metadata.namespace.as_deref().unwrap_or_default())?;
        self.optional("UID", metadata.uid.as_deref())?;
        self.optional("Start Time", status.and_then(|status| status.start_time.as_ref()).map(time))?;
        let pairs = |map: &Option<std::collections::BTreeMap<String, String>>, between: &str| {
            map.iter().flatten().map(|(key, value)| format!("{key}{between}{value}")).collect::<Vec<_>>()
        };
        self.list("Labels", pairs(&metadata.labels, "="))?;
        self.list("Annotations", pairs(&metadata.annotations, ": "))?;
        if let Some(deleted) = &metadata.deletion_timestamp {
            self.field("Status", format!("Terminating (since {})", time(deleted)))?;
            let grace = metadata.deletion_grace_period_seconds.map(|seconds| format!("{seconds}s"));
            self.optional("Termination Grace Period", grace)?;
        } else {
            self.field("Status", status.and_then(|status| status.phase.as_deref()).unwrap_or("Unknown"))?;
        }
        self.field("Ready", &row.ready)?;
        self.optional("Reason", status.and_then(|status| status.reason.as_deref()))?;
        self.optional("Message", status.and_then(|status| status.message.as_deref()))?;
        self.optional("IP", status.and_then(|status| status.pod_ip.as_deref()))?;
        let uid = metadata.uid.clone().unwrap_or_default();
        let kills_of = |name: &str| kills.get(&(uid.clone(), name.to_owned())).copied();
        let statuses = |list: Option<&Vec<ContainerStatus>>| list.cloned().unwrap_or_default();
        if let Some(inits) = spec.init_containers.as_ref().filter(|inits| !inits.is_empty()) {
            let statuses = statuses(status.and_then(|status| status.init_container_statuses.as_ref()));
            self.section("Init Containers", |page| page.containers(inits, &statuses, &kills_of))?;
        }
        let app_statuses = statuses(status.and_then(|status| status.container_statuses.as_ref()));
        self.section("Containers", |page| page.containers(&spec.containers, &app_statuses, &kills_of))?;
        let conditions: Vec<_> = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten().collect();
        if !conditions.is_empty() {
            self.section("Conditions", |page| {
                let width = conditions.iter().map(|condition| condition.type_.len()).max().unwrap_or(0).max(4) + 2;
                page.out.line(format!("  {:<width$}Status", "Type"))?;
                for condition in &conditions {
                    let why = condition.reason.as_deref().map(|reason| format!("   {reason}")).unwrap_or_default();
                    page.out.line(format!("  {:<width$}{}{why}", condition.type_, condition.status))?;
                }
                Ok(())
            })?;
        }
        match spec.volumes.as_deref().unwrap_or_default() {
            [] => self.field("Volumes", "<none>")?,
            volumes => self.section("Volumes", |page| volumes.iter().try_for_each(|volume| page.volume(volume)))?,
        }
        self.optional("QoS Class", status.and_then(|status| status.qos_class.as_deref()))?;
        self.optional("Restart Policy", spec.restart_policy.as_deref())
    }

    /// A pod whose records cannot be read.
    fn unknown(&mut self, pod: &Pod) -> Result<(), Error> {
        self.field("Name", get::name(pod))?;
        self.optional("Namespace", pod.metadata.namespace.as_deref())?;
        self.optional("UID", pod.metadata.uid.as_deref())?;
        self.field("Status", "Unknown")?;
        self.optional("Message", pod.status.as_ref().and_then(|status| status.message.as_deref()))
    }

    fn containers(
        &mut self,
        containers: &[Container],
        statuses: &[ContainerStatus],
        kills_of: &dyn Fn(&str) -> Option<u64>,
    ) -> Result<(), Error> {
        containers.iter().try_for_each(|container| {
            let status = statuses.iter().find(|status| status.name == container.name);
            self.section(&container.name, |page| page.container(container, status, kills_of(&container.name)))
        })
    }

    fn container(
        &mut self,
        container: &Container,
        status: Option<&ContainerStatus>,
        kills: Option<u64>,
    ) -> Result<(), Error> {
        self.optional("Container ID", status.and_then(|status| status.container_id.as_deref()))?;
        self.field("Image", container.image.as_deref().unwrap_or_default())?;
        self.optional("Image ID", status.map(|status| status.image_id.as_str()).filter(|id| !id.is_empty()))?;
        let ports: Vec<String> = container
            .ports
            .iter()
            .flatten()
            .map(|port| format!("{}/{}", port.container_port, port.protocol.as_deref().unwrap_or("TCP")))
            .collect();
        if !ports.is_empty() {
            self.field("Ports", ports.join(", "))?;
        }
        for (name, words) in [("Command", &container.command), ("Args", &container.args)] {
            if let Some(words) = words.as_ref().filter(|words| !words.is_empty()) {
                // A script in an argument is shown as the lines it has.
                let lines = words.iter().flat_map(|word| word.trim_end_matches('\n').split('\n'));
                self.section(name, |page| lines.into_iter().try_for_each(|line| page.indented(line)))?;
            }
        }
        if let Some(status) = status {
            self.state("State", status.state.as_ref())?;
            if status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
                self.state("Last State", status.last_state.as_ref())?;
            }
            self.field("Ready", if status.ready { "True" } else { "False" })?;
            self.field("Restart Count", status.restart_count)?;
            self.optional("OOM Kills", kills)?;
        }
        if let Some(resources) = &container.resources {
            for (name, quantities) in [("Limits", &resources.limits), ("Requests", &resources.requests)] {
                if let Some(quantities) = quantities.as_ref().filter(|quantities| !quantities.is_empty()) {
                    self.section(name, |page| {
                        quantities.iter().try_for_each(|(what, quantity)| page.field(what, &quantity.0))
                    })?;
                }
            }
        }
        let env = container.env.as_deref().unwrap_or_default();
        if env.is_empty() {
            self.field("Environment", "<none>")?;
        } else {
            self.section("Environment", |page| {
                env.iter()
                    .try_for_each(|variable| page.field(&variable.name, variable.value.as_deref().unwrap_or_default()))
            })?;
        }
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        if mounts.is_empty() {
            return self.field("Mounts", "<none>");
        }
        self.section("Mounts", |page| {
            mounts.iter().try_for_each(|mount| {
                let mode = if mount.read_only == Some(true) { "ro" } else { "rw" };
                let sub_path = mount.sub_path.as_ref().filter(|path| !path.is_empty());
                let path = sub_path.map(|path| format!(",path=\"{path}\"")).unwrap_or_default();
                page.indented(&format!("{} from {} ({mode}{path})", mount.mount_path, mount.name))
            })
        })
    }

    fn state(&mut self, name: &str, state: Option<&ContainerState>) -> Result<(), Error> {
        let Some(state) = state else { return self.field(name, "Waiting") };
        if let Some(running) = &state.running {
            self.field(name, "Running")?;
            return self.inner(|page| page.optional("Started", running.started_at.as_ref().map(time)));
        }
        if let Some(end) = &state.terminated {
            self.field(name, "Terminated")?;
            return self.inner(|page| page.end(end));
        }
        self.field(name, "Waiting")?;
        let waiting = state.waiting.clone().unwrap_or_default();
        self.inner(|page| {
            page.optional("Reason", waiting.reason)?;
            page.optional("Message", waiting.message.filter(|message| !message.is_empty()))
        })
    }

    fn end(&mut self, end: &ContainerStateTerminated) -> Result<(), Error> {
        self.optional("Reason", end.reason.as_deref().filter(|reason| !reason.is_empty()))?;
        self.optional("Message", end.message.as_deref().filter(|message| !message.is_empty()))?;
        self.field("Exit Code", end.exit_code)?;
        self.optional("Signal", end.signal.filter(|signal| *signal != 0))?;
        self.optional("Started", end.started_at.as_ref().map(time))?;
        self.optional("Finished", end.finished_at.as_ref().map(time))
    }

    fn inner(&mut self, inside: impl FnOnce(&mut Page) -> Result<(), Error>) -> Result<(), Error> {
        self.indent += 2;
        let done = inside(self);
        self.indent -= 2;
        done
    }

    fn volume(&mut self, volume: &Volume) -> Result<(), Error> {
        self.section(&volume.name, |page| {
            if let Some(empty) = &volume.empty_dir {
                page.field("Type", "EmptyDir (lives as long as the pod)")?;
                page.optional("Medium", empty.medium.as_deref().filter(|medium| !medium.is_empty()))?;
                page.field("SizeLimit", empty.size_limit.as_ref().map_or("<unset>", |limit| &limit.0))
            } else if let Some(host) = &volume.host_path {
                page.field("Type", "HostPath (a path of the host)")?;
                page.field("Path", &host.path)?;
                page.field("HostPathType", host.type_.as_deref().unwrap_or_default())
            } else {
                page.field("Type", "<unknown>")
            }
        })
    }
}

fn time(time: &Time) -> String {
    jiff::fmt::rfc2822::to_string(&time.0.to_zoned(jiff::tz::TimeZone::UTC)).unwrap_or_else(|_| time.0.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_in_a_letter() {
        let text = time(&Time("2026-01-02T03:04:05Z".parse().expect("a time")));
        assert_eq!(text, "Fri, 2 Jan 2026 03:04:05 +0000");
    }
}
