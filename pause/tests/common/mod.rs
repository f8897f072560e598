//! What the tests of both programs need: a program to execute, a deadline instead of a sleep, a look into `/proc`.
#![allow(dead_code, reason = "each test file uses its part")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use husk_oci::sys::process::{self, Exit, Target};
use husk_oci::sys::{fd, path};

/// A program as a sealed file in memory.
pub fn program(bytes: &[u8]) -> OwnedFd {
    let file = fd::memfd(c"test", true).unwrap();
    assert_eq!(fd::write(file.as_fd(), bytes).unwrap(), bytes.len());
    path::fchmod(file.as_fd(), 0o555).unwrap();
    fd::seal(file.as_fd()).unwrap();
    file
}

/// Waits until `done`, for ten seconds at most.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for the end of a child, for ten seconds at most.
#[track_caller]
pub fn end_of(pidfd: BorrowedFd<'_>) -> Exit {
    let mut end = None;
    eventually("the end of a child", || {
        end = process::wait(Target::Pidfd(pidfd), true, false).unwrap();
        end.is_some()
    });
    end.unwrap()
}

/// A line of `/proc/<pid>/status`.
pub fn status(pid: i32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(field).and_then(|l| l.strip_prefix(':')));
    line.unwrap_or_else(|| panic!("no {field} in\n{text}")).trim().to_owned()
}

/// Resident memory in KiB, counted page by page.
pub fn resident_kib(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    text.lines()
        .filter_map(|l| l.strip_prefix("Rss:"))
        .map(|l| l.trim().trim_end_matches(" kB").parse::<u64>().unwrap())
        .sum()
}

/// The pids of the children.
pub fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|p| p.parse().unwrap()).collect()
}
