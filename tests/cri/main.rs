//! `husk cri`: CRI in JSON, as a dialogue and as single calls.

#[path = "../common/mod.rs"]
mod common;

mod dialogue;
mod examples;
mod limits;
mod lives;
mod single;
mod talk;
