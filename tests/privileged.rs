//! Privileged tests of whole pods: each drives the built binary on this host and leaves nothing on it.

mod common;
mod pods;
