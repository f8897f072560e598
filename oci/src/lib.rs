//! One container process out of an OCI runtime spec. Knows nothing of pods, CRI, images or Kubernetes.

pub mod errno;
pub mod sys;
