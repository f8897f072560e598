//! Network namespaces: one for each test, and others that play the world outside.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use husk::network::netlink::{Buffer, DUMP, Socket};
use nix::sched::{CloneFlags, setns, unshare};

use super::run::{Job, Output};

/// The namespace that this thread is in.
pub fn current() -> OwnedFd {
    File::open("/proc/thread-self/ns/net").expect("open our network namespace").into()
}

/// A new network namespace for this thread and whatever it starts, until it is dropped.
pub struct Own {
    before: OwnedFd,
}

impl Own {
    /// Enters it; its loopback interface is up.
    pub fn enter() -> Own {
        let before = current();
        unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace");
        husk_oci::sys::net::loopback_up().expect("bring up the loopback interface");
        Own { before }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        setns(self.before.as_fd(), CloneFlags::CLONE_NEWNET).expect("go back to the network namespace of before");
    }
}

/// A namespace beside ours, without anything in it.
pub struct Beside(OwnedFd);

impl Beside {
    /// Makes it.
    pub fn new() -> Beside {
        let own = Own::enter();
        let there = current();
        drop(own);
        Beside(there)
    }

    /// That of a process.
    pub fn of(pid: i32) -> Beside {
        Beside(File::open(format!("/proc/{pid}/ns/net")).expect("open the network namespace of a process").into())
    }

    /// Calls `work` in it.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = Own { before: current() };
        setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter a network namespace");
        let result = work();
        drop(before);
        result
    }

    /// Runs a command in it with `sh -c`, which must succeed, and returns what it printed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        assert_eq!(output.code, Some(0), "{script}: {output}");
        output.out()
    }

    /// The same, however it ends.
    pub fn try_sh(&self, script: &str) -> Output {
        self.within(|| Job::new("sh", &["-c", script]).finish())
    }
}

/// Runs a command in this thread's namespace with `sh -c`, which must succeed, and returns what it printed.
#[track_caller]
pub fn sh(script: &str) -> String {
    let output = Job::new("sh", &["-c", script]).finish();
    assert_eq!(output.code, Some(0), "{script}: {output}");
    output.out()
}

/// Names of the tables of nftables in this thread's namespace; none where the kernel has no nftables.
pub fn tables() -> BTreeSet<String> {
    const GET_TABLE: u16 = ((libc::NFNL_SUBSYS_NFTABLES as u16) << 8) | libc::NFT_MSG_GETTABLE as u16;
    let Ok(socket) = Socket::netfilter() else { return BTreeSet::new() };
    let mut buffer = Buffer::default();
    buffer.message(GET_TABLE, DUMP, &[0; 4], |_| {});
    let answers = socket.ask(&buffer).unwrap_or_default();
    answers.iter().filter_map(|answer| answer.attributes(4).get_text(1)).collect()
}
