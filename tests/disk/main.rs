//! The disk at its worst: full, read-only, broken, and records that cannot be read. What was acknowledged stays true, containers go on,
//! errors are sentences, and nothing is left once there is room again.

#[path = "../common/mod.rs"]
mod common;

mod small;
mod sweep;
mod unknown;
