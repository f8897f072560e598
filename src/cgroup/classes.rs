//! The cgroups above the pods, one for each class of pods: `<pods>/burstable`, `<pods>/besteffort`; guaranteed pods are right below `<pods>`.
//!
//! Their weights are the kubelet's: BestEffort together weigh the least possible, Burstable together what they request. There is nobody who watches, so
//! whoever makes, removes or resizes a pod adds up anew, from what the kernel says of each pod. Two who do so at the same moment may write
//! an old sum last; the next change heals that, and `husk gc`. On v2 a sum is as exact as weights are: each is turned back into
//! the most shares that it may stand for, so the sum is at most a few hundredths too large.
//!
//! With the systemd driver the same holds of slices and scopes, which are systemd's to write to: [`due`] says what to ask it for.

use super::cgroupfs::{check, children, is_gone, write_setting};
use super::limits::{shares_from_weight, weight_from_shares};
use super::{Error, Hierarchies, systemd};
use husk_oci::file;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Shares of all BestEffort pods together.
const LEAST_SHARES: u64 = 2;

/// The classes that have a cgroup.
const BURSTABLE: &str = "burstable";
const BEST_EFFORT: &str = "besteffort";

pub(super) fn settle(all: &Hierarchies, pods: &str, memory: bool) -> Result<(), Error> {
    check(pods)?;
    let place = all.v1_with("cpu").map(|h| (&h.mount, Shares { file: "cpu.shares", v2: false }));
    let place = place.or_else(|| all.v2_with("cpu").map(|h| (&h.mount, Shares { file: "cpu.weight", v2: true })));
    if let Some((mount, shares)) = place {
        let pods = mount.join(pods);
        shares.write(&pods.join(BEST_EFFORT), LEAST_SHARES)?;
        let burstable = pods.join(BURSTABLE);
        let mut sum = 0u64;
        for pod in children(&burstable)? {
            sum = sum.saturating_add(shares.read(&pod)?.unwrap_or(0));
        }
        if sum > 0 {
            shares.write(&burstable, sum.min(262_144))?;
        }
    }
    match all.v2_with("memory") {
        Some(h) if memory => protect(&h.mount, pods),
        _ => Ok(()),
    }
}

/// What a unit of systemd's is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// Its name.
    pub unit: String,
    /// `CPUWeight`, where another is in force.
    pub cpu_weight: Option<u64>,
    /// `MemoryMin` in bytes, likewise.
    pub memory_min_bytes: Option<u64>,
}

/// What the scopes of an instance's pods and the slices above them lack: a scope weighs and protects what its pod does, a slice as the cgroup of its
/// class would. On v2; systemd's own slices of v1 are left as they are.
pub(super) fn due(all: &Hierarchies, parent: &str) -> Result<Vec<Due>, Error> {
    let Some(h) = all.v2.as_ref().filter(|_| all.v2_with("cpu").is_some() || all.v2_with("memory").is_some()) else {
        return Ok(Vec::new());
    };
    let mut due = Vec::new();
    let mut want = |dir: &Path, weight: Option<u64>, min: u64| -> Result<(), Error> {
        // A file that is not there is a controller that is not there.
        let differs = |file: &str, wanted: Option<u64>| -> Result<Option<u64>, Error> {
            let now = read_number(&dir.join(file))?;
            Ok(wanted.filter(|wanted| now.is_some_and(|now| now != *wanted)))
        };
        let (cpu_weight, memory_min_bytes) = (differs("cpu.weight", weight)?, differs("memory.min", Some(min))?);
        if let (true, Some(unit)) = (cpu_weight.is_some() || memory_min_bytes.is_some(), dir.file_name()) {
            due.push(Due { unit: unit.to_string_lossy().into_owned(), cpu_weight, memory_min_bytes });
        }
        Ok(())
    };
    let place = |slice: &str| systemd::slice_path(slice).ok().map(|path| h.mount.join(path));
    let mut protected = 0u64;
    for class in systemd::CLASSES {
        let Some(slice) = place(&systemd::class_slice(parent, class)) else { continue };
        let (mut shares, mut min) = (0u64, 0u64);
        for scope in children(&slice)? {
            if !systemd::is_scope(&scope.to_string_lossy()) {
                continue;
            }
            let pod = scope.join("pod");
            let weight = read_number(&pod.join("cpu.weight"))?;
            let own = read_number(&pod.join("memory.min"))?.unwrap_or(0);
            want(&scope, weight, own)?;
            shares = shares.saturating_add(weight.map_or(0, shares_from_weight));
            min = min.saturating_add(own);
        }
        protected = protected.saturating_add(min);
        match class {
            BURSTABLE => want(&slice, (shares > 0).then(|| weight_from_shares(shares.min(262_144))), min)?,
            BEST_EFFORT => want(&slice, Some(weight_from_shares(LEAST_SHARES)), min)?,
            _ => {}
        }
    }
    for slice in [systemd::class_slice(parent, ""), systemd::parent_slice(parent)] {
        if let Some(dir) = place(&slice) {
            want(&dir, None, protected)?;
        }
    }
    Ok(due)
}

struct Shares {
    file: &'static str,
    v2: bool,
}

impl Shares {
    fn read(&self, dir: &Path) -> Result<Option<u64>, Error> {
        let number = read_number(&dir.join(self.file))?;
        Ok(number.map(|n| if self.v2 { shares_from_weight(n) } else { n }))
    }

    fn write(&self, dir: &Path, shares: u64) -> Result<(), Error> {
        let value = if self.v2 { weight_from_shares(shares) } else { shares };
        write_if_there(&dir.join(self.file), value)
    }
}

/// What is protected below is protected only as far as the cgroups above are: each gets the sum of what is below.
fn protect(mount: &Path, pods: &str) -> Result<(), Error> {
    let sum = |dirs: Vec<PathBuf>| {
        dirs.iter().try_fold(0u64, |sum, dir| {
            Ok::<u64, Error>(sum.saturating_add(read_number(&dir.join("memory.min"))?.unwrap_or(0)))
        })
    };
    let pods = mount.join(pods);
    for class in [BURSTABLE, BEST_EFFORT].map(|class| pods.join(class)) {
        write_if_there(&class.join("memory.min"), sum(children(&class)?)?)?;
    }
    let all = sum(children(&pods)?)?;
    // What is above the instance's own cgroup is not ours to promise.
    let ours = [Some(pods.as_path()), pods.parent().filter(|dir| *dir != mount)];
    ours.into_iter().flatten().try_for_each(|dir| write_if_there(&dir.join("memory.min"), all))
}

/// `None`: it has gone, or holds no number.
fn read_number(file: &Path) -> Result<Option<u64>, Error> {
    match file::read_text(file, 64) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(e) if is_gone(&e) => Ok(None),
        Err(e) => Err(Error::kernel("read", file, &e)),
    }
}

fn write_if_there(file: &Path, value: u64) -> Result<(), Error> {
    match write_setting(file, &value.to_string()) {
        Err(e) if matches!(e.errno(), Some(nix::errno::Errno::ENOENT | nix::errno::Errno::ENODEV)) => Ok(()),
        other => other,
    }
}

/// The cgroup of all pods above a pod's, and whether its class has a weight of its own: `husk/pods` for `husk/pods/burstable/pod1`.
pub fn above(pod: &str) -> Option<(&str, bool)> {
    let (above, _) = pod.rsplit_once('/')?;
    match above.rsplit_once('/') {
        Some((pods, BURSTABLE | BEST_EFFORT)) => Some((pods, true)),
        _ => Some((above, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::hierarchies::{V1, V2};
    use crate::cgroup::{CgroupDriver, Cgroupfs};
    use std::fs;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Tree {
            let top = std::env::temp_dir().join(format!("husk-classes-{name}-{}", std::process::id()));
            for (file, content) in files {
                let path = top.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            Tree(top)
        }

        /// A driver that takes it for a v2 tree.
        fn v2(&self) -> Cgroupfs {
            let controllers = vec!["cpu".into(), "memory".into()];
            Cgroupfs::new(Hierarchies { v1: vec![], v2: Some(V2 { mount: self.0.clone(), controllers }) })
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.0.join(file)).unwrap()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn burstable_pods_together_weigh_what_they_request() {
        let tree = Tree::new(
            "v1",
            &[
                ("h/pods/besteffort/cpu.shares", "1024"),
                ("h/pods/burstable/cpu.shares", "1024"),
                ("h/pods/burstable/pod1/cpu.shares", "512\n"),
                ("h/pods/burstable/pod2/cpu.shares", "100\n"),
                ("h/pods/burstable/pod3/other", ""),
                ("h/pods/pod4/cpu.shares", "7"),
            ],
        );
        let v1 = vec![V1 { mount: tree.0.clone(), controllers: vec!["cpu".into()] }];
        let driver = Cgroupfs::new(Hierarchies { v1, v2: None });
        driver.settle("h/pods", true).unwrap();
        assert_eq!(tree.read("h/pods/burstable/cpu.shares"), "6124", "612 over 1024 in a plain file");
        // A plain file keeps its tail where the kernel's would not.
        assert!(tree.read("h/pods/besteffort/cpu.shares").starts_with('2'));
        driver.settle("none/pods", true).unwrap();
    }

    #[test]
    fn systemd_is_asked_for_what_differs_and_for_nothing_else() {
        let tree = Tree::new(
            "units",
            &[
                ("h.slice/memory.min", "0\n"),
                ("h.slice/h-pods.slice/memory.min", "4096\n"),
                ("h.slice/h-pods.slice/h-pods-burstable.slice/cpu.weight", "100\n"),
                ("h.slice/h-pods.slice/h-pods-burstable.slice/memory.min", "4096\n"),
                ("h.slice/h-pods.slice/h-pods-burstable.slice/a.scope/cpu.weight", "59\n"),
                ("h.slice/h-pods.slice/h-pods-burstable.slice/a.scope/memory.min", "4096\n"),
                ("h.slice/h-pods.slice/h-pods-burstable.slice/a.scope/pod/cpu.weight", "100\n"),
                ("h.slice/h-pods.slice/h-pods-burstable.slice/a.scope/pod/memory.min", "4096\n"),
                ("h.slice/h-pods.slice/h-pods-burstable.slice/b.scope/cpu.weight", "100\n"),
                ("h.slice/h-pods.slice/h-pods-burstable.slice/b.scope/pod/cpu.weight", "100\n"),
                ("h.slice/h-pods.slice/h-pods-besteffort.slice/cpu.weight", "1\n"),
            ],
        );
        let driver = tree.v2();
        let due = |unit: &str, cpu_weight, memory_min_bytes| Due { unit: unit.into(), cpu_weight, memory_min_bytes };
        assert_eq!(
            driver.due("h").unwrap(),
            [
                due("a.scope", Some(100), None),
                due("h-pods-burstable.slice", Some(weight_from_shares(2048)), None),
                due("h.slice", None, Some(4096)),
            ]
        );
        assert_eq!(driver.due("other").unwrap(), []);
        assert_eq!(Cgroupfs::new(Hierarchies { v1: vec![], v2: None }).due("h").unwrap(), []);
    }

    #[test]
    fn on_v2_weights_are_added_as_shares_and_memory_is_protected_all_the_way() {
        let tree = Tree::new(
            "v2",
            &[
                ("h/memory.min", ""),
                ("h/pods/memory.min", ""),
                ("h/pods/burstable/cpu.weight", ""),
                ("h/pods/burstable/memory.min", ""),
                ("h/pods/burstable/pod1/cpu.weight", "100\n"),
                ("h/pods/burstable/pod1/memory.min", "4096\n"),
                ("h/pods/burstable/pod2/cpu.weight", "100\n"),
                ("h/pods/burstable/pod2/memory.min", "0\n"),
                ("h/pods/pod3/memory.min", "8192\n"),
            ],
        );
        let driver = tree.v2();
        driver.settle("h/pods", false).unwrap();
        assert_eq!(tree.read("h/pods/burstable/cpu.weight"), weight_from_shares(2048).to_string());
        assert_eq!(tree.read("h/memory.min"), "");
        driver.settle("h/pods", true).unwrap();
        assert_eq!(tree.read("h/pods/burstable/memory.min"), "4096");
        assert_eq!((tree.read("h/pods/memory.min"), tree.read("h/memory.min")), ("12288".into(), "12288".into()));
    }

    #[test]
    fn a_pods_class_is_seen_in_its_path() {
        assert_eq!(above("husk/pods/burstable/pod1"), Some(("husk/pods", true)));
        assert_eq!(above("husk/pods/besteffort/pod1"), Some(("husk/pods", true)));
        assert_eq!(above("husk/pods/pod1"), Some(("husk/pods", false)));
        assert_eq!(above("pod1"), None);
    }
}
