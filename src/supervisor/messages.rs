//! What containers leave as their last words.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::log_entry;
use super::pod::{Pod, keeper_error, say};
use super::slots;
use super::tidy;
use crate::runtime::{Error, messages};

/// How much of a log stands in for a message: the kubelet's numbers.
const LOG_LINES: usize = 80;
const LOG_BYTES: usize = 2048;

impl Pod {
    /// Opens the place of messages in a sandbox that is up, and has keeper hold it.
    pub(super) fn open_messages(&mut self, pause: BorrowedFd<'_>) -> Result<(), Error> {
        if !self.record.sandbox.messages {
            return Ok(());
        }
        let dir = messages::open(pause)?;
        self.keeper.put(slots::MESSAGES, dir.as_fd()).map_err(keeper_error)?;
        self.messages = Some(dir);
        Ok(())
    }

    /// The same with a pod whose last supervisor died.
    pub(super) fn recover_messages(&mut self) -> Result<(), Error> {
        self.messages = self.keeper_get(slots::MESSAGES)?;
        let Some(pause) = self.pause.clone().filter(|_| self.messages.is_none()) else { return Ok(()) };
        if let Err(e) = self.open_messages(pause.as_fd()) {
            say("warn", format_args!("{e}, continuing without it"));
        }
        Ok(())
    }

    /// Makes the file that an instance is about to find in its root.
    pub(super) fn message_file(&self, index: usize, attempt: u32) -> Result<(), Error> {
        let Some((_, file)) = messages::of(&self.record, &self.record.containers[index], attempt) else {
            return Ok(());
        };
        let gone = || Error::Host { what: "the place of termination messages is gone".into() };
        messages::create(self.messages.as_ref().ok_or_else(gone)?.as_fd(), &file)
    }

    /// What an instance that has ended leaves as its message, or the end of its log where that stands in; empty: nothing. The file stays: whoever comes
    /// after us before the record is written reads it again.
    pub(super) fn termination_message(&self, index: usize, attempt: u32, exit_code: i32) -> String {
        let container = &self.record.containers[index];
        let Some((place, file)) = messages::of(&self.record, container, attempt) else { return String::new() };
        let said = self.messages.as_ref().map_or(Ok(String::new()), |dir| messages::read(dir.as_fd(), &file));
        let said = said.unwrap_or_else(|e| {
            say("warn", format_args!("container {}: {e}, continuing without it", container.name));
            String::new()
        });
        if !said.is_empty() || !place.or_log || exit_code == 0 {
            return said;
        }
        let dir = Path::new(&self.record.log_dir).join(&container.name);
        let tail = log_entry::tail(&dir, attempt, LOG_LINES, LOG_BYTES).unwrap_or_else(|e| {
            let e = husk_oci::errno::io_text(&e);
            say(
                "warn",
                format_args!("container {}: read the end of its log: {e}, continuing without it", container.name),
            );
            Vec::new()
        });
        let said = messages::last(&tail, LOG_BYTES);
        tidy::before_sleep();
        said
    }
}
