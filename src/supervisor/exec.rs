//! One more process in a running container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use husk_oci::spawn::Event;
use husk_oci::sys::path;
use husk_oci::{exec, spawn};

use super::pod::{Pod, say};
use super::start::event;
use crate::cgroup::CgroupDriver;
use crate::runtime::{Error, container, spec};
use crate::state::record::{ContainerKind, PodRecord, State, Status};

/// What a client asks for.
#[derive(Debug)]
pub struct Wanted {
    /// Container name; `None` = the first app container.
    pub container: Option<String>,
    /// Command and arguments.
    pub argv: Vec<String>,
    /// With a terminal of its own.
    pub tty: bool,
    /// Its rows and columns.
    pub size: Option<(u16, u16)>,
    /// stdin, stdout, stderr.
    pub fds: Vec<OwnedFd>,
}

/// The container that is meant, as its position.
///
/// # Errors
/// There is none of that name, or it does not run.
pub fn target(record: &PodRecord, status: &Status, name: Option<&str>) -> Result<usize, String> {
    let position = match name {
        Some(name) => record.containers.iter().position(|c| c.name == name),
        None => record.containers.iter().position(|c| c.kind == ContainerKind::App),
    };
    let names = || record.containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
    let index = position.ok_or_else(|| format!("pod has no container {:?}; it has {}", name.unwrap_or(""), names()))?;
    match status.containers[index].state {
        State::Running { .. } => Ok(index),
        State::Waiting { ref reason, .. } => {
            Err(format!("container {} is not running: it waits ({reason})", record.containers[index].name))
        }
        State::Terminated(ref exit) => Err(format!(
            "container {} is not running: it ended with exit code {}",
            record.containers[index].name, exit.exit_code
        )),
    }
}

/// Makes the process with the container's identity, environment and limits.
///
/// # Errors
/// The request is wrong, or the container is going away.
pub fn create(
    record: &PodRecord,
    index: usize,
    pidfd: BorrowedFd<'_>,
    driver: &dyn CgroupDriver,
    cgroup: &str,
    wanted: &Wanted,
) -> Result<spawn::Starting, Error> {
    let container = &record.containers[index];
    let host = |e: &dyn std::fmt::Display| Error::Container { container: container.name.clone(), what: e.to_string() };
    if wanted.argv.is_empty() {
        return Err(host(&"exec: no command was given"));
    }
    let process = spec::process(container, wanted.argv.clone(), wanted.tty)?;
    if container.user.uid != 0 {
        // As for the container's own pipes: whoever opens /dev/stdout anew must be allowed to.
        for fd in &wanted.fds {
            let is_pipe = path::fstat(fd.as_fd()).is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFIFO);
            if is_pipe {
                path::fchown(fd.as_fd(), container.user.uid, u32::MAX).map_err(|e| host(&husk_oci::errno::Sys(e)))?;
            }
        }
    }
    let placement = driver.placement(cgroup).map_err(|e| host(&e))?;
    let (rows, cols) = wanted.size.unwrap_or((24, 80));
    let stdio = match (wanted.tty, wanted.fds.as_slice()) {
        (true, []) => spawn::Stdio::Terminal { rows, cols },
        (false, [input, output, errors]) => spawn::Stdio::Fds([input.as_fd(), output.as_fd(), errors.as_fd()]),
        (_, other) => return Err(host(&format!("exec: {} fds came with the request", other.len()))),
    };
    exec::exec(&exec::Exec {
        process: &process,
        container: spawn::Join { pidfd, user: false },
        cgroup: spawn::Placement {
            into_cgroup: placement.into_cgroup.as_ref().map(AsFd::as_fd),
            tasks: &placement.tasks,
        },
        stdio,
        start: None,
        sibling: true,
        die_with_parent: false,
        seccomp: None,
    })
    .map_err(|e| host(&e))
}

/// What `husk exec` exits with when the process could not be executed: 127 not found, 126 not executable, 125 ours.
pub fn exit_code(e: &husk_oci::error::Error) -> i32 {
    match e.kind() {
        husk_oci::error::Kind::NotFound => 127,
        husk_oci::error::Kind::NotExecutable => 126,
        _ => 125,
    }
}

impl Pod {
    /// Runs one more process in a container.
    pub(super) async fn exec(
        &mut self,
        wanted: super::exec::Wanted,
    ) -> Result<(i32, Option<OwnedFd>, OwnedFd), (i32, String)> {
        let ours = |message: String| (125, message);
        let index = super::exec::target(&self.record, &self.status, wanted.container.as_deref()).map_err(ours)?;
        let name = self.record.containers[index].name.clone();
        let live = self.live[index].as_ref().ok_or_else(|| ours(format!("container {name} is not running")))?;
        let State::Running { id, .. } = &self.status.containers[index].state else {
            return Err(ours(format!("container {name} is not running")));
        };
        let cgroup = container::cgroup(&self.record, id);
        let mut process = super::exec::create(&self.record, index, live.pidfd.as_fd(), &*self.driver, &cgroup, &wanted)
            .map_err(|e| ours(e.to_string()))?;
        let mut terminal = None;
        loop {
            match event(&mut process).await.map_err(|e| ours(e.to_string()))? {
                Event::Warning(text) => say("warn", text),
                Event::Terminal(master) => terminal = Some(master),
                Event::Created => {}
                Event::Executed => break,
                Event::Failed(e) => return Err((super::exec::exit_code(&e), format!("container {name}: {e}"))),
            }
        }
        let pidfd = process.pidfd().try_clone_to_owned().map_err(|e| ours(husk_oci::errno::io_text(&e)))?;
        Ok((process.pid, terminal, pidfd))
    }
}
