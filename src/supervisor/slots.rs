//! Which fd stands where in keeper.

use crate::state::record::PodRecord;

/// The control socket's listener.
pub const CONTROL: u64 = 2;
/// Staging of the log writer: pipe's ends and the journal.
pub const STAGING: [u64; 3] = [3, 4, 5];

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
}

/// All parts.
pub const PARTS: [Part; 4] = [Part::Stdout, Part::Stderr, Part::Start, Part::Terminal];

/// The slot of one part: from bit 40 on the container's position (plus one, so that the slots above stay free), then the part, then the attempt.
pub fn of(index: usize, attempt: u32, part: Part) -> u64 {
    ((index as u64 + 1) << 40) | ((part as u64) << 32) | u64::from(attempt)
}

/// Is this the slot of a container that the record knows, in the attempt that its status is in?
pub fn is_current(record: &PodRecord, attempts: &[u32], slot: u64) -> bool {
    let index = (slot >> 40) as usize;
    if index == 0 {
        return slot == husk_pause::proto::SLOT_EXE || slot == CONTROL || STAGING.contains(&slot);
    }
    index <= record.containers.len() && attempts.get(index - 1).is_some_and(|a| u64::from(*a) == slot & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_different_parts_and_attempts_differ() {
        let mut seen = std::collections::HashSet::new();
        for index in [0, 1, 63] {
            for attempt in [0, 1, u32::MAX] {
                for part in PARTS {
                    assert!(seen.insert(of(index, attempt, part)));
                }
            }
        }
        assert!(!seen.contains(&CONTROL) && STAGING.iter().all(|s| !seen.contains(s)));
    }
}
