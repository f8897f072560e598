//! What the loop of a pod waits for, and who takes in what has come.

use std::time::Duration;

use super::hooks::Called;
use super::keeper::Exited;
use super::oom::Killed;
use super::pod::{Pod, keeper_error, now};
use super::probes::Ended;
use super::server::Command;
use crate::runtime::Error;
use crate::runtime::say::say;

/// How long to wait before a record that could not be written is tried again.
const SAVE_RETRY: Duration = Duration::from_millis(250);

/// What a pod's loop waits for.
enum Heard {
    /// A child of keeper is dead.
    Exited(Exited),
    /// A client asks for something.
    Command(Command),
    /// The kernel has killed something for want of memory.
    Killed(Killed),
    /// A probe has ended.
    Probed(Ended),
    /// The request of a hook has ended.
    Called(Called),
    /// What was to be waited for is due.
    Time,
}

impl Pod {
    /// Waits for the next event from which something may follow, and takes it in; `wake_boot_ns` is when something follows from time alone.
    pub(super) async fn wait(&mut self, wake_boot_ns: Option<u64>) -> Result<(), Error> {
        loop {
            let news = self.wait_once(wake_boot_ns).await?;
            self.kill_late_execs();
            // Probes come and go without the rules being asked, as long as all is as it was.
            if news || wake_boot_ns.is_some_and(|at| at <= now().boot_ns) {
                return Ok(());
            }
        }
    }

    /// False: a probe was begun or has ended, and all is as it was.
    async fn wait_once(&mut self, wake_boot_ns: Option<u64>) -> Result<bool, Error> {
        self.probe().await;
        let retry = (self.unsaved || !self.to_reap.is_empty() || !self.leaving.is_empty()).then_some(SAVE_RETRY);
        let probe_boot_ns = self.probing.next();
        let due_boot_ns = [wake_boot_ns, self.next_exec_deadline(), probe_boot_ns].into_iter().flatten().min();
        self.probing.trim(due_boot_ns);
        let until = due_boot_ns.map(|at| {
            // Never zero: a time that has passed and that nothing came of must not spin.
            Duration::from_nanos(at.saturating_sub(now().boot_ns)).max(Duration::from_millis(1))
        });
        let sleep = match (retry, until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let mut news = true;
        match self.next(sleep).await? {
            Heard::Exited(exited) => self.exited(exited).await?,
            Heard::Command(command) => self.command(command).await,
            Heard::Killed(killed) => self.killed(killed),
            Heard::Called(called) => self.called(called),
            Heard::Probed(ended) => {
                let mut next = Some(ended);
                // What must be tried again is not put off by probes.
                news = retry.is_some();
                while let Some(ended) = next {
                    news |= self.probed(ended).await;
                    next = self.probing.also_ended();
                }
                news |= self.unsaved;
            }
            Heard::Time => {
                news = retry.is_some() || probe_boot_ns != due_boot_ns || wake_boot_ns == due_boot_ns;
            }
        }
        Ok(news)
    }

    /// The next event, or the end of `sleep`.
    async fn next(&mut self, sleep: Option<Duration>) -> Result<Heard, Error> {
        loop {
            // What came between the answers of keeper; `keeper_ready` tells of the rest.
            if let Some(exited) = self.keeper.heard_exited() {
                return Ok(Heard::Exited(exited));
            }
            if let Some(e) = self.keeper.refusal() {
                say("error", e);
            }
            tokio::select! {
                biased;
                ready = self.keeper_ready.readable() => {
                    let mut ready = ready.map_err(|e| Error::io("watch keeper", &e))?;
                    match self.keeper.next_exited().map_err(keeper_error)? {
                        Some(exited) => return Ok(Heard::Exited(exited)),
                        None => ready.clear_ready(),
                    }
                }
                Some(command) = self.commands.recv() => return Ok(Heard::Command(command)),
                Some(killed) = self.kills.recv() => return Ok(Heard::Killed(killed)),
                ended = self.probing.ended() => return Ok(Heard::Probed(ended)),
                called = self.calls.ended() => return Ok(Heard::Called(called)),
                () = rest(sleep) => return Ok(Heard::Time),
            }
        }
    }
}

async fn rest(how_long: Option<Duration>) {
    match how_long {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
