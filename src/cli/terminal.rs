//! The user's terminal while a command in a container has it: raw mode, and back on every way out.

use std::os::fd::AsFd;
use std::sync::Mutex;

use husk_oci::errno::Sys;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::Error;

/// How the terminal was before; for the way out through a panic, which ends the process without a drop.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input in raw mode; dropping it puts the terminal back.
#[must_use = "dropping the guard puts the terminal back"]
pub struct RawMode {
    raw: Termios,
}

impl RawMode {
    /// Switches standard input, which must be a terminal.
    ///
    /// # Errors
    /// It is no terminal, or went away.
    pub fn enter() -> Result<RawMode, Error> {
        let stdin = std::io::stdin();
        let failed = |e| Error::failed(format!("set the terminal to raw mode: {}", Sys(e)));
        let before = tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        remember(Some(before));
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            earlier(info);
        }));
        let mode = RawMode { raw };
        mode.resume()?;
        Ok(mode)
    }

    /// Raw mode again, after the process was stopped and the shell has changed the terminal.
    ///
    /// # Errors
    /// The terminal went away.
    pub fn resume(&self) -> Result<(), Error> {
        tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.raw)
            .map_err(|e| Error::failed(format!("set the terminal to raw mode: {}", Sys(e))))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn remember(termios: Option<Termios>) {
    *BEFORE.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = termios;
}

fn restore() {
    let before = BEFORE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(before) = before {
        // A terminal that went away needs nothing any more. TCSADRAIN would wait for output that nobody reads.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &before);
    }
}

/// Rows and columns of the first of standard input, output and error that is a terminal.
pub fn size() -> Option<(u16, u16)> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let size = |fd| husk_oci::sys::term::size(fd).ok().filter(|size| *size != (0, 0));
    size(stdin.as_fd()).or_else(|| size(stdout.as_fd())).or_else(|| size(stderr.as_fd()))
}
