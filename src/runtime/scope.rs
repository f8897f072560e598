//! The systemd driver at work: a helper process, this program itself, has systemd make a pod's scope and keeps it until keeper is inside.
//!
//! ```text
//! husk run          starts the helper, writes the records meanwhile, waits for its answer
//!   husk systemd …  asks systemd for a scope with itself in it, moves into <scope>/runtime, answers, stays until its stdin is closed
//!   keeper          is born into <scope>/runtime; then the helper goes
//! ```
//!
//! So no long-lived process ever speaks D-Bus, and the scope is never empty, which would be its end.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use husk_oci::errno::io_text;
use husk_oci::file;
use serde::{Deserialize, Serialize};

use super::helper::Helper;
use super::{Error, say};
use crate::cgroup::classes::Due;
use crate::cgroup::{CgroupDriver, Cgroupfs, DriverKind, dbus, limits, systemd};
use crate::state::Roots;
use crate::state::record::PodRecord;

/// What `main` knows the helper by; not for users.
pub const HELPER: &str = "systemd";

/// What messages call it.
const NAME: &str = "the helper that talks to systemd";

/// How long the helper may take beyond systemd's own time.
const HELPER_PATIENCE: Duration = Duration::from_secs(5);

/// How long processes of a dead pod may take to vanish before its slices are left to the next one.
const VANISH_PATIENCE: Duration = Duration::from_secs(1);

/// What a helper is asked to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Task {
    /// Make a scope, be in its `runtime` (a path relative to the hierarchies' mounts), and stay.
    Hold { scope: dbus::Scope, runtime: String },
    /// Stop units, in this order.
    Stop { units: Vec<String> },
    /// Give units weights and protection.
    Weigh { due: Vec<Due> },
}

/// What it answers, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    Done,
    Failed { message: String },
}

/// Refuses a pod of the systemd driver on a host that is not systemd's.
///
/// # Errors
/// A sentence.
pub fn check(record: &PodRecord) -> Result<(), Error> {
    if record.cgroup_driver == DriverKind::Cgroupfs || systemd::is_init() {
        return Ok(());
    }
    let what = "the systemd cgroup driver needs systemd as the host's init, and it is not (there is no /run/systemd/system); use \
                --cgroup-driver cgroupfs"
        .to_owned();
    Err(Error::Pod { pod: record.full_name(), what })
}

/// A helper that holds a pod's scope. Dropping it lets the scope go, unless somebody else is in it by then.
#[derive(Debug)]
#[must_use = "the scope is gone when nobody is in it"]
pub struct Held(Option<Helper>);

/// Begins to make the pod's scope, if its driver is systemd's; [`Held::ready`] waits for it.
///
/// # Errors
/// The helper cannot be started.
pub fn hold(roots: &Roots, record: &PodRecord) -> Result<Held, Error> {
    let Some(path) = record.scope() else { return Ok(Held(None)) };
    let (unit, slice) = systemd::units(path).ok_or_else(|| Error::Internal { what: format!("no scope: {path}") })?;
    let scope = dbus::Scope {
        unit: unit.to_owned(),
        slice: slice.to_owned(),
        slices: if record.sandbox.foreign_cgroup { Vec::new() } else { own_slices(&roots.cgroup_parent(), slice) },
        description: format!("husk pod {} of {}", record.id, roots.state.display()),
        cpu_weight: record.sandbox.limits.cpu_shares.map(limits::weight_from_shares),
    };
    let task = Task::Hold { scope, runtime: record.runtime_cgroup(roots) };
    Helper::start(HELPER, NAME, &task).map(|helper| Held(Some(helper)))
}

/// The slice of a class and those above it, the outermost first.
fn own_slices(parent: &str, class: &str) -> Vec<String> {
    let mut all = vec![systemd::parent_slice(parent), systemd::class_slice(parent, ""), class.to_owned()];
    all.dedup();
    all
}

impl Held {
    /// Waits until the scope is there, with the helper in its `runtime`.
    ///
    /// # Errors
    /// systemd's word, or it took too long.
    pub fn ready(&mut self) -> Result<(), Error> {
        self.0.as_mut().map_or(Ok(()), answer)
    }
}

fn answer(helper: &mut Helper) -> Result<(), Error> {
    match helper.answer(Instant::now() + dbus::PATIENCE + HELPER_PATIENCE)? {
        Answer::Done => Ok(()),
        Answer::Failed { message } => Err(Error::Host { what: message }),
    }
}

/// `husk systemd TASK`: the helper itself; not for users.
pub fn main(mut args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let task = args.next().and_then(|word| serde_json::from_str::<Task>(word.to_str()?).ok());
    let Some(task) = task else {
        eprintln!("husk {HELPER} is started by husk, not by hand");
        return ExitCode::from(2);
    };
    let done = match &task {
        Task::Hold { scope, runtime } => move_in(scope, runtime),
        Task::Stop { units } => dbus::stop(units).map_err(|e| e.to_string()),
        Task::Weigh { due } => dbus::set(due).map_err(|e| e.to_string()),
    };
    let answer = match done {
        Ok(()) => Answer::Done,
        Err(message) => Answer::Failed { message },
    };
    let told = serde_json::to_string(&answer).is_ok_and(|line| writeln!(std::io::stdout(), "{line}").is_ok());
    if told && matches!((&task, &answer), (Task::Hold { .. }, Answer::Done)) {
        // Until whoever has started us lets go of it, or dies.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    }
    ExitCode::SUCCESS
}

fn move_in(scope: &dbus::Scope, runtime: &str) -> Result<(), String> {
    let path = runtime.rsplit_once('/').map_or(runtime, |(path, _)| path);
    let driver = Cgroupfs::detect().map_err(|e| e.to_string())?;
    let there = |slice: &String| systemd::slice_path(slice).is_ok_and(|path| driver.exists(&path).unwrap_or(false));
    let missing = scope.slices.iter().filter(|slice| !there(slice)).cloned().collect();
    dbus::start_scope(&dbus::Scope { slices: missing, ..scope.clone() }).map_err(|e| e.to_string())?;
    // systemd's word for it is not enough: it may see another tree than we do.
    let own = file::read_text(Path::new("/proc/self/cgroup"), 1024);
    let own = own.map_err(|e| format!("read /proc/self/cgroup: {}", io_text(&e)))?;
    let found: Vec<&str> = own.lines().filter_map(systemd_cgroup).collect();
    if !found.iter().any(|place| place.trim_start_matches('/') == path) {
        return Err(format!(
            "start {}: systemd has put it at {}, seen from here, not at /{path}: the systemd cgroup driver works neither in a cgroup \
             namespace of its own nor below another manager of cgroups; use --cgroup-driver cgroupfs",
            scope.unit,
            found.join(" and "),
        ));
    }
    driver.enter(runtime).map_err(|e| e.to_string())
}

/// The path in a line of `/proc/self/cgroup`, if it is of a hierarchy that systemd finds its units by.
fn systemd_cgroup(line: &str) -> Option<&str> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    matches!(controllers, "" | "name=systemd").then_some(path)
}

/// Stops what is left of our slices after the last pod, and removes them where systemd does not. The caller sees to it that no pod can begin
/// meanwhile. What is still in use stays.
///
/// # Errors
/// systemd's, or the kernel's.
pub fn retire(roots: &Roots, driver: &dyn CgroupDriver) -> Result<(), Error> {
    let host = |e: crate::cgroup::Error| Error::Host { what: e.to_string() };
    let parent = roots.cgroup_parent();
    let top = systemd::parent_slice(&parent);
    if !systemd::is_init() || !driver.exists(&top).map_err(host)? {
        return Ok(());
    }
    let deadline = Instant::now() + VANISH_PATIENCE;
    let empty = loop {
        let (empty, busy) = empty_units(&parent, driver).map_err(host)?;
        if !busy || Instant::now() > deadline {
            break empty;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if empty.is_empty() {
        return Ok(());
    }
    let units = empty.iter().filter_map(|path| Some(path.rsplit('/').next()?.to_owned())).collect();
    answer(&mut Helper::start(HELPER, NAME, &Task::Stop { units })?)?;
    // Hierarchies that systemd does not know.
    for path in &empty {
        driver.try_remove(path).map_err(host)?;
    }
    Ok(())
}

/// Has systemd give our slices and scopes the weights and the protection that follow from the pods in them. Costs some system calls for each pod, and a
/// helper where something differs.
///
/// # Errors
/// systemd's, or the kernel's.
pub fn weigh(roots: &Roots, driver: &dyn CgroupDriver) -> Result<(), Error> {
    if !systemd::is_init() {
        return Ok(());
    }
    let due = driver.due(&roots.cgroup_parent()).map_err(|e| Error::Host { what: e.to_string() })?;
    if due.is_empty() { Ok(()) } else { answer(&mut Helper::start(HELPER, NAME, &Task::Weigh { due })?) }
}

/// Paths of our scopes without processes and of our slices without anything but those, the innermost first; and whether some scope has one still.
fn empty_units(parent: &str, driver: &dyn CgroupDriver) -> Result<(Vec<String>, bool), crate::cgroup::Error> {
    let mut empty: Vec<String> = Vec::new();
    let mut busy = false;
    // The slice of those without a class has the others in it.
    let classes = systemd::CLASSES.iter().rev().map(|class| systemd::class_slice(parent, class));
    for slice in classes.chain([systemd::parent_slice(parent)]) {
        let Ok(path) = systemd::slice_path(&slice) else { continue };
        if !driver.exists(&path)? {
            continue;
        }
        let mut in_use = false;
        for child in driver.children(&path)?.iter().map(|name| format!("{path}/{name}")) {
            if empty.contains(&child) {
                continue;
            }
            if !systemd::is_scope(&child) || !driver.processes(&child)?.is_empty() {
                busy |= systemd::is_scope(&child);
                in_use = true;
            } else {
                empty.push(child);
            }
        }
        if !in_use && driver.processes(&path)?.is_empty() {
            empty.push(path);
        }
    }
    Ok((empty, busy))
}

/// [`retire`], of which the end of a pod does not depend: what fails is told, and tried again after the next pod and by gc.
pub fn try_retire(roots: &Roots, driver: &dyn CgroupDriver) {
    if let Err(e) = retire(roots, driver) {
        say::say("warn", format_args!("{e}, continuing; husk gc tries it again"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemds_hierarchy_is_told_from_the_others() {
        assert_eq!(systemd_cgroup("0::/a.slice/b.scope"), Some("/a.slice/b.scope"));
        assert_eq!(systemd_cgroup("1:name=systemd:/a:b"), Some("/a:b"));
        assert_eq!(systemd_cgroup("4:cpu,cpuacct:/"), None);
        assert_eq!(systemd_cgroup(""), None);
    }
}
