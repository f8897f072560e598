//! The per-pod process: event loop, control socket, keeper client, log writer.

pub mod control;
