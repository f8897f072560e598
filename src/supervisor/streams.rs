//! Log pumps: one task a stream, which moves a container's output into its log as it comes.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::log::{ContainerLog, Pumped, Staging, Stream};
use super::watch::watch;

/// How long a pump waits before it tries a write again that failed (a full disk). The container blocks meanwhile; nothing is lost.
const RETRY: Duration = Duration::from_millis(250);

/// What all pumps of a pod share: output passes through one staging pipe, a chunk at a time.
pub type SharedStaging = Rc<RefCell<Staging>>;

/// Starts pumping `pipe` into `log` until every writer has closed it.
///
/// # Errors
/// The pipe cannot be watched.
pub fn pump(
    staging: SharedStaging,
    log: Rc<RefCell<ContainerLog>>,
    stream: Stream,
    pipe: OwnedFd,
) -> io::Result<JoinHandle<()>> {
    let pipe = watch(pipe)?;
    Ok(tokio::task::spawn_local(async move {
        let mut complained = false;
        loop {
            let Ok(mut guard) = pipe.readable().await else { return };
            let pumped = log.borrow_mut().pump(&mut staging.borrow_mut(), stream, pipe.get_ref().as_fd());
            match pumped {
                Ok(Pumped::Eof) => return,
                Ok(Pumped::WouldBlock) => guard.clear_ready(),
                Ok(Pumped::More) => {
                    complained = false;
                    tokio::task::yield_now().await;
                }
                Err(e) => {
                    if !complained {
                        eprintln!(
                            "error: write log of {}: {}, trying again",
                            log.borrow(),
                            husk_oci::errno::io_text(&e)
                        );
                        complained = true;
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }))
}
