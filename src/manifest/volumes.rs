//! What a volume's entry means.

use k8s_openapi::api::core::v1::Volume;

use super::{FieldError, quantity};

/// Is it an emptyDir of `medium: Memory`?
pub fn is_memory(v: &Volume) -> bool {
    v.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref() == Some("Memory"))
}

/// `emptyDir.sizeLimit` in bytes; `None` when the manifest sets none.
///
/// # Errors
/// It is no quantity of whole bytes.
pub fn memory_volume_bytes(v: &Volume) -> Result<Option<u64>, FieldError> {
    let Some(limit) = v.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()) else { return Ok(None) };
    let at = |message: String| FieldError { path: format!("spec.volumes[{}].emptyDir.sizeLimit", v.name), message };
    let bytes = quantity(&limit.0).map_err(|e| at(e.to_string()))?.value();
    bytes.map(Some).ok_or_else(|| at(format!("{:?} is out of range", limit.0)))
}
