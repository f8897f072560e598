//! CRI-shaped verbs over sandboxes and containers: the order of set-up, and its reverse on failure. No policy: that is `pod/`.

pub mod error;
pub mod spec;

pub use error::Error;
