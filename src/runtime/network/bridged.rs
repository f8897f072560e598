//! Pods on husk's own bridge.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use husk_oci::sys::process;

use crate::network::bridge::{self, filter_socket, route_socket};
use crate::network::netlink::Socket;
use crate::network::nft::{Element, table};
use crate::network::{Config, Home, Instance, Place, route};
use crate::runtime::Error;
use crate::state::record::PodRecord;
use crate::state::{Listed, PodEntry, Roots, start_ticks};

/// Where the instance keeps its network, and what it is called by.
pub struct OwnedHome {
    dir: PathBuf,
    name: String,
}

impl OwnedHome {
    /// That of these roots.
    pub fn of(roots: &Roots) -> OwnedHome {
        OwnedHome { dir: roots.root.join("network"), name: roots.cgroup_parent() }
    }

    /// As the network room wants it.
    pub fn get(&self) -> Home<'_> {
        Home { dir: &self.dir, name: &self.name }
    }
}

/// Leases addresses for a pod. From here on [`detach`] is needed.
pub(super) fn reserve(roots: &Roots, config: &Config, record: &mut PodRecord) -> Result<(), Error> {
    let owned = OwnedHome::of(roots);
    let home = owned.get();
    let leases = home.leases();
    // Somebody with another configuration may choose in between.
    for _ in 0..8 {
        {
            // With it held nobody takes the bridge away or chooses other ranges; afterwards the lease says that somebody needs them.
            let _lock = home.lock(false)?;
            if let Some(instance) = home.chosen(config)? {
                let number = leases.take(&record.id, instance.size())?;
                record.sandbox.network.place = Some(instance.place(&record.id, number));
                return Ok(());
            }
        }
        home.choose(config)?;
    }
    Err(Error::Host { what: "choose addresses for pods: others keep choosing other ones".into() })
}

/// The instance that a place is of.
fn instance(home: Home<'_>) -> Result<Instance, Error> {
    home.load()?.ok_or_else(|| Error::Host {
        what: format!("{}: is gone, and with it which addresses pods have", home.dir.join("instance.json").display()),
    })
}

fn place(record: &PodRecord) -> Result<&Place, Error> {
    record
        .sandbox
        .network
        .place
        .as_ref()
        .ok_or_else(|| Error::Internal { what: "a pod on a bridge without a place".into() })
}

/// Links the pod to the bridge, which is made when it is not there, and opens its ports. The addresses.
pub(super) fn attach(
    roots: &Roots,
    record: &PodRecord,
    routes: &Socket,
    pause: BorrowedFd<'_>,
) -> Result<Vec<IpAddr>, Error> {
    let owned = OwnedHome::of(roots);
    let instance = instance(owned.get())?;
    let (place, ports) = (place(record)?, &record.sandbox.network.ports);
    let filter = filter_socket()?;
    let there = route::link(routes, &instance.bridge)?;
    let bridge = match there {
        // The table is the last thing that is made with a bridge.
        Some(link) if instance.table().exists(&filter)? => link.index,
        _ => make(roots, owned.get(), &instance, routes, &filter)?,
    };
    bridge::attach(routes, bridge, place, !ports.is_empty(), pause)?;
    instance.table().insert(&filter, &table::elements(&record.id, place, ports))?;
    Ok(place.addresses.iter().map(|a| a.ip).collect())
}

/// Makes the bridge and its table, with what the pods that run have in it.
fn make(roots: &Roots, home: Home<'_>, instance: &Instance, routes: &Socket, filter: &Socket) -> Result<u32, Error> {
    let _lock = home.lock(true)?;
    let (index, _) = instance.ensure_bridge(routes)?;
    instance.furnish(routes, index)?;
    if !instance.table().exists(filter)? {
        instance.table().create(filter, &wanted(&attached(roots)?))?;
    }
    Ok(index)
}

/// The pods that have a network on the bridge now.
fn attached(roots: &Roots) -> Result<Vec<PodEntry>, Error> {
    let on_bridge = |listed| match listed {
        Listed::Pod(entry) => Some(*entry).filter(|e: &PodEntry| {
            let made = e.status.sandbox.as_ref().is_some_and(|s| !s.ended && s.network.is_some());
            e.live && made && e.record.sandbox.network.place.is_some()
        }),
        Listed::Unfinished { .. } | Listed::Unreadable(_) => None,
    };
    Ok(roots.list()?.into_iter().filter_map(on_bridge).collect())
}

/// What the maps have to hold for these pods.
fn wanted(pods: &[PodEntry]) -> Vec<Element> {
    let of = |entry: &PodEntry| {
        let network = &entry.record.sandbox.network;
        network.place.as_ref().map(|place| table::elements(&entry.id, place, &network.ports)).unwrap_or_default()
    };
    pods.iter().flat_map(of).collect()
}

/// Closes the pod's ports and gives its addresses back, in this order: nothing may lead to an address that another pod can have.
pub(super) fn detach(roots: &Roots, id: &str, record: Option<&PodRecord>) -> Result<(), Error> {
    let owned = OwnedHome::of(roots);
    let home = owned.get();
    let Some(instance) = home.load()? else { return Ok(()) };
    let leases = home.leases();
    let known = record.and_then(|record| record.sandbox.network.place.as_ref());
    if record.is_none_or(|record| !record.sandbox.network.ports.is_empty()) {
        instance.table().remove(&filter_socket()?, |of| of == id)?;
    }
    match known {
        Some(place) => leases.release(id, place.number)?,
        // A try that was killed before it was written down.
        None => leases.all()?.iter().filter(|(_, of)| of == id).try_for_each(|(n, _)| leases.release(id, *n))?,
    }
    Ok(())
}

/// Takes away what no known pod has, and the bridge with its table when no pod has anything.
pub(super) fn gc(roots: &Roots, known: &HashSet<String>) -> Vec<Error> {
    let owned = OwnedHome::of(roots);
    let home = owned.get();
    let mut failed = Vec::new();
    let result = || -> Result<(), Error> {
        home.sweep()?;
        let Some(instance) = home.load()? else { return Ok(()) };
        // A pod's directory is made before its lease.
        let gone = |id: &str| !known.contains(id) && !roots.pod_dir(id).exists();
        let routes = route_socket()?;
        if let Some(bridge) = route::link(&routes, &instance.bridge)? {
            let filter = filter_socket()?;
            instance.table().remove(&filter, gone)?;
            let leases = home.leases();
            for (number, id) in leases.all()?.into_iter().filter(|(_, id)| gone(id)) {
                leases.release(&id, number)?;
            }
            let _lock = home.lock(true)?;
            let left = leases.all()?;
            // Most go by themselves; one whose namespace somebody else holds does not.
            let ours: HashSet<String> = left.iter().map(|(n, id)| instance.place(id, *n).host_interface).collect();
            for link in route::links(&routes)?.into_iter().filter(|l| l.master == bridge.index && l.kind == "veth") {
                if !ours.contains(&link.name) {
                    route::delete_link(&routes, &link.name)?;
                }
            }
            if left.is_empty() {
                instance.table().destroy(&filter)?;
                route::delete_link(&routes, &instance.bridge)?;
            }
            return Ok(());
        }
        let leases = home.leases();
        leases.all()?.iter().filter(|(_, id)| gone(id)).try_for_each(|(n, id)| leases.release(id, *n))?;
        Ok(())
    };
    failed.extend(result().err());
    failed
}

/// A pod's pause, if it is still the one of the records.
fn pause(entry: &PodEntry) -> Option<OwnedFd> {
    let sandbox = entry.status.sandbox.as_ref()?;
    let pidfd = process::pidfd_open(sandbox.pid).ok()?;
    (start_ticks(sandbox.pid).ok()? == Some(sandbox.start_ticks)).then_some(pidfd)
}

/// What is not as it has to be, in words; empty when all is well.
///
/// # Errors
/// The kernel or the records cannot be asked.
pub fn check(roots: &Roots) -> Result<Vec<String>, Error> {
    let owned = OwnedHome::of(roots);
    let home = owned.get();
    let pods = attached(roots)?;
    let Some(instance) = home.load()? else {
        return Ok(pods
            .iter()
            .map(|p| format!("pod {} has addresses of a range that is forgotten", p.record.full_name()))
            .collect());
    };
    let leases = home.leases().all()?;
    let mut wrong: Vec<String> = Vec::new();
    for (number, id) in leases.iter().filter(|(_, id)| !roots.pod_dir(id).exists()) {
        wrong.push(format!("address number {number} is leased to {id}, which is no pod; husk gc frees it"));
    }
    if leases.is_empty() && pods.is_empty() {
        return Ok(wrong);
    }
    let routes = route_socket()?;
    wrong.extend(instance.shortcomings(&routes)?);
    wrong.extend(instance.table().check(&filter_socket()?, &wanted(&pods))?);
    for entry in &pods {
        let name = entry.record.full_name();
        let place = place(&entry.record)?;
        if !leases.iter().any(|(number, id)| *number == place.number && *id == entry.id) {
            wrong.push(format!("pod {name}: its addresses are not leased to it"));
        }
        if let Some(pause) = pause(entry) {
            wrong.extend(
                bridge::shortcomings(&routes, place, pause.as_fd())?.into_iter().map(|w| format!("pod {name}: {w}")),
            );
        }
    }
    Ok(wrong)
}

/// Makes everything anew that [`check`] could find missing; pods keep their addresses, and connections that are known to the kernel live on.
///
/// # Errors
/// The kernel's; the first one.
pub fn repair(roots: &Roots) -> Result<(), Error> {
    let owned = OwnedHome::of(roots);
    let home = owned.get();
    let Some(instance) = home.load()? else { return Ok(()) };
    let _lock = home.lock(true)?;
    let pods = attached(roots)?;
    let (routes, filter) = (route_socket()?, filter_socket()?);
    if pods.is_empty() && home.leases().all()?.is_empty() {
        return Ok(());
    }
    let (index, _) = instance.ensure_bridge(&routes)?;
    instance.furnish(&routes, index)?;
    instance.table().create(&filter, &wanted(&pods))?;
    for entry in &pods {
        if let Some(pause) = pause(entry) {
            let in_pod = |e: crate::network::Error| Error::Pod { pod: entry.record.full_name(), what: e.to_string() };
            let has_ports = !entry.record.sandbox.network.ports.is_empty();
            bridge::mend(&routes, index, place(&entry.record)?, has_ports, pause.as_fd()).map_err(in_pod)?;
        }
    }
    Ok(())
}
