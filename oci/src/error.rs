//! What can go wrong between a spec and its process, as one sentence each.

use crate::errno::Sys;
use nix::errno::Errno;
use std::fmt;

/// Why a container (or an extra process in one) could not be made or started.
#[derive(Debug)]
pub enum Error {
    /// The spec or the request asks for something that is not supported or makes no sense. Nothing was done.
    Refused {
        /// The field, as in the OCI runtime spec: `mounts[2].options`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something in the calling process failed, before there was a child.
    Prepare {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        errno: Errno,
        /// What to do about it, where known.
        advice: Option<&'static str>,
    },
    /// A step of the child failed; the child is dead.
    Init {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        errno: Errno,
        /// What to do about it, where known.
        advice: Option<&'static str>,
    },
    /// The command could not be found or executed.
    Program {
        /// The command as it was asked for.
        program: String,
        /// What the kernel said.
        errno: Errno,
        /// What to do about it, where known.
        advice: Option<&'static str>,
        /// There is no such file (127), as opposed to one that can't be executed (126).
        missing: bool,
    },
    /// The child was gone before it was ready, without having said why.
    Died {
        /// The last thing that is known.
        stage: &'static str,
    },
    /// The child said something that makes no sense.
    Protocol {
        /// What.
        reason: &'static str,
    },
}

/// What a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is at fault.
    Refused,
    /// The command does not exist: exit code 127.
    NotFound,
    /// The command exists and can't be executed: exit code 126.
    NotExecutable,
    /// The kernel refused a step of the set-up.
    Failed,
    /// The child was killed during its set-up.
    Died,
}

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Refused { .. } => Kind::Refused,
            Error::Program { missing: true, .. } => Kind::NotFound,
            Error::Program { missing: false, .. } => Kind::NotExecutable,
            Error::Prepare { .. } | Error::Init { .. } | Error::Protocol { .. } => Kind::Failed,
            Error::Died { .. } => Kind::Died,
        }
    }

    /// What the kernel said, if it was the kernel.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Prepare { errno, .. } | Error::Init { errno, .. } | Error::Program { errno, .. } => Some(*errno),
            Error::Refused { .. } | Error::Died { .. } | Error::Protocol { .. } => None,
        }
    }

    pub(crate) fn refused(field: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Refused { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn prepare(doing: impl Into<String>, errno: Errno) -> Error {
        Error::Prepare { doing: doing.into(), errno, advice: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match self {
            Error::Refused { field, reason } => return write!(f, "{field}: {reason}"),
            Error::Died { stage } => {
                return write!(f, "init died {stage} without a word: it was killed, for lack of memory or by somebody");
            }
            Error::Protocol { reason } => return write!(f, "init sent a message that makes no sense: {reason}"),
            Error::Prepare { doing, errno, advice } | Error::Init { doing, errno, advice } => {
                write!(f, "{doing}: {}", Sys(*errno))?;
                advice
            }
            Error::Program { program, errno, advice, .. } => {
                write!(f, "execute {program:?}: {}", Sys(*errno))?;
                advice
            }
        };
        advice.map_or(Ok(()), |a| write!(f, "; {a}"))
    }
}

impl std::error::Error for Error {}
