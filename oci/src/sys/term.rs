//! Pseudo-terminals.

use super::{Errno, Result, call_fd, path};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// A new pty master of the devpts whose root is `devpts` (its own `ptmx`, so that no path is trusted), unlocked. `pts(4)`
pub fn open_master(devpts: BorrowedFd<'_>) -> Result<OwnedFd> {
    let how = path::How {
        flags: (libc::O_RDWR | libc::O_NOCTTY) as u64,
        mode: 0,
        resolve: path::resolve::NO_SYMLINKS | path::resolve::NO_XDEV | path::resolve::BENEATH,
    };
    let master = path::openat2(devpts, c"ptmx", how)?;
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int, which outlives the call.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) })?;
    Ok(master)
}

/// The slave of this master, opened through the master and not by a path. `TIOCGPTPEER` of `ioctl_tty(2)`
pub fn open_peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let args = [super::arg(master), libc::TIOCGPTPEER as usize, flags as usize, 0, 0, 0];
    // SAFETY: TIOCGPTPEER takes open flags as its value and returns a new fd.
    unsafe { call_fd(libc::SYS_ioctl, args) }
}

/// Makes this terminal the caller's controlling one; the caller must lead a session without one. `TIOCSCTTY`
pub fn set_controlling(tty: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: TIOCSCTTY takes a number; 0 = steal from nobody.
    Errno::result(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Sets rows and columns; works on master and slave. `TIOCSWINSZ`
pub fn set_size(tty: BorrowedFd<'_>, rows: u16, cols: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a struct winsize, which outlives the call.
    Errno::result(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// Rows and columns. `TIOCGWINSZ`
pub fn size(tty: BorrowedFd<'_>) -> Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a struct winsize, which outlives the call.
    Errno::result(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok((size.ws_row, size.ws_col))
}
