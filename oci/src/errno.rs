//! Errno values as users read them: `no such file (ENOENT)`.

use nix::errno::Errno;
use std::fmt;

/// Displays an errno as lower-case words with the name in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sys(pub Errno);

impl fmt::Display for Sys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.desc();
        let mut chars = text.chars();
        let first: String = chars.next().map(|c| c.to_lowercase().collect()).unwrap_or_default();
        write!(f, "{first}{} ({:?})", chars.as_str(), self.0)
    }
}

impl std::error::Error for Sys {}

impl From<&std::io::Error> for Sys {
    fn from(e: &std::io::Error) -> Self {
        Sys(e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }
}

/// The same for a [`std::io::Error`]; one without an errno keeps its own text.
pub fn io_text(e: &std::io::Error) -> String {
    match e.raw_os_error() {
        Some(n) => Sys(Errno::from_raw(n)).to_string(),
        None => e.to_string(),
    }
}
