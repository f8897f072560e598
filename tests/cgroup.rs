//! cgroups of this host: limits are in force, kill reaches everybody, nothing stays.

mod common {
    pub mod skip;
}

use common::skip::skip;
use husk::cgroup::{CgroupDriver, Cgroupfs, Limits, Placement};
use husk_oci::sys::process::{self, CloneArgs};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Breeds until its limit. A shell that can't fork ends, so it is the sleepers that stay.
const BOMB: &str = "for i in 1 2 3 4; do while :; do sleep 1000 & done 2>/dev/null & done; wait; sleep 1000";

/// A cgroup name of this test alone, removed when it goes, with all that is in it.
struct Scratch {
    driver: Cgroupfs,
    top: String,
}

impl Scratch {
    fn new(name: &str) -> Scratch {
        Scratch { driver: Cgroupfs::detect().unwrap(), top: format!("husk-test-{}-{name}", std::process::id()) }
    }

    fn path(&self, rest: &str) -> String {
        format!("{}/{rest}", self.top)
    }

    /// Where `path` exists.
    fn found(&self, path: &str) -> Vec<PathBuf> {
        let all = self.driver.hierarchies();
        let mounts = all.v1.iter().map(|h| &h.mount).chain(all.v2.iter().map(|h| &h.mount));
        mounts.map(|m| m.join(path)).filter(|d| d.exists()).collect()
    }

    /// Content of a file of the controller, on whichever version it is.
    fn read(&self, controller: &str, v1: &str, v2: &str, path: &str) -> String {
        let all = self.driver.hierarchies();
        let file = match all.v1_with(controller) {
            Some(h) => h.mount.join(path).join(v1),
            None => all.v2_with(controller).unwrap().mount.join(path).join(v2),
        };
        std::fs::read_to_string(&file).unwrap().trim().to_owned()
    }

    /// A process in the cgroup that runs `sh -c script`.
    fn sh(&self, path: &str, script: &str) -> std::process::Child {
        let place = self.driver.placement(path).unwrap();
        // The shell enters by itself, as a container does: `tasks` on v1. For v2 the test uses the slow door, which needs no clone3.
        let mut enter = String::new();
        let all = self.driver.hierarchies();
        for dir in all.v1.iter().map(|h| h.mount.join(path)).filter(|d| d.exists()) {
            enter += &format!("echo 0 > {}/tasks; ", dir.display());
        }
        if let Some(h) = &all.v2 {
            enter += &format!("echo 0 > {}/cgroup.procs; ", h.mount.join(path).display());
        }
        drop(place);
        std::process::Command::new("sh").arg("-c").arg(format!("{enter} {script}")).spawn().unwrap()
    }

    fn wait_gone(&self, path: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.driver.try_remove(path).unwrap() {
            assert!(Instant::now() < end, "{path} stays busy: {:?}", self.driver.processes(path));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.driver.kill(&self.top).unwrap();
        self.wait_gone(&self.top);
        assert_eq!(self.found(&self.top), Vec::<PathBuf>::new());
    }
}

#[test]
fn limits_are_read_back_as_asked() {
    let s = Scratch::new("limits");
    let path = s.path("pod/one");
    let limits = Limits {
        cpu_shares: Some(512),
        cpu_quota_us: Some(25_000),
        memory_limit_bytes: Some(64 << 20),
        pids_max: Some(33),
        memory_oom_group: true,
        ..Limits::default()
    };
    s.driver.create(&path, &limits).unwrap();
    // A second time: the same values again.
    s.driver.create(&path, &limits).unwrap();
    let share = s.read("cpu", "cpu.shares", "cpu.weight", &path);
    let weight = husk::cgroup::limits::weight_from_shares(512).to_string();
    assert!(share == "512" || share == weight, "{share}");
    assert!(["25000", "25000 100000"].contains(&s.read("cpu", "cpu.cfs_quota_us", "cpu.max", &path).as_str()));
    assert_eq!(s.read("memory", "memory.limit_in_bytes", "memory.max", &path), (64 << 20).to_string());
    assert_eq!(s.read("pids", "pids.max", "pids.max", &path), "33");
    assert_eq!(s.driver.oom_kills(&path).unwrap(), 0);
    assert!(s.driver.processes(&path).unwrap().is_empty());
}

#[test]
fn every_hierarchy_is_left_by_who_asks_for_it() {
    let s = Scratch::new("every");
    let path = s.path("runtime");
    s.driver.create(&path, &Limits { every_hierarchy: true, ..Limits::default() }).unwrap();
    let all = s.driver.hierarchies();
    assert_eq!(s.found(&path).len(), all.v1.len() + usize::from(all.v2.is_some()));
    let mut child = s.sh(&path, "cat /proc/self/cgroup > /dev/null; exec sleep 1000");
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        if text.lines().all(|l| l.ends_with(&path)) {
            break;
        }
        assert!(Instant::now() < end, "{text}");
        std::thread::sleep(Duration::from_millis(5));
    }
    s.driver.kill(&path).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_child_born_through_placement_is_inside_everywhere() {
    let s = Scratch::new("place");
    let path = s.path("c");
    s.driver.create(&path, &Limits::default()).unwrap();
    let Placement { into_cgroup, tasks } = s.driver.placement(&path).unwrap();
    // A thread of its own in a test harness is as good as a single thread here: the child only writes and pauses.
    let args = CloneArgs { into_cgroup: into_cgroup.as_ref().map(|fd| fd.as_fd()), ..CloneArgs::default() };
    let child = process::spawn(&args, || {
        for fd in &tasks {
            if husk_oci::sys::fd::write(fd.as_fd(), b"0").is_err() {
                process::exit(1);
            }
        }
        loop {
            std::thread::park();
        }
    })
    .unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", child.pid)).unwrap();
        if text.lines().filter(|l| l.ends_with(&path)).count() == s.found(&path).len() {
            break;
        }
        assert!(Instant::now() < end, "{text}");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(s.driver.processes(&s.top).unwrap(), [child.pid]);
    assert!(!s.driver.try_remove(&path).unwrap());
    s.driver.kill(&path).unwrap();
    process::wait(process::Target::Pidfd(child.pidfd.as_fd()), false, false).unwrap();
    s.wait_gone(&path);
}

#[test]
fn the_pids_limit_is_in_force() {
    let s = Scratch::new("pids");
    let path = s.path("c");
    s.driver.create(&path, &Limits { pids_max: Some(3), ..Limits::default() }).unwrap();
    // The shell is one, two sleeps fit, the third does not.
    let status = s.sh(&path, "sleep 100 & sleep 100 & sleep 100 & wait").wait().unwrap();
    assert!(!status.success());
    s.driver.kill(&path).unwrap();
}

#[test]
fn a_fork_bomb_is_killed_and_nothing_stays() {
    let s = Scratch::new("bomb");
    let path = s.path("c");
    s.driver.create(&path, &Limits { pids_max: Some(200), ..Limits::default() }).unwrap();
    let mut bomb = s.sh(&path, BOMB);
    let end = Instant::now() + Duration::from_secs(20);
    while s.driver.processes(&path).unwrap().len() < 50 {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    s.driver.kill(&path).unwrap();
    bomb.wait().unwrap();
    s.wait_gone(&path);
}

#[test]
fn without_a_v2_tree_the_freezer_holds_them_for_the_kill() {
    let mut s = Scratch::new("freezer");
    if s.driver.hierarchies().v1_with("freezer").is_none() {
        skip!("this host has no v1 freezer");
    }
    let mut all = s.driver.hierarchies().clone();
    all.v2 = None;
    s.driver = Cgroupfs::new(all);
    let path = s.path("c");
    s.driver.create(&path, &Limits { pids_max: Some(100), ..Limits::default() }).unwrap();
    let mut bomb = s.sh(&path, BOMB);
    let end = Instant::now() + Duration::from_secs(20);
    while s.driver.processes(&path).unwrap().len() < 30 {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    s.driver.kill(&path).unwrap();
    bomb.wait().unwrap();
    s.wait_gone(&path);
}

#[test]
fn cgroups_inside_are_removed_with_it_and_empty_parents_on_request() {
    let s = Scratch::new("nested");
    let path = s.path("pods/pod1/c");
    s.driver.create(&path, &Limits::default()).unwrap();
    s.driver.create(&format!("{path}/x/y"), &Limits::default()).unwrap();
    s.driver.create(&s.path("pods/pod2"), &Limits::default()).unwrap();
    assert!(s.driver.try_remove(&path).unwrap());
    s.driver.remove_empty_parents(&path).unwrap();
    assert!(s.found(&s.path("pods/pod1")).is_empty());
    assert!(!s.found(&s.path("pods")).is_empty());
    assert!(s.driver.try_remove(&s.path("pods/pod2")).unwrap());
    s.driver.remove_empty_parents(&s.path("pods/pod2")).unwrap();
    assert!(s.found(&s.top).is_empty());
}

#[test]
fn creating_wins_against_the_removal_of_empty_parents() {
    let s = Scratch::new("race");
    let (driver, parent) = (s.driver.clone(), s.path("a/b/x"));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let other = std::thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                driver.remove_empty_parents(&parent).unwrap();
            }
        }
    });
    for n in 0..50 {
        let path = s.path(&format!("a/b/{n}"));
        s.driver.create(&path, &Limits::default()).unwrap();
        assert!(s.driver.try_remove(&path).unwrap());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    other.join().unwrap();
}

#[test]
fn a_limit_that_the_kernel_refuses_leaves_nothing() {
    let s = Scratch::new("refused");
    let path = s.path("c");
    let error = s.driver.create(&path, &Limits { cpu_quota_us: Some(10), ..Limits::default() }).unwrap_err();
    assert!(error.to_string().contains("(EINVAL)"), "{error}");
    assert!(s.found(&s.top).is_empty());
}
