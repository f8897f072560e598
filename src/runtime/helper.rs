//! This program itself, executed for a task that must not be done in the process that needs it: because it takes threads, or starts processes of its own, or
//! may hang.
//!
//! The task is a line of JSON in the arguments, the answer a line of JSON on standard output.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;

/// A child of ours; killed if need be, and reaped, when this is dropped. Its standard input is closed then.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    /// For messages: `the helper that talks to systemd`.
    name: &'static str,
    answered: bool,
    text: Vec<u8>,
}

impl Helper {
    /// Starts the helper that `word` stands for.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(word: &str, name: &'static str, task: &impl Serialize) -> Result<Helper, Error> {
        let task = serde_json::to_string(task).map_err(|e| Error::Internal { what: e.to_string() })?;
        let mut command = Command::new("/proc/self/exe");
        command.args([word, &task]).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C is for whoever waits for it; a helper comes to its end by itself.
        command.process_group(0);
        let started = command.spawn().map(|child| Helper { child, name, answered: false, text: Vec::new() });
        started.map_err(|e| Error::io(format_args!("start {name}"), &e))
    }

    /// What its answer comes through.
    ///
    /// # Errors
    /// Never, but for a defect.
    pub fn output(&self) -> Result<BorrowedFd<'_>, Error> {
        let missing = || Error::Internal { what: format!("{} without an output", self.name) };
        self.child.stdout.as_ref().map(AsFd::as_fd).ok_or_else(missing)
    }

    /// Reads what there is of the answer, once [`output`](Self::output) can be read; the answer when it is complete.
    ///
    /// # Errors
    /// It died, or its answer is none.
    pub fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        let doing = format!("wait for {}", self.name);
        let Some(stdout) = self.child.stdout.as_mut() else {
            return Err(Error::Host { what: format!("{doing}: it has no output") });
        };
        let mut some = [0; 4096];
        match stdout.read(&mut some) {
            Ok(0) => return Err(Error::Host { what: format!("{doing}: it died") }),
            Ok(n) => self.text.extend_from_slice(&some[..n]),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::Interrupted | std::io::ErrorKind::WouldBlock) => {}
            Err(e) => return Err(Error::io(doing, &e)),
        }
        if !self.text.ends_with(b"\n") {
            return Ok(None);
        }
        self.answered = true;
        let answer = serde_json::from_slice(&self.text);
        answer.map(Some).map_err(|e| Error::Internal { what: format!("the answer of {}: {e}", self.name) })
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// As [`read`](Self::read), or it took too long.
    pub fn answer<T: DeserializeOwned>(&mut self, deadline: Instant) -> Result<T, Error> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut ready = [PollFd::new(self.output()?, PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) => return Err(self.silent()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(Error::sys(format_args!("wait for {}", self.name), e)),
            }
            if let Some(answer) = self.read()? {
                return Ok(answer);
            }
        }
    }

    /// It took too long.
    pub fn silent(&self) -> Error {
        Error::Host { what: format!("wait for {}: it does not answer", self.name) }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Its end of file. One that has not answered is of no more use, and its time is not ours.
        drop(self.child.stdin.take());
        if !self.answered {
            let _ = self.child.kill();
        }
        // A child that cannot be waited for was reaped by somebody else.
        let _ = self.child.wait();
    }
}
