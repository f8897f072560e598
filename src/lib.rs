//! husk, a pod runtime for one Linux host. The rooms and the way of a pod are described in `docs/architecture.md`.
//!
//! This library exists for the `husk` binary, its tests and its fuzz targets; it promises no stable interface.

pub mod cgroup;
pub mod cli;
pub mod config;
pub mod control;
pub mod cpu_list;
pub mod cri;
pub mod embedded;
pub mod image;
pub mod manifest;
pub mod network;
pub mod pod;
pub mod probe;
pub mod runtime;
pub mod state;
pub mod static_pods;
pub mod supervisor;
pub mod volume;
