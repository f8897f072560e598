//! The network of pods, seen from inside them, from the host, and from a namespace that plays the world outside.

#[path = "../common/mod.rs"]
mod common;

mod crash;
mod ports;
mod ranges;
mod reach;
mod world;
