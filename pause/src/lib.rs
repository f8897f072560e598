//! The wire format of keeper, shared by keeper itself and by the supervisor's client.
//!
//! `pause` and `keeper` are two binaries that are compiled by husk's build script with plain `rustc`; this
//! library holds nothing but what both ends of keeper's socket must agree on.
#![no_std]
#![deny(missing_docs)]

pub mod proto;
