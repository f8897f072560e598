//! The disk at its worst: full, read-only, broken, and records that cannot be read. What was acknowledged stays true, containers go on,
//! errors are sentences, and nothing is left once there is room again.

#[path = "../common/mod.rs"]
mod common;

mod small;
mod sweep;
mod unknown;

/// Tests that go through a great many cases take every n-th: `HUSK_FAULT_STRIDE`, or `usual` without it.
fn stride(usual: usize) -> usize {
    let asked = std::env::var("HUSK_FAULT_STRIDE").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(usual).max(1)
}
