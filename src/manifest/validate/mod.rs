//! Kubernetes' validation rules, and the refusal of what is not supported.
//!
//! Each check takes its struct apart field by field, without `..`: a field that a newer API version adds does not compile until somebody has
//! decided about it. `docs/compatibility.md` lists the decisions.

mod container;
mod dns;
mod ephemeral;
mod lifecycle;
mod metadata;
pub(super) mod names;
mod pod_spec;
mod probe;
mod resources;
mod security;
#[cfg(test)]
mod tests;
mod volume;

pub use ephemeral::validate_ephemeral;
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
    let mut report = Report::default();
    metadata::check(&pod.metadata, &mut report);
    resources::check_annotations(pod, &mut report);
    match &pod.spec {
        Some(spec) => {
            pod_spec::check(pod, spec, &mut report);
        }
        None => report.add("spec", "required"),
    }
    if report.errors.is_empty() {
        return Ok(());
    }
    let pod = pod.metadata.name.as_deref().unwrap_or_default().escape_debug().to_string();
    Err(Errors { pod, errors: report.errors })
}

const UNSUPPORTED: &str = "not supported yet; remove it";

/// Collects what is wrong.
#[derive(Default)]
struct Report {
    errors: Vec<FieldError>,
}

impl Report {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError { path: path.into(), message: message.into() });
    }

    /// Refuses a field that was given and that we don't have.
    fn refuse(&mut self, path: String, given: bool) {
        if given {
            self.add(path, UNSUPPORTED);
        }
    }

    /// A name by one of the rules in [`names`].
    fn name(&mut self, path: impl Into<String>, value: &str, rule: fn(&str) -> Result<(), String>) {
        if let Err(e) = rule(value) {
            self.add(path, format!("{value:?} {e}"));
        }
    }

    /// One of a list of words.
    fn word(&mut self, path: impl Into<String>, value: &Option<String>, words: &[&str]) {
        if let Some(value) = value
            && !words.contains(&value.as_str())
        {
            self.add(path, format!("{value:?} is none of {}", words.join(", ")));
        }
    }

    /// A user or group id.
    fn id(&mut self, path: impl Into<String>, value: Option<i64>) {
        if let Some(value) = value
            && !(0..=i64::from(i32::MAX)).contains(&value)
        {
            self.add(path, format!("{value} must be between 0 and {}", i32::MAX));
        }
    }
}

/// Whether a list or map holds anything; an empty one asks for nothing.
fn any<T>(list: &Option<T>) -> bool
where
    for<'a> &'a T: IntoIterator,
{
    list.as_ref().is_some_and(|l| l.into_iter().next().is_some())
}

/// No string that the kernel is given can hold one.
fn check_no_nul(value: &str, path: String, r: &mut Report) {
    if value.contains('\0') {
        r.add(path, "must not contain a NUL character");
    }
}

fn has_control(s: &str) -> bool {
    s.chars().any(char::is_control)
}

/// Whether a condition may have this type.
///
/// # Errors
/// The end of a sentence that begins with it.
pub fn condition_type(text: &str) -> Result<(), String> {
    names::qualified(text)
}
