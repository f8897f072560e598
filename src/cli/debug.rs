//! `husk debug`: another container beside those of a pod that runs, or a copy of a pod to look into.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use husk_oci::sys::random;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, EphemeralContainer, Pod, SecurityContext, VolumeMount,
};

use super::attach::{self, From, Session};
use super::out::Out;
use super::{Context, Error, NetworkOption};
use crate::state::PodEntry;
use crate::state::record::{ContainerKind, Owner};
use crate::{manifest, network, runtime};

/// Look into a pod with a container of your own.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  husk debug -it demo --image busybox:1 --target server\n  \
    husk debug demo --image busybox:1 --name watch --volume data:/data:ro -- tail -f /data/log\n  \
    husk debug demo --remove watch\n  husk debug -it demo --copy-to demo-2 --container server -- sh\n\n\
    With -i the exit code is the container's, as with husk attach")]
pub struct Debug {
    /// The pod, as NAME or pod/NAME
    pod: String,
    /// Image of the container that is added, or in a copy of --container
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The container whose processes it sees
    #[arg(long, value_name = "NAME", conflicts_with = "copy_to")]
    target: Option<String>,
    /// Name of the container that is added [default: debugger- and five letters], or in a copy the one to change
    #[arg(short = 'c', long, visible_alias = "container", value_name = "NAME")]
    name: Option<String>,
    /// Pass standard input on, and wait for the container's end
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    tty: bool,
    /// An environment variable; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = Variable::from_str)]
    env: Vec<Variable>,
    /// A volume of the pod, and where it is mounted; may be repeated
    #[arg(long, visible_alias = "mount", value_name = "NAME:PATH[:ro]", value_parser = Mount::from_str)]
    volume: Vec<Mount>,
    /// What the container may do
    #[arg(long, value_enum, default_value_t = Profile::General)]
    profile: Profile,
    /// End an ephemeral container and take it away, with its log
    #[arg(long, value_name = "NAME", conflicts_with_all = ["image", "target", "name", "stdin", "tty", "env", "volume", "copy_to", "command"])]
    remove: Option<String>,
    /// Make a copy of the pod under this name instead, without labels, probes and lifecycle hooks
    #[arg(long, value_name = "NAME")]
    copy_to: Option<String>,
    /// Other images in the copy: NAME=IMAGE, or *=IMAGE for all; may be repeated
    #[arg(long, value_name = "NAME=IMAGE", requires = "copy_to", value_delimiter = ',', value_parser = Variable::from_str)]
    set_image: Vec<Variable>,
    /// The containers of the copy see each other's processes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    share_processes: bool,
    /// The copy keeps its labels
    #[arg(long, requires = "copy_to")]
    keep_labels: bool,
    /// The copy keeps its annotations
    #[arg(long, requires = "copy_to")]
    keep_annotations: bool,
    /// The copy keeps its liveness probes
    #[arg(long, requires = "copy_to")]
    keep_liveness: bool,
    /// The copy keeps its readiness probes
    #[arg(long, requires = "copy_to")]
    keep_readiness: bool,
    /// The copy keeps its startup probes
    #[arg(long, requires = "copy_to")]
    keep_startup: bool,
    /// The copy keeps its init containers
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    keep_init_containers: bool,
    #[command(flatten)]
    network: NetworkOption,
    /// The command and its arguments, behind -- [default: the image's]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// `NAME=VALUE`.
#[derive(Clone, Debug)]
struct Variable(String, String);

impl FromStr for Variable {
    type Err = String;

    fn from_str(word: &str) -> Result<Variable, String> {
        match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Variable(name.into(), value.into())),
            _ => Err(format!("{word:?} must be NAME=VALUE")),
        }
    }
}

/// `NAME:PATH[:ro]`.
#[derive(Clone, Debug)]
struct Mount(VolumeMount);

impl FromStr for Mount {
    type Err = String;

    fn from_str(word: &str) -> Result<Mount, String> {
        let parts: Vec<&str> = word.split(':').collect();
        let (name, path, read_only) = match parts[..] {
            [name, path] => (name, path, None),
            [name, path, "ro"] => (name, path, Some(true)),
            [name, path, "rw"] => (name, path, None),
            _ => return Err(format!("{word:?} must be NAME:PATH, or NAME:PATH:ro")),
        };
        let mount = VolumeMount { name: name.into(), mount_path: path.into(), read_only, ..VolumeMount::default() };
        Ok(Mount(mount))
    }
}

/// kubectl's, as far as they make a difference here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// As any container, and SYS_PTRACE
    General,
    /// As any container
    Baseline,
    /// Not root, no capabilities, none to be had
    Restricted,
    /// As any container, with NET_ADMIN and NET_RAW
    Netadmin,
    /// Privileged
    Sysadmin,
}

impl Profile {
    fn context(self) -> Option<SecurityContext> {
        let add = |names: &[&str]| Capabilities {
            add: Some(names.iter().map(|n| (*n).to_owned()).collect()),
            ..Capabilities::default()
        };
        let context = match self {
            Profile::Baseline => return None,
            Profile::General => {
                SecurityContext { capabilities: Some(add(&["SYS_PTRACE"])), ..SecurityContext::default() }
            }
            Profile::Netadmin => {
                SecurityContext { capabilities: Some(add(&["NET_ADMIN", "NET_RAW"])), ..SecurityContext::default() }
            }
            Profile::Restricted => SecurityContext {
                run_as_non_root: Some(true),
                allow_privilege_escalation: Some(false),
                capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
                ..SecurityContext::default()
            },
            Profile::Sysadmin => SecurityContext { privileged: Some(true), ..SecurityContext::default() },
        };
        Some(context)
    }
}

impl Debug {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let entry = context.find(&self.pod)?;
        if let Some(name) = &self.remove {
            return remove(context, &entry, name);
        }
        if entry.record.driven() {
            return Err(wrong(&entry, "it belongs to a CRI client, which alone adds containers".into()));
        }
        let (entry, container) = match self.copy_to.clone() {
            Some(name) => self.copy(context, &entry, name)?,
            None => self.add(context, &entry)?,
        };
        if !self.stdin {
            let mut out = Out::new();
            let created = match &self.copy_to {
                Some(_) => format!("pod/{} created", entry.record.name()),
                None => format!("pod/{}: container {container} added", entry.record.name()),
            };
            out.line(created)?;
            return out.flush();
        }
        if self.name.is_none() {
            super::out::say(format_args!("container {container} of pod {}", entry.record.name()));
        }
        let session = Session { container: Some(container), stdin: true, tty: self.tty, keys: None, from: From::Start };
        attach::finish(session.run(context, &entry))
    }

    /// The pod with one container more, and that container's name.
    fn add(&self, context: &Context, entry: &PodEntry) -> Result<(PodEntry, String), Error> {
        let Some(image) = &self.image else {
            return Err(Error::usage("--image: needed for the container that is added"));
        };
        let name = self.name.clone().map_or_else(debugger, Ok)?;
        let asked = EphemeralContainer {
            name: name.clone(),
            image: Some(image.clone()),
            image_pull_policy: Some("IfNotPresent".into()),
            command: Some(self.command.clone()).filter(|c| !c.is_empty()),
            env: self.variables(),
            volume_mounts: self.mounts(),
            stdin: self.stdin.then_some(true),
            // Without a terminal there is nobody to come again: the end of what is piped in is the end of its input.
            stdin_once: (self.stdin && !self.tty).then_some(true),
            tty: self.tty.then_some(true),
            security_context: self.profile.context(),
            target_container_name: self.target.clone(),
            termination_message_path: Some("/dev/termination-log".into()),
            termination_message_policy: Some("File".into()),
            ..EphemeralContainer::default()
        };
        let others: Vec<&str> = entry
            .status
            .containers
            .iter()
            .filter(|c| c.kind == ContainerKind::Ephemeral)
            .map(|c| c.name.as_str())
            .collect();
        manifest::validate_ephemeral(&entry.record.pod, &others, &asked).map_err(|errors| invalid(&errors))?;
        runtime::ephemeral::add(&context.roots, entry, asked)?;
        Ok((self.again(context, entry.record.name())?, name))
    }

    /// A new pod that is like another, and the container that was changed or added in it.
    fn copy(&self, context: &Context, entry: &PodEntry, name: String) -> Result<(PodEntry, String), Error> {
        if name == entry.record.name() {
            return Err(Error::usage("--copy-to: the copy needs a name of its own"));
        }
        let mut pod = entry.record.pod.clone();
        pod.metadata.name = Some(name.clone());
        pod.metadata.uid = None;
        if !self.keep_labels {
            pod.metadata.labels = None;
        }
        if !self.keep_annotations {
            pod.metadata.annotations = None;
        }
        let settings = context.settings(&self.network)?;
        let host_network = settings.network.mode == network::Mode::Host;
        let container = self.change(&mut pod, host_network)?;
        manifest::default(&mut pod);
        manifest::validate(&pod).map_err(|errors| invalid(&errors))?;
        let outcome = runtime::run(&context.roots, &settings, pod, Owner::Cli)?;
        for warning in &outcome.warnings {
            super::out::say(format!("pod {name}: warning: {warning}"));
        }
        Ok((self.again(context, &name)?, container))
    }

    /// Makes a copy's spec what was asked for: the name of the container that it is about.
    fn change(&self, pod: &mut Pod, host_network: bool) -> Result<String, Error> {
        let spec = pod.spec.get_or_insert_default();
        if host_network {
            spec.host_network = Some(true);
        }
        spec.node_name = None;
        if !self.keep_init_containers {
            spec.init_containers = None;
        }
        if self.share_processes && spec.host_pid != Some(true) {
            spec.share_process_namespace = Some(true);
        }
        for c in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            c.lifecycle = None;
            c.liveness_probe = c.liveness_probe.take().filter(|_| self.keep_liveness);
            c.readiness_probe = c.readiness_probe.take().filter(|_| self.keep_readiness);
            c.startup_probe = c.startup_probe.take().filter(|_| self.keep_startup);
        }
        for Variable(name, image) in &self.set_image {
            let mut met = false;
            for c in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
                if *name == "*" || c.name == *name {
                    (c.image, met) = (Some(image.clone()), true);
                }
            }
            if !met {
                return Err(Error::failed(format!("--set-image: there is no container {name:?} in the pod")));
            }
        }
        let found = self.name.as_ref().and_then(|name| spec.containers.iter().position(|c| c.name == *name));
        let index = match (found, &self.image) {
            (Some(index), _) => index,
            (None, Some(_)) => {
                spec.containers
                    .push(Container { name: self.name.clone().map_or_else(debugger, Ok)?, ..Container::default() });
                spec.containers.len() - 1
            }
            (None, None) if self.name.is_some() => {
                return Err(Error::usage("--image: needed for a container that the pod has not"));
            }
            (None, None) if !self.set_image.is_empty() && self.command.is_empty() => 0,
            (None, None) => {
                return Err(Error::usage("--copy-to needs --image, --set-image, or --container with what to change"));
            }
        };
        let added = found.is_none() && self.image.is_some();
        let changed = added || self.name.is_some();
        let c = &mut spec.containers[index];
        if !changed {
            return Ok(c.name.clone());
        }
        if let Some(image) = &self.image {
            c.image = Some(image.clone());
        }
        if !self.command.is_empty() {
            (c.command, c.args) = (Some(self.command.clone()), None);
        }
        for variable in self.variables().into_iter().flatten() {
            let all = c.env.get_or_insert_default();
            all.retain(|other| other.name != variable.name);
            all.push(variable);
        }
        c.volume_mounts.get_or_insert_default().extend(self.mounts().into_iter().flatten());
        if self.stdin {
            (c.stdin, c.stdin_once) = (Some(true), (!self.tty).then_some(true));
        }
        if self.tty {
            c.tty = Some(true);
        }
        if added || self.profile != Profile::General {
            c.security_context = self.profile.context();
        }
        Ok(c.name.clone())
    }

    fn variables(&self) -> Option<Vec<EnvVar>> {
        let one = |v: &Variable| EnvVar { name: v.0.clone(), value: Some(v.1.clone()), ..EnvVar::default() };
        Some(self.env.iter().map(one).collect()).filter(|all: &Vec<_>| !all.is_empty())
    }

    fn mounts(&self) -> Option<Vec<VolumeMount>> {
        Some(self.volume.iter().map(|m| m.0.clone()).collect()).filter(|all: &Vec<_>| !all.is_empty())
    }

    /// The pod as it is by now.
    fn again(&self, context: &Context, name: &str) -> Result<PodEntry, Error> {
        Ok(context.roots.find(&context.namespace, name)?)
    }
}

fn wrong(entry: &PodEntry, what: String) -> Error {
    Error::failed(format!("pod {}: debug: {what}", entry.record.name()))
}

fn remove(context: &Context, entry: &PodEntry, name: &str) -> Result<(), Error> {
    let ephemeral = entry.status.containers.iter().find(|c| c.name == name);
    match ephemeral.map(|c| c.kind) {
        Some(ContainerKind::Ephemeral) => {}
        Some(_) => return Err(wrong(entry, format!("container {name} is part of the pod, no ephemeral one"))),
        None => return Err(wrong(entry, format!("there is no container {name:?}"))),
    }
    runtime::ephemeral::remove(&context.roots, entry, name)?;
    let mut out = Out::new();
    out.line(format!("pod/{}: container {name} removed", entry.record.name()))?;
    out.flush()
}

fn invalid(errors: &manifest::Errors) -> Error {
    Error::Invalid { messages: errors.errors.iter().map(|error| format!("pod {}: {error}", errors.pod)).collect() }
}

/// A name that nobody has thought of.
fn debugger() -> Result<String, Error> {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let random =
        random::bytes::<5>().map_err(|e| Error::failed(format!("choose a name: {e}; give one with --name")))?;
    let letters = random.iter().map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()]));
    Ok(format!("debugger-{}", letters.collect::<String>()))
}
