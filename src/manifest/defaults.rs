//! The defaults that the API server fills in, as far as they concern a pod here.

use k8s_openapi::api::core::v1::Pod;

/// Fills in what the manifest left out and drops what only a server writes (`status`, `metadata.creationTimestamp`, …).
/// Idempotent. `metadata.uid` stays as it is: the caller makes one.
///
/// One default differs: `imagePullPolicy` becomes `IfNotPresent` even for `:latest`, since images come from the local store only.
pub fn default(pod: &mut Pod) {
    let _ = pod;
    unimplemented!()
}
