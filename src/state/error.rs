//! What can go wrong with what is on disk.

use std::fmt;
use std::path::{Path, PathBuf};

use husk_oci::errno::{Sys, io_text};
use nix::errno::Errno;

/// An error of the state room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A file operation failed.
    Io {
        /// Verb and object.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        why: String,
    },
    /// `--root` or `--state` cannot be used.
    BadRoot {
        /// Which option.
        option: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// `--root` was used with another `--state` before.
    RootInUse {
        /// The root.
        root: PathBuf,
        /// Its state directory.
        partner: PathBuf,
    },
    /// A directory of ours is not a directory, or not root's.
    NotOurs {
        /// Which.
        path: PathBuf,
    },
    /// A record that cannot be understood.
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A record of another husk.
    Version {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// No pod of that name.
    NotFound {
        /// Namespace.
        namespace: String,
        /// Name or uid.
        name: String,
    },
    /// The name is taken by another pod.
    NameTaken {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// The pod that has it.
        uid: String,
    },
    /// The uid is taken by a pod of another name.
    UidTaken {
        /// The uid.
        uid: String,
        /// The pod that has it.
        other: String,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path, e: &std::io::Error) -> Error {
        Error::Io { doing, path: path.to_owned(), why: io_text(e) }
    }

    pub(crate) fn sys(doing: &'static str, path: &Path, e: Errno) -> Error {
        Error::Io { doing, path: path.to_owned(), why: Sys(e).to_string() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { doing, path, why } => write!(f, "{doing} {}: {why}", path.display()),
            Error::BadRoot { option, path } => {
                write!(f, "{option} {path:?}: must be a path without control characters")
            }
            Error::RootInUse { root, partner } => write!(
                f,
                "--root {} goes with --state {}; give each state directory a root of its own",
                root.display(),
                partner.display()
            ),
            Error::NotOurs { path } => {
                write!(
                    f,
                    "{}: must be a directory that belongs to root; choose another with --root and --state",
                    path.display()
                )
            }
            Error::Unreadable { path, why } => {
                write!(f, "record {} cannot be understood: {why}", path.display())
            }
            Error::Version { path, found } => write!(
                f,
                "record {} has version {found}, this husk knows {}; use the husk that wrote it",
                path.display(),
                super::record::VERSION
            ),
            Error::NotFound { namespace, name } => write!(f, "pod {name:?} not found in namespace {namespace:?}"),
            Error::NameTaken { namespace, name, uid } => write!(
                f,
                "pod {namespace}/{name} already exists with uid {uid}; delete it first: husk delete {name} -n {namespace}"
            ),
            Error::UidTaken { uid, other } => write!(f, "metadata.uid {uid} belongs to pod {other} already"),
        }
    }
}

impl std::error::Error for Error {}
