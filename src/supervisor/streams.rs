//! Log pumps: one task a stream, which moves a container's output into its log as it comes.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::log::{ContainerLog, Pumped, Staging, Stream};
use super::watch::watch;
use crate::runtime::say::say;

/// How long a pump waits before it tries a write again that failed (a full disk). The container blocks meanwhile; nothing is lost.
const RETRY: Duration = Duration::from_millis(250);

/// What all pumps of a pod share: output passes through one staging pipe, a chunk at a time.
pub type SharedStaging = Rc<RefCell<Staging>>;

/// How far a pump is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing was left to read when it last looked.
    Idle,
    /// There may be more.
    Moving,
    /// The log cannot be written now: output waits in the pipe.
    Blocked,
}

/// A log pump that runs.
#[derive(Debug)]
pub struct Pump {
    task: JoinHandle<()>,
    progress: Rc<Cell<Progress>>,
}

impl Pump {
    /// Waits until every writer has closed the pipe and all of it is in the log.
    pub async fn done(&mut self) {
        // A task that panicked has ended this process.
        let _ = (&mut self.task).await;
    }

    /// It has done its work.
    pub fn is_done(&self) -> bool {
        self.task.is_finished()
    }

    /// All output that there is is in the log, though more could come.
    pub fn is_idle(&self) -> bool {
        self.is_done() || self.progress.get() == Progress::Idle
    }

    /// The log cannot be written now: output waits in the pipe.
    pub fn is_blocked(&self) -> bool {
        !self.is_done() && self.progress.get() == Progress::Blocked
    }
}

/// Starts pumping `pipe` into `log` until every writer has closed it. `left_over`: it is what a container has left that has ended already, so
/// there is something in it as far as we know.
///
/// # Errors
/// The pipe cannot be watched.
pub fn pump(
    staging: SharedStaging,
    log: Rc<RefCell<ContainerLog>>,
    stream: Stream,
    pipe: OwnedFd,
    left_over: bool,
) -> io::Result<Pump> {
    let pipe = watch(pipe)?;
    let progress = Rc::new(Cell::new(if left_over { Progress::Moving } else { Progress::Idle }));
    let state = progress.clone();
    let task = tokio::task::spawn_local(async move {
        let mut guard = None;
        loop {
            if guard.is_none() && state.get() == Progress::Idle {
                let Ok(ready) = pipe.readable().await else { return };
                guard = Some(ready);
            }
            let pumped = log.borrow_mut().pump(&mut staging.borrow_mut(), stream, pipe.get_ref().as_fd());
            match pumped {
                Ok(Pumped::Eof) => return,
                Ok(Pumped::WouldBlock) => {
                    state.set(Progress::Idle);
                    if let Some(mut ready) = guard.take() {
                        ready.clear_ready();
                    }
                }
                Ok(Pumped::More) => {
                    state.set(Progress::Moving);
                    tokio::task::yield_now().await;
                }
                Err(e) => {
                    if state.replace(Progress::Blocked) != Progress::Blocked {
                        let why = husk_oci::errno::io_text(&e);
                        say("error", format_args!("write log {}: {why}, trying again", log.borrow()));
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    });
    Ok(Pump { task, progress })
}
