//! What can go wrong in the runtime, as users read it.

use std::fmt;

/// An error of the runtime room; the text of the rooms below is kept as their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Something about one container.
    Container {
        /// Its name.
        container: String,
        /// What.
        what: String,
    },
    /// Something about the pod as a whole.
    Pod {
        /// `namespace/name`.
        pod: String,
        /// What.
        what: String,
    },
    /// The records.
    State(crate::state::Error),
    /// The image store or an image.
    Image {
        /// Field of the manifest, such as `spec.containers[0].image`.
        field: String,
        /// What.
        what: String,
    },
    /// Setting something up on the host.
    Host {
        /// What was being done, and what the kernel said.
        what: String,
    },
    /// Cannot happen unless husk is wrong.
    Internal {
        /// What.
        what: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Container { container, what } => write!(f, "container {container}: {what}"),
            Error::Pod { pod, what } => write!(f, "pod {pod}: {what}"),
            Error::State(e) => e.fmt(f),
            Error::Image { field, what } => write!(f, "{field}: {what}"),
            Error::Host { what } => f.write_str(what),
            Error::Internal { what } => write!(f, "{what}; this is a defect of husk, please report it"),
        }
    }
}

impl std::error::Error for Error {}

impl From<crate::state::Error> for Error {
    fn from(e: crate::state::Error) -> Error {
        Error::State(e)
    }
}

impl Error {
    /// A failed system call outside any container.
    pub fn sys(doing: impl fmt::Display, e: nix::errno::Errno) -> Error {
        Error::Host { what: format!("{doing}: {}", husk_oci::errno::Sys(e)) }
    }

    /// The same for [`std::io::Error`].
    pub fn io(doing: impl fmt::Display, e: &std::io::Error) -> Error {
        Error::Host { what: format!("{doing}: {}", husk_oci::errno::io_text(e)) }
    }
}
