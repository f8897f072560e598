//! `command`, `args` and `env` of a container against its image's ENTRYPOINT, CMD and ENV.

use super::FieldError;
use k8s_openapi::api::core::v1::{Container, Pod};

/// What a `resourceFieldRef` reads when the container has no limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// CPUs of the host, in thousandths.
    pub cpu_millis: u64,
    /// Memory of the host.
    pub memory_bytes: u64,
}

/// The environment that the manifest declares, in its order, a later entry of the same name replacing the earlier. The error's path is relative to the container.
///
/// Literals with `$(VAR)` of earlier entries, `fieldRef`, `resourceFieldRef`. `pod.metadata.uid` must be set.
pub fn env(c: &Container, pod: &Pod, node: Node) -> Result<Vec<(String, String)>, FieldError> {
    let _ = (c, pod, node);
    unimplemented!()
}

/// The whole environment as `NAME=value`: `HOSTNAME` (and `TERM` with a terminal), then the image's, then the declared one, later names replacing
/// earlier ones in place; a `PATH` when nobody gave one.
pub fn environment(image_env: &[String], declared: &[(String, String)], hostname: &str, tty: bool) -> Vec<String> {
    let _ = (image_env, declared, hostname, tty);
    unimplemented!()
}

/// The process's arguments. `command` replaces ENTRYPOINT and drops CMD, `args` replaces CMD; `$(VAR)` is looked up in `declared`
/// (what [`env`] gave), `$$` is `$`, an unknown name stays as written.
///
/// # Errors
/// When nothing is left to execute.
pub fn argv(
    c: &Container,
    entrypoint: &[String],
    cmd: &[String],
    declared: &[(String, String)],
) -> Result<Vec<String>, FieldError> {
    let _ = (c, entrypoint, cmd, declared);
    unimplemented!()
}

/// Expands `$(VAR)` and `$$` as Kubernetes does.
pub fn expand(s: &str, declared: &[(String, String)]) -> String {
    let _ = (s, declared);
    unimplemented!()
}
