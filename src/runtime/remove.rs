//! The end of a pod: everything that carries its name is removed, in an order that a crash at any point leaves for the next try.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Error, container, driven, hosts, limits, network, scope};
use crate::cgroup::{CgroupDriver, DriverKind, systemd};
use crate::image::Store;
use crate::state::record::PodRecord;
use crate::state::{Listed, Lock, LockMode, Roots};
use crate::volume::remove_tree;

/// How long processes may take to vanish after SIGKILL before we say that one is stuck.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Removes the cgroup that keepers, supervisors and pauses share, if no pod lives any more, and the slices of the systemd driver. A keeper that
/// has just let go of its lock may still be in it for a moment.
///
/// # Errors
/// The kernel's; what systemd says is only told.
pub fn runtime_cgroup(roots: &Roots, driver: &dyn CgroupDriver) -> Result<(), Error> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let path = format!("{}/runtime", roots.cgroup_parent());
    let mut result = Ok(());
    roots.when_quiet(|| {
        scope::try_retire(roots, driver);
        let deadline = Instant::now() + PATIENCE;
        result = loop {
            match driver.try_remove(&path) {
                Ok(true) => break parents(roots, driver).and_then(|()| driver.remove_empty_parents(&path)),
                Ok(false) if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(500)),
                // Somebody else's process is in it; it goes with a later pod, or with gc.
                Ok(false) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
    })?;
    result.map_err(|e| Error::Host { what: e.to_string() })
}

/// The cgroups above those of pods, by class. They go with the last pod of each; this is for a supervisor that was killed in between.
fn parents(roots: &Roots, driver: &dyn CgroupDriver) -> Result<(), crate::cgroup::Error> {
    let parent = roots.cgroup_parent();
    let below = ["pods", "pods/burstable", "pods/besteffort"].map(|class| format!("{parent}/{class}/any"));
    below.iter().try_for_each(|path| driver.remove_empty_parents(path))
}

/// What a collection did.
#[derive(Debug, Default)]
pub struct GcReport {
    /// Pods (or what was left of them) that were removed: `namespace/name`, or the uid when the record was unreadable.
    pub removed: Vec<String>,
    /// What could not be removed, and why.
    pub failed: Vec<Error>,
}

/// Kills what is in a cgroup and removes it with all below it. Blocks until it is gone.
///
/// # Errors
/// A process survives SIGKILL for [`KILL_PATIENCE`] (it hangs in the kernel), or the kernel refuses.
pub fn cgroup(driver: &dyn CgroupDriver, path: &str) -> Result<(), Error> {
    let host = |e: crate::cgroup::Error| Error::Host { what: e.to_string() };
    if driver.try_remove(path).map_err(host)? {
        return Ok(());
    }
    let deadline = Instant::now() + KILL_PATIENCE;
    let mut pause = Duration::from_micros(200);
    loop {
        driver.kill(path).map_err(host)?;
        if driver.try_remove(path).map_err(host)? {
            return Ok(());
        }
        if Instant::now() > deadline {
            let stuck = driver.processes(path);
            return Err(Error::Host {
                what: format!(
                    "remove cgroup {path}: processes {stuck:?} do not die although they were killed; see /proc/<pid>/stack"
                ),
            });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Every cgroup that a pod of this id can have, when its record does not tell.
fn possible_cgroups(roots: &Roots, id: &str) -> Vec<String> {
    let parent = roots.cgroup_parent();
    ["", "burstable/", "besteffort/"].iter().map(|qos| format!("{parent}/pods/{qos}pod{id}")).collect()
}

/// Every systemd scope that it can have.
fn possible_scopes(roots: &Roots, id: &str, record: Option<&PodRecord>) -> Vec<String> {
    let parent = roots.cgroup_parent();
    match record {
        Some(record) => record.scope().map(str::to_owned).into_iter().collect(),
        // An id that is none of a unit's name has no scope.
        None => {
            systemd::CLASSES.iter().filter_map(|class| systemd::scope_path(&parent, class, id, None).ok()).collect()
        }
    }
}

/// Every cgroup that its keeper can be in.
pub(super) fn runtime_cgroups(roots: &Roots, id: &str, record: Option<&PodRecord>) -> Vec<String> {
    match record {
        Some(record) => vec![record.runtime_cgroup(roots)],
        None => {
            let scopes = possible_scopes(roots, id, None).into_iter();
            scopes.chain([roots.cgroup_parent()]).map(|above| format!("{above}/runtime")).collect()
        }
    }
}

/// Kills and removes what husk has made in a dead pod's systemd scope. The scope itself goes by that, when it is empty; what else is in there is
/// not ours, and the scope is somebody's of the same name. The caller holds the pod's lock, and is not in there itself.
pub(super) fn scopes(roots: &Roots, driver: &dyn CgroupDriver, id: &str, record: Option<&PodRecord>) -> Vec<Error> {
    possible_scopes(roots, id, record).iter().filter_map(|path| scope_content(driver, path).err()).collect()
}

fn scope_content(driver: &dyn CgroupDriver, scope: &str) -> Result<(), Error> {
    // keeper first: it starts supervisors anew.
    ["runtime", "pod"].iter().try_for_each(|inner| cgroup(driver, &format!("{scope}/{inner}")))
}

/// Removes a pod's cgroups, volumes, upper directories, logs, name and records. The caller holds the pod's lock, or is its supervisor.
/// What is gone already is fine; after an error the rest is still tried, and the records stay so that it can be tried again.
///
/// # Errors
/// All that could not be removed, the first one first.
pub fn pod(
    roots: &Roots,
    driver: &dyn CgroupDriver,
    id: &str,
    record: Option<&PodRecord>,
    keep_own_records: bool,
) -> Result<(), Vec<Error>> {
    let mut errors = match record {
        Some(record) => cgroups(driver, record),
        None => possible_cgroups(roots, id).iter().flat_map(|path| with_parents(driver, path)).collect(),
    };
    // Before its addresses may be another's.
    hosts::leave(roots, id);
    errors.extend(network::detach(roots, id, record));
    errors.extend(tree(&roots.data_dir(id)));
    errors.extend(logs(roots, id, record).iter().flat_map(|dir| tree(dir)));
    if errors.is_empty() && !keep_own_records {
        let name = record.map(|r| (r.namespace(), r.name()));
        if let Err(e) = roots.forget(id, name) {
            errors.push(e.into());
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Kills what is in a pod's cgroups and removes those that we made; what went wrong.
pub fn cgroups(driver: &dyn CgroupDriver, record: &PodRecord) -> Vec<Error> {
    match record.cgroup_driver {
        // What is above is systemd's, and in the scope there may be keeper and supervisor.
        DriverKind::Systemd => return cgroup(driver, &record.cgroup).err().into_iter().collect(),
        DriverKind::Cgroupfs if !record.sandbox.foreign_cgroup => {
            let mut errors = with_parents(driver, &record.cgroup);
            let protected = record.sandbox.limits.memory_min_bytes.is_some();
            errors.extend(limits::settle_tree(driver, record, protected).err());
            return errors;
        }
        DriverKind::Cgroupfs => {}
    }
    let ids = record.containers.iter().map(|c| container::instance_id(record, c, 0));
    ids.filter_map(|id| cgroup(driver, &container::cgroup(record, &id)).err()).collect()
}

fn with_parents(driver: &dyn CgroupDriver, path: &str) -> Vec<Error> {
    let own = cgroup(driver, path).err();
    let above = driver.remove_empty_parents(path).err().map(|e| Error::Host { what: e.to_string() });
    own.into_iter().chain(above).collect()
}

fn tree(dir: &Path) -> Option<Error> {
    remove_tree(dir).err().map(|e| Error::Host { what: e.to_string() })
}

fn logs(roots: &Roots, id: &str, record: Option<&PodRecord>) -> Vec<PathBuf> {
    match record {
        // A CRI client's logs are its own affair.
        Some(record) if record.driven() => Vec::new(),
        Some(record) => vec![PathBuf::from(&record.log_dir)],
        None => std::fs::read_dir(roots.root.join("logs"))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().ends_with(&format!("_{id}")))
            .map(|e| e.path())
            .collect(),
    }
}

/// Collects one pod if nobody runs it. True when something was removed.
///
/// # Errors
/// As [`pod`].
pub fn collect(roots: &Roots, driver: &dyn CgroupDriver, id: &str) -> Result<bool, Vec<Error>> {
    let one = |e: crate::state::Error| vec![Error::from(e)];
    let Some(_lock) = roots.seize(id).map_err(one)? else { return Ok(false) };
    let record = match roots.look(id) {
        Ok(Some(Listed::Pod(entry))) => Some(entry.record),
        // What it says cannot be known: everything that bears its id is looked for.
        _ => None,
    };
    // The records stay until all is gone.
    let left = scopes(roots, driver, id, record.as_ref());
    if !left.is_empty() {
        return Err(left);
    }
    pod(roots, driver, id, record.as_ref(), false)?;
    Ok(true)
}

/// Removes everything that belongs to no living and no finished pod: pods whose keeper died, half-made and half-removed ones, data of
/// pods whose records a reboot took away, and what the image store had not finished. Touches nothing that somebody else made.
///
/// # Errors
/// The lists cannot be read. What could not be removed is in the report.
pub fn gc(roots: &Roots, driver: &dyn CgroupDriver) -> Result<GcReport, Error> {
    let mut report = GcReport::default();
    let mut known = std::collections::HashSet::new();
    for listed in roots.list()? {
        let (id, name) = (listed.id().to_owned(), listed.full_name());
        let dead = match listed {
            Listed::Pod(entry) => {
                let dead = !entry.live && entry.status.finished_at.is_none();
                if dead && entry.record.driven() {
                    known.insert(id);
                    if let Err(e) = driven::settle_dead(roots, &entry.id) {
                        report.failed.push(Error::Pod { pod: name, what: e.message });
                    }
                    continue;
                }
                dead
            }
            Listed::Unfinished { live, .. } => !live,
            Listed::Unreadable(it) if it.live || it.is_garbage() => !it.live,
            // It may be a finished pod, with logs that somebody wants.
            Listed::Unreadable(it) => {
                report.failed.push(Error::Pod {
                    pod: name.clone(),
                    what: format!("left as it is: {}; if it shall go: husk delete --force {id}", it.error),
                });
                false
            }
        };
        known.insert(id.clone());
        if dead {
            match collect(roots, driver, &id) {
                Ok(true) => report.removed.push(name),
                Ok(false) => {}
                Err(errors) => report.failed.extend(errors),
            }
        }
    }
    for dir in roots.half_removed() {
        if Lock::attempt(&dir, LockMode::Exclusive).is_ok_and(|lock| lock.is_some())
            && let Err(e) = crate::state::pods::remove_flat(&dir)
        {
            report.failed.push(e.into());
        }
    }
    orphans(roots, &known, &mut report)?;
    orphaned_cgroups(roots, driver, &known, &mut report);
    orphaned_scopes(roots, driver, &known, &mut report)?;
    report.failed.extend(network::gc(roots, &known));
    report.failed.extend(hosts::repair(roots).err());
    if let Err(e) = driver.settle(&format!("{}/pods", roots.cgroup_parent()), true) {
        report.failed.push(Error::Host { what: e.to_string() });
    }
    report.failed.extend(scope::weigh(roots, driver).err());
    if let Err(e) = roots.sweep_names() {
        report.failed.push(e.into());
    }
    if let Err(e) = roots.sweep() {
        report.failed.push(e.into());
    }
    if let Err(e) = Store::open(&roots.root).and_then(|store| store.tidy()) {
        report.failed.push(Error::Host { what: e.to_string() });
    }
    if let Err(e) = runtime_cgroup(roots, driver) {
        report.failed.push(e);
    }
    Ok(report)
}

/// Cgroups of pods that are not known: somebody who was making them was killed while the pod came to its end.
fn orphaned_cgroups(
    roots: &Roots,
    driver: &dyn CgroupDriver,
    known: &std::collections::HashSet<String>,
    report: &mut GcReport,
) {
    let pods = format!("{}/pods", roots.cgroup_parent());
    for parent in [pods.clone(), format!("{pods}/burstable"), format!("{pods}/besteffort")] {
        let names = driver.children(&parent).unwrap_or_else(|e| {
            report.failed.push(Error::Host { what: e.to_string() });
            Vec::new()
        });
        for uid in names.iter().filter_map(|name| name.strip_prefix("pod")) {
            // A pod's directory is made before its cgroup.
            if known.contains(uid) || roots.pod_dir(uid).exists() {
                continue;
            }
            let path = format!("{parent}/pod{uid}");
            let empty = |()| driver.remove_empty_parents(&path).map_err(|e| Error::Host { what: e.to_string() });
            match cgroup(driver, &path).and_then(empty) {
                Ok(()) => report.removed.push(uid.to_owned()),
                Err(e) => report.failed.push(e),
            }
        }
    }
}

/// The same for scopes of the systemd driver. Their names tell the id only as systemd can have it, so it is compared as that.
fn orphaned_scopes(
    roots: &Roots,
    driver: &dyn CgroupDriver,
    known: &std::collections::HashSet<String>,
    report: &mut GcReport,
) -> Result<(), Error> {
    let parent = roots.cgroup_parent();
    if !systemd::is_init() {
        return Ok(());
    }
    for class in systemd::CLASSES {
        let Ok(slice) = systemd::slice_path(&systemd::class_slice(&parent, class)) else { continue };
        let names = driver.children(&slice).map_err(|e| Error::Host { what: e.to_string() })?;
        for name in names {
            let Some(id) = systemd::escaped_id(&parent, class, &name) else { continue };
            // Looked at after its cgroup was seen: a pod's directory is made before that.
            let is_this = |known: &String| systemd::escape(known) == id;
            if known.iter().any(is_this) || roots.ids()?.iter().any(is_this) {
                continue;
            }
            let path = format!("{slice}/{name}");
            // On its way out, or not ours.
            if !driver.exists(&format!("{path}/runtime")).map_err(|e| Error::Host { what: e.to_string() })? {
                continue;
            }
            match scope_content(driver, &path) {
                Ok(()) => report.removed.push(id.to_owned()),
                Err(e) => report.failed.push(e),
            }
        }
    }
    Ok(())
}

/// Data below `--root` whose pod is not known below `--state`: a reboot emptied it.
fn orphans(roots: &Roots, known: &std::collections::HashSet<String>, report: &mut GcReport) -> Result<(), Error> {
    let uid_of_log = |name: &str| name.rsplit_once('_').map(|(_, id)| id.to_owned());
    let uid_of_data = |name: &str| Some(name.to_owned());
    type UidOf<'a> = &'a dyn Fn(&str) -> Option<String>;
    let places: [(&str, UidOf<'_>); 2] = [("pods", &uid_of_data), ("logs", &uid_of_log)];
    for (place, uid_of) in places {
        let dir = roots.root.join(place);
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io(format_args!("read {}", dir.display()), &e)),
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(id) = uid_of(&name).filter(|_| !name.starts_with('.')) else { continue };
            // A pod may have been made since the list was read; its directory is made before its data.
            if known.contains(&id) || roots.pod_dir(&id).exists() {
                continue;
            }
            match remove_tree(&entry.path()) {
                Ok(()) => report.removed.push(name),
                Err(e) => report.failed.push(Error::Host { what: e.to_string() }),
            }
        }
    }
    Ok(())
}
