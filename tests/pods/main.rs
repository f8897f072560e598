//! Privileged tests of whole pods: each drives the built binary on this host and leaves nothing on it.

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod cgroups;
mod crash;
mod images;
mod lifecycle;
mod logs;
mod process;
mod quickstart;
mod sandbox;
mod state;
mod termination;
mod volumes;
