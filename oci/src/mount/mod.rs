//! Mounts of a spec: what its words mean to the kernel.

pub(crate) mod options;
