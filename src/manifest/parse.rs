//! Bytes to pods: YAML or JSON, strict about fields, types, keys, size and depth.

use k8s_openapi::api::core::v1::Pod;
use std::fmt;

/// Largest manifest in bytes. A caller reads at most one byte more than this and hands over what it got.
pub const MAX_BYTES: usize = 4 << 20;

/// Deepest nesting of lists and maps.
pub const MAX_DEPTH: usize = 100;

/// Why a manifest could not be read; shown as `FILE: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What the caller called the input, e.g. `demo.yaml`.
    pub source: String,
    /// Which rule was broken.
    pub kind: ErrorKind,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// More than [`MAX_BYTES`].
    TooLarge,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)
    }
}

impl std::error::Error for Error {}

/// Reads every pod of a manifest: one or more documents, each a `Pod` or a `List` (`PodList`) of pods.
///
/// # Errors
/// The first one met, naming `source` and, where it is known, pod and field.
pub fn parse(bytes: &[u8], source: &str) -> Result<Vec<Pod>, Error> {
    let _ = (bytes, source);
    unimplemented!()
}
