//! What can go wrong with a network, as users read it.

use std::fmt;

use husk_oci::errno::Sys;
use nix::errno::Errno;

/// An error of the network room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The kernel refused.
    Sys {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        errno: Errno,
        /// What to do, where we know it.
        advice: String,
    },
    /// Something is not possible as it was asked for.
    Refused {
        /// What, why, and what to do.
        what: String,
    },
}

impl Error {
    /// The kernel refused, and there is no advice.
    pub fn sys(doing: impl fmt::Display, errno: Errno) -> Error {
        Error::Sys { doing: doing.to_string(), errno, advice: String::new() }
    }

    /// The same for [`std::io::Error`].
    pub fn io(doing: impl fmt::Display, e: &std::io::Error) -> Error {
        Error::sys(doing, Sys::from(e).0)
    }

    /// Not possible as it was asked for.
    pub fn refused(what: impl Into<String>) -> Error {
        Error::Refused { what: what.into() }
    }

    /// What the kernel said, if it was the kernel.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Sys { errno, .. } => Some(*errno),
            Error::Refused { .. } => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Sys { doing, errno, advice } if advice.is_empty() => write!(f, "{doing}: {}", Sys(*errno)),
            Error::Sys { doing, errno, advice } => write!(f, "{doing}: {}; {advice}", Sys(*errno)),
            Error::Refused { what } => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}
