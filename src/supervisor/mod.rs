//! The per-pod process: event loop, control socket, keeper client, log writer.

pub mod control;
pub mod journal;
pub mod log;
