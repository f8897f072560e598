//! `husk run --dry-run`: what would be made, without making it.

use serde_json::Value;

use super::Error;
use super::get::Format;
use super::out::Out;
use crate::manifest::command::settle;
use crate::state::record::{Access, ContainerRecord, MountSource, PidMode, PodRecord};

/// In place of a uid that only a start makes.
pub const NO_UID: &str = "00000000-0000-0000-0000-000000000000";

/// Prints records as data: one as it is, several as a list.
///
/// # Errors
/// Standard output's.
pub fn data(out: &mut Out, records: &[PodRecord], format: Format) -> Result<(), Error> {
    let text = match records {
        [one] => format.render(one)?,
        all => format.render(&all)?,
    };
    out.raw(text.as_bytes())
}

/// Prints a record for people.
///
/// # Errors
/// Standard output's.
pub fn text(out: &mut Out, record: &PodRecord) -> Result<(), Error> {
    let sandbox = &record.sandbox;
    let uid = if record.uid() == NO_UID { "made at the start" } else { record.uid() };
    out.line(format!("pod {}", record.full_name()))?;
    let mut row =
        |name: &str, value: &str| out.line(format!("  {name:<14}{}", if value.is_empty() { "-" } else { value }));
    row("uid", uid)?;
    let shared = |host: bool, name: &'static str| if host { format!("{name}: host") } else { format!("{name}: pod") };
    let namespaces = [
        shared(sandbox.host_network, "net"),
        shared(sandbox.host_network, "uts"),
        shared(sandbox.host_ipc, "ipc"),
        shared(sandbox.host_pid, "pid"),
    ];
    row("namespaces", &namespaces.join(", "))?;
    row("hostname", &sandbox.hostname)?;
    row("cgroup", &record.cgroup.replace(NO_UID, "<uid>"))?;
    row("cgroup driver", record.cgroup_driver.name())?;
    row("limits", &numbers(&sandbox.limits)?)?;
    let sysctls: Vec<String> = sandbox.sysctls.iter().map(|(name, value)| format!("{name}={value}")).collect();
    row("sysctls", &sysctls.join(", "))?;
    let volumes = sandbox.volumes.iter().map(|v| format!("{} ({})", v.name, if v.memory { "memory" } else { "disk" }));
    row("volumes", &volumes.collect::<Vec<_>>().join(", "))?;
    let ports: Vec<String> = record
        .pod
        .spec
        .iter()
        .flat_map(|s| &s.containers)
        .flat_map(|c| c.ports.iter().flatten())
        .map(|p| {
            let host = p.host_port.filter(|port| *port != 0).map_or_else(String::new, |port| format!("{port}->"));
            format!("{host}{}/{}", p.container_port, p.protocol.as_deref().unwrap_or("TCP"))
        })
        .collect();
    row("ports", &ports.join(", "))?;
    row("logs", &record.log_dir.replace(NO_UID, "<uid>"))?;
    record.containers.iter().try_for_each(|c| container(out, c))
}

fn container(out: &mut Out, c: &ContainerRecord) -> Result<(), Error> {
    let kind = serde_json::to_value(c.kind)?;
    out.line(format!("  container {} ({})", c.name, kind.as_str().unwrap_or_default()))?;
    let mut row =
        |name: &str, value: &str| out.line(format!("    {name:<14}{}", if value.is_empty() { "-" } else { value }));
    row("image", &format!("{} ({})", c.image_ref, c.image_id))?;
    let shown = |text: &String| settle(text, &|path| format!("<{path}>"));
    row("command", &serde_json::to_string(&c.argv.iter().map(shown).collect::<Vec<_>>())?)?;
    row("directory", &c.cwd)?;
    let groups: Vec<String> = c.user.groups.iter().map(ToString::to_string).collect();
    row("user", &format!("{}:{} groups [{}]", c.user.uid, c.user.gid, groups.join(" ")))?;
    row(
        "pid namespace",
        match c.pid {
            PidMode::Container => "its own",
            PidMode::Pod => "the pod's",
            PidMode::Node => "the host's",
            PidMode::Target => "another container's",
        },
    )?;
    row("privileged", if c.privileged { "yes" } else { "no" })?;
    row("capabilities", &c.capabilities.join(" "))?;
    row("root", if c.readonly_root { "read-only" } else { "writable" })?;
    row("limits", &numbers(&c.limits)?)?;
    row("oom score", &c.oom_score_adj.to_string())?;
    for m in &c.mounts {
        let source = match &m.source {
            MountSource::Host { path, .. } => format!("host {path}"),
            MountSource::Volume { name } => format!("emptyDir {name}"),
            MountSource::Memory { name } => format!("emptyDir {name} in memory"),
        };
        let below = m.sub_path.as_ref().map_or_else(String::new, |path| format!(" below {path}"));
        let access = match m.access {
            Access::ReadWrite => "rw",
            Access::ReadOnly => "ro",
            Access::RecursiveReadOnly => "ro, with all below",
        };
        row("mount", &format!("{} from {source}{below} ({access})", m.destination))?;
    }
    if let Some(message) = &c.message {
        let or = if message.or_log { ", or the end of its log" } else { "" };
        row("last words", &format!("{}{or}", message.path))?;
    }
    c.env.iter().try_for_each(|variable| row("env", &shown(variable)))
}

/// What of a cgroup's values is set.
fn numbers(limits: &crate::cgroup::Limits) -> Result<String, Error> {
    let Value::Object(all) = serde_json::to_value(limits)? else { return Ok(String::new()) };
    let set = all.into_iter().filter(|(name, value)| {
        let nothing = value.is_null()
            || value == &Value::Bool(false)
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(|o| o.is_empty());
        // A program, not a number.
        !nothing && name != "devices"
    });
    Ok(set.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "))
}
