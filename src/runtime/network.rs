//! A pod's network from record to kernel and back: what [`crate::network`] does, in the order in which a pod needs it.
//!
//! 1. [`plan`], before the first side effect: the mode and the ports.
//! 2. [`reserve`], before `pod.json` is written: the addresses. From then on the record tells all that may have to be undone.
//! 3. [`attach`], once pause has its network namespace, while it goes on and before the first container starts. Whatever of it is there already is fine.
//! 4. [`detach`], when the sandbox is gone. Whatever of it is gone already is fine, too.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use k8s_openapi::api::core::v1::PodSpec;

use super::{Error, cni};
use crate::network::{self, Config, Mode, Plan, Port, Protocol, Status};
use crate::state::record::PodRecord;
use crate::state::{Listed, Roots};

pub mod bridged;
pub mod trial;

impl From<network::Error> for Error {
    fn from(e: network::Error) -> Error {
        Error::Host { what: e.to_string() }
    }
}

/// The host ports of a pod's manifest: those of its app containers and sidecars. Others are over when somebody could connect.
pub fn ports(spec: &PodSpec) -> Vec<Port> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let all = sidecars.chain(&spec.containers).flat_map(|c| c.ports.iter().flatten());
    let port = |p: &k8s_openapi::api::core::v1::ContainerPort| {
        let host_port = u16::try_from(p.host_port?).ok().filter(|port| *port != 0)?;
        Some(Port {
            protocol: p.protocol.as_deref().and_then(Protocol::of_name).unwrap_or_default(),
            host_port,
            container_port: u16::try_from(p.container_port).ok()?,
            host_ip: p
                .host_ip
                .as_deref()
                .and_then(|ip| ip.parse().ok())
                .filter(|ip: &std::net::IpAddr| !ip.is_unspecified()),
        })
    };
    all.filter_map(port).collect()
}

/// Where the manifest asks for the first of its host ports, for messages.
pub fn first_host_port(spec: &PodSpec) -> String {
    let lists =
        [("initContainers", spec.init_containers.as_deref().unwrap_or_default()), ("containers", &spec.containers)];
    for (list, containers) in lists {
        for (i, c) in containers.iter().enumerate() {
            let asks = |p: &k8s_openapi::api::core::v1::ContainerPort| p.host_port.is_some_and(|port| port != 0);
            if let Some(j) = c.ports.iter().flatten().position(asks) {
                return format!("spec.{list}[{i}].ports[{j}].hostPort");
            }
        }
    }
    "spec.hostNetwork".into()
}

/// Decides where a pod's network comes from.
///
/// # Errors
/// A sentence: the host's ports are asked for, and there is nothing that could lead them to the pod.
pub fn plan(config: &Config, host_network: bool, ports: Vec<Port>) -> Result<Plan, String> {
    let mode = if host_network { Mode::Host } else { config.mode };
    match mode {
        Mode::Host if !host_network => Err("must be true where pods have the host's network".into()),
        // A port of the pod is a port of the host.
        Mode::Host => Ok(Plan { mode, ..Plan::default() }),
        Mode::None if !ports.is_empty() => {
            Err("the pod has no network that a port of the host could lead to; use --network bridge or cni".into())
        }
        Mode::None | Mode::Bridge | Mode::Cni => Ok(Plan { mode, ports, place: None }),
    }
}

/// Reserves what the plan needs before it is written down.
///
/// # Errors
/// There is no address left, the kernel refuses, or the network of plugins cannot be used.
pub fn reserve(roots: &Roots, config: &Config, record: &mut PodRecord) -> Result<(), Error> {
    match record.sandbox.network.mode {
        Mode::None | Mode::Host => Ok(()),
        Mode::Cni => {
            let pod = &record.pod.metadata;
            let named = cni::Named {
                id: &record.id,
                namespace: record.namespace(),
                name: record.name(),
                uid: pod.uid.as_deref().unwrap_or(&record.id),
            };
            cni::register(roots, &config.cni, &named, super::wishes::of(record)?)
        }
        Mode::Bridge => bridged::reserve(roots, config, record),
    }
}

/// Makes a pod's network in the namespace of its pause, which need not be up, and tells what it has. Blocks for as long as the kernel takes. Not for mode
/// `cni`: [`cni::begin_add`].
///
/// # Errors
/// The kernel's. What was made goes with the pod.
pub fn attach(roots: &Roots, record: &PodRecord, pause: BorrowedFd<'_>) -> Result<Status, Error> {
    let plan = &record.sandbox.network;
    let place = plan.place.as_ref();
    let routes = network::bridge::route_socket()?;
    let host_ips = network::bridge::host_addresses(&routes, place.map(|p| p.bridge.as_str()))?;
    match plan.mode {
        Mode::None => Ok(Status { host_ips, ..Status::default() }),
        Mode::Host => Ok(Status { ips: host_ips.clone(), host_ips, ..Status::default() }),
        Mode::Bridge => {
            let ips = bridged::attach(roots, record, &routes, pause)?;
            Ok(Status { ips, host_ips, interface: network::bridge::INTERFACE.into() })
        }
        // The addresses are what the plugins will say.
        Mode::Cni => Ok(Status { host_ips, ..Status::default() }),
    }
}

/// Takes away what a pod's network has outside its namespace, whose end takes the rest. `record`: when it can be read.
pub fn detach(roots: &Roots, id: &str, record: Option<&PodRecord>) -> Vec<Error> {
    // Nothing of the pod itself is left by that: its end does not depend on a stranger's program.
    if let Some(e) = cni::delete(roots, id, None, true) {
        super::say::say("warn", format_args!("{e}, continuing; husk gc tries it again"));
    }
    match record.map(|record| record.sandbox.network.mode) {
        Some(Mode::None | Mode::Host | Mode::Cni) => Vec::new(),
        Some(Mode::Bridge) | None => bridged::detach(roots, id, record).err().into_iter().collect(),
    }
}

/// What of the networks of pods is not as it has to be, in words; empty when all is well.
///
/// # Errors
/// The kernel or the records cannot be asked.
pub fn check(roots: &Roots) -> Result<Vec<String>, Error> {
    let mut wrong = bridged::check(roots)?;
    wrong.extend(super::hosts::check(roots)?);
    for listed in roots.list()? {
        let Listed::Pod(entry) = listed else { continue };
        let attached = entry.status.sandbox.as_ref().is_some_and(|s| !s.ended && s.network.is_some());
        if entry.live
            && attached
            && entry.record.sandbox.network.mode == Mode::Cni
            && let Err(e) = cni::check(roots, &entry.id)
        {
            wrong.push(format!("pod {}: {e}", entry.record.full_name()));
        }
    }
    Ok(wrong)
}

/// Mends what [`check`] finds, but for what plugins miss.
///
/// # Errors
/// The kernel's, the first one.
pub fn repair(roots: &Roots) -> Result<(), Error> {
    bridged::repair(roots)?;
    super::hosts::repair(roots).map(drop)
}

/// Takes away what belongs to no known pod; what could not be is returned.
pub fn gc(roots: &Roots, known: &HashSet<String>) -> Vec<Error> {
    let mut failed = cni::gc(roots);
    failed.extend(bridged::gc(roots, known));
    failed
}
