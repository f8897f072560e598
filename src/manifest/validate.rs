//! Kubernetes' validation rules, and the refusal of what is not supported.

use k8s_openapi::api::core::v1::Pod;
use std::fmt;

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// e.g. `spec.containers[0].image`.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for FieldError {}

/// Everything wrong with a pod; shown as one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    /// Name of the pod, or `""` when it has none.
    pub pod: String,
    /// At least one, in the order of the manifest's type.
    pub errors: Vec<FieldError>,
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.errors.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}pod {}: {e}", self.pod)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Checks a pod that went through [`super::default`].
///
/// # Errors
/// All violations at once, each with its path in Kubernetes' form; a field that is not supported is one.
pub fn validate(pod: &Pod) -> Result<(), Errors> {
    let _ = pod;
    unimplemented!()
}
