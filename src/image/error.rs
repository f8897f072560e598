//! What can go wrong with an image, as a sentence and as a kind.

use husk_oci::errno::Sys;
use nix::errno::Errno;
use std::fmt;

/// What a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No such image (or the id's beginning fits several).
    NotFound,
    /// Not an image name.
    Name,
    /// The file, layout, archive or layer is not what it says, or says what is refused.
    Content,
    /// Well-formed, but of a kind that is not supported.
    Unsupported,
    /// Nothing in it is for this host.
    Platform,
    /// A pod needs it.
    InUse,
    /// The user that an image names cannot be resolved.
    User,
    /// The command cannot be executed.
    Command,
    /// The store's own records cannot be trusted.
    Store,
    /// The kernel refused.
    Io,
}

/// Why a command would not start, seen from the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandFault {
    /// No such file (127 in a shell).
    NotFound,
    /// There, but a directory, or without any execute permission (126 in a shell).
    NotExecutable {
        /// The path that was found.
        path: String,
    },
    /// An ELF file of another machine.
    WrongArchitecture {
        /// The path that was found.
        path: String,
        /// `e_machine`, e.g. 183 for AArch64.
        machine: u16,
    },
    /// A script whose interpreter is not there.
    NoInterpreter {
        /// The script.
        path: String,
        /// What its first line asks for.
        interpreter: String,
    },
}

/// Any failure of the image room. Displays as one line without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A system call failed.
    Io {
        /// e.g. `open`, `write`.
        doing: &'static str,
        /// On what.
        object: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The layers cannot be put one above the other.
    Overlay(husk_oci::overlay::Error),
    /// Something that happened within something.
    In {
        /// e.g. `image load demo.tar`, `layer sha256:…`.
        what: String,
        /// What happened.
        source: Box<Error>,
    },
    /// No image has this name or id.
    NotFound {
        /// As asked.
        name: String,
        /// Names that look alike.
        near: Vec<String>,
    },
    /// The beginning of an id that fits several images.
    Ambiguous {
        /// As asked.
        prefix: String,
        /// How many it fits.
        count: usize,
    },
    /// Not a name.
    Name {
        /// As written.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The content is refused.
    Content {
        /// Why.
        why: String,
    },
    /// The content has another digest than promised.
    Digest {
        /// Of what.
        what: String,
        /// Promised.
        expected: String,
        /// Computed.
        found: String,
    },
    /// Not supported.
    Unsupported {
        /// What, and what to do about it.
        why: String,
    },
    /// A multi-platform image without this platform.
    Platform {
        /// Platform of the host.
        host: String,
        /// Platforms that are there.
        available: Vec<String>,
    },
    /// A pod needs the image.
    InUse {
        /// Name or id as asked.
        name: String,
        /// One of the pods.
        pod: String,
    },
    /// The image's user does not exist or is out of range.
    User {
        /// As written.
        user: String,
        /// What is wrong with it.
        why: String,
    },
    /// The command cannot be executed.
    Command {
        /// `argv[0]`.
        command: String,
        /// Why.
        fault: CommandFault,
    },
    /// The store is damaged or of another version.
    Store {
        /// Which file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// What a caller may want to tell apart.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Io { .. } | Error::Overlay(_) => Kind::Io,
            Error::In { source, .. } => source.kind(),
            Error::NotFound { .. } | Error::Ambiguous { .. } => Kind::NotFound,
            Error::Name { .. } => Kind::Name,
            Error::Content { .. } | Error::Digest { .. } => Kind::Content,
            Error::Unsupported { .. } => Kind::Unsupported,
            Error::Platform { .. } => Kind::Platform,
            Error::InUse { .. } => Kind::InUse,
            Error::User { .. } => Kind::User,
            Error::Command { .. } => Kind::Command,
            Error::Store { .. } => Kind::Store,
        }
    }

    /// The reason why a command cannot be executed, if that is what this error is about.
    pub fn command_fault(&self) -> Option<&CommandFault> {
        match self {
            Error::Command { fault, .. } => Some(fault),
            Error::In { source, .. } => source.command_fault(),
            _ => None,
        }
    }

    pub(super) fn io(doing: &'static str, object: impl fmt::Display, errno: Errno) -> Error {
        Error::Io { doing, object: object.to_string(), errno }
    }

    pub(super) fn content(why: impl Into<String>) -> Error {
        Error::Content { why: why.into() }
    }

    pub(super) fn unsupported(why: impl Into<String>) -> Error {
        Error::Unsupported { why: why.into() }
    }

    pub(super) fn within(self, what: impl Into<String>) -> Error {
        Error::In { what: what.into(), source: Box::new(self) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { doing, object, errno } => write!(f, "{doing} {object}: {}", Sys(*errno)),
            Error::Overlay(e) => write!(f, "look into the image's layers: {e}"),
            Error::In { what, source } => write!(f, "{what}: {source}"),
            Error::NotFound { name, near } if near.is_empty() => {
                write!(f, "image {}: not in the store; `husk image ls` lists what is", printable(name.as_bytes()))
            }
            Error::NotFound { name, near } => {
                write!(f, "image {}: not in the store; similar: {}", printable(name.as_bytes()), near.join(", "))
            }
            Error::Ambiguous { prefix, count } => {
                write!(
                    f,
                    "image {}: {count} images have an id that begins so; give more of it",
                    printable(prefix.as_bytes())
                )
            }
            Error::Name { name, why } => write!(f, "image name {}: {why}", printable(name.as_bytes())),
            Error::Content { why } | Error::Unsupported { why } => f.write_str(why),
            Error::Digest { what, expected, found } => {
                write!(f, "{what}: digest is {found}, expected {expected}; the content is damaged or was changed")
            }
            Error::Platform { host, available } => {
                write!(f, "no image for {host}; there is {}", available.join(", "))
            }
            Error::InUse { name, pod } => {
                write!(f, "image {}: in use by pod {pod}; delete the pod first", printable(name.as_bytes()))
            }
            Error::User { user, why } => write!(f, "user {}: {why}", printable(user.as_bytes())),
            Error::Command { command, fault } => {
                write!(f, "command {}: ", printable(command.as_bytes()))?;
                match fault {
                    CommandFault::NotFound => f.write_str("not found in the image"),
                    CommandFault::NotExecutable { path } => {
                        write!(f, "{} is not executable", printable(path.as_bytes()))
                    }
                    CommandFault::WrongArchitecture { path, machine } => write!(
                        f,
                        "{} is for another architecture ({}), this host is {}",
                        printable(path.as_bytes()),
                        super::platform::machine_name(*machine),
                        super::platform::HOST
                    ),
                    CommandFault::NoInterpreter { path, interpreter } => write!(
                        f,
                        "{} needs the interpreter {}, which is not in the image",
                        printable(path.as_bytes()),
                        printable(interpreter.as_bytes())
                    ),
                }
            }
            Error::Store { path, why } => write!(f, "image store {path}: {why}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::In { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}

/// Foreign bytes for a message: quoted, control characters and other non-text escaped, cut at 200 characters.
pub(super) fn printable(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(201).collect();
    let cut = text.chars().count() > 200;
    let shown: String = text.chars().take(200).collect();
    // Debug formatting escapes what a terminal would obey, bidirectional controls included.
    if cut { format!("{shown:?}…") } else { format!("{shown:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_bytes_cannot_write_to_the_terminal() {
        let shown = printable(b"a\x1b[2Jb\n\xff\0");
        assert!(shown.chars().all(|c| !c.is_control()), "{shown}");
        assert!(printable(&[b'x'; 10_000]).chars().count() < 210);
    }
}
