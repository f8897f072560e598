//! Which fd stands where in keeper.

use crate::state::record::Status;

/// Version of this numbering: a supervisor finds what another one has put there.
pub const VERSION: u32 = 2;

/// The control socket's listener.
pub const CONTROL: u64 = 2;
/// Staging of the log writer: pipe's ends and the journal.
pub const STAGING: [u64; 3] = [3, 4, 5];

/// The directory of termination messages.
pub const MESSAGES: u64 = 6;

/// Sockets that hold the pod's host ports, in their order. More than keeper has room for are refused by it.
pub const PORTS: std::ops::Range<u64> = 0x1000..0x2000;

/// The fds of one instance of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Read end of its stdout.
    Stdout,
    /// Read end of its stderr.
    Stderr,
    /// Write end of its start pipe.
    Start,
    /// Master of its terminal.
    Terminal,
    /// Its pidfd, once its stop signal was sent.
    Stopped,
    /// What a client that attaches writes to: write end of its stdin, or the terminal's master. Empty when it has none (any more).
    Stdin,
    /// The connection of the one client that is just being given its stdin.
    Attaching,
}

/// All parts.
pub const PARTS: [Part; 7] =
    [Part::Stdout, Part::Stderr, Part::Start, Part::Terminal, Part::Stopped, Part::Stdin, Part::Attaching];

/// The slot of one part: from bit 40 on the container's number (plus one, so that the slots above stay free), then the part, then the attempt.
pub fn of(container: u32, attempt: u32, part: Part) -> u64 {
    ((u64::from(container) + 1) << 40) | ((part as u64) << 32) | u64::from(attempt)
}

/// The fds of an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecPart {
    /// The client's connection, on which it waits for the end.
    Connection,
    /// Write end of its start pipe, until it was released.
    Start,
    /// Master of its terminal, until the client has it.
    Terminal,
    /// Read end of what a hook prints.
    Output,
}

/// All of them, in the order of their numbers.
const EXEC_PARTS: [ExecPart; 4] = [ExecPart::Connection, ExecPart::Start, ExecPart::Terminal, ExecPart::Output];

/// The topmost bit; container slots never reach it.
const EXEC: u64 = 1 << 63;
const PID_BITS: u64 = 22;
const DEADLINE_BITS: u64 = 39;

/// A running exec as its slots tell of it: no record on the disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExecSlot {
    /// Its process; a pid has at most 22 bits (`PID_MAX_LIMIT`).
    pub pid: i32,
    /// When it is killed: CLOCK_BOOTTIME milliseconds, 0 for never. 39 bits last for 17 years.
    pub deadline_ms: u64,
}

impl ExecSlot {
    /// The slot of one part.
    pub fn of(self, part: ExecPart) -> u64 {
        let deadline = self.deadline_ms.min((1 << DEADLINE_BITS) - 1);
        EXEC | ((part as u64) << (PID_BITS + DEADLINE_BITS))
            | (deadline << PID_BITS)
            | u64::from(self.pid.unsigned_abs())
    }

    /// What a slot is of; `None` for one that no exec has.
    pub fn read(slot: u64) -> Option<(ExecSlot, ExecPart)> {
        if slot & EXEC == 0 {
            return None;
        }
        let part = EXEC_PARTS.get(((slot & !EXEC) >> (PID_BITS + DEADLINE_BITS)) as usize)?;
        let pid = i32::try_from(slot & ((1 << PID_BITS) - 1)).ok()?;
        Some((ExecSlot { pid, deadline_ms: (slot >> PID_BITS) & ((1 << DEADLINE_BITS) - 1) }, *part))
    }
}

/// Is this the slot of a container that the status knows, in the attempt that it is in?
pub fn is_current(status: &Status, slot: u64) -> bool {
    match slot >> 40 {
        0 => {
            slot == husk_pause::proto::SLOT_EXE
                || slot == CONTROL
                || slot == MESSAGES
                || STAGING.contains(&slot)
                || PORTS.contains(&slot)
        }
        number => status
            .containers
            .iter()
            .any(|c| u64::from(c.slot) + 1 == number && u64::from(c.attempt) == slot & 0xffff_ffff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_different_parts_and_attempts_differ() {
        let mut seen = std::collections::HashSet::new();
        for index in [0, 1, u32::MAX >> 10] {
            for attempt in [0, 1, u32::MAX] {
                for part in PARTS {
                    assert!(seen.insert(of(index, attempt, part)));
                }
            }
        }
        for exec in [ExecSlot { pid: 1, deadline_ms: 0 }, ExecSlot { pid: (1 << 22) - 1, deadline_ms: (1 << 39) - 1 }] {
            for part in EXEC_PARTS {
                assert!(seen.insert(exec.of(part)));
                assert_eq!(ExecSlot::read(exec.of(part)), Some((exec, part)));
            }
        }
        assert_eq!(ExecSlot::read(of(u32::MAX >> 10, u32::MAX, Part::Terminal)), None);
        assert!(!seen.contains(&CONTROL) && !seen.contains(&MESSAGES) && STAGING.iter().all(|s| !seen.contains(s)));
        assert!(!STAGING.contains(&MESSAGES));
    }
}
