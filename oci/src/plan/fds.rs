//! What the child keeps open, by number.

use super::Slot;
use crate::sys::fd;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

enum Kept<'a> {
    Lent(BorrowedFd<'a>),
    Own(OwnedFd),
}

/// fds in the order in which they were added; none of them is 0, 1 or 2.
#[derive(Default)]
pub(crate) struct Fds<'a>(Vec<Kept<'a>>);

impl<'a> Fds<'a> {
    /// Keeps somebody's fd. One that stands where stdio will be is moved away.
    pub(crate) fn lend(&mut self, fd: BorrowedFd<'a>) -> Result<Slot, Errno> {
        if fd.as_raw_fd() < 3 {
            let moved = fd::dup_from(fd, 3)?;
            return self.own(moved);
        }
        self.0.push(Kept::Lent(fd));
        Ok(self.0.len() - 1)
    }

    /// Keeps an fd of our own until this table is dropped.
    pub(crate) fn own(&mut self, fd: OwnedFd) -> Result<Slot, Errno> {
        let fd = if fd.as_raw_fd() < 3 { fd::dup_from(fd.as_fd(), 3)? } else { fd };
        self.0.push(Kept::Own(fd));
        Ok(self.0.len() - 1)
    }

    /// All of them, by slot.
    pub(crate) fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.0
            .iter()
            .map(|k| match k {
                Kept::Lent(fd) => *fd,
                Kept::Own(fd) => fd.as_fd(),
            })
            .collect()
    }
}

/// The ranges from 3 on that have none of `kept` in them.
pub(crate) fn gaps(kept: &[BorrowedFd<'_>]) -> Vec<(u32, u32)> {
    let mut numbers: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd() as u32).filter(|n| *n >= 3).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut out = Vec::with_capacity(numbers.len() + 1);
    let mut next = 3;
    for n in numbers {
        if n > next {
            out.push((next, n - 1));
        }
        next = n + 1;
    }
    out.push((next, u32::MAX));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_leave_out_exactly_what_is_kept() {
        let (r, w) = fd::pipe(false).unwrap();
        let (r, w) = (fd::dup_from(r.as_fd(), 40).unwrap(), fd::dup_from(w.as_fd(), 50).unwrap());
        let (a, b) = (r.as_raw_fd() as u32, w.as_raw_fd() as u32);
        assert_eq!(
            gaps(&[w.as_fd(), r.as_fd(), w.as_fd()]),
            if b == a + 1 {
                vec![(3, a - 1), (b + 1, u32::MAX)]
            } else {
                vec![(3, a - 1), (a + 1, b - 1), (b + 1, u32::MAX)]
            }
        );
        assert_eq!(gaps(&[]), [(3, u32::MAX)]);
    }
}
