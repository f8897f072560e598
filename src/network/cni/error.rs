//! What can go wrong with networks of others, as users read it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use husk_oci::errno::io_text;

/// An error of a network's configuration or of one of its plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A directory or file cannot be read.
    Io {
        /// Verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        why: String,
    },
    /// There is no network.
    NoNetwork {
        /// Where one was looked for.
        dir: PathBuf,
        /// What it should be called.
        wanted: Option<String>,
    },
    /// A configuration that cannot be used.
    Config {
        /// Which file, or the network when it came from elsewhere.
        source: String,
        /// The field, such as `plugins[1].type`; empty: the whole.
        field: String,
        /// What is wrong.
        what: String,
    },
    /// A plugin failed, or what it answered makes no sense.
    Plugin {
        /// `ADD`, `DEL`, …
        verb: &'static str,
        /// Name of the network.
        network: String,
        /// `type` of the plugin.
        plugin: String,
        /// What.
        failure: Failure,
    },
    /// What the pod asks for, and no plugin of the network offers.
    NoCapability {
        /// Where the pod asks for it.
        field: String,
        /// The capability.
        capability: String,
        /// Name of the network.
        network: String,
    },
    /// Every plugin was content, and the pod has no address.
    NoAddress {
        /// Name of the network.
        network: String,
        /// The interface that should have one.
        interface: String,
    },
}

/// What a plugin did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It is in none of the directories.
    Missing {
        /// Those that were looked through.
        dirs: Vec<PathBuf>,
    },
    /// It cannot be executed.
    Start {
        /// Its file.
        path: PathBuf,
        /// What the kernel said.
        why: String,
    },
    /// It did not end in time, and was killed.
    TimedOut {
        /// How long it ran.
        after: Duration,
    },
    /// It printed more than anybody reads, and was killed.
    TooMuch {
        /// How much is read.
        limit: usize,
    },
    /// It reported an error as the specification asks.
    Reported {
        /// `code`.
        code: u64,
        /// `msg`.
        msg: String,
        /// `details`; may be empty.
        details: String,
    },
    /// It ended otherwise than with an error of the specification.
    Died {
        /// `exited with 2`, `was killed by SIGSEGV`.
        how: String,
        /// The end of what it wrote to standard error or output; may be empty.
        said: String,
    },
    /// It succeeded, and its answer makes no sense.
    Answer {
        /// The field, such as `ips[0].address`; empty: the whole.
        field: String,
        /// What is wrong.
        what: String,
    },
    /// It does not know the network's version of the specification.
    Version {
        /// The network's.
        wanted: &'static str,
        /// Those that it knows.
        known: Vec<String>,
    },
    /// The pod has ended before the plugin was started.
    PodEnded,
    /// A system call of ours failed.
    Host {
        /// What was being done, and what the kernel said.
        what: String,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &std::path::Path, e: &std::io::Error) -> Error {
        Error::Io { doing, path: path.to_owned(), why: io_text(e) }
    }

    /// The plugin asks to be called again later (code 11).
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Plugin { failure: Failure::Reported { code: TRY_AGAIN_LATER, .. }, .. })
    }
}

/// "Try again later", of the specification's list.
const TRY_AGAIN_LATER: u64 = 11;

/// What the specification calls a code, if it does.
fn code_name(code: u64) -> Option<&'static str> {
    Some(match code {
        1 => "incompatible CNI version",
        2 => "unsupported field in network configuration",
        3 => "container unknown",
        4 => "invalid environment variables",
        5 => "I/O failure",
        6 => "failed to decode content",
        7 => "invalid network configuration",
        TRY_AGAIN_LATER => "try again later",
        50 => "plugin not available",
        51 => "plugin not available, and existing containers may have limited connectivity",
        _ => return None,
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { doing, path, why } => write!(f, "{doing} {}: {why}", path.display()),
            Error::NoNetwork { dir, wanted: Some(name) } => {
                write!(f, "no CNI network: no file in {} has a network named {name:?}", dir.display())
            }
            Error::NoNetwork { dir, wanted: None } => write!(
                f,
                "no CNI network: {} has no file that ends in .conflist, .conf or .json; put one there, or use another network: --network bridge",
                dir.display()
            ),
            Error::Config { source, field, what } => {
                let colon = if field.is_empty() { "" } else { ": " };
                write!(f, "CNI network {source}{colon}{field}: {what}")
            }
            Error::Plugin { verb, network, plugin, failure } => {
                write!(f, "CNI plugin {plugin} of network {network}: {verb}: {failure}")
            }
            Error::NoCapability { field, capability, network } => write!(
                f,
                "{field}: no plugin of CNI network {network} has the capability {capability}; add one that has, or remove the field"
            ),
            Error::NoAddress { network, interface } => {
                write!(f, "CNI network {network} has given the pod's {interface} no address")
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = |f: &mut fmt::Formatter<'_>, text: &str| match text {
            "" => Ok(()),
            text => write!(f, ": {text}"),
        };
        match self {
            Failure::Missing { dirs } => {
                let dirs: Vec<String> = dirs.iter().map(|d| d.display().to_string()).collect();
                write!(f, "there is no such plugin in {}; install it there", dirs.join(" or "))
            }
            Failure::Version { wanted, known } => {
                write!(f, "it does not know CNI {wanted}, but {}; install another version of it", known.join(", "))
            }
            Failure::Start { path, why } => write!(f, "execute {}: {why}", path.display()),
            Failure::TimedOut { after } => {
                write!(f, "it had not ended after {} s and was killed", after.as_secs_f32().round())
            }
            Failure::TooMuch { limit } => {
                write!(f, "it printed more than {} KiB and was killed", limit >> 10)
            }
            Failure::Reported { code, msg, details } => {
                f.write_str(if msg.is_empty() { "failed" } else { msg })?;
                tail(f, details)?;
                match code_name(*code) {
                    Some(name) => write!(f, " (code {code}: {name})"),
                    None => write!(f, " (code {code})"),
                }
            }
            Failure::Died { how, said } => {
                write!(f, "it {how} without a CNI error")?;
                tail(f, said)
            }
            Failure::Answer { field, what } => {
                let colon = if field.is_empty() { "" } else { ": " };
                write!(f, "its answer makes no sense: {field}{colon}{what}")
            }
            Failure::PodEnded => f.write_str("not called, as the pod has ended"),
            Failure::Host { what } => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}

/// What a stranger's program wrote, fit to stand in a message: one line, without control characters, not longer than `room` characters.
pub fn printable(bytes: &[u8], room: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut line = String::new();
    for c in words.flat_map(|word| [" ", word]).flat_map(str::chars).skip(1) {
        if line.chars().count() >= room {
            line.push('…');
            break;
        }
        line.push(c);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugins_error_is_a_sentence_with_all_it_said() {
        let failure = Failure::Reported { code: 7, msg: "no bridge".into(), details: "br0 is a veth".into() };
        let error = Error::Plugin { verb: "ADD", network: "pods".into(), plugin: "bridge".into(), failure };
        assert_eq!(
            error.to_string(),
            "CNI plugin bridge of network pods: ADD: no bridge: br0 is a veth (code 7: invalid network configuration)"
        );
        assert!(!error.is_transient());
    }

    #[test]
    fn a_strangers_text_becomes_one_short_line() {
        assert_eq!(printable(b"\n a\x1b[31m \xff b\tc\n", 80), "a [31m \u{fffd} b c");
        assert_eq!(printable(&[b'x'; 100], 3), "xxx…");
        assert_eq!(printable(b"", 3), "");
    }
}
